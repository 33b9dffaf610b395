// A process that changes its state at random: churn SEED CALLS THREADS [alone]. Threads share an arena, in which they map, protect and unmap over one
// another, and the descriptor table; with 0 threads the process does it all by itself, on a stack that grows. Now and then one forks a child that does the same for a while, unless it is to stay alone; the first
// children, and a child of each, then stay. It begins when there is a file "go"; when all is done it makes a file "done". The threads stay.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define ARENA_PAGES 512UL
#define FIRST_FD 10
#define FDS 200
#define MAX_OWN 32

static char *arena;
static int file; // a file of 1 MiB
static int alone;

#define MAX_STAY 8
static struct {
	int stay;  // children that are to stay
	int busy;  // threads, and children that are to stay, that are not done
} *all; // shared by all processes

struct churn {
	uint64_t x; // xorshift
	long calls;
	void *own[MAX_OWN];
	size_t len[MAX_OWN];
};

static uint64_t next(struct churn *c)
{
	c->x ^= c->x << 13;
	c->x ^= c->x >> 7;
	c->x ^= c->x << 17;
	return c->x;
}

static uint64_t below(struct churn *c, uint64_t n) { return next(c) % n; }

static int prot(struct churn *c)
{
	static const int prots[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC, PROT_READ | PROT_WRITE | PROT_EXEC};
	return prots[below(c, 5)];
}

// Any range of the arena.
static char *range(struct churn *c, size_t *len)
{
	uint64_t from = below(c, ARENA_PAGES);
	*len = (1 + below(c, ARENA_PAGES - from > 32 ? 32 : ARENA_PAGES - from)) * PAGE;
	return arena + from * PAGE;
}

static void *map_any(struct churn *c, void *at, size_t len, int fixed)
{
	switch (below(c, 6)) {
	case 0:
		return mmap(at, len, PROT_READ, MAP_PRIVATE | fixed, file, (off_t)(below(c, 64) * PAGE));
	case 1:
		return mmap(at, len, PROT_READ | PROT_WRITE, MAP_SHARED | fixed, file, (off_t)(below(c, 64) * PAGE));
	case 2:
		return mmap(at, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | fixed, -1, 0);
	case 3:
		return mmap(at, len, prot(c), MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0);
	default:
		return mmap(at, len, prot(c), MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);
	}
}

static void churn_own(struct churn *c)
{
	int i = (int)below(c, MAX_OWN);
	if (c->own[i]) {
		munmap(c->own[i], c->len[i]);
		c->own[i] = NULL;
		return;
	}
	size_t len = (1 + below(c, 16)) * PAGE;
	void *p = map_any(c, NULL, len, 0);
	if (p != MAP_FAILED) {
		c->own[i] = p;
		c->len[i] = len;
	}
}

static void churn_move(struct churn *c)
{
	int i = (int)below(c, MAX_OWN);
	if (!c->own[i])
		return;
	size_t len = (1 + below(c, 24)) * PAGE;
	void *p = mremap(c->own[i], c->len[i], len, MREMAP_MAYMOVE);
	if (p != MAP_FAILED) {
		c->own[i] = p;
		c->len[i] = len;
	}
}

static void churn_maps(struct churn *c)
{
	static const int advice[] = {MADV_DONTFORK, MADV_DOFORK, MADV_DONTDUMP, MADV_DODUMP, MADV_RANDOM, MADV_SEQUENTIAL, MADV_NORMAL, MADV_DONTNEED};
	size_t len;
	char *p = range(c, &len);
	switch (below(c, 10)) {
	case 0:
	case 1:
		map_any(c, p, len, MAP_FIXED);
		break;
	case 2:
		munmap(p, len);
		break;
	case 3:
	case 4:
		mprotect(p, len, prot(c));
		break;
	case 5:
		madvise(p, len, advice[below(c, 8)]);
		break;
	case 6:
		churn_move(c);
		break;
	default:
		churn_own(c);
	}
}

static int some_fd(struct churn *c) { return FIRST_FD + (int)below(c, FDS); }

// Put a new descriptor at a place of ours, so that the table does not fill up.
static void place(struct churn *c, int fd)
{
	if (fd < 0)
		return;
	if (fd < FIRST_FD || fd >= FIRST_FD + FDS || below(c, 4) == 0) {
		if (below(c, 2))
			dup2(fd, some_fd(c));
		else
			dup3(fd, some_fd(c) + (fd == FIRST_FD ? 1 : 0), O_CLOEXEC);
		if (fd < FIRST_FD || fd > FIRST_FD + FDS)
			close(fd);
	}
}

static void churn_new_fd(struct churn *c)
{
	int pair[2];
	char name[64];
	switch (below(c, 8)) {
	case 0:
		snprintf(name, sizeof name, "./f%d", (int)below(c, 8));
		place(c, open(name, O_RDWR | O_CREAT | (below(c, 2) ? O_APPEND : 0), 0600));
		break;
	case 1:
		place(c, openat(AT_FDCWD, "/dev/null", O_RDONLY | O_CLOEXEC));
		break;
	case 2:
		if (pipe2(pair, below(c, 2) ? O_CLOEXEC : 0) == 0) {
			place(c, pair[0]);
			place(c, pair[1]);
		}
		break;
	case 3:
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0) {
			place(c, pair[0]);
			place(c, pair[1]);
		}
		break;
	case 4:
		place(c, eventfd(0, below(c, 2) ? EFD_CLOEXEC : EFD_NONBLOCK));
		break;
	case 5:
		place(c, epoll_create1(0));
		break;
	case 6:
		place(c, memfd_create("churn", 0));
		break;
	default:
		place(c, dup(some_fd(c)));
	}
}

static void churn_fds(struct churn *c)
{
	int fd = some_fd(c), one = (int)below(c, 2);
	switch (below(c, 8)) {
	case 0:
	case 1:
		close(fd);
		break;
	case 2:
		place(c, fcntl(fd, below(c, 2) ? F_DUPFD : F_DUPFD_CLOEXEC, FIRST_FD));
		break;
	case 3:
		fcntl(fd, F_SETFD, one ? FD_CLOEXEC : 0);
		break;
	case 4:
		fcntl(fd, F_SETFL, one ? O_NONBLOCK : 0);
		break;
	case 5:
		ioctl(fd, one ? FIOCLEX : FIONBIO, &one);
		break;
	default:
		churn_new_fd(c);
	}
}

// Let the stack grow, which takes the mm's lock for writing in no system call.
static void __attribute__((noinline)) deeper(size_t len)
{
	volatile char room[len];
	for (size_t i = 0; i < len; i += PAGE)
		room[i] = 1;
}

static void handler(int sig) { (void)sig; }

static void churn_rest(struct churn *c)
{
	struct sigaction sa = {.sa_handler = below(c, 3) ? handler : SIG_DFL, .sa_flags = SA_RESTART};
	struct rlimit r;
	sigset_t set;
	int sig = SIGRTMIN + 1 + (int)below(c, 20);
	switch (below(c, 7)) {
	case 0:
	case 1:
		if (below(c, 4) == 0)
			sa.sa_flags |= (int)SA_RESETHAND;
		sigaddset(&sa.sa_mask, 1 + (int)below(c, 30));
		sigaction(sig, &sa, NULL);
		break;
	case 2:
		r.rlim_cur = below(c, 1000000);
		r.rlim_max = RLIM_INFINITY;
		setrlimit(RLIMIT_CORE, &r);
		break;
	case 3:
		umask((mode_t)below(c, 64));
		break;
	case 4:
		sigemptyset(&set);
		sigaddset(&set, sig);
		pthread_sigmask(below(c, 2) ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
		break;
	case 5:
		if (below(c, 8) == 0)
			deeper(1 + below(c, 100) * PAGE);
		break;
	default:
		sa.sa_handler = handler;
		sa.sa_flags = (int)SA_RESETHAND;
		sigaction(SIGUSR2, &sa, NULL);
		if (below(c, 8) == 0 && syscall(SYS_gettid) == getpid()) // others may reset it first, and then it kills
			;
	}
}

static void churn(struct churn *c);

static void stay(void)
{
	__atomic_sub_fetch(&all->busy, 1, __ATOMIC_SEQ_CST);
	for (;;)
		pause();
}

// A child that is to stay forks one more before it is done.
static void child(struct churn *c, int stays)
{
	struct churn d = {.x = next(c) | 1, .calls = 300};
	churn(&d);
	if (stays < 0)
		_exit(0);
	if (stays > 0) {
		__atomic_add_fetch(&all->busy, 1, __ATOMIC_SEQ_CST);
		if (fork() == 0)
			child(&d, 0);
		churn(&d);
	}
	stay();
}

static void churn_fork(struct churn *c)
{
	int stays = __atomic_fetch_add(&all->stay, 1, __ATOMIC_SEQ_CST) < MAX_STAY ? 1 : -1;
	if (stays > 0)
		__atomic_add_fetch(&all->busy, 1, __ATOMIC_SEQ_CST);
	pid_t pid = fork();
	if (pid == 0)
		child(c, stays);
	if (pid > 0 && stays < 0)
		waitpid(pid, NULL, 0);
}

static void churn(struct churn *c)
{
	for (long i = 0; i < c->calls; i++) {
		uint64_t what = below(c, 1000);
		if (what < 500)
			churn_maps(c);
		else if (what < 900)
			churn_fds(c);
		else if (what < 999)
			churn_rest(c);
		else if (!alone && below(c, 2) == 0)
			churn_fork(c);
	}
}

static void *run(void *arg)
{
	struct churn *c = arg;
	churn(c);
	stay();
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	uint64_t seed = strtoull(argv[1], NULL, 0);
	long calls = atol(argv[2]);
	int threads = atoi(argv[3]);
	alone = argc > 4;
	struct churn c[64];
	pthread_t t[64];
	file = open("data", O_RDWR | O_CREAT, 0600);
	if (file < 0 || ftruncate(file, 1 << 20) || threads > 64)
		return 2;
	all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	all->busy = threads > 0 ? threads : 1;
	arena = mmap(NULL, ARENA_PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	printf("READY\n");
	fflush(stdout);
	while (access("go", F_OK) != 0)
		usleep(2000);
	memset(c, 0, sizeof c);
	for (int i = 0; i < threads; i++) {
		c[i].x = (seed * 1000003 + (uint64_t)i + 1) * 0x9e3779b97f4a7c15ULL | 1;
		c[i].calls = calls / threads;
		pthread_create(&t[i], NULL, run, &c[i]);
	}
	if (threads == 0) {
		c[0].x = seed * 0x9e3779b97f4a7c15ULL | 1;
		c[0].calls = calls;
		churn(&c[0]);
		__atomic_sub_fetch(&all->busy, 1, __ATOMIC_SEQ_CST);
	}
	while (__atomic_load_n(&all->busy, __ATOMIC_SEQ_CST) > 0)
		usleep(2000);
	close(open("done", O_WRONLY | O_CREAT, 0600));
	for (;;)
		pause();
}
