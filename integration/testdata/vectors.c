// Register sets that are live at the stop: the loops keep every register of a kind busy and never store one before the
// end. vectors KIND [TURNS]: KIND is sse, avx2, avx512 or x87. Exit status 3 if the CPU lacks the kind.
#include "ckpt.h"
#include <cpuid.h>
#include <immintrin.h>

static uint64_t turns = 1500 * 1000 * 1000ULL;

// Every lane of every register begins with a number of its own and is increased by 1 each turn.
static void check_lanes(const uint32_t *lanes, size_t n, uint64_t done)
{
	for (size_t i = 0; i < n; i++) {
		if (lanes[i] != (uint32_t)(i * 2654435761U + done)) {
			differs("lane %zu: have %08x, want %08x", i, lanes[i], (uint32_t)(i * 2654435761U + done));
			return;
		}
	}
}

static void seed(uint32_t *lanes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		lanes[i] = (uint32_t)(i * 2654435761U);
}

#define EACH14(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) op(13)
#define YLOAD(n) "vmovdqu " #n "*32(%[lanes]), %%ymm" #n "\n\t"
#define YADD(n) "vpsubd %%ymm15, %%ymm" #n ", %%ymm" #n "\n\t"
#define YSTORE(n) "vmovdqu %%ymm" #n ", " #n "*32(%[lanes])\n\t"

static void avx2(void)
{
	static uint32_t lanes[14 * 8];
	uint64_t left = turns;
	seed(lanes, COUNT(lanes));
	say_ready();
	__asm__ volatile(EACH14(YLOAD) "vpcmpeqd %%ymm15, %%ymm15, %%ymm15\n" // all ones: subtracting it adds 1
				       "1:\n\t" EACH14(YADD) "dec %[left]\n\tjnz 1b\n\t" EACH14(YSTORE) "vzeroupper"
			 : [left] "+r"(left)
			 : [lanes] "r"(lanes)
			 : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
			   "xmm12", "xmm13", "xmm14", "xmm15");
	check_lanes(lanes, COUNT(lanes), turns);
}

#define EACH30(op)                                                                                                                   \
	EACH14(op) op(14) op(15) op(16) op(17) op(18) op(19) op(20) op(21) op(22) op(23) op(24) op(25) op(26) op(27) op(28) op(29)
#define ZLOAD(n) "vmovdqu32 " #n "*64(%[lanes]), %%zmm" #n "\n\t"
#define ZADD(n) "vpsubd %%zmm31, %%zmm" #n ", %%zmm" #n "\n\t"
#define ZSTORE(n) "vmovdqu32 %%zmm" #n ", " #n "*64(%[lanes])\n\t"

static void __attribute__((target("avx512f"))) avx512(void)
{
	static uint32_t lanes[30 * 16];
	uint64_t left = turns, masks[2] = {0};
	seed(lanes, COUNT(lanes));
	say_ready();
	__asm__ volatile("mov $0x5aa5, %%eax\n\tkmovw %%eax, %%k1\n\tmov $0x1234, %%eax\n\tkmovw %%eax, %%k7\n\t" EACH30(
				 ZLOAD) "vpternlogd $0xff, %%zmm31, %%zmm31, %%zmm31\n"
					"1:\n\t" EACH30(ZADD) "dec %[left]\n\tjnz 1b\n\t" EACH30(
						ZSTORE) "kmovw %%k1, %%eax\n\tmov %%rax, (%[masks])\n\t"
							"kmovw %%k7, %%eax\n\tmov %%rax, 8(%[masks])\n\tvzeroupper"
			 : [left] "+r"(left)
			 : [lanes] "r"(lanes), [masks] "r"(masks)
			 : "memory", "cc", "rax", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
			   "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22",
			   "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k7");
	check_lanes(lanes, COUNT(lanes), turns);
	expect("k1", masks[0], 0x5aa5);
	expect("k7", masks[1], 0x1234);
}

#define XLOAD(n) "movdqu " #n "*16(%[lanes]), %%xmm" #n "\n\t"
#define XADD(n) "psubd %%xmm15, %%xmm" #n "\n\t"
#define XSTORE(n) "movdqu %%xmm" #n ", " #n "*16(%[lanes])\n\t"

static void sse(void)
{
	static uint32_t lanes[14 * 4];
	uint64_t left = turns;
	unsigned csr = _mm_getcsr();
	_mm_setcsr(csr | 0x6000); // round towards zero
	seed(lanes, COUNT(lanes));
	say_ready();
	__asm__ volatile(EACH14(XLOAD) "pcmpeqd %%xmm15, %%xmm15\n"
				       "1:\n\t" EACH14(XADD) "dec %[left]\n\tjnz 1b\n\t" EACH14(XSTORE)
			 : [left] "+r"(left)
			 : [lanes] "r"(lanes)
			 : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
			   "xmm12", "xmm13", "xmm14", "xmm15");
	check_lanes(lanes, COUNT(lanes), turns);
	expect("MXCSR", _mm_getcsr() & 0x6000, 0x6000);
	_mm_setcsr(csr);
}

// The x87 stack is full, in extended precision, with the control word changed.
static void x87(void)
{
	uint64_t left = turns;
	uint16_t old, control = 0x0f7f, after = 0;
	long double r[8];
	__asm__ volatile("fnstcw %0" : "=m"(old));
	say_ready();
	__asm__ volatile("fldcw %[control]\n\tfldz\n\tfldlg2\n\tfldln2\n\tfldpi\n\tfldl2e\n\tfldl2t\n\tfld1\n\tfldz\n"
			 "1:\n\tfadd %%st(1), %%st(0)\n\tdec %[left]\n\tjnz 1b\n\t"
			 "fstpt (%[r])\n\tfstpt 16(%[r])\n\tfstpt 32(%[r])\n\tfstpt 48(%[r])\n\tfstpt 64(%[r])\n\tfstpt 80(%[r])\n\t"
			 "fstpt 96(%[r])\n\tfstpt 112(%[r])\n\tfnstcw %[after]"
			 : [left] "+r"(left), [after] "=m"(after)
			 : [r] "r"(r), [control] "m"(control)
			 : "memory", "cc", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
	__asm__ volatile("fldcw %0" : : "m"(old));
	expect("control word", after & 0x0f3f, control & 0x0f3f);
	expect("sum", (long long)r[0], (long long)turns);
	if (r[1] != 1.0L || r[4] < 3.14159265358979323846L - 1e-18L || r[4] > 3.14159265358979323847L + 1e-18L || r[7] != 0)
		differs("x87 stack: %Lg %.20Lg %Lg", r[1], r[4], r[7]);
}

static int xcr0(unsigned bits)
{
	unsigned a, b, c, d;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return (a & bits) == bits;
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";
	if (argc > 2)
		turns = strtoull(argv[2], NULL, 10);
	if (strcmp(kind, "sse") == 0)
		sse();
	else if (strcmp(kind, "x87") == 0)
		x87();
	else if (strcmp(kind, "avx2") == 0 && __builtin_cpu_supports("avx2") && xcr0(0x6))
		avx2();
	else if (strcmp(kind, "avx512") == 0 && __builtin_cpu_supports("avx512f") && xcr0(0xe6))
		avx512();
	else
		return 3;
	if (differences == 0)
		printf("OK\n");
	return differences != 0;
}
