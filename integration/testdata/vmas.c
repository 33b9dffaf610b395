// Mappings.
#include "ckpt.h"
#include <linux/mempolicy.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 // Linux 6.13, asm-generic/mman-common.h
#define MADV_GUARD_REMOVE 103
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41 // linux/prctl.h, Linux 5.17
#define PR_SET_VMA_ANON_NAME 0
#endif

static void *map(size_t len, int prot, int flags, int fd, off_t off) { return must(mmap(NULL, len, prot, flags, fd, off)); }

static void *anon(size_t len) { return map(len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

// Content that depends on the address and a seed, so that a page in the wrong place is seen.
static void fill(void *p, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len / 8; i++)
		((volatile uint64_t *)p)[i] = (i + seed) * 0x9e3779b97f4a7c15ULL;
}

static void check(const char *what, const void *p, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len / 8; i++) {
		if (((const volatile uint64_t *)p)[i] != (i + seed) * 0x9e3779b97f4a7c15ULL) {
			differs("%s: content differs at offset %zu", what, i * 8);
			return;
		}
	}
}

static void make_file(const char *name, size_t len, uint64_t seed)
{
	char *b = malloc(len);
	fill(b, len, seed);
	int fd = must(open(name, O_RDWR | O_CREAT | O_TRUNC, 0644));
	must(write(fd, b, len));
	close(fd);
	free(b);
}

static void anonymous(void)
{
	size_t len = 64 * PAGE;
	char *p = anon(len);
	fill(p, len, 1);
	memset(p + 10 * PAGE, 0, 5 * PAGE);
	must(madvise(p + 20 * PAGE, 5 * PAGE, MADV_DONTNEED));
	must(mprotect(p + 30 * PAGE, 5 * PAGE, PROT_READ));
	must(munmap(p + 40 * PAGE, 4 * PAGE));
	ready();
	static char zero[5 * PAGE];
	check("start", p, 10 * PAGE, 1);
	expect_mem("zeroed pages", p + 10 * PAGE, zero, 5 * PAGE);
	expect_mem("dropped pages", p + 20 * PAGE, zero, 5 * PAGE);
	check("read-only pages", p + 30 * PAGE, 5 * PAGE, 1 + 30 * PAGE / 8);
	check("end", p + 44 * PAGE, 20 * PAGE, 1 + 44 * PAGE / 8);
	unsigned char vec;
	expect("hole", mincore(p + 40 * PAGE, PAGE, &vec), -1);
}

static void sparse(void)
{
	size_t len = 16UL << 30;
	char *p = map(len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	for (size_t i = 0; i < 64; i++)
		fill(p + i * (len / 64) + i * PAGE, PAGE, i);
	ready();
	for (size_t i = 0; i < 64; i++)
		check("page", p + i * (len / 64) + i * PAGE, PAGE, i);
	expect("untouched page", p[len - 1], 0);
}

static void many(void)
{
	enum { n = 3000 };
	char *p = anon(2 * n * PAGE);
	for (size_t i = 0; i < n; i++) {
		*(uint64_t *)(p + 2 * i * PAGE) = i ^ 0x5a5a;
		must(mprotect(p + 2 * i * PAGE, PAGE, PROT_READ));
	}
	ready();
	for (size_t i = 0; i < n; i++)
		expect("word", *(uint64_t *)(p + 2 * i * PAGE), i ^ 0x5a5a);
}

static int __attribute__((noinline)) deep(int n)
{
	volatile char frame[4096];
	frame[0] = (char)n;
	return n == 0 ? frame[0] : deep(n - 1) + frame[0] - (char)n;
}

static void grows_down(void)
{
	char *area = map(256 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(munmap(area, 256 * PAGE));
	char *p = must(mmap(area + 250 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0));
	fill(p, 2 * PAGE, 3);
	p[-1] = 9; // grows
	ready();
	check("content", p, 2 * PAGE, 3);
	expect("grown page", p[-1], 9);
	p[-(long)(3 * PAGE)] = 4;
	expect("grows on", p[-(long)(3 * PAGE)], 4);
	expect("stack grows on", deep(200), 0);
}

static void private_file(void)
{
	make_file("file", 16 * PAGE, 4);
	int fd = must(open("file", O_RDONLY));
	char *p = map(16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	char *q = map(4 * PAGE, PROT_READ, MAP_PRIVATE, fd, 8 * PAGE);
	close(fd);
	fill(p + 3 * PAGE, 2 * PAGE, 99);
	ready();
	check("clean pages", p, 3 * PAGE, 4);
	check("changed pages", p + 3 * PAGE, 2 * PAGE, 99);
	check("clean pages", p + 5 * PAGE, 11 * PAGE, 4 + 5 * PAGE / 8);
	check("at an offset", q, 4 * PAGE, 4 + 8 * PAGE / 8);
}

static void shared_file(void)
{
	make_file("file", 8 * PAGE, 5);
	int fd = must(open("file", O_RDWR));
	char *p = map(8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char *r = map(8 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	fill(p + PAGE, PAGE, 50);
	ready();
	check("clean", p, PAGE, 5);
	check("written", p + PAGE, PAGE, 50);
	fill(p + 2 * PAGE, PAGE, 51);
	check("second mapping", r + 2 * PAGE, PAGE, 51);
	char b[PAGE];
	fd = open("file", O_RDONLY);
	pread(fd, b, PAGE, 2 * PAGE) == (ssize_t)PAGE ? check("file", b, PAGE, 51) : differs("file cannot be read");
}

static void shared_anon(void)
{
	char *p = map(16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	fill(p, 8 * PAGE, 6);
	char *q = must(mremap(p, 0, 16 * PAGE, MREMAP_MAYMOVE)); // a second mapping of the same pages
	must(mprotect(q + 4 * PAGE, 4 * PAGE, PROT_READ));
	ready();
	check("content", p, 8 * PAGE, 6);
	check("content through the second mapping", q, 8 * PAGE, 6);
	p[9 * PAGE] = 7;
	expect("still shared", q[9 * PAGE], 7);
}

static void memfd(void)
{
	int fd = must(memfd_create("thing", MFD_ALLOW_SEALING));
	must(ftruncate(fd, 10 * PAGE + 100));
	char *p = map(8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char *q = map(8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, PAGE);
	fill(p, 8 * PAGE, 7);
	fill(q, PAGE, 70);
	must(pwrite(fd, "end", 3, 10 * PAGE + 90));
	must(lseek(fd, 1234, SEEK_SET));
	must(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
	ready();
	check("shared", p, 8 * PAGE, 7);
	check("private copy", q, PAGE, 70);
	check("private clean", q + PAGE, 6 * PAGE, 7 + 2 * PAGE / 8);
	expect("offset", lseek(fd, 0, SEEK_CUR), 1234);
	expect("seals", fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK);
	struct stat st;
	must(fstat(fd, &st));
	expect("size", st.st_size, 10 * PAGE + 100);
	char b[4] = "";
	expect("read", pread(fd, b, 3, 10 * PAGE + 90), 3);
	expect_str("end", b, "end");
	p[0] = 1;
	expect("descriptor and mapping are one", pread(fd, b, 1, 0) == 1 ? b[0] : -1, 1);
}

static void memfd_unmapped(void)
{
	int fd = must(memfd_create("only a descriptor", 0));
	must(write(fd, "hello", 5));
	char *p = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, must(memfd_create("only a mapping", 0)), 0);
	int other = must(memfd_create("x", 0));
	must(ftruncate(other, PAGE));
	close(other);
	ready();
	char b[6] = "";
	expect("read", pread(fd, b, 5, 0), 5);
	expect_str("content", b, "hello");
	(void)p;
}

static void prot_none(void)
{
	char *p = anon(8 * PAGE);
	fill(p, 8 * PAGE, 8);
	must(mprotect(p + 2 * PAGE, 4 * PAGE, PROT_NONE));
	char *x = anon(PAGE);
	memcpy(x, "\xb8\x2a\x00\x00\x00\xc3", 6); // mov $42,%eax; ret
	must(mprotect(x, PAGE, PROT_EXEC));
	ready();
	check("before", p, 2 * PAGE, 8);
	check("behind", p + 6 * PAGE, 2 * PAGE, 8 + 6 * PAGE / 8);
	int probe[2];
	must(pipe(probe));
	expect("write from it", write(probe[1], p + 2 * PAGE, 1), -1);
	must(mprotect(p + 2 * PAGE, 4 * PAGE, PROT_READ));
	check("inside", p + 2 * PAGE, 4 * PAGE, 8 + 2 * PAGE / 8);
	expect("code that can only be executed", ((int (*)(void))(void *)x)(), 42);
}

static void guard(void)
{
	char *p = anon(8 * PAGE);
	fill(p, 8 * PAGE, 9);
	if (madvise(p + 3 * PAGE, 2 * PAGE, MADV_GUARD_INSTALL) != 0) {
		// Linux before 6.13 has none; then there is nothing to save.
		ready();
		return;
	}
	ready();
	check("before", p, 3 * PAGE, 9);
	check("behind", p + 5 * PAGE, 3 * PAGE, 9 + 5 * PAGE / 8);
	int probe[2];
	must(pipe(probe));
	expect("write from the guard", write(probe[1], p + 3 * PAGE, 1), -1);
	expect("write from the second guard page", write(probe[1], p + 4 * PAGE, 1), -1);
	expect("write beside it", write(probe[1], p + 5 * PAGE, 1), 1);
	must(madvise(p + 3 * PAGE, 2 * PAGE, MADV_GUARD_REMOVE));
	expect("no longer guarded", p[3 * PAGE], 0);
}

static void locked(void)
{
	char b[256], before[256];
	char *p = anon(4 * PAGE), *q = anon(4 * PAGE);
	fill(p, 4 * PAGE, 10);
	must(mlock(p, 4 * PAGE));
	must(syscall(SYS_mlock2, q, 4 * PAGE, 1)); // MLOCK_ONFAULT
	fill(q, PAGE, 11);
	proc_line("/proc/self/status", "VmLck", before, sizeof before);
	ready();
	check("mlock", p, 4 * PAGE, 10);
	check("mlock2", q, PAGE, 11);
	expect_str("VmLck", proc_line("/proc/self/status", "VmLck", b, sizeof b), before);
	if (strstr(smaps(p, "VmFlags", b, sizeof b), " lo") == NULL)
		differs("mlock is gone: %s", b);
	unsigned char vec[4];
	must(mincore(q, 4 * PAGE, vec));
	expect("a page locked on fault that nobody touched", vec[2] & 1, 0);
}

static void lock_future(void)
{
	must(mlockall(MCL_FUTURE));
	ready();
	char b[256];
	char *p = anon(2 * PAGE);
	if (strstr(smaps(p, "VmFlags", b, sizeof b), " lo") == NULL)
		differs("new mappings are not locked: %s", b);
}

static void advice(void)
{
	static const struct {
		int advice;
		const char *flag;
	} want[] = {
		{MADV_DONTFORK, " dc"}, {MADV_DONTDUMP, " dd"}, {MADV_HUGEPAGE, " hg"},  {MADV_NOHUGEPAGE, " nh"},
		{MADV_WIPEONFORK, " wf"}, {MADV_RANDOM, " rr"},  {MADV_SEQUENTIAL, " sr"}, {MADV_MERGEABLE, " mg"},
	};
	char *p[COUNT(want)], b[256], before[COUNT(want)][256];
	for (size_t i = 0; i < COUNT(want); i++) {
		char *area = anon(6 * PAGE);
		must(mprotect(area, PAGE, PROT_NONE)); // keeps neighbours from merging
		p[i] = area + PAGE;
		fill(p[i], 5 * PAGE, i);
		(void)madvise(p[i], 5 * PAGE, want[i].advice); // a kernel may be built without KSM or huge pages
		smaps(p[i], "VmFlags", before[i], sizeof before[i]);
	}
	ready();
	for (size_t i = 0; i < COUNT(want); i++) {
		expect_str(want[i].flag, smaps(p[i], "VmFlags", b, sizeof b), before[i]);
		check(want[i].flag, p[i], 5 * PAGE, i);
	}
}

static void numa(void)
{
	unsigned long node = 1, have = 0;
	int mode = -1;
	char *p = anon(4 * PAGE);
	if (syscall(SYS_mbind, p, 4 * PAGE, MPOL_BIND, &node, 64, 0) != 0 && errno == ENOSYS) {
		ready(); // a kernel without NUMA
		return;
	}
	fill(p, 4 * PAGE, 12);
	ready();
	must(syscall(SYS_get_mempolicy, &mode, &have, 64, p, MPOL_F_ADDR));
	expect("policy", mode, MPOL_BIND);
	expect("nodes", have, 1);
	check("content", p, 4 * PAGE, 12);
}

static void *policy_of_thread(void *out)
{
	unsigned long nodes = 1;
	int *said = out;
	must(syscall(SYS_set_mempolicy, MPOL_BIND, &nodes, 64));
	said[0] = 1;
	while (__atomic_load_n(&said[1], __ATOMIC_ACQUIRE) == 0)
		nap(MS);
	must(syscall(SYS_get_mempolicy, &said[2], &nodes, 64, NULL, 0));
	return NULL;
}

// Policies of threads, besides those of mappings.
static void numa_thread(void)
{
	unsigned long nodes = 1, have = 0;
	int mode = -1, said[3] = {0, 0, -1};
	char *p = anon(4 * PAGE);
	if (syscall(SYS_set_mempolicy, MPOL_INTERLEAVE, &nodes, 64) != 0 && errno == ENOSYS) {
		ready(); // a kernel without NUMA
		return;
	}
	must(syscall(SYS_mbind, p, 2 * PAGE, MPOL_PREFERRED, &nodes, 64, 0));
	pthread_t t;
	if (pthread_create(&t, NULL, policy_of_thread, said) != 0)
		die("make a thread");
	while (__atomic_load_n(&said[0], __ATOMIC_ACQUIRE) == 0)
		nap(MS);
	ready();
	must(syscall(SYS_get_mempolicy, &mode, &have, 64, NULL, 0));
	expect("policy of the first thread", mode, MPOL_INTERLEAVE);
	expect("its nodes", have, 1);
	must(syscall(SYS_get_mempolicy, &mode, &have, 64, p, MPOL_F_ADDR));
	expect("policy of a mapping", mode, MPOL_PREFERRED);
	__atomic_store_n(&said[1], 1, __ATOMIC_RELEASE);
	pthread_join(t, NULL);
	expect("policy of the second thread", said[2], MPOL_BIND);
}

static void named(void)
{
	char *p = anon(4 * PAGE), b[256], want[256];
	(void)prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p, 4 * PAGE, "my arena"); // needs CONFIG_ANON_VMA_NAME
	char first[64];
	snprintf(first, sizeof first, "%lx", (unsigned long)p);
	smaps(p, first, want, sizeof want);
	ready();
	expect_str("line", smaps(p, first, b, sizeof b), want);
}

static void deleted_file(void)
{
	make_file("gone", 8 * PAGE, 13);
	int fd = must(open("gone", O_RDWR));
	char *p = map(8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	char *q = map(8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	must(unlink("gone"));
	fill(p + PAGE, PAGE, 130);
	fill(q + 3 * PAGE, PAGE, 131);
	ready();
	check("clean", p, PAGE, 13);
	check("changed", p + PAGE, PAGE, 130);
	check("shared", q + 3 * PAGE, PAGE, 131);
	check("shared content seen privately", p + 3 * PAGE, PAGE, 131);
	q[7 * PAGE] = 3;
	expect("still one file", p[7 * PAGE], 3);
}

static void replaced_file(void)
{
	make_file("lib", 8 * PAGE, 14);
	int fd = must(open("lib", O_RDONLY));
	char *p = map(8 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	make_file("lib.new", 8 * PAGE, 15);
	must(rename("lib.new", "lib"));
	ready();
	check("the old file's content", p, 8 * PAGE, 14);
	char b[PAGE];
	fd = open("lib", O_RDONLY);
	expect("read", read(fd, b, PAGE), PAGE);
	check("the new file's content", b, PAGE, 15);
}

static void truncated_file(void)
{
	make_file("short", 2 * PAGE + 100, 16);
	int fd = must(open("short", O_RDONLY));
	char *p = map(8 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0); // beyond the end: SIGBUS, and nothing to save
	close(fd);
	ready();
	check("content", p, 2 * PAGE, 16);
	expect("behind the end of the file", p[2 * PAGE + 200], 0);
}

static void heap(void)
{
	static char buffer[4096];
	setvbuf(stdout, buffer, _IOFBF, sizeof buffer); // keeps malloc, and so the break, out of printf
	char *base = sbrk(0);
	must(brk(base + 100 * PAGE));
	fill(base, 50 * PAGE, 17);
	void *end = sbrk(0);
	ready();
	expect("brk", (long)sbrk(0), (long)end);
	check("content", base, 50 * PAGE, 17);
	expect("grow", brk((char *)end + 64 * PAGE), 0);
	((char *)end)[63 * PAGE] = 1;
	expect("shrink", brk(base + 60 * PAGE), 0);
	check("content afterwards", base, 50 * PAGE, 17);
	char *m = malloc(1 << 20);
	memset(m, 5, 1 << 20);
	free(m);
}

static void big(void)
{
	size_t len = 96UL << 20;
	char *p = anon(len);
	fill(p, len, 18);
	ready();
	check("content", p, len, 18);
}

// So much memory that a restore may bring it in by other means than a write. Pages that were never touched stay so, and
// the mappings are as they were.
static void large(void)
{
	const size_t len = 24UL << 20;
	char *p[3], flags[3][256], rss[3][64], b[256];
	for (int i = 0; i < 3; i++) {
		p[i] = (char *)anon(len + PAGE) + PAGE;
		must(mprotect(p[i] - PAGE, PAGE, PROT_NONE)); // so that it is no part of another mapping
		for (size_t at = 0; at < len; at += 3 * PAGE)
			fill(p[i] + at, 2 * PAGE <= len - at ? 2 * PAGE : PAGE, i * 1000000 + at);
	}
	must(mprotect(p[1], len / 2 & ~(PAGE - 1), PROT_READ));
	must(madvise(p[2], len, MADV_SEQUENTIAL));
	for (int i = 0; i < 3; i++) {
		smaps(p[i], "VmFlags", flags[i], sizeof flags[i]);
		smaps(p[i], "Rss", rss[i], sizeof rss[i]);
		if (flags[i][0] == 0 || rss[i][0] == 0)
			die("find the mapping in smaps");
	}
	ready();
	for (int i = 0; i < 3; i++) {
		expect_str("flags", smaps(p[i], "VmFlags", b, sizeof b), flags[i]);
		expect_str("resident", smaps(p[i], "Rss", b, sizeof b), rss[i]);
	}
	pid_t child = must(fork());
	for (int i = 0; i < 3; i++) {
		for (size_t at = 0; at < len; at += 3 * PAGE)
			check("content", p[i] + at, 2 * PAGE <= len - at ? 2 * PAGE : PAGE, i * 1000000 + at);
		for (size_t at = 2 * PAGE; at < len; at += 3 * PAGE)
			expect("a page never touched", p[i][at], 0);
	}
	if (child == 0)
		_exit(differences);
	int status = 0;
	must(waitpid(child, &status, 0));
	expect("differences in a child", status, 0);
}

// Mappings that are sealed, of several kinds, large enough that a snapshot tracks them. What a seal forbids stays
// forbidden.
static void seals(void)
{
	const long sys_mseal = 462; // Linux 6.10
	size_t len = 40UL << 20;
	make_file("sealed", 4 * PAGE, 21);
	int fd = must(open("sealed", O_RDWR));
	char *area = anon(len + 2 * PAGE), *p = area + PAGE;
	must(mprotect(area, PAGE, PROT_NONE));
	char *f = map(4 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0), *s = map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	close(fd);
	fill(p, len, 22);
	fill(s, 4 * PAGE, 23);
	must(mprotect(p, len / 2, PROT_READ));
	must(madvise(p + len / 2, len / 2, MADV_DONTFORK));
	if (syscall(sys_mseal, p, len, 0) != 0) {
		ready();
		return;
	}
	must(syscall(sys_mseal, f, 4 * PAGE, 0));
	must(syscall(sys_mseal, s, 4 * PAGE, 0));
	char b[256], before[2][256];
	smaps(p, "VmFlags", before[0], sizeof before[0]);
	smaps(s, "VmFlags", before[1], sizeof before[1]);
	ready();
	check("anonymous", p, len, 22);
	check("of a file", f, 4 * PAGE, 21);
	check("shared", s, 4 * PAGE, 23);
	p[len / 2] = 1;
	expect_str("flags", smaps(p, "VmFlags", b, sizeof b), before[0]);
	expect_str("flags of the shared one", smaps(s, "VmFlags", b, sizeof b), before[1]);
	expect("munmap", munmap(p, PAGE), -1);
	expect("mprotect", mprotect(p, PAGE, PROT_READ | PROT_WRITE), -1);
	expect("munmap of the file", munmap(f, 4 * PAGE), -1);
	expect("mremap of the shared one", (long)mremap(s, 4 * PAGE, 8 * PAGE, MREMAP_MAYMOVE), -1);
}

// Memory that nobody may write to any more, mapped shared through a descriptor for writing and one for reading, and
// private.
static void sealed_memfd(void)
{
	int fd = must(memfd_create("sealed", MFD_ALLOW_SEALING));
	must(ftruncate(fd, 2 * PAGE));
	char *p = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), path[64];
	fill(p, 2 * PAGE, 31);
	must(munmap(p, 2 * PAGE));
	must(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW));
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int reading = must(open(path, O_RDONLY));
	char *a = map(2 * PAGE, PROT_READ, MAP_SHARED, fd, 0), *b = map(2 * PAGE, PROT_READ, MAP_SHARED, reading, 0);
	char *c = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	c[PAGE] = 9;
	ready();
	check("shared", a, 2 * PAGE, 31);
	check("shared, for reading", b, 2 * PAGE, 31);
	check("private", c, PAGE, 31);
	expect("changed", c[PAGE], 9);
	expect("for writing", mprotect(a, PAGE, PROT_READ | PROT_WRITE), -1);
}

static long huge_in(const void *p)
{
	char b[256];
	long kb = 0;
	sscanf(smaps(p, "AnonHugePages", b, sizeof b), "AnonHugePages: %ld", &kb);
	return kb;
}

// Memory of huge pages is of huge pages again, and what was given back of it stays given back.
static void huge(void)
{
	const size_t block = 2UL << 20, len = 8 * block;
	char *p = anon(len + 2 * block), b[256], rss[256];
	p = (char *)(((uintptr_t)p + 2 * block - 1) & ~(block - 1));
	must(mprotect(p - PAGE, PAGE, PROT_NONE)); // so that it is no part of another mapping
	if (madvise(p, len, MADV_HUGEPAGE) != 0) {
		ready(); // a kernel without huge pages
		return;
	}
	fill(p, len, 20);
	must(madvise(p + 5 * block + PAGE, block / 2, MADV_DONTNEED));
	memset(p + 6 * block, 0, PAGE);
	long before = huge_in(p);
	smaps(p, "Rss", rss, sizeof rss);
	ready();
	for (int i = 0; i < 500 && huge_in(p) < before; i++) // a lazy restore makes them after the content is there
		nap(10 * MS);
	expect_range("huge, KiB", huge_in(p), before, len / 1024);
	expect_str("resident", smaps(p, "Rss", b, sizeof b), rss);
	check("content", p, 5 * block, 20);
	expect("given back", p[5 * block + PAGE], 0);
	expect("zeroed", p[6 * block], 0);
	check("the rest", p + 6 * block + PAGE, 2 * block - PAGE, 20 + (6 * block + PAGE) / 8);
}

// Huge pages only where they were asked for.
static void huge_advised(void)
{
	// PR_SET_THP_DISABLE, PR_GET_THP_DISABLE, PR_THP_DISABLE_EXCEPT_ADVISED, Linux 6.18
	const int set = 41, get = 42, except_advised = 2;
	(void)prctl(set, 1, except_advised, 0, 0);
	int before = prctl(get, 0, 0, 0, 0);
	ready();
	expect("PR_GET_THP_DISABLE", prctl(get, 0, 0, 0, 0), before);
}

// part_of_vdso finds one of the mappings of the vDSO, NULL if it is not there.
static char *part_of_vdso(const char *name, size_t *len)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512], *at = NULL;
	unsigned long a, b;
	while (f != NULL && at == NULL && fgets(line, sizeof line, f) != NULL) {
		if (sscanf(line, "%lx-%lx", &a, &b) != 2 || strstr(line, name) == NULL)
			continue;
		at = (char *)a;
		*len = b - a;
	}
	if (f != NULL)
		fclose(f);
	return at;
}

// Without the code of the vDSO but with its data, as programs are that run under valgrind.
static void half_vdso(void)
{
	size_t len;
	char *code = part_of_vdso("[vdso]", &len), *data = part_of_vdso("[vvar]", &len);
	if (code == NULL || data == NULL)
		exit(3);
	part_of_vdso("[vdso]", &len);
	must(munmap(code, len));
	ready();
	expect("the code of the vDSO is there", part_of_vdso("[vdso]", &len) != NULL, 0);
	expect("its data", (long)part_of_vdso("[vvar]", &len), (long)data);
}

static const struct test_case cases[] = {
	{"half-vdso", half_vdso},
	{"huge-advised", huge_advised},
	{"huge", huge},
	{"sealed", seals},
	{"sealed-memfd", sealed_memfd},
	{"anon", anonymous},
	{"sparse", sparse},
	{"many", many},
	{"grows-down", grows_down},
	{"private-file", private_file},
	{"shared-file", shared_file},
	{"shared-anon", shared_anon},
	{"memfd", memfd},
	{"memfd-unmapped", memfd_unmapped},
	{"prot-none", prot_none},
	{"guard", guard},
	{"locked", locked},
	{"lock-future", lock_future},
	{"advice", advice},
	{"numa", numa},
	{"numa-thread", numa_thread},
	{"named", named},
	{"deleted-file", deleted_file},
	{"replaced-file", replaced_file},
	{"truncated-file", truncated_file},
	{"heap", heap},
	{"big", big},
	{"large", large},
};

MAIN(cases)
