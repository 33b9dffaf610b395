/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Probes on dlopen, dlmopen and dlclose, at their first instruction in the C library or dynamic linker that a followed process maps.
 * They are there in every process that maps the same file.
 */
#ifndef BPFCKPT_PROBE_DL_H
#define BPFCKPT_PROBE_DL_H

#include "arch.h"
#include "probe.h"

enum { DL_OPEN = 1, DL_MOPEN = 2, DL_CLOSE = 3 };

/* Where a handle, struct link_map of glibc and struct dso of musl alike, has the pointer to the library's name. */
enum { LINK_NAME = 8 };

static __always_inline int dl_event(__u32 which, __u64 name, __u64 what)
{
	struct watched *w = followed(bpf_get_current_task_btf());
	struct ev_named *e;

	if (!w)
		return 0;
	e = event_new(struct ev_named, EV_DL, w, 0, 0, LOST_OTHER);
	if (!e)
		return 0;
	__builtin_memset(e->call.args, 0, sizeof(e->call.args));
	e->call.args[0] = which;
	e->call.args[1] = what;
	if (bpf_probe_read_user_str(e->name, sizeof(e->name), (void *)name) < 0)
		e->name[0] = 0; /* dlopen(NULL): the program itself */
	event_done(e);
	return 0;
}

SEC("uprobe")
int on_dlopen(struct pt_regs *regs)
{
	return dl_event(DL_OPEN, call_arg(regs, 0), call_arg(regs, 1));
}

SEC("uprobe")
int on_dlmopen(struct pt_regs *regs)
{
	return dl_event(DL_MOPEN, call_arg(regs, 1), call_arg(regs, 2));
}

SEC("uprobe")
int on_dlclose(struct pt_regs *regs)
{
	__u64 name = 0, handle = call_arg(regs, 0);

	bpf_probe_read_user(&name, sizeof(name), (void *)(handle + LINK_NAME));
	return dl_event(DL_CLOSE, name, handle);
}

#endif
