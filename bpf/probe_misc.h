/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Probes of handlers, masks, limits, and of calls that are merely reported. */
#ifndef BPFCKPT_PROBE_MISC_H
#define BPFCKPT_PROBE_MISC_H

#include "probe.h"
#include "syscalls.h"

static __always_inline void call_plain(struct watched *w, struct call_regs *c, __u32 nr, __s64 ret)
{
	struct ev_call *e = event_new(struct ev_call, EV_CALL, w, nr, ret, LOST_OTHER);

	if (!e)
		return;
	__builtin_memcpy(e->args, c->args, sizeof(e->args));
	event_done(e);
}

static __always_inline void call_named(struct watched *w, struct call_regs *c, __u32 nr, __s64 ret, __u64 name)
{
	struct ev_named *e = event_new(struct ev_named, EV_NAMED, w, nr, ret, LOST_OTHER);

	if (!e)
		return;
	__builtin_memcpy(e->call.args, c->args, sizeof(e->call.args));
	if (bpf_probe_read_user_str(e->name, sizeof(e->name), (void *)name) < 0)
		e->name[0] = 0;
	event_done(e);
}

static __always_inline void call_sigaction(struct task_struct *t, struct watched *w, struct call_regs *c, __u32 nr)
{
	__u32 signal = c->args[0] - 1;
	struct ev_action *e;

	if (!c->args[1] || signal >= 64)
		return;
	e = event_new(struct ev_action, EV_ACTION, w, nr, 0, LOST_ACTIONS);
	if (!e)
		return;
	e->signal = signal + 1;
	e->pad = 0;
	bpf_probe_read_kernel(&e->action, sizeof(e->action), &core_ptr(t->sighand)->action[signal]);
	event_done(e);
}

static __always_inline void call_sigprocmask(struct task_struct *t, struct watched *w, struct call_regs *c, __u32 nr)
{
	__u64 mask = t->blocked.sig[0];

	if (mask == w->mask)
		return;
	w->mask = mask;
	c->args[0] = mask;
	call_plain(w, c, nr, 0);
}

/* call_umask reports the mask as it is once the record has its place: threads share it. */
static __always_inline void call_umask(struct task_struct *t, struct watched *w, struct call_regs *c, __u32 nr)
{
	struct ev_call *e = event_new(struct ev_call, EV_CALL, w, nr, 0, LOST_OTHER);
	__u32 mask = 0;

	if (!e)
		return;
	core_read(mask, core_ptr(t->fs)->umask);
	__builtin_memset(e->args, 0, sizeof(e->args));
	e->args[0] = mask;
	event_done(e);
}

static __always_inline void call_sigaltstack(struct task_struct *t, struct watched *w, struct call_regs *c, __u32 nr)
{
	if (!c->args[0])
		return;
	c->args[0] = t->sas_ss_sp;
	c->args[1] = t->sas_ss_flags;
	c->args[2] = t->sas_ss_size;
	call_plain(w, c, nr, 0);
}

static __always_inline void emit_limit(struct task_struct *t, struct watched *w, __u32 nr, __u32 resource)
{
	struct ev_limit *e;

	if (resource >= 16)
		return;
	e = event_new(struct ev_limit, EV_LIMIT, w, nr, 0, LOST_LIMITS);
	if (!e)
		return;
	e->target = w->pid;
	e->resource = resource;
	bpf_probe_read_kernel(&e->limit, sizeof(e->limit), &core_ptr(t->signal)->rlim[resource]);
	event_done(e);
}

/* call_prlimit reports a limit that anyone set for a followed process. Of another's only which one: user space reads it again. */
static __always_inline void call_prlimit(struct task_struct *t, struct watched *w, struct call_regs *c, __s64 ret)
{
	struct watched other = {};

	if (ret || !c->args[2])
		return;
	other.pid = c->args[0];
	if (w && (!other.pid || other.pid == w->pid)) {
		emit_limit(t, w, NR_PRLIMIT64, c->args[1]);
	} else if (bpf_map_lookup_elem(&groups, &other.pid)) {
		other.tid = other.pid;
		call_plain(&other, c, NR_PRLIMIT64, ret);
	}
}

#endif
