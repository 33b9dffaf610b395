// What the features use.
#include "random.h"
#include <poll.h>

int differences;

static char base[4096]; // the program's directory
static int told_fd = -1;

__attribute__((constructor)) static void find_base(void)
{
	if (getcwd(base, sizeof base) == NULL)
		die("getcwd");
}

int is_lack(int err)
{
	return err == ENOSYS || err == EOPNOTSUPP || err == EINVAL || err == ENODEV || err == ENXIO || err == ENOENT || err == EPERM || err == EACCES ||
	       err == EAFNOSUPPORT || err == EPROTONOSUPPORT || err == ESOCKTNOSUPPORT || err == EBUSY;
}

static const char *in_base(const char *name, const char *suffix)
{
	static __thread char paths[4][5000];
	static __thread unsigned turn;
	char *p = paths[turn++ % 4];
	snprintf(p, sizeof paths[0], "%s/%s%s", base, name, suffix);
	return p;
}

const char *path_of(const struct item *it, const char *suffix) { return in_base(it->name, suffix); }

const char *go_path(void) { return in_base("go", ""); }

void new_root(void) { base[0] = 0; }

int have_go(void) { return access(go_path(), F_OK) == 0; }

void await_go(void)
{
	while (!have_go())
		nap(5 * MS);
}

int signal_number(void)
{
	static int next, of;
	if (of != getpid()) {
		of = getpid();
		next = SIGRTMIN;
	}
	return next <= SIGRTMAX ? next++ : -1;
}

uint64_t draw(uint64_t *state) // splitmix64
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

void fill(void *p, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len / 8; i++)
		((volatile uint64_t *)p)[i] = (i + seed) * 0x9e3779b97f4a7c15ULL;
}

void check_fill(const char *what, const void *p, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len / 8; i++) {
		uint64_t have = ((const volatile uint64_t *)p)[i], want = (i + seed) * 0x9e3779b97f4a7c15ULL;
		if (have != want) {
			differs("%s: at offset %#zx: have %#llx, want %#llx", what, i * 8, (long long)have, (long long)want);
			return;
		}
	}
}

void make_file(const char *name, size_t len, uint64_t seed)
{
	char *b = malloc(len);
	fill(b, len, seed);
	int fd = must(open(name, O_RDWR | O_CREAT | O_TRUNC, 0644));
	must(write(fd, b, len));
	close(fd);
	free(b);
}

char *map(size_t len, int prot, int flags, int fd, off_t off) { return must(mmap(NULL, len, prot, flags, fd, off)); }

char *anon(size_t len)
{
	char *area = map(len + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(mprotect(area + PAGE, len, PROT_READ | PROT_WRITE));
	return area + PAGE;
}

void expect_flag(const void *p, const char *flag)
{
	char b[256], with[16];
	snprintf(with, sizeof with, " %s ", flag);
	strcat(smaps(p, "VmFlags", b, sizeof b - 2), " ");
	if (strstr(b, with) == NULL)
		differs("the flag %s is not in: %s", flag, b);
}

void write_file(const char *name, const char *text)
{
	int fd = must(open(name, O_WRONLY | O_CREAT, 0644));
	must(write(fd, text, strlen(text)));
	close(fd);
}

char *read_file(const char *name, char *buf, size_t n)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, buf, n - 1);
	buf[got < 0 ? 0 : got] = 0;
	buf[strcspn(buf, "\n")] = 0;
	if (fd >= 0)
		close(fd);
	return buf;
}

int block(int sig)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, sig);
	return must(-pthread_sigmask(SIG_BLOCK, &set, NULL));
}

int take(int sig, siginfo_t *info)
{
	sigset_t set;
	struct timespec none = {0, 0};
	sigemptyset(&set);
	sigaddset(&set, sig);
	memset(info, 0, sizeof *info);
	return sigtimedwait(&set, info, &none);
}

int next_ticks(int fd, uint64_t *ticks)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	errno = EAGAIN;
	return poll(&p, 1, 0) == 1 && read(fd, ticks, 8) == 8 ? 0 : -1;
}

pid_t helper(struct item *it, int (*body)(struct item *))
{
	int up[2];
	char byte;
	must(pipe(up));
	pid_t pid = must(fork());
	if (pid == 0) {
		close(up[0]);
		differences = 0;
		told_fd = up[1];
		int status = body(it);
		fflush(stdout);
		_exit(status);
	}
	close(up[1]);
	ssize_t got = read(up[0], &byte, 1);
	close(up[0]);
	return got == 1 ? pid : -pid;
}

void told(void)
{
	must(write(told_fd, "", 1));
	close(told_fd);
}

int status_of(pid_t pid)
{
	int status = -1;
	if (TEMP_FAILURE_RETRY(waitpid(pid, &status, 0)) != pid)
		differs("waitpid: %s", strerror(errno));
	return status;
}
