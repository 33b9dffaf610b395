// Programs that check much memory from several threads at once, in random order, the moment they go on, while they move
// it, discard it and fork: for restores whose memory comes later. Page i of a region holds words that follow from the
// region and i, or is untouched (every seventh is).
#include "ckpt.h"
#include <sys/stat.h>

enum { threads = 4 };

static size_t pages; // of all regions together

struct region {
	volatile uint64_t *mem; // moved by its thread only
	size_t pages;
	uint64_t seed;
};

static struct region regions[threads];

static uint64_t mix(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ULL;
	return x ^ x >> 33;
}

static int untouched(size_t i) { return i % 7 == 3; }

static uint64_t word(const struct region *r, size_t i, size_t w) { return untouched(i) ? 0 : mix(r->seed + i * 512 + w) | (w == 0); }

static volatile uint64_t *page(const struct region *r, size_t i) { return r->mem + i * (PAGE / 8); }

static void fill_page(struct region *r, size_t i)
{
	for (size_t w = 0; w < PAGE / 8; w += i % 3 == 0 ? 1 : 37) // some compress, some do not
		page(r, i)[w] = word(r, i, w);
}

static int check_page(const struct region *r, size_t i)
{
	for (size_t w = 0; w < PAGE / 8; w += i % 3 == 0 ? 1 : 37) {
		uint64_t have = page(r, i)[w];
		if (have != word(r, i, w)) {
			differs("region %d page %zu word %zu: have %llx, want %llx", (int)(r - regions), i, w, (unsigned long long)have,
				(unsigned long long)word(r, i, w));
			return 0;
		}
	}
	return 1;
}

static void check_zero(const struct region *r, size_t i)
{
	for (size_t w = 0; w < PAGE / 8; w++)
		if (page(r, i)[w] != 0) {
			differs("region %d page %zu word %zu was discarded: have %llx", (int)(r - regions), i, w, (unsigned long long)page(r, i)[w]);
			return;
		}
}

static void set_up(void)
{
	pages = (size_t)(case_steps > 0 ? case_steps : 64) * 256;
	for (int t = 0; t < threads; t++) {
		struct region *r = &regions[t];
		r->pages = pages / threads;
		r->seed = (uint64_t)(t + 1) << 40;
		r->mem = must(mmap(NULL, r->pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		for (size_t i = 0; i < r->pages; i++)
			if (!untouched(i))
				fill_page(r, i);
	}
}

static int go;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t going = PTHREAD_COND_INITIALIZER;

static void *wait_then(void *arg)
{
	pthread_mutex_lock(&lock);
	while (!go)
		pthread_cond_wait(&going, &lock);
	pthread_mutex_unlock(&lock);
	((void (*)(int))((void **)arg)[0])((int)(long)((void **)arg)[1]);
	return NULL;
}

// together runs f in all threads, which exist before READY, from the moment that the program goes on.
static void together(void (*f)(int))
{
	pthread_t ids[threads];
	void *args[threads][2];
	set_up();
	for (long t = 0; t < threads; t++) {
		args[t][0] = (void *)f;
		args[t][1] = (void *)t;
		must(-pthread_create(&ids[t], NULL, wait_then, args[t]));
	}
	ready();
	pthread_mutex_lock(&lock);
	go = 1;
	pthread_cond_broadcast(&going);
	pthread_mutex_unlock(&lock);
	for (int t = 0; t < threads; t++)
		pthread_join(ids[t], NULL);
}

// visit calls f for all pages of all regions in an order of the thread's own.
static void visit(int self, int (*f)(const struct region *, size_t))
{
	size_t n = regions[0].pages * threads, step = 7919 * 2 + 1, at = mix((uint64_t)self) % n;
	while (n % step == 0)
		step += 2;
	for (size_t k = 0; k < n; k++, at = (at + step) % n)
		if (!f(&regions[at / regions[0].pages], at % regions[0].pages))
			return;
}

static pthread_barrier_t checked;

static void random_thread(int self)
{
	visit(self, check_page);
	pthread_barrier_wait(&checked);
	// Each writes pages of its own and reads them again.
	struct region *r = &regions[self];
	r->seed += 1;
	for (size_t k = 0; k < r->pages; k++)
		if (!untouched(k))
			fill_page(r, k);
	for (size_t k = 0; k < r->pages; k++)
		check_page(r, k);
}

static void run_random(void)
{
	must(-pthread_barrier_init(&checked, NULL, threads));
	together(random_thread);
}

// Each thread writes to pages before it ever read them, single bytes: what is around must be there.
static void write_thread(int self)
{
	struct region *r = &regions[self];
	for (size_t k = 0; k < r->pages; k++) {
		size_t i = (k * 5003 + 17) % r->pages;
		if (untouched(i))
			page(r, i)[1] = 0;
		else
			page(r, i)[0] = word(r, i, 0);
		check_page(r, i);
	}
	for (size_t k = 0; k < r->pages; k++)
		check_page(r, k);
}

static void run_write(void) { together(write_thread); }

// A quarter of each region is discarded in pieces, in random order; the rest must stay, and the quarter must be zero
// and stay it.
static void drop_thread(int self)
{
	struct region *r = &regions[self];
	size_t blocks = r->pages / 8;
	for (size_t k = 0; k < blocks; k++) {
		size_t b = (k * 1009 + (size_t)self) % blocks;
		if (b % 4 == 0)
			must(madvise((void *)page(r, b * 8), 8 * PAGE, MADV_DONTNEED));
		size_t other = mix(k) % blocks;
		if (other % 4 != 0)
			check_page(r, other * 8 + k % 8);
		if (b % 4 == 0 && k % 3 == 0)
			check_zero(r, b * 8 + k % 8);
	}
	for (size_t i = 0; i < blocks * 8; i++) {
		if (i / 8 % 4 == 0)
			check_zero(r, i);
		else
			check_page(r, i);
	}
}

static void run_drop(void) { together(drop_thread); }

// Each thread cuts its region into pieces, moves them around with mremap(2), makes them grow and shrink, and unmaps and
// maps beside them.
static void remap_thread(int self)
{
	enum { pieces = 32 };
	struct region *r = &regions[self], piece[pieces];
	size_t each = r->pages / pieces;
	for (int i = 0; i < pieces; i++) {
		piece[i] = *r;
		piece[i].mem = page(r, (size_t)i * each);
		piece[i].pages = each;
		piece[i].seed = r->seed + (uint64_t)i * each * 512;
	}
	for (int round = 0; round < 6; round++)
		for (int i = 0; i < pieces; i++) {
			struct region *p = &piece[(i * 7 + self) % pieces];
			size_t first = (size_t)((i * 7 + self) % pieces) * each;
			size_t more = (size_t)(round % 3) * 16;
			volatile uint64_t *old = p->mem;
			// To a place of the kernel's choice, larger; what was behind it is not known to the server.
			p->mem = must(mremap((void *)p->mem, p->pages * PAGE, (p->pages + more) * PAGE, MREMAP_MAYMOVE));
			if (more > 0 && page(p, p->pages + more - 1)[3] != 0)
				differs("a page that was not there before holds something");
			if (more > 0)
				must(munmap((void *)page(p, p->pages), more * PAGE));
			// To a place of ours: on top of a mapping made for it, and leaving another where it was.
			void *place = must(mmap(NULL, p->pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
			if (round % 2 == 1) {
				old = p->mem;
				p->mem = must(mremap((void *)p->mem, p->pages * PAGE, p->pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place));
				void *fresh = mmap((void *)old, p->pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
				if (fresh != MAP_FAILED) {
					if (((volatile uint64_t *)fresh)[5] != 0)
						differs("a new mapping holds something");
					must(munmap(fresh, p->pages * PAGE));
				}
			} else {
				must(munmap(place, p->pages * PAGE));
			}
			for (size_t k = 0; k < 8; k++) {
				size_t n = mix(k + (size_t)round) % p->pages;
				for (size_t w = 0; w < PAGE / 8; w += 37)
					if (page(p, n)[w] != word(r, first + n, w)) {
						differs("after a move: region %d page %zu word %zu: have %llx", self, first + n, w,
							(unsigned long long)page(p, n)[w]);
						return;
					}
			}
		}
	for (int i = 0; i < pieces; i++)
		for (size_t n = 0; n < each; n++)
			for (size_t w = 0; w < PAGE / 8; w += 37)
				if (page(&piece[i], n)[w] != word(r, (size_t)i * each + n, w)) {
					differs("at the end: region %d page %zu word %zu: have %llx", self, (size_t)i * each + n, w,
						(unsigned long long)page(&piece[i], n)[w]);
					return;
				}
}

static void run_remap(void) { together(remap_thread); }

// Every thread forks children that check all memory, some of them with children of their own, some discard and move
// what they have; others execute a program at once.
static int child(int self, int depth)
{
	differences = 0;
	if (depth > 0) {
		pid_t pid = fork();
		if (pid == 0)
			_exit(child(self, depth - 1));
		int status;
		if (pid == -1 || waitpid(pid, &status, 0) != pid || status != 0)
			differs("a grandchild ended with %x", pid == -1 ? errno : status);
	}
	visit(self + depth, check_page);
	struct region *r = &regions[self];
	must(madvise((void *)page(r, 8), 8 * PAGE, MADV_DONTNEED));
	check_zero(r, 9);
	volatile uint64_t *to = must(mremap((void *)page(r, 64), 64 * PAGE, 64 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP));
	volatile uint64_t *was = r->mem;
	r->mem = to - 64 * (PAGE / 8);
	for (size_t i = 64; i < 128; i++)
		check_page(r, i);
	r->mem = was;
	check_zero(r, 65); // what MREMAP_DONTUNMAP leaves
	return differences != 0;
}

static void fork_thread(int self)
{
	for (int k = 0; k < 3; k++) {
		for (size_t i = 0; i < 200; i++)
			check_page(&regions[self], mix(i + (size_t)k) % regions[self].pages);
		pid_t pid = fork();
		if (pid == 0)
			_exit(child(self, k % 2));
		pid_t other = must(fork());
		if (other == 0) {
			execl("/bin/true", "true", (char *)NULL);
			_exit(1);
		}
		int status;
		if (waitpid(pid, &status, 0) != pid || status != 0)
			differs("a child ended with %x", status);
		if (waitpid(other, &status, 0) != other || status != 0)
			differs("/bin/true ended with %x", status);
	}
	visit(self, check_page);
}

static void run_fork(void) { together(fork_thread); }

// The kernel reads and writes the memory: pipes, futexes, signal frames.
static uint64_t *altstack;
static volatile sig_atomic_t caught;

static void on_signal(int sig)
{
	(void)sig;
	caught++;
}

static void kernel_thread(int self)
{
	struct region *r = &regions[self];
	int fds[2];
	static char buf[threads][PAGE * 8] __attribute__((aligned(4096)));
	must(pipe(fds));
	stack_t ss = {.ss_sp = (char *)altstack + self * 64 * PAGE, .ss_size = 64 * PAGE};
	must(sigaltstack(&ss, NULL));
	for (size_t k = 0; k + 8 <= r->pages; k += 8) {
		size_t i = (k * 127) % (r->pages - 8);
		if (must(write(fds[1], (const void *)page(r, i), 8 * PAGE)) != 8 * PAGE)
			die("a short write");
		for (size_t n = 0; n < 8 * PAGE;)
			n += (size_t)must(read(fds[0], buf[self] + n, 8 * PAGE - n));
		struct region copy = {.mem = (uint64_t *)buf[self], .seed = r->seed + i * 512};
		for (size_t n = 0; n < 8; n++)
			for (size_t w = 0; w < PAGE / 8; w += 37)
				if (page(&copy, n)[w] != word(r, i + n, w)) {
					differs("region %d page %zu came out of a pipe wrong", self, i + n);
					return;
				}
		// A word of a page nobody has touched is waited on: it has its value, so the call returns at once.
		uint32_t *futex = (uint32_t *)page(&regions[(self + 1) % threads], (k * 31) % r->pages);
		if (syscall(SYS_futex, futex, 128 /* FUTEX_WAIT_PRIVATE */, *(volatile uint32_t *)futex + 1, NULL, NULL, 0) != -1 || errno != EAGAIN)
			differs("a futex call: %d", errno);
		if (k % 64 == 0)
			pthread_kill(pthread_self(), SIGUSR1);
	}
}

static void run_kernel(void)
{
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
	must(sigaction(SIGUSR1, &sa, NULL));
	altstack = must(mmap(NULL, threads * 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	memset(altstack, 7, threads * 64 * PAGE);
	together(kernel_thread);
	expect("signals", caught > 0, 1);
}

// Threads end with robust mutexes and a clear_child_tid in pages that nobody has touched since: the kernel waits for none.
enum { holders = 48 };

struct held {
	pthread_mutex_t mutexes[2];
	pid_t tid;
};

static struct held *held_by(long i, int which) { return (struct held *)page(&regions[i % threads], (size_t)(7 * (5 * i + which) + 3)); }

static void *hold(void *arg)
{
	long i = (long)arg;
	for (int k = 0; k < 2; k++)
		must(-pthread_mutex_lock(&held_by(i, k)->mutexes[k]));
	struct held *h = held_by(i, 2);
	h->tid = (pid_t)syscall(SYS_set_tid_address, &h->tid);
	pthread_mutex_lock(&lock);
	__atomic_add_fetch(&caught, 1, __ATOMIC_SEQ_CST);
	while (!go)
		pthread_cond_wait(&going, &lock);
	pthread_mutex_unlock(&lock);
	return NULL;
}

static void run_exit(void)
{
	pthread_mutexattr_t robust;
	pthread_attr_t detached;
	pthread_t id;
	set_up();
	pthread_mutexattr_init(&robust);
	pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED); // who joins would wait for another word
	for (long i = 0; i < holders; i++) {
		for (int k = 0; k < 2; k++)
			pthread_mutex_init(&held_by(i, k)->mutexes[k], &robust);
		must(-pthread_create(&id, &detached, hold, (void *)i));
	}
	while (__atomic_load_n(&caught, __ATOMIC_SEQ_CST) < holders)
		usleep(1000);
	ready();
	pthread_mutex_lock(&lock);
	go = 1;
	pthread_cond_broadcast(&going);
	pthread_mutex_unlock(&lock);
	struct stat st;
	do // not by a look at what they hold
		must(stat("/proc/self/task", &st));
	while (st.st_nlink > 3);
	for (long i = 0; i < holders; i++) {
		for (int k = 0; k < 2; k++)
			expect("a mutex of a thread that has ended", pthread_mutex_trylock(&held_by(i, k)->mutexes[k]), EOWNERDEAD);
		expect("its thread id", held_by(i, 2)->tid, 0);
	}
}

static const struct test_case all[] = {
	{"random", run_random}, {"write", run_write}, {"drop", run_drop}, {"remap", run_remap}, {"fork", run_fork}, {"kernel", run_kernel},
	{"exit", run_exit},
};

MAIN(all)
