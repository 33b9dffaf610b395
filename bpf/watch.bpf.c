//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The probes of a watch. System calls are seen at their exit, where the arguments are still in the registers: by one tracepoint, which
 * every system call of every process pays for, or, where the kernel lets us, by probes of the functions of just the calls of interest
 * (fexit.bpf.c).
 */
#include "iter.h"
#include "probe.h"
#include "probe_call.h"
#include "probe_dl.h"
#include "probe_fd.h"
#include "probe_hold.h"
#include "probe_map.h"
#include "probe_misc.h"
#include "probe_signal.h"
#include "probe_task.h"
#include "probe_turn.h"
#include "syscalls.h"
#include "turn.h"

char LICENSE[] SEC("license") = "GPL";

/* Types reach the BTF, and so the Go bindings, only when something has them. */
const enum ev_kind *abi_ev_kind;
const enum call_kind *abi_call_kind;
const struct ev_head *abi_ev_head;
const struct ev_map *abi_ev_map;
const struct ev_map_file *abi_ev_map_file;
const enum map_bit *abi_map_bit;
const struct turns_arg *abi_turns_arg;
const struct ring_head *abi_ring_head;
const enum ring_layout *abi_ring_layout;
const struct warm_arg *abi_warm_arg;
const struct ev_fd *abi_ev_fd;
const struct ev_open *abi_ev_open;
const struct ev_action *abi_ev_action;
const struct ev_limit *abi_ev_limit;
const struct ev_call *abi_ev_call;
const struct ev_named *abi_ev_named;
const struct ev_task *abi_ev_task;
const struct held_rec *abi_held_rec;
const enum fd_bit *abi_fd_bit;
const enum share_bit *abi_share_bit;
const enum lost_part *abi_lost_part;

/* turns_of serves the iterators. */
static __always_inline __u64 turns_of(struct mm_struct *mm)
{
	return turns_so_far((__u64)mm);
}

/* read_turns tells how many turns an mm has had. */
SEC("syscall")
int read_turns(struct turns_arg *a)
{
	a->turns = turns_so_far(a->mm);
	a->counted = kernel_turns();
	return 0;
}

/*
 * warm_ring writes to the memory of the ring before there are records. What nobody has written to yet costs each record as much again as writing it: in a
 * virtual machine, and one whose kernel has page tables of its own, the first touch of a page is a long way.
 */
SEC("syscall")
int warm_ring(struct warm_arg *a)
{
	struct ring_head *r = ring();
	__u64 at = a->from;

	if (!r)
		return 0;
	for (int i = 0; i < RING_WARMED / 4096; i++, at += 4096)
		*(volatile __u64 *)((char *)r + RING_RECORDS + (at & ring_mask)) = 0;
	return 0;
}

/* on_recorded is the end of a call of interest. It is a function of its own so that the others find their way out of on_call at once. */
static __noinline int on_recorded(struct pt_regs *regs, __u64 nr, __s64 ret)
{
	__u32 kind;

	asm volatile("" : "+r"(nr)); /* or the compiler compares one copy and indexes with another, which the verifier does not follow */
	if (nr >= NR_CALLS)
		return 0;
	kind = call_kinds[nr];
	return kind == CALL_NONE ? 0 : call_exit(regs, nr, ret, kind);
}

/* sys_exit(regs, ret) */
SEC("tp_btf/sys_exit")
int on_call(__u64 *ctx)
{
	struct pt_regs *regs = (void *)ctx[0];
	__u64 nr = regs_nr(regs);

	return may_record(nr) ? on_recorded(regs, nr, ctx[1]) : 0;
}
