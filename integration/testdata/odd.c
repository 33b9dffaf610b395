// Runs a command with everything that execve keeps set as no process should hand it on: what it starts must not pass
// for what a restore brings back.
#define _GNU_SOURCE
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	(void)argc;
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct caps[2];
	if (syscall(SYS_capget, &head, caps) == 0) {
		caps[0].inheritable |= 1u << CAP_CHOWN | 1u << CAP_KILL;
		if (syscall(SYS_capset, &head, caps) == 0)
			prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0);
	}
	for (int sig = 1; sig < 65; sig++)
		signal(sig, SIG_IGN); // some cannot be ignored
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	prctl(PR_SET_TIMERSLACK, 123456, 0, 0, 0);
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	prctl(67 /* PR_SET_MEMORY_MERGE */, 1, 0, 0, 0);
	prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
	prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0);
	prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_DISABLE, 0, 0);
	prctl(PR_SET_SECUREBITS, 1 << 4 /* SECBIT_KEEP_CAPS */, 0, 0, 0);
	personality(ADDR_NO_RANDOMIZE);
	setpriority(PRIO_PROCESS, 0, 5);
	umask(0123);
	execvp(argv[1], argv + 1);
	perror(argv[1]);
	return 127;
}
