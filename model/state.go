package model

// A field added from now on is marked omitempty or omitzero, so that images that do not have it stay readable, stands
// behind the others of its struct, and has a tag that says with which version of its record's kind it came: since:"2".
// image/testdata/records.txt lists what there is.

// PageSize is the granularity of memory and of every Space, in bytes.
const PageSize = 4096

// State is everything a snapshot knows except page contents, which live in the page map under a Space.
type State struct {
	Kernel    Kernel    `json:"kernel"`
	Root      int       `json:"root"`      // pid of the root of the tree
	Processes []Process `json:"processes"` // parents before their children
	Files     []File    `json:"files"`     // open file descriptions, shared by every FD that names their ID
	// shared memory objects: shared anonymous mappings, memfds, deleted tmpfs files
	Shmems []Shmem `json:"shmems"`
	// regular files that are open or mapped but no longer reachable by name
	Unlinked []UnlinkedFile `json:"ghosts"`
	// files in memory (tmpfs) that have their names, which the tree alone maps shared and writes to: their content is
	// memory
	Named     []UnlinkedFile `json:"named,omitempty"`
	Pipes     []Pipe         `json:"pipes"`     // pipes both of whose ends are inside the tree
	Terminals []Terminal     `json:"terminals"` // terminals the tree has open
	// what the host was like that the image comes back on, sorted by name; none in images of format 1
	Facts []Fact `json:"facts,omitempty"`

	// Leaderless lists, ascending, the sessions and process groups that processes of the tree are in, whose leader has
	// ended and which nobody outside the tree is in: a restore makes them again. Others that are not led by a process
	// of the tree are those of whoever started it.
	Leaderless []int `json:"leaderless,omitempty"`
}

// Tree has the pids of all processes.
func (st *State) Tree() map[int]bool {
	tree := map[int]bool{}
	for i := range st.Processes {
		tree[st.Processes[i].Pid] = true
	}
	return tree
}

// Fact is something of a host that the plan of a restore rests on: a kernel, a limit, a mount. If a restore is refused,
// those that have changed since are named.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Space names one page-granular content in the page map: a process's memory (addressed by virtual address), or a
// Shmem's, an UnlinkedFile's or a Pipe's content (addressed by byte offset). Zero means "none".
type Space uint32

// Kernel describes the machine at the moment of the freeze.
type Kernel struct {
	Release string `json:"release"` // uname -r
	Machine string `json:"machine"` // uname -m
	BootID  string `json:"boot_id"` // /proc/sys/kernel/random/boot_id
	// inode of the pid namespace of the tree, in which its ids are; 0 if not known
	PidNS uint64 `json:"pidns,omitempty"`
	// CLOCK_MONOTONIC of the initial time namespace at the freeze, ns
	Monotonic int64 `json:"monotonic"`
	// CLOCK_BOOTTIME of the initial time namespace at the freeze, ns
	Boottime int64 `json:"boottime"`
	// what the tree's time namespace adds to CLOCK_MONOTONIC, ns
	MonotonicOffset int64 `json:"monotonic_offset,omitempty"`
	BoottimeOffset  int64 `json:"boottime_offset,omitempty"` // the same for CLOCK_BOOTTIME
	Realtime        int64 `json:"realtime"`                  // CLOCK_REALTIME at the freeze, ns
	// xxhash64 (hex) of the [vdso] pages of the root process, "" if it has none
	VDSOHash  string `json:"vdso_hash"`
	XFeatures uint64 `json:"xfeatures"` // of x86-64, XCR0: the state components an XState may hold
	CPUModel  string `json:"cpu_model"` // for messages only
}

// Process is one thread group.
type Process struct {
	Pid  int `json:"pid"`
	PPid int `json:"ppid"`
	Pgid int `json:"pgid"`
	Sid  int `json:"sid"`
	// the thread of the parent that it is a child of, if that is not the first one (PR_SET_PDEATHSIG, __WNOTHREAD)
	ParentTid  int  `json:"parent_tid,omitempty"`
	ExitSignal int  `json:"exit_signal"` // signal sent to the parent on exit, normally SIGCHLD
	Zombie     bool `json:"zombie,omitempty"`
	// wait status, for a zombie only; then every field below is empty
	ExitCode int `json:"exit_code,omitempty"`
	Stopped  int `json:"stopped,omitempty"` // stop signal if the group is in a job-control stop, else 0
	// its parent has waited for that stop (WUNTRACED) and is not told of it again
	StopTold bool `json:"stop_told,omitempty"`
	// it was continued by a SIGCONT, and its parent has not waited for that yet (WCONTINUED)
	Continued bool       `json:"continued,omitempty"`
	Space     Space      `json:"space"` // its memory in the page map
	Exe       MappedFile `json:"exe"`
	// when it started: field 22 of /proc/PID/stat, clock ticks since boot in the initial time namespace; with pid, its
	// namespace and boot it names the process
	Start uint64 `json:"start,omitempty"`
	// task_struct.self_exec_id of the leader, 0 if the source cannot tell
	Execs uint64 `json:"execs,omitempty"`
	// for people; the truth is in memory. Of a zombie its name (comm) alone
	Args    []string    `json:"args"`
	MM      MM          `json:"mm"`
	VMAs    []VMA       `json:"vmas"`    // ascending, disjoint; [vsyscall] is not listed
	FDs     []FD        `json:"fds"`     // ascending
	Actions []SigAction `json:"actions"` // signals whose action is not the all-zero default, ascending
	Pending []SigInfo   `json:"pending"` // process-wide, in queue order
	// which signals are pending for any thread, bit N-1 for signal N, queued or not; on its way to Pending, never stored
	PendingSet  uint64       `json:"-"`
	ITimers     [3]ITimer    `json:"itimers"` // ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF
	Timers      []PosixTimer `json:"timers"`  // ascending id
	Limits      [16]Limit    `json:"limits"`  // by RLIMIT_* number
	OOMScoreAdj int          `json:"oom_score_adj"`
	// of a session leader: the nice value of the session's autogroup (sched(7))
	Autogroup int    `json:"autogroup,omitempty"`
	Cwd       string `json:"cwd"`
	// what Cwd was, if it was removed while it was the working directory; a restore makes such a one again
	CwdGone   *GoneDir `json:"cwd_gone,omitempty"`
	Root      string   `json:"root"`
	Umask     uint32   `json:"umask"`
	Subreaper bool     `json:"subreaper"` // PR_SET_CHILD_SUBREAPER
	// controlling terminal, kernel dev_t as in /proc/PID/stat tty_nr, 0 if none
	TTY        uint32 `json:"tty"`
	Usage      Usage  `json:"usage"`       // since exec or birth, own
	ChildUsage Usage  `json:"child_usage"` // of waited-for children
	// of the process's earlier lives, before the restores it went through
	Carried   Usage     `json:"carried"`
	Libraries []Library `json:"libraries,omitempty"` // loaded with dlopen, in order, as far as a watch saw it
	Threads   []Thread  `json:"threads"`             // leader first, then ascending tid
}

// MM is the address-space bookkeeping that PR_SET_MM_MAP sets again (prctl(2), PR_SET_MM) and the flags of the mm.
type MM struct {
	StartCode  uint64 `json:"start_code"`
	EndCode    uint64 `json:"end_code"`
	StartData  uint64 `json:"start_data"`
	EndData    uint64 `json:"end_data"`
	StartBrk   uint64 `json:"start_brk"`
	Brk        uint64 `json:"brk"`
	StartStack uint64 `json:"start_stack"`
	ArgStart   uint64 `json:"arg_start"`
	ArgEnd     uint64 `json:"arg_end"`
	EnvStart   uint64 `json:"env_start"`
	EnvEnd     uint64 `json:"env_end"`
	Auxv       []byte `json:"auxv"`        // as /proc/PID/auxv gives it, up to and including AT_NULL
	Dumpable   int    `json:"dumpable"`    // PR_GET_DUMPABLE: 0, 1 or 2
	THPDisable bool   `json:"thp_disable"` // PR_GET_THP_DISABLE
	// PR_THP_DISABLE_EXCEPT_ADVISED (Linux 6.18): huge pages where they were asked for, and only there
	THPAdvised     bool   `json:"thp_advised,omitempty"`
	Membarrier     uint32 `json:"membarrier"`                // registered commands, MEMBARRIER_CMD_REGISTER_* bits
	MDWE           uint32 `json:"mdwe"`                      // PR_GET_MDWE
	KSMMerge       bool   `json:"ksm_merge"`                 // PR_GET_MEMORY_MERGE
	LockFuture     uint32 `json:"lock_future,omitempty"`     // MCL_FUTURE and MCL_ONFAULT as given to mlockall(2)
	CoredumpFilter uint32 `json:"coredump_filter,omitempty"` // /proc/PID/coredump_filter (core(5))
	// slots of the hash of private futexes that the program chose (PR_FUTEX_HASH, Linux 6.16), FutexGlobal, or 0 for
	// the kernel's own choice
	FutexSlots int `json:"futex_slots,omitempty"`
}

// FutexGlobal stands in MM.FutexSlots for the hash that all processes share.
const FutexGlobal = -1

// MappedFile identifies a file that must be the same one at restore.
type MappedFile struct {
	Path    string `json:"path"` // absolute, in the process's root; without " (deleted)"
	Dev     uint64 `json:"dev"`  // st_dev as stat(2) gives it
	Ino     uint64 `json:"ino"`
	Size    int64  `json:"size"`
	MTime   int64  `json:"mtime"`              // ns
	CTime   int64  `json:"ctime,omitempty"`    // ns, of the last change of the inode
	Born    int64  `json:"born,omitempty"`     // ns, when it was made, of one mapped shared and writable; 0 if unknown
	BuildID string `json:"build_id,omitempty"` // hex GNU build-id of an ELF file
	// 1-based index into State.Unlinked if the name no longer leads to this file
	Unlinked int `json:"ghost,omitempty"`
	Shmem    int `json:"shmem,omitempty"` // of an executable that is a memfd: 1-based index into State.Shmems
}

// Nameless reports whether the file is not to be looked for by name: the image holds it.
func (m *MappedFile) Nameless() bool { return m.Unlinked != 0 || m.Shmem != 0 }

// VMAKind tells how a mapping is made again.
type VMAKind string

// The kinds of mapping.
const (
	VMAAnon VMAKind = "anon" // private anonymous, heap and stacks too
	VMAFile VMAKind = "file" // file mapping, private or shared
	// backed by a Shmem (shared anonymous, /dev/zero shared, memfd, deleted tmpfs file), shared or private
	VMAShmem VMAKind = "shmem"
	VMAVDSO  VMAKind = "vdso" // [vdso]
	VMAVVar  VMAKind = "vvar" // [vvar], [vvar_vclock]
	// mapping of a character device other than /dev/zero: refused by snapshot, never stored
	VMADevice VMAKind = "device"
	VMASysV   VMAKind = "sysv" // SysV shared memory: refused by snapshot, never stored
	// anything else ([uprobes], aio, io_uring, hugetlb, ...): refused by snapshot; Name says what
	VMAOther VMAKind = "other"
)

// VMA is one mapping. Flags are vm_flags reduced to the smaps VmFlags two-letter names
// (Documentation/filesystems/proc.rst), sorted, without the ones that say nothing of what to rebuild (sd: soft-dirty;
// ac: accounted stays).
type VMA struct {
	Start  uint64  `json:"start"`
	End    uint64  `json:"end"`
	Prot   uint32  `json:"prot"`   // PROT_READ|PROT_WRITE|PROT_EXEC
	Shared bool    `json:"shared"` // MAP_SHARED (VM_MAYSHARE), whether or not the file allows writing
	Kind   VMAKind `json:"kind"`
	// [heap], [stack], [anon:NAME] -> "anon:NAME" (PR_SET_VMA_ANON_NAME), [vvar_vclock] ...
	Name   string     `json:"name,omitempty"`
	Offset uint64     `json:"offset,omitempty"` // bytes, into the file or Shmem
	File   MappedFile `json:"file,omitzero"`    // VMAFile; for VMAShmem only Dev, Ino and Path are set
	// 1-based index into State.Shmems for VMAShmem (set by snapshot, not by a source)
	Shmem int      `json:"shmem,omitempty"`
	Flags []string `json:"flags"`
	NUMA  string   `json:"numa,omitempty"` // policy as /proc/PID/numa_maps prints it, "" for default
	Pkey  int      `json:"pkey,omitempty"`
	// MADV_GUARD_INSTALL regions inside it (Linux 6.13), ascending (set by snapshot)
	Guards []Range `json:"guards,omitempty"`
	// Excluded says that the user wanted the content left out: it comes back as zeros, or as what the file has (set by
	// snapshot).
	Excluded bool `json:"excluded,omitempty"`
}

// Range is the addresses from Start up to, not including, End.
type Range struct {
	Start uint64 `json:"start"`
	End   uint64 `json:"end"`
}

// SigAction is one signal's disposition, the kernel's struct sigaction (rt_sigaction(2)).
type SigAction struct {
	Signal   int    `json:"signal"`
	Handler  uint64 `json:"handler"` // address, or 0 SIG_DFL, 1 SIG_IGN
	Flags    uint64 `json:"flags"`
	Restorer uint64 `json:"restorer"`
	Mask     uint64 `json:"mask"`
}

// SigInfo is a raw siginfo_t, 128 bytes (rt_sigqueueinfo(2)).
type SigInfo []byte

// ITimer is an interval timer (setitimer(2)); Value 0 means disarmed.
type ITimer struct {
	Value    int64 `json:"value"`    // ns left
	Interval int64 `json:"interval"` // ns
}

// PosixTimer is a timer_create(2) timer.
type PosixTimer struct {
	ID       int    `json:"id"`
	Clock    int    `json:"clock"`
	Notify   int    `json:"notify"` // SIGEV_*
	Signo    int    `json:"signo"`
	Value    uint64 `json:"value"`         // sigval
	Tid      int    `json:"tid,omitempty"` // SIGEV_THREAD_ID
	Left     int64  `json:"left"`          // ns left, 0 if disarmed
	Interval int64  `json:"interval"`      // ns
	Overrun  int    `json:"overrun"`       // of the signal that was taken last
	// Date is the time of CLOCK_REALTIME, ns, at which it runs out next, or did if Expired is not 0, if it is set to a
	// date (TIMER_ABSTIME): as far as the source can tell, else 0.
	Date int64 `json:"date,omitempty"`
	// Expired is how long ago, in ns, a repeating timer ran out whose signal is still pending: the kernel counts
	// overruns from there when the signal is taken. 0 if the timer runs.
	Expired int64 `json:"expired,omitempty"`
}

// Limit is one resource limit; ^uint64(0) is infinity.
type Limit struct {
	Cur uint64 `json:"cur"`
	Max uint64 `json:"max"`
}

// Usage is resource usage (getrusage(2)).
type Usage struct {
	UTime   int64  `json:"utime"` // ns
	STime   int64  `json:"stime"` // ns
	Wall    int64  `json:"wall"`  // ns since the process's start time; Carried sums the lives
	MinFlt  uint64 `json:"minflt"`
	MajFlt  uint64 `json:"majflt"`
	InBlock uint64 `json:"inblock"` // read_bytes/512
	OuBlock uint64 `json:"oublock"`
	NVCSw   uint64 `json:"nvcsw"`
	NIvCSw  uint64 `json:"nivcsw"`
	MaxRSS  uint64 `json:"maxrss"` // bytes
}

// Thread is one thread.
type Thread struct {
	Tid           int       `json:"tid"`
	Comm          string    `json:"comm"`
	Regs          []byte    `json:"regs"`    // NT_PRSTATUS: struct user_regs_struct, on arm64 user_pt_regs
	XState        []byte    `json:"xstate"`  // NT_X86_XSTATE in the standard format; on arm64 see RegisterSets
	SigMask       uint64    `json:"sigmask"` // as PTRACE_GETSIGMASK gives it: the mask the thread returns to
	AltStack      AltStack  `json:"altstack"`
	Pending       []SigInfo `json:"pending"` // of this thread, in queue order
	PendingSet    uint64    `json:"-"`       // as in Process
	ClearChildTID uint64    `json:"clear_child_tid"`
	RobustList    uint64    `json:"robust_list"`
	RobustListLen uint64    `json:"robust_list_len"`
	Rseq          Rseq      `json:"rseq"`
	Sched         Sched     `json:"sched"`
	// memory policy (set_mempolicy(2)) as numa_maps prints it, "" for the default
	NUMA        string   `json:"numa,omitempty"`
	Affinity    []uint64 `json:"affinity"` // CPU mask, low word first, without trailing zero words
	IOPrio      int      `json:"ioprio"`   // as ioprio_get(2) returns it
	Creds       Creds    `json:"creds"`
	NoNewPrivs  bool     `json:"no_new_privs"`
	Seccomp     Seccomp  `json:"seccomp"`
	PDeathSig   int      `json:"pdeath_sig"`
	TimerSlack  uint64   `json:"timer_slack"` // ns
	Personality uint32   `json:"personality"`
	// if the thread is in a system call that restart_syscall(2) continues
	Restart    *Restart `json:"restart,omitempty"`
	TSCSignal  bool     `json:"tsc_signal"`  // PR_TSC_SIGSEGV
	CPUIDFault bool     `json:"cpuid_fault"` // ARCH_SET_CPUID 0
	SpecCtrl   []uint32 `json:"spec_ctrl,omitempty"`
	MCEKill    int      `json:"mce_kill"`   // PR_MCE_KILL_GET
	IOFlusher  bool     `json:"io_flusher"` // PR_GET_IO_FLUSHER
	SUD        SUD      `json:"sud,omitzero"`
}

// AltStack is the alternate signal stack (sigaltstack(2)); Size 0 with SS_DISABLE means none.
type AltStack struct {
	Sp    uint64 `json:"sp"`
	Flags uint32 `json:"flags"` // SS_DISABLE, SS_AUTODISARM; never SS_ONSTACK
	Size  uint64 `json:"size"`
}

// Rseq is the rseq registration (PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13); Ptr 0 means none.
type Rseq struct {
	Ptr  uint64 `json:"ptr"`
	Size uint32 `json:"size"`
	Sig  uint32 `json:"sig"`
}

// Sched is the scheduling policy (sched_setattr(2)).
type Sched struct {
	Policy   uint32 `json:"policy"`
	Flags    uint64 `json:"flags"` // SCHED_FLAG_RESET_ON_FORK ...
	Nice     int32  `json:"nice"`
	Priority uint32 `json:"priority"`
	Runtime  uint64 `json:"runtime"`
	Deadline uint64 `json:"deadline"`
	Period   uint64 `json:"period"`
	Clamp    *Clamp `json:"clamp,omitempty"` // nil if the kernel has none (CONFIG_UCLAMP_TASK)
}

// Clamp is the range the utilization of a thread is held within (SCHED_FLAG_UTIL_CLAMP, sched_setattr(2)), of 1024.
type Clamp struct {
	Min uint32 `json:"min"`
	Max uint32 `json:"max"`
}

// Creds are the credentials of a thread (credentials(7), capabilities(7)).
type Creds struct {
	UID        uint32   `json:"uid"`
	EUID       uint32   `json:"euid"`
	SUID       uint32   `json:"suid"`
	FSUID      uint32   `json:"fsuid"`
	GID        uint32   `json:"gid"`
	EGID       uint32   `json:"egid"`
	SGID       uint32   `json:"sgid"`
	FSGID      uint32   `json:"fsgid"`
	Groups     []uint32 `json:"groups"` // ascending
	CapInh     uint64   `json:"cap_inh"`
	CapPrm     uint64   `json:"cap_prm"`
	CapEff     uint64   `json:"cap_eff"`
	CapBnd     uint64   `json:"cap_bnd"`
	CapAmb     uint64   `json:"cap_amb"`
	Securebits uint32   `json:"securebits"`
}

// Seccomp is the seccomp state (seccomp(2)); Filters are in installation order, each the classic BPF program.
type Seccomp struct {
	Mode    int             `json:"mode"` // 0 none, 1 strict, 2 filter
	Filters []SeccompFilter `json:"filters,omitempty"`
}

// SeccompFilter is one installed filter: struct sock_filter records of 8 bytes, and SECCOMP_FILTER_FLAG_* bits.
type SeccompFilter struct {
	Prog  []byte `json:"prog"`
	Flags uint32 `json:"flags"`
}

// Restart is the restart_block of a thread whose interrupted system call is continued by restart_syscall(2): what the
// kernel keeps outside registers. Kind is "nanosleep", "futex" or "poll"; or RestartWait, which is a call that the
// kernel would end with EINTR, as the registers have it, and that is made again with the time that was left.
type Restart struct {
	Kind  string `json:"kind"`
	Left  int64  `json:"left"`            // ns left until the deadline; -1 if the call has none
	Clock int    `json:"clock,omitempty"` // nanosleep: clockid
	Rmtp  uint64 `json:"rmtp,omitempty"`  // nanosleep: where the rest is written, 0 if nowhere
	// futex: uaddr; poll: ufds; wait: dead memory for the timeout, 0 if it is in a register
	Addr   uint64 `json:"addr,omitempty"`
	Val    uint32 `json:"val,omitempty"`   // futex: expected value; poll: nfds
	Flags  uint32 `json:"flags,omitempty"` // futex: the kernel's FLAGS_*; FLAGS_CLOCKRT is 0x20 up to 6.6
	Bitset uint32 `json:"bitset,omitempty"`
	Exact  bool   `json:"exact"` // Left is the kernel's own figure; false if estimated from the call's arguments
}

// RestartWait is the Kind of a Restart that is a call with a timeout which a stop ends: epoll_wait(2), sigtimedwait(2),
// semtimedop(2) and their like.
const RestartWait = "wait"

// SUD is syscall user dispatch (PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, Linux 6.4).
type SUD struct {
	Mode     uint64 `json:"mode"`
	Selector uint64 `json:"selector"`
	Offset   uint64 `json:"offset"`
	Len      uint64 `json:"len"`
}
