// A parent that does not stop until its child executes a program: when somebody sends the child SIGUSR1. It says the child's pid.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	sigset_t usr1;
	int sig;

	setvbuf(stdout, NULL, _IONBF, 0);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	if (!vfork()) {
		printf("%d\n", getpid());
		sigwait(&usr1, &sig);
		execlp("true", "true", NULL);
		_exit(1);
	}
	pause();
}
