package procfs

import (
	"io"
	"strconv"
	"strings"

	"github.com/bpfckpt/bpfckpt/internal/arch"
)

// Status is /proc/PID/status or /proc/PID/task/TID/status (fs/proc/array.c, proc_pid_status).
type Status struct {
	Name                                   string // with \n and \\ escaped, as the kernel prints it
	Umask                                  uint32 // ^0 if the thread has no fs_struct, as a zombie
	State                                  byte
	Tgid, Ngid, Pid, PPid, TracerPid       int
	UID, GID                               [4]uint32 // real, effective, saved, file system
	FDSize                                 int
	Groups                                 []uint32
	NStgid, NSpid, NSpgid, NSsid           []int
	Kthread                                bool   // Linux 6.6; always false before
	HasMM                                  bool   // false for kernel threads and zombies
	VmHWM, VmRSS, VmLck, VmPin             uint64 // kB
	RssAnon, RssShmem, VmSwap              uint64 // kB
	HugetlbPages                           uint64 // kB
	CoreDumping, THPEnabled                bool
	Threads                                int
	SigPnd, ShdPnd, SigBlk, SigIgn, SigCgt uint64
	CapInh, CapPrm, CapEff, CapBnd, CapAmb uint64
	NoNewPrivs                             bool
	Seccomp, SeccompFilters                int
	SpecStoreBypass, SpecIndirectBranch    string
	VoluntarySwitches, InvoluntarySwitches uint64
	X86ThreadFeatures                      []string // "shstk", "wrss" (Linux 6.6)
	X86ThreadFeaturesLocked                []string
}

// statusKeys is every key of proc_pid_status(5) and of Linux up to 6.18, and how to take it. nil: known to say nothing
// of what must be rebuilt.
var statusKeys = map[string]func(*Status, string) bool{
	"Name":      func(s *Status, v string) bool { s.Name = v; return true },
	"Umask":     func(s *Status, v string) bool { return base(v, 8, &s.Umask) },
	"State":     func(s *Status, v string) bool { s.State = (v + " ")[0]; return v != "" },
	"Tgid":      func(s *Status, v string) bool { return decimal(v, &s.Tgid) },
	"Ngid":      func(s *Status, v string) bool { return decimal(v, &s.Ngid) },
	"Pid":       func(s *Status, v string) bool { return decimal(v, &s.Pid) },
	"PPid":      func(s *Status, v string) bool { return decimal(v, &s.PPid) },
	"TracerPid": func(s *Status, v string) bool { return decimal(v, &s.TracerPid) },
	"Uid":       func(s *Status, v string) bool { return four(v, &s.UID) },
	"Gid":       func(s *Status, v string) bool { return four(v, &s.GID) },
	"FDSize":    func(s *Status, v string) bool { return decimal(v, &s.FDSize) },
	"Groups":    func(s *Status, v string) bool { return list(v, &s.Groups) },
	"NStgid":    func(s *Status, v string) bool { return list(v, &s.NStgid) },
	"NSpid":     func(s *Status, v string) bool { return list(v, &s.NSpid) },
	"NSpgid":    func(s *Status, v string) bool { return list(v, &s.NSpgid) },
	"NSsid":     func(s *Status, v string) bool { return list(v, &s.NSsid) },
	"Kthread":   func(s *Status, v string) bool { return flag(v, &s.Kthread) },
	"VmPeak":    nil, "VmSize": nil, "RssFile": nil, "VmData": nil, "VmStk": nil, "VmExe": nil, "VmLib": nil,
	"VmPTE": nil, "VmPMD": nil,
	"RssAnon":      func(s *Status, v string) bool { return kB(v, &s.RssAnon) },
	"RssShmem":     func(s *Status, v string) bool { return kB(v, &s.RssShmem) },
	"VmSwap":       func(s *Status, v string) bool { return kB(v, &s.VmSwap) },
	"VmLck":        func(s *Status, v string) bool { return kB(v, &s.VmLck) },
	"VmPin":        func(s *Status, v string) bool { return kB(v, &s.VmPin) },
	"VmHWM":        func(s *Status, v string) bool { return kB(v, &s.VmHWM) },
	"VmRSS":        func(s *Status, v string) bool { s.HasMM = true; return kB(v, &s.VmRSS) },
	"HugetlbPages": func(s *Status, v string) bool { return kB(v, &s.HugetlbPages) },
	"CoreDumping":  func(s *Status, v string) bool { return flag(v, &s.CoreDumping) },
	"THP_enabled":  func(s *Status, v string) bool { return flag(v, &s.THPEnabled) },
	// else linear address masking is on (arch_prctl ARCH_ENABLE_TAGGED_ADDR)
	"untag_mask":                func(_ *Status, v string) bool { return v == arch.Host.UntagMask },
	"Threads":                   func(s *Status, v string) bool { return decimal(v, &s.Threads) },
	"SigQ":                      nil,
	"SigPnd":                    func(s *Status, v string) bool { return base(v, 16, &s.SigPnd) },
	"ShdPnd":                    func(s *Status, v string) bool { return base(v, 16, &s.ShdPnd) },
	"SigBlk":                    func(s *Status, v string) bool { return base(v, 16, &s.SigBlk) },
	"SigIgn":                    func(s *Status, v string) bool { return base(v, 16, &s.SigIgn) },
	"SigCgt":                    func(s *Status, v string) bool { return base(v, 16, &s.SigCgt) },
	"CapInh":                    func(s *Status, v string) bool { return base(v, 16, &s.CapInh) },
	"CapPrm":                    func(s *Status, v string) bool { return base(v, 16, &s.CapPrm) },
	"CapEff":                    func(s *Status, v string) bool { return base(v, 16, &s.CapEff) },
	"CapBnd":                    func(s *Status, v string) bool { return base(v, 16, &s.CapBnd) },
	"CapAmb":                    func(s *Status, v string) bool { return base(v, 16, &s.CapAmb) },
	"NoNewPrivs":                func(s *Status, v string) bool { return flag(v, &s.NoNewPrivs) },
	"Seccomp":                   func(s *Status, v string) bool { return decimal(v, &s.Seccomp) },
	"Seccomp_filters":           func(s *Status, v string) bool { return decimal(v, &s.SeccompFilters) },
	"Speculation_Store_Bypass":  func(s *Status, v string) bool { s.SpecStoreBypass = v; return true },
	"SpeculationIndirectBranch": func(s *Status, v string) bool { s.SpecIndirectBranch = v; return true },
	"Cpus_allowed":              nil, "Cpus_allowed_list": nil, "Mems_allowed": nil, "Mems_allowed_list": nil,
	"voluntary_ctxt_switches":    func(s *Status, v string) bool { return base(v, 10, &s.VoluntarySwitches) },
	"nonvoluntary_ctxt_switches": func(s *Status, v string) bool { return base(v, 10, &s.InvoluntarySwitches) },
	"x86_Thread_features": func(s *Status,
		v string,
	) bool {
		s.X86ThreadFeatures = strings.Fields(v)
		return true
	},
	"x86_Thread_features_locked": func(s *Status,
		v string,
	) bool {
		s.X86ThreadFeaturesLocked = strings.Fields(v)
		return true
	},
}

// Status parses the status file of d.
func (d Dir) Status() (Status, error) { return parse(d, "status", ParseStatus) }

// ParseStatus parses proc_pid_status(5).
func ParseStatus(r io.Reader) (Status, error) {
	s := Status{Umask: ^uint32(0)}
	seen := 0
	err := lines(r, func(line string) error {
		key, value, ok := strings.Cut(line, ":")
		take, known := statusKeys[key]
		if !ok || !known {
			return unknown("status", "unknown line %q", line)
		}
		seen++
		if take != nil && !take(&s, strings.TrimSpace(value)) {
			return unknown("status", "unknown value in %q", line)
		}
		return nil
	})
	if err == nil && seen < 20 {
		err = unknown("status", "only %d lines", seen)
	}
	if err != nil {
		return Status{}, err
	}
	return s, nil
}

func base[T ~uint32 | ~uint64](text string, radix int, out *T) bool {
	v, err := strconv.ParseUint(text, radix, 64)
	*out = T(v)
	return err == nil && uint64(*out) == v
}

func decimal(text string, out *int) bool {
	v, err := strconv.Atoi(text)
	*out = v
	return err == nil
}

func flag(text string, out *bool) bool {
	*out = text == "1"
	return text == "0" || text == "1"
}

func kB(text string, out *uint64) bool {
	number, ok := strings.CutSuffix(text, " kB")
	return ok && base(number, 10, out)
}

func list[T ~int | ~uint32](text string, out *[]T) bool {
	for _, word := range strings.Fields(text) {
		v, err := strconv.ParseInt(word, 10, 64)
		if err != nil || int64(T(v)) != v {
			return false
		}
		*out = append(*out, T(v))
	}
	return true
}

func four(text string, out *[4]uint32) bool {
	var ids []uint32
	if !list(text, &ids) || len(ids) != 4 {
		return false
	}
	copy(out[:], ids)
	return true
}
