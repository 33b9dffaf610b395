// A program that marks regions in which no snapshot may be taken. The two counters of a pair differ inside of a region
// and are equal outside. Every case begins at the file "go" and ends at the file "done"; it says where the pairs are,
// and in between what it is at.
//
// Built with -DLIBRARY it is a shared library with a region of its own.
#include "ckpt.h"

#include "../../include/bpfckpt.h"

#ifdef LIBRARY

void enter(void) { bpfckpt_hold(); }
void leave(void) { bpfckpt_release(); }

#else

#ifndef NO_DLOPEN
#include <dlfcn.h>
#endif

enum { MAX = 8 };

static struct pair {
	volatile unsigned long a, b;
	char pad[112];
} __attribute__((aligned(128))) pairs[MAX] __attribute__((aligned(4096)));
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

static void say(const char *what)
{
	printf("%s\n", what);
	fflush(stdout);
}

static void await(const char *file)
{
	while (access(file, F_OK) != 0)
		nap(2 * MS);
}

static void begin(void)
{
	printf("pairs %lx\n", (unsigned long)pairs);
	ready();
}

static void work(int threads, int depth, long long pause)
{
	pthread_t id[MAX];
	struct work w[MAX];
	begin();
	for (int i = 0; i < threads; i++) {
		w[i] = (struct work){&pairs[i], depth, pause};
		pthread_create(&id[i], NULL, worker, &w[i]);
	}
	say("at it");
	await("done");
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

// never stays inside.
static void never(void)
{
	begin();
	bpfckpt_hold();
	bpfckpt_hold();
	bpfckpt_hold();
	bpfckpt_release();
	say("inside");
	await("done");
	bpfckpt_release();
	bpfckpt_release();
}

static void *ends_inside(void *arg)
{
	bpfckpt_hold();
	return arg;
}

// exits has threads and children that end inside. It stays outside itself.
static void exits(void)
{
	begin();
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
	bpfckpt_release(); // one too many does nothing
	say("outside");
	await("done");
}

static void *executes(void *arg)
{
	bpfckpt_hold();
	execl("/proc/self/exe", "regions", "outside", NULL);
	die("execl");
	return arg;
}

// exec_inside executes from a thread that is not the first, inside; the first is inside too.
static void exec_inside(void)
{
	pthread_t id;
	begin();
	bpfckpt_hold();
	pthread_create(&id, NULL, executes, NULL);
	pthread_join(id, NULL);
}

static void outside(void)
{
	say("executed");
	await("done");
}

// fork_inside makes a child inside, which stays there when the parent has left.
static void fork_inside(void)
{
	begin();
	bpfckpt_hold();
	pid_t child = fork();
	if (child == 0) {
		await("child");
		bpfckpt_release();
		say("child outside");
		for (;;)
			pause();
	}
	bpfckpt_release();
	say("parent outside");
	await("done");
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

// library opens one that has regions, and goes into one of them.
static void library(void)
{
#ifndef NO_DLOPEN
	char path[4096];
	begin();
	ssize_t n = must(readlink("/proc/self/exe", path, sizeof path - 32));
	strcpy(path + n, "-lib.so");
	void *lib = dlopen(path, RTLD_NOW);
	if (lib == NULL)
		die("%s", dlerror());
	void (*enter)(void) = (void (*)(void))dlsym(lib, "enter"), (*leave)(void) = (void (*)(void))dlsym(lib, "leave");
	say("loaded");
	await("enter");
	enter();
	say("inside");
	await("leave");
	leave();
	say("outside");
	await("done");
#endif
}

static const struct test_case cases[] = {
	{"often", often}, {"threads", threads}, {"nested", nested},	  {"never", never},	{"exits", exits},
	{"exec", exec_inside}, {"outside", outside}, {"fork", fork_inside}, {"library", library},
};

MAIN(cases)

#endif
