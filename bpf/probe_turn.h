/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The probe that counts the turns in which threads have the lock of an mm for writing: see abi.h. */
#ifndef BPFCKPT_PROBE_TURN_H
#define BPFCKPT_PROBE_TURN_H

#include "probe.h"

/* mmap_lock_acquire_returned(mm, write, success): after the lock was taken, or given up on (include/linux/mmap_lock.h). */
SEC("tp_btf/mmap_lock_acquire_returned")
int on_turn(__u64 *ctx)
{
	__u64 mm = ctx[0], turn;
	struct task_struct *t;
	struct watched_mm *m;
	struct watched *w;
	__u32 nr;

	if (!(__u8)ctx[1] || !(__u8)ctx[2])
		return 0;
	m = bpf_map_lookup_elem(&mms, &mm);
	if (!m)
		return 0;
	turn = ++m->turns; /* the lock is ours */
	t = bpf_get_current_task_btf();
	w = followed(t);
	if (!w || w->mm != mm)
		return 0;
	nr = bpf_task_pt_regs(t)->orig_ax; /* all ones for a page fault in user mode */
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
