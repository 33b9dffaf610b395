/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The iterator programs. Whoever includes this defines turns_of: the turns of an mm so far, if a watch or the kernel counts them; the caller
 * holds the mm's lock for reading, so no turn is under way.
 */
#ifndef BPFCKPT_ITER_H
#define BPFCKPT_ITER_H

#include "abi.h"
#include "file.h"
#include "mm.h"
#include "signal.h"
#include "task.h"
#include "vma.h"
#include "waits.h"

static __always_inline __u64 turns_of(struct mm_struct *mm);

SEC("iter/task")
int iter_task(struct bpf_iter__task *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct task_struct *t = ctx->task, *leader;
	struct mm_struct *mm;
	struct reader me;
	__s32 pid;

	if (!t)
		return 0;
	reader_get(&me);
	leader = core_ptr(t->group_leader);
	pid = pid_nr(&me, core_ptr(leader->thread_pid));
	if (leader == t) {
		emit_process(seq, &me, t, pid);
		emit_actions(seq, t, pid);
	}
	mm = t->mm;
	if (mm && (leader == t || !core_ptr(leader->mm)))
		emit_mm(seq, mm, pid);
	emit_cred(seq, t, pid);
	emit_thread(seq, &me, t, pid);
	return 0;
}

/* group_nr is the number of a task's thread group as the reader knows it. */
static __always_inline __s32 group_nr(struct task_struct *t)
{
	struct task_struct *leader = core_at(t, group_leader);
	struct reader me;

	reader_pid(&me);
	return pid_nr(&me, core_ptr(leader->thread_pid));
}

SEC("iter/task_vma")
int iter_vma(struct bpf_iter__task_vma *ctx)
{
	struct task_struct *t = ctx->task;
	struct vm_area_struct *v = ctx->vma;
	struct mm_struct *mm;

	if (!t || !v)
		return 0;
	mm = core_at(v, vm_mm);
	emit_vma(ctx->meta->seq, v, group_nr(t), mm, turns_of(mm));
	return 0;
}

SEC("iter/task_file")
int iter_file(struct bpf_iter__task_file *ctx)
{
	struct task_struct *t = ctx->task;
	struct file *f = ctx->file;

	if (t && f)
		emit_fd(ctx->meta->seq, t, group_nr(t), ctx->fd, f);
	return 0;
}

#endif
