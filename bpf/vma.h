/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct vm_area_struct (include/linux/mm_types.h, fs/proc/task_mmu.c). */
#ifndef BPFCKPT_VMA_H
#define BPFCKPT_VMA_H

#include "file.h"
#include "mm.h"
#include "task.h"

struct vm_operations_struct {
	void *name;
} CORE;

struct vm_special_mapping {
	const char *name;
} CORE;

struct anon_vma_name {
	char name[0];
} CORE;

struct vm_area_struct {
	unsigned long vm_start, vm_end;
	struct mm_struct *vm_mm;
	unsigned long vm_flags;
	struct vm_operations_struct *vm_ops;
	unsigned long vm_pgoff;
	struct file *vm_file;
	struct vm_special_mapping *vm_private_data;
	void *vm_policy;
	struct anon_vma_name *anon_name; /* Linux 5.17, CONFIG_ANON_VMA_NAME */
	struct {
	} shared;
} CORE;

struct bpf_iter__task_vma {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	struct vm_area_struct *vma;
} CORE;

struct rb_root {
	void *rb_node;
} CORE;

struct shared_policy {
	struct rb_root root;
} CORE;

struct shmem_inode_info {
	struct shared_policy policy;
	struct inode vfs_inode;
} CORE;

#define TMPFS_MAGIC 0x01021994 /* include/uapi/linux/magic.h */

static struct {
	struct mapped_rec rec;
	char path[MAX_PATH];
} mapped_out;

static struct {
	struct vma_rec rec;
	char name[MAX_NAME];
} vma_out;

/* The file whose mapped_rec was written last. User space sets it to zero before a pass. */
__u64 mapped_last;

static __always_inline bool shared_policy(struct inode *inode)
{
	struct shmem_inode_info *info;

	if (!core_exists(((struct shmem_inode_info *)0)->policy.root.rb_node))
		return false;
	info = (void *)((char *)inode - core_offset(struct shmem_inode_info, vfs_inode));
	return core_at(info, policy.root.rb_node) != NULL;
}

static __always_inline long emit_mapped(struct seq_file *seq, struct file *f, __s32 pid)
{
	struct mapped_rec *r = &mapped_out.rec;

	r->head.kind = REC_MAPPED;
	r->head.pid = pid;
	r->file = (__u64)f;
	inode_of(&r->inode, f);
	r->bits = r->inode.magic == TMPFS_MAGIC && shared_policy(core_at(f, f_inode)) ? VMA_POLICY : 0;
	return write_path(seq, &mapped_out, bpf_d_path(&f->f_path, mapped_out.path, sizeof(mapped_out.path)));
}

/* has_anon_name tells whether anon_name means anything: up to Linux 6.1 a mapping of a file has other things in its place. */
static __always_inline bool has_anon_name(struct vma_rec *r)
{
	return core_exists(((struct vm_area_struct *)0)->anon_name) &&
	       (!r->file || core_offset(struct vm_area_struct, anon_name) != core_offset(struct vm_area_struct, shared));
}

/* vma_name fills in the name that only the kernel knows and returns its length with the terminating zero. */
static __always_inline long vma_name(struct vma_rec *r, struct vm_area_struct *v, struct vm_operations_struct *ops)
{
	const char *name = NULL;

	if (!r->file && ops && core_at(ops, name)) {
		struct vm_special_mapping *special = core_at(v, vm_private_data);

		r->bits |= VMA_SPECIAL;
		name = core_at(special, name);
	} else if (has_anon_name(r)) {
		struct anon_vma_name *named = core_at(v, anon_name);

		if (named) {
			r->bits |= VMA_NAMED;
			name = (const char *)named + core_offset(struct anon_vma_name, name);
		}
	}
	return name ? bpf_probe_read_kernel_str(vma_out.name, sizeof(vma_out.name), name) : 0;
}

static __always_inline long emit_vma(struct seq_file *seq, struct vm_area_struct *v, __s32 pid, struct mm_struct *mm, __u64 turn)
{
	struct vma_rec *r = &vma_out.rec;
	struct vm_operations_struct *ops = core_at(v, vm_ops);
	struct file *f = v->vm_file;
	long n;

	if (f && (__u64)f != mapped_last && emit_mapped(seq, f, pid))
		return -1;
	r->head.kind = REC_VMA;
	r->head.pid = pid;
	r->start = v->vm_start;
	r->end = v->vm_end;
	r->flags = v->vm_flags;
	r->pgoff = v->vm_pgoff;
	r->file = (__u64)f;
	r->turn = turn;
	r->brk = core_at(mm, brk);
	r->bits = 0;
	if (ops)
		r->bits |= VMA_OPS;
	if (core_exists(v->vm_policy) && core_at(v, vm_policy))
		r->bits |= VMA_POLICY;
	n = vma_name(r, v, ops);
	n = write_path(seq, &vma_out, n);
	if (n == 0 && f)
		mapped_last = (__u64)f; /* only what was written counts: the kernel repeats a record that did not fit */
	return n;
}

#endif
