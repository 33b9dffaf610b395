/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which system calls the probes look at. Their numbers are in a file for each architecture. */
#ifndef BPFCKPT_SYSCALLS_H
#define BPFCKPT_SYSCALLS_H

#if defined(__TARGET_ARCH_x86)
#include "syscalls_x86.h"
#elif defined(__TARGET_ARCH_arm64)
#include "syscalls_arm64.h"
#endif

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

/* The calls of interest; OLD_CALLS are those that only some architectures have. */
#define CALLS(CALL) \
	OLD_CALLS(CALL) \
	CALL(NR_CLOSE, CALL_CLOSE) \
	CALL(NR_MMAP, CALL_MAP_AT) \
	CALL(NR_MPROTECT, CALL_MAP_AT) \
	CALL(NR_MUNMAP, CALL_MAP) \
	CALL(NR_BRK, CALL_MAP_AT) \
	CALL(NR_RT_SIGACTION, CALL_SIGACTION) \
	CALL(NR_RT_SIGPROCMASK, CALL_SIGPROCMASK) \
	CALL(NR_IOCTL, CALL_IOCTL) \
	CALL(NR_MREMAP, CALL_MAP_AT) \
	CALL(NR_MADVISE, CALL_MADVISE) \
	CALL(NR_SHMAT, CALL_TURNS) \
	CALL(NR_DUP, CALL_FD_DUP) \
	CALL(NR_SOCKET, CALL_FD_RET) \
	CALL(NR_ACCEPT, CALL_FD_RET) \
	CALL(NR_RECVMSG, CALL_RECVMSG) \
	CALL(NR_SOCKETPAIR, CALL_FD_PAIR3) \
	CALL(NR_SHMDT, CALL_TURNS) \
	CALL(NR_FCNTL, CALL_FCNTL) \
	CALL(NR_CHDIR, CALL_PATH) \
	CALL(NR_FCHDIR, CALL_PLAIN) \
	CALL(NR_UMASK, CALL_UMASK) \
	CALL(NR_SETPGID, CALL_PLAIN) \
	CALL(NR_SETSID, CALL_PLAIN) \
	CALL(NR_SIGALTSTACK, CALL_SIGALTSTACK) \
	CALL(NR_PERSONALITY, CALL_PLAIN) \
	CALL(NR_MLOCK, CALL_TURNS) \
	CALL(NR_MUNLOCK, CALL_TURNS) \
	CALL(NR_MLOCKALL, CALL_TURNS) \
	CALL(NR_MUNLOCKALL, CALL_TURNS) \
	CALL(NR_PIVOT_ROOT, CALL_PLAIN) \
	CALL(NR_PRCTL, CALL_PLAIN) \
	CALL(NR_SETRLIMIT, CALL_SETRLIMIT) \
	CALL(NR_CHROOT, CALL_PATH) \
	CALL(NR_REMAP_FILE_PAGES, CALL_TURNS) \
	CALL(NR_EPOLL_CTL, CALL_PLAIN) \
	CALL(NR_MBIND, CALL_TURNS) \
	CALL(NR_MQ_OPEN, CALL_OPEN) \
	CALL(NR_INOTIFY_ADD_WATCH, CALL_PATH1) \
	CALL(NR_INOTIFY_RM_WATCH, CALL_PLAIN) \
	CALL(NR_OPENAT, CALL_OPENAT) \
	CALL(NR_UNSHARE, CALL_PLAIN) \
	CALL(NR_TIMERFD_CREATE, CALL_FD_RET) \
	CALL(NR_ACCEPT4, CALL_FD_RET) \
	CALL(NR_SIGNALFD4, CALL_FD_RET) \
	CALL(NR_EVENTFD2, CALL_FD_RET) \
	CALL(NR_EPOLL_CREATE1, CALL_FD_RET) \
	CALL(NR_DUP3, CALL_FD_DUP) \
	CALL(NR_PIPE2, CALL_FD_PAIR0) \
	CALL(NR_INOTIFY_INIT1, CALL_FD_RET) \
	CALL(NR_PERF_EVENT_OPEN, CALL_FD_RET) \
	CALL(NR_RECVMMSG, CALL_RECVMSG) \
	CALL(NR_FANOTIFY_INIT, CALL_FD_RET) \
	CALL(NR_PRLIMIT64, CALL_PRLIMIT) \
	CALL(NR_OPEN_BY_HANDLE_AT, CALL_FD_RET) \
	CALL(NR_SETNS, CALL_PLAIN) \
	CALL(NR_SECCOMP, CALL_FD_RET) /* a listener, or 0, whose slot is then looked at for nothing */ \
	CALL(NR_MEMFD_CREATE, CALL_OPEN) \
	CALL(NR_BPF, CALL_FD_RET) /* the same */ \
	CALL(NR_USERFAULTFD, CALL_FD_RET) \
	CALL(NR_MLOCK2, CALL_TURNS) \
	CALL(NR_PKEY_MPROTECT, CALL_TURNS) \
	CALL(NR_IO_URING_SETUP, CALL_FD_RET) \
	CALL(NR_OPEN_TREE, CALL_OPENAT) \
	CALL(NR_FSOPEN, CALL_OPEN) \
	CALL(NR_FSMOUNT, CALL_FD_RET) \
	CALL(NR_FSPICK, CALL_OPENAT) \
	CALL(NR_PIDFD_OPEN, CALL_FD_RET) \
	CALL(NR_CLOSE_RANGE, CALL_PLAIN) \
	CALL(NR_OPENAT2, CALL_OPENAT) \
	CALL(NR_PIDFD_GETFD, CALL_FD_RET) \
	CALL(NR_PROCESS_MADVISE, CALL_TURNS) \
	CALL(NR_LANDLOCK_CREATE_RULESET, CALL_FD_RET) \
	CALL(NR_MEMFD_SECRET, CALL_FD_RET) \
	CALL(NR_SET_MEMPOLICY_HOME_NODE, CALL_TURNS) \
	CALL(NR_MAP_SHADOW_STACK, CALL_TURNS) \
	CALL(NR_MSEAL, CALL_TURNS)

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

#endif
