/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What knows the processor: registers, what a thread has beside them, and in which order others see what is written. Each architecture
 * has a file with the same few types and functions, and one with the numbers of system calls.
 */
#ifndef BPFCKPT_ARCH_H
#define BPFCKPT_ARCH_H

#include "core.h"

struct mm_struct;

/* The arguments of a system call. */
struct call_regs {
	__u64 args[6];
};

#if defined(__TARGET_ARCH_x86)
#include "arch_x86.h"
#elif defined(__TARGET_ARCH_arm64)
#include "arch_arm64.h"
#else
#error "there are files for x86 and arm64"
#endif

#endif
