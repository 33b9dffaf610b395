/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct signal_struct and struct sighand_struct: what the threads of a group share (include/linux/sched/signal.h). */
#ifndef BPFCKPT_SIGNAL_H
#define BPFCKPT_SIGNAL_H

#include "task.h"
#include "timer.h"

struct k_sigaction {
	struct action_rec sa; /* struct sigaction: handler, flags, restorer, mask (include/linux/signal_types.h) */
};

struct sighand_struct {
	struct k_sigaction action[64];
} CORE;

struct tty_driver {
	int major, minor_start;
} CORE;

struct tty_struct {
	int index;
	struct tty_driver *driver;
} CORE;

struct cpu_itimer {
	__u64 expires, incr;
} CORE;

struct counter64 {
	__s64 counter; /* atomic64_t */
};

struct task_cputime_atomic {
	struct counter64 utime, stime, sum_exec_runtime;
} CORE;

struct thread_group_cputimer {
	struct task_cputime_atomic cputime_atomic;
} CORE;

struct posix_cputimers {
	unsigned int timers_active;
} CORE;

struct rlimit {
	unsigned long rlim_cur, rlim_max;
};

struct refcounter {
	int counter; /* atomic_t */
};

struct signal_struct {
	struct refcounter live;
	int nr_threads;
	int group_exit_code;
	unsigned int flags;
	unsigned int is_child_subreaper : 1;
	struct hlist_head posix_timers;
	struct hrtimer real_timer;
	__s64 it_real_incr;
	struct cpu_itimer it[2];
	struct thread_group_cputimer cputimer;
	struct posix_cputimers posix_cputimers;
	struct pid *pids[4];
	struct sigpending shared_pending;
	struct tty_struct *tty;
	__u64 utime, stime, cutime, cstime;
	unsigned long nvcsw, nivcsw, cnvcsw, cnivcsw;
	unsigned long min_flt, maj_flt, cmin_flt, cmaj_flt;
	unsigned long inblock, oublock, cinblock, coublock;
	unsigned long maxrss, cmaxrss;
	unsigned long long sum_sched_runtime;
	struct rlimit rlim[16];
	short oom_score_adj;
} CORE;

enum { PIDTYPE_PGID = 2, PIDTYPE_SID = 3 };

static __always_inline void usage_of_dead(struct process_rec *r, struct signal_struct *s)
{
	struct usage_rec *u = &r->usage, *c = &r->child;

	u->utime = s->utime;
	u->stime = s->stime;
	u->minflt = s->min_flt;
	u->majflt = s->maj_flt;
	u->inblock = s->inblock;
	u->oublock = s->oublock;
	u->nvcsw = s->nvcsw;
	u->nivcsw = s->nivcsw;
	u->maxrss = s->maxrss;
	c->utime = s->cutime;
	c->stime = s->cstime;
	c->minflt = s->cmin_flt;
	c->majflt = s->cmaj_flt;
	c->inblock = s->cinblock;
	c->oublock = s->coublock;
	c->nvcsw = s->cnvcsw;
	c->nivcsw = s->cnivcsw;
	c->maxrss = s->cmaxrss;
	r->dead_runtime = s->sum_sched_runtime;
}

static __always_inline void itimers(struct process_rec *r, struct signal_struct *s)
{
	r->real_expires = s->real_timer.node.expires;
	r->real_armed = s->real_timer.state & HRTIMER_STATE_ENQUEUED;
	r->real_interval = s->it_real_incr;
	r->it[0].expires = s->it[0].expires;
	r->it[0].incr = s->it[0].incr;
	r->it[1].expires = s->it[1].expires;
	r->it[1].incr = s->it[1].incr;
	r->cpu_utime = s->cputimer.cputime_atomic.utime.counter;
	r->cpu_stime = s->cputimer.cputime_atomic.stime.counter;
	r->cpu_runtime = s->cputimer.cputime_atomic.sum_exec_runtime.counter;
	r->cpu_active = s->posix_cputimers.timers_active;
}

static __always_inline void process_ids(struct process_rec *r, const struct reader *me, struct task_struct *t, struct signal_struct *s)
{
	struct tty_struct *tty = s->tty;
	struct task_struct *parent = core_ptr(t->real_parent);

	r->parent_tid = pid_nr(me, core_ptr(parent->thread_pid));
	parent = core_ptr(parent->group_leader);
	r->ppid = pid_nr(me, core_ptr(parent->thread_pid));
	r->pgid = pid_nr(me, core_ptr(s->pids[PIDTYPE_PGID]));
	r->sid = pid_nr(me, core_ptr(s->pids[PIDTYPE_SID]));
	r->exit_signal = t->exit_signal;
	r->exit_state = t->exit_state;
	r->exit_code = t->exit_code;
	r->group_exit_code = s->group_exit_code;
	r->signal_flags = s->flags;
	r->pending = s->shared_pending.signal.sig[0];
	r->nr_threads = s->nr_threads;
	r->live = s->live.counter;
	r->vfork = core_ptr(t->vfork_done) != NULL;
	r->tty = 0;
	if (tty && tty->driver) /* MKDEV, include/linux/kdev_t.h */
		r->tty = (tty->driver->major << 20) | (tty->driver->minor_start + tty->index);
}

static struct process_rec process_out;

static __always_inline long emit_process(struct seq_file *seq, const struct reader *me, struct task_struct *t, __s32 pid)
{
	struct process_rec *r = &process_out;
	struct signal_struct *s = t->signal;
	struct walk w = {.seq = seq, .me = *me, .pid = pid};

	walk_timers(&w, s);
	r->head.kind = REC_PROCESS;
	r->head.tail = 0;
	r->head.pid = pid;
	process_ids(r, me, t, s);
	r->timers = w.count;
	r->timers_over = w.over;
	r->oom_score_adj = s->oom_score_adj;
	r->subreaper = core_bits(s, is_child_subreaper);
	r->umask = 0;
	core_read(r->umask, core_ptr(t->fs)->umask);
	itimers(r, s);
	r->start_boottime = t->start_boottime;
	usage_of_dead(r, s);
	bpf_probe_read_kernel(r->limits, sizeof(r->limits), &s->rlim);
	return bpf_seq_write(seq, r, sizeof(*r));
}

static struct actions_rec actions_out;

static __always_inline long emit_actions(struct seq_file *seq, struct task_struct *t, __s32 pid)
{
	struct actions_rec *r = &actions_out;
	struct sighand_struct *sighand = core_ptr(t->sighand);

	if (!sighand)
		return 0;
	r->head.kind = REC_ACTIONS;
	r->head.tail = 0;
	r->head.pid = pid;
	bpf_probe_read_kernel(r->action, sizeof(r->action), &sighand->action);
	return bpf_seq_write(seq, r, sizeof(*r));
}

#endif
