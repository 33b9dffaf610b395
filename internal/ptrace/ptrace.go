// Package ptrace stops, inspects and drives threads of other processes.
//
// A ptrace relation belongs to the OS thread that made it. A Tracer therefore owns one locked OS thread; every request
// runs there. Methods take care of that themselves: called from another goroutine they hand the work over and wait,
// called from inside a function given to Do they run at once, so a caller with many requests wraps them in one Do and
// pays the hand-over once. A Tracer, its Groups and their Threads must not be used by two goroutines at the same time.
//
// Unless a method says otherwise its thread must be in a ptrace stop. When the tracing process dies, the kernel
// detaches every thread and lets it run on (or kills it, if it was attached with KillOnExit), so nothing here needs a
// clean-up of its own.
package ptrace

import (
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Tracer is one OS thread that traces.
type Tracer struct {
	work    chan func()
	started chan struct{} // closed when tid is known
	tid     int           // of the tracing thread, to recognise calls made on it

	// Deadlines tells how long calls with a timeout would have gone on waiting, which a stop ends; nil if nobody can.
	// It is set before the first Freeze.
	Deadlines Deadlines

	calls map[callKey]afterCall // foreseen (Foresee)

	left map[int]*Thread // by tid: asked to stop by a Freeze that gave up before they did; of the tracing thread
}

// New starts the tracing thread.
func New() *Tracer {
	t := &Tracer{work: make(chan func()), started: make(chan struct{})}
	go t.run()
	<-t.started
	return t
}

// run serves requests until Close. The thread is not unlocked at the end, so it ends with the goroutine and the kernel
// detaches whatever it still traces.
func (t *Tracer) run() {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The Go runtime parks the main thread instead of ending it, and a tracer that is alive keeps its tracees.
		// While this goroutine holds the main thread, the next one gets another.
		go t.run()
		<-t.started
		runtime.UnlockOSThread()
		return
	}
	t.tid = unix.Gettid()
	close(t.started)
	for f := range t.work {
		f()
	}
}

// closeTimeout is how long Close waits for the tracing thread. It ends at once, but took 0.4 s on a machine with a
// dozen others in line for each processor; whoever looked before that would find the process traced.
const closeTimeout = 10 * time.Second

// Close ends the tracing thread; the kernel detaches whatever it still traces, and has done so when Close returns. The
// Tracer must not be used afterwards.
func (t *Tracer) Close() {
	close(t.work)
	task := "/proc/self/task/" + strconv.Itoa(t.tid)
	pause := 20 * time.Microsecond
	for end := time.Now().Add(closeTimeout); time.Now().Before(end); time.Sleep(pause) {
		if _, err := os.Stat(task); err != nil {
			return
		}
		pause = min(2*pause, time.Millisecond)
	}
}

// Do runs f on the tracing thread and returns its error. A panic in f is raised again in the caller, after f's deferred
// functions have run, so that what they detach is detached.
func (t *Tracer) Do(f func() error) error {
	if unix.Gettid() == t.tid {
		return f()
	}
	var err error
	var panicked any
	done := make(chan struct{})
	t.work <- func() {
		defer close(done)
		defer func() { panicked = recover() }()
		err = f()
	}
	<-done
	if panicked != nil {
		panic(panicked)
	}
	return err
}
