/*
 * What the benchmarks save and bring back: a static program of a few kilobytes with no C library and no runtime, so that a process
 * of it holds what the benchmark asks for and nothing else.
 *
 *	subject memory BYTES		BYTES of private memory, half random, half compressible
 *	subject write BYTES RATE	the same, and RATE pages of it written each second
 *	subject mappings N		N mappings of one page
 *	subject descriptors N FILE	N open file descriptions of FILE
 *	subject threads N		N threads besides the first, all waiting
 *
 * It has no other connection to the world than its name (comm): "setup", then "ready". On SIGUSR1 it checks all it holds and is then
 * called "ok N" after the N-th check, or "bad N WHERE". Its name is part of what a snapshot saves.
 */
#include "sys_amd64.h"

#define PAGE 4096UL
#define PROT_READ 1
#define PROT_WRITE 2
#define MAP_PRIVATE 2
#define MAP_ANONYMOUS 0x20
#define MAP_NORESERVE 0x4000
#define AT_FDCWD (-100)
#define PR_SET_NAME 15
#define SIGUSR1 10
#define SIG_BLOCK 0
#define RLIMIT_NOFILE 7
#define FUTEX_WAIT_PRIVATE 128
#define FUTEX_WAKE_PRIVATE 129
#define CLONE_THREAD_FLAGS 0x00050f00UL /* VM FS FILES SIGHAND THREAD SYSVSEM */
#define EINTR 4
#define EAGAIN 11

typedef unsigned long u64;
typedef unsigned int u32;

struct timespec {
	long sec, nsec;
};

static struct {
	char *mem;	   /* memory, write, mappings */
	u64 pages;	   /* of it */
	u64 n;		   /* descriptors, threads */
	u64 rate;	   /* write: pages a second */
	u64 cursor;	   /* write: state of the page picker */
	volatile u32 gen;  /* threads: the round they wait for */
	volatile u32 done; /* threads: how many finished this round */
	u64 (*check)(void);
} s;

static int equal(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static u64 number(const char *p)
{
	u64 v = 0;

	while (*p >= '0' && *p <= '9')
		v = v * 10 + (*p++ - '0');
	return v;
}

static char *put(char *p, const char *text)
{
	while (*text)
		*p++ = *text++;
	*p = 0;
	return p;
}

static char *put_number(char *p, u64 v)
{
	char digits[20];
	int n = 0;

	do
		digits[n++] = '0' + v % 10;
	while (v /= 10);
	while (n)
		*p++ = digits[--n];
	*p = 0;
	return p;
}

static void rename_self(const char *name)
{
	sys(__NR_prctl, PR_SET_NAME, name, 0, 0);
}

static void die(const char *why)
{
	rename_self(why);
	sys(__NR_exit_group, 1, 0, 0, 0);
}

static u64 next(u64 x)
{
	x ^= x << 13;
	x ^= x >> 7;
	return x ^ x << 17;
}

/* A page holds 256 random words, then 255 equal ones, then one that the writer changes. */
static void fill(u64 page)
{
	u64 *w = (u64 *)(s.mem + page * PAGE), x = page * 0x9e3779b97f4a7c15UL + 1;
	int i;

	for (i = 0; i < 256; i++)
		w[i] = x = next(x);
	for (; i < 511; i++)
		w[i] = page;
}

/* check_memory returns 1 + the number of the first wrong page, or 0. */
static u64 check_memory(void)
{
	u64 page;

	for (page = 0; page < s.pages; page++) {
		u64 *w = (u64 *)(s.mem + page * PAGE), x = page * 0x9e3779b97f4a7c15UL + 1;
		int i;

		for (i = 0; i < 256; i++)
			if (w[i] != (x = next(x)))
				return page + 1;
		for (; i < 511; i++)
			if (w[i] != page)
				return page + 1;
	}
	return 0;
}

static void map(u64 bytes)
{
	long a = sys6(__NR_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (a < 0 && a > -4096)
		die("no memory");
	s.mem = (char *)a;
	s.pages = bytes / PAGE;
}

static void setup_memory(u64 bytes)
{
	u64 page;

	map(bytes);
	for (page = 0; page < s.pages; page++)
		fill(page);
	s.check = check_memory;
}

/* Every second page is made read-only, which splits the one mapping into as many as there are pages. */
static u64 check_mappings(void)
{
	u64 page;

	for (page = 0; page < s.pages; page++)
		if (*(u64 *)(s.mem + page * PAGE) != ~page)
			return page + 1;
	for (page = 0; page < s.pages; page += 2) /* still writable? */
		*(volatile u64 *)(s.mem + page * PAGE + 8) = page;
	return 0;
}

static void setup_mappings(u64 n)
{
	u64 page;

	map(n * PAGE);
	for (page = 0; page < n; page++)
		*(u64 *)(s.mem + page * PAGE) = ~page;
	for (page = 1; page < n; page += 2)
		if (sys(__NR_mprotect, s.mem + page * PAGE, PAGE, PROT_READ, 0))
			die("mprotect");
	s.check = check_mappings;
}

/* Each description has an offset of its own. Descriptors are 3 to n+2. */
#define FIRST_FD 3

static u64 check_descriptors(void)
{
	u64 i;

	for (i = 0; i < s.n; i++)
		if (sys(__NR_lseek, FIRST_FD + i, 0, 1, 0) != (long)i)
			return i + 1;
	return 0;
}

static void setup_descriptors(u64 n, const char *file)
{
	u64 limit[2], i;

	sys(__NR_prlimit64, 0, RLIMIT_NOFILE, 0, limit);
	limit[0] = limit[1];
	sys(__NR_prlimit64, 0, RLIMIT_NOFILE, limit, 0);
	for (i = 0; i < n; i++) {
		long fd = sys(__NR_openat, AT_FDCWD, file, 0, 0);

		if (fd < 0 || (u64)fd != FIRST_FD + i)
			die("openat");
		sys(__NR_lseek, fd, i, 0, 0);
	}
	s.n = n;
	s.check = check_descriptors;
}

static void thread(void *arg)
{
	u32 seen = s.gen;

	(void)arg;
	__atomic_fetch_add(&s.done, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		sys(__NR_futex, &s.gen, FUTEX_WAIT_PRIVATE, seen, 0);
		if (s.gen != seen) {
			seen = s.gen;
			__atomic_fetch_add(&s.done, 1, __ATOMIC_SEQ_CST);
		}
	}
}

static u64 wait_for_threads(void)
{
	struct timespec ms = {0, 1000000};
	int i;

	for (i = 0; s.done != s.n; i++) {
		if (i == 30000)
			return s.done + 1;
		sys(__NR_nanosleep, &ms, 0, 0, 0);
	}
	return 0;
}

static u64 check_threads(void)
{
	s.done = 0;
	s.gen++;
	sys(__NR_futex, &s.gen, FUTEX_WAKE_PRIVATE, 0x7fffffff, 0);
	return wait_for_threads();
}

static void setup_threads(u64 n)
{
	u64 i;

	map(n * 2 * PAGE);
	s.n = n;
	for (i = 0; i < n; i++)
		if (start_thread(CLONE_THREAD_FLAGS, s.mem + (i + 1) * 2 * PAGE, thread, 0) < 0)
			die("clone");
	wait_for_threads();
	s.check = check_threads;
}

/* write_some changes the last word of a hundredth of a second's worth of pages. */
static void write_some(void)
{
	u64 i;

	for (i = 0; i < (s.rate + 99) / 100; i++) {
		s.cursor = next(s.cursor);
		*(volatile u64 *)(s.mem + s.cursor % s.pages * PAGE + 511 * 8) = s.cursor;
	}
}

static void loop(void)
{
	struct timespec tick = {0, 10000000};
	u64 usr1 = 1UL << (SIGUSR1 - 1), checks = 0;

	for (;;) {
		long sig = sys(__NR_rt_sigtimedwait, &usr1, 0, s.rate ? &tick : 0, sizeof(usr1));
		char name[16], *p;
		u64 bad;

		if (s.rate)
			write_some();
		if (sig != SIGUSR1)
			continue; /* -EAGAIN: the tick; -EINTR: somebody stopped us */
		bad = s.check();
		p = put_number(put(name, bad ? "bad " : "ok "), ++checks % 1000);
		if (bad)
			put_number(put(p, " "), bad % 1000000);
		rename_self(name);
	}
}

__attribute__((used)) void start_c(long *sp)
{
	long argc = *sp;
	char **argv = (char **)(sp + 1);
	u64 usr1 = 1UL << (SIGUSR1 - 1);

	rename_self("setup");
	sys(__NR_close_range, 3, ~0U, 0, 0); /* whatever our parent let us inherit */
	sys(__NR_rt_sigprocmask, SIG_BLOCK, &usr1, 0, sizeof(usr1));
	s.cursor = 88172645463325252UL;
	if (argc == 3 && equal(argv[1], "memory"))
		setup_memory(number(argv[2]));
	else if (argc == 4 && equal(argv[1], "write"))
		setup_memory(number(argv[2])), s.rate = number(argv[3]);
	else if (argc == 3 && equal(argv[1], "mappings"))
		setup_mappings(number(argv[2]));
	else if (argc == 4 && equal(argv[1], "descriptors"))
		setup_descriptors(number(argv[2]), argv[3]);
	else if (argc == 3 && equal(argv[1], "threads"))
		setup_threads(number(argv[2]));
	else
		die("usage");
	rename_self("ready");
	loop();
}
