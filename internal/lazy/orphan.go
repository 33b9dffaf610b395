package lazy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// orphan is an address space whose server is dead.
type orphan struct {
	memory
	swept bool // every page that was missing is poisoned
}

// Orphanage is what the guard becomes when the server has died. It sends the processes SIGBUS, and poisons all pages
// that have not come, so that those who catch it, too, get one for each; it lets go of them only then. args are the
// processes, PID:PIDFD:FD. Children they forked are known by nothing but their userfaultfd: their pages are poisoned as
// they touch them, as long as they live.
func Orphanage(args []string, report io.Writer) error {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	list, err := orphans(args)
	if err != nil {
		return err
	}
	for _, o := range list {
		if o.pid == 0 || !o.alive() {
			continue
		}
		// At once, and not when it touches a page: system calls that meet one only fail (EFAULT), or do less than they
		// were asked for.
		_ = unix.PidfdSendSignal(o.pidfd, unix.SIGBUS, nil, 0)
		fmt.Fprintf(report, "bpfckpt: pid %d: what brings its memory has died before all of it was there; it gets SIGBUS\n", o.pid)
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
	known := map[int][2]int{} // userfaultfd -> pid, pidfd
	for _, a := range args {
		var pid, pidfd, fd int
		if _, err := fmt.Sscanf(a, "%d:%d:%d", &pid, &pidfd, &fd); err != nil {
			return nil, fmt.Errorf("argument %q: %w", a, err)
		}
		known[fd] = [2]int{pid, pidfd}
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
			list = append(list, &orphan{memory: memory{fd: fd, pid: known[fd][0], pidfd: known[fd][1]}})
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

// alive is memory.alive where nothing is known of what is where: a page that is missing may be poisoned.
func (o *orphan) alive() bool { return o.poison(lowest, pageSize) != gone }

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
