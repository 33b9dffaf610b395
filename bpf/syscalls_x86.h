/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which x86-64 system calls the probes look at, by number (arch/x86/entry/syscalls/syscall_64.tbl), and where their arguments are. */
#ifndef BPFCKPT_SYSCALLS_H
#define BPFCKPT_SYSCALLS_H

#include "task.h"

/* What a probe does about a call. */
enum call_kind {
	CALL_NONE,
	CALL_MAP,	/* changes mappings */
	CALL_MAP_AT,	/* the same, at an address to look at */
	CALL_MADVISE,
	CALL_OPEN,	/* returns a descriptor; the path is argument 0 */
	CALL_OPENAT,	/* the path is argument 1 */
	CALL_FD_RET,	/* returns a descriptor */
	CALL_FD_DUP,	/* returns a descriptor of a description that is known */
	CALL_FD_PAIR0,	/* stores two descriptors at argument 0 */
	CALL_FD_PAIR3,	/* at argument 3 */
	CALL_CLOSE,
	CALL_FCNTL,
	CALL_IOCTL,
	CALL_RECVMSG,	/* may receive descriptors */
	CALL_SIGACTION,
	CALL_SIGALTSTACK,
	CALL_SIGPROCMASK,
	CALL_SETRLIMIT,
	CALL_PRLIMIT,
	CALL_UMASK,
	CALL_PLAIN,	/* report it if it succeeded */
	CALL_PATH,	/* the same with the path, argument 0 */
	CALL_PATH1,	/* the same with the path, argument 1 */
	CALL_TURNS,	/* report it if it took the mm's lock for writing */
};

#define NR_CALLS 512

/* User space reads it too, to attach to just these calls where it can. */
const volatile __u8 call_kinds[NR_CALLS] = {
	[2] = CALL_OPEN,	 /* open */
	[3] = CALL_CLOSE,	 /* close */
	[9] = CALL_MAP_AT,	 /* mmap */
	[10] = CALL_MAP_AT,	 /* mprotect */
	[11] = CALL_MAP,	 /* munmap */
	[12] = CALL_MAP_AT,	 /* brk */
	[13] = CALL_SIGACTION,	 /* rt_sigaction */
	[14] = CALL_SIGPROCMASK, /* rt_sigprocmask */
	[16] = CALL_IOCTL,	 /* ioctl */
	[22] = CALL_FD_PAIR0,	 /* pipe */
	[25] = CALL_MAP_AT,	 /* mremap */
	[28] = CALL_MADVISE,	 /* madvise */
	[30] = CALL_TURNS,	 /* shmat */
	[32] = CALL_FD_DUP,	 /* dup */
	[33] = CALL_FD_DUP,	 /* dup2 */
	[41] = CALL_FD_RET,	 /* socket */
	[43] = CALL_FD_RET,	 /* accept */
	[47] = CALL_RECVMSG,	 /* recvmsg */
	[53] = CALL_FD_PAIR3,	 /* socketpair */
	[67] = CALL_TURNS,	 /* shmdt */
	[72] = CALL_FCNTL,	 /* fcntl */
	[80] = CALL_PATH,	 /* chdir */
	[81] = CALL_PLAIN,	 /* fchdir */
	[85] = CALL_OPEN,	 /* creat */
	[95] = CALL_UMASK,	 /* umask */
	[109] = CALL_PLAIN,	 /* setpgid */
	[112] = CALL_PLAIN,	 /* setsid */
	[131] = CALL_SIGALTSTACK, /* sigaltstack */
	[135] = CALL_PLAIN,	 /* personality */
	[149] = CALL_TURNS,	 /* mlock */
	[150] = CALL_TURNS,	 /* munlock */
	[151] = CALL_TURNS,	 /* mlockall */
	[152] = CALL_TURNS,	 /* munlockall */
	[155] = CALL_PLAIN,	 /* pivot_root */
	[157] = CALL_PLAIN,	 /* prctl */
	[160] = CALL_SETRLIMIT,	 /* setrlimit */
	[161] = CALL_PATH,	 /* chroot */
	[213] = CALL_FD_RET,	 /* epoll_create */
	[216] = CALL_TURNS,	 /* remap_file_pages */
	[233] = CALL_PLAIN,	 /* epoll_ctl */
	[237] = CALL_TURNS,	 /* mbind */
	[240] = CALL_OPEN,	 /* mq_open */
	[253] = CALL_FD_RET,	 /* inotify_init */
	[254] = CALL_PATH1,	 /* inotify_add_watch */
	[255] = CALL_PLAIN,	 /* inotify_rm_watch */
	[257] = CALL_OPENAT,	 /* openat */
	[272] = CALL_PLAIN,	 /* unshare */
	[282] = CALL_FD_RET,	 /* signalfd */
	[283] = CALL_FD_RET,	 /* timerfd_create */
	[284] = CALL_FD_RET,	 /* eventfd */
	[288] = CALL_FD_RET,	 /* accept4 */
	[289] = CALL_FD_RET,	 /* signalfd4 */
	[290] = CALL_FD_RET,	 /* eventfd2 */
	[291] = CALL_FD_RET,	 /* epoll_create1 */
	[292] = CALL_FD_DUP,	 /* dup3 */
	[293] = CALL_FD_PAIR0,	 /* pipe2 */
	[294] = CALL_FD_RET,	 /* inotify_init1 */
	[298] = CALL_FD_RET,	 /* perf_event_open */
	[299] = CALL_RECVMSG,	 /* recvmmsg */
	[300] = CALL_FD_RET,	 /* fanotify_init */
	[302] = CALL_PRLIMIT,	 /* prlimit64 */
	[304] = CALL_FD_RET,	 /* open_by_handle_at */
	[308] = CALL_PLAIN,	 /* setns */
	[317] = CALL_FD_RET,	 /* seccomp: a listener, or 0, whose slot is then looked at for nothing */
	[319] = CALL_OPEN,	 /* memfd_create */
	[321] = CALL_FD_RET,	 /* bpf: the same */
	[323] = CALL_FD_RET,	 /* userfaultfd */
	[325] = CALL_TURNS,	 /* mlock2 */
	[329] = CALL_TURNS,	 /* pkey_mprotect */
	[425] = CALL_FD_RET,	 /* io_uring_setup */
	[428] = CALL_OPENAT,	 /* open_tree */
	[430] = CALL_OPEN,	 /* fsopen */
	[432] = CALL_FD_RET,	 /* fsmount */
	[433] = CALL_OPENAT,	 /* fspick */
	[434] = CALL_FD_RET,	 /* pidfd_open */
	[436] = CALL_PLAIN,	 /* close_range */
	[437] = CALL_OPENAT,	 /* openat2 */
	[438] = CALL_FD_RET,	 /* pidfd_getfd */
	[440] = CALL_TURNS,	 /* process_madvise */
	[444] = CALL_FD_RET,	 /* landlock_create_ruleset */
	[447] = CALL_FD_RET,	 /* memfd_secret */
	[450] = CALL_TURNS,	 /* set_mempolicy_home_node */
	[453] = CALL_TURNS,	 /* map_shadow_stack */
	[462] = CALL_TURNS,	 /* mseal */
};

enum { NR_MPROTECT = 10, NR_BRK = 12, NR_MADVISE = 28, NR_PRLIMIT64 = 302, NR_OPENAT2 = 437 };

/* The registers of a system call at its exit: arguments are still there, the number is in orig_ax. */
struct call_regs {
	__u64 args[6];
};

static __always_inline void call_args(struct call_regs *c, struct pt_regs *regs)
{
	c->args[0] = regs->di;
	c->args[1] = regs->si;
	c->args[2] = regs->dx;
	c->args[3] = regs->r10;
	c->args[4] = regs->r8;
	c->args[5] = regs->r9;
}

/*
 * call_arg is argument n of the function whose first instruction a uprobe is on. The context of a uprobe is the kernel's struct pt_regs
 * itself, which the verifier accepts only at fixed offsets: those of arch/x86/include/asm/ptrace.h, di 112, si 104, dx 96.
 */
static __always_inline __u64 call_arg(const void *regs, __u32 n)
{
	return *(const __u64 *)((const char *)regs + 112 - 8 * n);
}

#endif
