// Children that run a program of another make: a copy of this one that has been removed, replaced, or never had a name.
#include "random.h"

enum { PLAIN, UNLINKED, REPLACED, RENAMED, MEMFD };

// The whole of the other program: it waits where main() finds it.
int executed(char **argv)
{
	char c;
	must(write(atoi(argv[2]), "", 1)); // told
	close(atoi(argv[2]));
	return read(atoi(argv[3]), &c, 1) == 0 ? 21 : 22;
}

static int copy_of_us(struct item *it)
{
	static char b[1 << 16];
	int from = must(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	int to = must(it->feature->arg == MEMFD ? memfd_create("program", 0) : open(path_of(it, ".exe"), O_WRONLY | O_CREAT | O_TRUNC, 0755));
	for (ssize_t n; (n = must(read(from, b, sizeof b))) > 0;)
		must(write(to, b, (size_t)n));
	close(from);
	return to;
}

static void set_exec(struct item *it)
{
	int told_pipe[2];
	char c, told_text[16], end_text[16], fd_path[32];
	must(pipe(told_pipe));
	must(pipe(it->fd));
	int copy = copy_of_us(it);
	if (it->feature->arg != MEMFD)
		close(copy); // or it is busy
	it->pid = must(fork());
	if (it->pid == 0) {
		close(told_pipe[0]);
		close(it->fd[1]);
		snprintf(told_text, sizeof told_text, "%d", told_pipe[1]);
		snprintf(end_text, sizeof end_text, "%d", it->fd[0]);
		snprintf(fd_path, sizeof fd_path, "/proc/self/fd/%d", copy);
		char *argv[] = {"random", "executed", told_text, end_text, NULL};
		execv(it->feature->arg == MEMFD ? fd_path : path_of(it, ".exe"), argv);
		die("execv");
	}
	if (it->feature->arg == MEMFD)
		close(copy);
	close(told_pipe[1]);
	close(it->fd[0]);
	must(read(told_pipe[0], &c, 1) == 1 ? 0 : -1);
	close(told_pipe[0]);
	if (it->feature->arg == UNLINKED)
		must(unlink(path_of(it, ".exe")));
	if (it->feature->arg == RENAMED)
		must(rename(path_of(it, ".exe"), path_of(it, ".old")));
	if (it->feature->arg == REPLACED) {
		write_file(path_of(it, ".new"), "not the program");
		must(rename(path_of(it, ".new"), path_of(it, ".exe")));
	}
}

static void check_exec(struct item *it)
{
	char path[64], b[512];
	snprintf(path, sizeof path, "/proc/%d/exe", it->pid);
	expect("stat of the executable", stat(path, &(struct stat){0}), 0);
	snprintf(path, sizeof path, "/proc/%d/cmdline", it->pid);
	expect_str("its first argument", read_file(path, b, sizeof b), "random");
	close(it->fd[1]);
	expect("status", WEXITSTATUS(status_of(it->pid)), 21);
}

static const struct feature features[] = {
	{"exec", set_exec, check_exec, PLAIN, ALONE | RARE},
	{"exec and unlinked", set_exec, check_exec, UNLINKED, ALONE | RARE},
	{"exec and replaced", set_exec, check_exec, REPLACED, ALONE | RARE},
	{"exec and renamed", set_exec, check_exec, RENAMED, ALONE | RARE},
	{"exec of a memfd", set_exec, check_exec, MEMFD, ALONE | RARE},
};

TABLE(exec);
