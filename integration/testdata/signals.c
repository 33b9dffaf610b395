// Signals: masks, dispositions, pending signals with their siginfo, alternate stacks.
#include "ckpt.h"
#include <sys/resource.h>
#include <ucontext.h>

static sigset_t set_of(const int *sigs, size_t n)
{
	sigset_t set;
	sigemptyset(&set);
	for (size_t i = 0; i < n; i++)
		sigaddset(&set, sigs[i]);
	return set;
}

static void block(int sig)
{
	sigset_t set = set_of(&sig, 1);
	must(pthread_sigmask(SIG_BLOCK, &set, NULL));
}

static uint64_t mask_now(void)
{
	uint64_t mask = 0;
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8);
	return mask;
}

// take dequeues sig without waiting; its siginfo goes to info.
static int take(int sig, siginfo_t *info)
{
	sigset_t set = set_of(&sig, 1);
	struct timespec none = {0, 0};
	return sigtimedwait(&set, info, &none);
}

static void *mask_thread(void *arg)
{
	block(SIGRTMIN + 3);
	uint64_t before = mask_now();
	*(volatile int *)arg = 1;
	while (access("go", F_OK) != 0)
		nap(2 * MS);
	expect("thread's mask", mask_now(), before);
	return NULL;
}

static void mask(void)
{
	const int sigs[] = {SIGUSR1, SIGTERM, SIGALRM, SIGRTMIN + 1, 33, SIGRTMAX};
	sigset_t set = set_of(sigs, COUNT(sigs));
	volatile int up = 0;
	pthread_t t;
	must(pthread_sigmask(SIG_SETMASK, &set, NULL));
	uint64_t before = mask_now();
	must(-pthread_create(&t, NULL, mask_thread, (void *)&up));
	while (!up)
		nap(MS);
	ready();
	expect("mask", mask_now(), before);
	pthread_join(t, NULL);
}

static void pending_process(void)
{
	siginfo_t info;
	block(SIGUSR1);
	block(SIGTERM);
	block(SIGRTMIN + 2);
	must(kill(getpid(), SIGUSR1));
	must(kill(getpid(), SIGTERM));
	must(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_ptr = (void *)0x1122334455667788}));
	ready();
	expect("SIGUSR1", take(SIGUSR1, &info), SIGUSR1);
	expect("SIGUSR1 si_code", info.si_code, SI_USER);
	expect("SIGUSR1 si_pid", info.si_pid, getpid());
	expect("SIGUSR1 si_uid", info.si_uid, getuid());
	expect("SIGTERM", take(SIGTERM, &info), SIGTERM);
	expect("realtime", take(SIGRTMIN + 2, &info), SIGRTMIN + 2);
	expect("realtime si_code", info.si_code, SI_QUEUE);
	expect("realtime si_value", (long long)info.si_value.sival_ptr, 0x1122334455667788);
	expect("SIGUSR1 again", take(SIGUSR1, &info), -1);
	expect("realtime again", take(SIGRTMIN + 2, &info), -1);
}

static void *pending_thread_main(void *arg)
{
	siginfo_t info;
	pthread_t self = pthread_self();
	must(-pthread_kill(self, SIGUSR2));
	must(-pthread_sigqueue(self, SIGRTMIN + 4, (union sigval){.sival_int = 77}));
	*(volatile int *)arg = 1;
	while (access("go", F_OK) != 0)
		nap(2 * MS);
	expect("SIGUSR2 in its thread", take(SIGUSR2, &info), SIGUSR2);
	expect("SIGUSR2 si_code", info.si_code, SI_USER); // SI_TKILL, which glibc tells as SI_USER
	expect("realtime in its thread", take(SIGRTMIN + 4, &info), SIGRTMIN + 4);
	expect("realtime si_value", info.si_value.sival_int, 77);
	return NULL;
}

static void pending_thread(void)
{
	siginfo_t info;
	volatile int up = 0;
	pthread_t t;
	block(SIGUSR2);
	block(SIGRTMIN + 4);
	must(-pthread_create(&t, NULL, pending_thread_main, (void *)&up));
	while (!up)
		nap(MS);
	say_ready();
	wait_go();
	expect("SIGUSR2 in the leader", take(SIGUSR2, &info), -1);
	expect("realtime in the leader", take(SIGRTMIN + 4, &info), -1);
	pthread_join(t, NULL);
}

static void rt_order(void)
{
	siginfo_t info;
	enum { n = 200 };
	block(SIGRTMIN + 5);
	block(SIGRTMIN + 6);
	for (int i = 0; i < n; i++)
		must(sigqueue(getpid(), SIGRTMIN + 5 + i % 2, (union sigval){.sival_int = i}));
	ready();
	for (int sig = 0; sig < 2; sig++) {
		for (int i = sig; i < n; i += 2) {
			if (take(SIGRTMIN + 5 + sig, &info) != SIGRTMIN + 5 + sig)
				differs("signal %d of queue %d is missing", i, sig);
			else
				expect("value in order", info.si_value.sival_int, i);
		}
		expect("end of the queue", take(SIGRTMIN + 5 + sig, &info), -1);
	}
}

static volatile sig_atomic_t hits, depth, deepest;

static void on_signal(int sig)
{
	(void)sig;
	hits++;
}

static void on_info(int sig, siginfo_t *info, void *uc)
{
	(void)uc;
	depth++;
	if (depth > deepest)
		deepest = depth;
	if (info->si_value.sival_int > 0)
		sigqueue(getpid(), sig, (union sigval){.sival_int = info->si_value.sival_int - 1});
	depth--;
	hits++;
}

static void handlers(void)
{
	struct {
		int sig, flags;
	} want[] = {
		{SIGUSR1, SA_RESTART},
		{SIGUSR2, SA_SIGINFO | SA_NODEFER},
		{SIGALRM, SA_RESETHAND},
		{SIGCHLD, SA_NOCLDSTOP | SA_NOCLDWAIT},
		{SIGRTMIN + 1, SA_SIGINFO | SA_ONSTACK},
		{SIGRTMAX, 0},
	};
	struct sigaction before[COUNT(want)], after;
	for (size_t i = 0; i < COUNT(want); i++) {
		struct sigaction sa = {.sa_flags = want[i].flags};
		if (want[i].flags & SA_SIGINFO)
			sa.sa_sigaction = on_info;
		else
			sa.sa_handler = on_signal;
		sigaddset(&sa.sa_mask, SIGHUP);
		sigaddset(&sa.sa_mask, SIGRTMIN + (int)i);
		must(sigaction(want[i].sig, &sa, NULL));
		must(sigaction(want[i].sig, NULL, &before[i]));
	}
	must(signal(SIGPIPE, SIG_IGN));
	ready();
	for (size_t i = 0; i < COUNT(want); i++) {
		must(sigaction(want[i].sig, NULL, &after));
		if (after.sa_handler != before[i].sa_handler)
			differs("handler of %d", want[i].sig);
		expect("flags", after.sa_flags, before[i].sa_flags);
		expect_mem("mask", &after.sa_mask, &before[i].sa_mask, 8);
	}
	must(sigaction(SIGPIPE, NULL, &after));
	if (after.sa_handler != SIG_IGN)
		differs("SIGPIPE is not ignored");
	must(sigaction(SIGHUP, NULL, &after));
	if (after.sa_handler != SIG_DFL)
		differs("SIGHUP is not at its default");
	kill(getpid(), SIGUSR1);
	expect("handler ran", hits, 1);
	sigqueue(getpid(), SIGUSR2, (union sigval){.sival_int = 3});
	expect("handlers ran", hits, 5);
	expect("nested by SA_NODEFER", deepest, 4);
	kill(getpid(), SIGALRM);
	must(sigaction(SIGALRM, NULL, &after));
	if (after.sa_handler != SIG_DFL)
		differs("SA_RESETHAND did not reset");
}

static char stack_memory[64 * 1024] __attribute__((aligned(4096)));

static void on_stack(int sig)
{
	char here;
	(void)sig;
	if (&here < stack_memory || &here >= stack_memory + sizeof stack_memory)
		differs("the handler does not run on the alternate stack");
	stack_t ss;
	sigaltstack(NULL, &ss);
	expect("SS_ONSTACK", ss.ss_flags & SS_ONSTACK, SS_ONSTACK);
	hits++;
}

static void set_altstack(int flags)
{
	stack_t ss = {.ss_sp = stack_memory, .ss_size = sizeof stack_memory, .ss_flags = flags};
	must(sigaltstack(&ss, NULL));
}

static void altstack(void)
{
	struct sigaction sa = {.sa_handler = on_stack, .sa_flags = SA_ONSTACK};
	set_altstack(0);
	must(sigaction(SIGUSR1, &sa, NULL));
	ready();
	stack_t ss;
	must(sigaltstack(NULL, &ss));
	expect("ss_sp", (long long)ss.ss_sp, (long long)stack_memory);
	expect("ss_size", ss.ss_size, sizeof stack_memory);
	expect("ss_flags", ss.ss_flags, 0);
	kill(getpid(), SIGUSR1);
	expect("handler ran", hits, 1);
}

static void on_stack_wait(int sig)
{
	on_stack(sig);
	ready();
	on_stack(sig);
}

static void altstack_inside(void)
{
	struct sigaction sa = {.sa_handler = on_stack_wait, .sa_flags = SA_ONSTACK};
	set_altstack(0);
	must(sigaction(SIGUSR1, &sa, NULL));
	sa.sa_handler = on_stack;
	must(sigaction(SIGUSR2, &sa, NULL));
	kill(getpid(), SIGUSR1);
	expect("handler came back", hits, 2);
	stack_t ss;
	must(sigaltstack(NULL, &ss));
	expect("off the stack again", ss.ss_flags, 0);
	kill(getpid(), SIGUSR2);
	expect("and it can be entered again", hits, 3);
}

static void altstack_autodisarm(void)
{
	set_altstack(1U << 31);
	ready();
	stack_t ss;
	must(sigaltstack(NULL, &ss));
	expect("ss_flags", (unsigned)ss.ss_flags, 1U << 31);
	expect("ss_size", ss.ss_size, sizeof stack_memory);
}

static void on_wait(int sig, siginfo_t *info, void *uc)
{
	volatile double x = 1.5;
	expect("signal in the frame", info->si_signo, sig);
	uint64_t inside = mask_now();
	ready();
	expect("mask in the handler", mask_now(), inside);
	expect("signal in the frame afterwards", info->si_signo, sig);
	expect("value in the frame afterwards", info->si_value.sival_int, 4711);
	if (x != 1.5 || ((ucontext_t *)uc)->uc_mcontext.gregs[REG_RSP] == 0)
		differs("frame");
	hits++;
}

static void inside_handler(void)
{
	struct sigaction sa = {.sa_sigaction = on_wait, .sa_flags = SA_SIGINFO};
	sigaddset(&sa.sa_mask, SIGUSR2);
	must(sigaction(SIGUSR1, &sa, NULL));
	uint64_t before = mask_now();
	register double live __asm__("xmm9") = 2.25;
	__asm__ volatile("" : "+x"(live));
	sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 4711});
	expect("handler ran", hits, 1);
	expect("mask after it", mask_now(), before);
}

static void *suspend_thread(void *arg)
{
	nap(20 * MS);
	while (access("go", F_OK) != 0)
		nap(2 * MS);
	pthread_kill(*(pthread_t *)arg, SIGUSR1);
	return NULL;
}

static void suspended(void)
{
	pthread_t self = pthread_self(), t;
	struct sigaction sa = {.sa_handler = on_signal};
	sigset_t all;
	must(sigaction(SIGUSR1, &sa, NULL));
	block(SIGUSR1);
	must(-pthread_create(&t, NULL, suspend_thread, &self));
	uint64_t before = mask_now();
	sigfillset(&all);
	sigdelset(&all, SIGUSR1);
	say_ready();
	sigsuspend(&all);
	expect("handler ran", hits, 1);
	expect("mask after sigsuspend", mask_now(), before);
	pthread_join(t, NULL);
}

// More is pending than may be by now, and a SIGCONT that waits to be let in.
static void pending_beyond_limit(void)
{
	enum { n = 40 };
	struct rlimit few = {3, 3};
	siginfo_t info;
	block(SIGRTMIN + 2);
	block(SIGCONT);
	for (int i = 0; i < n; i++)
		must(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = i}));
	must(kill(getpid(), SIGCONT));
	must(setrlimit(RLIMIT_SIGPENDING, &few));
	ready();
	for (int i = 0; i < n; i++) {
		expect("signal", take(SIGRTMIN + 2, &info), SIGRTMIN + 2);
		expect("value", info.si_value.sival_int, i);
	}
	expect("no more", take(SIGRTMIN + 2, &info), -1);
	expect("SIGCONT", take(SIGCONT, &info), SIGCONT);
	must(getrlimit(RLIMIT_SIGPENDING, &few));
	expect("limit", (long long)few.rlim_cur, 3);
	expect("hard limit", (long long)few.rlim_max, 3);
}

// Signals that came when no more could be queued: of them the kernel keeps nothing but that they are pending.
static void pending_unqueued(void)
{
	struct rlimit none = {0, 0};
	siginfo_t info;
	block(SIGUSR1);
	block(SIGRTMIN + 3);
	must(setrlimit(RLIMIT_SIGPENDING, &none));
	must(raise(SIGUSR1));
	must(kill(getpid(), SIGRTMIN + 3));
	ready();
	expect("SIGUSR1", take(SIGUSR1, &info), SIGUSR1);
	expect("its sender", info.si_pid, 0);
	expect("SIGRTMIN+3", take(SIGRTMIN + 3, &info), SIGRTMIN + 3);
	expect("its value", info.si_value.sival_int, 0);
	expect("no more", take(SIGUSR1, &info), -1);
}

static const struct test_case cases[] = {
	{"mask", mask},
	{"pending-process", pending_process},
	{"pending-thread", pending_thread},
	{"pending-beyond-limit", pending_beyond_limit},
	{"pending-unqueued", pending_unqueued},
	{"realtime-order", rt_order},
	{"handlers", handlers},
	{"altstack", altstack},
	{"altstack-inside", altstack_inside},
	{"altstack-autodisarm", altstack_autodisarm},
	{"inside-handler", inside_handler},
	{"sigsuspend", suspended},
};

MAIN(cases)
