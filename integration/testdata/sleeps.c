// System calls that wait at the moment of the snapshot. A call with a timeout must go on with the time that was left; one without
// must go on waiting. READY is printed just before the call; the test leaves it time to get there.
#include "ckpt.h"
#include <linux/futex.h>
#include <poll.h>
#include <semaphore.h>
#include <sys/select.h>
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

static void *timed_waiter(void *arg)
{
	sigset_t set;
	siginfo_t info;
	struct timespec ts = spec(NAP);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	(void)arg;
	expect("sigtimedwait", sigtimedwait(&set, &info, &ts), -1);
	if (errno != EAGAIN && errno != EINTR) // signal(7): sigtimedwait is one of the calls that a stop may interrupt
		differs("sigtimedwait: %s", strerror(errno));
	return NULL;
}

static void signal_wait(void)
{
	sigset_t set;
	pthread_t t;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	must(sigprocmask(SIG_BLOCK, &set, NULL));
	must(-pthread_create(&t, NULL, timed_waiter, NULL));
	ready();
	pthread_join(t, NULL);
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
	{"sigtimedwait", signal_wait},
};

MAIN(cases)
