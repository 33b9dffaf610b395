// Timers: interval timers, alarm, POSIX timers. Times are wide: the machine that runs the tests may be busy.
#include "ckpt.h"
#include <sys/time.h>

static volatile sig_atomic_t fired;
static volatile long long fired_at;

static void on_fire(int sig, siginfo_t *info, void *uc)
{
	(void)sig;
	(void)info;
	(void)uc;
	fired++;
	fired_at = now(CLOCK_MONOTONIC);
}

static void handle(int sig)
{
	struct sigaction sa = {.sa_sigaction = on_fire, .sa_flags = SA_SIGINFO | SA_RESTART};
	must(sigaction(sig, &sa, NULL));
}

static long long usec(struct timeval tv) { return tv.tv_sec * 1000000LL + tv.tv_usec; }

// A timer armed for `total` before READY must, after the restore, fire when what was left at the snapshot has passed.
static void check_fired_in_time(long long armed, long long total)
{
	while (fired == 0)
		nap(5 * MS);
	expect_range("ms until it fired, less the outage", (fired_at - armed - outage()) / MS, total / MS - 250, total / MS + LATE);
}

static void itimer_real(void)
{
	struct itimerval it = {.it_value = {1, 500000}, .it_interval = {7, 0}};
	handle(SIGALRM);
	long long armed = now(CLOCK_MONOTONIC);
	must(setitimer(ITIMER_REAL, &it, NULL));
	ready();
	check_fired_in_time(armed, 1500 * MS);
	must(getitimer(ITIMER_REAL, &it));
	expect("interval", usec(it.it_interval), 7000000);
	expect_range("next", usec(it.it_value), 1, 7000000); // it may have fired again
}

// One that has run out while SIGALRM is blocked stands still until it is taken, and goes on then.
static void itimer_blocked(void)
{
	struct itimerval it = {.it_value = {0, 1000}, .it_interval = {0, 200000}};
	const struct timespec long_enough = {60, 0};
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	must(sigprocmask(SIG_BLOCK, &set, NULL));
	must(setitimer(ITIMER_REAL, &it, NULL));
	do
		must(sigpending(&set));
	while (!sigismember(&set, SIGALRM));
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	ready();
	for (int i = 0; i < 3; i++)
		expect("alarm", sigtimedwait(&set, NULL, &long_enough), SIGALRM);
	must(getitimer(ITIMER_REAL, &it));
	expect("interval", usec(it.it_interval), 200000);
}

// spin uses up CPU time in user mode: to read a CPU clock is a system call.
static void spin(void)
{
	for (volatile int i = 0; i < 200000; i++)
		;
}

static void itimer_cpu(int which, int sig)
{
	struct itimerval it = {.it_value = {0, 400000}, .it_interval = {0, 50000}};
	handle(sig);
	must(setitimer(which, &it, NULL));
	long long start = now(CLOCK_PROCESS_CPUTIME_ID);
	while (now(CLOCK_PROCESS_CPUTIME_ID) - start < 100 * MS)
		spin();
	must(getitimer(which, &it));
	long long left = usec(it.it_value);
	ready();
	expect("fired while waiting", fired, 0);
	must(getitimer(which, &it));
	expect_range("left", usec(it.it_value), left - 200000, left + 10000);
	expect("interval", usec(it.it_interval), 50000);
	start = now(CLOCK_PROCESS_CPUTIME_ID);
	while (fired < 2 && now(CLOCK_PROCESS_CPUTIME_ID) - start < 10 * SEC)
		spin();
	if (fired < 2)
		differs("the timer fired %d times, want 2", (int)fired);
}

static void itimer_virtual(void) { itimer_cpu(ITIMER_VIRTUAL, SIGVTALRM); }
static void itimer_prof(void) { itimer_cpu(ITIMER_PROF, SIGPROF); }

static void alarm_case(void)
{
	handle(SIGALRM);
	long long armed = now(CLOCK_MONOTONIC);
	alarm(2);
	ready();
	check_fired_in_time(armed, 2 * SEC);
	expect("alarm left", alarm(0), 0);
}

static timer_t make_timer(clockid_t clock, int notify, int sig, long value, int tid)
{
	struct sigevent ev = {.sigev_notify = notify, .sigev_signo = sig, .sigev_value.sival_ptr = (void *)value};
	int id = -1;
	if (notify == SIGEV_THREAD_ID)
		((int *)&ev)[4] = tid; // sigev_notify_thread_id, which older headers do not name
	must(syscall(SYS_timer_create, clock, &ev, &id));
	return (timer_t)(long)id;
}

static void arm(timer_t id, int flags, long long value, long long interval)
{
	struct itimerspec its = {{interval / SEC, interval % SEC}, {value / SEC, value % SEC}};
	must(syscall(SYS_timer_settime, (int)(long)id, flags, &its, NULL));
}

static struct itimerspec state_of(timer_t id)
{
	struct itimerspec its;
	must(syscall(SYS_timer_gettime, (int)(long)id, &its));
	return its;
}

static void posix_signal(void)
{
	handle(SIGRTMIN);
	timer_t first = make_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 1, 0);
	timer_t gone = make_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 2, 0);
	timer_t idle = make_timer(CLOCK_REALTIME, SIGEV_NONE, 0, 3, 0);
	timer_t cpu = make_timer(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN + 1, 4, 0);
	timer_t boot = make_timer(CLOCK_BOOTTIME, SIGEV_SIGNAL, SIGRTMIN + 1, 5, 0);
	must(syscall(SYS_timer_delete, (int)(long)gone));
	long long armed = now(CLOCK_MONOTONIC);
	arm(first, 0, 1500 * MS, 0);
	arm(idle, 0, 3600 * SEC, 60 * SEC);
	arm(cpu, 0, 900 * SEC, 0);
	ready();
	check_fired_in_time(armed, 1500 * MS);
	expect("times it fired", fired, 1);
	struct itimerspec its = state_of(idle);
	expect("interval", its.it_interval.tv_sec, 60);
	expect_range("left", its.it_value.tv_sec, 3500, 3600);
	expect_range("cpu timer", state_of(cpu).it_value.tv_sec, 890, 900);
	expect("unarmed timer", state_of(boot).it_value.tv_sec, 0);
	struct itimerspec none;
	expect("deleted timer", syscall(SYS_timer_gettime, (int)(long)gone, &none), -1);
	timer_t next = make_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 9, 0);
	if (next == first || next == idle || next == cpu || next == boot)
		differs("a new timer got an id that is taken");
	must(syscall(SYS_timer_delete, (int)(long)next));
	must(syscall(SYS_timer_delete, (int)(long)first));
}

static volatile int timer_tid;

static void *timer_thread(void *arg)
{
	(void)arg;
	timer_tid = (int)syscall(SYS_gettid);
	while (fired == 0)
		nap(5 * MS);
	return NULL;
}

static volatile sig_atomic_t ran_on;

static void on_thread_timer(int sig, siginfo_t *info, void *uc)
{
	ran_on = (int)syscall(SYS_gettid);
	on_fire(sig, info, uc);
}

static void posix_thread_id(void)
{
	struct sigaction sa = {.sa_sigaction = on_thread_timer, .sa_flags = SA_SIGINFO | SA_RESTART};
	pthread_t t;
	must(sigaction(SIGRTMIN, &sa, NULL));
	must(-pthread_create(&t, NULL, timer_thread, NULL));
	while (timer_tid == 0)
		nap(MS);
	timer_t id = make_timer(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN, 6, timer_tid);
	long long armed = now(CLOCK_MONOTONIC);
	arm(id, 0, 1500 * MS, 0);
	ready();
	check_fired_in_time(armed, 1500 * MS);
	expect("thread that got the signal", ran_on, timer_tid);
	pthread_join(t, NULL);
}

static volatile int notified;

static void on_notify(union sigval v) { notified = v.sival_int; }

// glibc makes a helper thread that waits for the signal: a thread with every signal blocked.
static void posix_thread(void)
{
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_notify, .sigev_value.sival_int = 31};
	timer_t id;
	struct itimerspec its = {{0, 0}, {3, 0}}; // it must not be over before a snapshot on a busy machine begins
	must(timer_create(CLOCK_MONOTONIC, &ev, &id));
	must(timer_settime(id, 0, &its, NULL));
	ready();
	for (int i = 0; i < 2000 && notified == 0; i++)
		nap(5 * MS);
	expect("notified", notified, 31);
}

// A pending timer signal carries the overruns that gather until it is taken.
static void overrun(void)
{
	sigset_t set;
	siginfo_t info;
	struct timespec none = {0, 0};
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	must(sigprocmask(SIG_BLOCK, &set, NULL));
	timer_t id = make_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 8, 0);
	arm(id, 0, 10 * MS, 10 * MS);
	nap(300 * MS);
	ready();
	nap(50 * MS);
	must(sigtimedwait(&set, &info, &none));
	expect("si_code", info.si_code, SI_TIMER);
	expect("si_value", info.si_value.sival_int, 8);
	if (info.si_overrun < 20)
		differs("si_overrun is %d, want at least 20", info.si_overrun);
	nap(50 * MS);
	must(sigtimedwait(&set, &info, &none));
	if (info.si_overrun > 1000)
		differs("si_overrun is %d later", info.si_overrun);
	expect("interval", state_of(id).it_interval.tv_nsec, 10 * MS);
	arm(id, 0, 0, 0);
}

// The overruns of a signal that was taken stay to be asked for until the next one is. And a date on the wall clock
// stays that date.
static void overrun_taken(void)
{
	sigset_t set;
	siginfo_t info;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	sigaddset(&set, SIGRTMIN + 1);
	must(sigprocmask(SIG_BLOCK, &set, NULL));
	timer_t dated = make_timer(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN, 1, 0);
	timer_t directed = make_timer(CLOCK_REALTIME, SIGEV_THREAD_ID, SIGRTMIN + 1, 2, (int)syscall(SYS_gettid));
	long long begin = now(CLOCK_REALTIME) - 5 * 3600 * SEC - 1800 * SEC;
	arm(dated, TIMER_ABSTIME, begin, 3600 * SEC);
	arm(directed, TIMER_ABSTIME, begin, 3600 * SEC);
	for (int i = 0; i < 2; i++) {
		must(sigwaitinfo(&set, &info));
		expect("si_overrun", info.si_overrun, 5);
	}
	ready();
	expect("overruns", syscall(SYS_timer_getoverrun, (int)(long)dated), 5);
	expect("overruns", syscall(SYS_timer_getoverrun, (int)(long)directed), 5);
	for (int i = 0; i < 2; i++) {
		long long late = 3600 * SEC;
		for (int tries = 0; tries < 100; tries++) { // between the two readings somebody else may run
			struct itimerspec its = state_of(i == 0 ? dated : directed);
			long long at = now(CLOCK_REALTIME) + its.it_value.tv_sec * SEC + its.it_value.tv_nsec;
			expect("interval", its.it_interval.tv_sec, 3600);
			if (at - begin - 6 * 3600 * SEC < late)
				late = at - begin - 6 * 3600 * SEC;
		}
		expect_range("ms between the date and when it runs out", late / MS, -10, 100);
	}
	sigset_t pending;
	must(sigpending(&pending));
	expect("pending", sigismember(&pending, SIGRTMIN) | sigismember(&pending, SIGRTMIN + 1), 0);
}

// clock: CLOCK_MONOTONIC and CLOCK_BOOTTIME neither run backwards nor jump, whatever happens in between. Deadlines
// depend on it.
static void clock_goes_on(void)
{
	long long mono = now(CLOCK_MONOTONIC), boot = now(CLOCK_BOOTTIME);
	ready();
	expect_range("ns of CLOCK_MONOTONIC gone by", now(CLOCK_MONOTONIC) - mono, 1, 300 * SEC);
	expect_range("ns of CLOCK_BOOTTIME gone by", now(CLOCK_BOOTTIME) - boot, 1, 300 * SEC);
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += 100 * MS;
	until.tv_sec += until.tv_nsec / SEC;
	until.tv_nsec %= SEC;
	expect("clock_nanosleep", clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL), 0);
	expect_range("ns past the deadline", now(CLOCK_MONOTONIC) - until.tv_sec * SEC - until.tv_nsec, 0, 60 * SEC);
}

static const struct test_case cases[] = {
	{"clock", clock_goes_on},
	{"itimer-real", itimer_real},
	{"itimer-blocked", itimer_blocked},
	{"itimer-virtual", itimer_virtual},
	{"itimer-prof", itimer_prof},
	{"alarm", alarm_case},
	{"posix-signal", posix_signal},
	{"posix-thread-id", posix_thread_id},
	{"posix-thread", posix_thread},
	{"overrun", overrun},
	{"overrun-taken", overrun_taken},
};

MAIN(cases)
