/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * When a thread that is stopped in a system call with a timeout would have woken. The kernel keeps that on the thread's stack and cancels the
 * timer when the stop interrupts the call, in the thread's own context: that is where it is read.
 */
#ifndef BPFCKPT_WAITS_H
#define BPFCKPT_WAITS_H

#include "timer.h"

/*
 * By thread, as user space numbers it. A thread for which there is no room is one of which nobody can tell, as all are on a kernel without BPF: its
 * call ends.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 32768);
	__type(key, __u32);
	__type(value, struct wait_rec);
} waits SEC(".maps");

__u32 wait_level;  /* of nesting of user space's pid namespace */
__s32 wait_tracer; /* user space's pid there */

SEC("tp_btf/hrtimer_cancel")
int wait_cancelled(__u64 *ctx)
{
	struct task_struct *t = bpf_get_current_task_btf(), *parent;
	struct hrtimer *timer = (void *)ctx[0];
	struct hrtimer_clock_base *base = NULL;
	struct wait_rec r = {};
	__u64 ns, stack, at = 0;
	__s32 nr = 0;
	__u32 tid;

	if (!t->ptrace)
		return 0;
	stack = (__u64)t->stack;
	bpf_probe_read_kernel(&at, sizeof(at), ctx); /* the address as a number: before Linux 6.2 no sum with a typed pointer may be made */
	if (at - stack >= THREAD_SIZE)
		return 0; /* another one, in an interrupt */
	parent = core_ptr(t->parent); /* the tracer */
	parent = core_ptr(parent->group_leader);
	if (!upid_at(core_ptr(parent->thread_pid), wait_level, &nr, &ns) || nr != wait_tracer)
		return 0;
	if (!upid_at(core_ptr(t->thread_pid), wait_level, &nr, &ns))
		return 0;
	tid = nr;
	core_read(r.expires, timer->_softexpires);
	core_read(base, timer->base);
	if (base)
		core_read(r.clock, base->clockid);
	r.when = bpf_ktime_get_ns();
	bpf_map_update_elem(&waits, &tid, &r, 0);
	return 0;
}

#endif
