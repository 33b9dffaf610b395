package restore

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// timers makes the timers of processes.
type timers struct {
	clocks *clocks
}

// set makes and starts the timers of a process, with the time that was left.
func (s *timers) set(p *process) error {
	b := p.batch(p.lead)
	for which, t := range p.rec.ITimers {
		if t.Value != 0 {
			b.call(fmt.Sprintf("start interval timer %d", which), unix.SYS_SETITIMER, which, inBytes(itimerval(t)), 0)
		}
	}
	if len(p.rec.Timers) > 0 {
		if err := b.done(); err != nil {
			return err
		}
		if err := s.make(p); err != nil {
			return err
		}
	}
	taken := map[*model.PosixTimer]bool{}
	for i := range p.rec.Timers {
		t := &p.rec.Timers[i]
		if !countsOverruns(p.rec, t) {
			continue
		}
		if err := b.done(); err != nil { // a batch belongs to one thread, and makes its calls before the next
			return err
		}
		var err error
		if taken[t], err = s.overrun(p, t); err != nil {
			return err
		}
	}
	for i := range p.rec.Timers {
		t := &p.rec.Timers[i]
		switch {
		case taken[t]:
		case t.Expired != 0:
			if err := s.start(b, t, -t.Expired); err != nil {
				return err
			}
		case t.Date != 0 && t.Left != 0:
			if err := s.start(b, t, t.Left); err != nil {
				return err
			}
		case t.Left != 0:
			b.call(fmt.Sprintf("start timer %d", t.ID), unix.SYS_TIMER_SETTIME, t.ID, 0,
				inBytes(itimerspec(t.Left, t.Interval)), 0)
		}
	}
	return b.done()
}

// start starts a timer such that it runs out at a time, ns from now, or from the freeze if it has a date. One that
// is in the past is for a timer whose signal was pending: the signal is queued by the kernel, which then counts the
// overruns as it would have.
func (s *timers) start(b *batch, t *model.PosixTimer, in int64) error {
	now, err := s.now(t)
	if err != nil {
		return err
	}
	at := max(now+in, 1)
	const absolute = 1 // TIMER_ABSTIME
	b.call(fmt.Sprintf("start timer %d", t.ID), unix.SYS_TIMER_SETTIME, t.ID, absolute,
		inBytes(itimerspec(at, t.Interval)), 0)
	return nil
}

// now is the time of a timer's clock from which it goes on: that of the snapshot if it has a date.
func (s *timers) now(t *model.PosixTimer) (int64, error) {
	switch {
	case t.Date != 0 && t.Expired != 0:
		return t.Date + t.Expired, nil
	case t.Date != 0:
		return t.Date - t.Left, nil
	case countsCPU(t):
		return 0, nil // it has just begun
	}
	var now unix.Timespec
	if err := unix.ClockGettime(int32(t.Clock), &now); err != nil {
		return 0, fmt.Errorf("read clock %d: %w", t.Clock, err)
	}
	return now.Nano() + s.clocks.shiftOf(int32(t.Clock)), nil
}

func countsCPU(t *model.PosixTimer) bool {
	return t.Clock < 0 || t.Clock == unix.CLOCK_PROCESS_CPUTIME_ID || t.Clock == unix.CLOCK_THREAD_CPUTIME_ID
}

// countsOverruns tells whether a timer has overruns that timer_getoverrun(2) still tells, and that can be made again:
// it runs, on a clock that goes by itself, and no other timer has its signal, which would be taken in its place.
func countsOverruns(p *model.Process, t *model.PosixTimer) bool {
	const signal, threadID = 0, 4 // SIGEV_SIGNAL, SIGEV_THREAD_ID
	if t.Overrun == 0 || t.Interval == 0 || t.Left == 0 || t.Expired != 0 || countsCPU(t) ||
		t.Signo == int(unix.SIGTRAP) ||
		t.Notify != signal && t.Notify != threadID {
		return false
	}
	for i := range p.Timers {
		if o := &p.Timers[i]; o != t && o.Signo == t.Signo {
			return false
		}
	}
	return true
}

// overrun starts a timer as many periods ago as it has overruns, and takes its signal, with which the kernel counts
// them. It does nothing for a timer that cannot have run for so long, and returns false.
func (s *timers) overrun(p *process, t *model.PosixTimer) (bool, error) {
	periods := int64(t.Overrun) + 1
	if t.Interval > math.MaxInt64/2/periods {
		return false, nil
	}
	in := t.Left - periods*t.Interval
	if now, err := s.now(t); err != nil || now+in < 1 {
		return false, err
	}
	th := p.lead
	for i := range p.rec.Threads {
		if p.rec.Threads[i].Tid == t.Tid {
			th = p.threads[i]
		}
	}
	b := p.batch(th)
	if err := s.start(b, t, in); err != nil {
		return false, err
	}
	set := binary.LittleEndian.AppendUint64(nil, 1<<(t.Signo-1))
	wait := timespec(int64(10 * time.Second)) // it comes with the next interrupt
	b.callWant(exactly(uint64(t.Signo)), fmt.Sprintf("take the signal of timer %d", t.ID), unix.SYS_RT_SIGTIMEDWAIT,
		inBytes(set), 0, inBytes(wait), sigsetSize)
	return true, b.done()
}

// itimerval is struct itimerval: interval, then value, each in seconds and microseconds. A value below one microsecond
// becomes one: zero would disarm the timer.
func itimerval(t model.ITimer) []byte {
	var b []byte
	for _, ns := range []int64{t.Interval, t.Value} {
		us := (ns + 999) / 1000
		b = binary.LittleEndian.AppendUint64(b, uint64(us/1e6))
		b = binary.LittleEndian.AppendUint64(b, uint64(us%1e6))
	}
	return b
}

// itimerspec is struct itimerspec: interval, then value, each in seconds and nanoseconds.
func itimerspec(left, interval int64) []byte { return append(timespec(interval), timespec(left)...) }

func timespec(ns int64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(ns/1e9)), uint64(ns%1e9))
}

// prTimerCreateRestoreIDs makes timer_create(2) use the id it is given (PR_TIMER_CREATE_RESTORE_IDS, Linux 6.15).
const prTimerCreateRestoreIDs = 77

// make makes the POSIX timers with their old ids. A kernel that cannot be told the id counts upwards: there,
// timers are made and deleted until the count is right.
func (s *timers) make(p *process) error {
	_, err := p.call("ask for timer ids", unix.SYS_PRCTL, prTimerCreateRestoreIDs, 1, 0, 0, 0)
	exact := err == nil
	next := 0
	for i := range p.rec.Timers {
		t := &p.rec.Timers[i]
		for made := false; !made; {
			id, err := s.makeOne(p, t)
			switch {
			case err != nil:
				return err
			case id == t.ID:
				made = true
			case exact || id > t.ID || id < next:
				return fault.New(fault.RestoreState, p.object(), "timer %d: the kernel gives %d", t.ID, id)
			default:
				next = id + 1
				if _, err := p.call("delete a timer", unix.SYS_TIMER_DELETE, uint64(id)); err != nil {
					return err
				}
			}
		}
	}
	if exact {
		_, err = p.call("stop asking for timer ids", unix.SYS_PRCTL, prTimerCreateRestoreIDs, 0, 0, 0, 0)
		return err
	}
	return nil
}

func (s *timers) makeOne(p *process, t *model.PosixTimer) (int, error) {
	b := p.batch(p.lead)
	event := make([]byte, 64) // struct sigevent: value, signo, notify, tid
	binary.LittleEndian.PutUint64(event, t.Value)
	binary.LittleEndian.PutUint32(event[8:], uint32(t.Signo))
	binary.LittleEndian.PutUint32(event[12:], uint32(t.Notify))
	binary.LittleEndian.PutUint32(event[16:], uint32(t.Tid))
	id := make([]byte, 16)
	binary.LittleEndian.PutUint32(id, uint32(t.ID))
	idAt := b.argument(inBytes(id))
	b.call(fmt.Sprintf("create timer %d", t.ID), unix.SYS_TIMER_CREATE, t.Clock, inBytes(event), idAt)
	if err := b.done(); err != nil {
		return 0, err
	}
	if err := p.readOut(idAt, id); err != nil {
		return 0, err
	}
	return int(int32(binary.LittleEndian.Uint32(id))), nil
}
