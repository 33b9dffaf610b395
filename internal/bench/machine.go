package bench

import (
	"bufio"
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is where the run took place.
type Machine struct {
	Kernel     string  `json:"kernel"` // uname -r
	CPU        string  `json:"cpu"`
	CPUs       int     `json:"cpus"` // usable by this process
	MemoryMB   int64   `json:"memory_mb"`
	LoadBefore float64 `json:"load_before"` // average of the last minute: above a few tenths others were at work too
	LoadAfter  float64 `json:"load_after"`
}

func thisMachine() Machine {
	m := Machine{CPUs: runtime.NumCPU(), LoadBefore: loadAverage(), CPU: cpuModel()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		m.MemoryMB = int64(uint64(si.Totalram) * uint64(si.Unit) >> 20)
	}
	return m
}

// loadAverage is 0 if the kernel does not tell.
func loadAverage() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return v
}

func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
