/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* arm64 (arch/arm64/include/asm/ptrace.h, processor.h, memory.h). */
#ifndef BPFCKPT_ARCH_ARM64_H
#define BPFCKPT_ARCH_ARM64_H

#include "abi.h"
#include "core.h"

/* Of the kernel's stack of a thread, bytes: the least there is (MIN_THREAD_SHIFT). With larger pages it is larger, and a timer further up not seen. */
#define THREAD_SIZE (16 << 10)

struct pt_regs {
	__u64 regs[31];
	__u64 pstate;
	__u64 orig_x0;
	__s32 syscallno;
} CORE;

struct debug_info {
	void *hbp_break[16], *hbp_watch[16]; /* ARM_MAX_BRP, ARM_MAX_WRP */
} CORE;

struct thread_struct {
	struct debug_info debug;
} CORE;

struct task_struct___arch {
	struct thread_struct thread;
} CORE;

/* regs_nr is the number of the system call that registers are of, all ones if they are of none. */
static __always_inline __u64 regs_nr(struct pt_regs *regs) { return (__s64)regs->syscallno; }

/*
 * regs_result is the result of a system call that is over. Of one that is interrupted it is gone before anybody can look: the registers
 * are already those that make the call again (arch/arm64/kernel/signal.c, do_signal). So nothing tells that there is a restart block.
 * lacks: InterruptedCalls
 */
static __always_inline __u64 regs_result(struct pt_regs *regs) { return regs->regs[0]; }

/* regs_mode tells 64-bit code from other code: the mode of the processor, PSR_MODE32_BIT of which is set for the latter. */
static __always_inline __u32 regs_mode(struct pt_regs *regs) { return regs->pstate & 0x1f; }

/* call_args reads the arguments of a system call at its exit: the first is in orig_x0, for x0 has the result. */
static __always_inline void call_args(struct call_regs *c, struct pt_regs *regs)
{
	c->args[0] = regs->orig_x0;
	c->args[1] = regs->regs[1];
	c->args[2] = regs->regs[2];
	c->args[3] = regs->regs[3];
	c->args[4] = regs->regs[4];
	c->args[5] = regs->regs[5];
}

/* call_arg is argument n of the function whose first instruction a uprobe is on, whose context begins with x0, x1, ... */
static __always_inline __u64 call_arg(const void *regs, __u32 n)
{
	return *(const __u64 *)((const char *)regs + 8 * n);
}

/* any_set tells whether one of 16 pointers is set. A function of its own has a stack of its own. */
static __noinline bool any_set(void *const *list)
{
	__u64 p[16] = {}, any = 0;

	bpf_probe_read_kernel(p, sizeof(p), list);
	for (int i = 0; i < 16; i++)
		any |= p[i];
	return any != 0;
}

/* arch_bits are the bits of enum thread_bit for what a thread of this architecture alone can have. */
static __always_inline __u32 arch_bits(struct task_struct *task)
{
	struct task_struct___arch *t = (void *)task;

	return any_set(t->thread.debug.hbp_break) || any_set(t->thread.debug.hbp_watch) ? THREAD_BREAKPOINT : 0;
}

/* has_ldt: there are no segments. */
static __always_inline bool has_ldt(struct mm_struct *mm) { return false; }

/*
 * The processor reorders reads and writes. Of what BPF has, an atomic operation that returns the old value keeps them all in order
 * (Documentation/bpf/standardization/instruction-set.rst: BPF_FETCH, BPF_XCHG and BPF_CMPXCHG are fully ordered; arch/arm64/net/bpf_jit_comp.c
 * makes SWPAL, LDSETAL, CASAL of them, or a loop and DMB ISH). Store-release is an instruction since Linux 6.15 only.
 */

/* write_released writes a word after all that was written before it. */
static __always_inline void write_released(__u64 *at, __u64 value) { __sync_lock_test_and_set(at, value); }

/* read_after reads a word after another, which gave the value earlier: its address depends on that (to the processor, which adds 0). */
static __always_inline __u64 read_after(__u64 *at, __u64 earlier)
{
	asm volatile("%0 &= 0" : "+r"(earlier));
	return *(volatile __u64 *)((char *)at + earlier);
}

/* or_before sets bits of a word before what the processor does to memory next. A result that is used makes it one of those operations. */
#define or_before(at, bits)                                   \
	({                                                    \
		__u64 __old = __sync_fetch_and_or(at, bits);  \
		asm volatile("" ::"r"(__old));                \
	})

/* ATOMIC_AT is the offset of a word that write_released writes: the verifier wants to see that it is aligned. */
#define ATOMIC_AT(offset) ((offset) & ~7ULL)

#endif
