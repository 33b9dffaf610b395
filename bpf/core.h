/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The little of the BPF programming environment that the probes use: integer types, helper functions by number
 * (include/uapi/linux/bpf.h, stable), and access to kernel structures through CO-RE relocations.
 *
 * Kernel structures are declared here and in the object headers with only the members we read; the loader moves every access to where
 * the running kernel has the member. A declaration named x___y is kernel type x as another kernel release has it.
 */
#ifndef BPFCKPT_CORE_H
#define BPFCKPT_CORE_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed int __s32;
typedef signed long long __s64;
typedef _Bool bool;

#define true 1
#define false 0

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
#define CORE __attribute__((preserve_access_index))
#define NULL ((void *)0)

/* Map definitions as the loader reads them from BTF. */
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};

enum { BPF_RB_FORCE_WAKEUP = 2, BPF_F_NO_PREALLOC = 1 };

/* Kernel structures that only ever occur behind a pointer here. */
struct seq_file;
struct path;
struct task_struct;
struct pt_regs;

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static __u64 (*bpf_get_current_pid_tgid)(void) = (void *)14;
static long (*bpf_probe_read_user)(void *dst, __u32 size, const void *src) = (void *)112;
static long (*bpf_probe_read_kernel)(void *dst, __u32 size, const void *src) = (void *)113;
static long (*bpf_probe_read_user_str)(void *dst, __u32 size, const void *src) = (void *)114;
static long (*bpf_probe_read_kernel_str)(void *dst, __u32 size, const void *src) = (void *)115;
static long (*bpf_seq_write)(struct seq_file *m, const void *data, __u32 len) = (void *)127;
static long (*bpf_ringbuf_output)(void *ring, void *data, __u64 size, __u64 flags) = (void *)130;
static long (*bpf_d_path)(struct path *path, char *buf, __u32 size) = (void *)147;
static void *(*bpf_task_storage_get)(void *map, struct task_struct *task, void *value, __u64 flags) = (void *)156;
static struct task_struct *(*bpf_get_current_task_btf)(void) = (void *)158;
static long (*bpf_snprintf)(char *str, __u32 size, const char *fmt, __u64 *data, __u32 data_len) = (void *)165;
static __u64 (*bpf_get_attach_cookie)(void *ctx) = (void *)174;
static struct pt_regs *(*bpf_task_pt_regs)(struct task_struct *task) = (void *)175;
static long (*bpf_loop)(__u32 nr_loops, void *callback, void *ctx, __u64 flags) = (void *)181;

/* Relocations that yield numbers: is a member there, where is it, how large is it (clang, BPF_FIELD_*). */
#define core_exists(field) __builtin_preserve_field_info(field, 2)
#define core_offset(type, member) __builtin_preserve_field_info(((type *)0)->member, 0)
#define core_size(field) __builtin_preserve_field_info(field, 1)

/*
 * core_read reads a member through a pointer the verifier does not know (from a list walk, a container_of), and pointers out of a
 * trusted one such as the task of an iterator: for each of those loads the verifier of Linux 6.3 and later searches all type names
 * of the kernel, four times, which takes it a millisecond or two.
 */
#define core_read(dst, src) bpf_probe_read_kernel((void *)&(dst), sizeof(dst), &(src))

/*
 * core_ptr is core_read as an expression: a pointer member that is compared or read through with core_read, not dereferenced. The
 * structure must not be const: the compiler would take the member for NULL.
 */
#define core_ptr(src)                       \
	({                                  \
		typeof(src) __p = NULL;     \
		core_read(__p, src);        \
		__p;                        \
	})

/* bpf_rdonly_cast (Linux 6.2) gives a pointer a type by its number in the kernel's BTF. The verifier turns the call into a move. */
extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __attribute__((section(".ksyms"), weak));

/*
 * core_at is the value of a member of the structure p points to, wherever p is from, as core_read reads it. Where the kernel can, it is a
 * load that yields 0 if it faults, which takes a fifth of the time of the helper: for what is read with every event or every mapping.
 */
#define core_at(p, member)                                                                                          \
	({                                                                                                          \
		typeof(p) __p = (p);                                                                                \
		typeof((p)->member) __v = 0;                                                                        \
		if (bpf_rdonly_cast)                                                                                \
			__v = ((typeof(p))bpf_rdonly_cast(__p, __builtin_btf_type_id(*(typeof(p))0, 1)))->member; \
		else                                                                                                \
			core_read(__v, __p->member);                                                                \
		__v;                                                                                                \
	})

/*
 * core_bits reads a bit-field member of a structure whose type the verifier knows. The relocations give the bytes that hold it and the
 * shifts that isolate it (BPF_FIELD_BYTE_OFFSET, LSHIFT_U64, RSHIFT_U64).
 */
#define core_bits(s, member)                                                                                          \
	({                                                                                                            \
		__u64 __v = 0;                                                                                        \
		__u32 __n = __builtin_preserve_field_info((s)->member, 1);                                            \
		if (__n > 8)                                                                                          \
			__n = 8;                                                                                      \
		bpf_probe_read_kernel(&__v, __n, (const char *)(s) + __builtin_preserve_field_info((s)->member, 0)); \
		__v <<= __builtin_preserve_field_info((s)->member, 4);                                                \
		__v >>= __builtin_preserve_field_info((s)->member, 5);                                                \
		__v;                                                                                                  \
	})

#endif
