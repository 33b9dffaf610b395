// A process that has many short children, each of which makes many calls: forks N. It begins when there is a file "go"; when the last has ended it makes a file "done".
#include "../../integration/testdata/ckpt.h"
#include <sys/stat.h>
#include <sys/wait.h>

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 0;
	ready();
	for (int i = 0; i < n; i++) {
		pid_t pid = must(fork());
		if (pid == 0) {
			for (int j = 0; j < 100; j++)
				umask(022);
			_exit(0);
		}
		must(waitpid(pid, NULL, 0));
	}
	must(close(must(open("done", O_WRONLY | O_CREAT, 0600))));
	for (;;)
		pause();
}
