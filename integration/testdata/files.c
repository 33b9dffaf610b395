// Files that are mapped or executed, and memory that has a file behind it.
#include "ckpt.h"
#include <setjmp.h>
#include <sys/resource.h>

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 8 // Linux 6.11, asm-generic/mman-common.h
#endif

static void *map(size_t len, int prot, int flags, int fd, off_t off) { return must(mmap(NULL, len, prot, flags, fd, off)); }

static char __attribute__((unused)) *anon(size_t len) { return map(len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

static sigjmp_buf hit;

static void caught(int sig) { siglongjmp(hit, sig); }

// signal_of reads a byte and tells the signal that this brings, 0 for none.
static int __attribute__((unused)) signal_of(const volatile char *p)
{
	signal(SIGBUS, caught);
	signal(SIGSEGV, caught);
	int sig = sigsetjmp(hit, 1);
	if (sig == 0)
		(void)*p;
	return sig;
}

// Memory after the end of an object, in its last page, of which no read(2) tells.
static void beyond_end(void)
{
	int fd = must(memfd_create("short", 0));
	must(ftruncate(fd, PAGE + 100));
	char *shared = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	shared[7] = 'a';
	shared[PAGE + 99] = 'z';
	shared[PAGE + 2000] = 't';
	int gone = must(open("gone", O_RDWR | O_CREAT | O_TRUNC, 0600));
	must(ftruncate(gone, 100));
	char *only = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, gone, 0);
	only[50] = 'm';
	must(unlink("gone"));
	ready();
	expect("inside", shared[7], 'a');
	expect("last byte", shared[PAGE + 99], 'z');
	expect("after the end", shared[PAGE + 2000], 't');
	expect("inside the unlinked file", only[50], 'm');
	struct stat st;
	must(fstat(fd, &st));
	expect("size", st.st_size, PAGE + 100);
}

// More files than one message to a process can carry, and than it once had room for.
static void many_files(void)
{
	enum { n = 700 };
	char *at[n], name[32], text[32];
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof name, "mapped %d", i);
		int fd = must(open(name, O_RDWR | O_CREAT | O_TRUNC, 0600));
		must(dprintf(fd, "content %d", i));
		must(ftruncate(fd, 2 * PAGE));
		at[i] = map(2 * PAGE, PROT_READ | PROT_WRITE, i % 2 ? MAP_SHARED : MAP_PRIVATE, fd, 0);
		at[i][PAGE] = (char)i;
		close(fd);
	}
	ready();
	for (int i = 0; i < n; i++) {
		snprintf(text, sizeof text, "content %d", i);
		expect_str("content", at[i], text);
		expect("written", at[i][PAGE], (char)i);
		at[i][PAGE + 1] = 'w';
		snprintf(name, sizeof name, "mapped %d", i);
		char c = 0;
		int fd = open(name, O_RDONLY);
		pread(fd, &c, 1, PAGE + 1);
		close(fd);
		expect("seen in the file", c, i % 2 ? 'w' : 0);
	}
}

// Descriptors in every number up to the limit but one, and the limit lowered afterwards.
static void full_table(void)
{
	struct rlimit lim;
	must(getrlimit(RLIMIT_NOFILE, &lim));
	const int top = lim.rlim_max < 3000 ? (int)lim.rlim_max : 3000;
	must(setrlimit(RLIMIT_NOFILE, &(struct rlimit){top, top}));
	int fd = must(open("table", O_RDWR | O_CREAT | O_TRUNC, 0600)), n = fd + 1;
	must(write(fd, "abc", 3));
	while ((fd = dup(n - 1)) >= 0) // the lowest free one
		n = fd + 1;
	expect("highest", n, top);
	must(close(top / 2));
	must(setrlimit(RLIMIT_NOFILE, &(struct rlimit){30, 40}));
	ready();
	for (int i = 3; i < top; i++) {
		char c = 0;
		if (i == top / 2)
			expect("closed", pread(i, &c, 1, 0), -1);
		else if (pread(i, &c, 1, i % 3) != 1 || c != "abc"[i % 3])
			differs("descriptor %d", i);
	}
	must(getrlimit(RLIMIT_NOFILE, &lim));
	expect("soft limit", (long)lim.rlim_cur, 30);
	expect("hard limit", (long)lim.rlim_max, 40);
}

static void dev_zero(void)
{
	int z = must(open("/dev/zero", O_RDWR));
	char *p = map(3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, z, 0), *s = map(3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, z, 0);
	close(z);
	p[1] = 'p';
	s[PAGE] = 's';
	ready();
	expect("private", p[1], 'p');
	expect("private, untouched", p[2 * PAGE], 0);
	expect("shared", s[PAGE], 's');
	expect("shared, untouched", s[2 * PAGE], 0);
}

static void droppable(void)
{
	char b[256], before[256], *p = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) {
		ready(); // Linux before 6.11
		return;
	}
	p[0] = 'r';
	smaps(p, "VmFlags", before, sizeof before);
	ready();
	expect_str("flags", smaps(p, "VmFlags", b, sizeof b), before);
	if (p[0] != 0 && p[0] != 'r')
		differs("content");
	p[0] = 'n';
	pid_t child = must(fork());
	if (child == 0)
		_exit(p[0] != 0);
	int status = 0;
	must(waitpid(child, &status, 0));
	expect("what a child sees of it", status, 0);
}

// A program whose executable is removed, or replaced as an upgrade does it: argv[2] of the second life tells which.
static void executable(const char *how)
{
	char self[512] = "", copy[1200];
	must(readlink("/proc/self/exe", self, sizeof self - 1));
	snprintf(copy, sizeof copy, "cp '%s' program && cp '%s' program.new && echo >>program.new", self, self);
	if (system(copy) != 0)
		die("copy the program");
	execl("./program", "program", how, NULL);
	die("execute the copy");
}

static void check_executable(int nlink)
{
	// the kernel wants it to be executable when it becomes the exe link of the restored process
	must(chmod("program", 0644));
	if (nlink > 0)
		must(rename("program.new", "program"));
	else
		must(unlink("program"));
	ready();
	struct stat st;
	expect("stat of the executable", stat("/proc/self/exe", &st), 0);
	expect("mode", st.st_mode & 07777, 0644);
	expect("links", (long)st.st_nlink, 0);
	char magic[4] = "";
	int fd = open("/proc/self/exe", O_RDONLY);
	expect("read", read(fd, magic, 4), 4);
	expect_mem("ELF header", magic, "\177ELF", 4);
}

// A program that runs from a memfd, as some start themselves: executable and mapping are one, and it has the name it
// had.
static void executable_memfd(void)
{
	char *argv[] = {"program", "executable-memfd-2", NULL}, buf[1 << 16];
	int to = must(memfd_create("a program", MFD_CLOEXEC)), from = must(open("/proc/self/exe", O_RDONLY));
	for (ssize_t n; (n = must(read(from, buf, sizeof buf))) > 0;)
		must(write(to, buf, n));
	close(from);
	fexecve(to, argv, environ);
	die("execute the memfd");
}

static void executable_memfd_2(void)
{
	ready();
	char link[256] = "", name[64];
	must(readlink("/proc/self/exe", link, sizeof link - 1));
	expect_str("exe", link, "/memfd:a program (deleted)");
	struct stat exe, mapped;
	must(stat("/proc/self/exe", &exe));
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned long start, end;
	if (f == NULL || fscanf(f, "%lx-%lx", &start, &end) != 2)
		die("read maps");
	fclose(f);
	snprintf(name, sizeof name, "/proc/self/map_files/%lx-%lx", start, end);
	must(stat(name, &mapped));
	expect("inode of what is mapped", (long)mapped.st_ino, (long)exe.st_ino);
}

static void executable_removed(void) { executable("executable-removed-2"); }
static void executable_replaced(void) { executable("executable-replaced-2"); }
static void executable_removed_2(void) { check_executable(0); }
static void executable_replaced_2(void) { check_executable(1); }

// memfds that are sealed while they can be written to, and those whose name, owner and mode are unusual.
static void sealed(void)
{
	int fw = must(memfd_create("future", MFD_ALLOW_SEALING)), all = must(memfd_create("all (deleted)", MFD_ALLOW_SEALING)), noexec;
	must(ftruncate(fw, 2 * PAGE));
	char *p = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fw, 0), *none = map(PAGE, PROT_NONE, MAP_SHARED, fw, 0);
	p[0] = 'w';
	must(fcntl(fw, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_GROW));
	must(write(all, "fixed", 5));
	must(fcntl(all, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL));
	char *q = map(PAGE, PROT_READ, MAP_SHARED, all, 0);
	close(all);
	noexec = memfd_create("noexec", MFD_ALLOW_SEALING | 8 /* MFD_NOEXEC_SEAL, Linux 6.3 */);
	if (noexec < 0)
		noexec = must(memfd_create("plain", MFD_ALLOW_SEALING));
	must(fchown(noexec, 4711, 4712));
	must(fchmod(noexec, 0440));
	int seals = must(fcntl(noexec, F_GET_SEALS));
	ready();
	expect("content", p[0], 'w');
	p[1] = 'v';
	expect("a new writable mapping", (long)mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fw, 0), -1);
	expect("an old one becomes writable", mprotect(none, PAGE, PROT_READ | PROT_WRITE), 0);
	expect("still shared", none[1], 'v');
	expect("write", write(fw, "x", 1), -1);
	expect("seals", fcntl(fw, F_GET_SEALS), F_SEAL_FUTURE_WRITE | F_SEAL_GROW);
	expect_mem("sealed content", q, "fixed", 5);
	expect("a sealed mapping becomes writable", mprotect(q, PAGE, PROT_READ | PROT_WRITE), -1);
	expect("seals against execution", fcntl(noexec, F_GET_SEALS), seals);
	struct stat st;
	must(fstat(noexec, &st));
	expect("mode", st.st_mode & 07777, 0440);
	expect("owner", st.st_uid, 4711);
	expect("group", st.st_gid, 4712);
	char b[512];
	if (strstr(smaps(q, "", b, sizeof b), "/memfd:all (deleted) (deleted)") == NULL)
		differs("name: %s", b);
}

// A file that has lost the name it was opened under, and has another: it stays one file, for mappings, descriptors and
// those who open it by name.
static void hard_link(void)
{
	int fd = must(open("first", O_RDWR | O_CREAT | O_TRUNC, 0600));
	must(ftruncate(fd, 2 * PAGE));
	char *p = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), *r = map(PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
	must(link("first", "second"));
	must(unlink("first"));
	int only = must(open("mapped first", O_RDWR | O_CREAT | O_TRUNC, 0600));
	must(ftruncate(only, PAGE));
	char *m = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, only, 0);
	must(close(only));
	must(link("mapped first", "mapped second"));
	must(unlink("mapped first"));
	ready();
	char c = 0;
	p[1] = 'p';
	expect("pread", pread(fd, &c, 1, 1), 1);
	expect("descriptor and mapping are one", c, 'p');
	expect("the private mapping too", r[1], 'p');
	int by_name = open("second", O_RDONLY);
	c = 0;
	expect("pread by name", pread(by_name, &c, 1, 1), 1);
	expect("name and mapping are one", c, 'p');
	m[2] = 'm';
	by_name = open("mapped second", O_RDONLY);
	c = 0;
	expect("pread of the one that is not open", pread(by_name, &c, 1, 2), 1);
	expect("name and mapping of the one that is not open", c, 'm');
}

// Memory that has a name is memory of one moment with the rest: the program goes on counting in both until it is
// killed, and afterwards both say the same.
static void named_memory(void)
{
	char name[64];
	struct stat st;
	snprintf(name, sizeof name, "/dev/shm/bpfckpt-test-%d", getpid());
	int fd = must(open(name, O_RDWR | O_CREAT | O_EXCL, 0640));
	must(ftruncate(fd, 3 * PAGE));
	volatile long *shared = map(3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), *mine = (long *)anon(PAGE);
	char *own = map(3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	own[2 * PAGE] = 'o';
	say_ready();
	while (access("go", F_OK) != 0) {
		*mine += 1;
		*shared += 1;
		shared[2 * PAGE / sizeof(long)] = *mine;
		if (*mine != *shared) {
			differs("private memory says %ld, shared memory %ld", *mine, *shared);
			break;
		}
		nap(MS);
	}
	expect("another page", shared[2 * PAGE / sizeof(long)], *mine);
	expect("a private page of it", own[2 * PAGE], 'o');
	long read_back = 0;
	expect("pread", pread(fd, &read_back, sizeof read_back, 0), sizeof read_back);
	expect("descriptor and mapping are one", read_back, *shared);
	must(stat(name, &st));
	expect("mode", st.st_mode & 07777, 0640);
	expect("size", st.st_size, 3 * PAGE);
	unlink(name);
}

// A child that has memory together with its parent, which is not saved with it.
static void half(void)
{
	volatile char *p = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t child = must(fork());
	if (child == 0) {
		wait_go();
		_exit(*p);
	}
	printf("child %d\n", child);
	ready();
	int status = 1;
	must(waitpid(child, &status, 0));
	expect("status of the child", status, 0);
}

static const struct test_case cases[] = {
	{"named-memory", named_memory},
	{"sealed", sealed},
	{"hard-link", hard_link},
	{"many-files", many_files},
	{"beyond-end", beyond_end},
	{"full-table", full_table},
	{"dev-zero", dev_zero},
	{"droppable", droppable},
	{"executable-memfd", executable_memfd},
	{"executable-removed", executable_removed},
	{"executable-replaced", executable_replaced},
};

// What the cases above execute, and what is to be refused.
static const struct test_case second[] = {
	{"executable-memfd-2", executable_memfd_2},
	{"executable-removed-2", executable_removed_2},
	{"executable-replaced-2", executable_replaced_2},
	{"half", half},
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < COUNT(second); i++) {
		if (strcmp(argv[1], second[i].name) == 0)
			return run_cases(second, COUNT(second), argc, argv);
	}
	return run_cases(cases, COUNT(cases), argc, argv);
}
