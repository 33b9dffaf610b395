// Waits without a timeout in a call that a stop ends, until SIGTERM. It ends with 0 if nothing but that signal ended the call.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

static volatile sig_atomic_t asked;

static void on_term(int sig)
{
	(void)sig;
	asked = 1;
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = on_term, .sa_flags = SA_RESTART};
	struct epoll_event e;
	sigset_t set;
	int ep = epoll_create1(0), r;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sigaction(SIGTERM, &sa, NULL);
	printf("ready\n");
	fflush(stdout);
	if (argc < 2 || strcmp(argv[1], "epoll") == 0)
		r = epoll_wait(ep, &e, 1, -1);
	else
		r = sigwaitinfo(&set, NULL);
	int right = r == -1 && errno == EINTR && asked;
	printf("%s: %d, asked to end: %d\n", argc < 2 ? "epoll" : argv[1], r, (int)asked);
	return !right;
}
