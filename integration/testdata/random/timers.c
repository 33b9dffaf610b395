// Timers of every clock, in every state: interval timers, POSIX timers, timerfds.
#include "random.h"
#include <sys/time.h>
#include <sys/timerfd.h>

// What a timer is set to.
enum state {
	IDLE,     // never started
	LONG,     // long before it runs out
	PERIODIC, // the same, again and again
	SHORT,    // it runs out while the program is away, or soon after
	RAN_OUT,  // and nobody has looked
	FAST,     // it has run out many times, and nobody has looked
	ABSOLUTE, // a point in time, far away
	ABSOLUTE_PAST,
	CANCEL, // a point in time, and to be told when the clock is set
	STATES,
};

static const long long first[] = {0, 600 * SEC, 500 * SEC, 700 * MS, MS, MS, 400 * SEC, 0, 300 * SEC},
		       interval[] = {0, 0, 70 * SEC, 0, 0, 20 * MS, 0, 0, 0};

static struct timespec spec(long long ns) { return (struct timespec){ns / SEC, ns % SEC}; }
static long long ns_of(struct timespec ts) { return ts.tv_sec * SEC + ts.tv_nsec; }

// read_on is the clock that tells how long a timer of another has been running; a machine without a real-time clock
// cannot read those that wake it.
static clockid_t read_on(clockid_t clock)
{
	switch (clock) {
	case CLOCK_PROCESS_CPUTIME_ID:
	case CLOCK_THREAD_CPUTIME_ID: return CLOCK_MONOTONIC;
	case CLOCK_REALTIME_ALARM: return CLOCK_REALTIME;
	case CLOCK_BOOTTIME_ALARM: return CLOCK_BOOTTIME;
	}
	return clock;
}

static struct itimerspec setting(struct item *it, clockid_t clock, enum state state)
{
	long long at = first[state];
	if (state == ABSOLUTE || state == CANCEL)
		at += now(read_on(clock));
	if (state == ABSOLUTE_PAST)
		at = now(read_on(clock)) - SEC;
	it->v[0] = now(read_on(clock));
	return (struct itimerspec){spec(interval[state]), spec(at)};
}

// What a timer that is long from running out has left: no more than it had, and less by no more than the time gone by.
static void check_left(struct item *it, clockid_t clock, enum state state, struct itimerspec have)
{
	long long gone = now(read_on(clock)) - it->v[0];
	expect("interval", ns_of(have.it_interval), interval[state]);
	if (state == IDLE)
		expect("an idle timer has left", ns_of(have.it_value), 0);
	// a date stays, though the program was away; but the kernel does not tell that a POSIX timer has one
	if (state == ABSOLUTE || state == CANCEL)
		expect_range("ms left until the date", ns_of(have.it_value) / MS, (first[state] - gone) / MS - 50,
			     (it->fd[0] < 0 ? first[state] : first[state] - gone) / MS + 50);
	if (state == LONG || state == PERIODIC)
		// CPU time is counted in ticks, and rounded up
		expect_range("ms left", ns_of(have.it_value) / MS, (first[state] - gone) / MS - 50, first[state] / MS + 40);
}

// timerfd: arg is the clock and a state.
#define ARG(clock, state) ((clock) * 16 + (state))
#define CLOCK_OF(it) ((clockid_t)((it)->feature->arg / 16))
#define STATE_OF(it) ((enum state)((it)->feature->arg % 16))

static void set_timerfd(struct item *it)
{
	enum state state = STATE_OF(it);
	it->fd[0] = need(it, timerfd_create(CLOCK_OF(it), it->random % 2 ? TFD_NONBLOCK | TFD_CLOEXEC : 0));
	struct itimerspec its = setting(it, CLOCK_OF(it), state);
	int flags = (state >= ABSOLUTE ? TFD_TIMER_ABSTIME : 0) | (state == CANCEL ? TFD_TIMER_CANCEL_ON_SET : 0);
	if (state != IDLE)
		must(timerfd_settime(it->fd[0], flags, &its, NULL));
	if (state == FAST || state == RAN_OUT)
		nap(60 * MS);
	it->v[1] = fcntl(it->fd[0], F_GETFL);
}

// await_ticks waits until the timer has run out.
static uint64_t await_ticks(int fd)
{
	uint64_t ticks = 0;
	for (int i = 0; i < 4000 && next_ticks(fd, &ticks) != 0; i++)
		nap(5 * MS);
	return ticks;
}

static void check_timerfd(struct item *it)
{
	struct itimerspec have;
	uint64_t ticks = 0;
	expect("flags", fcntl(it->fd[0], F_GETFL), it->v[1]);
	must(timerfd_gettime(it->fd[0], &have));
	check_left(it, CLOCK_OF(it), STATE_OF(it), have);
	switch (STATE_OF(it)) {
	case SHORT:
	case RAN_OUT:
	case ABSOLUTE_PAST:
		expect("times it ran out", (long long)await_ticks(it->fd[0]), 1);
		expect("once more", next_ticks(it->fd[0], &ticks), -1);
		break;
	case FAST:
		expect_range("times it ran out", (long long)await_ticks(it->fd[0]), 2, 100000);
		expect_range("and goes on", (long long)await_ticks(it->fd[0]), 1, 1000);
		break;
	default:
		expect("read", next_ticks(it->fd[0], &ticks), -1);
	}
}

// POSIX timers. Those of a thread's CPU time belong to the thread that makes them.
static void make_timer(struct item *it, int notify)
{
	struct sigevent ev = {.sigev_notify = notify, .sigev_value.sival_int = (int)(it->random & 0xffffff)};
	int id = -1;
	ev.sigev_signo = signal_number();
	if (ev.sigev_signo < 0)
		lack(it);
	if (notify == SIGEV_THREAD_ID)
		((int *)&ev)[4] = (int)syscall(SYS_gettid); // sigev_notify_thread_id
	block(ev.sigev_signo);
	need(it, syscall(SYS_timer_create, CLOCK_OF(it), &ev, &id));
	it->v[1] = id;
	it->v[2] = ev.sigev_signo;
	struct itimerspec its = setting(it, CLOCK_OF(it), STATE_OF(it));
	if (STATE_OF(it) != IDLE)
		must(syscall(SYS_timer_settime, id, STATE_OF(it) >= ABSOLUTE ? TIMER_ABSTIME : 0, &its, NULL));
	if (STATE_OF(it) == FAST || STATE_OF(it) == RAN_OUT)
		nap(60 * MS);
}

static void set_timer(struct item *it) { make_timer(it, SIGEV_SIGNAL); }
static void set_timer_thread(struct item *it) { make_timer(it, SIGEV_THREAD_ID); }
static void set_timer_none(struct item *it) { make_timer(it, SIGEV_NONE); }

static void check_signal_of(struct item *it, siginfo_t *info)
{
	int sig = -1;
	for (int i = 0; i < 4000 && (sig = take((int)it->v[2], info)) < 0; i++)
		nap(5 * MS);
	expect("signal", sig, it->v[2]);
	expect("si_code", info->si_code, SI_TIMER);
	expect("si_value", info->si_value.sival_int, (int)(it->random & 0xffffff));
	expect("si_timerid", info->si_timerid, it->v[1]);
}

static void check_timer(struct item *it)
{
	struct itimerspec have;
	siginfo_t info;
	expect("timer_gettime", syscall(SYS_timer_gettime, (int)it->v[1], &have), 0);
	check_left(it, CLOCK_OF(it), STATE_OF(it), have);
	switch (STATE_OF(it)) {
	case SHORT:
	case RAN_OUT:
	case ABSOLUTE_PAST:
		check_signal_of(it, &info);
		expect("overruns", info.si_overrun, 0);
		nap(5 * MS);
		expect("once more", take((int)it->v[2], &info), -1);
		break;
	case FAST:
		check_signal_of(it, &info);
		expect_range("overruns", info.si_overrun, 1, 100000);
		check_signal_of(it, &info); // it goes on
		break;
	default:
		expect("a signal", take((int)it->v[2], &info), -1);
	}
	expect("timer_delete", syscall(SYS_timer_delete, (int)it->v[1]), 0);
}

static void check_timer_none(struct item *it)
{
	struct itimerspec have;
	expect("timer_gettime", syscall(SYS_timer_gettime, (int)it->v[1], &have), 0);
	check_left(it, CLOCK_OF(it), STATE_OF(it), have);
}

// A timer whose id is not the next one: a hole in the ids.
static void set_timer_hole(struct item *it)
{
	struct sigevent ev = {.sigev_notify = SIGEV_NONE};
	int ids[8];
	for (int i = 0; i < 8; i++)
		must(syscall(SYS_timer_create, CLOCK_MONOTONIC, &ev, &ids[i]));
	for (int i = 0; i < 7; i++)
		must(syscall(SYS_timer_delete, ids[i]));
	make_timer(it, SIGEV_SIGNAL);
	must(syscall(SYS_timer_delete, ids[7]));
}

static void set_itimer(struct item *it)
{
	enum state state = STATE_OF(it);
	int which = (int)CLOCK_OF(it);
	struct itimerval v = {{interval[state] / SEC, interval[state] % SEC / 1000}, {first[state] / SEC, first[state] % SEC / 1000}};
	it->v[2] = which == ITIMER_REAL ? SIGALRM : which == ITIMER_VIRTUAL ? SIGVTALRM : SIGPROF;
	it->v[0] = now(CLOCK_MONOTONIC);
	block((int)it->v[2]);
	must(setitimer(which, &v, NULL));
	if (state == RAN_OUT || state == FAST)
		nap(60 * MS);
}

static void check_itimer(struct item *it)
{
	struct itimerval v;
	siginfo_t info;
	must(getitimer((int)CLOCK_OF(it), &v));
	struct itimerspec have = {{v.it_interval.tv_sec, v.it_interval.tv_usec * 1000}, {v.it_value.tv_sec, v.it_value.tv_usec * 1000}};
	check_left(it, CLOCK_MONOTONIC, STATE_OF(it), have);
	int sig = -1, runs = STATE_OF(it) == SHORT || STATE_OF(it) == RAN_OUT || STATE_OF(it) == FAST;
	for (int i = 0; i < 4000 && (sig = take((int)it->v[2], &info)) < 0 && runs; i++)
		nap(5 * MS);
	expect("signal", sig, runs ? it->v[2] : -1);
	setitimer((int)CLOCK_OF(it), &(struct itimerval){0}, NULL);
}

#define EACH_STATE(name, clock, set, check, flags)                                                                                   \
	{name " idle", set, check, ARG(clock, IDLE), flags}, {name " started", set, check, ARG(clock, LONG), flags},                 \
		{name " periodic", set, check, ARG(clock, PERIODIC), flags}

#define EACH_END(name, clock, set, check, flags)                                                                                     \
	{name " soon", set, check, ARG(clock, SHORT), flags}, {name " ran out", set, check, ARG(clock, RAN_OUT), flags},             \
		{name " ran out often", set, check, ARG(clock, FAST), flags}, {name " at a date", set, check, ARG(clock, ABSOLUTE), flags},  \
		{name " at a date past", set, check, ARG(clock, ABSOLUTE_PAST), flags}

#define TIMERFD(name, clock) EACH_STATE(name, clock, set_timerfd, check_timerfd, 0), EACH_END(name, clock, set_timerfd, check_timerfd, 0)
#define TIMER(name, clock) EACH_STATE(name, clock, set_timer, check_timer, 0), EACH_END(name, clock, set_timer, check_timer, 0)
#define ITIMER(name, which, state, key) {name, set_itimer, check_itimer, ARG(which, state), 0, key}

static const struct feature features[] = {
	TIMERFD("timerfd realtime", CLOCK_REALTIME),
	{"timerfd realtime cancelled by setting", set_timerfd, check_timerfd, ARG(CLOCK_REALTIME, CANCEL)},
	TIMERFD("timerfd monotonic", CLOCK_MONOTONIC),
	TIMERFD("timerfd boottime", CLOCK_BOOTTIME),
	TIMERFD("timerfd realtime alarm", CLOCK_REALTIME_ALARM),
	TIMERFD("timerfd boottime alarm", CLOCK_BOOTTIME_ALARM),
	TIMER("timer realtime", CLOCK_REALTIME),
	TIMER("timer monotonic", CLOCK_MONOTONIC),
	TIMER("timer boottime", CLOCK_BOOTTIME),
	TIMER("timer TAI", CLOCK_TAI),
	TIMER("timer realtime alarm", CLOCK_REALTIME_ALARM),
	TIMER("timer boottime alarm", CLOCK_BOOTTIME_ALARM),
	EACH_STATE("timer process CPU", CLOCK_PROCESS_CPUTIME_ID, set_timer, check_timer, 0),
	EACH_STATE("timer thread CPU", CLOCK_THREAD_CPUTIME_ID, set_timer, check_timer, OF_A_THREAD),
	{"timer for a thread", set_timer_thread, check_timer, ARG(CLOCK_MONOTONIC, LONG), OF_A_THREAD},
	{"timer for a thread ran out", set_timer_thread, check_timer, ARG(CLOCK_MONOTONIC, RAN_OUT), OF_A_THREAD},
	{"timer for a thread ran out often", set_timer_thread, check_timer, ARG(CLOCK_MONOTONIC, FAST), OF_A_THREAD},
	{"timer without signal", set_timer_none, check_timer_none, ARG(CLOCK_MONOTONIC, PERIODIC)},
	{"timer behind a hole", set_timer_hole, check_timer, ARG(CLOCK_MONOTONIC, LONG)},
	ITIMER("itimer real idle", ITIMER_REAL, IDLE, "SIGALRM"),
	ITIMER("itimer real", ITIMER_REAL, LONG, "SIGALRM"),
	ITIMER("itimer real periodic", ITIMER_REAL, PERIODIC, "SIGALRM"),
	ITIMER("itimer real soon", ITIMER_REAL, SHORT, "SIGALRM"),
	ITIMER("itimer real ran out", ITIMER_REAL, RAN_OUT, "SIGALRM"),
	ITIMER("itimer real ran out often", ITIMER_REAL, FAST, "SIGALRM"),
	ITIMER("itimer virtual", ITIMER_VIRTUAL, LONG, "SIGVTALRM"),
	ITIMER("itimer virtual periodic", ITIMER_VIRTUAL, PERIODIC, "SIGVTALRM"),
	ITIMER("itimer profile", ITIMER_PROF, LONG, "SIGPROF"),
	ITIMER("itimer profile periodic", ITIMER_PROF, PERIODIC, "SIGPROF"),
};

TABLE(timers);
