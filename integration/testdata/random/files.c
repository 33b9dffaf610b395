// Descriptors of files and directories, and their locks.
#include "random.h"
#include <dirent.h>
#include <sys/file.h>
#include <sys/resource.h>

static void set_open(struct item *it)
{
	write_file(path_of(it, ""), "0123456789");
	it->fd[0] = need(it, open(path_of(it, ""), (int)it->feature->arg));
	if (!(it->feature->arg & O_PATH))
		it->v[0] = must(lseek(it->fd[0], (off_t)(it->random % 10), SEEK_SET));
	it->v[1] = fcntl(it->fd[0], F_GETFL);
	it->v[2] = fcntl(it->fd[0], F_GETFD);
}

static void check_open(struct item *it)
{
	char b[16] = "";
	struct stat st, now_st;
	expect("flags", fcntl(it->fd[0], F_GETFL), it->v[1]);
	expect("close-on-exec", fcntl(it->fd[0], F_GETFD), it->v[2]);
	must(stat(path_of(it, ""), &st));
	expect("fstat", fstat(it->fd[0], &now_st), 0);
	expect("inode", (long long)now_st.st_ino, (long long)st.st_ino);
	if (it->feature->arg & O_PATH)
		return;
	expect("offset", lseek(it->fd[0], 0, SEEK_CUR), it->v[0]);
	if ((it->feature->arg & (O_ACCMODE | O_DIRECT)) != O_WRONLY && !(it->feature->arg & O_DIRECT))
		expect("read", read(it->fd[0], b, 10), 10 - it->v[0]);
	if ((it->feature->arg & O_ACCMODE) != O_RDONLY && !(it->feature->arg & O_DIRECT)) {
		must(lseek(it->fd[0], 3, SEEK_SET));
		expect("write", write(it->fd[0], "X", 1), 1);
		expect_str("content", read_file(path_of(it, ""), b, sizeof b), it->feature->arg & O_APPEND ? "0123456789X" : "012X456789");
	}
}

static void set_number(struct item *it)
{
	struct rlimit r;
	write_file(path_of(it, ""), "0123456789");
	int fd = must(open(path_of(it, ""), O_RDWR));
	must(getrlimit(RLIMIT_NOFILE, &r));
	long n = it->feature->arg + (long)(it->random % 50);
	if ((rlim_t)n >= r.rlim_max)
		lack(it);
	if ((rlim_t)n >= r.rlim_cur)
		must(setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)n + 1, r.rlim_max}));
	it->fd[0] = need(it, fcntl(fd, F_DUPFD, (int)n));
	it->fd[1] = must(fcntl(fd, F_DUPFD_CLOEXEC, 3));
	must(lseek(fd, 4, SEEK_SET));
	close(fd);
}

static void check_number(struct item *it)
{
	char c = 0;
	expect("offset", lseek(it->fd[1], 0, SEEK_CUR), 4);
	expect("read", read(it->fd[0], &c, 1), 1);
	expect("it", c, '4');
	expect("one description", lseek(it->fd[1], 0, SEEK_CUR), 5);
	expect("close-on-exec", fcntl(it->fd[1], F_GETFD), FD_CLOEXEC);
	expect("no close-on-exec", fcntl(it->fd[0], F_GETFD), 0);
}

static void set_many(struct item *it)
{
	write_file(path_of(it, ""), "0123456789");
	it->v[0] = 50 + (long long)(it->random % 300);
	it->p = malloc((size_t)it->v[0] * sizeof(int));
	for (int i = 0; i < it->v[0]; i++) {
		int fd = must(open(path_of(it, ""), O_RDONLY));
		must(lseek(fd, i, SEEK_SET));
		((int *)it->p)[i] = fd;
	}
}

static void check_many(struct item *it)
{
	for (int i = 0; i < it->v[0]; i++)
		expect("offset", lseek(((int *)it->p)[i], 0, SEEK_CUR), i);
}

enum { UNLINKED, NAMELESS, RENAMED, REPLACED, BEYOND, LINKED };

static void set_odd(struct item *it)
{
	const char *name = path_of(it, "");
	if (it->feature->arg == NAMELESS)
		it->fd[0] = need(it, open(path_of(it, "/.."), O_TMPFILE | O_RDWR, 0640));
	else
		it->fd[0] = must(open(name, O_RDWR | O_CREAT, 0640));
	must(write(it->fd[0], "still here", 10));
	must(lseek(it->fd[0], 6, SEEK_SET));
	switch (it->feature->arg) {
	case UNLINKED:
		must(unlink(name));
		break;
	case RENAMED:
		must(rename(name, path_of(it, ".now")));
		break;
	case REPLACED:
		write_file(path_of(it, ".new"), "other");
		must(rename(path_of(it, ".new"), name));
		break;
	case BEYOND:
		must(lseek(it->fd[0], 1L << 40, SEEK_SET));
		break;
	case LINKED: // in the same directory, and the first name gone
		must(link(name, path_of(it, ".link")));
		break;
	}
	it->fd[1] = must(dup(it->fd[0]));
	struct stat st;
	must(fstat(it->fd[0], &st));
	it->v[0] = st.st_nlink;
	it->v[1] = st.st_mode;
}

static void check_odd(struct item *it)
{
	char b[32] = "";
	struct stat st;
	must(fstat(it->fd[0], &st));
	expect("links", (long long)st.st_nlink, it->v[0]);
	expect("mode", st.st_mode, it->v[1]);
	if (it->feature->arg == BEYOND) {
		expect("offset", lseek(it->fd[0], 0, SEEK_CUR), 1L << 40);
		return;
	}
	expect("read", read(it->fd[0], b, 32), 4);
	expect_str("rest", b, "here");
	expect("write to the other", write(it->fd[1], "!", 1), 1);
	memset(b, 0, sizeof b);
	expect("pread", pread(it->fd[0], b, 31, 0), 11);
	expect_str("content", b, "still here!");
}

static void set_nameless(struct item *it)
{
	must(mkdir(path_of(it, ""), 0755));
	set_odd(it);
}

static void set_directory(struct item *it)
{
	char b[64];
	must(mkdir(path_of(it, ""), 0755));
	for (int i = 0; i < 30; i++) {
		snprintf(b, sizeof b, "/%d", i);
		write_file(path_of(it, b), "");
	}
	it->fd[0] = must(open(path_of(it, ""), O_RDONLY | O_DIRECTORY | (int)it->feature->arg));
	if (it->feature->arg & O_PATH)
		return;
	DIR *d = fdopendir(must(dup(it->fd[0])));
	for (it->v[0] = 0; it->v[0] < (long long)(it->random % 20); it->v[0]++)
		readdir(d);
	it->p = (char *)d;
}

static void check_directory(struct item *it)
{
	int fd = openat(it->fd[0], "7", O_RDONLY);
	expect("openat", fd >= 0, 1);
	close(fd);
	if (it->p == NULL)
		return;
	while (readdir((DIR *)it->p) != NULL)
		it->v[0]++;
	expect("entries", it->v[0], 32);
}

static void set_symlink(struct item *it)
{
	must(symlink("somewhere else", path_of(it, "")));
	it->fd[0] = must(open(path_of(it, ""), O_PATH | O_NOFOLLOW));
}

static void check_symlink(struct item *it)
{
	char b[64] = "";
	expect("readlinkat", readlinkat(it->fd[0], "", b, sizeof b - 1), 14);
	expect_str("it", b, "somewhere else");
}

// Without a name any more.
static void set_removed(struct item *it)
{
	if (it->feature->arg == S_IFDIR) {
		must(mkdir(path_of(it, ""), 0750));
		it->fd[0] = must(open(path_of(it, ""), O_RDONLY | O_DIRECTORY));
		must(rmdir(path_of(it, "")));
	} else if (it->feature->arg == S_IFLNK) {
		must(symlink("nowhere", path_of(it, "")));
		it->fd[0] = must(open(path_of(it, ""), O_PATH | O_NOFOLLOW));
		must(unlink(path_of(it, "")));
	} else {
		must(mkfifo(path_of(it, ""), 0640));
		it->fd[0] = must(open(path_of(it, ""), O_RDWR));
		must(unlink(path_of(it, "")));
		must(write(it->fd[0], "content", 7));
	}
	struct stat st;
	must(fstat(it->fd[0], &st));
	it->v[0] = st.st_mode;
}

static void check_removed(struct item *it)
{
	struct stat st;
	char b[16] = "";
	must(fstat(it->fd[0], &st));
	expect("mode", st.st_mode, it->v[0]);
	expect("links", (long long)st.st_nlink, 0);
	expect("its name", access(path_of(it, ""), F_OK), -1);
	if (it->feature->arg == S_IFDIR)
		expect("a new file in it", openat(it->fd[0], "new", O_CREAT | O_WRONLY, 0644), -1);
	if (it->feature->arg == S_IFLNK)
		expect("readlinkat", readlinkat(it->fd[0], "", b, sizeof b), 7);
	if (it->feature->arg == S_IFIFO) {
		expect("read", read(it->fd[0], b, 7), 7);
		expect_str("content", b, "content");
	}
}

static const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"};

static void set_device(struct item *it) { it->fd[0] = need(it, open(devices[it->feature->arg], O_RDWR)); }

static void check_device(struct item *it)
{
	char b[8] = "junk";
	struct stat st, want;
	must(fstat(it->fd[0], &st));
	must(stat(devices[it->feature->arg], &want));
	expect("device", (long long)st.st_rdev, (long long)want.st_rdev);
	expect("read", read(it->fd[0], b, 4), it->feature->arg == 0 ? 0 : 4);
}

static const char *const pseudo[] = {"/proc/cpuinfo", "/proc/sys/kernel/ostype", "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/meminfo", "/proc/stat"};

static void set_pseudo(struct item *it)
{
	it->fd[0] = need(it, open(pseudo[it->feature->arg], O_RDONLY));
	char b[4];
	must(read(it->fd[0], b, 3));
}

static void check_pseudo(struct item *it)
{
	char b[4] = "", c[16];
	expect("offset", lseek(it->fd[0], 0, SEEK_CUR), 3);
	must(lseek(it->fd[0], 0, SEEK_SET));
	expect("read", read(it->fd[0], b, 3), 3);
	read_file(pseudo[it->feature->arg], c, 4);
	expect_str("it", b, c);
}

static struct flock range(int type, long start, long len)
{
	return (struct flock){.l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
}

enum { FLOCK, POSIX, OFD };

static void set_lock(struct item *it)
{
	long kind = it->feature->arg / 10, type = it->feature->arg % 10;
	struct flock first = range(type ? F_WRLCK : F_RDLCK, 2, 5), second = range(F_RDLCK, 100, 0);
	write_file(path_of(it, ""), "0123456789");
	it->fd[0] = must(open(path_of(it, ""), O_RDWR));
	if (kind == FLOCK)
		must(flock(it->fd[0], type ? LOCK_EX : LOCK_SH));
	else
		must(fcntl(it->fd[0], kind == OFD ? F_OFD_SETLK : F_SETLK, &first) + fcntl(it->fd[0], kind == OFD ? F_OFD_SETLK : F_SETLK, &second));
}

// What another opener of the file finds. Of locks of ours it has to be another process.
static int find_locks(struct item *it)
{
	long kind = it->feature->arg / 10, type = it->feature->arg % 10;
	int fd = must(open(path_of(it, ""), O_RDWR));
	struct flock here = range(F_WRLCK, 0, 10), free = range(F_WRLCK, 7, 90), behind = range(F_WRLCK, 1000, 1);
	if (kind == FLOCK) {
		expect("flock shared", flock(fd, LOCK_SH | LOCK_NB), type ? -1 : 0);
		flock(fd, LOCK_UN);
		expect("flock exclusive", flock(fd, LOCK_EX | LOCK_NB), -1);
	} else {
		int get = kind == OFD ? F_OFD_GETLK : F_GETLK;
		must(fcntl(fd, get, &here) + fcntl(fd, get, &free) + fcntl(fd, get, &behind));
		expect("type of the lock", here.l_type, type ? F_WRLCK : F_RDLCK);
		expect("its start", here.l_start, 2);
		expect("its length", here.l_len, 5);
		expect("nothing behind it", free.l_type, F_UNLCK);
		expect("the second lock", behind.l_type, F_RDLCK);
		expect("its start", behind.l_start, 100);
		expect("its length", behind.l_len, 0);
	}
	close(fd);
	return differences != 0;
}

static int find_locks_body(struct item *it)
{
	find_locks(it);
	return differences != 0;
}

static void check_lock(struct item *it)
{
	if (it->feature->arg / 10 != POSIX) { // a descriptor of our own is enough, and closing one drops no lock
		find_locks(it);
		return;
	}
	int status = status_of(abs(helper(it, find_locks_body)));
	expect("what another process finds", status, 0);
}

static void set_stream(struct item *it)
{
	FILE *f = fopen(path_of(it, ""), "w+");
	fprintf(f, "first\n");
	fflush(f);
	fprintf(f, "in the buffer\n");
	it->p = (char *)f;
}

static void check_stream(struct item *it)
{
	FILE *f = (FILE *)it->p;
	char b[64];
	fprintf(f, "last\n");
	rewind(f);
	for (int i = 0; i < 3; i++)
		if (fgets(b, sizeof b, f) == NULL)
			differs("line %d is missing", i);
	expect_str("the last line", b, "last\n");
	fclose(f);
}

static const struct feature features[] = {
	{"file read", set_open, check_open, O_RDONLY},
	{"file write", set_open, check_open, O_WRONLY},
	{"file read and write", set_open, check_open, O_RDWR},
	{"file append", set_open, check_open, O_RDWR | O_APPEND},
	{"file append only", set_open, check_open, O_WRONLY | O_APPEND},
	{"file close-on-exec", set_open, check_open, O_RDWR | O_CLOEXEC},
	{"file nonblocking", set_open, check_open, O_RDWR | O_NONBLOCK},
	{"file direct", set_open, check_open, O_RDWR | O_DIRECT},
	{"file sync", set_open, check_open, O_RDWR | O_SYNC},
	{"file dsync", set_open, check_open, O_RDWR | O_DSYNC},
	{"file noatime", set_open, check_open, O_RDONLY | O_NOATIME},
	{"file O_PATH", set_open, check_open, O_PATH},
	{"file number high", set_number, check_number, 900},
	{"file number very high", set_number, check_number, 9000, 0, "rlimit nofile"},
	{"file many descriptors", set_many, check_many, 0, RARE},
	{"file unlinked", set_odd, check_odd, UNLINKED},
	{"file nameless", set_nameless, check_odd, NAMELESS},
	{"file renamed", set_odd, check_odd, RENAMED},
	{"file replaced", set_odd, check_odd, REPLACED},
	{"file beyond the end", set_odd, check_odd, BEYOND},
	{"file with two names", set_odd, check_odd, LINKED},
	{"file of the C library", set_stream, check_stream},
	{"directory", set_directory, check_directory, 0},
	{"directory O_PATH", set_directory, check_directory, O_PATH},
	{"directory close-on-exec", set_directory, check_directory, O_CLOEXEC},
	{"symbolic link O_PATH", set_symlink, check_symlink},
	{"directory removed", set_removed, check_removed, S_IFDIR},
	{"symbolic link removed", set_removed, check_removed, S_IFLNK},
	{"FIFO unlinked", set_removed, check_removed, S_IFIFO},
	{"device null", set_device, check_device, 0},
	{"device zero", set_device, check_device, 1},
	{"device full", set_device, check_device, 2},
	{"device random", set_device, check_device, 3},
	{"device urandom", set_device, check_device, 4},
	{"proc cpuinfo", set_pseudo, check_pseudo, 0},
	{"proc sys", set_pseudo, check_pseudo, 1},
	{"sysfs file", set_pseudo, check_pseudo, 2},
	{"proc meminfo", set_pseudo, check_pseudo, 3},
	{"proc stat", set_pseudo, check_pseudo, 4},
	{"flock shared", set_lock, check_lock, FLOCK * 10},
	{"flock exclusive", set_lock, check_lock, FLOCK * 10 + 1},
	{"POSIX lock read", set_lock, check_lock, POSIX * 10},
	{"POSIX lock write", set_lock, check_lock, POSIX * 10 + 1},
	{"OFD lock read", set_lock, check_lock, OFD * 10},
	{"OFD lock write", set_lock, check_lock, OFD * 10 + 1},
};

TABLE(files);
