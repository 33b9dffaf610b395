// Small trees of processes.
#include "ckpt.h"

static int child_status(pid_t child)
{
	int status = -1;
	if (waitpid(child, &status, 0) != child)
		differs("waitpid: %s", strerror(errno));
	return status;
}

static void pipe_and_memory(void)
{
	int down[2], up[2];
	volatile uint64_t *shared = must(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	must(pipe(down));
	must(pipe(up));
	pid_t child = must(fork());
	if (child == 0) {
		uint64_t v;
		close(down[1]);
		close(up[0]);
		while (read(down[0], &v, 8) == 8) {
			shared[1] += v;
			v = v * v;
			must(write(up[1], &v, 8));
		}
		_exit(getppid() == (pid_t)shared[2] ? 7 : 8);
	}
	close(down[0]);
	close(up[1]);
	shared[2] = (uint64_t)getpid();
	uint64_t sum = 0, v;
	for (uint64_t i = 1; i <= 20; i++) {
		if (i == 10)
			ready();
		must(write(down[1], &i, 8));
		must(read(up[0], &v, 8));
		sum += v;
	}
	expect("sum of the squares", sum, 2870);
	expect("sum in shared memory", shared[1], 210);
	close(down[1]);
	expect("status", WEXITSTATUS(child_status(child)), 7);
}

static void zombie(void)
{
	pid_t a = must(fork());
	if (a == 0)
		_exit(33);
	pid_t b = must(fork());
	if (b == 0) {
		kill(getpid(), SIGTERM);
		pause();
	}
	siginfo_t info;
	must(waitid(P_PID, (id_t)a, &info, WEXITED | WNOWAIT));
	must(waitid(P_PID, (id_t)b, &info, WEXITED | WNOWAIT));
	ready();
	int status = child_status(a);
	expect("exited", WIFEXITED(status), 1);
	expect("code", WEXITSTATUS(status), 33);
	status = child_status(b);
	expect("signalled", WIFSIGNALED(status), 1);
	expect("signal", WTERMSIG(status), SIGTERM);
	expect("no more children", waitpid(-1, &status, 0), -1);
}

// signalling makes a child that sends its parent sig at its end, clone(2), and ends at once if it is to.
static pid_t signalling(int sig, int ends)
{
	pid_t child = must((pid_t)syscall(SYS_clone, sig, NULL, NULL, NULL, 0));
	siginfo_t info;
	if (child != 0 && ends)
		must(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT | __WALL));
	if (child != 0)
		return child;
	while (!ends)
		pause();
	_exit(sig);
}

// Children whose end sends another signal than SIGCHLD, or none: of those that have ended the parent has heard.
static void exit_signals(void)
{
	static const int by[] = {0, SIGUSR1, SIGUSR1, 40, 40};
	const struct timespec none = {0, 0}, long_enough = {60, 0};
	pid_t child[COUNT(by)];
	siginfo_t info;
	sigset_t all;
	int status;
	sigfillset(&all);
	must(sigprocmask(SIG_BLOCK, &all, NULL));
	for (size_t i = 0; i < COUNT(by); i++)
		child[i] = signalling(by[i], 1);
	pid_t stops = signalling(SIGUSR2, 0);
	must(kill(stops, SIGSTOP));
	must(waitid(P_PID, (id_t)stops, &info, WSTOPPED | __WALL));
	while (sigtimedwait(&all, NULL, &none) > 0)
		;
	ready();
	expect("signal of a child that had ended", sigtimedwait(&all, &info, &none), -1);
	expect("told once", waitpid(stops, &status, WUNTRACED | WNOHANG | __WALL), 0);
	for (size_t i = 0; i < COUNT(by); i++) {
		expect("no child for an ordinary wait", waitpid(child[i], &status, WNOHANG), -1);
		expect("waited for", waitpid(child[i], &status, __WCLONE), child[i]);
		expect("code", WEXITSTATUS(status), by[i]);
	}
	must(kill(stops, SIGKILL));
	expect("signal of its end", sigtimedwait(&all, &info, &long_enough), SIGUSR2);
	expect("sent by", info.si_pid, stops);
	expect("waited for", waitpid(stops, &status, __WCLONE), stops);
}

// Children that died of signals: of one that waits for nothing, one that dumps core by default, one that nohup ignores.
static void killed(void)
{
	static const int by[] = {SIGKILL, SIGSEGV, SIGHUP, SIGINT, SIGTERM};
	enum { N = sizeof by / sizeof *by };
	pid_t child[N];
	siginfo_t info;
	int status;
	for (int i = 0; i < N; i++) {
		child[i] = must(fork());
		if (child[i] == 0) {
			must(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)); // no core
			signal(by[i], SIG_DFL);
			kill(getpid(), by[i]);
			pause();
		}
		must(waitid(P_PID, (id_t)child[i], &info, WEXITED | WNOWAIT));
	}
	ready();
	for (int i = 0; i < N; i++) {
		status = child_status(child[i]);
		expect("killed", WIFSIGNALED(status), 1);
		expect("by", WTERMSIG(status), by[i]);
		expect("with a core", WCOREDUMP(status), 0);
	}
}

static volatile sig_atomic_t poked;

static void poke(int sig)
{
	(void)sig;
	poked++;
}

// stopping makes a child that is stopped by sig, twice if again, and has more pending.
static pid_t stopping(int sig, int again, int more)
{
	signal(SIGUSR1, poke);
	pid_t child = must(fork());
	siginfo_t info;
	if (child == 0) {
		while (!poked)
			nap(MS);
		_exit(3);
	}
	must(setpgid(child, 0));
	must(kill(child, sig));
	must(waitid(P_PID, (id_t)child, &info, WSTOPPED | WNOWAIT));
	if (again)
		must(kill(child, SIGSTOP));
	if (more)
		must(kill(child, more));
	return child;
}

// continues lets a stopped child go on to its end and returns its wait status.
static int continues(pid_t child)
{
	must(kill(child, SIGCONT));
	return child_status(child);
}

// Stopped children: whose parent has been told and whose has not, stopped twice, with signals pending that end or wake
// them only when they go on.
static void stopped(void)
{
	sigset_t set, now;
	struct timespec none = {0, 0};
	int status = 0;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	must(sigprocmask(SIG_BLOCK, &set, NULL));
	pid_t seen = stopping(SIGTSTP, 0, SIGUSR1), news = stopping(SIGTSTP, 1, SIGUSR1), twice = stopping(SIGSTOP, 1, SIGTERM);
	pid_t again = stopping(SIGTTIN, 0, SIGUSR1);
	expect("told", waitpid(seen, &status, WUNTRACED), seen);
	expect("told", waitpid(again, &status, WUNTRACED), again);
	must(kill(again, SIGSTOP));
	while (sigtimedwait(&set, NULL, &none) == SIGCHLD)
		;
	ready();
	must(sigpending(&now));
	expect("SIGCHLD", sigismember(&now, SIGCHLD), 0);
	expect("told once", waitpid(seen, &status, WUNTRACED | WNOHANG), 0);
	expect("told once", waitpid(again, &status, WUNTRACED | WNOHANG), 0);
	expect("not told yet", waitpid(news, &status, WUNTRACED | WNOHANG), news);
	expect("of a stop", WIFSTOPPED(status), 1);
	expect("by", WSTOPSIG(status), SIGTSTP);
	expect("not told yet", waitpid(twice, &status, WUNTRACED | WNOHANG), twice);
	expect("by", WSTOPSIG(status), SIGSTOP);
	expect("told", waitpid(-1, &status, WUNTRACED | WNOHANG), 0);
	expect("wakes", WEXITSTATUS(continues(seen)), 3);
	expect("wakes", WEXITSTATUS(continues(news)), 3);
	expect("wakes", WEXITSTATUS(continues(again)), 3);
	expect("ends of", WTERMSIG(continues(twice)), SIGTERM);
}

static void groups(void)
{
	int report[2];
	must(pipe(report));
	pid_t a = must(fork());
	if (a == 0) {
		must(setpgid(0, 0));
		must(write(report[1], "a", 1));
		wait_go();
		_exit(getpgrp() == getpid() ? 0 : 1);
	}
	pid_t b = must(fork());
	if (b == 0) {
		must(setsid());
		pid_t c = must(fork());
		if (c == 0) {
			must(setpgid(0, 0));
			must(write(report[1], "c", 1));
			wait_go();
			_exit(getpgrp() == getpid() && getsid(0) == getppid() ? 0 : 1);
		}
		must(write(report[1], "b", 1));
		wait_go();
		int status = child_status(c);
		_exit(getsid(0) == getpid() && status == 0 ? 0 : 1);
	}
	char buf;
	for (int i = 0; i < 3; i++)
		must(read(report[0], &buf, 1));
	ready();
	expect("group", getpgid(a), a);
	expect("session", getsid(b), b);
	expect("first child", child_status(a), 0);
	expect("second child", child_status(b), 0);
}

// settled waits until child has been handed to this process and is in session and group.
static void settled(pid_t child, pid_t session, pid_t group)
{
	char name[64], line[512];
	int ppid = 0, pgrp = 0, sid = 0;
	snprintf(name, sizeof name, "/proc/%d/stat", child);
	while (ppid != getpid() || pgrp != group || sid != session) {
		FILE *f = fopen(name, "r");
		if (f == NULL || fgets(line, sizeof line, f) == NULL)
			die("%s", name);
		fclose(f);
		sscanf(strrchr(line, ')') + 2, "%*c %d %d %d", &ppid, &pgrp, &sid);
	}
}

// member waits for "go" and tells whether its session and group are still those; 0 is any session.
static void __attribute__((noreturn)) member(pid_t session, pid_t group)
{
	wait_go();
	_exit((session == 0 || getsid(0) == session) && getpgrp() == group ? 0 : 1);
}

// Sessions and groups whose leaders have ended: a daemon that forked twice, a group of its own in such a session, a job
// whose first command is done, a group that its maker has left for another, and a session whose leader is a zombie.
static void leaderless(void)
{
	int up[2], down[2], status;
	pid_t id[8], ids[2];
	must(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
	must(pipe(up));
	must(pipe(down));
	pid_t daemon = must(fork());
	if (daemon == 0) {
		must(setsid());
		if (must(fork()) == 0) {
			pid_t inner = must(fork());
			if (inner == 0) {
				must(setpgid(0, 0));
				if ((inner = must(fork())) == 0)
					member(getsid(0), getpgrp());
				ids[0] = inner, ids[1] = getpid();
				must(write(up[1], ids, sizeof ids));
				_exit(0);
			}
			must(waitpid(inner, &status, 0));
			id[1] = getpid();
			must(write(up[1], &id[1], sizeof id[1]));
			member(getsid(0), getsid(0));
		}
		_exit(0);
	}
	must(read(up[0], ids, sizeof ids));
	expect("daemon", child_status(daemon), 0);
	id[0] = ids[0];
	must(read(up[0], &id[1], sizeof id[1]));
	pid_t job = must(fork());
	if (job == 0) {
		must(setpgid(0, 0));
		must(read(down[0], &status, 1));
		_exit(0);
	}
	while (getpgid(job) != job)
		nap(MS);
	if ((id[2] = must(fork())) == 0) {
		must(setpgid(0, job));
		member(0, job);
	}
	while (getpgid(id[2]) != job)
		nap(MS);
	must(write(down[1], "", 1));
	expect("job", child_status(job), 0);
	if ((id[3] = must(fork())) == 0) {
		must(setpgid(0, 0));
		must(read(down[0], &status, 1));
		must(setpgid(0, getpgid(id[2])));
		member(0, getpgid(id[2]));
	}
	while (getpgid(id[3]) != id[3])
		nap(MS);
	if ((id[4] = must(fork())) == 0) {
		must(setpgid(0, id[3]));
		member(0, id[3]);
	}
	while (getpgid(id[4]) != id[3])
		nap(MS);
	must(write(down[1], "", 1));
	pid_t dead = must(fork());
	if (dead == 0) {
		must(setsid());
		if (must(fork()) == 0) {
			pid_t me = getpid();
			must(write(up[1], &me, sizeof me));
			member(getsid(0), getpgrp());
		}
		_exit(12);
	}
	must(read(up[0], &id[5], sizeof id[5]));
	settled(ids[0], daemon, ids[1]);
	settled(id[3], getsid(0), job);
	settled(id[5], dead, dead);
	ready();
	expect("a daemon's session", getsid(id[1]), daemon);
	expect("a group in it", getpgid(id[0]), ids[1]);
	expect("a job", getpgid(id[2]), job);
	expect("who moved to it", getpgid(id[3]), job);
	expect("where it was", getpgid(id[4]), id[3]);
	expect("a zombie's session", getsid(id[5]), dead);
	for (int i = 0; i < 6; i++)
		expect("member", child_status(id[i]), 0);
	expect("zombie", WEXITSTATUS(child_status(dead)), 12);
}

static void many_children(void)
{
	enum { n = 20 };
	pid_t child[n];
	int gate[2], set[2];
	char byte;
	must(pipe(gate));
	must(pipe(set));
	for (int i = 0; i < n; i++) {
		child[i] = must(fork());
		if (child[i] == 0) {
			close(gate[1]), close(set[0]), close(set[1]);
			ssize_t got = read(gate[0], &byte, 1); // until the parent closes its end
			_exit(got == 0 ? i : 99);
		}
	}
	close(gate[0]), close(set[1]);
	expect("none", read(set[0], &byte, 1), 0); // all children have closed what is not theirs
	close(set[0]);
	ready();
	close(gate[1]);
	for (int i = 0; i < n; i++)
		expect("status", WEXITSTATUS(child_status(child[i])), i);
}

static void *thread_main(void *arg)
{
	volatile int *n = arg;
	do {
		(*n)++;
		nap(MS);
	} while (access("go", F_OK) != 0);
	return NULL;
}

static void threads_and_children(void)
{
	int n = 0;
	pthread_t t;
	pid_t child = must(fork());
	must(-pthread_create(&t, NULL, thread_main, &n));
	if (child == 0) {
		pthread_join(t, NULL);
		_exit(n > 0 ? 5 : 6);
	}
	ready();
	pthread_join(t, NULL);
	expect("status", WEXITSTATUS(child_status(child)), 5);
}

static int ending;

static void *ends_all(void *arg)
{
	(void)arg;
	while (access("go", F_OK) != 0)
		nap(MS / 10);
	if (__atomic_exchange_n(&ending, 1, __ATOMIC_SEQ_CST) == 0) {
		printf("OK\n");
		fflush(stdout);
		_exit(0);
	}
	return NULL;
}

// Whichever thread runs first ends them all.
static void ends_at_once(void)
{
	pthread_t t;
	for (int i = 0; i < 60; i++)
		must(-pthread_create(&t, NULL, ends_all, NULL));
	say_ready();
	for (;;)
		pause();
}

// Descriptors shared by fork have one offset.
static void shared_offset(void)
{
	char b[8] = "";
	int fd = must(open("shared", O_RDWR | O_CREAT | O_TRUNC, 0600));
	must(write(fd, "0123456789", 10));
	must(lseek(fd, 0, SEEK_SET));
	pid_t child = must(fork());
	if (child == 0) {
		wait_go();
		_exit(read(fd, b, 4) == 4 && memcmp(b, "0123", 4) == 0 ? 0 : 1);
	}
	ready();
	expect("child", child_status(child), 0);
	expect("offset", lseek(fd, 0, SEEK_CUR), 4);
}

// A pipeline of a shell's kind: three processes, pipes between them, the parent waits.
static void pipeline(void)
{
	int p[2], q[2], status, steps = case_steps > 0 ? case_steps : 700;
	char line[64];
	must(pipe(p));
	must(pipe(q));
	pid_t a = must(fork());
	if (a == 0) {
		close(p[0]), close(q[0]), close(q[1]);
		FILE *f = fdopen(p[1], "w");
		for (int i = 0; i < steps; i++) {
			fprintf(f, "%d\n", i);
			fflush(f);
			nap(2 * MS);
		}
		exit(0);
	}
	pid_t b = must(fork());
	if (b == 0) {
		close(p[1]), close(q[0]);
		FILE *in = fdopen(p[0], "r"), *out = fdopen(q[1], "w");
		while (fgets(line, sizeof line, in) != NULL)
			fprintf(out, "%d\n", atoi(line) * 3);
		exit(0);
	}
	close(p[0]), close(p[1]), close(q[1]);
	say_ready();
	FILE *in = fdopen(q[0], "r");
	long sum = 0;
	while (fgets(line, sizeof line, in) != NULL)
		sum += atoi(line);
	expect("sum", sum, 3L * steps * (steps - 1) / 2);
	expect("first", waitpid(a, &status, 0), a);
	expect("second", waitpid(b, &status, 0), b);
}

static const struct test_case cases[] = {
	{"pipe-and-memory", pipe_and_memory},
	{"zombie", zombie},
	{"exit-signals", exit_signals},
	{"killed", killed},
	{"stopped", stopped},
	{"groups", groups},
	{"leaderless", leaderless},
	{"many-children", many_children},
	{"threads-and-children", threads_and_children},
	{"ends-at-once", ends_at_once},
	{"shared-offset", shared_offset},
	{"pipeline", pipeline},
};

MAIN(cases)
