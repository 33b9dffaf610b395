// A process with a thread that nobody can stop: its child shares its memory and suspends it (vfork).
#include "ckpt.h"

int main(void)
{
	static const char *const argv[] = {"/bin/sleep", "60", NULL};
	say_ready();
	pid_t child = vfork();
	if (child == 0) {
		// Between vfork and exec the parent is in uninterruptible sleep. A signal-safe wait keeps it there.
		struct timespec ts = {30, 0};
		syscall(SYS_nanosleep, &ts, NULL);
		execv(argv[0], (char *const *)argv);
		_exit(1);
	}
	return 0;
}
