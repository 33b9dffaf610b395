/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The ring in which records go to the reader: memory that it maps. A writer takes the next place by one compare-and-swap, and marks the record
 * as whole when it is. The kernel's own kind of ring buffer takes a lock for each record and goes through twice as many pages; here it
 * only serves to wake the reader.
 *
 * Positions count bytes since the beginning. A record lies in one piece, also when it begins shortly before the end: the spill behind the
 * end is part of the map. The reader clears what it has read, so that where a record will begin there is 0 until it is whole.
 */
#ifndef BPFCKPT_RING_H
#define BPFCKPT_RING_H

#include "abi.h"
#include "arch.h"
#include "core.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, 1024); /* BPF_F_MMAPABLE */
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, RING_RECORDS + 4096 + RING_SPILL); /* user space sets it */
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} waker SEC(".maps");

/* User space sets these before it loads the programs. */
const volatile __u64 ring_mask = 4095; /* size of the ring, a power of two, less one */
const volatile __u64 wake_bytes = 512; /* how much must wait in the ring before its reader is woken, a power of two */

/* How often another may be faster in taking a place before a record is given up. */
#define RING_TRIES 16

static __always_inline struct ring_head *ring(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&events, &zero);
}

/* What a record takes up, with its own head and up to where the next begins. */
#define RING_SIZE(size) (sizeof(__u64) + (((size) + 7) & ~7ULL))

/* ring_take takes the next place for a record, NULL if there is none. */
static __always_inline void *ring_take(__u64 size)
{
	struct ring_head *r = ring();
	__u64 taken, at, need = RING_SIZE(size);

	if (!r)
		return NULL;
	for (int i = 0; i < RING_TRIES; i++) {
		taken = *(volatile __u64 *)&r->taken; /* first: whatever happens in between, it is not ahead of what has been filled */
		at = read_after(&r->filled, taken);
		if (at + need - taken > ring_mask + 1)
			return NULL;
		if (__sync_val_compare_and_swap(&r->filled, at, at + need) == at)
			return (char *)r + RING_RECORDS + ATOMIC_AT(at & ring_mask) + sizeof(__u64);
	}
	return NULL;
}

static __noinline void ring_wake(void)
{
	__u64 nothing = 0;

	bpf_ringbuf_output(&waker, &nothing, sizeof(nothing), BPF_RB_FORCE_WAKEUP); /* if there is no room the reader has been woken often enough */
}

/*
 * ring_done marks a record as whole, and wakes the reader when another wake_bytes wait: a wake-up costs more than a record. No record is longer than the stretch
 * behind such a mark in which that is done, so one at least ends in it, but for what several processors do at once; then the next mark is soon there.
 */
static __always_inline void ring_done(void *record, __u64 size)
{
	struct ring_head *r = ring();
	__u64 taken, waiting;

	write_released(record - sizeof(__u64), RING_SIZE(size));
	if (!r)
		return;
	taken = *(volatile __u64 *)&r->taken;
	waiting = *(volatile __u64 *)&r->filled - taken;
	if (waiting >= wake_bytes && (waiting & (wake_bytes - 1)) < RING_SPILL)
		ring_wake();
}

#endif
