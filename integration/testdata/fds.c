// Descriptors of plain programs.
#include "ckpt.h"
#include <dirent.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <termios.h>

static void make(const char *name, const char *text)
{
	int fd = must(open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644));
	must(write(fd, text, strlen(text)));
	close(fd);
}

static const char *content(const char *name)
{
	static char b[4096];
	int fd = open(name, O_RDONLY);
	ssize_t n = read(fd, b, sizeof b - 1);
	close(fd);
	b[n < 0 ? 0 : n] = 0;
	return b;
}

static void offsets(void)
{
	char b[16] = "";
	make("a", "0123456789");
	int r = must(open("a", O_RDONLY)), w = must(open("b", O_RDWR | O_CREAT | O_TRUNC, 0640));
	int far = must(fcntl(r, F_DUPFD, 900)), ex = must(fcntl(w, F_DUPFD_CLOEXEC, 50));
	int own = must(open("a", O_RDONLY | O_NOATIME));
	must(lseek(r, 4, SEEK_SET));
	must(write(w, "abcdef", 6));
	must(lseek(w, 2, SEEK_SET));
	must(lseek(own, 1L << 40, SEEK_SET)); // beyond the end
	ready();
	expect("offset", lseek(far, 0, SEEK_CUR), 4);
	expect("read", read(r, b, 3), 3);
	expect_str("data", b, "456");
	expect("shared by dup", lseek(far, 0, SEEK_CUR), 7);
	expect("own description", lseek(own, 0, SEEK_CUR), 1L << 40);
	expect("write", write(ex, "XY", 2), 2);
	expect("shared by dup", lseek(w, 0, SEEK_CUR), 4);
	expect_str("b", content("b"), "abXYef");
	expect("close on exec", fcntl(ex, F_GETFD), FD_CLOEXEC);
	expect("not close on exec", fcntl(w, F_GETFD), 0);
	expect("flags", fcntl(own, F_GETFL) & (O_ACCMODE | O_NOATIME), O_RDONLY | O_NOATIME);
	expect("next free descriptor", open("a", O_RDONLY), own + 1);
}

static void append(void)
{
	int fd = must(open("log", O_WRONLY | O_CREAT | O_APPEND | O_TRUNC, 0644));
	must(write(fd, "one\n", 4));
	ready();
	expect("flags", fcntl(fd, F_GETFL) & O_APPEND, O_APPEND);
	must(lseek(fd, 0, SEEK_SET));
	expect("write", write(fd, "two\n", 4), 4);
	expect_str("log", content("log"), "one\ntwo\n");
}

static void set_flags(void)
{
	int fd = must(open("f", O_RDWR | O_CREAT, 0600));
	int p[2], q[2];
	must(pipe(p));
	must(pipe(q));
	must(fcntl(fd, F_SETFL, O_NONBLOCK | O_APPEND));
	must(fcntl(p[0], F_SETFL, O_NONBLOCK));
	must(fcntl(q[0], F_SETOWN, getpid()));
	must(fcntl(q[0], F_SETSIG, SIGUSR1));
	must(fcntl(q[0], F_SETPIPE_SZ, 1 << 18));
	ready();
	expect("flags of the file", fcntl(fd, F_GETFL) & (O_NONBLOCK | O_APPEND | O_ACCMODE), O_NONBLOCK | O_APPEND | O_RDWR);
	expect("flags of the read end", fcntl(p[0], F_GETFL) & (O_NONBLOCK | O_ACCMODE), O_NONBLOCK);
	expect("flags of the write end", fcntl(p[1], F_GETFL) & (O_NONBLOCK | O_ACCMODE), O_WRONLY);
	expect("owner", fcntl(q[0], F_GETOWN), getpid());
	expect("signal", fcntl(q[0], F_GETSIG), SIGUSR1);
	expect("capacity", fcntl(q[1], F_GETPIPE_SZ), 1 << 18);
}

static void directories(void)
{
	char seen[64][256] = {{0}}, name[16];
	must(mkdir("d", 0755));
	for (int i = 0; i < 50; i++) {
		snprintf(name, sizeof name, "d/%d", i);
		make(name, "");
	}
	DIR *d = opendir("d");
	for (int i = 0; i < 20; i++)
		snprintf(seen[i], 256, "%s", readdir(d)->d_name);
	int fd = must(open("d", O_RDONLY | O_DIRECTORY | O_CLOEXEC)), path = must(open("d", O_PATH | O_DIRECTORY));
	ready();
	int n = 20;
	for (struct dirent *e; (e = readdir(d)) != NULL && n < 64; n++) {
		for (int i = 0; i < n; i++)
			if (strcmp(seen[i], e->d_name) == 0)
				differs("%s is read twice", e->d_name);
		snprintf(seen[n], 256, "%s", e->d_name);
	}
	expect("entries", n, 52);
	expect("openat", openat(fd, "7", O_RDONLY) >= 0, 1);
	expect("openat below O_PATH", openat(path, "8", O_RDONLY) >= 0, 1);
	expect("O_PATH", fcntl(path, F_GETFL) & O_PATH, O_PATH);
	expect("close on exec", fcntl(fd, F_GETFD), FD_CLOEXEC);
}

static void devices(void)
{
	char b[8] = "junk";
	int null = must(open("/dev/null", O_RDWR)), zero = must(open("/dev/zero", O_RDONLY)), full = must(open("/dev/full", O_WRONLY));
	int random = must(open("/dev/urandom", O_RDONLY));
	ready();
	expect("write to null", write(null, "x", 1), 1);
	expect("read from null", read(null, b, 1), 0);
	expect("read from zero", read(zero, b, 4), 4);
	expect("zero", b[0] | b[1] | b[2] | b[3], 0);
	expect("write to full", write(full, "x", 1), -1);
	expect("errno", errno, ENOSPC);
	expect("read from urandom", read(random, b, 8), 8);
}

static void pipes(void)
{
	enum { n = 40000 };
	static char data[n], back[n];
	int p[2], q[2], r[2], e[2];
	for (int i = 0; i < n; i++)
		data[i] = (char)(i * 7 + i / 251);
	must(pipe2(p, O_CLOEXEC));
	must(write(p[1], data, n));
	must(read(p[0], back, 1000));
	must(pipe2(q, O_DIRECT));
	must(write(q[1], "first", 5));
	must(write(q[1], "second packet", 13));
	must(write(q[1], "3", 1));
	must(pipe(r));
	must(write(r[1], "rest", 4));
	close(r[1]); // only the read end is left
	must(pipe(e));
	close(e[0]); // only the write end is left
	signal(SIGPIPE, SIG_IGN);
	int dup_end = must(dup(p[1]));
	ready();
	int waiting = 0;
	must(ioctl(p[0], FIONREAD, &waiting));
	expect("bytes waiting", waiting, n - 1000);
	size_t got = 0;
	while (got < n - 1000) {
		ssize_t k = read(p[0], back + got, n - 1000 - got);
		if (k <= 0)
			break;
		got += (size_t)k;
	}
	expect("bytes in the pipe", got, n - 1000);
	expect_mem("content", back, data + 1000, n - 1000);
	expect("close on exec", fcntl(p[0], F_GETFD), FD_CLOEXEC);
	expect("write to the dup", write(dup_end, "z", 1), 1);
	expect("read it", read(p[0], back, 10), 1);
	expect("first packet", read(q[0], back, 100), 5);
	expect("second packet", read(q[0], back, 6), 6);
	expect_mem("its start", back, "second", 6);
	expect("third packet", read(q[0], back, 100), 1);
	expect("O_DIRECT", fcntl(q[1], F_GETFL) & O_DIRECT, O_DIRECT);
	expect("read the rest", read(r[0], back, 10), 4);
	expect("end of file", read(r[0], back, 10), 0);
	expect("write without a reader", write(e[1], "x", 1), -1);
	expect("errno", errno, EPIPE);
}

static void fifo(void)
{
	char b[8] = "";
	must(mkfifo("fifo", 0600));
	int r = must(open("fifo", O_RDONLY | O_NONBLOCK)), w = must(open("fifo", O_WRONLY));
	must(write(w, "abc", 3));
	ready();
	expect("read", read(r, b, 8), 3);
	expect_str("content", b, "abc");
	expect("write", write(w, "d", 1), 1);
	expect("read", read(r, b, 8), 1);
	expect("flags", fcntl(r, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
}

static void deleted(void)
{
	char b[32] = "";
	int fd = must(open("tmp", O_RDWR | O_CREAT, 0600)), tmp = must(open(".", O_TMPFILE | O_RDWR, 0600));
	must(write(fd, "still here", 10));
	must(unlink("tmp"));
	must(lseek(fd, 6, SEEK_SET));
	must(write(tmp, "nameless", 8));
	make("renamed", "new name");
	int moved = must(open("renamed", O_RDONLY));
	must(rename("renamed", "renamed.now"));
	ready();
	expect("read", read(fd, b, 32), 4);
	expect_str("rest", b, "here");
	expect("write", write(fd, "!", 1), 1);
	expect("pread", pread(fd, b, 32, 0), 11);
	struct stat st;
	must(fstat(fd, &st));
	expect("links", st.st_nlink, 0);
	expect("name", access("tmp", F_OK), -1);
	memset(b, 0, sizeof b);
	expect("pread of the nameless", pread(tmp, b, 32, 0), 8);
	expect_str("nameless", b, "nameless");
	memset(b, 0, sizeof b);
	expect("pread of the renamed", pread(moved, b, 32, 0), 8);
	expect_str("renamed", b, "new name");
}

// A deleted file and a memfd have attributes that are nowhere else.
static void attributes(void)
{
	const struct timespec times[2] = {{1000000000, 123456789}, {1100000000, 987654321}};
	int fds[2] = {must(open("attr", O_RDWR | O_CREAT, 0640)), must(memfd_create("attributes", 0))}, has[2];
	uint64_t hint = RWH_WRITE_LIFE_SHORT;
	for (int i = 0; i < 2; i++) {
		must(write(fds[i], "hello", 5));
		must(fchown(fds[i], 11, 12));
		has[i] = fsetxattr(fds[i], "user.key", "value", 5, 0) == 0; // tmpfs since Linux 6.6
		must(fcntl(fds[i], F_SET_RW_HINT, &hint));
		must(futimens(fds[i], times));
	}
	must(unlink("attr"));
	ready();
	for (int i = 0; i < 2; i++) {
		struct stat st;
		char b[16] = "";
		must(fstat(fds[i], &st));
		expect("access time", st.st_atim.tv_sec * SEC + st.st_atim.tv_nsec, 1000000000123456789);
		expect("time of change", st.st_mtim.tv_sec * SEC + st.st_mtim.tv_nsec, 1100000000987654321);
		expect("owner", st.st_uid, 11);
		expect("group", st.st_gid, 12);
		hint = 0;
		must(fcntl(fds[i], F_GET_RW_HINT, &hint));
		expect("hint", hint, RWH_WRITE_LIFE_SHORT);
		if (has[i])
			expect("extended attribute", fgetxattr(fds[i], "user.key", b, sizeof b), 5);
		expect_str("its value", b, has[i] ? "value" : "");
	}
}

// What has no name any more and is no file.
static void removed(void)
{
	char b[16] = "";
	struct stat st, other;
	must(mkdir("rdir", 0751));
	must(mkfifo("rfifo", 0600));
	must(symlink("nowhere", "rlink"));
	int dir = must(open("rdir", O_RDONLY | O_DIRECTORY)), place = must(open("rdir", O_PATH));
	int r = must(open("rfifo", O_RDONLY | O_NONBLOCK)), w = must(open("rfifo", O_WRONLY)), l = must(open("rlink", O_PATH | O_NOFOLLOW));
	must(rmdir("rdir"));
	must(unlink("rfifo"));
	must(unlink("rlink"));
	must(write(w, "unread", 6));
	ready();
	must(fstat(dir, &st));
	expect("mode of the directory", st.st_mode, S_IFDIR | 0751);
	expect("links", st.st_nlink, 0);
	must(fstat(place, &other));
	expect("one directory", other.st_ino, st.st_ino);
	expect("make something in it", openat(dir, "new", O_CREAT | O_RDWR, 0600), -1);
	expect("errno", errno, ENOENT);
	expect("read from the FIFO", read(r, b, sizeof b), 6);
	must(close(w));
	expect("its end", read(r, b, sizeof b), 0);
	expect("read the link", readlinkat(l, "", b, sizeof b), 7);
	expect("names", access("rdir", F_OK) + access("rfifo", F_OK), -2);
}

static volatile int signalled;

static void on_signal(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)context;
	signalled = info->si_fd + 1;
}

// Signals that tell of input on other things than pipes.
static void async(void)
{
	must(mkdir("watched", 0755));
	struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
	must(sigaction(SIGUSR2, &sa, NULL));
	int in = must(inotify_init1(IN_NONBLOCK)), rnd = must(open("/dev/random", O_RDONLY));
	must(inotify_add_watch(in, "watched", IN_CREATE));
	must(fcntl(in, F_SETOWN, getpid()));
	must(fcntl(in, F_SETSIG, SIGUSR2));
	must(fcntl(in, F_SETFL, O_ASYNC | O_NONBLOCK));
	must(fcntl(rnd, F_SETOWN, getpid()));
	ready();
	expect("owner", fcntl(in, F_GETOWN), getpid());
	expect("owner of the random device", fcntl(rnd, F_GETOWN), getpid());
	make("watched/new", "");
	for (int i = 0; i < 500 && !signalled; i++)
		nap(10 * MS);
	expect("descriptor that the signal tells", signalled, in + 1);
}

// Executes what a descriptor leads to, and returns its exit status; -1 if it cannot be executed.
static int execute(int fd)
{
	pid_t pid = must(fork());
	if (pid == 0) {
		char *argv[] = {"true", NULL}, *env[] = {NULL};
		fexecve(fd, argv, env);
		_exit(errno == ETXTBSY ? 126 : 127);
	}
	int status = 0;
	must(waitpid(pid, &status, 0));
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// What can be executed because nobody has it open for writing: a memfd through the description that made it, also while
// it is mapped, and a file that is deleted.
static void executed(void)
{
	static char b[1 << 20];
	int from = must(open("/bin/true", O_RDONLY)), mem = must(memfd_create("program", 0)), tmp = must(open("program", O_RDWR | O_CREAT, 0700));
	ssize_t n = must(read(from, b, sizeof b));
	must(write(mem, b, (size_t)n));
	must(write(tmp, b, (size_t)n));
	close(tmp);
	tmp = must(open("program", O_RDONLY));
	must(unlink("program"));
	char *map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, mem, 0);
	must(map == MAP_FAILED ? -1 : 0);
	ready();
	expect("status of the memfd", execute(mem), 0);
	expect("status of the deleted file", execute(tmp), 0);
	map[0] = 'x';
	must(pread(mem, b, 1, 0));
	expect("the mapping is of the memfd", b[0], 'x');
}

static void redirections(void)
{
	int keep = must(dup(1));
	int err = must(open("err", O_WRONLY | O_CREAT | O_TRUNC, 0644));
	must(dup2(err, 2));
	int log = must(open("out2", O_WRONLY | O_CREAT | O_TRUNC, 0644));
	fprintf(stderr, "before\n");
	fflush(stdout);
	must(write(log, "x", 1));
	ready();
	fprintf(stderr, "after\n");
	expect("write", write(log, "y", 1), 1);
	expect("write", write(err, "shared\n", 7), 7);
	expect_str("err", content("err"), "before\nafter\nshared\n");
	expect_str("out2", content("out2"), "xy");
	struct stat a, b;
	must(fstat(1, &a));
	must(fstat(keep, &b));
	expect("dup of stdout", a.st_ino, b.st_ino);
	expect("offset of both", lseek(1, 0, SEEK_CUR), lseek(keep, 0, SEEK_CUR));
}

// Standard input, output and error are a terminal; the test gives one, and restore has another.
static void terminal(void)
{
	struct termios t;
	must(tcgetattr(0, &t));
	t.c_lflag &= ~(tcflag_t)(ECHO | ICANON);
	t.c_cc[VMIN] = 1;
	must(tcsetattr(0, TCSANOW, &t));
	int named = must(open(ttyname(0), O_RDWR | O_NOCTTY)), any = must(open("/dev/tty", O_RDWR));
	ready();
	struct stat st, std;
	must(fstat(0, &std));
	must(fstat(named, &st));
	expect("device of the one opened by name", st.st_rdev, std.st_rdev);
	must(fstat(any, &st));
	expect("device of /dev/tty", st.st_rdev, makedev(5, 0));
	expect("isatty", isatty(0) + isatty(1) + isatty(2) + isatty(named) + isatty(any), 5);
	must(tcgetattr(0, &t));
	expect("echo", t.c_lflag & (ECHO | ICANON), 0);
}

static const struct test_case cases[] = {
	{"offsets", offsets},
	{"append", append},
	{"flags", set_flags},
	{"directories", directories},
	{"devices", devices},
	{"pipes", pipes},
	{"fifo", fifo},
	{"deleted", deleted},
	{"executed", executed},
	{"attributes", attributes},
	{"async", async},
	{"removed", removed},
	{"redirections", redirections},
	{"terminal", terminal},
};

MAIN(cases)
