/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every structure that crosses from BPF to Go. Package tracer reads them as the Go types that bpf2go derives from these
 * (see bpf/gen.go); a test holds the two layouts against each other.
 *
 * Records follow one another in the output of an iterator: a rec_head, the fixed part, then `tail` bytes (a path, a list) padded to a
 * multiple of 8. Numbers that identify (pointers) serve for comparison only and never leave the process.
 */
#ifndef BPFCKPT_ABI_H
#define BPFCKPT_ABI_H

#include "core.h"

enum rec_kind {
	REC_PROCESS = 1,
	REC_THREAD,
	REC_MM,
	REC_ACTIONS,
	REC_CRED,
	REC_TIMER,
	REC_VMA,
	REC_MAPPED,
	REC_FD,
	REC_HELD,
};

struct rec_head {
	__u16 kind; /* enum rec_kind */
	__u16 tail; /* bytes that follow the fixed part, without padding */
	__s32 pid;  /* thread group, as the reader's pid namespace numbers it */
};

struct rlimit_rec {
	__u64 cur, max;
};

struct cpu_itimer_rec {
	__u64 expires, incr;
};

struct usage_rec {
	__u64 utime, stime; /* ns, not scaled to the run time */
	__u64 minflt, majflt;
	__u64 inblock, oublock; /* blocks of 512 bytes */
	__u64 nvcsw, nivcsw;
	__u64 maxrss; /* pages */
};

/* One thread group, from its leader: struct signal_struct and what is shared by all threads. */
struct process_rec {
	struct rec_head head;
	__s32 ppid, pgid, sid;
	__s32 exit_signal;
	__u32 exit_state; /* of the leader */
	__s32 exit_code;  /* of the leader */
	__s32 group_exit_code;
	__u32 signal_flags; /* SIGNAL_* */
	__s32 nr_threads;
	__s32 live;
	__s32 oom_score_adj;
	__u32 subreaper;
	__u32 tty; /* kernel-internal dev_t, 0 if none */
	__u32 umask;
	__u32 vfork; /* a parent waits in vfork */
	__u32 timers;	 /* POSIX timers seen */
	__u32 timers_over; /* POSIX timers there were no records for */
	__s32 parent_tid;  /* the thread of the parent that it is a child of */
	__u64 pending;	   /* signals pending for any thread, bit N-1 for signal N */
	__u64 real_expires;   /* CLOCK_MONOTONIC ns */
	__u64 real_armed;
	__u64 real_interval;
	struct cpu_itimer_rec it[2]; /* CPUCLOCK_PROF, CPUCLOCK_VIRT */
	__u64 cpu_utime, cpu_stime, cpu_runtime; /* the group's CPU clocks, valid while a CPU timer runs */
	__u64 cpu_active;
	__u64 dead_runtime; /* sum_sched_runtime: of threads that are gone */
	__u64 start_boottime;
	struct usage_rec usage; /* of threads that are gone; the living add theirs */
	struct usage_rec child;
	struct rlimit_rec limits[16];
};

/* One thread: struct task_struct. */
struct thread_rec {
	struct rec_head head;
	__s32 tid;
	__u32 exit_state;
	__u64 mm, files, fs, sighand, cred; /* identities */
	__u64 sas_sp, sas_size;
	__u32 sas_flags;
	__u32 policy;
	__s32 static_prio;
	__u32 rt_priority;
	__u32 reset_on_fork;
	__u32 custom_slice;
	__u64 slice;
	__u64 dl_runtime, dl_deadline, dl_period;
	__u32 dl_flags;
	__u32 personality;
	__u64 clear_child_tid;
	__u64 robust_list;
	__u64 atomic_flags; /* PFA_* */
	__u64 tif;	    /* thread_info.flags */
	__u64 task_flags;   /* PF_* */
	__s32 pdeath_signal;
	__u32 seccomp_mode;
	__u64 timer_slack;
	__u32 other_ns;	  /* enum ns_bit: namespaces that are not the reader's */
	__u32 bits;	  /* enum thread_bit */
	__u64 runtime;	  /* se.sum_exec_runtime, ns */
	struct usage_rec usage;
	__s64 ax, orig_ax; /* of the user registers */
	__u32 cs;
	__u32 pad;
	__u64 pending;	      /* signals pending for it, bit N-1 for signal N */
	__u64 restart_raw[5]; /* the union of struct restart_block */
	char restart_fn[40];	/* name of restart_block.fn if ax is -ERESTART_RESTARTBLOCK */
	char comm[16];
};

enum ns_bit {
	NS_MNT = 1,
	NS_PID = 2,
	NS_NET = 4,
	NS_IPC = 8,
	NS_UTS = 16,
	NS_CGROUP = 32,
	NS_TIME = 64,
	NS_USER = 128,
};

enum thread_bit {
	THREAD_IO_BITMAP = 1,
	THREAD_IOPL = 2,
	THREAD_BREAKPOINT = 4,
	THREAD_SEM_UNDO = 8,
	THREAD_MEMPOLICY = 16,
	THREAD_IO_URING = 32,
	THREAD_TLS_ARRAY = 64,
	THREAD_URETPROBE = 128, /* it is in a function whose return address a uprobe has replaced */
};

/* What a struct file leads to. */
struct inode_rec {
	__u64 ino;
	__u64 magic;  /* of the super block */
	__u64 sflags; /* SB_* */
	__u32 dev;    /* kernel-internal dev_t */
	__u32 rdev;   /* kernel-internal dev_t */
	__u32 mode;
	__u32 nlink;
	__u32 bits; /* enum inode_bit */
	__u32 pad;
};

enum inode_bit {
	INODE_UNLINKED = 1, /* d_path says " (deleted)" */
	INODE_BACKING = 2,  /* a stacked file system's lower file: what stat(2) and /proc say differs */
	INODE_LOCKED = 4,   /* somebody has or had a file lock or a lease on it */
};

#define FUTEX_GLOBAL 1 /* no size of a hash, which is a power of two from 2 on */

/* struct mm_struct. */
struct mm_rec {
	struct rec_head head;
	__u64 mm; /* identity */
	__u64 start_code, end_code, start_data, end_data;
	__u64 start_brk, brk, start_stack;
	__u64 arg_start, arg_end, env_start, env_end;
	__u64 flags; /* MMF_* */
	__u64 def_flags; /* VM_* that new mappings get: mlockall(MCL_FUTURE) */
	__u32 membarrier;
	__u32 has_ldt;
	__u32 aio_rings;
	__u32 auxv_len; /* bytes of auxv that are valid */
	__u32 futex_slots; /* PR_FUTEX_HASH, 0 if it was not used, FUTEX_GLOBAL */
	__u32 pad;
	__u64 hiwater_rss, rss; /* pages; rss leaves out what single CPUs have not added up yet */
	struct inode_rec exe;
	__u64 auxv[64];
};

struct action_rec {
	__u64 handler, flags, restorer, mask;
};

/* struct sighand_struct. */
struct actions_rec {
	struct rec_head head;
	struct action_rec action[64];
};

enum keyring_bit {
	KEYRING_THREAD = 1,  /* it has one of its own (keyrings(7)) */
	KEYRING_PROCESS = 2, /* it has one of its own */
	KEYRING_SESSION = 4, /* it has another than the reader */
};

/* struct cred; the tail is the supplementary groups, __u32 each. */
#define MAX_GROUPS 1024
struct cred_rec {
	struct rec_head head;
	__u64 cred; /* identity */
	__u32 uid, gid, suid, sgid, euid, egid, fsuid, fsgid;
	__u32 securebits;
	__u32 ngroups; /* the tail holds at most MAX_GROUPS of them */
	__u64 inheritable, permitted, effective, bset, ambient;
	__u64 lsm; /* first word of what security modules keep of it, 0 if it is that of the reader */
	__u32 keyrings; /* enum keyring_bit */
	__u32 pad;
};

/* struct k_itimer. */
struct timer_rec {
	struct rec_head head;
	__s32 id;
	__s32 clock;
	__s32 notify;
	__s32 signo;
	__u64 value;
	__s32 target; /* thread or thread group the signal goes to */
	__s32 base_clock; /* clock that expires counts */
	__u64 expires;	  /* ns */
	__u64 interval;	  /* ns */
	__s64 overrun;
	__s32 cpu_pid; /* owner of the CPU clock */
	__u32 armed;
};
#define MAX_TIMERS 320

/* struct vm_area_struct; the tail is the name of a special or named anonymous mapping. */
struct vma_rec {
	struct rec_head head;
	__u64 start, end;
	__u64 flags; /* VM_* */
	__u64 pgoff; /* pages */
	__u64 file;  /* identity of the struct file, whose mapped_rec came before, or 0 */
	__u64 turn;  /* write turns of the mm so far, if a watch counts them, else 0 */
	__u64 brk;   /* of the mm, at that turn */
	__u32 bits;  /* enum vma_bit */
	__u32 pad;
};

enum vma_bit {
	VMA_POLICY = 1,	 /* has a NUMA policy of its own */
	VMA_SPECIAL = 2, /* the tail is what vm_ops->name gives */
	VMA_NAMED = 4,	 /* the tail is a PR_SET_VMA_ANON_NAME name */
	VMA_OPS = 8,	 /* not vma_is_anonymous() */
};

/* The file of the vma_recs that follow; the tail is its path. */
struct mapped_rec {
	struct rec_head head;
	__u64 file;
	struct inode_rec inode;
	__u32 bits; /* VMA_POLICY: a shared NUMA policy */
	__u32 pad;
};

/* One descriptor; the tail is the path. */
struct fd_rec {
	struct rec_head head;
	__u32 fd;
	__u32 cloexec;
	__u64 file; /* identity of the struct file */
	__u32 flags; /* f_flags */
	__u32 mode;  /* f_mode, FMODE_* */
	__s64 pos;
	__s64 expires;	/* of a timerfd: when it runs out next, or did last, ns of clock; 0 of all else */
	__u32 clock;	/* CLOCK_*, of the timer's base */
	__u32 pad;
	struct inode_rec inode;
};

/* When the timer of a thread's call would have run out, which was cancelled. */
struct wait_rec {
	__s64 expires; /* ns of clock */
	__u64 when;    /* of the cancellation, CLOCK_MONOTONIC ns */
	__u32 clock;   /* CLOCK_* */
	__u32 pad;
};

/* How deep a followed thread is in regions in which no snapshot may be taken (include/bpfckpt.h). Times are CLOCK_MONOTONIC ns. */
struct held_rec {
	struct rec_head head;
	__s32 tid;
	__u32 depth;
	__u64 since;	  /* when it began the outermost, if depth is not 0 */
	__u64 sure_since; /* it was in none at this time, and every call since has been seen where there was a probe; 0: the watch found it running */
};

/* The map of the ring in which records of a watch go to user space (ring.h): this, the records, and behind them the spill of the last. */
struct ring_head {
	__u64 filled; /* where the next record will begin, bytes since the beginning */
	__u64 pad[7];
	__u64 taken; /* where the reader is; another cache line, for it is another's */
	__u64 pad2[7];
};

enum ring_layout {
	RING_RECORDS = 4096, /* where the records begin */
	RING_SPILL = 512,    /* no record is longer, with its own head */
	RING_WARMED = 4 << 20, /* what one run of warm_ring writes to */
};

/* The argument of warm_ring. */
struct warm_arg {
	__u64 from; /* offset in the ring */
};

/*
 * Events, in the ring of a watch. Each begins with an ev_head; those with a string end with it, zero-terminated.
 *
 * An event about a slot (a descriptor, a handler, a limit) holds what was in the slot after the event's place in the ring was taken,
 * not what a system call asked for. Whichever of two calls came last, the last event about a slot thus tells what both left there.
 *
 * Changes of mappings are ordered by the write sequence of the mm's lock, called turn here: every taking for writing counts one. An event names
 * those its system call had, or how many there were at its end. One that no event names was a change of another make (a stack that grew, another
 * process).
 */
enum ev_kind {
	EV_MAP = 1,  /* ev_map, or ev_map_file: a call that changes mappings */
	EV_FD,	     /* ev_fd: a slot of a descriptor table */
	EV_OPEN,     /* ev_open: the same, and how it was opened */
	EV_ACTION,   /* ev_action: a signal's action */
	EV_LIMIT,    /* ev_limit: a resource limit */
	EV_CALL,     /* ev_call: another call of interest */
	EV_NAMED,    /* ev_named: the same with a string */
	EV_FORK,     /* ev_task: a new thread or process */
	EV_EXEC,     /* ev_task */
	EV_EXIT,     /* ev_task: the end of a thread */
	EV_DL,	     /* ev_named: dlopen, dlmopen or dlclose; args: which, flags or handle */
	EV_RELEASE,  /* ev_head: a thread has left its last region, while somebody waits for that */
};

struct ev_head {
	__u16 kind; /* enum ev_kind */
	__u16 nr;   /* system call */
	__s32 pid;  /* thread group, as the reader's pid namespace numbers it */
	__s32 tid;
	__u32 pad;
	__s64 ret;
};

/* A mapping as it was after the call, if it could be looked at before the next change. */
struct vma_state {
	__u64 start, end, flags, pgoff;
	__u64 file; /* identity */
};

struct ev_map {
	struct ev_head head;
	__u64 args[6];
	__u64 mm;		/* identity */
	__u64 turn_first, turn_last;
	__u32 turns;
	__u32 bits; /* enum map_bit */
	struct vma_state vma;
};

/* The same, if vma is a mapping of a file. */
struct ev_map_file {
	struct ev_map map;
	struct inode_rec inode;
};

enum map_bit {
	MAP_SEEN = 1, /* vma is valid */
	/*
	 * Nobody saw the turns: turn_first and turn_last are what the kernel had counted when the call ended, which is more than when the
	 * thread was last asked. Whether it is the call's own turn follows from what the call was and from what else there could have been.
	 */
	MAP_COUNTED = 2,
};

/* The argument of the program read_turns. */
struct turns_arg {
	__u64 mm;	/* identity */
	__u64 turns;	/* so far, 0 for an mm that is not followed where the kernel does not count */
	__u64 counted;	/* not zero if the kernel counts, and turns has 31 bits */
};

enum fd_bit {
	FD_OPEN = 1,	/* the slot is in use */
	FD_CLOEXEC = 2,
	FD_INODE = 4,	/* inode is valid */
};

struct ev_fd {
	struct ev_head head;
	__u32 fd;
	__u32 bits; /* enum fd_bit */
	__u64 file; /* identity */
	__u32 flags; /* f_flags */
	__u32 mode;  /* f_mode */
	__u64 args[4];
	struct inode_rec inode;
};

#define EV_STRING 256

/*
 * The path is as the caller gave it. Where it led is told by the last name and the directory's inode, which is enough for user space to
 * find the rest of the path with: a walk up to the root would cost more than the record.
 */
#define EV_LEAF 64
struct ev_open {
	struct ev_fd fd;
	__u64 parent_ino; /* 0 if the file has no directory */
	char leaf[EV_LEAF];
	char path[EV_STRING];
};

struct ev_action {
	struct ev_head head;
	__u32 signal;
	__u32 pad;
	struct action_rec action;
};

struct ev_limit {
	struct ev_head head;
	__s32 target; /* thread group */
	__u32 resource;
	struct rlimit_rec limit;
};

struct ev_call {
	struct ev_head head;
	__u64 args[6];
};

struct ev_named {
	struct ev_call call;
	char name[EV_STRING];
};

enum share_bit {
	SHARE_MM = 1,
	SHARE_FILES = 2,
	SHARE_FS = 4,
	SHARE_SIGHAND = 8,
	SHARE_GROUP = 16, /* a thread, not a process */
	GROUP_DEAD = 32,  /* of an exit: the last thread */
};

struct ev_task {
	struct ev_head head;
	__s32 child_pid, child_tid;
	__u32 bits; /* enum share_bit */
	__s32 status; /* of an exit: wait status */
	__u64 mm;   /* identity */
	char comm[16];
};

/* What a watch keeps for every thread it follows (task storage), */
struct watched {
	__s32 pid, tid; /* as the reader numbers them */
	__u32 nr;	/* system call that took the turns below, ~0 for none */
	__u32 turns;
	__u64 turn_first, turn_last; /* where the kernel counts, turn_last is kept: what it had counted when it was last looked at */
	__u64 mm; /* identity */
	__u64 mask; /* blocked signals, as last reported */
	__u64 held_since, sure_since; /* as in held_rec */
	__u32 held; /* how deep it is in regions */
	__u32 pad;
};

/* for every mm, */
struct watched_mm {
	__u64 turns; /* if the kernel does not count them */
	__s64 users; /* thread groups */
};

/* and for every thread group. */
enum lost_part {
	LOST_MAPS = 1,
	LOST_FDS = 2,
	LOST_ACTIONS = 4,
	LOST_LIMITS = 8,
	LOST_OTHER = 16,
	LOST_TASKS = 32,
};

struct watched_group {
	__u64 mm;
	__u64 lost_events;
	__u32 lost; /* enum lost_part */
	__u32 held; /* threads in regions */
	__u32 missed; /* a call that begins or ends a region was not counted */
	__u32 pad;
};

/* What a watch counts in all; one for each CPU. */
struct watch_stats {
	__u64 lost; /* records */
};

#define MAX_PATH 4096
#define MAX_NAME 256

#endif
