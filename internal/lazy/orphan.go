package lazy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// orphan is an address space whose server is dead.
type orphan struct {
	memory
	swept bool // every page that was missing is poisoned
}

// Orphanage is what the guard becomes when the server has died: it poisons all pages that have not come, so that to touch one is a SIGBUS, and lets
// go of the processes only then. args are the known ones, PID:FD. Children they forked are known by nothing but their userfaultfd; whose pages are
// poisoned as they touch them, as long as they live.
func Orphanage(args []string, report io.Writer) error {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	list, err := orphans(args)
	if err != nil {
		return err
	}
	for _, o := range list {
		if o.pid != 0 {
			fmt.Fprintf(report, "bpfckpt: pid %d: what served its memory has died; pages that have not come are a SIGBUS to touch\n", o.pid)
		}
	}
	for len(list) > 0 {
		fds := make([]unix.PollFd, len(list))
		timeout := 100 // how soon the end of a process is seen
		for i, o := range list {
			fds[i] = unix.PollFd{Fd: int32(o.fd), Events: unix.POLLIN}
			if o.pid != 0 {
				timeout = 0 // to be swept
			}
		}
		if _, err := unix.Poll(fds, timeout); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll: %w", err)
		}
		for _, o := range slices.Clone(list) {
			children, quiet := o.drain()
			list = append(list, children...)
			if o.pid != 0 {
				o.swept = o.sweep() && quiet
			}
		}
		list = slices.DeleteFunc(list, func(o *orphan) bool {
			if !o.swept && o.alive() {
				return false
			}
			_ = unix.Close(o.fd)
			return true
		})
	}
	return nil
}

// orphans finds the userfaultfds among our descriptors.
func orphans(args []string) ([]*orphan, error) {
	pids := map[int]int{}
	for _, a := range args {
		p, f, _ := strings.Cut(a, ":")
		pid, err1 := strconv.Atoi(p)
		fd, err2 := strconv.Atoi(f)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("argument %q: %w", a, err)
		}
		pids[fd] = pid
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	var list []*orphan
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		fd, err2 := strconv.Atoi(e.Name())
		if err == nil && err2 == nil && to == "anon_inode:[userfaultfd]" {
			list = append(list, &orphan{memory: memory{fd: fd, pid: pids[fd]}})
		}
	}
	return list, nil
}

// drain answers what is waiting. quiet is whether there was nothing.
func (o *orphan) drain() (children []*orphan, quiet bool) {
	quiet = true
	for {
		msg, ok, err := receive(o.fd)
		if err != nil || !ok {
			return children, quiet && err == nil
		}
		quiet = false
		switch msg.event {
		case eventFault:
			at := msg.faultAt() &^ (pageSize - 1)
			o.poison(at, pageSize)
			wake(o.fd, at, pageSize)
		case eventFork:
			children = append(children, &orphan{memory: memory{fd: msg.childFD()}})
		}
	}
}

func (o *orphan) poison(addr, size uint64) verdict {
	do := func(addr, _, n uint64) (uint64, error) { return poison(o.fd, addr, n) }
	return o.try(addr, size, do, func(uint64, uint64) {})
}

// sweep poisons all that is missing now, and reports whether it has.
func (o *orphan) sweep() bool {
	if !o.alive() {
		return true // and the pid may be another's
	}
	maps, err := procfs.Pid(o.pid).Smaps()
	if err != nil {
		return false
	}
	whole := true
	for i := range maps {
		if slices.Contains(maps[i].Flags, "um") {
			whole = o.poison(maps[i].Start, maps[i].End-maps[i].Start) == done && whole
		}
	}
	return whole
}
