// Targets of the tests of package snapshot. Each mode sets something up, says READY, and waits for the end of its standard input;
// then it says OK if nothing has changed for it.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *s)
{
	if (write(1, s, strlen(s)) < 0)
		_exit(3);
}

static void die(const char *what)
{
	dprintf(1, "cannot set up: %s: %s\n", what, strerror(errno));
	_exit(2);
}

// until_eof reads standard input to its end. A snapshot interrupts the read, and the program must not see that.
static void until_eof(void)
{
	char b[16];
	ssize_t n;
	while ((n = read(0, b, sizeof b)) > 0)
		;
	if (n < 0)
		dprintf(1, "read: %s\n", strerror(errno));
	else
		say("OK\n");
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;

static void *wait_condition(void *arg)
{
	pthread_mutex_lock(&mutex);
	for (;;)
		pthread_cond_wait(&never, &mutex);
	return arg;
}

static void *wait_signal(void *arg)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	for (;;)
		pause();
	return arg;
}

static void on_signal(int sig) { (void)sig; }

static void idle(void)
{
	static char stack[65536];
	stack_t alt = {.ss_sp = stack, .ss_size = sizeof stack};
	struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART};
	sigset_t set;
	pthread_t t;
	sigaltstack(&alt, NULL);
	sigaction(SIGUSR1, &act, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGRTMIN + 3);
	sigprocmask(SIG_BLOCK, &set, NULL);
	kill(getpid(), SIGUSR1); // stays pending
	if (pthread_create(&t, NULL, wait_condition, NULL) || pthread_create(&t, NULL, wait_signal, NULL))
		die("pthread_create");
	say("READY\n"); // the threads may not have come to where they wait
	until_eof();
}

// tree: a child with a child of its own, and a child that has ended and is not waited for.
static void tree(void)
{
	int made[2];
	char c;
	if (pipe(made) != 0)
		die("pipe");
	pid_t a = fork();
	if (a == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(made[0]);
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(made[1]);
			pause();
			_exit(0);
		}
		close(made[1]);
		pause();
		_exit(0);
	}
	close(made[1]);
	if (read(made[0], &c, 1) != 0) // until both have closed it
		die("read");
	close(made[0]);
	pid_t z = fork();
	if (z == 0)
		_exit(7);
	siginfo_t info;
	waitid(P_PID, (id_t)z, &info, WEXITED | WNOWAIT);
	say("READY\n");
	until_eof();
	int status;
	if (waitpid(z, &status, 0) != z || WEXITSTATUS(status) != 7)
		say("the status of the dead child is wrong\n");
	_exit(0);
}

// busy: two threads that change memory all the time and would notice a change by others.
static _Atomic uint64_t a, b;
static _Atomic int stop;

static void *count(void *arg)
{
	uint64_t n = 0;
	double f = 1;
	while (!stop) {
		n++;
		f = f * 1.0000001 + 1e-9;
		if (a++ != n - 1 || b != n - 1)
			return "a counter was changed by someone else";
		b = n;
		if (!(f > 0.5))
			return "a floating point register was changed by someone else";
		if (f > 1e6)
			f = 1;
	}
	return arg;
}

static void busy(void)
{
	pthread_t t;
	void *result;
	if (pthread_create(&t, NULL, count, NULL))
		die("pthread_create");
	say("READY\n");
	char c;
	while (read(0, &c, 1) > 0)
		;
	stop = 1;
	pthread_join(t, &result);
	if (result)
		say(result);
	else if (a != b || a == 0)
		say("the counters differ\n");
	else
		say("OK\n");
}

static void stopped(void)
{
	say("READY\n");
	raise(SIGSTOP);
	until_eof();
}

// refused: one thing of each sort that cannot be saved.
static void refused(void)
{
	int shm = shmget(IPC_PRIVATE, 4096, 0600);
	if (shm < 0 || shmat(shm, NULL, 0) == (void *)-1)
		die("shmget");
	shmctl(shm, IPC_RMID, NULL);
	struct io_uring_params params;
	memset(&params, 0, sizeof params);
	if (syscall(SYS_io_uring_setup, 4, &params) < 0)
		die("io_uring_setup");
	if (socket(AF_NETLINK, SOCK_RAW, 0) < 0)
		die("socket");
	if (unshare(CLONE_NEWUTS) != 0)
		die("unshare");
	say("READY\n");
	until_eof();
}

static _Atomic int unshared;

static void *other_descriptors(void *arg)
{
	if (unshare(CLONE_FILES) != 0)
		die("unshare");
	unshared = 1;
	for (;;)
		pause();
	return arg;
}

static void split(void)
{
	pthread_t t;
	if (pthread_create(&t, NULL, other_descriptors, NULL))
		die("pthread_create");
	while (!unshared)
		usleep(1000);
	say("READY\n");
	until_eof();
}

// vforked: a child that shares our memory and does not end.
static void vforked(void)
{
	pid_t child = vfork();
	if (child == 0) {
		say("READY\n");
		char c;
		while (read(0, &c, 1) > 0)
			;
		_exit(0);
	}
	say("OK\n");
}

static void *sleep_on(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static void leaderless(void)
{
	pthread_t t;
	if (pthread_create(&t, NULL, sleep_on, NULL))
		die("pthread_create");
	say("READY\n");
	pthread_exit(NULL);
}

static void strict(void)
{
	say("READY\n");
	prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
	char c;
	while (syscall(SYS_read, 0, &c, 1) > 0)
		;
	syscall(SYS_write, 1, "OK\n", 3);
	syscall(SYS_exit, 0);
}

// nowhere: its working directory has been replaced and its root directory removed.
static void nowhere(void)
{
	if (mkdir("old", 0700) || chdir("old") || rmdir("../old") || mkdir("../old", 0700))
		die("replace the working directory");
	if (mkdir("../jail", 0700) || chroot("../jail") || rmdir("../jail"))
		die("remove the root directory");
	say("READY\n");
	until_eof();
}

static void notify(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mkdir, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0x7fc00000), // SECCOMP_RET_USER_NOTIF
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {sizeof code / sizeof code[0], code};
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) != 0)
		die("seccomp");
	say("READY\n");
	until_eof();
}

static void pkey(void)
{
	char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int key = pkey_alloc(0, 0);
	if (key < 0 || pkey_mprotect(p, 4096, PROT_READ | PROT_WRITE, key) != 0) {
		say("NONE\n");
		return;
	}
	say("READY\n");
	until_eof();
}

// patched: code with a breakpoint, as a uprobe makes it, and code that the program has changed itself. Says where, after READY.
static void __attribute__((noinline, aligned(4096))) probed(void) { __asm__ volatile(".skip 4096, 0x90"); }
static void __attribute__((noinline, aligned(4096))) changed(void) { __asm__ volatile(".skip 4096, 0x90"); }

static void patch(void (*f)(void), unsigned char with)
{
	unsigned char *p = (unsigned char *)f;
	if (mprotect(p, 4096, PROT_READ | PROT_WRITE) != 0)
		die("mprotect");
	p[100] = with;
	if (mprotect(p, 4096, PROT_READ | PROT_EXEC) != 0)
		die("mprotect");
}

static void patched(void)
{
	patch(probed, 0xcc);
	patch(changed, 0xc3);
	say("READY\n");
	dprintf(1, "%lx %lx\n", (unsigned long)probed, (unsigned long)changed);
	until_eof();
}

// alarmed: SIGALRM is blocked, and comes in a second and a half.
static void alarmed(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	setitimer(ITIMER_REAL, &(struct itimerval){.it_value = {1, 500000}}, NULL);
	say("READY\n");
	until_eof();
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} modes[] = {{"idle", idle}, {"tree", tree}, {"busy", busy}, {"stopped", stopped}, {"refused", refused}, {"split", split},
		     {"vforked", vforked}, {"leaderless", leaderless}, {"strict", strict}, {"notify", notify}, {"pkey", pkey}, {"patched", patched},
		     {"nowhere", nowhere}, {"alarmed", alarmed}};
	for (size_t i = 0; argc > 1 && i < sizeof modes / sizeof modes[0]; i++) {
		if (strcmp(modes[i].name, argv[1]) == 0) {
			modes[i].run();
			return 0;
		}
	}
	return 64;
}
