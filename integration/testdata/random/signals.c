// Signals: pending ones of every kind, masks, handlers, alternate stacks.
#include "random.h"
#include <sys/time.h>
#include <ucontext.h>

#define TO_THREAD 1000 // in arg: sent to the thread, not to the process

static const char *const standard_names[] = {"", "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "", "SIGUSR1", "SIGSEGV", "SIGUSR2",
					     "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD", "SIGCONT", "", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG",
					     "SIGXCPU", "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR", "SIGSYS"};

static void set_pending(struct item *it)
{
	int sig = (int)(it->feature->arg % TO_THREAD);
	block(sig);
	if (it->feature->arg >= TO_THREAD)
		must(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), sig));
	else if (it->random % 2)
		must(kill(getpid(), sig));
	else
		must(sigqueue(getpid(), sig, (union sigval){.sival_ptr = (void *)it->random}));
}

static void check_pending(struct item *it)
{
	siginfo_t info;
	int sig = (int)(it->feature->arg % TO_THREAD);
	expect(standard_names[sig], take(sig, &info), sig);
	expect("si_pid", info.si_pid, getpid());
	expect("si_uid", info.si_uid, getuid());
	if (it->feature->arg < TO_THREAD && it->random % 2 == 0) {
		expect("si_code", info.si_code, SI_QUEUE);
		expect("si_value", (long long)info.si_value.sival_ptr, (long long)it->random);
	} else {
		expect("si_code", info.si_code, SI_USER); // the C library tells SI_TKILL so
	}
	expect("once more", take(sig, &info), -1);
}

// Real-time signals queue, to the process or to a thread.
static void set_queue(struct item *it)
{
	it->v[0] = signal_number();
	if (it->v[0] < 0)
		lack(it);
	it->v[1] = it->feature->arg > 1 ? 100 : 1 + (long long)(it->random % 5);
	block((int)it->v[0]);
	for (int i = 0; i < it->v[1]; i++) {
		union sigval v = {.sival_int = (int)it->random + i};
		must(it->feature->arg == 1 ? -pthread_sigqueue(pthread_self(), (int)it->v[0], v) : sigqueue(getpid(), (int)it->v[0], v));
	}
}

static void check_queue(struct item *it)
{
	siginfo_t info;
	for (int i = 0; i < it->v[1]; i++) {
		expect("signal", take((int)it->v[0], &info), it->v[0]);
		expect("si_code", info.si_code, SI_QUEUE);
		expect("value, in order", info.si_value.sival_int, (int)it->random + i);
	}
	expect("end of the queue", take((int)it->v[0], &info), -1);
}

// rt_sigqueueinfo lets a process tell itself anything with a negative si_code.
static void set_crafted(struct item *it)
{
	siginfo_t info = {0};
	int sig = signal_number();
	if (sig < 0)
		lack(it);
	block(sig);
	info.si_signo = sig;
	info.si_code = -60; // SI_ASYNCNL: no code of a kind that the kernel has other fields for
	info.si_errno = 77;
	info.si_pid = 4321;
	info.si_uid = 8765;
	info.si_value.sival_ptr = (void *)it->random;
	must(syscall(SYS_rt_sigqueueinfo, getpid(), sig, &info));
	it->v[0] = sig;
}

static void check_crafted(struct item *it)
{
	siginfo_t info;
	expect("signal", take((int)it->v[0], &info), it->v[0]);
	expect("si_code", info.si_code, -60);
	expect("si_errno", info.si_errno, 77);
	expect("si_pid", info.si_pid, 4321);
	expect("si_uid", info.si_uid, 8765);
	expect("si_value", (long long)info.si_value.sival_ptr, (long long)it->random);
}

// What the kernel itself tells: the end of a child, and a descriptor that is ready.
static int ends(struct item *it)
{
	(void)it;
	told();
	return 42;
}

static void set_sigchld(struct item *it)
{
	block(SIGCHLD);
	it->pid = helper(it, ends);
	siginfo_t info;
	must(waitid(P_PID, (id_t)it->pid, &info, WEXITED | WNOWAIT));
	if (it->feature->arg) {
		must(take(SIGCHLD, &info)); // it has been told, and not been waited for
		it->v[0] = 1;
	}
}

static void check_sigchld(struct item *it)
{
	siginfo_t info;
	expect("SIGCHLD", take(SIGCHLD, &info), it->feature->arg ? -1 : SIGCHLD);
	if (!it->feature->arg) {
		expect("si_code", info.si_code, CLD_EXITED);
		expect("si_pid", info.si_pid, it->pid);
		expect("si_status", info.si_status, 42);
	}
	expect("status", WEXITSTATUS(status_of(it->pid)), 42);
}

static void set_sigio(struct item *it)
{
	it->v[0] = signal_number();
	if (it->v[0] < 0)
		lack(it);
	block((int)it->v[0]);
	must(pipe(it->fd));
	must(fcntl(it->fd[0], F_SETOWN, getpid()));
	must(fcntl(it->fd[0], F_SETSIG, (int)it->v[0]));
	must(fcntl(it->fd[0], F_SETFL, O_ASYNC | O_NONBLOCK));
	must(write(it->fd[1], "x", 1));
}

static void check_sigio(struct item *it)
{
	siginfo_t info;
	expect("signal", take((int)it->v[0], &info), it->v[0]);
	expect("si_code", info.si_code, 1); // POLL_IN
	expect("si_fd", info.si_fd, it->fd[0]);
	expect("flags", fcntl(it->fd[0], F_GETFL), O_ASYNC | O_NONBLOCK);
	must(write(it->fd[1], "x", 1));
	expect("another", take((int)it->v[0], &info), it->v[0]);
}

static void set_mask(struct item *it)
{
	sigset_t set;
	sigemptyset(&set);
	for (int sig = 1; sig < 65; sig++)
		if (it->random >> (sig - 1) & 1 && (sig < SIGRTMIN || it->feature->arg))
			sigaddset(&set, sig);
	must(-pthread_sigmask(SIG_BLOCK, &set, NULL));
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &it->v[0], 8);
}

static void check_mask(struct item *it)
{
	uint64_t mask = 0;
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8);
	expect("what is blocked", (long long)(mask & it->random), (long long)((uint64_t)it->v[0] & it->random));
}

static volatile sig_atomic_t hits;

static void on_signal(int sig)
{
	(void)sig;
	hits++;
}

static void on_info(int sig, siginfo_t *info, void *uc)
{
	(void)info;
	(void)uc;
	on_signal(sig);
}

static void set_handler(struct item *it)
{
	struct sigaction sa = {.sa_flags = (int)it->feature->arg}, have;
	int sig = signal_number();
	if (sig < 0)
		lack(it);
	if (sa.sa_flags & SA_SIGINFO)
		sa.sa_sigaction = on_info;
	else
		sa.sa_handler = on_signal;
	sigaddset(&sa.sa_mask, 1 + (int)(it->random % 64));
	must(sigaction(sig, &sa, NULL));
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, sig);
	must(-pthread_sigmask(SIG_UNBLOCK, &set, NULL)); // the parent may have blocked it
	must(sigaction(sig, NULL, &have));
	it->v[0] = sig;
	it->v[1] = have.sa_flags;
	memcpy(&it->v[2], &have.sa_mask, 8);
}

static void check_handler(struct item *it)
{
	struct sigaction have;
	must(sigaction((int)it->v[0], NULL, &have));
	expect("flags", have.sa_flags, it->v[1]);
	expect_mem("mask", &have.sa_mask, &it->v[2], 8);
	int before = hits;
	must(-pthread_kill(pthread_self(), (int)it->v[0]));
	expect("handler ran", hits - before, 1);
	must(sigaction((int)it->v[0], NULL, &have));
	expect("still there", have.sa_handler != SIG_DFL, !(it->feature->arg & SA_RESETHAND));
}

static void set_disposition(struct item *it)
{
	it->v[0] = signal_number();
	if (it->v[0] < 0)
		lack(it);
	struct sigaction sa = {.sa_flags = SA_RESTART};
	sa.sa_handler = it->feature->arg ? SIG_IGN : SIG_DFL; // with flags that the default has not
	must(sigaction((int)it->v[0], &sa, NULL));
	must(sigaction((int)it->v[0], NULL, &sa));
	it->v[1] = sa.sa_flags;
}

static void check_disposition(struct item *it)
{
	struct sigaction have;
	must(sigaction((int)it->v[0], NULL, &have));
	expect("ignored", have.sa_handler == SIG_IGN, it->feature->arg);
	expect("flags", have.sa_flags, it->v[1]);
}

static void set_altstack(struct item *it)
{
	it->p = anon(16 * PAGE);
	stack_t ss = {.ss_sp = it->p, .ss_size = 16 * PAGE, .ss_flags = (int)it->feature->arg};
	must(sigaltstack(&ss, NULL));
}

static void check_altstack(struct item *it)
{
	stack_t ss;
	must(sigaltstack(NULL, &ss));
	expect("ss_sp", (long)ss.ss_sp, (long)it->p);
	expect("ss_size", (long)ss.ss_size, 16 * PAGE);
	expect("ss_flags", ss.ss_flags, (int)it->feature->arg);
	ss.ss_flags = SS_DISABLE;
	must(sigaltstack(&ss, NULL));
}

// Snapped inside of a handler, on the alternate stack or not.
static struct item *inside;

static void in_handler(int sig, siginfo_t *info, void *uc)
{
	uint64_t before = 0, after = 0;
	(void)uc;
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &before, 8);
	told();
	await_go();
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &after, 8);
	expect("mask in the handler", (long long)after, (long long)before);
	expect("its signal", info->si_signo, sig);
	expect("its value", info->si_value.sival_int, (int)inside->random);
	stack_t ss;
	must(sigaltstack(NULL, &ss));
	expect("on the alternate stack", (ss.ss_flags & SS_ONSTACK) != 0, (inside->feature->arg & SA_ONSTACK) != 0);
	hits++;
}

static void set_inside(struct item *it)
{
	struct sigaction sa = {.sa_sigaction = in_handler, .sa_flags = SA_SIGINFO | (int)it->feature->arg};
	stack_t ss = {.ss_sp = anon(32 * PAGE), .ss_size = 32 * PAGE};
	uint64_t before = 0, after = 0;
	inside = it;
	must(sigaltstack(&ss, NULL));
	must(sigaction(SIGUSR1, &sa, NULL));
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &before, 8);
	must(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = (int)it->random}));
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &after, 8);
	expect("handler came back", hits, 1);
	expect("mask after it", (long long)after, (long long)before);
}

static void set_suspended(struct item *it)
{
	(void)it;
	struct sigaction sa = {.sa_handler = on_signal};
	sigset_t all;
	must(sigaction(SIGALRM, &sa, NULL));
	block(SIGALRM);
	sigfillset(&all);
	sigdelset(&all, SIGALRM);
	uint64_t before = 0, after = 0;
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &before, 8);
	told();
	while (!have_go()) {
		must(setitimer(ITIMER_REAL, &(struct itimerval){.it_value = {0, 300000}}, NULL));
		int had = hits;
		sigsuspend(&all);
		expect("the handler ran", hits > had, 1);
	}
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &after, 8);
	expect("mask after sigsuspend", (long long)after, (long long)before);
}

#define SIG(number, name) {"pending " name, set_pending, check_pending, number, 0, name}
#define SIG_THREAD(number, name) {"pending in a thread " name, set_pending, check_pending, TO_THREAD + number, OF_A_THREAD, name}

static const struct feature features[] = {
	SIG(1, "SIGHUP"), SIG(2, "SIGINT"), SIG(3, "SIGQUIT"), SIG(4, "SIGILL"), SIG(5, "SIGTRAP"), SIG(6, "SIGABRT"), SIG(7, "SIGBUS"), SIG(8, "SIGFPE"),
	SIG(10, "SIGUSR1"), SIG(11, "SIGSEGV"), SIG(12, "SIGUSR2"), SIG(14, "SIGALRM"), SIG(15, "SIGTERM"), SIG(16, "SIGSTKFLT"), SIG(20, "SIGTSTP"),
	SIG(21, "SIGTTIN"), SIG(22, "SIGTTOU"), SIG(24, "SIGXCPU"), SIG(25, "SIGXFSZ"), SIG(26, "SIGVTALRM"), SIG(27, "SIGPROF"), SIG(29, "SIGIO"),
	SIG(30, "SIGPWR"), SIG(31, "SIGSYS"), SIG(23, "SIGURG"), SIG(28, "SIGWINCH"),
	SIG_THREAD(1, "SIGHUP"), SIG_THREAD(2, "SIGINT"), SIG_THREAD(3, "SIGQUIT"), SIG_THREAD(4, "SIGILL"), SIG_THREAD(5, "SIGTRAP"), SIG_THREAD(6, "SIGABRT"),
	SIG_THREAD(7, "SIGBUS"), SIG_THREAD(8, "SIGFPE"), SIG_THREAD(10, "SIGUSR1"), SIG_THREAD(11, "SIGSEGV"), SIG_THREAD(12, "SIGUSR2"),
	SIG_THREAD(14, "SIGALRM"), SIG_THREAD(15, "SIGTERM"), SIG_THREAD(16, "SIGSTKFLT"), SIG_THREAD(20, "SIGTSTP"), SIG_THREAD(21, "SIGTTIN"),
	SIG_THREAD(22, "SIGTTOU"), SIG_THREAD(24, "SIGXCPU"), SIG_THREAD(29, "SIGIO"), SIG_THREAD(31, "SIGSYS"),
	{"pending SIGCONT", set_pending, check_pending, SIGCONT, ALONE},
	{"pending SIGCHLD of a child", set_sigchld, check_sigchld, 0, ALONE},
	{"child told of and not waited for", set_sigchld, check_sigchld, 1, ALONE},
	{"pending real-time", set_queue, check_queue, 0},
	{"pending in a thread real-time", set_queue, check_queue, 1, OF_A_THREAD},
	{"pending real-time many", set_queue, check_queue, 2, RARE},
	{"pending crafted", set_crafted, check_crafted},
	{"pending from a descriptor", set_sigio, check_sigio},
	{"mask of standard signals", set_mask, check_mask, 0, ALONE},
	{"mask of all signals", set_mask, check_mask, 1, ALONE},
	{"handler SA_RESTART", set_handler, check_handler, SA_RESTART, OF_A_THREAD},
	{"handler SA_SIGINFO", set_handler, check_handler, SA_SIGINFO, OF_A_THREAD},
	{"handler SA_NODEFER", set_handler, check_handler, SA_NODEFER, OF_A_THREAD},
	{"handler SA_RESETHAND", set_handler, check_handler, SA_RESETHAND, OF_A_THREAD},
	{"handler SA_ONSTACK", set_handler, check_handler, SA_ONSTACK, OF_A_THREAD},
	{"handler SA_NOCLDSTOP", set_handler, check_handler, SA_NOCLDSTOP | SA_SIGINFO, OF_A_THREAD},
	{"handler SA_EXPOSE_TAGBITS", set_handler, check_handler, 0x800, OF_A_THREAD},
	{"signal ignored", set_disposition, check_disposition, 1},
	{"signal default with flags", set_disposition, check_disposition, 0},
	{"alternate stack", set_altstack, check_altstack, 0, OF_A_THREAD, "altstack"},
	{"alternate stack autodisarm", set_altstack, check_altstack, (long)(int)(1U << 31), OF_A_THREAD, "altstack"},
	{"in a handler", set_inside, NULL, 0, ALONE | BLOCKS},
	{"in a handler on its stack", set_inside, NULL, SA_ONSTACK, ALONE | BLOCKS},
	{"in sigsuspend", set_suspended, NULL, 0, ALONE | BLOCKS},
};

TABLE(signals);
