// A program that marks regions in which no snapshot may be taken. Two counters in shared view of all threads differ inside of a region and are equal outside; it
// says so whenever it finds out that it was brought back in the middle of one.
//
// Cases:
//	often N   N threads that are inside most of the time; each prints what it saw at the end
//	nested    one thread, regions in regions
//	never     goes in and stays until the file "go" is there
//	exits     a thread ends inside, and so does a child process; the first thread stays outside
//	exec      executes itself from inside, then waits outside
//	fork      a child is made inside: it is inside too, until the file "go" is there
//	outside   waits for the file "go", having been inside before
#include "ckpt.h"

#include "../../include/bpfckpt.h"

enum { MAX = 8 };

static struct pair {
	volatile unsigned long a, b;
	char pad[112];
} pairs[MAX];
static int stop;

// spin passes ns in user mode.
static void spin(long long ns)
{
	for (long long end = now(CLOCK_MONOTONIC) + ns; now(CLOCK_MONOTONIC) < end;)
		;
}

// region changes a pair: inside, a is ahead of b.
static void region(struct pair *p, int depth)
{
	bpfckpt_hold();
	p->a++;
	if (depth > 0)
		region(p, depth - 1);
	spin(300000);
	p->b++;
	if (depth == 0)
		nap(200000);
	bpfckpt_release();
}

struct work {
	struct pair *pair;
	int depth;
	long long pause;
};

static void *worker(void *arg)
{
	struct work *w = arg;
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		if (w->pair->a != w->pair->b)
			differs("between regions the counters are %lu and %lu", w->pair->a, w->pair->b);
		region(w->pair, w->depth);
		nap(w->pause);
	}
	return NULL;
}

static void work(int threads, int depth, long long pause)
{
	pthread_t id[MAX];
	struct work w[MAX];
	for (int i = 0; i < threads; i++) {
		w[i] = (struct work){&pairs[i], depth, pause};
		pthread_create(&id[i], NULL, worker, &w[i]);
	}
	ready();
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	for (int i = 0; i < threads; i++) {
		pthread_join(id[i], NULL);
		expect("the counters", pairs[i].a, pairs[i].b);
		if (pairs[i].a == 0)
			differs("nothing was done");
	}
}

static void often(void) { work(1, 0, 100000); }

static void threads(void) { work(2, 0, 1000000); }

static void nested(void) { work(1, 3, 200000); }

static void never(void)
{
	bpfckpt_hold();
	bpfckpt_hold();
	bpfckpt_release();
	ready();
	bpfckpt_release();
}

static void *ends_inside(void *arg)
{
	bpfckpt_hold();
	return arg;
}

static void exits(void)
{
	for (int i = 0; i < 3; i++) {
		pthread_t id;
		pthread_create(&id, NULL, ends_inside, NULL);
		pthread_join(id, NULL);
		pid_t child = fork();
		if (child == 0) {
			bpfckpt_hold();
			_exit(0);
		}
		waitpid(child, NULL, 0);
	}
	ready();
}

static void *stays_inside(void *arg)
{
	bpfckpt_hold();
	say_ready();
	wait_go();
	execl("/proc/self/exe", "regions", "outside", NULL);
	die("execl");
	return arg;
}

// exec executes from a thread that is not the first, inside; the first is inside too.
static void exec_inside(void)
{
	pthread_t id;
	bpfckpt_hold();
	pthread_create(&id, NULL, stays_inside, NULL);
	pthread_join(id, NULL);
}

static void outside(void)
{
	printf("executed\n");
	fflush(stdout);
	while (access("done", F_OK) != 0)
		nap(2 * MS);
}

static void fork_inside(void)
{
	bpfckpt_hold();
	pid_t child = fork();
	if (child == 0) {
		while (access("child", F_OK) != 0)
			nap(2 * MS);
		bpfckpt_release();
		for (;;)
			pause();
	}
	bpfckpt_release();
	ready();
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

static const struct test_case cases[] = {
	{"often", often}, {"threads", threads}, {"nested", nested}, {"never", never},	     {"exits", exits},
	{"exec", exec_inside}, {"outside", outside}, {"fork", fork_inside},
};

MAIN(cases)
