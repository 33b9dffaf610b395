// System calls that wait at the moment of the snapshot. A call with a timeout must go on with the time that was left;
// one without must go on waiting. READY is printed just before the call; the test leaves it time to get there.
#include "ckpt.h"
#include <linux/futex.h>
#include <poll.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/time.h>

#define NAP (3000 * MS) // long enough for a snapshot to begin on a busy machine

static void check_elapsed(long long start, long long want)
{
	long long took = now(CLOCK_MONOTONIC) - start - outage();
	expect_range("ms it took, less the outage", took / MS, want / MS - 250, want / MS + LATE);
}

static struct timespec spec(long long ns) { return (struct timespec){ns / SEC, ns % SEC}; }

static void sleep_nanosleep(void)
{
	struct timespec ts = spec(NAP), rest; // which the kernel writes each time something interrupts the call
	long long start = now(CLOCK_MONOTONIC);
	say_ready();
	expect("nanosleep", syscall(SYS_nanosleep, &ts, &rest), 0);
	check_elapsed(start, NAP);
}

static void sleep_clock(void)
{
	struct timespec ts = spec(NAP);
	long long start = now(CLOCK_MONOTONIC);
	say_ready();
	expect("clock_nanosleep", clock_nanosleep(CLOCK_BOOTTIME, 0, &ts, NULL), 0);
	check_elapsed(start, NAP);
}

static void sleep_absolute(void)
{
	long long start = now(CLOCK_MONOTONIC);
	struct timespec ts = spec(start + NAP);
	say_ready();
	expect("clock_nanosleep", clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL), 0);
	expect_range("ms it took", (now(CLOCK_MONOTONIC) - start) / MS, NAP / MS, NAP / MS + outage() / MS + LATE);
}

static int word = 7;

static long futex(int op, int val, const struct timespec *timeout, int bitset)
{
	return syscall(SYS_futex, &word, op, val, timeout, NULL, bitset);
}

static void *waker(void *arg)
{
	(void)arg;
	while (access("go", F_OK) != 0)
		nap(2 * MS);
	nap(100 * MS);
	__atomic_store_n(&word, 8, __ATOMIC_SEQ_CST);
	futex(FUTEX_WAKE_PRIVATE, 1, NULL, 0);
	return NULL;
}

static pthread_t start_waker(void)
{
	pthread_t t;
	must(-pthread_create(&t, NULL, waker, NULL));
	return t;
}

static void futex_timeout(void)
{
	struct timespec ts = spec(NAP);
	long long start = now(CLOCK_MONOTONIC);
	say_ready();
	expect("futex", futex(FUTEX_WAIT_PRIVATE, 7, &ts, 0), -1);
	expect("errno", errno, ETIMEDOUT);
	check_elapsed(start, NAP);
}

static void futex_forever(void)
{
	pthread_t t = start_waker();
	say_ready();
	while (__atomic_load_n(&word, __ATOMIC_SEQ_CST) == 7) {
		if (futex(FUTEX_WAIT_PRIVATE, 7, NULL, 0) == -1 && errno != EAGAIN)
			differs("futex: %s", strerror(errno));
	}
	pthread_join(t, NULL);
}

static void futex_bitset(void)
{
	long long start = now(CLOCK_MONOTONIC);
	struct timespec ts = spec(start + NAP);
	say_ready();
	expect("futex", futex(FUTEX_WAIT_BITSET_PRIVATE, 7, &ts, FUTEX_BITSET_MATCH_ANY), -1);
	expect("errno", errno, ETIMEDOUT);
	expect_range("ms it took", (now(CLOCK_MONOTONIC) - start) / MS, NAP / MS, NAP / MS + outage() / MS + LATE);
}

static void futex_woken(void)
{
	struct timespec ts = spec(600 * SEC);
	pthread_t t = start_waker();
	say_ready();
	while (__atomic_load_n(&word, __ATOMIC_SEQ_CST) == 7) {
		if (futex(FUTEX_WAIT_PRIVATE, 7, &ts, 0) == -1 && errno != EAGAIN)
			differs("futex: %s", strerror(errno));
	}
	pthread_join(t, NULL);
}

static int ends[2];

static void *writer(void *arg)
{
	(void)arg;
	while (access("go", F_OK) != 0)
		nap(2 * MS);
	nap(100 * MS);
	must(write(ends[1], "x", 1));
	return NULL;
}

static pthread_t start_writer(void)
{
	pthread_t t;
	must(pipe(ends));
	must(-pthread_create(&t, NULL, writer, NULL));
	return t;
}

static void poll_timeout(void)
{
	must(pipe(ends));
	struct pollfd p = {.fd = ends[0], .events = POLLIN};
	long long start = now(CLOCK_MONOTONIC);
	say_ready();
	expect("poll", poll(&p, 1, NAP / MS), 0);
	check_elapsed(start, NAP);
}

static void poll_forever(void)
{
	pthread_t t = start_writer();
	struct pollfd p = {.fd = ends[0], .events = POLLIN};
	say_ready();
	expect("poll", poll(&p, 1, -1), 1);
	expect("revents", p.revents, POLLIN);
	pthread_join(t, NULL);
}

static void on_alarm(int sig) { (void)sig; }

// ppoll, pselect and select do not restart by restart_block: the kernel writes the time that is left into the timeout.
static void ppoll_timeout(void)
{
	must(pipe(ends));
	struct pollfd p = {.fd = ends[0], .events = POLLIN};
	struct timespec ts = spec(NAP);
	sigset_t mask;
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR2);
	signal(SIGUSR2, on_alarm);
	long long start = now(CLOCK_MONOTONIC);
	say_ready();
	expect("ppoll", syscall(SYS_ppoll, &p, 1, &ts, &mask, 8), 0);
	check_elapsed(start, NAP);
	uint64_t after = 1;
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &after, 8);
	expect("mask afterwards", after, 0);
}

static void select_timeout(void)
{
	must(pipe(ends));
	fd_set set;
	FD_ZERO(&set);
	FD_SET(ends[0], &set);
	struct timeval tv = {NAP / SEC, NAP % SEC / 1000};
	long long start = now(CLOCK_MONOTONIC);
	say_ready();
	expect("select", select(ends[0] + 1, &set, NULL, NULL, &tv), 0);
	check_elapsed(start, NAP);
}

static void read_pipe(void)
{
	pthread_t t = start_writer();
	char c = 0;
	say_ready();
	expect("read", read(ends[0], &c, 1), 1);
	expect("byte", c, 'x');
	pthread_join(t, NULL);
}

static void write_pipe(void)
{
	static char full[65536], sink[65536];
	must(pipe(ends));
	must(write(ends[1], full, sizeof full));
	pid_t child = must(fork());
	if (child == 0) {
		while (access("go", F_OK) != 0)
			nap(2 * MS);
		_exit(read(ends[0], sink, sizeof sink) == sizeof sink ? 0 : 1);
	}
	int status = -1;
	say_ready();
	expect("write", write(ends[1], "tail", 4), 4);
	expect("waitpid", waitpid(child, &status, 0), child);
	expect("status", status, 0);
	expect("read back", read(ends[0], sink, sizeof sink), 4);
}

static sem_t sem;

static void *poster(void *arg)
{
	(void)arg;
	while (access("go", F_OK) != 0)
		nap(2 * MS);
	sem_post(&sem);
	return NULL;
}

static void semaphore(void)
{
	pthread_t t;
	must(sem_init(&sem, 0, 0));
	must(-pthread_create(&t, NULL, poster, NULL));
	say_ready();
	expect("sem_wait", sem_wait(&sem), 0);
	pthread_join(t, NULL);
}

static void condition(void)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t cond;
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&cond, &attr);
	long long start = now(CLOCK_MONOTONIC);
	struct timespec ts = spec(start + NAP);
	pthread_mutex_lock(&lock);
	say_ready();
	expect("pthread_cond_timedwait", pthread_cond_timedwait(&cond, &lock, &ts), ETIMEDOUT);
	expect_range("ms it took", (now(CLOCK_MONOTONIC) - start) / MS, NAP / MS, NAP / MS + outage() / MS + LATE);
	pthread_mutex_unlock(&lock);
}

static void wait_child(void)
{
	pid_t child = must(fork());
	if (child == 0) {
		wait_go();
		_exit(42);
	}
	int status;
	say_ready();
	expect("waitpid", waitpid(child, &status, 0), child);
	expect("status", WEXITSTATUS(status), 42);
}

// The kernel ends these calls with EINTR when a stop interrupts them. Here they go on.

static int semaphores;

static void call_epoll(void)
{
	struct epoll_event e;
	int ep = must(epoll_create1(0));
	expect("epoll_wait", epoll_wait(ep, &e, 1, NAP / MS), 0);
}

static void call_epoll_pwait2(void)
{
	struct epoll_event e;
	struct timespec ts = spec(NAP);
	int ep = must(epoll_create1(0));
	if (syscall(441, ep, &e, 1, &ts, NULL, 8) == -1) { // SYS_epoll_pwait2, Linux 5.11
		expect("errno", errno, ENOSYS);
		nap(NAP);
	}
}

static void call_semtimedop(void)
{
	struct sembuf down = {0, -1, 0};
	struct timespec ts = spec(NAP);
	expect("semtimedop", semtimedop(semaphores, &down, 1, &ts), -1);
	expect("errno", errno, EAGAIN);
}

static void call_sigtimedwait(void)
{
	sigset_t set;
	siginfo_t info;
	struct timespec ts = spec(NAP);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	expect("sigtimedwait", sigtimedwait(&set, &info, &ts), -1);
	expect("errno", errno, EAGAIN);
}

static void *timed(void *call)
{
	long long start = now(CLOCK_MONOTONIC);
	((void (*)(void))call)();
	check_elapsed(start, NAP);
	return NULL;
}

static void block(int sig)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, sig);
	must(-pthread_sigmask(SIG_BLOCK, &set, NULL));
}

// By its key whoever kills the program finds it: package testprog, RemoveSemaphores.
static void make_semaphores(void) { semaphores = must(semget(getpid(), 1, IPC_CREAT | IPC_EXCL | 0600)); }

static void epoll_timeout(void)
{
	say_ready();
	timed(call_epoll);
}

static void epoll_pwait2_timeout(void)
{
	say_ready();
	timed(call_epoll_pwait2);
}

static void semtimedop_timeout(void)
{
	make_semaphores();
	say_ready();
	timed(call_semtimedop);
	must(semctl(semaphores, 0, IPC_RMID));
}

static void sigtimedwait_timeout(void)
{
	block(SIGUSR1);
	say_ready();
	timed(call_sigtimedwait);
}

// All of them at once, each in a thread of its own.
static void timeouts(void)
{
	void (*calls[])(void) = {call_epoll, call_epoll_pwait2, call_sigtimedwait};
	pthread_t threads[COUNT(calls)];
	block(SIGUSR1);
	for (size_t i = 0; i < COUNT(calls); i++)
		must(-pthread_create(&threads[i], NULL, timed, (void *)calls[i]));
	say_ready();
	for (size_t i = 0; i < COUNT(calls); i++)
		pthread_join(threads[i], NULL);
}

static void epoll_forever(void)
{
	pthread_t t = start_writer();
	int ep = must(epoll_create1(0));
	struct epoll_event e = {.events = EPOLLIN};
	must(epoll_ctl(ep, EPOLL_CTL_ADD, ends[0], &e));
	say_ready();
	expect("epoll_wait", epoll_wait(ep, &e, 1, -1), 1);
	pthread_join(t, NULL);
}

static pthread_t waiting;

static void *signaller(void *arg)
{
	(void)arg;
	wait_go();
	nap(100 * MS);
	pthread_kill(waiting, SIGUSR1);
	pthread_kill(waiting, SIGUSR2);
	return NULL;
}

static pthread_t start_signaller(void)
{
	pthread_t t;
	block(SIGUSR1);
	waiting = pthread_self();
	must(-pthread_create(&t, NULL, signaller, NULL));
	return t;
}

static void *raiser(void *arg)
{
	struct sembuf up = {0, 1, 0};
	(void)arg;
	wait_go();
	nap(100 * MS);
	must(semop(semaphores, &up, 1));
	return NULL;
}

static void semop_forever(void)
{
	struct sembuf down = {0, -1, 0};
	pthread_t t;
	make_semaphores();
	must(-pthread_create(&t, NULL, raiser, NULL));
	say_ready();
	expect("semop", semop(semaphores, &down, 1), 0);
	pthread_join(t, NULL);
	must(semctl(semaphores, 0, IPC_RMID));
}

static void sigwaitinfo_forever(void)
{
	sigset_t set;
	block(SIGUSR2);
	pthread_t t = start_signaller();
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	say_ready();
	expect("sigwaitinfo", sigwaitinfo(&set, NULL), SIGUSR1);
	pthread_join(t, NULL);
}

static volatile sig_atomic_t handled;

static void on_handled(int sig)
{
	(void)sig;
	handled++;
}

// A signal that is handled still ends such a call, whatever SA_RESTART says.
static void epoll_signal(void)
{
	struct sigaction sa = {.sa_handler = on_handled, .sa_flags = SA_RESTART};
	struct epoll_event e;
	int ep = must(epoll_create1(0));
	must(sigaction(SIGUSR2, &sa, NULL));
	pthread_t t = start_signaller();
	say_ready();
	expect("epoll_wait", epoll_wait(ep, &e, 1, -1), -1);
	expect("errno", errno, EINTR);
	expect("handled", handled, 1);
	pthread_join(t, NULL);
}

// A program that looks at the register with the timeout again finds what it put there; then its call may end.
static void epoll_register(void)
{
	static struct epoll_event e;
	long ep = must(epoll_create1(0)), result;
	register long timeout asm("r10") = NAP / MS;
	register long mask asm("r8") = 0;
	register long size asm("r9") = 8;
	say_ready();
	timeout = NAP / MS;
	mask = 0;
	size = 8;
	asm volatile("syscall" : "=a"(result), "+r"(timeout) : "a"(SYS_epoll_pwait), "D"(ep), "S"(&e), "d"(1), "r"(mask), "r"(size) : "rcx", "r11", "memory");
	long after = timeout;
	expect("timeout", after, NAP / MS);
	if (result != 0 && result != -EINTR)
		differs("epoll_pwait: %ld", result);
}

static const struct test_case cases[] = {
	{"nanosleep", sleep_nanosleep},
	{"clock-nanosleep", sleep_clock},
	{"absolute", sleep_absolute},
	{"futex-timeout", futex_timeout},
	{"futex-forever", futex_forever},
	{"futex-bitset", futex_bitset},
	{"futex-woken", futex_woken},
	{"poll-timeout", poll_timeout},
	{"poll-forever", poll_forever},
	{"ppoll", ppoll_timeout},
	{"select", select_timeout},
	{"read", read_pipe},
	{"write", write_pipe},
	{"semaphore", semaphore},
	{"condition", condition},
	{"waitpid", wait_child},
	{"epoll-timeout", epoll_timeout},
	{"epoll-pwait2-timeout", epoll_pwait2_timeout},
	{"semtimedop", semtimedop_timeout},
	{"sigtimedwait", sigtimedwait_timeout},
	{"timeouts", timeouts},
	{"epoll-forever", epoll_forever},
	{"semop", semop_forever},
	{"sigwaitinfo-forever", sigwaitinfo_forever},
	{"epoll-signal", epoll_signal},
	{"epoll-register", epoll_register},
};

MAIN(cases)
