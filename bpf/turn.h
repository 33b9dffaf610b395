/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Turns, the write sequence of an mm's lock: how often it was taken for writing (see abi.h). From Linux 6.14 on the kernel counts them itself, with
 * CONFIG_PER_VMA_LOCK: mm_lock_seq is one more with each taking and each giving back (include/linux/mmap_lock.h), so odd while somebody has
 * the lock. Of it 31 bits are left as a number of turns. Elsewhere the probe of the lock counts in `mms`.
 */
#ifndef BPFCKPT_TURN_H
#define BPFCKPT_TURN_H

#include "probe.h"

struct seqcount {
	unsigned int sequence;
} CORE;

struct mm_struct___counted {
	struct seqcount mm_lock_seq;
} CORE;

/* User space clears it before it loads the programs to have turns counted by the probe of the lock, for tests of how that goes elsewhere. */
const volatile __u32 may_use_kernel_turns = 1;

/* Not zero while the probe of the lock is attached. A map, for there are programs of several objects that look at it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} lock_probed SEC(".maps");

static __always_inline bool kernel_turns(void)
{
	return core_exists(((struct mm_struct___counted *)0)->mm_lock_seq.sequence) && may_use_kernel_turns;
}

static __always_inline __u32 lock_seq(__u64 mm)
{
	return core_at((struct mm_struct___counted *)mm, mm_lock_seq.sequence);
}

/* turns_so_far is the number of the last turn of an mm that is over. */
static __always_inline __u64 turns_so_far(__u64 mm)
{
	struct watched_mm *m;

	if (kernel_turns())
		return lock_seq(mm) / 2;
	m = bpf_map_lookup_elem(&mms, &mm);
	return m ? m->turns : 0;
}

/* none_since tells whether the turn given is the last, and no other has begun. */
static __always_inline bool none_since(__u64 mm, __u64 turn)
{
	struct watched_mm *m;

	if (kernel_turns())
		return lock_seq(mm) == (__u32)turn * 2;
	m = bpf_map_lookup_elem(&mms, &mm);
	return m && m->turns == turn;
}

static __always_inline bool is_lock_probed(void)
{
	__u32 zero = 0, *on = bpf_map_lookup_elem(&lock_probed, &zero);

	return on && *on;
}

/* What a call did to the turns of its mm. */
struct taken {
	__u64 first, last;
	__u32 turns;
	bool counted; /* not seen, but inferred from the kernel's count: see MAP_COUNTED */
};

/* turns_taken tells which turns the call had that ends now; false if none. */
static __always_inline bool turns_taken(struct watched *w, __u32 nr, struct taken *k)
{
	k->counted = false;
	if (w->turns && w->nr == nr) {
		k->first = w->turn_first;
		k->last = w->turn_last;
		k->turns = w->turns;
		w->turns = 0;
		w->nr = ~0U;
		return true;
	}
	if (!kernel_turns() || is_lock_probed())
		return false;
	k->last = turns_so_far(w->mm);
	if (k->last == w->turn_last)
		return false;
	w->turn_last = k->first = k->last;
	k->turns = 1;
	k->counted = true;
	return true;
}

#endif
