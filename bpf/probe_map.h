/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Probes of mappings. Two threads may change the mappings of their process at once, and their calls may end in another order than the
 * kernel took them in. The order is that in which they had the mm's lock: the probe of the lock runs while it is held.
 */
#ifndef BPFCKPT_PROBE_MAP_H
#define BPFCKPT_PROBE_MAP_H

#include "probe.h"
#include "syscalls_x86.h"
#include "vma.h"

static long (*bpf_find_vma)(struct task_struct *task, __u64 addr, void *callback, void *ctx, __u64 flags) = (void *)180;

#define NO_CALL (~0U)

static __always_inline __u64 turns_of(struct mm_struct *mm)
{
	__u64 key = (__u64)mm;
	struct watched_mm *m = bpf_map_lookup_elem(&mms, &key);

	return m ? m->turns : 0;
}

static long look(struct task_struct *t, struct vm_area_struct *v, struct vma_state *s)
{
	struct file *f = core_at(v, vm_file);

	s->start = core_at(v, vm_start);
	s->end = core_at(v, vm_end);
	s->flags = core_at(v, vm_flags);
	s->pgoff = core_at(v, vm_pgoff);
	s->file = (__u64)f;
	if (f)
		inode_of(&s->inode, f);
	return 0;
}

/* look_at reads the mapping at addr; false if it could not be read, or if another change may have come in between. */
static __always_inline bool look_at(struct task_struct *t, struct watched *w, __u64 addr, struct vma_state *s)
{
	struct watched_mm *m;

	if (bpf_find_vma(t, addr, look, s, 0))
		return false;
	m = bpf_map_lookup_elem(&mms, &w->mm);
	return m && m->turns == w->turn_last;
}

/* place is an address within what the call changed, 0 if there is none. */
static __always_inline __u64 place(struct call_regs *c, __u32 nr, __s64 ret)
{
	if ((__u64)ret >= -4095UL)
		return 0;
	switch (nr) {
	case NR_MPROTECT:
	case NR_MADVISE:
		return c->args[0];
	case NR_BRK:
		return ret - 1;
	}
	return ret;
}

/* call_map reports a call that took turns, and nothing else: one that took none changed no mapping. */
static __always_inline bool call_map(struct task_struct *t, struct watched *w, struct call_regs *c, __u32 nr, __s64 ret, bool at)
{
	struct vma_state s = {};
	struct ev_map *e;
	__u64 addr;
	bool seen = false;

	if (!w->turns || w->nr != nr)
		return false;
	addr = at ? place(c, nr, ret) : 0;
	if (addr)
		seen = look_at(t, w, addr, &s);
	e = event_new(struct ev_map, EV_MAP, w, nr, ret, LOST_MAPS);
	if (e) {
		__builtin_memcpy(e->args, c->args, sizeof(e->args));
		e->mm = w->mm;
		e->turn_first = w->turn_first;
		e->turn_last = w->turn_last;
		e->turns = w->turns;
		e->seen = seen;
		__builtin_memcpy(&e->vma, &s, sizeof(s));
		event_done(e);
	}
	w->turns = 0;
	w->nr = NO_CALL;
	return true;
}

#endif
