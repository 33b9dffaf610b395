/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct file, what it leads to, and descriptor tables (include/linux/fs.h, include/linux/fdtable.h). */
#ifndef BPFCKPT_FILE_H
#define BPFCKPT_FILE_H

#include "abi.h"
#include "task.h"
#include "timer.h"

struct super_block {
	__u32 s_dev;
	unsigned long s_flags;
	unsigned long s_magic;
} CORE;

struct inode {
	unsigned short i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
	unsigned int i_nlink;
	__u32 i_rdev;
	void *i_flctx; /* CONFIG_FILE_LOCKING; made with the first lock, kept with the inode */
} CORE;

struct hlist_bl_node {
	void **pprev;
} CORE;

struct qstr {
	const unsigned char *name;
} CORE;

struct dentry {
	struct qstr d_name;
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct inode *d_inode;
} CORE;

struct path {
	void *mnt;
	struct dentry *dentry;
} CORE;

struct file {
	unsigned int f_mode;
	struct inode *f_inode;
	unsigned int f_flags;
	struct path f_path;
	__s64 f_pos;
	void *private_data;
} CORE;

/* fs/timerfd.c */
struct timerfd_ctx {
	union {
		struct hrtimer tmr;
		struct alarm alarm;
	} t;
	int clockid;
} CORE;

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
	unsigned long *close_on_exec;
} CORE;

struct files_struct {
	struct fdtable *fdt;
} CORE;

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
} CORE;

#define S_IFMT 0170000 /* include/uapi/linux/stat.h; anonymous inodes have none */
#define FMODE_BACKING (1U << 25) /* Linux 6.5; before, f_path led to the upper file and f_inode was the lower one */

static __noinline void inode_of(struct inode_rec *r, struct file *f)
{
	struct inode *inode = core_at(f, f_inode);
	struct dentry *d = core_at(f, f_path.dentry);
	struct super_block *sb = core_at(inode, i_sb);

	r->ino = core_at(inode, i_ino);
	r->magic = core_at(sb, s_magic);
	r->sflags = core_at(sb, s_flags);
	r->dev = core_at(sb, s_dev);
	r->rdev = core_at(inode, i_rdev);
	r->mode = core_at(inode, i_mode);
	r->nlink = core_at(inode, i_nlink);
	r->bits = 0;
	if (!core_at(d, d_hash.pprev) && core_at(d, d_parent) != d)
		r->bits |= INODE_UNLINKED;
	if ((core_at(f, f_mode) & FMODE_BACKING) || core_at(d, d_inode) != inode)
		r->bits |= INODE_BACKING;
	if (core_at(inode, i_flctx))
		r->bits |= INODE_LOCKED;
}

static __always_inline __u32 cloexec(struct task_struct *t, __u32 fd)
{
	struct files_struct *files = core_at(t, files);
	struct fdtable *fdt = core_at(files, fdt);
	unsigned long word = 0;

	if (fd >= core_at(fdt, max_fds))
		return 0;
	bpf_probe_read_kernel(&word, sizeof(word), core_at(fdt, close_on_exec) + fd / 64);
	return (word >> (fd % 64)) & 1;
}

static struct {
	struct fd_rec rec;
	char path[MAX_PATH];
} fd_out;

/* write_path writes a record with a path of n bytes behind it, the terminating zero included. */
#define write_path(seq, out, n)                                                                                  \
	({                                                                                                       \
		long __n = (n);                                                                                  \
		__u64 __size;                                                                                    \
		(out)->rec.head.tail = __n > 0 && __n <= MAX_PATH ? __n : 0;                                     \
		__size = sizeof((out)->rec) + (((out)->rec.head.tail + 7) & ~7U);                                \
		__size <= sizeof(*(out)) ? bpf_seq_write(seq, (out), __size) : -1;                               \
	})

/* is_timerfd compares a path of bpf_d_path with "anon_inode:[timerfd]" and its terminating zero. */
static __always_inline bool is_timerfd(const char *path)
{
	static const char name[24] = "anon_inode:[timerfd]";
	int i;

	for (i = 0; i <= 20; i++)
		if (path[i] != name[i])
			return false;
	return true;
}

/* timerfd_expiry reads what the fdinfo of a timerfd does not tell: when one that has run out and was not read since did so. */
static __always_inline void timerfd_expiry(struct fd_rec *r, struct file *f)
{
	struct timerfd_ctx *ctx = core_at(f, private_data);
	struct hrtimer_clock_base *base = NULL;
	int clock = 0;

	core_read(clock, ctx->clockid);
	if (clock == CLOCK_REALTIME_ALARM || clock == CLOCK_BOOTTIME_ALARM) {
		core_read(r->expires, ctx->t.alarm.node.expires);
		r->clock = clock;
		return;
	}
	core_read(r->expires, ctx->t.tmr.node.expires);
	core_read(base, ctx->t.tmr.base);
	if (base)
		core_read(r->clock, base->clockid);
}

static __always_inline long emit_fd(struct seq_file *seq, struct task_struct *t, __s32 pid, __u32 fd, struct file *f)
{
	struct fd_rec *r = &fd_out.rec;
	long n;

	r->head.kind = REC_FD;
	r->head.pid = pid;
	r->fd = fd;
	r->cloexec = cloexec(t, fd);
	r->file = (__u64)f;
	r->flags = f->f_flags;
	r->mode = f->f_mode;
	r->pos = f->f_pos;
	inode_of(&r->inode, f);
	n = bpf_d_path(&f->f_path, fd_out.path, sizeof(fd_out.path));
	r->expires = 0;
	r->clock = 0;
	if (!(r->inode.mode & S_IFMT) && n > 0 && is_timerfd(fd_out.path))
		timerfd_expiry(r, f);
	return write_path(seq, &fd_out, n);
}

#endif
