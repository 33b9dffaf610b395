// SPDX-License-Identifier: Apache-2.0
//
// The stub every restored process starts as, and the code that runs in it. Built with
//   gcc -nostdlib -static -Wl,-N,-z,noseparate-code,--build-id=none,-Ttext=... (see generate.sh)
// The restorer drives it with ptrace and knows the labels by their offsets from _start (layout test in stub_test.go).

	.text
	.globl _start

// +0: wait to be seized. The restorer sets every register it needs, there is no argument.
_start:
	mov $34, %eax		// pause(2)
	syscall
	jmp _start

// +16: one system call for ptrace: the instruction the restorer points rip at.
	.balign 16
call:
	syscall
	int3

// +32: run a batch. rbx points to the records, rbp behind the last one. A record is 72 bytes:
//   nr, six arguments, result, flags; all 64 bits. Flag 1: an error result does not end the batch.
// Ends with int3; rbx then points to the record that failed, or equals rbp. Needs no stack.
	.balign 16
batch:
	cmp %rbp, %rbx
	jae 2f
	mov 0(%rbx), %rax
	mov 8(%rbx), %rdi
	mov 16(%rbx), %rsi
	mov 24(%rbx), %rdx
	mov 32(%rbx), %r10
	mov 40(%rbx), %r8
	mov 48(%rbx), %r9
	syscall
	mov %rax, 56(%rbx)
	testb $1, 64(%rbx)
	jnz 1f
	cmp $-4095, %rax
	jae 2f
1:
	add $72, %rbx
	jmp batch
2:
	int3

// +128: be the init of a pid namespace: reap children until the one in r12 ends, write its wait status to descriptor r13, exit.
// The stack pointer must be valid.
	.balign 128
init:
	mov $61, %eax		// wait4(-1, rsp-64, __WALL, NULL)
	mov $-1, %rdi
	lea -64(%rsp), %rsi
	mov $0x40000000, %edx
	xor %r10d, %r10d
	syscall
	cmp %eax, %r12d
	je 3f
	cmp $-10, %rax		// ECHILD: the child we wait for is gone without us; nothing can follow
	jne init
	movl $-1, -64(%rsp)	// no wait status reads like this
3:
	mov $1, %eax		// write(r13, rsp-64, 4)
	mov %r13, %rdi
	lea -64(%rsp), %rsi
	mov $4, %edx
	syscall
	mov $231, %eax		// exit_group(0)
	xor %edi, %edi
	syscall
	.balign 256, 0xcc
