// Descriptors that stand for processes.
#include "ckpt.h"
#include <poll.h>
#include <sys/epoll.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#define PIDFD_THREAD O_EXCL

static int pidfd(pid_t pid, int flags) { return (int)syscall(SYS_pidfd_open, pid, flags); }

static int ended(int fd)
{
	struct pollfd p = {fd, POLLIN, 0};
	return poll(&p, 1, 0);
}

// sleeper makes a child that waits for a signal.
static pid_t sleeper(void)
{
	pid_t child = must(fork());
	if (child == 0)
		for (;;)
			pause();
	return child;
}

static void send_and_wait(int fd, int sig)
{
	siginfo_t info = {0};
	expect("signal", syscall(SYS_pidfd_send_signal, fd, sig, NULL, 0), 0);
	expect("wait", waitid(P_PIDFD, (id_t)fd, &info, WEXITED), 0);
	expect("status", info.si_status, sig);
}

static void living(void)
{
	pid_t child = sleeper();
	int fd = must(pidfd(child, 0)), other = must(dup(fd)), self = must(pidfd(getpid(), O_NONBLOCK));
	ready();
	expect("it lives", ended(fd), 0);
	expect("so do we", ended(self), 0);
	expect("flags", must(fcntl(self, F_GETFL)) & O_NONBLOCK, O_NONBLOCK);
	expect("the other's flags", must(fcntl(fd, F_GETFL)) & O_NONBLOCK, 0);
	expect("ask for ourselves", syscall(SYS_pidfd_send_signal, self, 0, NULL, 0), 0);
	must(fcntl(fd, F_SETFL, O_NONBLOCK));
	expect("one description", must(fcntl(other, F_GETFL)) & O_NONBLOCK, O_NONBLOCK);
	must(fcntl(fd, F_SETFL, 0));
	send_and_wait(other, SIGTERM);
	expect("it has ended", ended(fd), 1);
}

static void zombie(void)
{
	pid_t child = must(fork());
	if (child == 0)
		_exit(33);
	siginfo_t info = {0};
	int fd = must(pidfd(child, 0));
	must(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT));
	ready();
	expect("it has ended", ended(fd), 1);
	expect("wait", waitid(P_PIDFD, (id_t)fd, &info, WEXITED), 0);
	expect("pid", info.si_pid, child);
	expect("status", info.si_status, 33);
}

// A child has a pidfd of its parent, one of its brother, and shares one with its parent.
static void family(void)
{
	int gate[2];
	must(pipe(gate));
	pid_t parent = getpid(), brother = sleeper();
	int shared = must(pidfd(brother, 0));
	pid_t child = must(fork());
	if (child == 0) {
		char byte;
		int up = must(pidfd(parent, 0)), own = must(pidfd(brother, 0));
		close(gate[1]);
		must(read(gate[0], &byte, 1));
		int wrong = syscall(SYS_pidfd_send_signal, up, 0, NULL, 0) != 0 || ended(up) != 0 || ended(own) != 0;
		wrong |= syscall(SYS_pidfd_send_signal, own, 0, NULL, 0) != 0;
		_exit(wrong | (fcntl(shared, F_SETFL, O_NONBLOCK) != 0) << 1);
	}
	must(close(gate[0]));
	ready();
	must(write(gate[1], "x", 1));
	int status = 0;
	must(waitpid(child, &status, 0));
	expect("the child", status, 0);
	expect("one description", must(fcntl(shared, F_GETFL)) & O_NONBLOCK, O_NONBLOCK);
	must(fcntl(shared, F_SETFL, 0));
	send_and_wait(shared, SIGKILL);
}

static void watched(void)
{
	pid_t child = sleeper();
	int fd = must(pidfd(child, 0)), ep = must(epoll_create1(0));
	struct epoll_event e = {EPOLLIN, {.u64 = 42}};
	must(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
	ready();
	expect("nothing", epoll_wait(ep, &e, 1, 0), 0);
	expect("signal", syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0), 0);
	expect("it ended", epoll_wait(ep, &e, 1, LATE), 1);
	expect("data", e.data.u64, 42);
}

static void first_thread(void)
{
	int fd = must(pidfd(getpid(), PIDFD_THREAD)), both = must(pidfd(getpid(), PIDFD_THREAD | O_NONBLOCK));
	ready();
	expect("flags", must(fcntl(fd, F_GETFL)) & (PIDFD_THREAD | O_NONBLOCK), PIDFD_THREAD);
	expect("flags of both", must(fcntl(both, F_GETFL)) & (PIDFD_THREAD | O_NONBLOCK), PIDFD_THREAD | O_NONBLOCK);
	expect("ask", syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0), 0);
}

static const struct test_case cases[] = {
	{"living", living}, {"zombie", zombie}, {"family", family}, {"watched", watched}, {"first-thread", first_thread}, // last, see main
};

// Before Linux 6.9 there is no pidfd of a thread: then it is no case.
int main(int argc, char **argv)
{
	int fd = pidfd(getpid(), PIDFD_THREAD);
	return run_cases(cases, COUNT(cases) - (fd < 0), argc, argv);
}
