// Threads that wait in a system call, without end or for a long time. The program was never promised that one ends
// before what it waits for has come.
#include "random.h"
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

enum { READ, WRITE, POLL, POLL_LONG, PPOLL, SELECT, EPOLL, EVENTFD, SIGNALFD, TIMERFD, INOTIFY, FUTEX, FUTEX_LONG, SIGWAIT, WAITPID, SETLKW, FLOCK, SLEEP, SLEEP_UNTIL };

// caller is a thread in a call: fd of the item are what it waits for, v[0] is what the call returned, v[1] its errno,
// v[2] the thread.
static void *caller(void *arg)
{
	struct item *it = arg;
	struct pollfd p = {.fd = it->fd[0], .events = POLLIN};
	struct epoll_event e;
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
	struct timespec ts = {1000, 0};
	siginfo_t info;
	sigset_t set;
	fd_set fds;
	char b[128];
	int status;
	long r = -1;
	FD_ZERO(&fds);
	FD_SET(it->fd[0] < 0 ? 0 : it->fd[0], &fds);
	sigemptyset(&set);
	if (it->v[3] > 0)
		sigaddset(&set, (int)it->v[3]);
	__atomic_store_n(&it->v[2], syscall(SYS_gettid), __ATOMIC_SEQ_CST);
	switch (it->feature->arg) {
	case READ: r = read(it->fd[0], b, 1); break;
	case WRITE: r = write(it->fd[1], b, 1); break;
	case POLL: r = poll(&p, 1, -1); break;
	case POLL_LONG: r = poll(&p, 1, 1000000); break;
	case PPOLL: r = ppoll(&p, 1, &ts, NULL); break;
	case SELECT: r = select(it->fd[0] + 1, &fds, NULL, NULL, NULL); break;
	case EPOLL: r = epoll_wait(it->fd[2], &e, 1, -1); break;
	case EVENTFD:
	case TIMERFD: r = read(it->fd[0], b, 8) / 8; break;
	case SIGNALFD: r = read(it->fd[0], b, 128) / 128; break;
	case INOTIFY: r = read(it->fd[0], b, 32) / 32; break;
	case FUTEX: r = 1 + syscall(SYS_futex, &it->v[4], FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0); break;
	case FUTEX_LONG: r = 1 + syscall(SYS_futex, &it->v[4], FUTEX_WAIT_PRIVATE, 0, &ts, NULL, 0); break;
	case SIGWAIT: r = sigwaitinfo(&set, &info) == it->v[3]; break;
	case WAITPID: r = waitpid(it->pid, &status, 0) == it->pid; break;
	case SETLKW: r = 1 + fcntl(it->fd[0], F_OFD_SETLKW, &lock); break;
	case FLOCK: r = 1 + flock(it->fd[0], LOCK_EX); break;
	case SLEEP:
		ts = (struct timespec){1, 500 * MS};
		r = 1 + nanosleep(&ts, NULL);
		break;
	case SLEEP_UNTIL:
		clock_gettime(CLOCK_MONOTONIC, &ts);
		ts.tv_sec += 2;
		r = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == 0;
		break;
	}
	it->v[0] = r;
	it->v[1] = errno;
	return arg;
}

static int waits(struct item *it)
{
	char c;
	close(it->fd[1]);
	told();
	return (int)read(it->fd[0], &c, 1); // 0: the end of the file
}

static void prepare(struct item *it)
{
	static const struct itimerspec never = {{0, 0}, {100000, 0}};
	struct epoll_event e = {.events = EPOLLIN};
	sigset_t set;
	switch (it->feature->arg) {
	case EVENTFD:
		it->fd[0] = must(eventfd(0, EFD_CLOEXEC));
		break;
	case TIMERFD:
		it->fd[0] = must(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
		must(timerfd_settime(it->fd[0], 0, &never, NULL));
		break;
	case INOTIFY:
		it->fd[0] = must(inotify_init1(IN_CLOEXEC));
		must(mkdir(path_of(it, ""), 0755));
		must(inotify_add_watch(it->fd[0], path_of(it, ""), IN_CREATE));
		break;
	case SIGNALFD:
	case SIGWAIT:
		it->v[3] = signal_number();
		if (it->v[3] < 0)
			lack(it);
		block((int)it->v[3]);
		sigemptyset(&set);
		sigaddset(&set, (int)it->v[3]);
		it->fd[0] = must(signalfd(-1, &set, SFD_CLOEXEC));
		break;
	case SETLKW:
	case FLOCK:
		write_file(path_of(it, ""), "x");
		it->fd[0] = must(open(path_of(it, ""), O_RDWR | O_CLOEXEC));
		it->fd[1] = must(open(path_of(it, ""), O_RDWR | O_CLOEXEC));
		struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
		must(it->feature->arg == FLOCK ? flock(it->fd[1], LOCK_EX) : fcntl(it->fd[1], F_OFD_SETLK, &lock));
		break;
	default:
		must(pipe2(it->fd, O_CLOEXEC));
		it->fd[2] = must(epoll_create1(EPOLL_CLOEXEC));
		must(epoll_ctl(it->fd[2], EPOLL_CTL_ADD, it->fd[0], &e));
		if (it->feature->arg == WAITPID)
			it->pid = helper(it, waits);
		for (char page[4096] = ""; it->feature->arg == WRITE;) { // until it is full
			struct pollfd p = {.fd = it->fd[1], .events = POLLOUT};
			if (poll(&p, 1, 0) == 0)
				break;
			must(write(it->fd[1], page, sizeof page));
		}
	}
}

static void set_call(struct item *it)
{
	sigset_t all, before;
	pthread_t t;
	char path[64], b[512];
	prepare(it);
	if (it->lacking)
		return;
	sigfillset(&all); // what is pending in the process is not for it
	must(-pthread_sigmask(SIG_SETMASK, &all, &before));
	must(-pthread_create(&t, NULL, caller, it));
	must(-pthread_sigmask(SIG_SETMASK, &before, NULL));
	it->p = (char *)t;
	while (__atomic_load_n(&it->v[2], __ATOMIC_SEQ_CST) == 0)
		nap(MS);
	snprintf(path, sizeof path, "/proc/self/task/%lld/stat", it->v[2]);
	for (int asleep = 0; asleep < 2; nap(2 * MS))
		asleep = strstr(read_file(path, b, sizeof b), ") S") != NULL ? asleep + 1 : 0;
}

static void check_call(struct item *it)
{
	static const struct itimerspec soon = {{0, 0}, {0, 1}};
	static char page[4096];
	struct flock unlocked = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_len = 1};
	uint64_t one = 1;
	switch (it->feature->arg) {
	case EVENTFD: must(write(it->fd[0], &one, 8)); break;
	case TIMERFD: must(timerfd_settime(it->fd[0], 0, &soon, NULL)); break;
	case INOTIFY: write_file(path_of(it, "/new"), ""); break;
	case SIGNALFD:
	case SIGWAIT: must(kill(getpid(), (int)it->v[3])); break;
	// not by closing it: a child of the program has it, too
	case SETLKW: must(fcntl(it->fd[1], F_OFD_SETLK, &unlocked)); break;
	case FLOCK: must(flock(it->fd[1], LOCK_UN)); break;
	case WAITPID: close(it->fd[1]); break;
	case WRITE: must(read(it->fd[0], page, sizeof page)); break;
	case FUTEX:
	case FUTEX_LONG:
		__atomic_store_n((int *)&it->v[4], 1, __ATOMIC_SEQ_CST);
		syscall(SYS_futex, &it->v[4], FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
		break;
	case SLEEP:
	case SLEEP_UNTIL: break;
	default: must(write(it->fd[1], "x", 1));
	}
	pthread_join((pthread_t)it->p, NULL);
	if (it->v[0] != 1 && !(it->v[1] == EAGAIN && it->v[4] != 0))
		differs("the call gave %lld, errno %lld", it->v[0], it->v[1]);
}

#define IN(name, call) {"in " name, set_call, check_call, call}

static const struct feature features[] = {
	IN("read", READ), IN("write", WRITE), IN("poll", POLL), IN("poll with timeout", POLL_LONG), IN("ppoll with timeout", PPOLL), IN("select", SELECT),
	IN("epoll_wait", EPOLL), IN("read of an eventfd", EVENTFD), IN("read of a signalfd", SIGNALFD), IN("read of a timerfd", TIMERFD),
	IN("read of inotify", INOTIFY), IN("futex", FUTEX), IN("futex with timeout", FUTEX_LONG), IN("sigwaitinfo", SIGWAIT),
	{"in waitpid", set_call, check_call, WAITPID, ALONE}, IN("fcntl for a lock", SETLKW), IN("flock", FLOCK), IN("nanosleep", SLEEP),
	IN("clock_nanosleep until", SLEEP_UNTIL),
};

TABLE(calls);
