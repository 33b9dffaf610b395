/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct k_itimer: POSIX timers (include/linux/posix-timers.h, kernel/time/posix-timers.c). */
#ifndef BPFCKPT_TIMER_H
#define BPFCKPT_TIMER_H

#include "task.h"

struct signal_struct;

struct hlist_node {
	struct hlist_node *next;
} CORE;

struct hlist_head {
	struct hlist_node *first;
} CORE;

struct list_head {
	struct list_head *next;
} CORE;

struct timerqueue_node {
	__s64 expires;
} CORE;

struct hrtimer_clock_base {
	int clockid;
} CORE;

struct hrtimer {
	struct timerqueue_node node;
	__s64 _softexpires; /* without the slack */
	struct hrtimer_clock_base *base;
	__u8 state;
} CORE;

#define HRTIMER_STATE_ENQUEUED 1 /* include/linux/hrtimer.h */

struct alarm {
	struct timerqueue_node node;
	int state;
} CORE;

struct cpu_timer {
	struct timerqueue_node node;
	void *head;
	struct pid *pid;
} CORE;

struct kernel_siginfo {
	int si_signo;
} CORE;

struct sigqueue {
	struct kernel_siginfo info;
} CORE;

struct k_itimer {
	struct hlist_node list;
	int it_id;
	int it_clock;
	int it_sigev_notify;
	int it_status; /* enum posix_timer_state since Linux 6.12 */
	__s64 it_overrun_last;
	__s64 it_interval;
	struct pid *it_pid;
	struct sigqueue sigq;
	union {
		struct {
			struct hrtimer timer;
		} real;
		struct cpu_timer cpu;
		struct {
			struct alarm alarmtimer;
		} alarm;
	} it;
} CORE;

/* Before Linux 6.12 and 6.13. */
struct k_itimer___old {
	struct list_head list;
	int it_active;
	struct sigqueue *sigq;
} CORE;

struct signal_struct___old {
	struct list_head posix_timers;
} CORE;

struct signal_struct___new {
	struct hlist_head posix_timers;
} CORE;

/* CLOCK_*, include/uapi/linux/time.h */
enum { CLOCK_PROCESS_CPUTIME_ID = 2, CLOCK_THREAD_CPUTIME_ID = 3, CLOCK_REALTIME_ALARM = 8, CLOCK_BOOTTIME_ALARM = 9 };

/* Offsets into siginfo_t of a timer signal (include/uapi/asm-generic/siginfo.h). */
enum { SI_SIGNO = 0, SI_VALUE = 24 };

/* A walk over the timers of one process. */
struct walk {
	struct seq_file *seq;
	struct reader me;
	const char *node; /* list node of the next timer */
	const char *head; /* where a circular list ends */
	__s32 pid;
	__u32 count, over;
};

static struct timer_rec timer_out;

static __always_inline void timer_real(struct timer_rec *r, const struct hrtimer *h)
{
	struct hrtimer_clock_base *base = NULL;
	__u8 state = 0;

	core_read(r->expires, h->node.expires);
	core_read(state, h->state);
	core_read(base, h->base);
	r->armed = state & HRTIMER_STATE_ENQUEUED;
	if (base)
		core_read(r->base_clock, base->clockid);
}

static __always_inline void timer_clock(struct timer_rec *r, const struct reader *me, const struct k_itimer *t)
{
	void *queue = NULL;
	struct pid *pid = NULL;

	r->base_clock = r->clock;
	r->cpu_pid = 0;
	r->armed = 0;
	if (r->clock == CLOCK_REALTIME_ALARM || r->clock == CLOCK_BOOTTIME_ALARM) {
		core_read(r->expires, t->it.alarm.alarmtimer.node.expires);
		core_read(r->armed, t->it.alarm.alarmtimer.state);
	} else if (r->clock < 0 || r->clock == CLOCK_PROCESS_CPUTIME_ID || r->clock == CLOCK_THREAD_CPUTIME_ID) {
		core_read(r->expires, t->it.cpu.node.expires);
		core_read(queue, t->it.cpu.head);
		core_read(pid, t->it.cpu.pid);
		r->armed = queue != NULL;
		r->cpu_pid = pid_nr(me, pid);
	} else {
		timer_real(r, &t->it.real.timer);
	}
}

static __always_inline void timer_signal(struct timer_rec *r, const struct reader *me, const struct k_itimer *t)
{
	const struct k_itimer___old *old = (const void *)t;
	const char *info = NULL;
	struct pid *target = NULL;

	if (core_exists(((struct k_itimer *)0)->sigq.info)) {
		info = (const char *)&t->sigq.info;
	} else {
		core_read(info, old->sigq);
		if (info)
			info += core_offset(struct sigqueue, info);
	}
	r->signo = 0;
	r->value = 0;
	if (info) {
		bpf_probe_read_kernel(&r->signo, sizeof(r->signo), info + SI_SIGNO);
		bpf_probe_read_kernel(&r->value, sizeof(r->value), info + SI_VALUE);
	}
	core_read(target, t->it_pid);
	r->target = pid_nr(me, target);
}

static __always_inline bool timers_are_hlist(void)
{
	return core_exists(((struct signal_struct___new *)0)->posix_timers.first);
}

/* walk_step emits one timer; it is the body of bpf_loop and ends the loop by returning 1. */
static long walk_step(__u32 i, struct walk *w)
{
	struct timer_rec *r = &timer_out;
	const struct k_itimer *t;

	if (!w->node || w->node == w->head)
		return 1;
	if (timers_are_hlist())
		t = (const void *)(w->node - core_offset(struct k_itimer, list));
	else
		t = (const void *)(w->node - core_offset(struct k_itimer___old, list));
	if (w->count >= MAX_TIMERS) {
		w->over++;
	} else {
		r->head.kind = REC_TIMER;
		r->head.tail = 0;
		r->head.pid = w->pid;
		core_read(r->id, t->it_id);
		core_read(r->clock, t->it_clock);
		core_read(r->notify, t->it_sigev_notify);
		core_read(r->interval, t->it_interval);
		core_read(r->overrun, t->it_overrun_last);
		timer_clock(r, &w->me, t);
		timer_signal(r, &w->me, t);
		bpf_seq_write(w->seq, r, sizeof(*r));
		w->count++;
	}
	return bpf_probe_read_kernel(&w->node, sizeof(w->node), w->node) != 0; /* both kinds of list begin with next */
}

static __always_inline void walk_timers(struct walk *w, struct signal_struct *s)
{
	const char *list;

	if (timers_are_hlist()) {
		list = (const char *)s + core_offset(struct signal_struct___new, posix_timers);
		w->head = NULL;
	} else {
		list = (const char *)s + core_offset(struct signal_struct___old, posix_timers);
		w->head = list;
	}
	bpf_probe_read_kernel(&w->node, sizeof(w->node), list);
	bpf_loop(4096, walk_step, w, 0);
}

#endif
