// random SEED [FEATURE...]: a program drawn by the seed, or with the given features in one process. It sets up its
// features, prints a line for each, then READY; after the go sign it checks them all. random list: the features there
// are.
//
// The processes of the tree tell each other nothing through kernel objects of their own, which would be saved as well:
// a file ready.N says that process N is set up and holds its lines; done.N that it has checked all, and how many
// differences it found.
#include "plan.h"

enum { LACKING = 77 }; // the exit status of a process that lacks its feature

static struct plan plan;
static int self; // the node that this process is
static pid_t root, outside_group, outside_session; // the root, and where it was started
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static struct item *node_file(int n, const char *what)
{
	static struct item it;
	snprintf(it.name, sizeof it.name, "%s.%d", what, n);
	return &it;
}

// publish makes the file what.N at once with its whole content.
static void publish(const char *what, const char *text)
{
	char temporary[5000];
	snprintf(temporary, sizeof temporary, "%s", path_of(node_file(self, what), ".new"));
	write_file(temporary, text);
	must(rename(temporary, path_of(node_file(self, what), "")));
}

static void await_file(int n, const char *what)
{
	for (long long end = now(CLOCK_MONOTONIC) + 120 * SEC; access(path_of(node_file(n, what), ""), F_OK) != 0; nap(5 * MS))
		if (now(CLOCK_MONOTONIC) > end) {
			differs("process %d has not come to %s", n, what);
			_exit(1);
		}
}

static int below(int n, int top)
{
	while (n > top)
		n = plan.nodes[n].parent;
	return n == top;
}

static void check_item(struct item *it)
{
	if (it->lacking || it->feature->check == NULL)
		return;
	pthread_mutex_lock(&one_at_a_time);
	int before = differences;
	it->feature->check(it);
	if (differences != before)
		printf("differs: that was %s of process %d\n", it->feature->name, self);
	fflush(stdout);
	pthread_mutex_unlock(&one_at_a_time);
}

// A feature alone in its process. Whether it is lacking, its end tells.
static int alone_body(struct item *it)
{
	sigset_t none; // what other features of the parent have blocked
	sigemptyset(&none);
	must(-pthread_sigmask(SIG_SETMASK, &none, NULL));
	it->feature->set(it);
	if (it->lacking)
		return LACKING;
	if (it->feature->flags & BLOCKS)
		return differences != 0; // it has told, waited and checked
	told();
	await_go();
	it->feature->check(it);
	return differences != 0;
}

static void set_alone(struct item *it)
{
	it->pid = helper(it, alone_body);
	if (it->pid > 0)
		return;
	int status = status_of(-it->pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != LACKING) {
		printf("cannot set up: %s ended with %#x\n", it->feature->name, status);
		exit(2);
	}
	it->lacking = 1;
}

static void check_alone(struct item *it)
{
	int status = status_of(it->pid);
	if (status != 0)
		differs("%s of process %d: its own process ended with %#x", it->feature->name, self, status);
}

struct thread_arg {
	int number;
	volatile int up;
};

static void each_of_thread(int thread, void (*f)(struct item *))
{
	struct node *node = &plan.nodes[self];
	for (int i = 0; i < node->n; i++)
		if (node->items[i].feature->flags & OF_A_THREAD && node->thread_of[i] == thread)
			f(&node->items[i]);
}

static void set_item(struct item *it) { it->feature->set(it); }

static void *thread_main(void *arg)
{
	struct thread_arg *a = arg;
	int number = a->number;
	each_of_thread(number, set_item);
	a->up = 1;
	await_go();
	each_of_thread(number, check_item);
	return (void *)(long)number;
}

static void start_threads(pthread_t *threads)
{
	for (int i = 0; i < plan.nodes[self].threads; i++) {
		struct thread_arg a = {i + 1, 0};
		must(-pthread_create(&threads[i], NULL, thread_main, &a));
		while (!a.up)
			nap(MS);
	}
}

static void run_node(int n);

// From here on the process is node n.
static void become(int n)
{
	struct node *node = &plan.nodes[n];
	self = n;
	if (node->shape == OWN_GROUP)
		must(setpgid(0, 0));
	if (node->shape == OWN_SESSION)
		must(setsid());
	if (node->subreaper)
		must(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
	run_node(n);
	if (n == 0 && differences == 0)
		printf("OK\n");
	fflush(stdout);
	_exit(differences != 0); // no other stream that was inherited is flushed
}

static void fork_node(int n)
{
	struct node *node = &plan.nodes[n];
	pid_t pid = must(fork());
	if (pid != 0) {
		node->pid = pid;
		if (node->shape >= ADOPTED)
			expect("status of the process between", status_of(pid), 0);
		return;
	}
	if (node->shape < ADOPTED)
		become(n);
	if (node->shape == ORPHAN_GROUP)
		must(setpgid(0, 0));
	if (node->shape == ORPHAN_SESSION)
		must(setsid());
	pid_t between = getpid();
	if (must(fork()) != 0)
		_exit(0);
	while (getppid() == between)
		nap(MS);
	become(n);
}

static void fork_children(void)
{
	fflush(stdout);
	for (int i = self + 1; i < plan.n; i++)
		if (plan.nodes[i].parent == self)
			fork_node(i);
}

static void set_up(pthread_t *threads)
{
	struct node *node = &plan.nodes[self];
	for (int late = 0; late <= LAST; late += LAST) {
		for (int i = 0; i <= node->n; i++) {
			if (!late && i == node->fork_at)
				fork_children();
			struct item *it = &node->items[i];
			if (i == node->n || it->feature->flags & OF_A_THREAD || (it->feature->flags & LAST) != late)
				continue;
			it->feature->flags & ALONE ? set_alone(it) : set_item(it);
		}
		if (!late) {
			start_threads(threads);
			each_of_thread(0, set_item);
		}
	}
}

static void tell_ready(void)
{
	static char text[MAX_ITEMS * 128];
	struct node *node = &plan.nodes[self];
	char *end = text;
	end += sprintf(end, "process %d of %d with %d threads\n", self, node->parent, node->threads + 1);
	if (self > 0 || node->shape != CHILD)
		end += sprintf(end, "feature %s: -\n", shape_names[node->shape]);
	for (int i = 0; i < node->n; i++) {
		const struct feature *f = node->items[i].feature;
		end += sprintf(end, "%s %s: %s\n", node->items[i].lacking ? "lacking" : "feature", f->name, f->refused != NULL ? f->refused : "-");
	}
	node->ppid = getppid();
	node->pgid = getpgrp();
	node->sid = getsid(0);
	publish("ready", text);
}

// The root prints the lines of all, in the order of the plan.
static void say_all_ready(void)
{
	char line[256];
	for (int i = 0; i < plan.n; i++) {
		await_file(i, "ready");
		FILE *f = fopen(path_of(node_file(i, "ready"), ""), "re");
		while (f != NULL && fgets(line, sizeof line, f) != NULL)
			fputs(line, stdout);
		if (f != NULL)
			fclose(f);
	}
	say_ready();
}

static void await_descendants(void)
{
	char b[32];
	for (int i = self + 1; i < plan.n; i++) {
		if (!below(i, self))
			continue;
		await_file(i, "done");
		if (strcmp(read_file(path_of(node_file(i, "done"), ""), b, sizeof b), "0") != 0)
			differs("process %d found %s differences", i, b);
	}
	for (int status; waitpid(-1, &status, 0) > 0;)
		expect("status of a child", status, 0);
}

static void run_node(int n)
{
	struct node *node = &plan.nodes[n];
	pthread_t threads[MAX_THREADS];
	char count[16];
	set_up(threads);
	tell_ready();
	if (n == 0)
		say_all_ready();
	await_go();
	if (n > 0) // the root belongs to whoever restores it
		expect("parent", getppid(), node->ppid);
	// A group and a session from outside may be others afterwards, but the same for all.
	expect("group", getpgrp(), node->pgid == outside_group ? getpgid(root) : node->pgid);
	expect("session", getsid(0), node->sid == outside_session ? getsid(root) : node->sid);
	each_of_thread(0, check_item);
	for (int i = 0; i < node->threads; i++) {
		void *result = NULL;
		pthread_join(threads[i], &result);
		expect("what the thread returns", (long)result, i + 1);
	}
	for (int i = 0; i < node->n; i++) {
		struct item *it = &node->items[i];
		if (it->feature->flags & ALONE && !it->lacking)
			check_alone(it);
		else if (!(it->feature->flags & (OF_A_THREAD | ALONE)))
			check_item(it);
	}
	await_descendants();
	snprintf(count, sizeof count, "%d", differences);
	publish("done", count);
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "list") == 0) {
		list_features();
		return 0;
	}
	if (argc == 4 && strcmp(argv[1], "executed") == 0)
		return executed(argv);
	if (argc < 2) {
		fprintf(stderr, "usage: random SEED [FEATURE...] | random list\n");
		return 64;
	}
	uint64_t seed = strtoull(argv[1], NULL, 10);
	if (argc > 2)
		chosen_plan(&plan, seed, argv + 2, argc - 2);
	else
		draw_plan(&plan, seed);
	root = getpid();
	outside_group = getpgrp();
	outside_session = getsid(0);
	become(0);
}
