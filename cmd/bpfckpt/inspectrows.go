package main

import (
	"fmt"
	"math/bits"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/model"
)

func threadRows(_ *image.Reader, p *model.Process) [][]string {
	rows := [][]string{{"TID", "NAME", "POLICY", "NICE", "CPUS", "BLOCKED", "PENDING", "ALTSTACK"}}
	for i := range p.Threads {
		th := &p.Threads[i]
		alt := "-"
		if th.AltStack.Size > 0 {
			alt = fmt.Sprintf("%x+%x", th.AltStack.Sp, th.AltStack.Size)
		}
		rows = append(rows, []string{
			fmt.Sprint(th.Tid), th.Comm, policyName(th.Sched.Policy), fmt.Sprint(th.Sched.Nice), cpuList(th.Affinity),
			signalSet(th.SigMask), fmt.Sprint(len(th.Pending)), alt,
		})
	}
	return rows
}

func mappingRows(r *image.Reader, p *model.Process) [][]string {
	rows := [][]string{{"ADDRESS", "SIZE", "STORED", "PROT", "KIND", "NAME"}}
	runs := r.Runs(p.Space)
	for i := range p.VMAs {
		v := &p.VMAs[i]
		var stored uint64
		for len(runs) > 0 && runs[0].Addr < v.End {
			// a run of pages may reach over the end of a mapping into the next one
			end := runs[0].Addr + runs[0].Pages*model.PageSize
			cut := min(end, v.End)
			if runs[0].Kind == image.Data {
				stored += cut - max(runs[0].Addr, v.Start)
			}
			if end > v.End {
				runs[0].Addr, runs[0].Pages = v.End, (end-v.End)/model.PageSize
				break
			}
			runs = runs[1:]
		}
		name := v.Name
		if v.File.Path != "" {
			name = v.File.Path
		}
		rows = append(rows, []string{
			fmt.Sprintf("%x-%x", v.Start, v.End), bytesText(v.End - v.Start), bytesText(stored), protText(v),
			string(v.Kind), name,
		})
	}
	return rows
}

func protText(v *model.VMA) string {
	out := []byte("---p")
	for i, bit := range []uint32{unix.PROT_READ, unix.PROT_WRITE, unix.PROT_EXEC} {
		if v.Prot&bit != 0 {
			out[i] = "rwx"[i]
		}
	}
	if v.Shared {
		out[3] = 's'
	}
	return string(out)
}

func descriptorRows(r *image.Reader, p *model.Process) [][]string {
	files := map[int]*model.File{}
	st := r.State()
	for i := range st.Files {
		files[st.Files[i].ID] = &st.Files[i]
	}
	rows := [][]string{{"FD", "FILE", "KIND", "CLOEXEC", "PATH"}}
	for _, fd := range p.FDs {
		kind, path := "", ""
		if f := files[fd.File]; f != nil {
			kind, path = f.Kind, f.Path
		}
		rows = append(rows, []string{fmt.Sprint(fd.Num), fmt.Sprint(fd.File), kind, yesNo(fd.Cloexec), path})
	}
	return rows
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// openFlags prints the access mode and the status flags of open(2).
func openFlags(flags uint32) string {
	out := []string{[]string{"read", "write", "read,write", "none"}[flags&unix.O_ACCMODE]}
	for _, f := range []struct {
		bits uint32
		name string
	}{
		{unix.O_APPEND, "append"},
		{unix.O_NONBLOCK, "nonblock"},
		{unix.O_DIRECT, "direct"},
		{unix.O_SYNC, "sync"},
		{unix.O_ASYNC, "async"},
		{unix.O_NOATIME, "noatime"},
		{unix.O_PATH, "path"},
		{unix.O_DIRECTORY, "directory"},
	} {
		if flags&f.bits == f.bits {
			out = append(out, f.name)
		}
	}
	return strings.Join(out, ",")
}

func handlerRows(_ *image.Reader, p *model.Process) [][]string {
	rows := [][]string{{"SIGNAL", "HANDLER", "FLAGS", "MASK"}}
	for _, a := range p.Actions {
		handler := fmt.Sprintf("%x", a.Handler)
		switch a.Handler {
		case 0:
			handler = "default"
		case 1:
			handler = "ignore"
		}
		rows = append(rows, []string{signalName(a.Signal), handler, actionFlags(a.Flags), signalSet(a.Mask)})
	}
	return rows
}

// actionFlags prints the SA_* flags of sigaction(2).
func actionFlags(flags uint64) string {
	var out []string
	for _, f := range []struct {
		bit  uint64
		name string
	}{
		{0x1, "nocldstop"},
		{0x2, "nocldwait"},
		{0x4, "siginfo"},
		{0x04000000, "restorer"},
		{0x08000000, "onstack"},
		{0x10000000, "restart"},
		{0x40000000, "nodefer"},
		{0x80000000, "resethand"},
	} {
		if flags&f.bit != 0 {
			out, flags = append(out, f.name), flags&^f.bit
		}
	}
	if flags != 0 {
		out = append(out, fmt.Sprintf("%#x", flags))
	}
	if len(out) == 0 {
		return "-"
	}
	return strings.Join(out, ",")
}

func timerRows(_ *image.Reader, p *model.Process) [][]string {
	rows := [][]string{{"TIMER", "LEFT", "INTERVAL", "NOTIFY"}}
	for i, t := range p.ITimers {
		if t.Value != 0 {
			rows = append(rows, []string{
				"interval " + [3]string{"real", "virtual", "prof"}[i], nanosText(t.Value), nanosText(t.Interval),
				[3]string{"SIGALRM", "SIGVTALRM", "SIGPROF"}[i],
			})
		}
	}
	for _, t := range p.Timers {
		left := "disarmed"
		if t.Left != 0 {
			left = nanosText(t.Left)
		}
		notify := signalName(t.Signo)
		if t.Tid != 0 {
			notify += fmt.Sprintf(" to thread %d", t.Tid)
		}
		rows = append(rows, []string{
			fmt.Sprintf("posix %d, clock %d", t.ID, t.Clock), left, nanosText(t.Interval),
			notify,
		})
	}
	return rows
}

func nanosText(ns int64) string { return durationText(time.Duration(ns)) }

// limitNames are the RLIMIT_* numbers in order (asm-generic/resource.h).
func limitNames() [16]string {
	return [16]string{
		"cpu time (s)", "file size", "data", "stack", "core file", "resident set", "processes", "open files",
		"locked memory", "address space",
		"file locks", "pending signals", "message queues", "nice", "realtime priority", "realtime time (us)",
	}
}

func limitRows(_ *image.Reader, p *model.Process) [][]string {
	rows := [][]string{{"LIMIT", "SOFT", "HARD"}}
	for i, l := range p.Limits {
		rows = append(rows, []string{limitNames()[i], limitText(l.Cur), limitText(l.Max)})
	}
	return rows
}

func limitText(v uint64) string {
	if v == ^uint64(0) {
		return "unlimited"
	}
	return fmt.Sprint(v)
}

// credentialRows lists each set of credentials once, with the first thread that has it.
func credentialRows(_ *image.Reader, p *model.Process) [][]string {
	rows := [][]string{{"THREAD", "UID", "GID", "GROUPS", "EFFECTIVE", "PERMITTED", "NO NEW PRIVS", "SECCOMP"}}
	last := ""
	for i := range p.Threads {
		th := &p.Threads[i]
		cr := &th.Creds
		row := []string{
			fmt.Sprint(th.Tid), idText(cr.UID, cr.EUID, cr.SUID), idText(cr.GID, cr.EGID, cr.SGID),
			strings.Trim(fmt.Sprint(cr.Groups), "[]"),
			capText(cr.CapEff), capText(cr.CapPrm), yesNo(th.NoNewPrivs), seccompText(th.Seccomp),
		}
		if this := strings.Join(row[1:], "\x00"); this != last {
			rows, last = append(rows, row), this
		}
	}
	return rows
}

// idText prints the real, effective and saved id, once if they are the same.
func idText(r, e, s uint32) string {
	if r == e && e == s {
		return fmt.Sprint(r)
	}
	return fmt.Sprintf("%d/%d/%d", r, e, s)
}

func capText(set uint64) string {
	if set == 0 {
		return "none"
	}
	return fmt.Sprintf("%#x (%d)", set, bits.OnesCount64(set))
}

func seccompText(s model.Seccomp) string {
	switch s.Mode {
	case 0:
		return "none"
	case 1:
		return "strict"
	}
	return fmt.Sprintf("%d filters", len(s.Filters))
}

func usageRows(_ *image.Reader, p *model.Process) [][]string {
	total := sumUsage(p.Usage, p.Carried)
	rows := [][]string{{"", "THIS LIFE", "EARLIER LIVES", "TOTAL", "CHILDREN"}}
	for _, r := range []struct {
		name string
		text func(u model.Usage) string
	}{
		{"user time", func(u model.Usage) string { return nanosText(u.UTime) }},
		{"system time", func(u model.Usage) string { return nanosText(u.STime) }},
		{"elapsed", func(u model.Usage) string { return nanosText(u.Wall) }},
		{"largest memory", func(u model.Usage) string { return bytesText(u.MaxRSS) }},
		{"minor faults", func(u model.Usage) string { return fmt.Sprint(u.MinFlt) }},
		{"major faults", func(u model.Usage) string { return fmt.Sprint(u.MajFlt) }},
		{"read", func(u model.Usage) string { return bytesText(u.InBlock * 512) }},
		{"written", func(u model.Usage) string { return bytesText(u.OuBlock * 512) }},
		{"switches, own will", func(u model.Usage) string { return fmt.Sprint(u.NVCSw) }},
		{"switches, forced", func(u model.Usage) string { return fmt.Sprint(u.NIvCSw) }},
	} {
		rows = append(rows, []string{r.name, r.text(p.Usage), r.text(p.Carried), r.text(total), r.text(p.ChildUsage)})
	}
	return rows
}

// sumUsage adds what a process used in two lives; the largest memory is the larger one.
func sumUsage(a, b model.Usage) model.Usage {
	return model.Usage{
		UTime: a.UTime + b.UTime, STime: a.STime + b.STime, Wall: a.Wall + b.Wall, MinFlt: a.MinFlt + b.MinFlt,
		MajFlt:  a.MajFlt + b.MajFlt,
		InBlock: a.InBlock + b.InBlock, OuBlock: a.OuBlock + b.OuBlock, NVCSw: a.NVCSw + b.NVCSw,
		NIvCSw: a.NIvCSw + b.NIvCSw,
		MaxRSS: max(a.MaxRSS, b.MaxRSS),
	}
}

func policyName(p uint32) string {
	names := []string{"other", "fifo", "rr", "batch", "iso", "idle", "deadline", "ext"} // SCHED_* in order, sched(7)
	if int(p) < len(names) {
		return names[p]
	}
	return fmt.Sprint(p)
}

// cpuList prints a CPU mask as taskset -c takes it.
func cpuList(mask []uint64) string {
	var out []string
	n := len(mask) * 64
	has := func(i int) bool { return i < n && mask[i/64]>>(i%64)&1 != 0 }
	for i := 0; i < n; i++ {
		if !has(i) {
			continue
		}
		from := i
		for has(i + 1) {
			i++
		}
		if from == i {
			out = append(out, fmt.Sprint(from))
		} else {
			out = append(out, fmt.Sprintf("%d-%d", from, i))
		}
	}
	return strings.Join(out, ",")
}

func signalName(sig int) string {
	const rtMin = 32 // the kernel's; the C library keeps the first two for itself
	if sig >= rtMin {
		return fmt.Sprintf("SIGRT%d", sig-rtMin)
	}
	if name := unix.SignalName(unix.Signal(sig)); name != "" {
		return name
	}
	return fmt.Sprint(sig)
}

// signalSet lists a signal mask, or what is missing from it if that is shorter.
func signalSet(mask uint64) string {
	list := func(set uint64) string {
		var names []string
		for sig := 1; sig <= 64; sig++ {
			if set>>(sig-1)&1 != 0 {
				names = append(names, strings.TrimPrefix(signalName(sig), "SIG"))
			}
		}
		return strings.Join(names, ",")
	}
	const all = ^uint64(0)
	switch {
	case mask == 0:
		return "-"
	case bits.OnesCount64(mask) > 32:
		if rest := list(all &^ mask); rest != "" {
			return "all but " + rest
		}
		return "all"
	}
	return list(mask)
}
