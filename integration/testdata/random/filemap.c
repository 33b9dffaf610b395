// Mappings of files, of every kind of file.
#include "random.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8 // linux/memfd.h, Linux 6.3
#define MFD_EXEC 16
#endif
#define F_SEAL_FUTURE 0x10 // F_SEAL_FUTURE_WRITE

enum { LEN = 6 * 4096 };
enum { SHARED = 1, READ_ONLY = 2, WRITTEN = 4, UNLINKED = 8, REPLACED = 16, RENAMED = 32, SHORT = 64 };

// Where in the file the mapping begins, in pages.
static unsigned long offset_of(const struct item *it) { return it->random % 3; }

static void set_file(struct item *it)
{
	long how = it->feature->arg;
	make_file(path_of(it, ""), 9 * PAGE, it->random);
	int fd = must(open(path_of(it, ""), how & READ_ONLY ? O_RDONLY : O_RDWR));
	if (how & SHORT)
		must(truncate(path_of(it, ""), (off_t)(offset_of(it) * PAGE + 2 * PAGE + 100)));
	it->p = map(LEN, how & READ_ONLY ? PROT_READ : PROT_READ | PROT_WRITE, how & SHARED ? MAP_SHARED : MAP_PRIVATE, fd, (off_t)(offset_of(it) * PAGE));
	it->q = map(2 * PAGE, PROT_READ, how & SHARED ? MAP_PRIVATE : MAP_SHARED, fd, 0);
	close(fd);
	if (how & WRITTEN)
		fill(it->p + PAGE, PAGE, 99);
	if (how & UNLINKED)
		must(unlink(path_of(it, "")));
	if (how & RENAMED)
		must(rename(path_of(it, ""), path_of(it, ".now")));
	if (how & REPLACED) {
		make_file(path_of(it, ".new"), 9 * PAGE, 5);
		must(rename(path_of(it, ".new"), path_of(it, "")));
	}
}

static void check_file(struct item *it)
{
	long how = it->feature->arg;
	uint64_t first = it->random + offset_of(it) * PAGE / 8;
	check_fill("first page", it->p, PAGE, first);
	check_fill("second page", it->p + PAGE, PAGE, how & WRITTEN ? 99 : first + PAGE / 8);
	if (how & SHORT) {
		expect("behind the end of the file", it->p[2 * PAGE + 200], 0);
		return;
	}
	check_fill("last pages", it->p + 2 * PAGE, 4 * PAGE, first + 2 * PAGE / 8);
	check_fill("the other mapping", it->q, PAGE, it->random);
	if ((how & (SHARED | READ_ONLY)) == SHARED) {
		fill(it->p, PAGE, 77);
		if (offset_of(it) == 0)
			check_fill("written through the other mapping", it->q, PAGE, 77);
	}
}

enum { SEALED = 1, FUTURE = 2, EXECUTABLE = 4, NO_EXEC = 8, GROWN = 16, NO_FD = 32, PRIVATE = 64, SMALL = 128, REOPENED = 256 };

static void set_memfd(struct item *it)
{
	long how = it->feature->arg;
	int flags = MFD_ALLOW_SEALING | MFD_CLOEXEC | (how & EXECUTABLE ? MFD_EXEC : 0) | (how & NO_EXEC ? MFD_NOEXEC_SEAL : 0);
	it->fd[0] = need(it, memfd_create("a memfd", (unsigned)flags));
	must(ftruncate(it->fd[0], how & SMALL ? PAGE : how & GROWN ? 2 * LEN : LEN));
	it->p = map(LEN, PROT_READ | PROT_WRITE, how & PRIVATE ? MAP_PRIVATE : MAP_SHARED, it->fd[0], 0);
	fill(it->p, PAGE, it->random);
	must(lseek(it->fd[0], 1234, SEEK_SET));
	if (how & SEALED)
		must(fcntl(it->fd[0], F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	if (how & FUTURE)
		must(fcntl(it->fd[0], F_ADD_SEALS, F_SEAL_FUTURE));
	it->v[0] = fcntl(it->fd[0], F_GET_SEALS);
	if (how & REOPENED) {
		char b[64];
		snprintf(b, sizeof b, "/proc/self/fd/%d", it->fd[0]);
		it->fd[1] = must(open(b, O_RDONLY));
	}
	struct stat st;
	must(fstat(it->fd[0], &st));
	it->v[1] = st.st_mode;
	it->v[2] = st.st_size;
	if (how & NO_FD)
		close(it->fd[0]);
}

static void check_memfd(struct item *it)
{
	long how = it->feature->arg;
	struct stat st;
	check_fill("content", it->p, PAGE, it->random);
	if (how & NO_FD)
		return;
	expect("offset", lseek(it->fd[0], 0, SEEK_CUR), 1234);
	expect("seals", fcntl(it->fd[0], F_GET_SEALS), it->v[0]);
	must(fstat(it->fd[0], &st));
	expect("mode", st.st_mode, it->v[1]);
	expect("size", st.st_size, it->v[2]);
	char c = 0;
	it->p[8] = 77;
	expect("read", pread(it->fd[0], &c, 1, 8), 1);
	expect("descriptor and mapping are one", c == 77, !(how & PRIVATE));
	if (how & FUTURE)
		expect("write", pwrite(it->fd[0], "x", 1, 9), -1);
	if (how & REOPENED) {
		expect("flags of the reopened", fcntl(it->fd[1], F_GETFL) & O_ACCMODE, O_RDONLY);
		expect("read of the reopened", pread(it->fd[1], &c, 1, 8), 1);
		expect("what it reads", c, 77);
	}
}

static void set_sealed_write(struct item *it)
{
	it->fd[0] = must(memfd_create("sealed", MFD_ALLOW_SEALING));
	it->p = malloc(LEN);
	fill(it->p, LEN, it->random);
	must(write(it->fd[0], it->p, LEN));
	must(fcntl(it->fd[0], F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW));
	it->q = map(LEN, PROT_READ, it->feature->arg ? MAP_PRIVATE : MAP_SHARED, it->fd[0], 0);
}

static void check_sealed_write(struct item *it)
{
	check_fill("content", it->q, LEN, it->random);
	expect("seals", fcntl(it->fd[0], F_GET_SEALS), F_SEAL_WRITE | F_SEAL_GROW);
	expect("write", pwrite(it->fd[0], "x", 1, 0), -1);
	expect("offset", lseek(it->fd[0], 0, SEEK_CUR), LEN);
}

// POSIX shared memory: a file of /dev/shm, with its name or without.
static void set_shm(struct item *it)
{
	char name[64];
	snprintf(name, sizeof name, "/random-%d-%s", getpid(), it->name);
	int fd = must(shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600));
	must(ftruncate(fd, LEN));
	it->p = map(LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	it->fd[0] = fd;
	fill(it->p, LEN, it->random);
	must(shm_unlink(name));
	if (it->feature->arg) {
		close(fd);
		it->fd[0] = -1;
	}
}

static void check_shm(struct item *it)
{
	char c;
	check_fill("content", it->p, LEN, it->random);
	it->p[5] = 55;
	if (it->fd[0] >= 0) {
		expect("read", pread(it->fd[0], &c, 1, 5), 1);
		expect("one file", c, 55);
	}
}

static void set_zero(struct item *it)
{
	int fd = must(open("/dev/zero", O_RDWR));
	it->p = map(LEN, PROT_READ | PROT_WRITE, it->feature->arg ? MAP_SHARED : MAP_PRIVATE, fd, 0);
	close(fd);
	fill(it->p, 2 * PAGE, it->random);
}

static void check_zero(struct item *it)
{
	check_fill("content", it->p, 2 * PAGE, it->random);
	expect("untouched", it->p[4 * PAGE], 0);
}

static void set_many_files(struct item *it)
{
	char suffix[16];
	it->v[0] = 20 + (long long)(it->random % 100);
	for (int i = 0; i < it->v[0]; i++) {
		snprintf(suffix, sizeof suffix, ".%d", i);
		make_file(path_of(it, suffix), PAGE, it->random + (uint64_t)i);
		int fd = must(open(path_of(it, suffix), O_RDONLY));
		char *p = map(PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
		close(fd);
		if (i == 0)
			it->q = malloc((size_t)it->v[0] * sizeof(char *));
		((char **)it->q)[i] = p;
	}
}

static void check_many_files(struct item *it)
{
	for (int i = 0; i < it->v[0]; i++)
		check_fill("a file", ((char **)it->q)[i], PAGE, it->random + (uint64_t)i);
}

// vdso_range finds the vDSO and what lies before it, its data. No more clock_gettime of the C library once it has gone.
static void vdso_range(char **start, char **end)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	unsigned long a, b;
	*start = *end = NULL;
	while (f != NULL && fgets(line, sizeof line, f) != NULL) {
		if (sscanf(line, "%lx-%lx", &a, &b) != 2 || (strstr(line, "[vvar") == NULL && strstr(line, "[vdso]") == NULL))
			continue;
		if (*start == NULL)
			*start = (char *)a;
		*end = (char *)b;
	}
	if (f != NULL)
		fclose(f);
}

static void set_no_vdso(struct item *it)
{
	char *start, *end;
	vdso_range(&start, &end);
	if (start == NULL)
		lack(it);
	must(munmap(start, (size_t)(end - start)));
}

static void check_no_vdso(struct item *it)
{
	char *start, *end;
	(void)it;
	vdso_range(&start, &end);
	expect("a vDSO", start != NULL, 0);
	struct timespec ts = {0, 0};
	expect("clock_gettime", syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &ts), 0);
}

static void set_moved_vdso(struct item *it)
{
	char *start, *end;
	vdso_range(&start, &end);
	if (start == NULL)
		lack(it);
	size_t len = (size_t)(end - start);
	char *to = map(len + 16 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + 8 * PAGE;
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	unsigned long a[8], b[8];
	int n = 0;
	while (f != NULL && n < 8 && fgets(line, sizeof line, f) != NULL)
		if (sscanf(line, "%lx-%lx", &a[n], &b[n]) == 2 && (char *)a[n] >= start && (char *)b[n] <= end)
			n++;
	fclose(f);
	for (int i = 0; i < n; i++)
		must(mremap((void *)a[i], b[i] - a[i], b[i] - a[i], MREMAP_MAYMOVE | MREMAP_FIXED, to + (a[i] - (unsigned long)start)));
	it->p = to;
	it->q = to + len;
}

static void check_moved_vdso(struct item *it)
{
	char *start, *end;
	vdso_range(&start, &end);
	expect("start of the vDSO", (long)start, (long)it->p);
	expect("its end", (long)end, (long)it->q);
}

// A static buffer with the program's title, as daemons have it that need more room for theirs.
static unsigned long stat_field(int n)
{
	char b[2048];
	read_file("/proc/self/stat", b, sizeof b);
	char *s = strrchr(b, ')') + 2;
	for (int i = 3; i < n; i++)
		s = strchr(s, ' ') + 1;
	return strtoul(s, NULL, 10);
}

static void set_title(struct item *it)
{
	static char moved[] = "a new title\0with two words";
	if (!it->feature->arg) {
		memset((char *)stat_field(48), 'T', 4);
	} else {
		struct prctl_mm_map mm = {
			.start_code = stat_field(26), .end_code = stat_field(27), .start_data = stat_field(45), .end_data = stat_field(46),
			.start_brk = stat_field(47), .brk = (uint64_t)sbrk(0), .start_stack = stat_field(28),
			.arg_start = (uint64_t)moved, .arg_end = (uint64_t)moved + sizeof moved,
			.env_start = stat_field(50), .env_end = stat_field(51), .exe_fd = (uint32_t)-1,
		};
		need(it, prctl(PR_SET_MM, PR_SET_MM_MAP, &mm, sizeof mm, 0));
	}
	read_file("/proc/self/cmdline", it->text, sizeof it->text);
}

static void check_title(struct item *it)
{
	char b[256];
	expect_str("cmdline", read_file("/proc/self/cmdline", b, sizeof b), it->text);
}

static const struct feature features[] = {
	{"map file", set_file, check_file, 0},
	{"map file read-only", set_file, check_file, READ_ONLY},
	{"map file changed", set_file, check_file, WRITTEN},
	{"map file shared", set_file, check_file, SHARED},
	{"map file shared read-only", set_file, check_file, SHARED | READ_ONLY},
	{"map file shared changed", set_file, check_file, SHARED | WRITTEN},
	{"map unlinked file", set_file, check_file, UNLINKED},
	{"map unlinked file read-only", set_file, check_file, UNLINKED | READ_ONLY},
	{"map unlinked file changed", set_file, check_file, UNLINKED | WRITTEN},
	{"map unlinked file shared changed", set_file, check_file, UNLINKED | SHARED | WRITTEN},
	{"map replaced file", set_file, check_file, REPLACED | READ_ONLY},
	{"map replaced file changed", set_file, check_file, REPLACED | WRITTEN},
	{"map replaced file shared changed", set_file, check_file, REPLACED | SHARED | WRITTEN},
	{"map renamed file", set_file, check_file, RENAMED},
	{"map renamed file shared changed", set_file, check_file, RENAMED | SHARED | WRITTEN},
	{"map beyond the end", set_file, check_file, SHORT},
	{"map beyond the end shared", set_file, check_file, SHORT | SHARED},
	{"map beyond the end changed", set_file, check_file, SHORT | WRITTEN},
	{"map memfd", set_memfd, check_memfd, 0},
	{"map memfd private", set_memfd, check_memfd, PRIVATE},
	{"map memfd without descriptor", set_memfd, check_memfd, NO_FD},
	{"map memfd larger than the mapping", set_memfd, check_memfd, GROWN},
	{"map memfd smaller than the mapping", set_memfd, check_memfd, SMALL},
	{"map memfd sealed", set_memfd, check_memfd, SEALED},
	{"map memfd sealed for the future", set_memfd, check_memfd, FUTURE},
	{"map memfd executable", set_memfd, check_memfd, EXECUTABLE},
	{"map memfd never executable", set_memfd, check_memfd, NO_EXEC},
	{"map memfd reopened", set_memfd, check_memfd, REOPENED},
	{"map memfd sealed against writes", set_sealed_write, check_sealed_write, 0},
	{"map memfd sealed against writes, private", set_sealed_write, check_sealed_write, 1},
	{"map shm", set_shm, check_shm, 0},
	{"map shm without descriptor", set_shm, check_shm, 1},
	{"map /dev/zero", set_zero, check_zero, 0},
	{"map /dev/zero shared", set_zero, check_zero, 1},
	{"map many files", set_many_files, check_many_files, 0, RARE},
	{"mm without vDSO", set_no_vdso, check_no_vdso, 0, ALONE},
	{"mm vDSO moved", set_moved_vdso, check_moved_vdso, 0, ALONE},
	{"mm title changed", set_title, check_title, 0, ALONE},
	{"mm title moved", set_title, check_title, 1, ALONE},
};

TABLE(filemap);
