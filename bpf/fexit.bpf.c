//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The probes of system calls for kernels that let programs attach to functions: one program for each kind of call, which user space
 * loads once for each call of the kind, attached to the function of the call. A call of no interest then costs nothing.
 */
#include "probe_call.h"

char LICENSE[] SEC("license") = "GPL";

#define PROBE(name, kind)                                                       \
	SEC("fexit")                                                            \
	int fexit_##name(__u64 *ctx)                                            \
	{                                                                       \
		struct pt_regs *regs = (void *)ctx[0];                          \
		return call_exit(regs, (__u32)regs_nr(regs), ctx[1], kind);     \
	}

PROBE(map, CALL_MAP)
PROBE(map_at, CALL_MAP_AT)
PROBE(madvise, CALL_MADVISE)
PROBE(open, CALL_OPEN)
PROBE(openat, CALL_OPENAT)
PROBE(fd_ret, CALL_FD_RET)
PROBE(fd_dup, CALL_FD_DUP)
PROBE(fd_pair0, CALL_FD_PAIR0)
PROBE(fd_pair3, CALL_FD_PAIR3)
PROBE(close, CALL_CLOSE)
PROBE(fcntl, CALL_FCNTL)
PROBE(ioctl, CALL_IOCTL)
PROBE(recvmsg, CALL_RECVMSG)
PROBE(sigaction, CALL_SIGACTION)
PROBE(sigaltstack, CALL_SIGALTSTACK)
PROBE(sigprocmask, CALL_SIGPROCMASK)
PROBE(setrlimit, CALL_SETRLIMIT)
PROBE(prlimit, CALL_PRLIMIT)
PROBE(umask, CALL_UMASK)
PROBE(plain, CALL_PLAIN)
PROBE(path, CALL_PATH)
PROBE(path1, CALL_PATH1)
PROBE(turns, CALL_TURNS)
