/*
 * Runs one system call, or a pair that leaves nothing behind, many times and says how long it took. It reads lines "NAME COUNT" and
 * answers each with the nanoseconds COUNT rounds took, or -1 if it does not know NAME or a call failed.
 *
 * Built twice from this one source: with FREESTANDING it is a static program that makes the bare system calls; without, it calls the
 * C library, so that an LD_PRELOAD interposer can come between.
 */
#ifdef FREESTANDING
#include "sys_amd64.h"
#include <linux/fcntl.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/time.h>
#define NULL ((void *)0)
#define SIG_BLOCK 0
#define SIGUSR2 12
#define SIGCHLD 17
#define AF_UNIX 1
#define SOCK_DGRAM 2
#define RLIMIT_CORE 4
#define EPOLLIN 1
#define PROT_READ 1
#define PROT_WRITE 2
#define MAP_PRIVATE 2
#define MAP_ANONYMOUS 0x20
#define MADV_NORMAL 0
#define SEEK_CUR 1
#define SS_DISABLE 2

typedef unsigned long mask_t;
struct action {
	void *handler;
	unsigned long flags;
	void *restorer;
	mask_t mask;
};
struct altstack {
	void *sp;
	int flags;
	unsigned long size;
};
struct limit {
	unsigned long cur, max;
};

#define c_mmap(len) ((char *)sys6(__NR_mmap, 0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
#define c_munmap(p, len) sys(__NR_munmap, p, len, 0, 0)
#define c_mprotect(p, len, prot) sys(__NR_mprotect, p, len, prot, 0)
#define c_madvise(p, len) sys(__NR_madvise, p, len, MADV_NORMAL, 0)
#define c_open(path) sys(__NR_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0)
#define c_close(fd) sys(__NR_close, fd, 0, 0, 0)
#define c_dup(fd) sys(__NR_dup, fd, 0, 0, 0)
#define c_setfd(fd, v) sys(__NR_fcntl, fd, F_SETFD, v, 0)
#define c_pipe(fds) sys(__NR_pipe2, fds, 0, 0, 0)
#define c_socket() sys(__NR_socket, AF_UNIX, SOCK_DGRAM, 0, 0)
#define c_eventfd() sys(__NR_eventfd2, 0, 0, 0, 0)
#define c_epoll() sys(__NR_epoll_create1, 0, 0, 0, 0)
#define c_memfd() sys(__NR_memfd_create, "bench", 0, 0, 0)
#define c_sigprocmask(set) sys(__NR_rt_sigprocmask, SIG_BLOCK, set, 0, 8)
#define c_umask(m) sys(__NR_umask, m, 0, 0, 0)
#define c_chdir(p) sys(__NR_chdir, p, 0, 0, 0)
#define c_read(fd, p, n) sys(__NR_read, fd, p, n, 0)
#define c_write(fd, p, n) sys(__NR_write, fd, p, n, 0)
#define c_lseek(fd) sys(__NR_lseek, fd, 0, SEEK_CUR, 0)
#define c_getppid() sys(__NR_getppid, 0, 0, 0, 0)
#define c_yield() sys(__NR_sched_yield, 0, 0, 0, 0)
#define c_prctl() sys(__NR_prctl, PR_SET_NAME, "calls", 0, 0)
#define c_clock(ts) sys(__NR_clock_gettime, 1, ts, 0, 0)

static long c_brk(long delta)
{
	static unsigned long top;

	if (!top)
		top = sys(__NR_brk, 0, 0, 0, 0);
	top += delta;
	return (unsigned long)sys(__NR_brk, top, 0, 0, 0) == top ? 0 : -1;
}

static long c_sigaction(void)
{
	struct action a = {NULL, 0, NULL, 0};

	return sys(__NR_rt_sigaction, SIGUSR2, &a, 0, 8);
}

static long c_sigaltstack(void)
{
	struct altstack a = {NULL, SS_DISABLE, 0};

	return sys(__NR_sigaltstack, &a, 0, 0, 0);
}

static long c_prlimit(void)
{
	struct limit l;
	long err = sys(__NR_prlimit64, 0, RLIMIT_CORE, 0, &l);

	return err ? err : sys(__NR_prlimit64, 0, RLIMIT_CORE, &l, 0);
}

static long c_fork_wait(void)
{
	long pid = sys(__NR_clone, SIGCHLD, 0, 0, 0);

	if (pid == 0)
		sys(__NR_exit_group, 0, 0, 0, 0);
	return pid < 0 ? pid : sys(__NR_wait4, pid, 0, 0, 0) == pid ? 0 : -1;
}

typedef struct __kernel_timespec moment;
#else
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef sigset_t mask_t;
typedef struct timespec moment;
#define c_mmap(len) ((char *)mmap(0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
#define c_munmap(p, len) munmap(p, len)
#define c_mprotect(p, len, prot) mprotect(p, len, prot)
#define c_madvise(p, len) madvise(p, len, MADV_NORMAL)
#define c_open(path) open(path, O_RDWR | O_CLOEXEC)
#define c_close(fd) close(fd)
#define c_dup(fd) dup(fd)
#define c_setfd(fd, v) fcntl(fd, F_SETFD, v)
#define c_pipe(fds) pipe(fds)
#define c_socket() socket(AF_UNIX, SOCK_DGRAM, 0)
#define c_eventfd() eventfd(0, 0)
#define c_epoll() epoll_create1(0)
#define c_memfd() memfd_create("bench", 0)
#define c_sigprocmask(set) sigprocmask(SIG_BLOCK, set, 0)
#define c_umask(m) (umask(m), 0)
#define c_chdir(p) chdir(p)
#define c_read(fd, p, n) read(fd, p, n)
#define c_write(fd, p, n) write(fd, p, n)
#define c_lseek(fd) lseek(fd, 0, SEEK_CUR)
#define c_getppid() getppid()
#define c_yield() sched_yield()
#define c_prctl() prctl(PR_SET_NAME, "calls", 0, 0, 0)
#define c_clock(ts) clock_gettime(CLOCK_MONOTONIC, ts)

static long c_brk(long delta)
{
	return sbrk(delta) == (void *)-1 ? -1 : 0;
}

static long c_sigaction(void)
{
	struct sigaction a = {.sa_handler = SIG_DFL};

	return sigaction(SIGUSR2, &a, NULL);
}

static long c_sigaltstack(void)
{
	stack_t a = {.ss_flags = SS_DISABLE};

	return sigaltstack(&a, NULL);
}

static long c_prlimit(void)
{
	struct rlimit l;

	return getrlimit(RLIMIT_CORE, &l) || setrlimit(RLIMIT_CORE, &l);
}

static long c_fork_wait(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	return pid < 0 ? -1 : waitpid(pid, NULL, 0) == pid ? 0 : -1;
}
#endif

static char *page;	/* one page of ours */
static long zero, null; /* /dev/zero, /dev/null */
static char byte[64];
static mask_t empty;

static long closed(long fd)
{
	return fd < 0 ? fd : c_close(fd);
}

static long do_mmap(void)
{
	char *p = c_mmap(4096);

	return (unsigned long)p > -4096UL ? -1 : c_munmap(p, 4096);
}

static long do_pipe(void)
{
	int fds[2];

	return c_pipe(fds) || c_close(fds[0]) || c_close(fds[1]);
}

static long do_mprotect(void) { return c_mprotect(page, 4096, PROT_READ) || c_mprotect(page, 4096, PROT_READ | PROT_WRITE); }
static long do_brk(void) { return c_brk(4096) || c_brk(-4096); }
static long do_madvise(void) { return c_madvise(page, 4096); }
static long do_open(void) { return closed(c_open("/dev/null")); }
static long do_dup(void) { return closed(c_dup(null)); }
static long do_fcntl(void) { return c_setfd(null, 1); }
static long do_socket(void) { return closed(c_socket()); }
static long do_eventfd(void) { return closed(c_eventfd()); }
static long do_epoll(void) { return closed(c_epoll()); }
static long do_memfd(void) { return closed(c_memfd()); }
static long do_sigprocmask(void) { return c_sigprocmask(&empty); }
static long do_umask(void) { return c_umask(022) < 0; }
static long do_chdir(void) { return c_chdir("/"); }
static long do_prctl(void) { return c_prctl(); }
static long do_getppid(void) { return c_getppid() < 0; }
static long do_read(void) { return c_read(zero, byte, 1) != 1; }
static long do_write(void) { return c_write(null, byte, 1) != 1; }
static long do_lseek(void) { return c_lseek(zero) < 0; }
static long do_yield(void) { return c_yield(); }

/* One round of a program that does a bit of everything: a file, some memory, some arithmetic. */
static long do_mix(void)
{
	static unsigned long x = 1;
	char *p = c_mmap(65536);
	int i;

	if ((unsigned long)p > -4096UL)
		return -1;
	for (i = 0; i < 4; i++)
		if (c_read(zero, p + i * 4096, 4096) != 4096)
			return -1;
	for (i = 0; i < 20000; i++)
		x = x * 6364136223846793005UL + 1442695040888963407UL;
	p[x % 65536] = 1;
	return do_open() || c_munmap(p, 65536);
}

/* The names are those of calls.go, which knows how many calls of each kind one round makes. */
static const struct {
	const char *name;
	long (*round)(void);
} table[] = {
	{"mmap+munmap", do_mmap},
	{"mprotect*2", do_mprotect},
	{"brk*2", do_brk},
	{"madvise", do_madvise},
	{"open+close", do_open},
	{"dup+close", do_dup},
	{"fcntl", do_fcntl},
	{"pipe+close*2", do_pipe},
	{"socket+close", do_socket},
	{"eventfd+close", do_eventfd},
	{"epoll_create+close", do_epoll},
	{"memfd_create+close", do_memfd},
	{"sigaction", c_sigaction},
	{"sigprocmask", do_sigprocmask},
	{"sigaltstack", c_sigaltstack},
	{"prlimit*2", c_prlimit},
	{"umask", do_umask},
	{"chdir", do_chdir},
	{"prctl", do_prctl},
	{"fork+exit+wait", c_fork_wait},
	{"getppid", do_getppid},
	{"read", do_read},
	{"write", do_write},
	{"lseek", do_lseek},
	{"sched_yield", do_yield},
	{"mix", do_mix},
};

static long now(void)
{
	moment t;

	c_clock(&t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static long measure(const char *name, long count)
{
	unsigned long i;
	long n, start;

	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		const char *a = table[i].name, *b = name;

		while (*a && *a == *b)
			a++, b++;
		if (*a != *b)
			continue;
		start = now();
		for (n = 0; n < count; n++)
			if (table[i].round())
				return -1;
		return now() - start;
	}
	return -1;
}

static void answer(long v)
{
	char buf[24], *p = buf + sizeof(buf);
	int negative = v < 0;

	*--p = '\n';
	if (negative)
		v = -v;
	do
		*--p = '0' + v % 10;
	while (v /= 10);
	if (negative)
		*--p = '-';
	c_write(1, p, buf + sizeof(buf) - p);
}

/* One request is one write of the other side and fits the pipe, so one read gets it whole. */
static int serve(void)
{
	static char line[128];
	long n;

	page = c_mmap(4096);
	zero = c_open("/dev/zero");
	null = c_open("/dev/null");
	while ((n = c_read(0, line, sizeof(line) - 1)) > 0) {
		char *p = line;
		long count = 0;

		line[n] = 0;
		while (*p && *p != ' ')
			p++;
		if (*p)
			*p++ = 0;
		while (*p >= '0' && *p <= '9')
			count = count * 10 + (*p++ - '0');
		answer(measure(line, count));
	}
	return 0;
}

#ifdef FREESTANDING
__attribute__((used)) void start_c(long *sp)
{
	(void)sp;
	sys(__NR_exit_group, serve(), 0, 0, 0);
}
#else
int main(void)
{
	return serve();
}
#endif
