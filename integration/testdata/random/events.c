// Descriptors that tell of events: eventfd, signalfd, epoll, inotify. Those of timers are in timers.c.
#include "random.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>

enum { ZERO, SOME, MOST, SEMAPHORE, NONBLOCK };

static void set_eventfd(struct item *it)
{
	static const uint64_t counts[] = {0, 12345, UINT64_MAX - 1, 3, 7};
	long how = it->feature->arg;
	it->fd[0] = must(eventfd(0, how == SEMAPHORE ? EFD_SEMAPHORE : how == NONBLOCK ? EFD_NONBLOCK | EFD_CLOEXEC : 0));
	if (counts[how] > 0)
		must(write(it->fd[0], &counts[how], 8));
	it->v[0] = (long long)counts[how];
	it->v[1] = fcntl(it->fd[0], F_GETFL);
	it->v[2] = fcntl(it->fd[0], F_GETFD);
}

static void check_eventfd(struct item *it)
{
	uint64_t have = 0;
	expect("flags", fcntl(it->fd[0], F_GETFL), it->v[1]);
	expect("close-on-exec", fcntl(it->fd[0], F_GETFD), it->v[2]);
	int left = it->feature->arg == SEMAPHORE ? 3 : it->v[0] != 0;
	for (int i = 0; i < left; i++) {
		expect("read", next_ticks(it->fd[0], &have), 0);
		expect("count", (long long)have, it->feature->arg == SEMAPHORE ? 1 : it->v[0]);
	}
	expect("read once more", next_ticks(it->fd[0], &have), -1);
}

static void set_signalfd(struct item *it)
{
	sigset_t set;
	int sig = signal_number();
	if (sig < 0)
		lack(it);
	block(sig);
	sigemptyset(&set);
	sigaddset(&set, sig);
	it->fd[0] = must(signalfd(-1, &set, it->feature->arg ? 0 : SFD_NONBLOCK | SFD_CLOEXEC));
	it->v[0] = sig;
	if (it->feature->arg)
		must(sigqueue(getpid(), sig, (union sigval){.sival_int = (int)it->random}));
}

static void check_signalfd(struct item *it)
{
	struct signalfd_siginfo info = {0};
	if (!it->feature->arg)
		must(sigqueue(getpid(), (int)it->v[0], (union sigval){.sival_int = (int)it->random}));
	expect("read", read(it->fd[0], &info, sizeof info), sizeof info);
	expect("signal", info.ssi_signo, it->v[0]);
	expect("value", info.ssi_int, (int)it->random);
	expect("sender", (long long)info.ssi_pid, getpid());
	expect("close-on-exec", fcntl(it->fd[0], F_GETFD), it->feature->arg ? 0 : FD_CLOEXEC);
}

// An epoll instance that watches a pipe with a byte in it, in each mode; fd: 0 the instance, 1 and 2 the pipe.
static void set_epoll(struct item *it)
{
	struct epoll_event e = {.events = EPOLLIN | (uint32_t)it->feature->arg, .data.u64 = it->random};
	it->fd[0] = must(epoll_create1(EPOLL_CLOEXEC));
	must(pipe(it->fd + 1));
	must(epoll_ctl(it->fd[0], EPOLL_CTL_ADD, it->fd[1], &e));
	if (it->random % 2)
		must(write(it->fd[2], "x", 1));
}

static void check_epoll(struct item *it)
{
	struct epoll_event e = {0};
	if (it->random % 2 == 0)
		must(write(it->fd[2], "x", 1));
	expect("events", epoll_wait(it->fd[0], &e, 1, 0), 1);
	expect("kind", e.events, EPOLLIN);
	expect("data", (long long)e.data.u64, (long long)it->random);
	expect("events again", epoll_wait(it->fd[0], &e, 1, 0), it->feature->arg & (EPOLLET | EPOLLONESHOT) ? 0 : 1);
	must(write(it->fd[2], "x", 1));
	expect("events after another byte", epoll_wait(it->fd[0], &e, 1, 0), it->feature->arg & EPOLLONESHOT ? 0 : 1);
	expect("added twice", epoll_ctl(it->fd[0], EPOLL_CTL_ADD, it->fd[1], &e), -1);
	expect("errno", errno, EEXIST);
}

static void set_nested(struct item *it)
{
	struct epoll_event e = {.events = EPOLLIN, .data.u64 = 5};
	it->fd[0] = must(epoll_create1(0));
	it->fd[1] = must(epoll_create1(0));
	it->fd[2] = must(eventfd(1, 0));
	must(epoll_ctl(it->fd[1], EPOLL_CTL_ADD, it->fd[2], &e));
	e.data.u64 = 6;
	must(epoll_ctl(it->fd[0], EPOLL_CTL_ADD, it->fd[1], &e));
}

static void check_nested(struct item *it)
{
	struct epoll_event e = {0};
	expect("events of the outer", epoll_wait(it->fd[0], &e, 1, 0), 1);
	expect("its data", (long long)e.data.u64, 6);
	expect("events of the inner", epoll_wait(it->fd[1], &e, 1, 0), 1);
	expect("its data", (long long)e.data.u64, 5);
}

static void set_many(struct item *it)
{
	it->v[0] = 2 + (long long)(it->random % 60);
	it->fd[0] = must(epoll_create1(0));
	it->p = malloc((size_t)it->v[0] * sizeof(int));
	for (int i = 0; i < it->v[0]; i++) {
		int fd = ((int *)it->p)[i] = must(eventfd(i % 2 ? 1 : 0, 0));
		struct epoll_event e = {.events = EPOLLIN, .data.u64 = (uint64_t)i};
		must(epoll_ctl(it->fd[0], EPOLL_CTL_ADD, fd, &e));
	}
}

static void check_many(struct item *it)
{
	struct epoll_event e[64];
	int n = epoll_wait(it->fd[0], e, 64, 0);
	expect("events", n, it->v[0] / 2);
	for (int i = 0; i < n; i++)
		expect("odd", (long long)e[i].data.u64 % 2, 1);
}

// Parent and child have the instance; the child has closed what the parent watches, and the other way round.
static int epoll_child(struct item *it)
{
	struct epoll_event e = {.events = EPOLLIN, .data.u64 = 2};
	int fd = must(eventfd(1, 0));
	close(it->fd[1]);
	must(epoll_ctl(it->fd[0], EPOLL_CTL_ADD, fd, &e));
	told();
	await_go();
	struct epoll_event got[4];
	expect("events in the child", epoll_wait(it->fd[0], got, 4, 0), 2);
	char c;
	close(it->fd[3]);
	expect("end of file", read(it->fd[2], &c, 1), 0); // not before the parent has looked
	return differences != 0;
}

static void set_inherited(struct item *it)
{
	struct epoll_event e = {.events = EPOLLIN, .data.u64 = 1};
	it->fd[0] = must(epoll_create1(0));
	it->fd[1] = must(eventfd(1, 0));
	must(epoll_ctl(it->fd[0], EPOLL_CTL_ADD, it->fd[1], &e));
	must(pipe2(it->fd + 2, O_CLOEXEC));
	it->pid = helper(it, epoll_child);
}

static void check_inherited(struct item *it)
{
	struct epoll_event got[4];
	expect("events", epoll_wait(it->fd[0], got, 4, 0), 2);
	close(it->fd[3]);
	expect("status of the child", status_of(it->pid), 0);
}

static void set_file_watched(struct item *it)
{
	struct epoll_event e = {.events = EPOLLIN};
	it->fd[0] = must(epoll_create1(0));
	it->fd[1] = must(inotify_init1(0));
	must(epoll_ctl(it->fd[0], EPOLL_CTL_ADD, it->fd[1], &e));
	must(mkdir(path_of(it, ""), 0755));
	must(inotify_add_watch(it->fd[1], path_of(it, ""), IN_CREATE));
}

static void check_file_watched(struct item *it)
{
	struct epoll_event e = {0};
	expect("nothing yet", epoll_wait(it->fd[0], &e, 1, 0), 0);
	write_file(path_of(it, "/new"), "");
	expect("events", epoll_wait(it->fd[0], &e, 1, 0), 1);
}

static void set_inotify(struct item *it)
{
	it->fd[0] = must(inotify_init1(it->feature->arg ? IN_NONBLOCK | IN_CLOEXEC : 0));
	must(mkdir(path_of(it, ""), 0755));
	write_file(path_of(it, ".file"), "x");
	int gone = must(inotify_add_watch(it->fd[0], path_of(it, "/.."), IN_ISDIR | IN_DELETE_SELF));
	it->v[0] = must(inotify_add_watch(it->fd[0], path_of(it, ""), IN_CREATE | IN_MOVED_TO));
	it->v[1] = must(inotify_add_watch(it->fd[0], path_of(it, ".file"), IN_MODIFY | (it->feature->arg ? IN_ONESHOT : 0)));
	if (it->feature->arg)
		return;
	must(inotify_rm_watch(it->fd[0], gone)); // which leaves an event
	char b[64];
	must(read(it->fd[0], b, sizeof b));
}

static void check_inotify(struct item *it)
{
	char b[512] __attribute__((aligned(8)));
	const struct inotify_event *e = (void *)b;
	write_file(path_of(it, "/new"), "");
	expect("read", read(it->fd[0], b, sizeof b), 32);
	expect("watch", e->wd, it->v[0]);
	expect("event", e->mask, IN_CREATE);
	expect_str("name", e->name, "new");
	write_file(path_of(it, ".file"), "y");
	expect("read", read(it->fd[0], b, sizeof b) >= 16, 1);
	expect("watch", e->wd, it->v[1]);
	expect("event", e->mask, IN_MODIFY);
}

static const struct feature features[] = {
	{"eventfd zero", set_eventfd, check_eventfd, ZERO},
	{"eventfd", set_eventfd, check_eventfd, SOME},
	{"eventfd full", set_eventfd, check_eventfd, MOST},
	{"eventfd semaphore", set_eventfd, check_eventfd, SEMAPHORE},
	{"eventfd nonblocking", set_eventfd, check_eventfd, NONBLOCK},
	{"signalfd", set_signalfd, check_signalfd, 0},
	{"signalfd with a signal", set_signalfd, check_signalfd, 1},
	{"epoll", set_epoll, check_epoll, 0},
	{"epoll edge-triggered", set_epoll, check_epoll, (long)EPOLLET},
	{"epoll one-shot", set_epoll, check_epoll, EPOLLONESHOT},
	{"epoll exclusive", set_epoll, check_epoll, EPOLLEXCLUSIVE},
	{"epoll nested", set_nested, check_nested},
	{"epoll many", set_many, check_many},
	{"epoll inherited", set_inherited, check_inherited, 0, ALONE},
	{"epoll watches inotify", set_file_watched, check_file_watched},
	{"inotify", set_inotify, check_inotify, 0},
	{"inotify one-shot", set_inotify, check_inotify, 1},
};

TABLE(events);
