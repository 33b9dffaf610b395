/* System calls and the program entry for x86-64, without a C library. Another architecture needs a file like this one. */
#ifndef BPFCKPT_SYS_H
#define BPFCKPT_SYS_H

#include <asm/unistd.h>

static inline long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

#define sys(nr, a, b, c, d) sys6((nr), (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

/* start_thread starts fn(arg) on the given stack with everything shared. fn must not return. */
static inline long start_thread(unsigned long flags, void *stack_top, void (*fn)(void *), void *arg)
{
	void **sp = stack_top;
	long ret;

	*--sp = arg;
	*--sp = fn;
	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "pop %%rax\n\t"
			 "pop %%rdi\n\t"
			 "and $-16, %%rsp\n\t"
			 "call *%%rax\n\t"
			 "hlt\n"
			 "1:"
			 : "=a"(ret)
			 : "a"((long)__NR_clone), "D"(flags), "S"(sp), "d"(0L)
			 : "rcx", "r11", "memory");
	return ret;
}

/* What a handler returns to, as every C library has it. Without one nothing could make a system call inside the process (internal/ptrace,
   injection), which no real program is like. */
__asm__(".globl restorer\n"
	"restorer:\n\t"
	"mov $15, %rax\n\t" /* rt_sigreturn */
	"syscall\n\t"
	"ret\n");

/* The kernel enters with argc, argv, envp and auxv on the stack. */
__asm__(".globl _start\n"
	"_start:\n\t"
	"xor %ebp, %ebp\n\t"
	"mov %rsp, %rdi\n\t"
	"and $-16, %rsp\n\t"
	"call start_c\n\t"
	"hlt\n");

#endif
