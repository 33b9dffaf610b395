package kstate

// Waiter is a Source that can tell when threads that are stopped in a system call with a timeout would have woken.
type Waiter interface {
	// Waits begins to look: whoever is to be asked about must be stopped after that. The Source must outlive what it
	// returns.
	Waits() (Waits, error)
}

// Waits is the answer of a Waiter. It can be asked by many goroutines.
type Waits interface {
	// Deadline returns when the timer would have run out that a thread cancelled last, if it did so at the time since
	// or later: both are ns of our CLOCK_MONOTONIC. It is that of the call the thread was stopped in if it was asked to
	// stop at that time.
	Deadline(tid int, since int64) (at int64, ok bool)
	// Close ends it.
	Close() error
}
