// Package kernels runs programs on other kernels than the one we are on. It fetches a kernel package of Debian without
// installing it, packs the programs and a small init into an initramfs, boots that under QEMU without hardware
// virtualisation, and reports the output and the exit status of every program.
//
// The guest has one job and is gone after it. It has no disk and no network; its root is the initramfs itself, in
// memory. The kernel's own messages come over the first serial port; the second carries the programs' output and, in
// lines that begin with Mark, the events of this protocol: boot, then start and end around each command, then done. A
// kernel that panics or hangs never says done, which is how it is noticed.
//
// The init (folder guestinit) is a static Go program. As pid 1 it only mounts file systems and reaps; a child of it
// runs the commands, one after the other, each in a process group and session of its own.
package kernels

import "time"

// Mark begins an event line on the second serial port. It is the ASCII record separator, which no test prints.
const Mark = "\x1e"

// PlanPath is where the init finds its Plan in the initramfs.
const PlanPath = "/plan.json"

// Plan is what the guest does.
type Plan struct {
	Commands []Command `json:"commands"`
}

// Command is one program to run in the guest.
type Command struct {
	Name    string        `json:"name"`    // for people
	Args    []string      `json:"args"`    // Args[0] is the path of the program in the guest
	Env     []string      `json:"env"`     // added to PATH, HOME and TMPDIR
	Dir     string        `json:"dir"`     // working directory in the guest, "/" if empty
	Timeout time.Duration `json:"timeout"` // of guest time, ns; 0 means the default of one minute
}

// Event is what the guest says about its progress.
type Event struct {
	Kind     string `json:"kind"`              // "boot", "start", "end", "done"
	Name     string `json:"name,omitempty"`    // start, end: of the command
	Release  string `json:"release,omitempty"` // boot: uname -r
	Exit     int    `json:"exit"`              // end: exit status, -1 if it was killed or could not be started
	Error    string `json:"error,omitempty"`   // end: why it failed, if not by its exit status
	TimedOut bool   `json:"timed_out,omitempty"`
	Millis   int64  `json:"millis"` // boot: since the kernel started; end: how long the command ran
}
