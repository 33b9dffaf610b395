// Package model is the state of a process tree: its processes and the kernel objects they have, as plain data. Sources
// fill it (package tracer from BPF iterators, internal/kstate/proc from /proc), fdtable and snapshot add what only they
// see, image stores it, plan judges it, restore makes it again. It needs neither Linux nor root.
//
// Names follow the kernel's own. Units: addresses and lengths are bytes, times are nanoseconds, ids are those of the
// pid namespace the snapshot ran in.
//
// What is known of the flags of mappings (vmaflag.go) and of each kind of descriptors (fd_NAME.go) stands here once.
// State.Validate checks everything of a state that others rely on without looking again.
package model
