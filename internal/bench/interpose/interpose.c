/*
 * The yardstick of `bpfckpt bench overhead`: what it costs to follow a program's kernel state from inside, by LD_PRELOAD, as checkpointers
 * without eBPF must. It keeps what a watch keeps, no less: the path, resolved path, flags and mode of every open, which descriptors are
 * copies of which, mappings with their protection, signal handlers, masks, limits, the working directory. One lock guards each table,
 * because programs have threads; nothing is written anywhere. Real ones do more (virtual ids, a coordinator, signals of their own).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(name)                                                                                                     \
	({                                                                                                             \
		if (!real_##name)                                                                                      \
			real_##name = (typeof(real_##name))dlsym(RTLD_NEXT, #name);                                    \
		real_##name;                                                                                           \
	})

/*
 * Records come from pools: malloc would come back to us, since the allocators that programs bring map memory and open files themselves.
 * A free record's first word leads to the next one.
 */
struct pool {
	void *free;
	size_t used;
};

static void *take(struct pool *p, void *records, size_t size, size_t count)
{
	void *r = p->free;

	if (r)
		p->free = *(void **)r;
	else if (p->used < count)
		r = (char *)records + size * p->used++;
	if (r)
		memset(r, 0, size);
	return r;
}

static void give(struct pool *p, void *r)
{
	*(void **)r = p->free;
	p->free = r;
}

/* Descriptors. */

enum kind { FREE, FILE_, PIPE, SOCKET, EVENTFD, EPOLL, MEMFD };

struct description {
	enum kind kind;
	int refs, flags;
	mode_t mode;
	char given[256], resolved[256];
};

#define MAX_FD 4096
static struct description *fds[MAX_FD], descriptions[MAX_FD];
static struct pool free_descriptions;
static pthread_mutex_t fd_lock = PTHREAD_MUTEX_INITIALIZER;

static int (*real_close)(int);

static void drop(int fd)
{
	struct description *d = fds[fd];

	fds[fd] = NULL;
	if (d && --d->refs == 0)
		give(&free_descriptions, d);
}

static int opened(int fd, enum kind kind, const char *path, int flags, mode_t mode)
{
	int saved = errno;
	struct description *d;

	if (fd < 0 || fd >= MAX_FD)
		return fd;
	pthread_mutex_lock(&fd_lock);
	d = take(&free_descriptions, descriptions, sizeof(*d), MAX_FD);
	pthread_mutex_unlock(&fd_lock);
	if (!d)
		return fd;
	d->kind = kind;
	d->refs = 1;
	d->flags = flags;
	d->mode = mode;
	if (path) {
		char link[32];
		ssize_t n;

		snprintf(d->given, sizeof(d->given), "%s", path);
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		n = readlink(link, d->resolved, sizeof(d->resolved) - 1);
		if (n < 0)
			d->resolved[0] = 0;
	}
	pthread_mutex_lock(&fd_lock);
	drop(fd);
	fds[fd] = d;
	pthread_mutex_unlock(&fd_lock);
	errno = saved;
	return fd;
}

static int copied(int from, int to)
{
	if (to < 0 || to >= MAX_FD || from < 0 || from >= MAX_FD)
		return to;
	pthread_mutex_lock(&fd_lock);
	drop(to);
	if ((fds[to] = fds[from]))
		fds[to]->refs++;
	pthread_mutex_unlock(&fd_lock);
	return to;
}

static mode_t mode_of(int flags, va_list ap)
{
	return flags & (O_CREAT | __O_TMPFILE) ? va_arg(ap, mode_t) : 0;
}

#define OPEN(name)                                                                                                     \
	int name(const char *path, int flags, ...)                                                                     \
	{                                                                                                              \
		static int (*real_##name)(const char *, int, ...);                                                     \
		va_list ap;                                                                                            \
		mode_t mode;                                                                                           \
		va_start(ap, flags);                                                                                   \
		mode = mode_of(flags, ap);                                                                             \
		va_end(ap);                                                                                            \
		return opened(REAL(name)(path, flags, mode), FILE_, path, flags, mode);                                \
	}
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                                   \
	int name(int dir, const char *path, int flags, ...)                                                            \
	{                                                                                                              \
		static int (*real_##name)(int, const char *, int, ...);                                                \
		va_list ap;                                                                                            \
		mode_t mode;                                                                                           \
		va_start(ap, flags);                                                                                   \
		mode = mode_of(flags, ap);                                                                             \
		va_end(ap);                                                                                            \
		return opened(REAL(name)(dir, path, flags, mode), FILE_, path, flags, mode);                           \
	}
OPENAT(openat)
OPENAT(openat64)

int close(int fd)
{
	if (fd >= 0 && fd < MAX_FD) {
		pthread_mutex_lock(&fd_lock);
		drop(fd);
		pthread_mutex_unlock(&fd_lock);
	}
	return REAL(close)(fd);
}

int dup(int fd)
{
	static int (*real_dup)(int);

	return copied(fd, REAL(dup)(fd));
}

int dup2(int fd, int to)
{
	static int (*real_dup2)(int, int);

	return copied(fd, REAL(dup2)(fd, to));
}

int dup3(int fd, int to, int flags)
{
	static int (*real_dup3)(int, int, int);

	return copied(fd, REAL(dup3)(fd, to, flags));
}

static int fcntl_common(int (*real)(int, int, ...), int fd, int cmd, long arg)
{
	int r = real(fd, cmd, arg);

	if (r < 0 || fd < 0 || fd >= MAX_FD)
		return r;
	if (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC)
		return copied(fd, r);
	if (cmd == F_SETFL || cmd == F_SETFD) {
		pthread_mutex_lock(&fd_lock);
		if (fds[fd])
			fds[fd]->flags = cmd == F_SETFL ? (int)arg : (fds[fd]->flags & ~O_CLOEXEC) | (arg ? O_CLOEXEC : 0);
		pthread_mutex_unlock(&fd_lock);
	}
	return r;
}

#define FCNTL(name)                                                                                                    \
	int name(int fd, int cmd, ...)                                                                                 \
	{                                                                                                              \
		static int (*real_##name)(int, int, ...);                                                              \
		va_list ap;                                                                                            \
		long arg;                                                                                              \
		va_start(ap, cmd);                                                                                     \
		arg = va_arg(ap, long);                                                                                \
		va_end(ap);                                                                                            \
		return fcntl_common(REAL(name), fd, cmd, arg);                                                         \
	}
FCNTL(fcntl)
FCNTL(fcntl64)

int pipe2(int p[2], int flags)
{
	static int (*real_pipe2)(int *, int);
	int r = REAL(pipe2)(p, flags);

	if (r == 0) {
		opened(p[0], PIPE, NULL, flags, 0);
		opened(p[1], PIPE, NULL, flags, 0);
	}
	return r;
}

int pipe(int p[2])
{
	return pipe2(p, 0);
}

int socket(int domain, int type, int protocol)
{
	static int (*real_socket)(int, int, int);

	return opened(REAL(socket)(domain, type, protocol), SOCKET, NULL, domain << 16 | type, protocol);
}

int eventfd(unsigned int count, int flags)
{
	static int (*real_eventfd)(unsigned int, int);

	return opened(REAL(eventfd)(count, flags), EVENTFD, NULL, flags, 0);
}

int epoll_create1(int flags)
{
	static int (*real_epoll_create1)(int);

	return opened(REAL(epoll_create1)(flags), EPOLL, NULL, flags, 0);
}

int memfd_create(const char *name, unsigned int flags)
{
	static int (*real_memfd_create)(const char *, unsigned int);

	return opened(REAL(memfd_create)(name, flags), MEMFD, name, flags, 0);
}

/* Mappings: a list in the order they came, searched from the newest. */

struct mapping {
	struct mapping *next;
	char *start;
	size_t length;
	int prot, flags, fd;
	off_t offset;
};

#define MAX_MAPPINGS 65536
static struct mapping *mappings, records[MAX_MAPPINGS];
static struct pool free_mappings;
static pthread_mutex_t map_lock = PTHREAD_MUTEX_INITIALIZER;

static void *mapped(void *start, size_t length, int prot, int flags, int fd, off_t offset)
{
	struct mapping *m;

	if (start == MAP_FAILED)
		return start;
	pthread_mutex_lock(&map_lock);
	if ((m = take(&free_mappings, records, sizeof(*m), MAX_MAPPINGS))) {
		*m = (struct mapping){mappings, start, length, prot, flags, fd, offset};
		mappings = m;
	}
	pthread_mutex_unlock(&map_lock);
	return start;
}

#define MMAP(name)                                                                                                     \
	void *name(void *start, size_t length, int prot, int flags, int fd, off_t offset)                              \
	{                                                                                                              \
		static void *(*real_##name)(void *, size_t, int, int, int, off_t);                                     \
		return mapped(REAL(name)(start, length, prot, flags, fd, offset), length, prot, flags, fd, offset);    \
	}
MMAP(mmap)
MMAP(mmap64)

int munmap(void *start, size_t length)
{
	static int (*real_munmap)(void *, size_t);
	int r = REAL(munmap)(start, length);
	struct mapping **p, *m;

	if (r)
		return r;
	pthread_mutex_lock(&map_lock);
	for (p = &mappings; (m = *p);) {
		if (m->start >= (char *)start && m->start + m->length <= (char *)start + length) {
			*p = m->next;
			give(&free_mappings, m);
		} else {
			p = &m->next;
		}
	}
	pthread_mutex_unlock(&map_lock);
	return r;
}

int mprotect(void *start, size_t length, int prot)
{
	static int (*real_mprotect)(void *, size_t, int);
	int r = REAL(mprotect)(start, length, prot);
	struct mapping *m;

	pthread_mutex_lock(&map_lock);
	for (m = mappings; m && r == 0; m = m->next)
		if (m->start >= (char *)start && m->start + m->length <= (char *)start + length)
			m->prot = prot;
	pthread_mutex_unlock(&map_lock);
	return r;
}

static struct {
	char *top;
	int advice;
} heap;

void *sbrk(intptr_t delta)
{
	static void *(*real_sbrk)(intptr_t);
	char *r = REAL(sbrk)(delta);

	pthread_mutex_lock(&map_lock);
	if (r != (char *)-1)
		heap.top = r + delta;
	pthread_mutex_unlock(&map_lock);
	return r;
}

int madvise(void *start, size_t length, int advice)
{
	static int (*real_madvise)(void *, size_t, int);
	int r = REAL(madvise)(start, length, advice);

	pthread_mutex_lock(&map_lock);
	heap.advice = advice;
	pthread_mutex_unlock(&map_lock);
	return r;
}

/* Everything else has one place each. */

static struct {
	pthread_mutex_t lock;
	struct sigaction actions[_NSIG];
	struct rlimit limits[RLIM_NLIMITS];
	stack_t stack;
	sigset_t mask;
	mode_t umask;
	char cwd[4096], name[16];
} other = {.lock = PTHREAD_MUTEX_INITIALIZER};

int sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	static int (*real_sigaction)(int, const struct sigaction *, struct sigaction *);
	int r = REAL(sigaction)(sig, act, old);

	if (r == 0 && act && sig > 0 && sig < _NSIG) {
		pthread_mutex_lock(&other.lock);
		other.actions[sig] = *act;
		pthread_mutex_unlock(&other.lock);
	}
	return r;
}

int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
	static int (*real_sigprocmask)(int, const sigset_t *, sigset_t *);
	int r = REAL(sigprocmask)(how, set, old);

	if (r == 0 && set) {
		pthread_mutex_lock(&other.lock);
		other.mask = *set;
		pthread_mutex_unlock(&other.lock);
	}
	return r;
}

int sigaltstack(const stack_t *ss, stack_t *old)
{
	static int (*real_sigaltstack)(const stack_t *, stack_t *);
	int r = REAL(sigaltstack)(ss, old);

	if (r == 0 && ss) {
		pthread_mutex_lock(&other.lock);
		other.stack = *ss;
		pthread_mutex_unlock(&other.lock);
	}
	return r;
}

int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
	static int (*real_setrlimit)(__rlimit_resource_t, const struct rlimit *);
	int r = REAL(setrlimit)(resource, limit);

	if (r == 0) {
		pthread_mutex_lock(&other.lock);
		other.limits[resource] = *limit;
		pthread_mutex_unlock(&other.lock);
	}
	return r;
}

mode_t umask(mode_t mask)
{
	static mode_t (*real_umask)(mode_t);

	pthread_mutex_lock(&other.lock);
	other.umask = mask;
	pthread_mutex_unlock(&other.lock);
	return REAL(umask)(mask);
}

int chdir(const char *path)
{
	static int (*real_chdir)(const char *);
	int r = REAL(chdir)(path);

	if (r == 0) {
		pthread_mutex_lock(&other.lock);
		if (!getcwd(other.cwd, sizeof(other.cwd)))
			other.cwd[0] = 0;
		pthread_mutex_unlock(&other.lock);
	}
	return r;
}

int prctl(int option, ...)
{
	static int (*real_prctl)(int, ...);
	va_list ap;
	unsigned long a[4];
	int i, r;

	va_start(ap, option);
	for (i = 0; i < 4; i++)
		a[i] = va_arg(ap, unsigned long);
	va_end(ap);
	r = REAL(prctl)(option, a[0], a[1], a[2], a[3]);
	if (r == 0 && option == PR_SET_NAME) {
		pthread_mutex_lock(&other.lock);
		snprintf(other.name, sizeof(other.name), "%s", (const char *)a[0]);
		pthread_mutex_unlock(&other.lock);
	}
	return r;
}
