/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is done at the end of a system call, by kind of call. */
#ifndef BPFCKPT_PROBE_CALL_H
#define BPFCKPT_PROBE_CALL_H

#include "probe.h"
#include "probe_fd.h"
#include "probe_map.h"
#include "probe_misc.h"
#include "syscalls.h"

/* Errors that close(2) returns without having closed anything. */
#define EBADF 9

#define MADV_GUARD_INSTALL 102 /* Linux 6.13 */

static __always_inline void call_fd(struct task_struct *t, struct watched *w, struct call_regs *c, __u32 nr, __s64 ret, __u32 kind)
{
	__s64 fd = -1;

	switch (kind) {
	case CALL_FD_RET:
	case CALL_FD_DUP:
		fd = ret;
		break;
	case CALL_CLOSE:
		fd = ret == -EBADF ? -1 : (__s64)(__u32)c->args[0];
		break;
	case CALL_FCNTL:
		fd = ret < 0 ? -1 : fcntl_slot(c, ret);
		break;
	case CALL_IOCTL:
		fd = ret < 0 ? -1 : ioctl_slot(c);
		break;
	}
	if (fd >= 0)
		emit_slot(t, w, c, nr, ret, fd, kind == CALL_FD_RET);
}

/* call_done is the end of a system call of a followed thread. */
static __always_inline void call_done(struct task_struct *t, struct watched *w, struct call_regs *c, __u32 nr, __s64 ret, __u32 kind)
{
	switch (kind) {
	case CALL_MAP:
	case CALL_TURNS:
		call_map(t, w, c, nr, ret, false);
		return;
	case CALL_MAP_AT:
		call_map(t, w, c, nr, ret, true);
		return;
	case CALL_MADVISE:
		if (!call_map(t, w, c, nr, ret, true) && !ret && c->args[2] == MADV_GUARD_INSTALL)
			call_plain(w, c, nr, ret); /* it sets a flag of the mapping without a turn */
		return;
	case CALL_FD_RET:
	case CALL_FD_DUP:
	case CALL_CLOSE:
	case CALL_FCNTL:
	case CALL_IOCTL:
		call_fd(t, w, c, nr, ret, kind);
		return;
	}
	if (ret < 0)
		return;
	switch (kind) {
	case CALL_OPEN:
		call_open(t, w, c, nr, ret, c->args[0]);
		return;
	case CALL_OPENAT:
		call_open(t, w, c, nr, ret, c->args[1]);
		return;
	case CALL_FD_PAIR0:
		call_pair(t, w, c, nr, ret, c->args[0]);
		return;
	case CALL_FD_PAIR3:
		call_pair(t, w, c, nr, ret, c->args[3]);
		return;
	case CALL_RECVMSG:
		if (received(c))
			call_plain(w, c, nr, ret);
		return;
	case CALL_SIGACTION:
		call_sigaction(t, w, c, nr);
		return;
	case CALL_SIGALTSTACK:
		call_sigaltstack(t, w, c, nr);
		return;
	case CALL_SIGPROCMASK:
		call_sigprocmask(t, w, c, nr);
		return;
	case CALL_SETRLIMIT:
		emit_limit(t, w, nr, c->args[0]);
		return;
	case CALL_PATH:
		call_named(w, c, nr, ret, c->args[0]);
		return;
	case CALL_PATH1:
		call_named(w, c, nr, ret, c->args[1]);
		return;
	case CALL_UMASK:
		call_umask(t, w, c, nr);
		return;
	case CALL_PLAIN:
		call_map(t, w, c, nr, ret, false);
		call_plain(w, c, nr, ret);
		return;
	}
}

/* call_exit is where every probe of system calls leads. With a kind that the compiler knows little of this is left. */
static __always_inline int call_exit(struct pt_regs *regs, __u32 nr, __s64 ret, __u32 kind)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct watched *w = followed(t);
	struct call_regs c;

	if (kind == CALL_PRLIMIT) {
		call_args(&c, regs);
		call_prlimit(t, w, &c, ret);
	} else if (w) {
		call_args(&c, regs);
		call_done(t, w, &c, nr, ret, kind);
	}
	return 0;
}

#endif
