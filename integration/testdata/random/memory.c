// Memory that belongs to no file: protections, flags, advice, policies.
#include "random.h"
#include <linux/mempolicy.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 // asm-generic/mman-common.h, Linux 6.13
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08 // linux/mman.h, Linux 6.11
#endif

enum { LEN = 6 * 4096 };

static void set_private(struct item *it)
{
	it->p = anon(LEN);
	fill(it->p, LEN, it->random);
	memset(it->p + PAGE, 0, PAGE);
	must(madvise(it->p + 3 * PAGE, PAGE, MADV_DONTNEED));
}

static void check_private(struct item *it)
{
	static char zero[4096];
	check_fill("first page", it->p, PAGE, it->random);
	expect_mem("zeroed page", it->p + PAGE, zero, PAGE);
	expect_mem("dropped page", it->p + 3 * PAGE, zero, PAGE);
	check_fill("last pages", it->p + 4 * PAGE, 2 * PAGE, it->random + 4 * PAGE / 8);
}

static void set_protected(struct item *it)
{
	it->p = anon(LEN);
	fill(it->p, LEN, it->random);
	memcpy(it->p, "\xb8\x2a\x00\x00\x00\xc3", 6); // mov $42,%eax; ret
	must(mprotect(it->p, LEN, (int)it->feature->arg));
}

static void check_protected(struct item *it)
{
	char b[128], want[8];
	snprintf(want, sizeof want, "%c%c%cp", it->feature->arg & PROT_READ ? 'r' : '-', it->feature->arg & PROT_WRITE ? 'w' : '-',
		 it->feature->arg & PROT_EXEC ? 'x' : '-');
	snprintf(b, sizeof b, "%lx", (unsigned long)it->p);
	char *rights = strchr(smaps(it->p, b, b, sizeof b), ' ');
	if (rights == NULL || strncmp(rights + 1, want, 4) != 0)
		differs("protection %s, want %s", b, want);
	if (it->feature->arg & PROT_EXEC)
		expect("code", ((int (*)(void))(void *)it->p)(), 42);
	must(mprotect(it->p, LEN, PROT_READ | PROT_WRITE));
	check_fill("content", it->p + PAGE, LEN - PAGE, it->random + PAGE / 8);
}

static void set_shared(struct item *it)
{
	it->p = map(LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	fill(it->p, 2 * PAGE, it->random);
	it->q = must(mremap(it->p, 0, LEN, MREMAP_MAYMOVE)); // a second mapping of the same pages
	if (it->feature->arg)
		must(mprotect(it->q, LEN, PROT_READ));
}

static void check_shared(struct item *it)
{
	check_fill("content", it->q, 2 * PAGE, it->random);
	it->p[3 * PAGE] = 7;
	expect("still shared", it->q[3 * PAGE], 7);
	expect("a page never written", it->p[4 * PAGE], 0);
}

static void set_grows_down(struct item *it)
{
	// It grows only while nothing accessible is within stack_guard_gap, 256 pages: what lies below is not.
	char *area = map(400 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(munmap(area + 380 * PAGE, 20 * PAGE));
	it->p = must(mmap(area + 398 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0));
	fill(it->p, 2 * PAGE, it->random);
	if (it->feature->arg) {
		it->p[-1] = 9;
		it->p[-(long)(2 * PAGE)] = 8;
	}
}

static void check_grows_down(struct item *it)
{
	check_fill("content", it->p, 2 * PAGE, it->random);
	if (it->feature->arg)
		expect("grown page", it->p[-1] + it->p[-(long)(2 * PAGE)], 17);
	it->p[-(long)(3 * PAGE)] = 4;
	expect("grows on", it->p[-(long)(3 * PAGE)], 4);
}

static void set_noreserve(struct item *it)
{
	char *area = map((1UL << 32) + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	it->p = area + PAGE; // no neighbour to be merged with
	must(mprotect(it->p, 1UL << 32, PROT_READ | PROT_WRITE));
	fill(it->p + (1UL << 31), PAGE, it->random);
}

static void check_noreserve(struct item *it)
{
	check_fill("content", it->p + (1UL << 31), PAGE, it->random);
	expect("a page never written", it->p[1UL << 30], 0);
	char b[256];
	snprintf(b, sizeof b, "%lx", (unsigned long)it->p);
	if (strstr(smaps(it->p, "VmFlags", b, sizeof b), " nr") == NULL)
		differs("MAP_NORESERVE is gone: %s", b);
}

static void set_locked(struct item *it)
{
	it->p = anon(LEN);
	need(it, it->feature->arg ? (int)syscall(SYS_mlock2, it->p, LEN, 1) : mlock(it->p, LEN));
	fill(it->p, PAGE, it->random);
}

static void check_locked(struct item *it)
{
	unsigned char vec[6];
	check_fill("content", it->p, PAGE, it->random);
	expect_flag(it->p, "lo");
	must(mincore(it->p, LEN, vec));
	expect("resident", vec[4] & 1, !it->feature->arg);
}

static void set_lock_future(struct item *it)
{
	need(it, mlockall((int)it->feature->arg));
}

static void check_lock_future(struct item *it)
{
	char b[256];
	it->p = anon(2 * PAGE);
	int locked = strstr(smaps(it->p, "VmFlags", b, sizeof b), " lo") != NULL;
	expect("new mappings are locked", locked, (it->feature->arg & MCL_FUTURE) != 0);
	char here;
	char *stack = (char *)((unsigned long)&here & ~(PAGE - 1));
	expect("lock of what was there", mlock2(stack, PAGE, 0), 0);
	must(munlockall());
}

static void set_droppable(struct item *it)
{
	it->p = need(it, mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0));
	fill(it->p, PAGE, it->random);
}

static void check_droppable(struct item *it)
{
	expect_flag(it->p, "dp");
	if (*(uint64_t *)it->p != 0) // the kernel may drop it, and whoever restores it too
		check_fill("content", it->p, PAGE, it->random);
	fill(it->p, LEN, 1);
}

static void set_advice(struct item *it)
{
	it->p = anon(LEN);
	fill(it->p, LEN, it->random);
	need(it, madvise(it->p, LEN, (int)it->feature->arg));
	smaps(it->p, "VmFlags", it->text, sizeof it->text);
}

static void check_advice(struct item *it)
{
	char b[256];
	expect_str("flags", smaps(it->p, "VmFlags", b, sizeof b), it->text);
	check_fill("content", it->p, LEN, it->random);
}

// The same of memory that is shared, or of a file.
static void set_advice_elsewhere(struct item *it)
{
	if (it->feature->arg % 1000 != 0) {
		make_file(path_of(it, ""), LEN, it->random);
		int fd = must(open(path_of(it, ""), O_RDWR | O_CLOEXEC));
		it->p = map(LEN, PROT_READ | PROT_WRITE, it->feature->arg % 1000, fd, 0);
		close(fd);
	} else {
		it->p = map(LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		fill(it->p, LEN, it->random);
	}
	long advice = it->feature->arg / 1000;
	need(it, advice == 999 ? mlock(it->p, LEN) : madvise(it->p, LEN, (int)advice));
	smaps(it->p, "VmFlags", it->text, sizeof it->text);
}

static void set_free(struct item *it)
{
	it->p = anon(LEN);
	fill(it->p, LEN, it->random);
	must(madvise(it->p, 3 * PAGE, MADV_FREE));
}

static void check_free(struct item *it)
{
	for (unsigned long at = 0; at < 3 * PAGE; at += PAGE)
		if (*(uint64_t *)(it->p + at) != 0)
			check_fill("page that may be freed", it->p + at, PAGE, it->random + at / 8);
	check_fill("other pages", it->p + 3 * PAGE, 3 * PAGE, it->random + 3 * PAGE / 8);
}

static long long huge_kib(const char *p)
{
	char b[64];
	return atoll(smaps(p, "AnonHugePages", b, sizeof b) + sizeof "AnonHugePages:" - 1);
}

static void set_huge(struct item *it)
{
	enum { huge = 2 << 20 };
	char *area = map(3 * huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	it->p = (char *)(((unsigned long)area + huge) & ~(huge - 1UL));
	must(mprotect(it->p, huge, PROT_READ | PROT_WRITE));
	need(it, madvise(it->p, huge, MADV_HUGEPAGE));
	fill(it->p, huge, it->random);
	it->v[0] = huge_kib(it->p);
}

static void check_huge(struct item *it)
{
	check_fill("content", it->p, 2 << 20, it->random);
	for (int i = 0; i < 2000 && huge_kib(it->p) != it->v[0]; i++)
		nap(5 * MS); // after restore --lazy memory is in huge pages when all of it is there
	expect("KiB in huge pages", huge_kib(it->p), it->v[0]);
}

static void set_guard(struct item *it)
{
	if (it->feature->arg) {
		make_file(path_of(it, ""), LEN, it->random);
		int fd = must(open(path_of(it, ""), O_RDWR));
		it->p = map(LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
		close(fd);
	} else {
		it->p = anon(LEN);
		fill(it->p, LEN, it->random);
	}
	need(it, madvise(it->p + 2 * PAGE, 2 * PAGE, MADV_GUARD_INSTALL));
}

static void check_guard(struct item *it)
{
	int probe[2];
	check_fill("before", it->p, 2 * PAGE, it->random);
	check_fill("behind", it->p + 4 * PAGE, 2 * PAGE, it->random + 4 * PAGE / 8);
	must(pipe(probe));
	expect("write from the guard", write(probe[1], it->p + 2 * PAGE, 1), -1);
	expect("write from the second guard page", write(probe[1], it->p + 3 * PAGE, 1), -1);
	expect("write beside it", write(probe[1], it->p + 4 * PAGE, 1), 1);
	close(probe[0]);
	close(probe[1]);
}

static void set_numa(struct item *it)
{
	unsigned long node = 1;
	it->p = anon(LEN);
	need(it, syscall(SYS_mbind, it->p, LEN, it->feature->arg, it->feature->arg == MPOL_LOCAL ? NULL : &node, 64, 0));
	fill(it->p, LEN, it->random);
}

static void check_numa(struct item *it)
{
	unsigned long have = 0;
	int mode = -1;
	must(syscall(SYS_get_mempolicy, &mode, &have, 64, it->p, MPOL_F_ADDR));
	expect("policy", mode, it->feature->arg);
	expect("nodes", (long long)have, it->feature->arg == MPOL_LOCAL ? 0 : 1);
	check_fill("content", it->p, LEN, it->random);
}

static void set_policy(struct item *it)
{
	unsigned long node = 1;
	need(it, syscall(SYS_set_mempolicy, it->feature->arg, &node, 64));
}

static void check_policy(struct item *it)
{
	int mode = -1;
	must(syscall(SYS_get_mempolicy, &mode, NULL, 0, NULL, 0));
	expect("policy of the thread", mode, it->feature->arg);
}

static void set_named(struct item *it)
{
	char first[32];
	it->p = anon(LEN);
	need(it, prctl(0x53564d41 /* PR_SET_VMA */, 0, it->p, LEN, "my arena"));
	snprintf(first, sizeof first, "%lx", (unsigned long)it->p);
	smaps(it->p, first, it->text, sizeof it->text);
}

static void check_named(struct item *it)
{
	char first[32], b[256];
	snprintf(first, sizeof first, "%lx", (unsigned long)it->p);
	expect_str("line", smaps(it->p, first, b, sizeof b), it->text);
}

static void set_heap(struct item *it)
{
	it->p = sbrk(0);
	must(brk(it->p + 20 * PAGE));
	fill((char *)(((unsigned long)it->p + PAGE) & ~(PAGE - 1)), 10 * PAGE, it->random);
	it->q = sbrk(0);
}

static void check_heap(struct item *it)
{
	if ((char *)sbrk(0) < it->q)
		differs("the break is %p, was %p", sbrk(0), (void *)it->q);
	check_fill("content", (char *)(((unsigned long)it->p + PAGE) & ~(PAGE - 1)), 10 * PAGE, it->random);
	char *end = sbrk(0);
	expect("grow", brk(end + 4 * PAGE), 0);
	end[3 * PAGE] = 1;
}

static void set_many(struct item *it)
{
	enum { n = 300 };
	it->p = anon(2 * n * PAGE);
	for (size_t i = 0; i < n; i++) {
		*(uint64_t *)(it->p + 2 * i * PAGE) = i ^ it->random;
		must(mprotect(it->p + 2 * i * PAGE, PAGE, PROT_READ));
	}
}

static void check_many(struct item *it)
{
	for (size_t i = 0; i < 300; i++)
		expect("word", (long long)*(uint64_t *)(it->p + 2 * i * PAGE), (long long)(i ^ it->random));
}

// Where a mapping may be at all: the lowest address, and the highest below the end of the address space.
static void set_at(struct item *it)
{
	void *p = mmap((void *)it->feature->arg, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	it->p = need(it, p);
	fill(it->p, PAGE, it->random);
}

static void check_at(struct item *it) { check_fill("content", it->p, PAGE, it->random); }

static void set_mergeable_all(struct item *it) { need(it, prctl(67 /* PR_SET_MEMORY_MERGE, Linux 6.4 */, 1, 0, 0, 0)); }

static void check_mergeable_all(struct item *it)
{
	(void)it;
	expect("PR_GET_MEMORY_MERGE", prctl(68, 0, 0, 0, 0), 1);
}

static void set_mdwe(struct item *it) { need(it, prctl(65 /* PR_SET_MDWE, Linux 6.3 */, it->feature->arg, 0, 0, 0)); }

static void check_mdwe(struct item *it)
{
	expect("PR_GET_MDWE", prctl(66, 0, 0, 0, 0), it->feature->arg);
	char *p = anon(PAGE);
	expect("mprotect to execute", mprotect(p, PAGE, PROT_READ | PROT_EXEC), -1);
}

static void set_thp_disable(struct item *it) { need(it, prctl(PR_SET_THP_DISABLE, 1, it->feature->arg, 0, 0)); }

static void check_thp_disable(struct item *it)
{
	expect("PR_GET_THP_DISABLE", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), it->feature->arg ? 3 : 1);
}

static void set_sealed(struct item *it)
{
	it->p = anon(2 * PAGE);
	fill(it->p, 2 * PAGE, it->random);
	need(it, syscall(462 /* mseal, Linux 6.10 */, it->p, 2 * PAGE, 0));
}

static void check_sealed(struct item *it)
{
	check_fill("content", it->p, 2 * PAGE, it->random);
	expect("munmap", munmap(it->p, PAGE), -1);
}

static const struct feature features[] = {
	{"vma private", set_private, check_private},
	{"vma read-only", set_protected, check_protected, PROT_READ},
	{"vma no access", set_protected, check_protected, PROT_NONE},
	{"vma execute", set_protected, check_protected, PROT_READ | PROT_EXEC},
	{"vma write and execute", set_protected, check_protected, PROT_READ | PROT_WRITE | PROT_EXEC},
	{"vma execute-only", set_protected, check_protected, PROT_EXEC},
	{"vma shared", set_shared, check_shared},
	{"vma shared read-only", set_shared, check_shared, 1},
	{"vma grows down", set_grows_down, check_grows_down},
	{"vma grown down", set_grows_down, check_grows_down, 1},
	{"vma no reserve", set_noreserve, check_noreserve},
	{"vma locked", set_locked, check_locked},
	{"vma locked on fault", set_locked, check_locked, 1},
	{"mm lock future", set_lock_future, check_lock_future, MCL_FUTURE, ALONE},
	{"mm lock current", set_lock_future, check_lock_future, MCL_CURRENT, ALONE},
	{"mm lock future on fault", set_lock_future, check_lock_future, MCL_FUTURE | MCL_ONFAULT, ALONE},
	{"mm lock all", set_lock_future, check_lock_future, MCL_CURRENT | MCL_FUTURE, ALONE},
	{"vma droppable", set_droppable, check_droppable},
	{"vma MADV_DONTFORK", set_advice, check_advice, MADV_DONTFORK},
	{"vma MADV_DONTDUMP", set_advice, check_advice, MADV_DONTDUMP},
	{"vma MADV_WIPEONFORK", set_advice, check_advice, MADV_WIPEONFORK},
	{"vma MADV_RANDOM", set_advice, check_advice, MADV_RANDOM},
	{"vma MADV_SEQUENTIAL", set_advice, check_advice, MADV_SEQUENTIAL},
	{"vma MADV_HUGEPAGE", set_advice, check_advice, MADV_HUGEPAGE},
	{"vma MADV_NOHUGEPAGE", set_advice, check_advice, MADV_NOHUGEPAGE},
	{"vma MADV_MERGEABLE", set_advice, check_advice, MADV_MERGEABLE},
	{"vma shared MADV_DONTFORK", set_advice_elsewhere, check_advice, MADV_DONTFORK * 1000 + 0},
	{"vma shared MADV_DONTDUMP", set_advice_elsewhere, check_advice, MADV_DONTDUMP * 1000 + 0},
	{"vma shared MADV_RANDOM", set_advice_elsewhere, check_advice, MADV_RANDOM * 1000 + 0},
	{"vma shared MADV_SEQUENTIAL", set_advice_elsewhere, check_advice, MADV_SEQUENTIAL * 1000 + 0},
	{"vma shared MADV_HUGEPAGE", set_advice_elsewhere, check_advice, MADV_HUGEPAGE * 1000 + 0},
	{"vma shared MADV_NOHUGEPAGE", set_advice_elsewhere, check_advice, MADV_NOHUGEPAGE * 1000 + 0},
	{"vma shared locked", set_advice_elsewhere, check_advice, 999 * 1000 + 0},
	{"vma private file MADV_DONTFORK", set_advice_elsewhere, check_advice, MADV_DONTFORK * 1000 + MAP_PRIVATE},
	{"vma private file MADV_DONTDUMP", set_advice_elsewhere, check_advice, MADV_DONTDUMP * 1000 + MAP_PRIVATE},
	{"vma private file MADV_RANDOM", set_advice_elsewhere, check_advice, MADV_RANDOM * 1000 + MAP_PRIVATE},
	{"vma private file MADV_SEQUENTIAL", set_advice_elsewhere, check_advice, MADV_SEQUENTIAL * 1000 + MAP_PRIVATE},
	{"vma private file MADV_HUGEPAGE", set_advice_elsewhere, check_advice, MADV_HUGEPAGE * 1000 + MAP_PRIVATE},
	{"vma private file MADV_NOHUGEPAGE", set_advice_elsewhere, check_advice, MADV_NOHUGEPAGE * 1000 + MAP_PRIVATE},
	{"vma private file locked", set_advice_elsewhere, check_advice, 999 * 1000 + MAP_PRIVATE},
	{"vma shared file MADV_DONTFORK", set_advice_elsewhere, check_advice, MADV_DONTFORK * 1000 + MAP_SHARED},
	{"vma shared file MADV_DONTDUMP", set_advice_elsewhere, check_advice, MADV_DONTDUMP * 1000 + MAP_SHARED},
	{"vma shared file MADV_RANDOM", set_advice_elsewhere, check_advice, MADV_RANDOM * 1000 + MAP_SHARED},
	{"vma shared file MADV_SEQUENTIAL", set_advice_elsewhere, check_advice, MADV_SEQUENTIAL * 1000 + MAP_SHARED},
	{"vma shared file MADV_HUGEPAGE", set_advice_elsewhere, check_advice, MADV_HUGEPAGE * 1000 + MAP_SHARED},
	{"vma shared file MADV_NOHUGEPAGE", set_advice_elsewhere, check_advice, MADV_NOHUGEPAGE * 1000 + MAP_SHARED},
	{"vma shared file locked", set_advice_elsewhere, check_advice, 999 * 1000 + MAP_SHARED},
	{"vma MADV_COLD", set_advice, check_advice, MADV_COLD},
	{"vma MADV_PAGEOUT", set_advice, check_advice, MADV_PAGEOUT},
	{"vma MADV_FREE", set_free, check_free},
	{"vma huge page", set_huge, check_huge, 0, RARE, NULL, NULL},
	{"vma guard", set_guard, check_guard},
	{"vma guard in a file", set_guard, check_guard, 1},
	{"vma policy bind", set_numa, check_numa, MPOL_BIND},
	{"vma policy preferred", set_numa, check_numa, MPOL_PREFERRED},
	{"vma policy interleave", set_numa, check_numa, MPOL_INTERLEAVE},
	{"vma policy local", set_numa, check_numa, MPOL_LOCAL},
	{"thread policy bind", set_policy, check_policy, MPOL_BIND, OF_A_THREAD, "mempolicy"},
	{"thread policy interleave", set_policy, check_policy, MPOL_INTERLEAVE, OF_A_THREAD, "mempolicy"},
	{"thread policy preferred", set_policy, check_policy, MPOL_PREFERRED, OF_A_THREAD, "mempolicy"},
	{"vma named", set_named, check_named},
	{"vma sealed", set_sealed, check_sealed, 0, ALONE},
	{"mm heap", set_heap, check_heap, 0, LAST, "brk"},
	{"mm many mappings", set_many, check_many, 0, RARE},
	{"vma lowest address", set_at, check_at, 0x10000, 0, "lowest"},
	{"vma highest address", set_at, check_at, 0x7fffffffe000, 0, "highest"},
	{"mm mergeable", set_mergeable_all, check_mergeable_all, 0, ALONE},
	{"mm no write and execute", set_mdwe, check_mdwe, 1, ALONE},
	{"mm no write and execute, not inherited", set_mdwe, check_mdwe, 3, ALONE},
	{"mm no huge pages", set_thp_disable, check_thp_disable, 0, 0, "thp"},
	{"mm huge pages where advised", set_thp_disable, check_thp_disable, 2, 0, "thp"},
};

TABLE(memory);
