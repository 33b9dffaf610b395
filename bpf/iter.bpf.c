//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * One-shot iterators: the state of thread groups as the kernel holds it, in one pass each over their threads, mappings and
 * descriptors. User space links each to one thread group (union bpf_iter_link_info, Linux 6.1).
 *
 * Records are put together in global variables, which is why one collection must not be read by two readers at a time.
 */
#include "iter.h"

char LICENSE[] SEC("license") = "GPL";

/* Enumerations reach the BTF, and so the Go bindings, only when something has their type. */
const enum rec_kind *abi_rec_kind;
const enum ns_bit *abi_ns_bit;
const enum thread_bit *abi_thread_bit;
const enum vma_bit *abi_vma_bit;
const enum inode_bit *abi_inode_bit;
const struct wait_rec *abi_wait_rec;

static __always_inline __u64 turns_of(struct mm_struct *mm)
{
	return 0;
}
