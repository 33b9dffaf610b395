/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct mm_struct (include/linux/mm_types.h). */
#ifndef BPFCKPT_MM_H
#define BPFCKPT_MM_H

#include "file.h"
#include "task.h"

struct kioctx_table {
	unsigned int nr;
} CORE;

struct percpu_counter {
	__s64 count;
} CORE;

struct counter {
	int counter; /* atomic_t */
};

/* kernel/futex/core.c, Linux 6.16; of the program's choosing (PR_FUTEX_HASH) if custom, and that of all if hash_mask is 0. */
struct futex_private_hash {
	unsigned int hash_mask;
	_Bool custom;
} CORE;

struct mm_struct {
	unsigned long def_flags;
	struct counter membarrier_state;
	unsigned long hiwater_rss;
	unsigned long start_code, end_code, start_data, end_data;
	unsigned long start_brk, brk, start_stack;
	unsigned long arg_start, arg_end, env_start, env_end;
	unsigned long saved_auxv[1];
	struct percpu_counter rss_stat[4]; /* struct mm_rss_stat, before Linux 6.2 */
	unsigned long flags;
	struct kioctx_table *ioctx_table;
	struct file *exe_file;
	struct futex_private_hash *futex_phash, *futex_phash_new;
} CORE;

struct mm_rss_stat {
	__s64 count[4];
} CORE;

struct mm_struct___old {
	struct mm_rss_stat rss_stat;
} CORE;

struct mm_flags {
	unsigned long word; /* mm_flags_t, Linux 6.18 */
};

struct mm_struct___flags {
	struct mm_flags flags;
} CORE;

static __always_inline __u64 mm_flags(struct mm_struct *mm)
{
	struct mm_struct___flags *new = (void *)mm;
	__u64 flags = 0;

	if (core_exists(new->flags))
		core_read(flags, new->flags);
	else
		flags = mm->flags;
	return flags;
}

/* rss adds up MM_FILEPAGES, MM_ANONPAGES and MM_SHMEMPAGES; MM_SWAPENTS, number 2, does not count. */
static __always_inline __u64 rss(struct mm_struct *mm)
{
	struct mm_struct___old *old = (void *)mm;
	__s64 n[4] = {};

	if (core_exists(((struct mm_struct___old *)0)->rss_stat.count)) {
		bpf_probe_read_kernel(n, sizeof(n), &old->rss_stat.count);
	} else {
		core_read(n[0], mm->rss_stat[0].count);
		core_read(n[1], mm->rss_stat[1].count);
		core_read(n[3], mm->rss_stat[3].count);
	}
	return n[0] + n[1] + n[3];
}

/* futex_slots returns the slots of the hash of futexes that the program chose, FUTEX_GLOBAL, or 0 for the kernel's own choice. */
static __always_inline __u32 futex_slots(struct mm_struct *mm)
{
	struct futex_private_hash *h = NULL;
	unsigned int mask = 0;
	_Bool custom = 0;

	if (!core_exists(mm->futex_phash))
		return 0;
	if (core_exists(mm->futex_phash_new)) /* takes its place as soon as nobody is in the other */
		h = core_ptr(mm->futex_phash_new);
	if (!h)
		h = core_ptr(mm->futex_phash);
	if (!h)
		return 0;
	core_read(custom, h->custom);
	core_read(mask, h->hash_mask);
	if (!custom)
		return 0;
	return mask ? mask + 1 : FUTEX_GLOBAL;
}

static __always_inline void mm_layout(struct mm_rec *r, struct mm_struct *mm)
{
	r->start_code = mm->start_code;
	r->end_code = mm->end_code;
	r->start_data = mm->start_data;
	r->end_data = mm->end_data;
	r->start_brk = mm->start_brk;
	r->brk = mm->brk;
	r->start_stack = mm->start_stack;
	r->arg_start = mm->arg_start;
	r->arg_end = mm->arg_end;
	r->env_start = mm->env_start;
	r->env_end = mm->env_end;
}

static struct mm_rec mm_out;

static __always_inline long emit_mm(struct seq_file *seq, struct mm_struct *mm, __s32 pid)
{
	struct mm_rec *r = &mm_out;
	__u32 n = core_size(((struct mm_struct *)0)->saved_auxv);

	r->head.kind = REC_MM;
	r->head.tail = 0;
	r->head.pid = pid;
	r->mm = (__u64)mm;
	mm_layout(r, mm);
	r->flags = mm_flags(mm);
	r->def_flags = mm->def_flags;
	r->membarrier = mm->membarrier_state.counter;
	r->has_ldt = has_ldt(mm);
	r->aio_rings = mm->ioctx_table ? mm->ioctx_table->nr : 0;
	r->futex_slots = futex_slots(mm);
	r->hiwater_rss = mm->hiwater_rss;
	r->rss = rss(mm);
	r->exe.ino = 0;
	if (mm->exe_file)
		inode_of(&r->exe, mm->exe_file);
	if (n > sizeof(r->auxv))
		n = sizeof(r->auxv);
	r->auxv_len = n;
	bpf_probe_read_kernel(r->auxv, n, &mm->saved_auxv);
	return bpf_seq_write(seq, r, sizeof(*r));
}

#endif
