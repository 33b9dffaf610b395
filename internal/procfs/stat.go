package procfs

import (
	"io"
	"strconv"
	"strings"
)

// Stat is /proc/PID/stat or /proc/PID/task/TID/stat (fs/proc/array.c, do_task_stat). Times are in clock ticks of 1/100
// s; addresses are 0 without ptrace access.
type Stat struct {
	Pid                                int
	Comm                               string
	State                              byte
	PPid, Pgrp, Session                int
	TTY                                uint32 // controlling terminal, new_encode_dev
	TPGid                              int
	Flags                              uint64 // PF_*, include/linux/sched.h
	MinFlt, CMinFlt, MajFlt, CMajFlt   uint64
	UTime, STime, CUTime, CSTime       uint64
	Priority, Nice                     int
	NumThreads                         int
	StartTime                          uint64 // since boot
	VSize, RSS, RSSLim                 uint64
	StartCode, EndCode, StartStack     uint64
	ExitSignal, Processor              int
	RTPriority, Policy                 uint32
	GuestTime, CGuestTime              uint64
	StartData, EndData, StartBrk       uint64
	ArgStart, ArgEnd, EnvStart, EnvEnd uint64
	ExitCode                           int
}

// Bits of Stat.Flags (include/linux/sched.h).
const (
	PFExiting = 0x00000004 // the thread is ending
	PFKThread = 0x00200000 // a kernel thread
)

// statFields is the number of fields that follow the command name since Linux 3.5.
const statFields = 50

// Stat parses the stat file of d.
func (d Dir) Stat() (Stat, error) { return parse(d, "stat", ParseStat) }

// ParseStat parses proc_pid_stat(5).
func ParseStat(r io.Reader) (Stat, error) {
	text, err := oneLine(r)
	if err != nil {
		return Stat{}, err
	}
	// The name may hold blanks and parentheses; no later field does.
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 1 || end < open {
		return Stat{}, unknown("stat", "no command name in %q", text)
	}
	s := Stat{Comm: text[open+1 : end]}
	words := strings.Fields(text[end+1:])
	if len(words) != statFields || len(words[0]) != 1 {
		return Stat{}, unknown("stat", "%d fields after the name, not %d", len(words), statFields)
	}
	s.State = words[0][0]
	n := numbers{words: words}
	s.Pid = int(parseField(&n, text[:open-1]))
	s.PPid, s.Pgrp, s.Session, s.TTY, s.TPGid = int(n.i(4)), int(n.i(5)), int(n.i(6)), uint32(n.i(7)), int(n.i(8))
	s.Flags, s.MinFlt, s.CMinFlt, s.MajFlt, s.CMajFlt = n.u(9), n.u(10), n.u(11), n.u(12), n.u(13)
	s.UTime, s.STime, s.CUTime, s.CSTime = n.u(14), n.u(15), n.u(16), n.u(17)
	s.Priority, s.Nice, s.NumThreads, s.StartTime = int(n.i(18)), int(n.i(19)), int(n.i(20)), n.u(22)
	s.VSize, s.RSS, s.RSSLim = n.u(23), n.u(24), n.u(25)
	s.StartCode, s.EndCode, s.StartStack = n.u(26), n.u(27), n.u(28)
	s.ExitSignal, s.Processor, s.RTPriority, s.Policy = int(n.i(38)), int(n.i(39)), uint32(n.u(40)), uint32(n.u(41))
	s.GuestTime, s.CGuestTime = n.u(43), n.u(44)
	s.StartData, s.EndData, s.StartBrk = n.u(45), n.u(46), n.u(47)
	s.ArgStart, s.ArgEnd, s.EnvStart, s.EnvEnd, s.ExitCode = n.u(48), n.u(49), n.u(50), n.u(51), int(n.i(52))
	if n.bad != "" {
		return Stat{}, unknown("stat", "%q is not a number", n.bad)
	}
	return s, nil
}

// numbers converts the fields of a stat line, numbered as in proc_pid_stat(5), and remembers the first that is none.
type numbers struct {
	words []string // from field 3 on
	bad   string
}

func (n *numbers) u(field int) uint64 {
	v, err := strconv.ParseUint(n.words[field-3], 10, 64)
	if err != nil && n.bad == "" {
		n.bad = n.words[field-3]
	}
	return v
}

func (n *numbers) i(field int) int64 { return parseField(n, n.words[field-3]) }

func parseField(n *numbers, word string) int64 {
	v, err := strconv.ParseInt(word, 10, 64)
	if err != nil && n.bad == "" {
		n.bad = word
	}
	return v
}
