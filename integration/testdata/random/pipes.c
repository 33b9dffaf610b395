// Pipes and named FIFOs.
#include "random.h"
#include <sys/ioctl.h>

static void set_pipe_flags(struct item *it, int *fd)
{
	it->v[1] = fcntl(fd[0], F_GETFL);
	it->v[2] = fcntl(fd[1], F_GETFL);
	it->v[3] = fcntl(fd[1], F_GETPIPE_SZ);
}

enum { EMPTY, SOME, FULL, PACKETS, NO_WRITER, NO_READER, NONBLOCKING, LARGE, SMALL, SIGNALS };

static void set_pipe(struct item *it)
{
	static char data[1 << 17];
	long how = it->feature->arg;
	must(pipe2(it->fd, how == PACKETS ? O_DIRECT | O_CLOEXEC : how == NONBLOCKING ? O_NONBLOCK : 0));
	if (how == LARGE)
		need(it, fcntl(it->fd[1], F_SETPIPE_SZ, 1 << 19));
	if (how == SMALL)
		must(fcntl(it->fd[1], F_SETPIPE_SZ, 4096));
	it->v[0] = how == EMPTY || how == NO_READER ? 0 : how == FULL ? fcntl(it->fd[1], F_GETPIPE_SZ) : how == LARGE ? 1 << 17 : how == SMALL ? 4096 : 1000 + (long long)(it->random % 9000);
	fill(data, (size_t)it->v[0], it->random);
	for (long long at = 0; at < it->v[0];) // a packet holds a page
		at += must(write(it->fd[1], data + at, (size_t)(it->v[0] - at < 4096 || how != PACKETS ? it->v[0] - at : 700)));
	if (how == NO_WRITER)
		close(it->fd[1]);
	if (how == NO_READER) {
		close(it->fd[0]);
		must(signal(SIGPIPE, SIG_IGN) == SIG_ERR ? -1 : 0);
	}
	if (how == SIGNALS) {
		must(fcntl(it->fd[0], F_SETOWN, getpid()));
		must(fcntl(it->fd[0], F_SETSIG, SIGRTMAX));
	}
	if (how != NO_WRITER && how != NO_READER)
		set_pipe_flags(it, it->fd);
}

static void check_content(struct item *it)
{
	static char want[1 << 17], have[1 << 17];
	int waiting = -1;
	must(ioctl(it->fd[0], FIONREAD, &waiting));
	expect("bytes waiting", waiting, it->v[0]);
	fill(want, (size_t)it->v[0], it->random);
	for (long long at = 0; at < it->v[0] && waiting > 0;) {
		ssize_t n = read(it->fd[0], have + at, sizeof have - (size_t)at);
		if (n <= 0) {
			differs("read: %zd after %lld bytes", n, at);
			return;
		}
		if (it->feature->arg == PACKETS && at == 0 && it->v[0] >= 4096)
			expect("the first packet", n, 700);
		at += n;
	}
	expect_mem("content", have, want, (size_t)it->v[0] & ~7UL);
}

static void check_pipe(struct item *it)
{
	char c = 0;
	if (it->feature->arg == NO_READER) {
		expect("write", write(it->fd[1], "x", 1), -1);
		expect("errno", errno, EPIPE);
		return;
	}
	check_content(it);
	if (it->feature->arg == NO_WRITER) {
		expect("end of file", read(it->fd[0], &c, 1), 0);
		return;
	}
	expect("flags of the read end", fcntl(it->fd[0], F_GETFL), it->v[1]);
	expect("flags of the write end", fcntl(it->fd[1], F_GETFL), it->v[2]);
	expect("capacity", fcntl(it->fd[0], F_GETPIPE_SZ), it->v[3]);
	if (it->feature->arg == SIGNALS) {
		expect("owner", fcntl(it->fd[0], F_GETOWN), getpid());
		expect("signal", fcntl(it->fd[0], F_GETSIG), SIGRTMAX);
	}
	expect("write", write(it->fd[1], "z", 1), 1);
	expect("read it", read(it->fd[0], &c, 1), 1);
	expect("it", c, 'z');
}

enum { BOTH, READER, WRITER, WITH_SIZE };

static void set_fifo(struct item *it)
{
	must(mkfifo(path_of(it, ""), 0600));
	it->fd[0] = must(open(path_of(it, ""), O_RDONLY | O_NONBLOCK));
	it->fd[1] = must(open(path_of(it, ""), O_WRONLY));
	if (it->feature->arg == WITH_SIZE)
		must(fcntl(it->fd[1], F_SETPIPE_SZ, 1 << 18));
	set_pipe_flags(it, it->fd);
	if (it->feature->arg == WRITER) {
		close(it->fd[0]);
		must(signal(SIGPIPE, SIG_IGN) == SIG_ERR ? -1 : 0);
		return;
	}
	it->v[0] = 800;
	char data[800];
	fill(data, sizeof data, it->random);
	must(write(it->fd[1], data, sizeof data));
	if (it->feature->arg == READER)
		close(it->fd[1]);
}

static void check_fifo(struct item *it)
{
	char c;
	if (it->feature->arg == WRITER) {
		expect("write", write(it->fd[1], "x", 1), -1);
		expect("errno", errno, EPIPE);
		return;
	}
	check_content(it);
	expect("flags", fcntl(it->fd[0], F_GETFL), it->v[1]);
	if (it->feature->arg == READER) {
		expect("end of file", read(it->fd[0], &c, 1), 0);
		return;
	}
	expect("capacity", fcntl(it->fd[0], F_GETPIPE_SZ), it->v[3]);
	expect("flags of the writer", fcntl(it->fd[1], F_GETFL), it->v[2]);
	int more = open(path_of(it, ""), O_WRONLY | O_NONBLOCK);
	expect("another writer", more >= 0, 1);
	expect("write", write(more, "z", 1), 1);
	expect("read", read(it->fd[0], &c, 1), 1);
	close(more);
}

static void set_fifo_both(struct item *it)
{
	must(mkfifo(path_of(it, ""), 0600));
	it->fd[0] = it->fd[1] = must(open(path_of(it, ""), O_RDWR));
	it->v[0] = 16;
	char data[16];
	fill(data, sizeof data, it->random);
	must(write(it->fd[1], data, sizeof data));
	it->v[1] = fcntl(it->fd[0], F_GETFL);
}

static void check_fifo_both(struct item *it)
{
	check_content(it);
	expect("flags", fcntl(it->fd[0], F_GETFL), it->v[1]);
}

// The ends in two processes.
static int writer(struct item *it)
{
	char c;
	close(it->fd[0]);
	told();
	await_go();
	must(write(it->fd[1], "hello", 5));
	ssize_t n = read(it->fd[2], &c, 1); // until the other has read
	return n == 1 && c == 'y' ? 0 : 1;
}

static void set_two(struct item *it)
{
	must(pipe(it->fd));
	must(pipe(it->fd + 2));
	it->pid = helper(it, writer);
	close(it->fd[1]);
	close(it->fd[2]);
}

static void check_two(struct item *it)
{
	char b[8] = "";
	expect("read from the child", read(it->fd[0], b, 5), 5);
	expect_str("it", b, "hello");
	expect("answer", write(it->fd[3], "y", 1), 1);
	expect("status of the child", status_of(it->pid), 0);
}

static const struct feature features[] = {
	{"pipe empty", set_pipe, check_pipe, EMPTY},
	{"pipe with content", set_pipe, check_pipe, SOME},
	{"pipe full", set_pipe, check_pipe, FULL},
	{"pipe packets", set_pipe, check_pipe, PACKETS},
	{"pipe without writer", set_pipe, check_pipe, NO_WRITER},
	{"pipe without reader", set_pipe, check_pipe, NO_READER},
	{"pipe nonblocking", set_pipe, check_pipe, NONBLOCKING},
	{"pipe large", set_pipe, check_pipe, LARGE},
	{"pipe small", set_pipe, check_pipe, SMALL},
	{"pipe with owner and signal", set_pipe, check_pipe, SIGNALS},
	{"pipe between processes", set_two, check_two},
	{"FIFO", set_fifo, check_fifo, BOTH},
	{"FIFO with size", set_fifo, check_fifo, WITH_SIZE},
	{"FIFO without writer", set_fifo, check_fifo, READER},
	{"FIFO without reader", set_fifo, check_fifo, WRITER},
	{"FIFO read and write", set_fifo_both, check_fifo_both},
};

TABLE(pipes);
