/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* x86-64 (arch/x86/include/asm/ptrace.h, processor.h, page_64_types.h). */
#ifndef BPFCKPT_ARCH_X86_H
#define BPFCKPT_ARCH_X86_H

#include "abi.h"
#include "core.h"

#define THREAD_SIZE (16 << 10) /* of the kernel's stack of a thread, bytes */

struct pt_regs {
	unsigned long r10, r9, r8, ax, dx, si, di, orig_ax, cs;
} CORE;

struct desc_struct {
	__u64 raw;
};

struct thread_struct {
	struct desc_struct tls_array[3];
	void *ptrace_bps[4];
	void *io_bitmap;
	unsigned long iopl_emul;
} CORE;

struct task_struct___arch {
	struct thread_struct thread;
} CORE;

typedef struct {
	void *ldt;
} CORE mm_context_t;

struct mm_struct___arch {
	mm_context_t context;
} CORE;

/* regs_nr is the number of the system call that registers are of, all ones if they are of none. */
static __always_inline __u64 regs_nr(struct pt_regs *regs) { return regs->orig_ax; }

/* regs_result is the result of a system call that is over or interrupted. */
static __always_inline __u64 regs_result(struct pt_regs *regs) { return regs->ax; }

/* regs_mode tells 64-bit code from other code: the code segment. */
static __always_inline __u32 regs_mode(struct pt_regs *regs)
{
	__u16 cs = 0;

	core_read(cs, regs->cs);
	return cs;
}

/* call_args reads the arguments of a system call at its exit: they are still there. */
static __always_inline void call_args(struct call_regs *c, struct pt_regs *regs)
{
	c->args[0] = regs->di;
	c->args[1] = regs->si;
	c->args[2] = regs->dx;
	c->args[3] = regs->r10;
	c->args[4] = regs->r8;
	c->args[5] = regs->r9;
}

/*
 * call_arg is argument n, one of the first three, of the function whose first instruction a uprobe is on. The context of a uprobe is the
 * kernel's struct pt_regs itself, which the verifier accepts only at fixed offsets: di 112, si 104, dx 96.
 */
static __always_inline __u64 call_arg(const void *regs, __u32 n)
{
	return *(const __u64 *)((const char *)regs + 112 - 8 * n);
}

/* arch_bits are the bits of enum thread_bit for what a thread of this architecture alone can have. */
static __always_inline __u32 arch_bits(struct task_struct *task)
{
	struct task_struct___arch *t = (void *)task;
	__u64 tls[3] = {}, bps[4] = {};
	__u32 bits = 0;

	bpf_probe_read_kernel(bps, sizeof(bps), &t->thread.ptrace_bps);
	bpf_probe_read_kernel(tls, sizeof(tls), &t->thread.tls_array);
	bits |= core_ptr(t->thread.io_bitmap) ? THREAD_IO_BITMAP : 0;
	bits |= t->thread.iopl_emul ? THREAD_IOPL : 0;
	bits |= bps[0] | bps[1] | bps[2] | bps[3] ? THREAD_BREAKPOINT : 0;
	bits |= tls[0] | tls[1] | tls[2] ? THREAD_TLS_ARRAY : 0;
	return bits;
}

/* has_ldt tells whether an mm has a local descriptor table (modify_ldt(2)). */
static __always_inline bool has_ldt(struct mm_struct *mm) { return ((struct mm_struct___arch *)mm)->context.ldt != NULL; }

/* The order of writes and of reads is kept by the processor; only the compiler has to be told. */

/* write_released writes a word after all that was written before it. */
static __always_inline void write_released(__u64 *at, __u64 value)
{
	asm volatile("" ::: "memory");
	*(volatile __u64 *)at = value;
}

/* read_after reads a word after another, which gave the value earlier. */
static __always_inline __u64 read_after(__u64 *at, __u64 earlier) { return *(volatile __u64 *)at; }

/* or_before sets bits of a word before what the processor does to memory next. */
#define or_before(at, bits) ((void)__sync_fetch_and_or(at, bits))

/* ATOMIC_AT is the offset of a word that write_released writes. */
#define ATOMIC_AT(offset) (offset)

#endif
