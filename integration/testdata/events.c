// Descriptors that wait for something, and locks on files.
#include "ckpt.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static void event_counters(void)
{
	uint64_t v = 0;
	int count = must(eventfd(7, EFD_NONBLOCK)), semaphore = must(eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC));
	int other = must(dup(count));
	ready();
	expect("read the counter", read(other, &v, 8), 8);
	expect("count", v, 7);
	expect("read it again", read(count, &v, 8), -1);
	expect("errno", errno, EAGAIN);
	expect("read the semaphore", read(semaphore, &v, 8), 8);
	expect("one", v, 1);
	expect("read the semaphore", read(semaphore, &v, 8), 8);
	expect("and it is empty", read(semaphore, &v, 8), -1);
	v = 5;
	expect("write", write(count, &v, 8), 8);
	expect("read by the dup", read(other, &v, 8), 8);
	expect("count", v, 5);
}

static void timer_descriptors(void)
{
	struct itimerspec far = {{0, 250 * MS}, {3600, 0}}, past = {{0, 0}, {0, 1}}, date = {{0, 0}, {0, 0}}, t;
	uint64_t v = 0;
	date.it_value.tv_sec = time(NULL) + 7200;
	int left = must(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)), over = must(timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK));
	int wall = must(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK)), off = must(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
	must(timerfd_settime(left, 0, &far, NULL));
	must(timerfd_settime(over, 0, &past, NULL));
	must(timerfd_settime(wall, TFD_TIMER_ABSTIME, &date, NULL));
	nap(5 * MS);
	long long before = now(CLOCK_MONOTONIC);
	must(timerfd_gettime(left, &t));
	long long had = t.it_value.tv_sec * SEC + t.it_value.tv_nsec;
	ready();
	must(timerfd_gettime(left, &t));
	long long has = t.it_value.tv_sec * SEC + t.it_value.tv_nsec, ran = now(CLOCK_MONOTONIC) - before;
	expect_range("time left", has, had - ran, had);
	expect("interval", t.it_interval.tv_nsec, 250 * MS);
	expect("expired", read(over, &v, 8), 8);
	expect("once", v, 1);
	must(timerfd_gettime(wall, &t));
	expect_range("seconds until the date", t.it_value.tv_sec, date.it_value.tv_sec - time(NULL) - 2, date.it_value.tv_sec - time(NULL) + 1);
	must(timerfd_gettime(off, &t));
	expect("disarmed", t.it_value.tv_sec + t.it_value.tv_nsec, 0);
}

// Repeating timers that have run out and were not read: the kernel starts one again, and counts the periods gone by,
// when it is read.
static void repeating_timers(void)
{
	static const struct { int clock, flags; long long every; } kinds[] = {
		{CLOCK_MONOTONIC, 0, MS}, {CLOCK_MONOTONIC, TFD_TIMER_ABSTIME, 20 * MS}, {CLOCK_BOOTTIME, 0, 20 * MS}, {CLOCK_REALTIME, 0, 20 * MS},
		{CLOCK_REALTIME, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, 20 * MS}, {CLOCK_BOOTTIME_ALARM, 0, 20 * MS}, {CLOCK_REALTIME_ALARM, 0, 20 * MS},
		{CLOCK_REALTIME_ALARM, TFD_TIMER_ABSTIME, 20 * MS},
	};
	int fds[COUNT(kinds)];
	for (size_t i = 0; i < COUNT(kinds); i++) {
		long long first = kinds[i].every + (kinds[i].flags ? now(kinds[i].clock) : 0);
		struct itimerspec its = {{0, kinds[i].every}, {first / SEC, first % SEC}};
		fds[i] = timerfd_create(kinds[i].clock, 0);
		if (fds[i] == -1 && errno == EPERM)
			continue; // the alarm clocks want CAP_WAKE_ALARM
		must(fds[i]);
		must(timerfd_settime(fds[i], kinds[i].flags, &its, NULL));
	}
	nap(200 * MS);
	ready();
	for (size_t i = 0; i < COUNT(kinds); i++) {
		for (int n = 0; n < 4 && fds[i] != -1; n++) {
			uint64_t v = 0;
			struct itimerspec its;
			expect("read", read(fds[i], &v, 8), 8); // a dead timer lets the test wait for ever
			if (v < (n == 0 ? 200 * MS / (uint64_t)kinds[i].every : 1))
				differs("timer %zu: %d: %llu periods", i, n, (unsigned long long)v);
			must(timerfd_gettime(fds[i], &its));
			expect("interval", its.it_interval.tv_nsec, kinds[i].every);
		}
	}
}

// A time that the program named stays that time, whatever the clock.
static void dated_timers(void)
{
	static const int clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME};
	int fds[COUNT(clocks)];
	long long due[COUNT(clocks)];
	for (size_t i = 0; i < COUNT(clocks); i++) {
		due[i] = now(clocks[i]) + 3600 * SEC;
		struct itimerspec its = {{0, 0}, {due[i] / SEC, due[i] % SEC}};
		fds[i] = must(timerfd_create(clocks[i], 0));
		must(timerfd_settime(fds[i], TFD_TIMER_ABSTIME, &its, NULL));
	}
	ready();
	for (size_t i = 0; i < COUNT(clocks); i++) {
		long long late = 3600 * SEC;
		for (int tries = 0; tries < 100; tries++) { // between the two readings somebody else may run
			struct itimerspec its;
			must(timerfd_gettime(fds[i], &its));
			long long off = now(clocks[i]) + its.it_value.tv_sec * SEC + its.it_value.tv_nsec - due[i];
			late = off < late ? off : late;
		}
		expect_range("ms between the time named and when it runs out", late / MS, 0, 100);
	}
}

static void signal_descriptor(void)
{
	sigset_t set;
	struct signalfd_siginfo si;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGRTMIN + 3);
	must(sigprocmask(SIG_BLOCK, &set, NULL));
	int fd = must(signalfd(-1, &set, SFD_NONBLOCK));
	must(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = 42}));
	ready();
	expect("read", read(fd, &si, sizeof si), sizeof si);
	expect("signal", si.ssi_signo, SIGRTMIN + 3);
	expect("value", si.ssi_int, 42);
	must(kill(getpid(), SIGUSR1));
	expect("read", read(fd, &si, sizeof si), sizeof si);
	expect("signal", si.ssi_signo, SIGUSR1);
}

static void watches(void)
{
	char b[4096] __attribute__((aligned(8)));
	must(mkdir("watched", 0755));
	must(mkdir("other", 0755));
	int fd = must(inotify_init1(IN_NONBLOCK));
	int first = must(inotify_add_watch(fd, "other", IN_DELETE)), wd = must(inotify_add_watch(fd, "watched", IN_CREATE));
	must(inotify_rm_watch(fd, first));
	must(read(fd, b, sizeof b)); // that it was removed
	ready();
	must(mkdir("other/quiet", 0755));
	must(mkdir("watched/new", 0755));
	struct inotify_event *e = (void *)b;
	expect("an event", read(fd, b, sizeof b) > 0, 1);
	expect("watch", e->wd, wd);
	expect("mask", e->mask, IN_CREATE | IN_ISDIR);
	expect_str("name", e->name, "new");
	expect("remove the watch", inotify_rm_watch(fd, wd), 0);
}

static void polling(void)
{
	struct epoll_event e = {0}, got[4];
	int p[2], q[2];
	must(pipe(p));
	must(pipe(q));
	int inner = must(epoll_create1(EPOLL_CLOEXEC)), outer = must(epoll_create1(0));
	e.events = EPOLLIN;
	e.data.u64 = 0x123456789abcdef0;
	must(epoll_ctl(inner, EPOLL_CTL_ADD, p[0], &e));
	e.events = EPOLLIN | EPOLLET;
	e.data.ptr = got;
	must(epoll_ctl(inner, EPOLL_CTL_ADD, q[0], &e));
	e.events = EPOLLIN;
	e.data.fd = inner;
	must(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &e));
	must(write(p[1], "x", 1));
	ready();
	expect("events outside", epoll_wait(outer, got, 4, 1000), 1);
	expect("data", got[0].data.fd, inner);
	expect("events", epoll_wait(inner, got, 4, 0), 1);
	expect("data", got[0].data.u64, 0x123456789abcdef0);
	must(write(q[1], "y", 1));
	expect("events of both", epoll_wait(inner, got, 4, 0), 2);
	expect("the edge is over", epoll_wait(inner, got, 4, 0), 1);
	e.events = EPOLLOUT;
	expect("change one", epoll_ctl(inner, EPOLL_CTL_MOD, p[0], &e), 0);
	expect("remove the other", epoll_ctl(inner, EPOLL_CTL_DEL, q[0], NULL), 0);
	expect("remove it again", epoll_ctl(inner, EPOLL_CTL_DEL, q[0], NULL), -1);
}

// elsewhere tells what another process finds: 1 if the lock cannot be had.
static int elsewhere(int (*try)(void))
{
	int status = 0;
	pid_t pid = must(fork());
	if (pid == 0)
		_exit(try());
	must(waitpid(pid, &status, 0));
	return WEXITSTATUS(status);
}

static int range_taken(const char *name, off_t at)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
	int fd = open(name, O_RDWR);
	return fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
}

static int whole_taken(void) { return flock(open("whole", O_RDONLY), LOCK_SH | LOCK_NB) == -1; }
static int posix_in(void) { return range_taken("posix", 12); }
static int posix_out(void) { return range_taken("posix", 20); }
static int ofd_in(void) { return range_taken("ofd", 1000); }
static int ofd_out(void) { return range_taken("ofd", 99); }

static void locks(void)
{
	struct flock p = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 10};
	struct flock o = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 0};
	int whole = must(open("whole", O_RDONLY | O_CREAT, 0600));
	int posix = must(open("posix", O_RDWR | O_CREAT, 0600)), ofd = must(open("ofd", O_RDWR | O_CREAT, 0600));
	must(flock(whole, LOCK_EX));
	must(fcntl(posix, F_SETLK, &p));
	must(fcntl(ofd, F_OFD_SETLK, &o));
	ready();
	expect("flock", elsewhere(whole_taken), 1);
	expect("POSIX lock", elsewhere(posix_in), 1);
	expect("behind it", elsewhere(posix_out), 0);
	expect("OFD lock", elsewhere(ofd_in), 1);
	expect("before it", elsewhere(ofd_out), 0);
	must(flock(whole, LOCK_UN));
	expect("flock given back", elsewhere(whole_taken), 0);
}

static const struct test_case cases[] = {
	{"timerfd", timer_descriptors}, {"timerfd-repeating", repeating_timers}, {"timerfd-dated", dated_timers}, {"signalfd", signal_descriptor}, {"inotify", watches}, {"epoll", polling}, {"locks", locks},
	{"eventfd", event_counters}, // last, see main
};

// Kernels before 6.5 do not tell whether an eventfd is a semaphore, so that it is refused there: then it is no case.
int main(int argc, char **argv)
{
	char path[64], value[64];
	int fd = must(eventfd(0, 0));
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
	int told = *proc_line(path, "eventfd-semaphore", value, sizeof value) != 0;
	close(fd);
	return run_cases(cases, COUNT(cases) - !told, argc, argv);
}
