/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Probes on the functions of include/bpfckpt.h: how deep each followed thread is in regions in which no snapshot may be taken, and how many
 * threads of each thread group are in one. They are there in every process that maps the same file.
 *
 * The count is kept with the thread, and goes with it. A thread that is stopped has passed a probe either wholly or not at all: the kernel runs
 * probes on its way back to user mode before it stops a thread.
 */
#ifndef BPFCKPT_PROBE_HOLD_H
#define BPFCKPT_PROBE_HOLD_H

#include "probe.h"

/* How many wait for a thread group to leave its last region; user space sets it. */
__u32 hold_waiters;

static __always_inline struct watched_group *group_of(struct watched *w)
{
	return bpf_map_lookup_elem(&groups, &w->pid);
}

/*
 * hold_missed notes that a thread of a followed group passed a probe and could not be counted: before Linux 6.2 its storage is not to be had
 * while somebody else on the same CPU is in the middle of an access to any.
 */
static __noinline int hold_missed(struct task_struct *t)
{
	struct task_struct *leader = core_ptr(t->group_leader);
	__s32 pid = nr_of(core_ptr(leader->thread_pid));
	struct watched_group *g = bpf_map_lookup_elem(&groups, &pid);

	if (g)
		g->missed = 1;
	return 0;
}

static __always_inline void hold_wake(struct watched *w)
{
	struct ev_head *e;

	if (!hold_waiters)
		return;
	e = ring_take(sizeof(*e));
	if (!e)
		return; /* whoever waits looks by itself from time to time */
	__builtin_memset(e, 0, sizeof(*e));
	e->kind = EV_RELEASE;
	e->pid = w->pid;
	e->tid = w->tid;
	event_done(e);
	ring_wake();
}

/* hold_end takes a thread out of all its regions. */
static __always_inline void hold_end(struct watched *w)
{
	struct watched_group *g;

	if (!w->held)
		return;
	w->held = 0;
	g = group_of(w);
	if (g)
		__sync_fetch_and_add(&g->held, -1);
	hold_wake(w);
}

/* hold_born sets the count of a new task: a child process goes on where its parent was, a thread begins outside. */
static __always_inline void hold_born(struct watched *parent, struct watched *child, bool thread)
{
	struct watched_group *g, *from;

	if (thread) {
		child->sure_since = bpf_ktime_get_ns();
		return;
	}
	child->sure_since = parent->sure_since;
	child->held = parent->held;
	child->held_since = parent->held_since;
	g = group_of(child);
	from = group_of(parent);
	if (!g)
		return;
	g->held = child->held ? 1 : 0;
	g->missed = from ? from->missed : 1;
}

/* hold_exec: another program, one thread, and it has not begun. */
static __always_inline void hold_exec(struct watched *w)
{
	struct watched_group *g = group_of(w);

	w->held = 0;
	w->sure_since = bpf_ktime_get_ns();
	if (g) {
		g->held = 0;
		g->missed = 0;
	}
	hold_wake(w);
}

SEC("uprobe")
int on_hold(void *ctx)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct watched *w = followed(t);
	struct watched_group *g;

	if (!w)
		return hold_missed(t);
	if (w->held++)
		return 0;
	w->held_since = bpf_ktime_get_ns();
	g = group_of(w);
	if (g)
		__sync_fetch_and_add(&g->held, 1);
	return 0;
}

SEC("uprobe")
int on_release(void *ctx)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct watched *w = followed(t);

	if (!w)
		return hold_missed(t);
	if (w->held > 1)
		w->held--;
	else
		hold_end(w);
	return 0;
}

/* iter_held tells of each followed thread how deep in regions it is. */
SEC("iter/task")
int iter_held(struct bpf_iter__task *ctx)
{
	struct task_struct *t = ctx->task;
	struct held_rec r = {.head = {.kind = REC_HELD}};
	struct watched *w;

	if (!t || t->exit_state)
		return 0;
	w = followed(t);
	if (!w)
		return 0;
	r.head.pid = w->pid;
	r.tid = w->tid;
	r.depth = w->held;
	r.since = w->held_since;
	r.sure_since = w->sure_since;
	bpf_seq_write(ctx->meta->seq, &r, sizeof(r));
	return 0;
}

#endif
