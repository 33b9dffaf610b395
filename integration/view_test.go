package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
)

// view is what /proc says of a tree of processes: a flat list of keys and values, so that a difference has a name. What
// a restore cannot keep is brought to a common form: inode numbers of pipes and of files without a name, and where
// equal neighbouring mappings are joined.
type view map[string]string

// viewOf reads the view of pid and everything below it. The tree must not be changing.
func viewOf(pid int) view {
	v := view{}
	c := canon{names: map[string]string{}}
	for _, p := range descendants(pid) {
		v.process(p, &c)
	}
	return v
}

// compareViews fails the test for every key that differs, but for those that loses names.
func compareViews(t *testing.T, when string, have, want view, loses []string) {
	t.Helper()
	keys := map[string]bool{}
	for k := range have {
		keys[k] = true
	}
	for k := range want {
		keys[k] = true
	}
	var sorted []string
	for k := range keys {
		sorted = append(sorted, k)
	}
	sort.Strings(sorted)
	for _, k := range sorted {
		if have[k] == want[k] || slices.ContainsFunc(loses, func(l string) bool { return strings.Contains(k, l) }) {
			continue
		}
		t.Errorf("%s: %s: have %q, want %q", when, k, have[k], want[k])
	}
}

// statusKeys are the lines of /proc/PID/status that say what a process is, not what it has used (proc_pid_status(5)).
var statusKeys = []string{
	"Name", "Umask", "Tgid", "Pid", "TracerPid", "Uid", "Gid", "Groups", "NStgid", "NSpid", "NSpgid", "VmLck",
	"Threads",
	"SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs",
	"Seccomp",
	"Seccomp_filters", "Cpus_allowed", "Mems_allowed", "THP_enabled", "untag_mask", "Speculation_Store_Bypass",
	"SpeculationIndirectBranch", "CoreDumping",
}

// statFields are the fields of /proc/PID/stat that must be kept, by their number in proc_pid_stat(5).
var statFields = map[int]string{
	5: "pgrp", 6: "session", 7: "tty_nr", 18: "priority", 19: "nice", 26: "startcode", 27: "endcode", 28: "startstack",
	40: "rt_priority",
	41: "policy", 45: "start_data", 46: "end_data", 47: "start_brk", 48: "arg_start", 49: "arg_end", 50: "env_start",
	51: "env_end",
}

func (v view) process(pid int, c *canon) {
	dir := fmt.Sprintf("/proc/%d", pid)
	prefix := fmt.Sprintf("%d ", pid)
	for _, name := range []string{
		"limits", "oom_score_adj", "cmdline", "environ", "auxv", "personality", "timers",
		"coredump_filter",
	} {
		v[prefix+name] = slurp(filepath.Join(dir, name))
	}
	for _, name := range []string{"exe", "cwd", "root"} {
		link, _ := os.Readlink(filepath.Join(dir, name))
		v[prefix+name] = unlinkedName.ReplaceAllString(link, "(deleted)")
	}
	v.mappings(prefix, slurp(filepath.Join(dir, "smaps")), c)
	v.descriptors(prefix, dir, c)
	tasks, _ := filepath.Glob(filepath.Join(dir, "task", "*"))
	for _, task := range tasks {
		v.thread(prefix+filepath.Base(task)+" ", task)
	}
}

func (v view) thread(prefix, dir string) {
	stat := slurp(filepath.Join(dir, "stat"))
	zombie := strings.Contains(stat, ") Z ")
	for line := range strings.Lines(slurp(filepath.Join(dir, "status"))) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if zombie && slices.Contains([]string{"SigBlk", "SigPnd", "ShdPnd", "SigIgn"}, key) {
			continue // nothing can ask a dead process
		}
		if slices.Contains(statusKeys, key) {
			v[prefix+key] = strings.TrimSpace(value)
		}
	}
	if i := strings.LastIndexByte(stat, ')'); i >= 0 {
		for n, field := range strings.Fields(stat[i+1:]) {
			if name, ok := statFields[n+3]; ok {
				v[prefix+name] = field
			}
		}
	}
	// Without a leading digit a state letter, so that a zombie is seen to stay one.
	v[prefix+"zombie"] = strconv.FormatBool(zombie)
	v[prefix+"timerslack"] = slurp(filepath.Join(dir, "timerslack_ns"))
}

// canon gives names that differ between lives the same name in both, by order of appearance.
type canon struct{ names map[string]string }

func (c *canon) name(kind, id string) string {
	key := kind + id
	if _, ok := c.names[key]; !ok {
		c.names[key] = fmt.Sprintf("%s#%d", kind, len(c.names))
	}
	return c.names[key]
}

var anonymousLink = regexp.MustCompile(`^(pipe|anon_inode|socket):\[(\d+)\]$`)

func (v view) descriptors(prefix, dir string, c *canon) {
	fds, _ := filepath.Glob(filepath.Join(dir, "fd", "*"))
	for _, fd := range fds {
		n := filepath.Base(fd)
		link, err := os.Readlink(fd)
		if err != nil {
			continue
		}
		if m := anonymousLink.FindStringSubmatch(link); m != nil {
			link = c.name(m[1], m[2])
		}
		link = unlinkedName.ReplaceAllString(link, "(deleted)")
		v[prefix+"fd "+n] = link
		for line := range strings.Lines(slurp(filepath.Join(dir, "fdinfo", n))) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			if key == "pos" || key == "flags" || key == "lock" {
				v[prefix+"fd "+n+" "+key] = strings.TrimSpace(value)
			}
		}
	}
}

// unlinkedName matches the name of a file without a name: where it was is not kept, that it has none is.
var unlinkedName = regexp.MustCompile(`^/.*\(deleted\)$`)

var mappingLine = regexp.MustCompile(`^([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) ([0-9a-f:]+) (\d+) *(.*)$`)

// mapping is one line of /proc/PID/maps with its flags.
type mapping struct {
	start, end, offset uint64
	what               string // permissions, file and flags
	file               bool
}

func (v view) mappings(prefix, smaps string, c *canon) {
	var list []mapping
	for line := range strings.Lines(smaps) {
		line = strings.TrimRight(line, "\n")
		if m := mappingLine.FindStringSubmatch(line); m != nil {
			list = append(list, newMapping(m, c))
			continue
		}
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && len(list) > 0 {
			list[len(list)-1].what += " |" + strings.ReplaceAll(flags, " sd", "")
		}
	}
	for i := 0; i < len(list); {
		m, k := list[i], i+1
		for ; k < len(list) && list[k].start == m.end && list[k].what == m.what &&
			(!m.file || list[k].offset == m.offset+m.end-m.start); k++ {
			m.end = list[k].end
		}
		i = k
		v[fmt.Sprintf("%smap %x", prefix, m.start)] = fmt.Sprintf("%x-%x %x %s", m.start, m.end, m.offset, m.what)
	}
}

func newMapping(m []string, c *canon) mapping {
	start, _ := strconv.ParseUint(m[1], 16, 64)
	end, _ := strconv.ParseUint(m[2], 16, 64)
	offset, _ := strconv.ParseUint(m[4], 16, 64)
	dev, ino, name := m[5], m[6], m[7]
	if strings.HasSuffix(name, "(deleted)") {
		dev, ino, name = "", c.name("deleted", dev+ino), "(deleted)"
	}
	return mapping{
		start: start, end: end, offset: offset, what: strings.Join([]string{m[3], dev, ino, name}, " "),
		file: ino != "0",
	}
}

func slurp(name string) string {
	b, _ := os.ReadFile(name)
	return string(b)
}

// stateOf returns the state letter of a process, 0 if it is gone.
func stateOf(pid int) byte {
	s := slurp(fmt.Sprintf("/proc/%d/stat", pid))
	if i := strings.LastIndexByte(s, ')'); i >= 0 && i+2 < len(s) {
		return s[i+2]
	}
	return 0
}
