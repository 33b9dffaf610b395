// Children in every state: ended, stopped, continued; groups and sessions; what they share with their parent.
#include "random.h"

static char state_of(pid_t pid)
{
	char path[64], b[512];
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	char *end = strrchr(read_file(path, b, sizeof b), ')');
	return end == NULL ? 0 : end[2];
}

// Ended and not waited for. arg: the exit status, or minus the signal.
static int ends(struct item *it)
{
	if (it->feature->arg < 0) {
		must(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)); // no core
		signal((int)-it->feature->arg, SIG_DFL);
		sigset_t none;
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		kill(getpid(), (int)-it->feature->arg);
		pause();
	}
	return (int)it->feature->arg;
}

static void set_zombie(struct item *it)
{
	siginfo_t info;
	it->pid = abs(helper(it, ends));
	must(waitid(P_PID, (id_t)it->pid, &info, WEXITED | WNOWAIT));
}

static void check_zombie(struct item *it)
{
	expect("state", state_of(it->pid), 'Z');
	int status = status_of(it->pid);
	if (it->feature->arg < 0)
		expect("killed by", WIFSIGNALED(status) ? WTERMSIG(status) : -1, -it->feature->arg);
	else
		expect("ended with", WIFEXITED(status) ? WEXITSTATUS(status) : -1, it->feature->arg);
}

static int leads_and_ends(struct item *it)
{
	it->feature->arg ? must(setsid()) : must(setpgid(0, 0));
	return 5;
}

static void set_zombie_leader(struct item *it)
{
	siginfo_t info;
	it->pid = abs(helper(it, leads_and_ends));
	must(waitid(P_PID, (id_t)it->pid, &info, WEXITED | WNOWAIT));
}

static void check_zombie_leader(struct item *it)
{
	expect("group", getpgid(it->pid), it->pid);
	expect("session", getsid(it->pid), it->feature->arg ? it->pid : getsid(0));
	expect("ended with", WEXITSTATUS(status_of(it->pid)), 5);
}

// Stopped children. arg: the signal, and what of it the parent knows.
enum { TOLD = 100, CONTINUED = 200, SIGTERM_TOO = 300, STOP_TOO = 400, IGNORING = 500 };

static int waits(struct item *it)
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int sig = SIGTSTP; sig <= SIGTTOU; sig++)
		signal(sig, SIG_DFL);
	if (it->feature->arg / 100 * 100 == IGNORING)
		signal(SIGCONT, SIG_IGN);
	close(it->fd[1]);
	told();
	await_go();
	char c;
	return (int)read(it->fd[0], &c, 1); // not before the parent has looked
}

static void set_stopped(struct item *it)
{
	siginfo_t info;
	long sig = it->feature->arg % 100, how = it->feature->arg - sig;
	must(pipe2(it->fd, O_CLOEXEC));
	it->pid = helper(it, waits);
	must(setpgid(it->pid, getpgrp()));
	if (sig != SIGSTOP) // a group without a parent in its session that leads another is not stopped by the others
		must(setpgid(it->pid, it->pid));
	must(kill(it->pid, (int)sig));
	must(waitid(P_PID, (id_t)it->pid, &info, WSTOPPED | (how == TOLD || how == CONTINUED ? 0 : WNOWAIT)));
	if (how == CONTINUED) {
		must(kill(it->pid, SIGCONT));
		must(waitid(P_PID, (id_t)it->pid, &info, WCONTINUED | WNOWAIT));
	}
	if (how == SIGTERM_TOO)
		must(kill(it->pid, SIGTERM)); // pending until it is continued
	if (how == STOP_TOO)
		must(kill(it->pid, SIGSTOP) + kill(it->pid, SIGTSTP));
}

static void check_stopped(struct item *it)
{
	siginfo_t info = {0};
	long sig = it->feature->arg % 100, how = it->feature->arg - sig;
	for (int i = 0; how != CONTINUED && i < 400 && state_of(it->pid) != 'T'; i++)
		// whoever lets go of a stopped process wakes it, and it goes to sleep again without a step of its program
		nap(5 * MS);
	expect("stopped", state_of(it->pid) == 'T', how != CONTINUED);
	must(waitid(P_PID, (id_t)it->pid, &info, WSTOPPED | WCONTINUED | WNOHANG));
	if (how == TOLD) {
		expect("told once", info.si_pid, 0);
	} else {
		expect("what the parent is told", info.si_code, how == CONTINUED ? CLD_CONTINUED : CLD_STOPPED);
		expect("of which signal", info.si_status, how == CONTINUED ? SIGCONT : sig);
	}
	must(kill(it->pid, SIGCONT));
	close(it->fd[1]);
	int status = status_of(it->pid);
	if (how == SIGTERM_TOO)
		expect("killed by", WIFSIGNALED(status) ? WTERMSIG(status) : -1, SIGTERM);
	else
		expect("status", status, 0);
}

// A stop signal that is blocked.
static void set_stop_pending(struct item *it)
{
	block((int)it->feature->arg);
	must(kill(getpid(), (int)it->feature->arg));
}

static void check_stop_pending(struct item *it)
{
	siginfo_t info;
	expect("signal", take((int)it->feature->arg, &info), it->feature->arg);
}

// A group whose leader has ended and been waited for, while another child is in it.
static int in_group(struct item *it)
{
	must(setpgid(0, it->pid));
	told();
	await_go();
	return getpgrp() == it->pid ? 0 : 9;
}

static int leads(struct item *it)
{
	char c;
	close(it->fd[1]);
	must(setpgid(0, 0));
	told();
	return (int)read(it->fd[0], &c, 1);
}

static void set_group_left(struct item *it)
{
	must(pipe(it->fd));
	it->pid = helper(it, leads);
	it->v[0] = helper(it, in_group);
	must(write(it->fd[1], "x", 1));
	expect("the leader's end", WEXITSTATUS(status_of(it->pid)), 1);
}

static void check_group_left(struct item *it)
{
	expect("group of the child", getpgid((pid_t)it->v[0]), it->pid);
	expect("status of the child", status_of((pid_t)it->v[0]), 0);
}

// Memory and files shared with a child, which answers from its side.
enum { SHARED_MEMORY, COPIED_MEMORY, OFFSET };

static int sharer(struct item *it)
{
	char b[4];
	told();
	await_go();
	switch (it->feature->arg) {
	case SHARED_MEMORY:
		fill(it->p + PAGE, PAGE, 88);
		break;
	case COPIED_MEMORY:
		check_fill("what it was", it->p, 4 * PAGE, it->random);
		fill(it->p, 4 * PAGE, 89);
		break;
	case OFFSET:
		expect("read", read(it->fd[0], b, 4), 4);
		break;
	}
	return differences != 0;
}

static void set_sharing(struct item *it)
{
	if (it->feature->arg == OFFSET) {
		write_file(path_of(it, ""), "0123456789");
		it->fd[0] = must(open(path_of(it, ""), O_RDONLY));
	} else if (it->feature->arg == SHARED_MEMORY) {
		it->p = map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	} else {
		it->p = anon(4 * PAGE);
	}
	if (it->p != NULL)
		fill(it->p, 4 * PAGE, it->random);
	it->pid = helper(it, sharer);
	if (it->feature->arg == COPIED_MEMORY)
		fill(it->p + PAGE, PAGE, 90);
}

static void check_sharing(struct item *it)
{
	expect("status of the child", status_of(it->pid), 0);
	if (it->feature->arg == OFFSET) {
		expect("offset", lseek(it->fd[0], 0, SEEK_CUR), 4);
		return;
	}
	check_fill("first page", it->p, PAGE, it->random);
	check_fill("second page", it->p + PAGE, PAGE, it->feature->arg == SHARED_MEMORY ? 88 : 90);
}

static int chain(struct item *it)
{
	if (it->v[0]-- > 0) {
		pid_t parent = getpid();
		pid_t pid = must(fork());
		if (pid == 0) {
			int status = chain(it);
			_exit(getppid() == parent ? status : 77);
		}
		return WEXITSTATUS(status_of(pid));
	}
	told();
	await_go();
	return 33;
}

static void set_chain(struct item *it)
{
	it->v[0] = it->feature->arg;
	it->pid = helper(it, chain);
}

static void check_chain(struct item *it) { expect("what the last one said", WEXITSTATUS(status_of(it->pid)), 33); }

static void *counts(void *arg)
{
	await_go();
	return arg;
}

static void set_threads(struct item *it)
{
	it->v[0] = it->feature->arg + (long long)(it->random % 8);
	it->p = malloc((size_t)it->v[0] * sizeof(pthread_t));
	for (long i = 0; i < it->v[0]; i++)
		must(-pthread_create(&((pthread_t *)it->p)[i], NULL, counts, (void *)i));
}

static void check_threads(struct item *it)
{
	for (long i = 0; i < it->v[0]; i++) {
		void *result = NULL;
		expect("join", pthread_join(((pthread_t *)it->p)[i], &result), 0);
		expect("its result", (long)result, i);
	}
}

#define STOPPED(name, how) {name, set_stopped, check_stopped, how, ALONE}

static const struct feature features[] = {
	{"zombie 0", set_zombie, check_zombie, 0},
	{"zombie 33", set_zombie, check_zombie, 33},
	{"zombie killed", set_zombie, check_zombie, -SIGKILL},
	{"zombie SIGTERM", set_zombie, check_zombie, -SIGTERM},
	{"zombie SIGSEGV", set_zombie, check_zombie, -SIGSEGV},
	{"zombie SIGHUP", set_zombie, check_zombie, -SIGHUP},
	{"zombie real-time signal", set_zombie, check_zombie, -40},
	{"zombie that led a group", set_zombie_leader, check_zombie_leader, 0},
	{"zombie that led a session", set_zombie_leader, check_zombie_leader, 1},
	STOPPED("stopped", SIGSTOP), STOPPED("stopped SIGTSTP", SIGTSTP), STOPPED("stopped SIGTTIN", SIGTTIN), STOPPED("stopped SIGTTOU", SIGTTOU),
	STOPPED("stopped and told", TOLD + SIGSTOP), STOPPED("stopped SIGTSTP and told", TOLD + SIGTSTP),
	STOPPED("continued", CONTINUED + SIGSTOP), STOPPED("stopped with SIGTERM pending", SIGTERM_TOO + SIGSTOP),
	STOPPED("stopped with stop pending", STOP_TOO + SIGSTOP), STOPPED("stopped ignoring SIGCONT", IGNORING + SIGSTOP),
	{"pending SIGTSTP alone", set_stop_pending, check_stop_pending, SIGTSTP, ALONE},
	{"group left by its leader", set_group_left, check_group_left, 0, ALONE},
	{"shared memory with a child", set_sharing, check_sharing, SHARED_MEMORY},
	{"copied memory with a child", set_sharing, check_sharing, COPIED_MEMORY},
	{"shared offset with a child", set_sharing, check_sharing, OFFSET},
	{"chain of children", set_chain, check_chain, 6},
	{"many threads", set_threads, check_threads, 10, ALONE},
	{"very many threads", set_threads, check_threads, 60, ALONE | RARE},
};

TABLE(children);
