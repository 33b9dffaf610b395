package procfs

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// Map is one line of /proc/PID/maps (fs/proc/task_mmu.c, show_map_vma).
type Map struct {
	Start, End   uint64
	Prot         uint32 // PROT_READ|PROT_WRITE|PROT_EXEC
	Shared       bool   // VM_MAYSHARE
	Offset       uint64
	Major, Minor uint32 // of the file system; on btrfs and overlayfs not what stat(2) says
	Ino          uint64
	Name         string // as printed: a path ("\n" escaped as \012), "[heap]", "[anon:NAME]", ""; " (deleted)" included
}

// HasFile reports whether the mapping has a struct file, so that map_files has an entry for it.
func (m *Map) HasFile() bool { return m.Major != 0 || m.Minor != 0 || m.Ino != 0 }

// Key is the name of the mapping below map_files.
func (m *Map) Key() string { return fmt.Sprintf("%x-%x", m.Start, m.End) }

// Smap is one record of /proc/PID/smaps: the line of maps and what follows it (show_smap). Sizes are bytes.
type Smap struct {
	Map
	Flags                        []string // two-letter names in the kernel's order
	RSS, Anonymous, Swap, Locked uint64
	KernelPageSize               uint64
	ProtectionKey                int
}

// Maps parses maps: one read(2) a page of text, no walk of page tables.
func (d Dir) Maps() ([]Map, error) { return parse(d, "maps", ParseMaps) }

// Smaps parses smaps, which makes the kernel walk all page tables of the process: about 10 ms for each resident GiB.
func (d Dir) Smaps() ([]Smap, error) { return parse(d, "smaps", ParseSmaps) }

// ParseMaps parses proc_pid_maps(5).
func ParseMaps(r io.Reader) ([]Map, error) {
	var out []Map
	err := rawLines(r, func(line []byte) error {
		m, ok := parseMap(line)
		if !ok {
			return unknown("maps", "unknown line %q", line)
		}
		out = append(out, m)
		return nil
	})
	return out, err
}

func rawLines(r io.Reader, f func([]byte) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 64<<10), 1<<20)
	for s.Scan() {
		if err := f(s.Bytes()); err != nil {
			return err
		}
	}
	return s.Err()
}

// parseMap parses "START-END rwxp OFFSET MAJ:MIN INO    NAME".
func parseMap(line []byte) (m Map, ok bool) {
	c := cursor{rest: line, ok: true}
	m.Start = c.hex('-')
	m.End = c.hex(' ')
	perms := c.word()
	if len(perms) != 4 {
		return m, false
	}
	for i, letter := range []byte("rwx") {
		switch perms[i] {
		case letter:
			m.Prot |= [3]uint32{1, 2, 4}[i]
		case '-':
		default:
			return m, false
		}
	}
	m.Shared = perms[3] == 's'
	if !m.Shared && perms[3] != 'p' {
		return m, false
	}
	m.Offset = c.hex(' ')
	m.Major = uint32(c.hex(':'))
	m.Minor = uint32(c.hex(' '))
	m.Ino = c.decimal(' ')
	m.Name = string(bytes.TrimLeft(c.rest, " "))
	return m, c.ok && m.Start < m.End
}

// cursor walks over a line; ok is false once something was not as expected.
type cursor struct {
	rest []byte
	ok   bool
}

func (c *cursor) until(end byte) []byte {
	i := bytes.IndexByte(c.rest, end)
	if i < 0 {
		// The last number of a line without a name need not be followed by a blank.
		i = len(c.rest)
		if end != ' ' {
			c.ok = false
		}
	}
	word := c.rest[:i]
	c.rest = c.rest[min(i+1, len(c.rest)):]
	return word
}

func (c *cursor) word() []byte { return c.until(' ') }

func (c *cursor) hex(end byte) (v uint64) {
	word := c.until(end)
	if len(word) == 0 || len(word) > 16 {
		c.ok = false
	}
	for _, b := range word {
		switch {
		case b >= '0' && b <= '9':
			v = v<<4 | uint64(b-'0')
		case b >= 'a' && b <= 'f':
			v = v<<4 | uint64(b-'a'+10)
		default:
			c.ok = false
		}
	}
	return v
}

func (c *cursor) decimal(end byte) (v uint64) {
	word := c.until(end)
	if len(word) == 0 || len(word) > 20 {
		c.ok = false
	}
	for _, b := range word {
		if b < '0' || b > '9' {
			c.ok = false
		}
		v = v*10 + uint64(b-'0')
	}
	return v
}

// smapKeys is every key of a smaps record up to Linux 6.18, and where its value goes; nil: only a statistic.
var smapKeys = map[string]func(*Smap) *uint64{
	"Size": nil, "Pss": nil, "Pss_Dirty": nil, "Pss_Anon": nil, "Pss_File": nil, "Pss_Shmem": nil, "MMUPageSize": nil,
	"Shared_Clean": nil, "Shared_Dirty": nil, "Private_Clean": nil, "Private_Dirty": nil, "Referenced": nil, "KSM": nil,
	"LazyFree":      nil,
	"AnonHugePages": nil, "ShmemPmdMapped": nil, "FilePmdMapped": nil, "Shared_Hugetlb": nil, "Private_Hugetlb": nil,
	"SwapPss":        nil,
	"KernelPageSize": func(s *Smap) *uint64 { return &s.KernelPageSize },
	"Rss":            func(s *Smap) *uint64 { return &s.RSS },
	"Anonymous":      func(s *Smap) *uint64 { return &s.Anonymous },
	"Swap":           func(s *Smap) *uint64 { return &s.Swap },
	"Locked":         func(s *Smap) *uint64 { return &s.Locked },
}

// ParseSmaps parses proc_pid_smaps(5).
func ParseSmaps(r io.Reader) ([]Smap, error) {
	var out []Smap
	flags := map[string]string{} // one copy of each flag name
	err := rawLines(r, func(line []byte) error {
		key, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || bytes.IndexByte(key, ' ') >= 0 { // "7f00-7f10 r--p 0000 fe:00 ..."
			m, ok := parseMap(line)
			if !ok {
				return unknown("smaps", "unknown line %q", line)
			}
			out = append(out, Smap{Map: m})
			return nil
		}
		if len(out) == 0 {
			return unknown("smaps", "%q before any mapping", line)
		}
		return out[len(out)-1].take(string(key), bytes.TrimSpace(value), flags)
	})
	return out, err
}

// take stores one "Key: value" line.
func (s *Smap) take(key string, value []byte, names map[string]string) error {
	switch key {
	case "VmFlags":
		s.Flags = make([]string, 0, 8)
		for word := range bytes.FieldsSeq(value) {
			name, ok := names[string(word)]
			if !ok {
				name = string(word)
				names[name] = name
			}
			s.Flags = append(s.Flags, name)
		}
		return nil
	case "ProtectionKey":
		if !decimal(string(value), &s.ProtectionKey) {
			return unknown("smaps", "unknown protection key %q", value)
		}
		return nil
	case "THPeligible":
		return nil
	}
	where, known := smapKeys[key]
	if !known {
		return unknown("smaps", "unknown key %q", key)
	}
	if where == nil {
		return nil
	}
	c := cursor{rest: value, ok: true}
	*where(s) = c.decimal(' ') << 10
	if !c.ok || string(c.rest) != "kB" {
		return unknown("smaps", "unknown value %q of %s", value, key)
	}
	return nil
}

// NUMA is one line of /proc/PID/numa_maps (fs/proc/task_mmu.c, show_numa_map): start address and memory policy.
type NUMA struct {
	Start  uint64
	Policy string // "default", "bind:0-1", "interleave=static:0,2", "prefer (many):1", "local" ...
}

// NUMAMaps parses numa_maps. Without CONFIG_NUMA there is no such file: no mapping has a policy, and the result is
// empty. It walks the page tables, as smaps does.
func (d Dir) NUMAMaps() ([]NUMA, error) {
	if !exists(string(d) + "/numa_maps") {
		if !exists(string(d)) {
			return nil, d.fail("numa_maps", unix.ESRCH)
		}
		return nil, nil
	}
	return parse(d, "numa_maps", ParseNUMAMaps)
}

// numaPolicies are the names of mm/mempolicy.c, policy_modes.
var numaPolicies = []string{"default", "prefer", "bind", "interleave", "local", "prefer (many)", "weighted interleave"}

// ParseNUMAMaps parses "START POLICY key=value..." lines (numa(7)).
func ParseNUMAMaps(r io.Reader) ([]NUMA, error) {
	var out []NUMA
	err := rawLines(r, func(line []byte) error {
		c := cursor{rest: line, ok: true}
		n := NUMA{Start: c.hex(' ')}
		rest := string(c.rest)
		for _, name := range numaPolicies {
			// The longest name that fits: some contain a blank.
			if strings.HasPrefix(rest, name) && len(name) > len(n.Policy) {
				n.Policy = name
			}
		}
		if !c.ok || n.Policy == "" {
			return unknown("numa_maps", "unknown line %q", line)
		}
		tail, _, _ := strings.Cut(rest[len(n.Policy):], " ")
		if tail != "" && tail[0] != ':' && tail[0] != '=' {
			return unknown("numa_maps", "unknown policy in %q", line)
		}
		n.Policy += tail
		out = append(out, n)
		return nil
	})
	return out, err
}
