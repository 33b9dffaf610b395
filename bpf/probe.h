/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What all probes share: whom a watch follows, and how a record gets into the ring.
 *
 * A thread is followed if it has an entry in `tasks`. The entry is made when the watch begins, by an iterator, and for new threads of
 * followed ones before their first instruction, by the fork probe. Everything else about a followed thread hangs on its mm, for the order
 * of changes of mappings, or its thread group, where losses are noted.
 */
#ifndef BPFCKPT_PROBE_H
#define BPFCKPT_PROBE_H

#include "abi.h"
#include "arch.h"
#include "file.h"
#include "mm.h"
#include "ring.h"
#include "signal.h"
#include "task.h"

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, 1); /* BPF_F_NO_PREALLOC */
	__type(key, int);
	__type(value, struct watched);
} tasks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, 1);
	__type(key, __u64);
	__type(value, struct watched_mm);
} mms SEC(".maps");

/* How many of mms fall into each bucket: every process pays for a look at it, and few for the search in the map. */
#define MM_BUCKETS 4096
__u32 mm_buckets[MM_BUCKETS];

/*
 * mm_bucket goes by the lower half of the address: an mm_struct is larger than a kilobyte and begins on a cache line. Of what may be a
 * pointer the verifier allows no other arithmetic than a subtraction of 32 bits, after which it takes it for a number.
 */
static __always_inline __u32 *mm_bucket(__u64 mm)
{
	__u64 n;

	asm volatile("r1 = %1; w1 -= 0; %0 = r1" : "=r"(n) : "r"(mm) : "r1");
	return &mm_buckets[(n >> 8 ^ n >> 20) % MM_BUCKETS];
}

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, 1);
	__type(key, __s32);
	__type(value, struct watched_group);
} groups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct watch_stats);
} stats SEC(".maps");

const volatile __u32 reader_level; /* depth of the reader's pid namespace; user space sets it before it loads the programs */

enum { BPF_NOEXIST = 1, BPF_LOCAL_STORAGE_GET_F_CREATE = 1 };

/* lose notes that a record about a part of a thread group did not fit. */
static __noinline void lose(__s32 pid, __u32 part)
{
	__u32 zero = 0;
	struct watch_stats *s = bpf_map_lookup_elem(&stats, &zero);
	struct watched_group *g = bpf_map_lookup_elem(&groups, &pid);

	if (s)
		s->lost++;
	if (g) { /* in this order: whoever sees the count sees the part */
		or_before(&g->lost, part);
		__sync_fetch_and_add(&g->lost_events, 1);
	}
}

/* event_new takes the next place in the ring for a record about a followed thread, or notes the loss. event_done hands it over. */
#define event_new(type, what, w, call, result, part)                                            \
	({                                                                                      \
		type *__e = ring_take(sizeof(type));                                            \
		struct ev_head *__h = (void *)__e;                                              \
		_Static_assert(RING_SIZE(sizeof(type)) <= RING_SPILL, "longer than the spill"); \
		if (__h) {                                                                      \
			__h->kind = (what);                                                     \
			__h->nr = (call);                                                       \
			__h->pid = (w)->pid;                                                    \
			__h->tid = (w)->tid;                                                    \
			__h->pad = 0;                                                           \
			__h->ret = (result);                                                    \
		} else {                                                                        \
			lose((w)->pid, (part));                                                 \
		}                                                                               \
		__e;                                                                            \
	})

#define event_done(e) ring_done(e, sizeof(*(e)))

/* Most threads have no storage of any kind, which is faster to see than to ask for ours. */
static __always_inline struct watched *followed(struct task_struct *t)
{
	if (core_exists(t->bpf_storage) && !core_at(t, bpf_storage))
		return NULL;
	return bpf_task_storage_get(&tasks, t, NULL, 0);
}

/* nr_of is the number of a struct pid at the reader's level. */
static __noinline __s32 nr_of(const struct pid *pid)
{
	__s32 nr = 0;
	__u64 ns;

	return upid_at(pid, reader_level, &nr, &ns) ? nr : 0;
}

#endif
