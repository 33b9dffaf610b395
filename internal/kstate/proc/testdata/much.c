// A process with some of everything that a kernel state source has to find. It prints "ready" when all of it is there, and sleeps.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

#define DO(x) do { if ((long)(x) == -1) { fprintf(stderr, "%s: %s\n", #x, strerror(errno)); exit(1); } } while (0)

static void handler(int sig) { (void)sig; }
static pthread_barrier_t barrier;

static void alternate(size_t size, int flags) {
	stack_t ss = {.ss_sp = malloc(size), .ss_size = size, .ss_flags = flags};
	DO(sigaltstack(&ss, 0));
}

static void signals(void) {
	struct sigaction sa = {.sa_handler = handler, .sa_flags = SA_RESTART | SA_ONSTACK};
	sigaddset(&sa.sa_mask, SIGUSR2);
	DO(sigaction(SIGUSR1, &sa, 0));
	sa.sa_flags = SA_SIGINFO | SA_NODEFER;
	DO(sigaction(SIGRTMIN + 3, &sa, 0));
	signal(SIGPIPE, SIG_IGN);
	sa.sa_handler = SIG_DFL;
	sa.sa_flags = SA_NOCLDWAIT;
	DO(sigaction(SIGCHLD, &sa, 0));
}

static void timers(void) {
	struct itimerval it = {{7, 500000}, {1000, 0}};
	DO(setitimer(ITIMER_REAL, &it, 0));
	it.it_value.tv_sec = 2000;
	DO(setitimer(ITIMER_VIRTUAL, &it, 0));
	it.it_interval.tv_sec = 0;
	DO(setitimer(ITIMER_PROF, &it, 0));
	static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME, CLOCK_PROCESS_CPUTIME_ID, CLOCK_TAI, CLOCK_THREAD_CPUTIME_ID};
	for (int i = 0; i < 6; i++) {
		timer_t id;
		struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + i, .sigev_value.sival_ptr = (void *)(0x1000L + i)};
		struct itimerspec ts = {{i, 5}, {1000 + i, 0}};
		if (i == 1) {
			ev.sigev_notify = SIGEV_THREAD_ID;
			ev._sigev_un._tid = gettid();
		}
		if (i == 2) ev.sigev_notify = SIGEV_NONE;
		DO(timer_create(clocks[i], &ev, &id));
		if (i != 4) DO(timer_settime(id, 0, &ts, 0));
	}
}

static void mappings(const char *dir) {
	char path[4096];
	char *p;
	long page = 4096;
	DO(p = mmap(0, 64 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	DO(mprotect(p + page, page, PROT_NONE));
	DO(mprotect(p + 3 * page, page, PROT_READ | PROT_EXEC));
	DO(madvise(p + 5 * page, page, MADV_DONTFORK));
	DO(madvise(p + 7 * page, page, MADV_DONTDUMP));
	DO(madvise(p + 9 * page, page, MADV_WIPEONFORK));
	DO(madvise(p + 11 * page, page, MADV_NOHUGEPAGE));
	DO(madvise(p + 13 * page, page, MADV_SEQUENTIAL));
	DO(madvise(p + 15 * page, page, MADV_RANDOM));
	DO(madvise(p + 17 * page, page, MADV_MERGEABLE));
	DO(mlock(p + 19 * page, page));
	DO(mlock2(p + 21 * page, page, MLOCK_ONFAULT));
	prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p + 23 * page, page, "a name"); // needs CONFIG_ANON_VMA_NAME
	unsigned long node = 1;
	syscall(SYS_mbind, p + 25 * page, page, 2 /* MPOL_BIND */, &node, 8, 0);
	syscall(SYS_mbind, p + 27 * page, page, 3 | 1 << 15 /* MPOL_INTERLEAVE, static */, &node, 8, 0);
	DO(mmap(0, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	DO(mmap(0, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
	DO(mmap(0, 16 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_STACK, -1, 0));
	int fd;
	DO(fd = memfd_create("a memory", MFD_CLOEXEC));
	DO(ftruncate(fd, 16 * page));
	DO(mmap(0, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4 * page));
	DO(mmap(0, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 8 * page));
	DO(fd = open("/dev/zero", O_RDWR));
	DO(mmap(0, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	DO(mmap(0, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
	static const char *const names[] = {"plain", "gone", "linked", "odd\nname", "looks (deleted)", 0};
	for (int i = 0; names[i]; i++) {
		snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		DO(fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600));
		DO(ftruncate(fd, 8 * page));
		DO(mmap(0, 2 * page, PROT_READ, MAP_SHARED, fd, page));
		DO(mmap(0, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 3 * page));
	}
	snprintf(path, sizeof path, "%s/gone", dir);
	DO(unlink(path));
	char other[4200];
	snprintf(path, sizeof path, "%s/linked", dir);
	snprintf(other, sizeof other, "%s.other", path);
	DO(link(path, other));
	DO(unlink(path));
	snprintf(path, sizeof path, "/dev/shm/much.%d", getpid());
	DO(fd = open(path, O_RDWR | O_CREAT, 0600));
	DO(ftruncate(fd, 8 * page));
	DO(mmap(0, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	DO(unlink(path));
}

static void descriptors(const char *dir) {
	char path[4096];
	int fd, p[2];
	DO(pipe2(p, O_NONBLOCK));
	DO(fd = dup(p[0]));
	DO(fcntl(fd, F_SETFD, FD_CLOEXEC));
	DO(eventfd(3, 0));
	DO(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
	DO(open("/dev/null", O_WRONLY));
	DO(open(dir, O_RDONLY | O_DIRECTORY));
	DO(open("/etc/passwd", O_PATH));
	snprintf(path, sizeof path, "%s/log", dir);
	for (int i = 0; i < 200; i++) {
		DO(fd = open(path, O_WRONLY | O_CREAT | O_APPEND | (i % 3 ? O_CLOEXEC : 0), 0600));
		if (i % 5 == 0) DO(dup(fd));
		DO(lseek(fd, i, SEEK_SET));
	}
	DO(fcntl(fd, F_DUPFD, 900));
	DO(flock(fd, LOCK_EX));
}

static void *sleeper(void *arg) {
	long kind = (long)arg;
	struct timespec ts = {1000, 0}, rest;
	uint32_t word = 0;
	if (kind % 2) alternate(16384 + 4096 * kind, kind % 3 ? 0 : SS_AUTODISARM);
	char name[16];
	snprintf(name, sizeof name, "thread %ld", kind);
	pthread_setname_np(pthread_self(), name);
	switch (kind) {
	case 0: {
		struct sched_param sp = {.sched_priority = 7};
		DO(sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &sp));
		break;
	}
	case 1: DO(setpriority(PRIO_PROCESS, gettid(), 7)); break;
	case 2: {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET(0, &set);
		DO(sched_setaffinity(0, sizeof set, &set));
		break;
	}
	case 3: DO(prctl(PR_SET_TIMERSLACK, 123456)); break;
	case 4: DO(prctl(PR_SET_PDEATHSIG, SIGUSR1)); break;
	case 5: DO(prctl(PR_SET_TSC, PR_TSC_SIGSEGV)); break;
	case 6: DO(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 5)); break;
	case 7: DO(personality(personality(0xffffffff) | ADDR_NO_RANDOMIZE)); break;
	case 8: {
		struct sched_param sp = {0};
		DO(sched_setscheduler(0, SCHED_BATCH, &sp));
		break;
	}
	case 9: DO(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0)); break;
	}
	pthread_barrier_wait(&barrier);
	for (;;) {
		switch (kind % 6) {
		case 0: nanosleep(&ts, &rest); break;
		case 1: syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &ts, 0, 0); break;
		case 2: poll(0, 0, 1000000); break;
		case 3: poll(0, 0, -1); break;
		case 4: {
			struct timespec at;
			clock_gettime(CLOCK_MONOTONIC, &at);
			at.tv_sec += 1000;
			syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, 0, &at, 0, 0xff);
			break;
		}
		case 5: pause(); break;
		}
	}
	return 0;
}

int main(int argc, char **argv) {
	const char *dir = argc > 1 ? argv[1] : "/tmp";
	enum { threads = 12 };
	signals();
	timers();
	descriptors(dir);
	mappings(dir);
	alternate(65536, 0);
	struct rlimit rl = {100 << 20, 200 << 20};
	DO(setrlimit(RLIMIT_STACK, &rl));
	rl.rlim_cur = rl.rlim_max = 4096;
	DO(setrlimit(RLIMIT_MEMLOCK, &rl));
	DO(chdir(dir));
	umask(027);
	sbrk(100000);
	DO(prctl(PR_SET_CHILD_SUBREAPER, 1));
	DO(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	DO(prctl(PR_SET_DUMPABLE, 0));
	DO(prctl(PR_SET_SECUREBITS, 0x4));
	prctl(67 /* PR_SET_MEMORY_MERGE */, 1, 0, 0, 0);
	DO(syscall(SYS_membarrier, 1 << 4, 0, 0));
	DO(syscall(SYS_membarrier, 1 << 6, 0, 0));
	pthread_barrier_init(&barrier, 0, threads + 1);
	for (long i = 0; i < threads; i++) {
		pthread_t t;
		if (pthread_create(&t, 0, sleeper, (void *)i)) return 1;
	}
	pthread_barrier_wait(&barrier);
	DO(mlockall(MCL_FUTURE | MCL_ONFAULT));
	if (!fork()) for (;;) pause();
	pid_t child;
	DO(child = fork());
	if (!child) _exit(3);
	waitpid(child, 0, 0); // nobody is told how it ended, but that it is gone
	puts("ready");
	fflush(stdout);
	for (;;) sleep(1000);
}
