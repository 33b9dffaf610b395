/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Probes of tasks: births, execs and ends, and the iterator that begins to follow a thread group. */
#ifndef BPFCKPT_PROBE_TASK_H
#define BPFCKPT_PROBE_TASK_H

#include "probe.h"
#include "probe_hold.h"
#include "turn.h"

#define SIGNAL_GROUP_EXIT 4 /* include/linux/sched/signal.h */

/* mm_hold and mm_release count the thread groups that use an mm; the entry goes with the last. */
static __noinline void mm_hold(__u64 mm)
{
	struct watched_mm fresh = {.users = 1};
	struct watched_mm *m = bpf_map_lookup_elem(&mms, &mm);

	if (!m) {
		__sync_fetch_and_add(mm_bucket(mm), 1); /* first: a turn that is counted late has another number */
		if (!bpf_map_update_elem(&mms, &mm, &fresh, BPF_NOEXIST))
			return;
		__sync_fetch_and_add(mm_bucket(mm), -1);
		m = bpf_map_lookup_elem(&mms, &mm); /* another has just made it */
	}
	if (m)
		__sync_fetch_and_add(&m->users, 1);
}

static __noinline void mm_release(__u64 mm)
{
	struct watched_mm *m = bpf_map_lookup_elem(&mms, &mm);

	if (m && __sync_fetch_and_add(&m->users, -1) == 1 && !bpf_map_delete_elem(&mms, &mm))
		__sync_fetch_and_add(mm_bucket(mm), -1);
}

/* follow makes the entries of a thread; its group's too, if they are not there. */
static __always_inline struct watched *follow(struct task_struct *t)
{
	struct task_struct *leader = core_ptr(t->group_leader);
	struct watched *w = bpf_task_storage_get(&tasks, t, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	struct watched_group g = {};

	if (!w)
		return NULL;
	w->pid = nr_of(core_ptr(leader->thread_pid));
	w->tid = nr_of(core_ptr(t->thread_pid));
	w->nr = ~0U;
	w->turns = 0;
	w->held = 0;
	w->sure_since = 0;
	core_read(w->mm, t->mm);
	w->turn_last = kernel_turns() ? turns_so_far(w->mm) : 0;
	w->mask = t->blocked.sig[0];
	g.mm = w->mm;
	if (w->pid && bpf_map_update_elem(&groups, &w->pid, &g, BPF_NOEXIST) == 0)
		mm_hold(w->mm);
	return w;
}

SEC("iter/task")
int iter_follow(struct bpf_iter__task *ctx)
{
	struct task_struct *t = ctx->task;

	if (t && !t->exit_state && !followed(t))
		follow(t);
	return 0;
}

static __always_inline void emit_task(struct task_struct *t, struct watched *w, __u32 kind, struct watched *child, __u32 bits, __s32 status)
{
	struct ev_task *e = event_new(struct ev_task, kind, w, 0, 0, LOST_TASKS);

	if (!e)
		return;
	e->child_pid = child->pid;
	e->child_tid = child->tid;
	e->bits = bits;
	e->status = status;
	e->mm = child->mm;
	bpf_probe_read_kernel(e->comm, sizeof(e->comm), &t->comm);
	event_done(e);
}

/* sched_process_fork(parent, child): the child has not run yet. */
SEC("tp_btf/sched_process_fork")
int on_fork(__u64 *ctx)
{
	struct task_struct *parent = (void *)ctx[0], *child = (void *)ctx[1];
	struct watched *w = followed(parent), *c;
	__u32 bits = 0;

	if (!w)
		return 0;
	c = follow(child);
	if (!c) {
		lose(w->pid, LOST_TASKS);
		return 0;
	}
	bits |= c->mm == w->mm ? SHARE_MM : 0;
	bits |= core_ptr(child->files) == core_ptr(parent->files) ? SHARE_FILES : 0;
	bits |= core_ptr(child->fs) == core_ptr(parent->fs) ? SHARE_FS : 0;
	bits |= core_ptr(child->sighand) == core_ptr(parent->sighand) ? SHARE_SIGHAND : 0;
	bits |= c->pid == w->pid ? SHARE_GROUP : 0;
	hold_born(w, c, bits & SHARE_GROUP);
	emit_task(child, w, EV_FORK, c, bits, 0);
	return 0;
}

/* sched_process_exec(task, old_pid, bprm): the new memory is there, the other threads are gone. */
SEC("tp_btf/sched_process_exec")
int on_exec(__u64 *ctx)
{
	struct task_struct *t = (void *)ctx[0];
	struct watched *w = followed(t);
	struct watched_group *g;
	__u64 old, mm = 0;

	if (!w)
		return 0;
	old = w->mm;
	core_read(mm, t->mm);
	if (mm != old) {
		mm_hold(mm);
		mm_release(old);
	}
	w->tid = w->pid;
	w->mm = mm;
	w->nr = ~0U;
	w->turns = 0;
	w->turn_last = kernel_turns() ? turns_so_far(mm) : 0;
	g = bpf_map_lookup_elem(&groups, &w->pid);
	if (g)
		g->mm = mm;
	hold_exec(w);
	emit_task(t, w, EV_EXEC, w, 0, 0);
	return 0;
}

/* sched_process_exit(task): it is past its last instruction; its memory may be gone. */
SEC("tp_btf/sched_process_exit")
int on_exit(__u64 *ctx)
{
	struct task_struct *t = (void *)ctx[0];
	struct watched *w = followed(t);
	struct signal_struct *s;
	__u32 bits = 0;
	__s32 status;

	if (!w)
		return 0;
	hold_end(w);
	s = t->signal;
	status = s->flags & SIGNAL_GROUP_EXIT ? s->group_exit_code : t->exit_code;
	/* Two threads that end at once may both see that none lives; the group's entry is there for only one. */
	if (s->live.counter == 0 && bpf_map_delete_elem(&groups, &w->pid) == 0) {
		bits |= GROUP_DEAD;
		mm_release(w->mm);
	}
	emit_task(t, w, EV_EXIT, w, bits, status);
	return 0;
}

#endif
