/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The probe of the lock of an mm: in which turns which thread has it for writing (see abi.h). Where the kernel does not count turns it does that
 * too. Where the kernel does, it is attached only when threads share an mm that they change: every such change of every process pays for it.
 */
#ifndef BPFCKPT_PROBE_TURN_H
#define BPFCKPT_PROBE_TURN_H

#include "probe.h"
#include "turn.h"

/* ARG is an argument of a tracepoint. The verifier wants its offset in the instruction, where a compiler that merges two branches has it not. */
#define ARG(ctx, n)                                                                          \
	({                                                                                   \
		__u64 __v;                                                                   \
		asm volatile("%0 = *(u64 *)(%1 + %2)" : "=r"(__v) : "r"(ctx), "i"((n) * 8)); \
		__v;                                                                         \
	})

/* User space sets it before it loads the program: whether the tracepoint passes a path behind the mm, as it does up to Linux 6.12 or so. */
const volatile __u32 turn_path;

/*
 * mmap_lock_acquire_returned(mm, [path,] write, success): after the lock was taken, or given up on (include/trace/events/mmap_lock.h). The
 * verifier sees the value of turn_path, and only the half that goes with it.
 */
SEC("tp_btf/mmap_lock_acquire_returned")
int on_turn(__u64 *ctx)
{
	__u64 mm = ctx[0], turn, write, success;
	struct task_struct *t;
	struct watched_mm *m;
	struct watched *w;
	__u32 nr;

	if (turn_path) {
		write = ARG(ctx, 2);
		success = ARG(ctx, 3);
	} else {
		write = ARG(ctx, 1);
		success = ARG(ctx, 2);
	}
	if (!(__u8)write || !(__u8)success)
		return 0;
	if (!*mm_bucket(mm))
		return 0;
	if (kernel_turns()) {
		turn = lock_seq(mm) / 2 + 1;
	} else {
		m = bpf_map_lookup_elem(&mms, &mm);
		if (!m)
			return 0;
		turn = ++m->turns; /* the lock is ours */
	}
	t = bpf_get_current_task_btf();
	w = followed(t);
	if (!w || w->mm != mm)
		return 0;
	nr = regs_nr(bpf_task_pt_regs(t)); /* all ones for a page fault in user mode */
	if (w->nr != nr || !w->turns) {
		w->nr = nr;
		w->turns = 0;
		w->turn_first = turn;
	}
	w->turns++;
	w->turn_last = turn;
	return 0;
}

#endif
