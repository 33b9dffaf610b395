// Package snapshot saves running process trees to images.
//
// Snap looks for everything it can refuse before it stops anything, gets ready what can be got ready (the source of
// kernel state, the image, buffers for the copy), stops all threads of the tree with ptrace, reads registers, kernel
// state, descriptors and memory, lets the tree go on, and only then encodes, writes and publishes the image. Nothing of
// the target is ever written to, so whatever happens to this process, the target runs on: the kernel detaches a tracer
// that dies.
//
// A Transaction is the same in phases: Prepare, Freeze, Capture, Commit, and Abort at any time; Snap goes through them.
// Each has one session, used by one goroutine; helpers copy memory and encode pages in parallel. The order of the steps
// is that of the fields of Phases.
package snapshot

import (
	"fmt"
	"time"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/dirty"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procid"
	"github.com/bpfckpt/bpfckpt/policy"
)

// Error is the error type of this package's functions, wrapped or not: code, object, cause, remedy.
type Error = fault.Error

// Options says how a snapshot is taken. The zero value of each field is its default.
type Options struct {
	Dir      string      // the store, made if it does not exist; "" is "ckpt-PID"
	Name     string      // name of the image in the store, "" for none
	Compress image.Level // "" is the default of package image
	// MaxFreeze is how long the tree may stand still, 0 for as long as it takes. A tree that writes faster than
	// pre-copy copies is held back meanwhile, in slices that are no longer (Result.Throttle).
	MaxFreeze time.Duration
	Stop      bool // leave the tree stopped (SIGSTOP) after the image is published
	Kill      bool // kill the tree (SIGKILL) after the image is published
	// Incremental takes pages from the parent image where they have not changed: unseen if Tracker knows that they have
	// not been written since, else if they are equal.
	Incremental bool
	// Precopy copies a tree of 32 MiB or more while it runs, so that it stands still for what it wrote last. It makes a
	// userfaultfd in each process for as long as that takes (internal/dirty), which a plain snapshot does not: nothing
	// is put into a process without being asked for.
	Precopy bool
	// Exclude names private memory whose content is left out of the image, and comes back as zeros or as what the
	// mapped file has: names of mappings as /proc/PID/maps shows them ("[anon:cache]", "[heap]", a path), patterns of
	// them with *, and DontDump.
	Exclude []string
	// IgnoreRegions takes a snapshot also of a program that marks regions in which none may be taken
	// (include/bpfckpt.h), wherever it is.
	IgnoreRegions bool
	Policy        policy.Policy // of the restore that is to be possible
	Source        string        // where kernel state comes from: "iter", "proc", "" for the best that works
	// the process that is meant, should another have its pid by now; zero: whoever has it
	Root     procid.ID               `json:"-"`
	Progress func(done, total int64) `json:"-"` // bytes of memory encoded so far, called from one goroutine
	// the source to use instead of opening one, a watch's table; the caller closes it
	Live kstate.Source `json:"-"`
	// tracks writes between this snapshot and the next; the caller keeps and closes it. nil: none, but for Precopy
	Tracker dirty.Tracker `json:"-"`
}

// Result tells what a snapshot did. Times are microseconds.
type Result struct {
	Dir          string    `json:"dir"`
	ID           string    `json:"id"`
	Name         string    `json:"name,omitempty"`
	Parent       string    `json:"parent"`    // id of the image of the store that it continues, "" if it has none
	Pids         []int     `json:"pids"`      // the processes of the tree, parents before their children
	FreezeUS     int64     `json:"freeze_us"` // from the first thread's stop to the last one's thaw
	WallUS       int64     `json:"wall_us"`
	Phases       Phases    `json:"phases"`
	PagesWritten uint64    `json:"pages_written"`
	PagesZero    uint64    `json:"pages_zero"`
	PagesShared  uint64    `json:"pages_shared"`
	BytesRaw     int64     `json:"bytes_raw"`
	BytesWritten int64     `json:"bytes_written"`
	Tracking     string    `json:"tracking"` // dirty page backend, "none" for a full snapshot
	Table        Table     `json:"table"`
	Rounds       int       `json:"rounds"`          // of pre-copy
	Throttle     *Throttle `json:"brake,omitempty"` // nil if it was not held back meanwhile
	Notes        []string  `json:"notes,omitempty"` // remarks for people
}

// note adds a remark for the user.
func (r *Result) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// Phases is where the time went, microseconds. Those from Freeze to Thaw are under the freeze; Freeze, Regs and State
// are also those of stops in vain: not all threads stopped in time, or one was in a region in which no snapshot may be
// taken.
type Phases struct {
	Prepare int64 `json:"prepare"` // checks, source, image and buffers, before anything is stopped
	Attach  int64 `json:"attach"`  // getting ready to track writes; new processes stand still for it
	Precopy int64 `json:"precopy"` // copying while the tree runs
	Wait    int64 `json:"wait"`    // for threads to leave regions in which no snapshot may be taken
	Freeze  int64 `json:"freeze"`  // stopping every thread
	Regs    int64 `json:"regs"`    // what ptrace tells of each thread
	State   int64 `json:"state"`   // kernel state from the source
	FDs     int64 `json:"fds"`     // descriptors
	Memory  int64 `json:"memory"`  // which pages, and the copy
	Thaw    int64 `json:"thaw"`    // letting go of every thread
	Files   int64 `json:"files"`   // who else holds pipes, build-ids of mapped files
	Encode  int64 `json:"encode"`  // compression and writing, in part
	Publish int64 `json:"publish"` // the rest of writing, fsync, read back, rename
}

// Table says where the kernel state came from.
type Table struct {
	Source string `json:"source"` // "watch", "iter" or "proc"
	Events uint64 `json:"events"`
	Lost   uint64 `json:"lost"`
	Drift  uint64 `json:"drift"`
}

// Report is the answer of Check.
type Report struct {
	Pid      int        `json:"pid"`
	Pids     []int      `json:"pids"`
	Source   string     `json:"source"`
	Blockers fault.List `json:"blockers"` // everything that keeps the tree from being saved, empty if nothing does
	Notes    []string   `json:"notes"`    // what will be different after a restore
	// regions in which no snapshot may be taken: they keep it from being saved unless there is a watch
	Unseen fault.List `json:"unseen"`
}
