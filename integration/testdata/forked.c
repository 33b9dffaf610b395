// Memory that processes share since fork(2): it must be there once afterwards, too, and everybody's own.
#include "ckpt.h"

#define MIB (1UL << 20)
#define SEED(i) ((uint32_t)(i) * 2654435761U + 12345)

static volatile int *stage; // how many processes have what they need

static void staged(int n)
{
	while (*stage < n)
		nap(MS);
}

static void begin(void) { stage = must(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)); }

// filled maps size bytes and fills them with what depends on the address in them, and on salt.
static uint32_t *filled(size_t size, uint32_t salt)
{
	uint32_t *m = must(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	for (size_t i = 0; i < size / 4; i++)
		m[i] = SEED(i) ^ salt;
	return m;
}

// check compares the words from first on, n of them, of which the pages since a page of own were changed.
static void check(const char *who, const uint32_t *m, size_t first, size_t n, uint32_t salt)
{
	for (size_t i = first; i < first + n; i++)
		if (m[i] != (SEED(i) ^ salt)) {
			differs("%s: word %zu is %08x, want %08x", who, i, m[i], SEED(i) ^ salt);
			return;
		}
}

static void zeros(const char *who, const uint32_t *m, size_t first, size_t n)
{
	for (size_t i = first; i < first + n; i++)
		if (m[i] != 0) {
			differs("%s: word %zu is %08x, want 0", who, i, m[i]);
			return;
		}
}

#define WORDS (PAGE / 4)

static long pss(pid_t pid)
{
	char path[64], value[64];
	snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
	return atol(proc_line(path, "Pss", value, sizeof value));
}

static int status_of(pid_t pid)
{
	int status;
	must(waitpid(pid, &status, 0));
	return status;
}

// A tree of four that shares 48 MiB.
static void workers(void)
{
	enum { kids = 3 };
	const size_t size = 48 * MIB;
	pid_t pid[kids];
	begin();
	uint32_t *m = filled(size, 0);
	for (int k = 0; k < kids; k++)
		if ((pid[k] = must(fork())) == 0) {
			m[k * WORDS] = 7;
			__atomic_add_fetch(stage, 1, __ATOMIC_SEQ_CST);
			wait_go();
			expect("its own word", m[k * WORDS], 7);
			m[k * WORDS] = SEED(k * WORDS);
			check("child", m, 0, size / 4, 0);
			staged(kids + 1); // they are counted together
			_exit(differences);
		}
	staged(kids);
	ready();
	check("parent", m, 0, size / 4, 0);
	long sum = pss(getpid());
	for (int k = 0; k < kids; k++)
		sum += pss(pid[k]);
	expect_range("KiB of memory of the tree", sum, 48 << 10, 60 << 10);
	m[0] = 1;
	*stage = kids + 1;
	for (int k = 0; k < kids; k++)
		expect("status", status_of(pid[k]), 0);
}

// Each generation changes some of what it has from the one before, and the one before changes some afterwards.
static void generations(void)
{
	const size_t size = 4 * MIB, words = size / 4;
	begin();
	uint32_t *m = filled(size, 0);
	pid_t child = must(fork());
	if (child == 0) {
		for (size_t i = 100 * WORDS; i < 200 * WORDS; i++)
			m[i] = SEED(i) ^ 1;
		pid_t grandchild = must(fork());
		if (grandchild == 0) {
			for (size_t i = 150 * WORDS; i < 160 * WORDS; i++)
				m[i] = SEED(i) ^ 2;
			pid_t last = must(fork());
			if (last != 0) { // who has made it goes on alone
				__atomic_add_fetch(stage, 1, __ATOMIC_SEQ_CST);
				wait_go();
			} else {
				memset(m + 155 * WORDS, 0, PAGE);
				__atomic_add_fetch(stage, 1, __ATOMIC_SEQ_CST);
				wait_go();
				zeros("last", m, 155 * WORDS, WORDS);
			}
			check("grandchild", m, 0, 100 * WORDS, 0);
			check("grandchild", m, 100 * WORDS, 50 * WORDS, 1);
			check("grandchild", m, 150 * WORDS, 5 * WORDS, 2);
			check("grandchild", m, 156 * WORDS, 4 * WORDS, 2);
			check("grandchild", m, 160 * WORDS, 40 * WORDS, 1);
			check("grandchild", m, 200 * WORDS, words - 200 * WORDS, 0);
			if (last != 0)
				expect("status of the last", status_of(last), 0);
			_exit(differences);
		}
		for (size_t i = 0; i < 50 * WORDS; i++)
			m[i] = SEED(i) ^ 3;
		__atomic_add_fetch(stage, 1, __ATOMIC_SEQ_CST);
		wait_go();
		check("child", m, 0, 50 * WORDS, 3);
		check("child", m, 50 * WORDS, 50 * WORDS, 0);
		check("child", m, 100 * WORDS, 100 * WORDS, 1);
		check("child", m, 200 * WORDS, words - 200 * WORDS, 0);
		expect("status of the grandchild", status_of(grandchild), 0);
		_exit(differences);
	}
	pid_t second = must(fork());
	if (second == 0) {
		__atomic_add_fetch(stage, 1, __ATOMIC_SEQ_CST);
		wait_go();
		check("second child", m, 0, words, 0);
		_exit(differences);
	}
	staged(4);
	for (size_t i = 300 * WORDS; i < words; i++) // the children still have it
		m[i] = SEED(i) ^ 4;
	ready();
	check("parent", m, 0, 300 * WORDS, 0);
	check("parent", m, 300 * WORDS, words - 300 * WORDS, 4);
	expect("status of the child", status_of(child), 0);
	expect("status of the second", status_of(second), 0);
}

// What the mappings are differs, too.
static void reshaped(void)
{
	const size_t size = 2 * MIB, words = size / 4;
	begin();
	uint32_t *kept = filled(size, 0), *cut = filled(size, 1), *grown = filled(size, 2), *moved = filled(size, 3),
		 *dropped = filled(size, 4), *wiped = filled(size, 5), *locked = filled(size, 6), *gone = filled(size, 7);
	must(madvise(wiped, size, MADV_WIPEONFORK));
	char *heap = sbrk(0);
	must(sbrk(MIB));
	memset(heap, 'h', MIB);
	pid_t child = must(fork());
	if (child == 0) {
		must(mprotect((char *)kept + 64 * PAGE, 64 * PAGE, PROT_READ));
		must(mprotect((char *)kept + 128 * PAGE, 64 * PAGE, PROT_NONE));
		must(munmap((char *)cut + size / 2, size / 2));
		must(munmap(cut, 16 * PAGE));
		void *apart = must(mmap((char *)gone, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		((uint32_t *)apart)[5] = 5;
		uint32_t *away = must(mremap(moved, size, 2 * size, MREMAP_MAYMOVE));
		must(madvise((char *)dropped + 4 * PAGE, 100 * PAGE, MADV_DONTNEED));
		must(mlock(locked, size));
		prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, grown, size, "named"); // not every kernel has it
		must(sbrk(MIB));
		memset(heap + MIB, 'H', MIB);
		heap[0] = 'x';
		*stage = 1;
		wait_go();
		check("child, kept", kept, 0, 128 * WORDS, 0);
		must(mprotect((char *)kept + 128 * PAGE, 64 * PAGE, PROT_READ));
		check("child, kept", kept, 128 * WORDS, words - 128 * WORDS, 0);
		check("child, cut", cut, 16 * WORDS, words / 2 - 16 * WORDS, 1);
		check("child, grown", grown, 0, words, 2);
		check("child, moved", away, 0, words, 3);
		zeros("child, moved", away, words, words);
		check("child, dropped", dropped, 0, 4 * WORDS, 4);
		zeros("child, dropped", dropped, 4 * WORDS, 100 * WORDS);
		check("child, dropped", dropped, 104 * WORDS, words - 104 * WORDS, 4);
		zeros("child, wiped", wiped, 0, words);
		check("child, locked", locked, 0, words, 6);
		zeros("child, gone", gone, 6, words - 6);
		expect("its own word", gone[5], 5);
		expect("heap", heap[0] == 'x' && heap[1] == 'h' && heap[MIB - 1] == 'h' && heap[MIB] == 'H' && heap[2 * MIB - 1] == 'H', 1);
		_exit(differences);
	}
	staged(1);
	must(munmap(grown, 8 * PAGE));
	ready();
	check("kept", kept, 0, words, 0);
	check("cut", cut, 0, words, 1);
	check("grown", grown, 8 * WORDS, words - 8 * WORDS, 2);
	check("moved", moved, 0, words, 3);
	check("dropped", dropped, 0, words, 4);
	check("wiped", wiped, 0, words, 5);
	check("locked", locked, 0, words, 6);
	check("gone", gone, 0, words, 7);
	expect("heap", heap[0] == 'h' && heap[MIB - 1] == 'h', 1);
	expect("status of the child", status_of(child), 0);
}

// What a process of the random tree knows of its memory: for each page of it the version that it wrote, and whether it
// is mapped.
enum { pages = 12 * MIB / PAGE, gone = 1U << 31 };
static uint32_t *area, *version, next_version;
static unsigned rnd_state;

static unsigned rnd(unsigned n)
{
	rnd_state = rnd_state * 1103515245 + 12345;
	return (rnd_state >> 8) % n;
}

static void change(void)
{
	unsigned at = rnd(pages), n = 1 + rnd(12);
	if (at + n > pages)
		n = pages - at;
	char *start = (char *)area + at * PAGE;
	switch (rnd(24)) {
	case 0: // pages go, and come back empty
		must(madvise(start, n * PAGE, MADV_DONTNEED));
		for (unsigned i = at; i < at + n; i++)
			if (version[i] != gone)
				version[i] = 0;
		break;
	case 1: // a mapping of its own in the middle
		must(mmap(start, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		memset(version + at, 0, n * sizeof *version);
		break;
	case 2:
		if (rnd(8) != 0)
			break;
		must(mmap(start, n * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		for (unsigned i = at; i < at + n; i++)
			version[i] = gone;
		break;
	default:
		for (unsigned i = at; i < at + n; i++)
			if (version[i] != gone) {
				version[i] = ++next_version;
				area[i * WORDS] = area[i * WORDS + WORDS - 1] = version[i];
			}
	}
}

static void verify_pages(void)
{
	for (unsigned i = 0; i < pages; i++)
		if (version[i] != gone && (area[i * WORDS] != version[i] || area[i * WORDS + WORDS - 1] != version[i])) {
			differs("pid %d: page %u is %u and %u, want %u", getpid(), i, area[i * WORDS], area[i * WORDS + WORDS - 1], version[i]);
			return;
		}
}

static void grow(int depth);

static void be_born(int depth, int k)
{
	rnd_state += 77 * k + getpid();
	next_version = (uint32_t)depth << 24 | (uint32_t)k << 21;
	for (int i = rnd(200); i > 0; i--)
		change();
	grow(depth);
}

// grow makes children, and their children, with changes before, between and afterwards.
static void grow(int depth)
{
	enum { most = 6, in_all = 24 };
	pid_t kids[most];
	int n = 0, first = depth == 0 ? 3 : depth < 3 ? rnd(4 - depth) : 0;
	while (n < first) {
		for (int i = rnd(200); i > 0; i--)
			change();
		if ((kids[n++] = must(fork())) == 0)
			be_born(depth + 1, n);
	}
	__atomic_add_fetch(stage, 1, __ATOMIC_SEQ_CST);
	if (depth == 0) {
		nap(50 * MS);
		say_ready();
	}
	while (access("go", F_OK) != 0) {
		for (int i = rnd(8); i > 0; i--)
			change();
		if (n < most && *stage < in_all && rnd(50) == 0 && (kids[n++] = must(fork())) == 0)
			be_born(depth + 1, n);
		nap(MS);
	}
	verify_pages();
	for (int k = 0; k < n; k++)
		expect("status", status_of(kids[k]), 0);
	if (depth > 0)
		_exit(differences != 0);
}

// A tree that goes on changing what it shares.
static void restless(void)
{
	begin();
	rnd_state = case_steps != 0 ? case_steps : getpid();
	area = must(mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	version = must(mmap(NULL, pages * sizeof *version, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	for (unsigned i = 0; i < pages; i++)
		area[i * WORDS] = area[i * WORDS + WORDS - 1] = version[i] = ++next_version;
	grow(0);
}

static const struct test_case cases[] = {
	{"workers", workers},
	{"generations", generations},
	{"reshaped", reshaped},
	{"restless", restless},
};

MAIN(cases)
