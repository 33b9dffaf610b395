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

/* The calls of interest. */
#define CALLS(CALL) \
	CALL(2, CALL_OPEN) /* open */ \
	CALL(3, CALL_CLOSE) /* close */ \
	CALL(9, CALL_MAP_AT) /* mmap */ \
	CALL(10, CALL_MAP_AT) /* mprotect */ \
	CALL(11, CALL_MAP) /* munmap */ \
	CALL(12, CALL_MAP_AT) /* brk */ \
	CALL(13, CALL_SIGACTION) /* rt_sigaction */ \
	CALL(14, CALL_SIGPROCMASK) /* rt_sigprocmask */ \
	CALL(16, CALL_IOCTL) /* ioctl */ \
	CALL(22, CALL_FD_PAIR0) /* pipe */ \
	CALL(25, CALL_MAP_AT) /* mremap */ \
	CALL(28, CALL_MADVISE) /* madvise */ \
	CALL(30, CALL_TURNS) /* shmat */ \
	CALL(32, CALL_FD_DUP) /* dup */ \
	CALL(33, CALL_FD_DUP) /* dup2 */ \
	CALL(41, CALL_FD_RET) /* socket */ \
	CALL(43, CALL_FD_RET) /* accept */ \
	CALL(47, CALL_RECVMSG) /* recvmsg */ \
	CALL(53, CALL_FD_PAIR3) /* socketpair */ \
	CALL(67, CALL_TURNS) /* shmdt */ \
	CALL(72, CALL_FCNTL) /* fcntl */ \
	CALL(80, CALL_PATH) /* chdir */ \
	CALL(81, CALL_PLAIN) /* fchdir */ \
	CALL(85, CALL_OPEN) /* creat */ \
	CALL(95, CALL_UMASK) /* umask */ \
	CALL(109, CALL_PLAIN) /* setpgid */ \
	CALL(112, CALL_PLAIN) /* setsid */ \
	CALL(131, CALL_SIGALTSTACK) /* sigaltstack */ \
	CALL(135, CALL_PLAIN) /* personality */ \
	CALL(149, CALL_TURNS) /* mlock */ \
	CALL(150, CALL_TURNS) /* munlock */ \
	CALL(151, CALL_TURNS) /* mlockall */ \
	CALL(152, CALL_TURNS) /* munlockall */ \
	CALL(155, CALL_PLAIN) /* pivot_root */ \
	CALL(157, CALL_PLAIN) /* prctl */ \
	CALL(160, CALL_SETRLIMIT) /* setrlimit */ \
	CALL(161, CALL_PATH) /* chroot */ \
	CALL(213, CALL_FD_RET) /* epoll_create */ \
	CALL(216, CALL_TURNS) /* remap_file_pages */ \
	CALL(233, CALL_PLAIN) /* epoll_ctl */ \
	CALL(237, CALL_TURNS) /* mbind */ \
	CALL(240, CALL_OPEN) /* mq_open */ \
	CALL(253, CALL_FD_RET) /* inotify_init */ \
	CALL(254, CALL_PATH1) /* inotify_add_watch */ \
	CALL(255, CALL_PLAIN) /* inotify_rm_watch */ \
	CALL(257, CALL_OPENAT) /* openat */ \
	CALL(272, CALL_PLAIN) /* unshare */ \
	CALL(282, CALL_FD_RET) /* signalfd */ \
	CALL(283, CALL_FD_RET) /* timerfd_create */ \
	CALL(284, CALL_FD_RET) /* eventfd */ \
	CALL(288, CALL_FD_RET) /* accept4 */ \
	CALL(289, CALL_FD_RET) /* signalfd4 */ \
	CALL(290, CALL_FD_RET) /* eventfd2 */ \
	CALL(291, CALL_FD_RET) /* epoll_create1 */ \
	CALL(292, CALL_FD_DUP) /* dup3 */ \
	CALL(293, CALL_FD_PAIR0) /* pipe2 */ \
	CALL(294, CALL_FD_RET) /* inotify_init1 */ \
	CALL(298, CALL_FD_RET) /* perf_event_open */ \
	CALL(299, CALL_RECVMSG) /* recvmmsg */ \
	CALL(300, CALL_FD_RET) /* fanotify_init */ \
	CALL(302, CALL_PRLIMIT) /* prlimit64 */ \
	CALL(304, CALL_FD_RET) /* open_by_handle_at */ \
	CALL(308, CALL_PLAIN) /* setns */ \
	CALL(317, CALL_FD_RET) /* seccomp: a listener, or 0, whose slot is then looked at for nothing */ \
	CALL(319, CALL_OPEN) /* memfd_create */ \
	CALL(321, CALL_FD_RET) /* bpf: the same */ \
	CALL(323, CALL_FD_RET) /* userfaultfd */ \
	CALL(325, CALL_TURNS) /* mlock2 */ \
	CALL(329, CALL_TURNS) /* pkey_mprotect */ \
	CALL(425, CALL_FD_RET) /* io_uring_setup */ \
	CALL(428, CALL_OPENAT) /* open_tree */ \
	CALL(430, CALL_OPEN) /* fsopen */ \
	CALL(432, CALL_FD_RET) /* fsmount */ \
	CALL(433, CALL_OPENAT) /* fspick */ \
	CALL(434, CALL_FD_RET) /* pidfd_open */ \
	CALL(436, CALL_PLAIN) /* close_range */ \
	CALL(437, CALL_OPENAT) /* openat2 */ \
	CALL(438, CALL_FD_RET) /* pidfd_getfd */ \
	CALL(440, CALL_TURNS) /* process_madvise */ \
	CALL(444, CALL_FD_RET) /* landlock_create_ruleset */ \
	CALL(447, CALL_FD_RET) /* memfd_secret */ \
	CALL(450, CALL_TURNS) /* set_mempolicy_home_node */ \
	CALL(453, CALL_TURNS) /* map_shadow_stack */ \
	CALL(462, CALL_TURNS) /* mseal */

#define KIND_OF(nr, kind) [nr] = kind,
#define BIT_OF(nr, kind) | ((nr) / 64 == WORD ? 1ULL << (nr) % 64 : 0)

/* User space reads it too, to attach to just these calls where it can. */
const volatile __u8 call_kinds[NR_CALLS] = {CALLS(KIND_OF)};

/*
 * may_record tells whether a call is in the list above. Every call of every process asks: from constants in the code, for each page of memory that is
 * looked at costs 20 to 30 ns where the kernel has page tables of its own.
 */
static __always_inline bool may_record(__u64 nr)
{
	__u64 mask = 0;

#define WORD 0
	if (nr < 64)
		mask = 0 CALLS(BIT_OF);
#undef WORD
#define WORD 1
	else if (nr < 128)
		mask = 0 CALLS(BIT_OF);
#undef WORD
#define WORD 2
	else if (nr < 192)
		mask = 0 CALLS(BIT_OF);
#undef WORD
#define WORD 3
	else if (nr < 256)
		mask = 0 CALLS(BIT_OF);
#undef WORD
#define WORD 4
	else if (nr < 320)
		mask = 0 CALLS(BIT_OF);
#undef WORD
#define WORD 5
	else if (nr < 384)
		mask = 0 CALLS(BIT_OF);
#undef WORD
#define WORD 6
	else if (nr < 448)
		mask = 0 CALLS(BIT_OF);
#undef WORD
#define WORD 7
	else if (nr < 512)
		mask = 0 CALLS(BIT_OF);
#undef WORD
	return mask >> (nr % 64) & 1;
}

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
