// Package tracer reads the kernel state of processes through BPF: with one-shot iterators (Iter), and with probes that
// keep a table of it up to date while a watch runs.
//
// Nothing here touches the target: iterators run in the context of the reader and only read kernel memory. A reader
// needs CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE in the initial user namespace, and a kernel with BTF (Linux 6.1 or
// later).
//
// How a collection goes: the programs are loaded by NewIter, before any freeze. Collect links them to one thread group
// after the other, so that the kernel visits no other task, reads their records (bpf/abi.h), and builds model.Process
// from them. Pointers in records only tell whether two things are the same. Time left is counted from one reading of
// the clocks, taken before the pass. What iterators do not give is read from /proc or with system calls that do not
// touch the target: see host.go.
package tracer
