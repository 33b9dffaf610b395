/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Probes of mappings. Two threads may change the mappings of their process at once, and their calls may end in another order than the
 * kernel took them in. The order is that in which they had the mm's lock: the probe of the lock runs while it is held.
 */
#ifndef BPFCKPT_PROBE_MAP_H
#define BPFCKPT_PROBE_MAP_H

#include "probe.h"
#include "syscalls.h"
#include "turn.h"
#include "vma.h"

static long (*bpf_find_vma)(struct task_struct *task, __u64 addr, void *callback, void *ctx, __u64 flags) = (void *)180;

/* What a look at a mapping brought. */
struct looked {
	struct vma_state vma;
	struct inode_rec inode; /* if it has a file */
};

static long look(struct task_struct *t, struct vm_area_struct *v, struct looked *l)
{
	struct file *f = core_at(v, vm_file);

	l->vma.start = core_at(v, vm_start);
	l->vma.end = core_at(v, vm_end);
	l->vma.flags = core_at(v, vm_flags);
	l->vma.pgoff = core_at(v, vm_pgoff);
	l->vma.file = (__u64)f;
	if (f)
		inode_of(&l->inode, f);
	return 0;
}

/* look_at reads the mapping at addr; false if it could not be read, or if another change than that of the turn given may have come in between. */
static __always_inline bool look_at(struct task_struct *t, struct watched *w, __u64 addr, __u64 turn, struct looked *l)
{
	return !bpf_find_vma(t, addr, look, l, 0) && none_since(w->mm, turn);
}

static __always_inline void fill_map(struct ev_map *e, struct watched *w, struct call_regs *c, struct taken *turns, __u32 bits, struct vma_state *vma)
{
	__builtin_memcpy(e->args, c->args, sizeof(e->args));
	e->mm = w->mm;
	e->turn_first = turns->first;
	e->turn_last = turns->last;
	e->turns = turns->turns;
	e->bits = bits;
	__builtin_memcpy(&e->vma, vma, sizeof(*vma));
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
	struct looked l = {};
	struct taken turns;
	__u32 bits = 0;
	__u64 addr;

	if (!turns_taken(w, nr, &turns))
		return false;
	if (turns.counted)
		bits |= MAP_COUNTED;
	addr = at ? place(c, nr, ret) : 0;
	if (addr && look_at(t, w, addr, turns.last, &l))
		bits |= MAP_SEEN;
	if (l.vma.file) {
		struct ev_map_file *e = event_new(struct ev_map_file, EV_MAP, w, nr, ret, LOST_MAPS);

		if (!e)
			return true;
		fill_map(&e->map, w, c, &turns, bits, &l.vma);
		__builtin_memcpy(&e->inode, &l.inode, sizeof(e->inode));
		event_done(e);
	} else {
		struct ev_map *e = event_new(struct ev_map, EV_MAP, w, nr, ret, LOST_MAPS);

		if (!e)
			return true;
		fill_map(e, w, c, &turns, bits, &l.vma);
		event_done(e);
	}
	return true;
}

#endif
