/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Probes of descriptors. A record holds the state of a slot after the record's place was taken: see abi.h. */
#ifndef BPFCKPT_PROBE_FD_H
#define BPFCKPT_PROBE_FD_H

#include "probe.h"
#include "syscalls.h"

/* Commands of fcntl(2) and ioctl(2) that change a slot or its description (include/uapi/linux/fcntl.h, asm-generic/ioctls.h). */
enum {
	F_DUPFD = 0,
	F_SETFD = 2,
	F_SETFL = 4,
	F_DUPFD_CLOEXEC = 1030,
	FIONBIO = 0x5421,
	FIONCLEX = 0x5450,
	FIOCLEX = 0x5451,
	FIOASYNC = 0x5452,
};

enum { MSG_CONTROLLEN = 40 }; /* offset into struct msghdr */

/* slot fills in what descriptor fd of the current task is. */
static __always_inline void slot(struct ev_fd *e, struct task_struct *t, __u32 fd, bool inode)
{
	struct fdtable *fdt = t->files->fdt;
	unsigned long word = 0;
	struct file *f = NULL;

	e->fd = fd;
	e->bits = 0;
	e->flags = 0;
	e->mode = 0;
	if (fd < fdt->max_fds) {
		bpf_probe_read_kernel(&f, sizeof(f), fdt->fd + fd);
		bpf_probe_read_kernel(&word, sizeof(word), fdt->close_on_exec + fd / 64);
	}
	e->file = (__u64)f;
	if (!f)
		return;
	e->bits = FD_OPEN | ((word >> (fd % 64)) & 1 ? FD_CLOEXEC : 0);
	e->flags = core_at(f, f_flags);
	e->mode = core_at(f, f_mode);
	if (inode) {
		e->bits |= FD_INODE;
		inode_of(&e->inode, f);
	}
}

static __always_inline void emit_slot(struct task_struct *t, struct watched *w, struct call_regs *c, __u32 nr, __s64 ret, __u32 fd, bool inode)
{
	struct ev_fd *e = event_new(struct ev_fd, EV_FD, w, nr, ret, LOST_FDS);

	if (!e)
		return;
	__builtin_memcpy(e->args, c->args, sizeof(e->args));
	slot(e, t, fd, inode);
	event_done(e);
}

/* leaf fills in where in the tree of directories a file is. */
static __always_inline void leaf(struct ev_open *e, struct file *f)
{
	struct dentry *d = core_at(f, f_path.dentry);
	struct dentry *parent = core_at(d, d_parent);

	e->parent_ino = 0;
	e->leaf[0] = 0;
	if (!d || parent == d)
		return;
	e->parent_ino = core_at(core_at(parent, d_inode), i_ino);
	bpf_probe_read_kernel_str(e->leaf, sizeof(e->leaf), core_at(d, d_name.name));
}

static __always_inline void call_open(struct task_struct *t, struct watched *w, struct call_regs *c, __u32 nr, __s64 ret, __u64 path)
{
	struct ev_open *e = event_new(struct ev_open, EV_OPEN, w, nr, ret, LOST_FDS);

	if (!e)
		return;
	__builtin_memcpy(e->fd.args, c->args, sizeof(e->fd.args));
	if (nr == NR_OPENAT2) /* struct open_how begins with flags and mode: they take the place of its address and size */
		bpf_probe_read_user(&e->fd.args[2], 2 * sizeof(__u64), (void *)c->args[2]);
	slot(&e->fd, t, ret, true);
	leaf(e, (struct file *)e->fd.file);
	if (bpf_probe_read_user_str(e->path, sizeof(e->path), (void *)path) < 0)
		e->path[0] = 0;
	event_done(e);
}

static __always_inline void call_pair(struct task_struct *t, struct watched *w, struct call_regs *c, __u32 nr, __s64 ret, __u64 where)
{
	__u32 pair[2];

	if (bpf_probe_read_user(pair, sizeof(pair), (void *)where)) {
		lose(w->pid, LOST_FDS);
		return;
	}
	emit_slot(t, w, c, nr, ret, pair[0], true);
	emit_slot(t, w, c, nr, ret, pair[1], true);
}

/* fcntl_slot and ioctl_slot tell which slot a call changed, -1 for none. */
static __always_inline __s64 fcntl_slot(struct call_regs *c, __s64 ret)
{
	switch (c->args[1]) {
	case F_DUPFD:
	case F_DUPFD_CLOEXEC:
		return ret;
	case F_SETFD:
	case F_SETFL:
		return (__u32)c->args[0];
	}
	return -1;
}

static __always_inline __s64 ioctl_slot(struct call_regs *c)
{
	__u32 cmd = c->args[1];

	if (cmd == FIONBIO || cmd == FIOASYNC || cmd == FIOCLEX || cmd == FIONCLEX)
		return (__u32)c->args[0];
	return -1;
}

/* received tells whether a recvmsg may have brought descriptors. */
static __always_inline bool received(struct call_regs *c)
{
	__u64 n = 0;

	bpf_probe_read_user(&n, sizeof(n), (void *)(c->args[1] + MSG_CONTROLLEN));
	return n != 0;
}

#endif
