package tracer

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// codeProbes are the uprobes of a watch, on functions in the files that followed processes have mapped as code.
//
// A uprobe is a breakpoint in the code of every process that maps the file. A snapshot of a page with one would bring
// the breakpoint back without the probe, so it is told of them (kstate.Prober).
type codeProbes struct {
	dl      *dlProbes // nil: dlopen is not followed
	regions *regionProbes
	due     map[int]bool // processes that mapped code since they were looked at
}

type fileID struct{ dev, ino uint64 }

// look finds the files among the mapped ones of a process that are to be probed and probes those that are new; it
// reports whether there were any.
func (c *codeProbes) look(pid int) (fresh bool) {
	delete(c.due, pid)
	dir := procfs.Pid(pid)
	began := monotonic()
	list, err := dir.Maps()
	if err != nil {
		return false // it has ended
	}
	use := c.regions.use(pid)
	use.err = nil
	seen := map[fileID]bool{}
	for i := range list {
		m := &list[i]
		id := fileID{unix.Mkdev(m.Major, m.Minor), m.Ino}
		if m.Prot&unix.PROT_EXEC == 0 || !m.HasFile() || seen[id] {
			continue
		}
		seen[id] = true
		// The link leads to the very file, in whatever root, replaced or not.
		path := string(dir) + "/map_files/" + m.Key()
		if c.dl != nil && libraryName(strings.TrimSuffix(m.Name, procfs.Deleted)) {
			fresh = c.dl.look(path, id) || fresh
		}
		fresh = c.regions.look(path, id, use) || fresh
	}
	use.looked = began
	return fresh
}

// lookDue looks at the processes that have mapped code, and reports whether anything was probed.
func (c *codeProbes) lookDue() (fresh bool) {
	for pid := range c.due {
		fresh = c.look(pid) || fresh
	}
	return fresh
}

// forked: a child maps what its parent maps.
func (c *codeProbes) forked(parent, child int) {
	if c.due[parent] {
		c.due[child] = true
	}
	if u := c.regions.procs[parent]; u != nil {
		c.regions.procs[child] = new(*u)
	} else {
		c.due[child] = true
	}
}

// executed: another program.
func (c *codeProbes) executed(pid int) {
	delete(c.regions.procs, pid)
	c.due[pid] = true
}

func (c *codeProbes) ended(pid int) {
	delete(c.regions.procs, pid)
	delete(c.due, pid)
}

// breakpoints lists the probes there are.
func (c *codeProbes) breakpoints() []kstate.Breakpoint {
	out := append([]kstate.Breakpoint(nil), c.regions.points...)
	if c.dl != nil {
		out = append(out, c.dl.points...)
	}
	return out
}

// Close takes the probes away.
func (c *codeProbes) Close() {
	links := c.regions.links
	if c.dl != nil {
		links = append(links, c.dl.links...)
	}
	closeAll(links)
}

// openCode opens a file that is mapped, and calls f. Nothing but regular files is opened: opening a device may do
// something.
func openCode(path string, f func(*os.File) error) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return f(file)
}

// monotonic is CLOCK_MONOTONIC, ns, the clock of bpf_ktime_get_ns.
func monotonic() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // it cannot fail
	return uint64(ts.Nano())
}
