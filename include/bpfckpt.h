/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Critical sections, in which no snapshot may be taken.
 *
 *	bpfckpt_hold();
 *	... what must be saved as a whole or not at all: a file and the offset kept of it, a job and its acknowledgement ...
 *	bpfckpt_release();
 *
 * Both functions are empty. A watch (bpfckpt watch, bpfckpt run) sees a thread pass them, and a snapshot waits until no thread of the
 * process, or of one below it, is between the two. If that does not happen within some seconds it fails with E_HELD, and the program runs on.
 *
 * Without a watch a call costs a few instructions; with one, a breakpoint: a microsecond or so. There is no library to link, and nothing
 * changes when bpfckpt is not there.
 *
 * Critical sections are a thread's own, and nest: as many releases as holds. A thread that ends has left its critical sections, and so has a process that executes
 * another program; a child made by fork(2) is in those of the thread that made it. A release without a hold does nothing. What longjmp, an
 * exception or a coroutine carries out of a critical section without a release is still in it.
 *
 * A watch that begins while a thread is in a critical section cannot know that; no snapshot is taken during its first second, in which most critical sections end. Let `bpfckpt run` start the program, or begin the watch before the
 * first critical section; else the snapshot says so in a note. Without any watch a snapshot of a program with critical sections is refused.
 *
 * Include this file wherever it is needed, in C (gcc, clang) or C++. Each file that uses it has copies of its own of the functions, and an ELF
 * note for each (section .note.bpfckpt: name "bpfckpt/1", type 1 for hold and 2 for release, 8 bytes: the distance from themselves
 * to a nop in the function). Notes are loaded with the program: they are found in position-independent, static and stripped
 * executables and in shared libraries alike, whatever is exported. Only a program that was packed (UPX) or whose notes were removed
 * (objcopy -R .note.bpfckpt) has none, and is taken for one without critical sections. `readelf -n` shows them.
 */
#ifndef BPFCKPT_H
#define BPFCKPT_H

#if defined(__ELF__) && (defined(__GNUC__) || defined(__clang__)) && defined(__LP64__)

/* The "?" puts the note into the group of the code, if that has one: the linker keeps or drops both. */
#define BPFCKPT_MARK_(type)                                         \
	"990:	nop\n"                                              \
	"	.pushsection .note.bpfckpt,\"a?\",\"note\"\n"       \
	"	.balign 4\n"                                        \
	"	.4byte 10, 8, " #type "\n"                          \
	"	.asciz \"bpfckpt/1\"\n"                             \
	"	.balign 4\n"                                        \
	"	.8byte 990b - .\n"                                  \
	"	.popsection\n"

/* From here on the calling thread is in a critical section. */
static __attribute__((noinline, unused)) void bpfckpt_hold(void)
{
	__asm__ __volatile__(BPFCKPT_MARK_(1) : : : "memory");
}

/* Ends the critical section that the last bpfckpt_hold of the calling thread began. The second nop keeps linkers from folding the two functions into one. */
static __attribute__((noinline, unused)) void bpfckpt_release(void)
{
	__asm__ __volatile__(BPFCKPT_MARK_(2) "	nop\n" : : : "memory");
}

#undef BPFCKPT_MARK_

#else /* no bpfckpt for this target: no critical sections either */

static inline void bpfckpt_hold(void)
{
}

static inline void bpfckpt_release(void)
{
}

#endif

#endif
