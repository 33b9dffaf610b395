package fdtable

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// eventSpecimens are the kinds that wait for something.
var eventSpecimens = []specimen{
	{name: "signalfd", kind: kindSignalFD, make: func(t *testing.T, _ string) []int {
		var set unix.Sigset_t
		set.Val[0] = 1<<(unix.SIGUSR1-1) | 1<<63
		fd, err := unix.Signalfd(-1, &set, unix.SFD_CLOEXEC|unix.SFD_NONBLOCK)
		must(t, err)
		return []int{fd}
	}, check: func(t *testing.T, st *model.State, fds []int) {
		if got, want := saved(t, fds...).Files[0].Of.(*model.SignalFD).Mask, uint64(1<<(unix.SIGUSR1-1)|1<<63); got != want ||
			st.Files[0].Of.(*model.SignalFD).Mask != want {
			t.Errorf("the mask is %#x", got)
		}
	}},
	{
		name: "timerfd", kind: kindTimerFD, make: timerWith(unix.CLOCK_MONOTONIC, 0, 90*time.Minute, time.Second),
		check: timerLeft(90*time.Minute, time.Second),
	},
	{
		name: "timerfd disarmed", kind: kindTimerFD, make: timerWith(unix.CLOCK_BOOTTIME, 0, 0, 0),
		check: timerLeft(0, 0),
	},
	{name: "timerfd until a date", kind: kindTimerFD, make: func(t *testing.T, _ string) []int {
		return timerWith(unix.CLOCK_REALTIME, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET,
			time.Duration(time.Now().Add(time.Hour).UnixNano()), 0)(t, "")
	}, check: func(t *testing.T, st *model.State, fds []int) {
		// The suite's states have no clock, so the date is an hour after 1970. A timer that is set to a time gone by
		// fires from the next interrupt, which an emulated processor may take milliseconds to deliver.
		fired(t, fds[0])
		if f := saved(t, fds...).Files[0].Of.(*model.TimerFD); f.Flags != unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET ||
			f.Ticks != 1 {
			t.Errorf("restored as %+v", f)
		}
	}},
	{name: "timerfd with expirations", kind: kindTimerFD, make: func(t *testing.T, _ string) []int {
		fds := timerWith(unix.CLOCK_MONOTONIC, 0, time.Millisecond, 0)(t, "")
		fired(t, fds[0])
		return fds
	}, check: func(t *testing.T, st *model.State, fds []int) {
		var buf [8]byte
		if n, err := unix.Read(fds[0], buf[:]); n != 8 || binary.NativeEndian.Uint64(buf[:]) != 1 {
			t.Errorf("read %x (%v)", buf[:max(n, 0)], err)
		}
	}},
	{name: "timerfd that repeats, not read", kind: kindTimerFD, make: func(t *testing.T, _ string) []int {
		fds := timerWith(unix.CLOCK_MONOTONIC, 0, time.Millisecond, 5*time.Millisecond)(t, "")
		fired(t, fds[0])
		time.Sleep(50 * time.Millisecond) // these periods count too
		return fds
	}, check: func(t *testing.T, st *model.State, fds []int) {
		// Counted, and so going on; by chance it has run out again since.
		if f := st.Files[0].Of.(*model.TimerFD); f.Ticks < 9 || f.Left == 0 && f.Expired < 1 {
			t.Errorf("saved as %+v", f)
		}
		for i := range 3 {
			fired(t, fds[0])
			var buf [8]byte
			if n, err := unix.Read(fds[0], buf[:]); n != 8 || binary.NativeEndian.Uint64(buf[:]) == 0 {
				t.Errorf("read %d: %x (%v)", i, buf[:max(n, 0)], err)
			}
		}
	}},
	{
		name: "inotify", kind: kindInotify, make: func(t *testing.T, dir string) []int { return watching(t, dir, dir) },
		check: func(t *testing.T, st *model.State, fds []int) {
			before := st.Files[0].Of.(*model.Inotify).Watches
			after := saved(t, fds...).Files[0].Of.(*model.Inotify).Watches
			if len(before) != 13 || len(after) != 13 || before[12].WD != 17 {
				t.Fatalf("watches %+v, were %+v", after, before)
			}
			for i := range before {
				if before[i] != after[i] {
					t.Errorf("watch %+v was %+v", after[i], before[i])
				}
			}
		},
	},
	{
		name: "epoll", kind: kindEpoll, make: func(t *testing.T, _ string) []int { return watched(t, 0) },
		check: epollTells,
	},
	{
		name: "epoll edge-triggered", kind: kindEpoll,
		make: func(t *testing.T, _ string) []int { return watched(t, unix.EPOLLET&0xffffffff) }, check: epollTells,
	},
	{name: "epoll of an epoll", kind: kindEpoll, make: func(t *testing.T, _ string) []int {
		inner := watched(t, 0)
		outer, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		must(t, err)
		must(t, unix.EpollCtl(outer, unix.EPOLL_CTL_ADD, inner[0], &unix.EpollEvent{Events: unix.EPOLLIN, Fd: 3}))
		return append([]int{outer}, inner...)
	}, check: func(t *testing.T, st *model.State, fds []int) {
		var events [2]unix.EpollEvent
		if n, err := unix.EpollWait(fds[0], events[:], 0); n != 1 || events[0].Fd != 3 {
			t.Errorf("%d events %+v (%v)", n, events, err)
		}
		epollTells(t, st, fds[1:])
	}},
	{name: "epoll of nothing", kind: kindEpoll, make: func(t *testing.T, _ string) []int {
		fd, err := unix.EpollCreate1(0)
		must(t, err)
		return []int{fd}
	}},
}

func TestEventConformance(t *testing.T) {
	conform(t, eventSpecimens)
	if tellsSemaphore(t) {
		conform(t, eventfdSpecimens)
		return
	}
	// Before Linux 6.5 fdinfo does not say whether an eventfd is a semaphore.
	for _, s := range eventfdSpecimens {
		fds := s.make(t, "")
		_, faults := captured(t, fds...)
		if len(faults) != 1 {
			t.Fatalf("faults: %v", faults)
		}
		mustFault(t, faults[0], fault.FDState, "semaphore")
		_ = unix.Close(fds[0])
	}
}

func tellsSemaphore(t *testing.T) bool {
	fd := eventfdWith(0, 0)(t, "")[0]
	defer func() { _ = unix.Close(fd) }()
	info, err := procfs.Pid(os.Getpid()).FDInfo(fd)
	must(t, err)
	return hasLine(info, "eventfd-semaphore")
}

var eventfdSpecimens = []specimen{
	{name: "eventfd", kind: kindEventFD, make: eventfdWith(7, unix.EFD_NONBLOCK), check: eventfdReads(7, 0)},
	{name: "eventfd of a large count", kind: kindEventFD, make: eventfdWith(1<<63, 0), check: eventfdReads(1 << 63)},
	{name: "eventfd at zero", kind: kindEventFD, make: eventfdWith(0, unix.EFD_NONBLOCK), check: eventfdReads(0)},
	{
		name: "semaphore", kind: kindEventFD, make: eventfdWith(2, unix.EFD_SEMAPHORE|unix.EFD_NONBLOCK),
		check: eventfdReads(1, 1, 0),
	},
}

func eventfdWith(count uint64, flags int) func(*testing.T, string) []int {
	return func(t *testing.T, _ string) []int {
		fd, err := unix.Eventfd(0, flags|unix.EFD_CLOEXEC)
		must(t, err)
		_, err = unix.Write(fd, binary.NativeEndian.AppendUint64(nil, count))
		must(t, err)
		return []int{fd}
	}
}

// eventfdReads checks what successive reads give; 0 stands for EAGAIN.
func eventfdReads(counts ...uint64) func(*testing.T, *model.State, []int) {
	return func(t *testing.T, _ *model.State, fds []int) {
		t.Helper()
		for _, want := range counts {
			var buf [8]byte
			n, err := unix.Read(fds[0], buf[:])
			if want == 0 && err == unix.EAGAIN {
				continue
			}
			if got := binary.NativeEndian.Uint64(buf[:]); n != 8 || got != want {
				t.Errorf("read %d (%v), want %d", got, err, want)
			}
		}
	}
}

func timerWith(clock, flags int, value, interval time.Duration) func(*testing.T, string) []int {
	return func(t *testing.T, _ string) []int {
		fd, err := unix.TimerfdCreate(clock, unix.TFD_CLOEXEC)
		must(t, err)
		spec := unix.ItimerSpec{
			Value:    unix.NsecToTimespec(int64(value)),
			Interval: unix.NsecToTimespec(int64(interval)),
		}
		must(t, unix.TimerfdSettime(fd, flags, &spec, nil))
		return []int{fd}
	}
}

// fired waits until the timer has an expiration to read.
func fired(t *testing.T, fd int) {
	t.Helper()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000); n != 1 {
		t.Fatalf("the timer did not fire: %v", err)
	}
}

func timerLeft(value, interval time.Duration) func(*testing.T, *model.State, []int) {
	return func(t *testing.T, _ *model.State, fds []int) {
		t.Helper()
		var spec unix.ItimerSpec
		must(t, unix.TimerfdGettime(fds[0], &spec))
		left, every := time.Duration(spec.Value.Nano()), time.Duration(spec.Interval.Nano())
		if left > value || left < value-time.Minute || every != interval {
			t.Errorf("%v left, interval %v; want %v, %v", left, every, value, interval)
		}
	}
}

// watching makes an inotify instance with a watch of dir as number 1 and files in where as numbers 6 to 17; 2 to 5 are
// gone again.
func watching(t *testing.T, dir, where string) []int {
	t.Helper()
	sub := filepath.Join(where, "watched")
	must(t, os.Mkdir(sub, 0o700))
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	_, err = unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_ONESHOT)
	must(t, err)
	for i := range 16 {
		path := filepath.Join(sub, itoa(i))
		must(t, os.WriteFile(path, nil, 0o600))
		wd, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY|unix.IN_EXCL_UNLINK)
		must(t, err)
		if wd < 6 {
			_, err = unix.InotifyRmWatch(fd, uint32(wd))
			must(t, err)
		}
	}
	buf := make([]byte, 4096) // the notes that watches have been removed
	for {
		if _, err := unix.Read(fd, buf); err != nil {
			return []int{fd}
		}
	}
}

// watched returns an epoll instance, the readable end of a pipe that it watches, with data of its own, and the other
// end.
func watched(t *testing.T, flags uint32) []int {
	t.Helper()
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	must(t, err)
	fds := pipeWith(0, "ready")(t, "")
	must(t, unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fds[0],
		&unix.EpollEvent{Events: unix.EPOLLIN | flags, Fd: 42, Pad: 43}))
	return append([]int{ep}, fds...)
}

// epollTells checks that the entry works, and that it is known under its old number.
func epollTells(t *testing.T, _ *model.State, fds []int) {
	t.Helper()
	var events [2]unix.EpollEvent
	n, err := unix.EpollWait(fds[0], events[:], 0)
	if n != 1 || events[0].Fd != 42 || events[0].Pad != 43 || events[0].Events != unix.EPOLLIN {
		t.Errorf("%d events %+v (%v)", n, events, err)
	}
	must(t, unix.EpollCtl(fds[0], unix.EPOLL_CTL_DEL, fds[1], nil))
}
