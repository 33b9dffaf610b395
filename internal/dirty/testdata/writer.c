// A program that does to its memory what it is told, one line at a time, and answers "ok".
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SLOTS 12
#define PAGE 4096UL

static struct {
	char *at;
	size_t pages;
	int prot, guard, shared;
} slot[SLOTS];
static unsigned counter;
static pid_t child;

static void fill(char *p)
{
	counter++;
	memcpy(p + counter * 64 % (PAGE - 8), &counter, sizeof counter);
}

static void unmap(int s)
{
	if (slot[s].at)
		munmap(slot[s].at, slot[s].pages * PAGE);
	slot[s].at = NULL;
	slot[s].pages = 0;
}

static void map(int s, size_t pages, const char *how, char *at)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS, fd = -1;
	if (!strcmp(how, "file")) {
		flags = MAP_PRIVATE;
		fd = open("content", O_RDONLY);
	} else if (!strcmp(how, "shared")) {
		flags = MAP_SHARED | MAP_ANONYMOUS;
	}
	if (at)
		flags |= MAP_FIXED;
	char *p = mmap(at, pages * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (fd >= 0)
		close(fd);
	if (p == MAP_FAILED)
		return;
	if (!strcmp(how, "huge"))
		madvise(p, pages * PAGE, MADV_HUGEPAGE);
	if (!strcmp(how, "small")) // a huge page has one soft-dirty bit for all of it
		madvise(p, pages * PAGE, MADV_NOHUGEPAGE);
	slot[s].at = p;
	slot[s].pages = pages;
	slot[s].prot = PROT_READ | PROT_WRITE;
	slot[s].guard = 0;
	slot[s].shared = !!(flags & MAP_SHARED);
}

static void move(int s, size_t pages, int flags)
{
	char *p = mremap(slot[s].at, slot[s].pages * PAGE, pages * PAGE, flags);
	if (p == MAP_FAILED)
		return;
	slot[s].at = p;
	slot[s].pages = pages;
}

static void touch(int s, size_t first, size_t n, int write)
{
	volatile char sink;
	if (slot[s].guard)
		return;
	for (size_t i = first; i < first + n && i < slot[s].pages; i++) {
		if (write && slot[s].prot & PROT_WRITE)
			fill(slot[s].at + i * PAGE);
		else if (!write && slot[s].prot & PROT_READ)
			sink = slot[s].at[i * PAGE];
	}
	(void)sink;
}

// Registers a slot with a userfaultfd of its own, in mode missing or, asynchronously, write-protected; prints whether it could.
static int own(int s, int async)
{
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | 1);
	struct uffdio_api api = {.api = UFFD_API, .features = async ? 1 << 15 : 0}; // UFFD_FEATURE_WP_ASYNC, Linux 6.7
	struct uffdio_register reg = {
		.range = {(uintptr_t)slot[s].at, slot[s].pages * PAGE},
		.mode = async ? UFFDIO_REGISTER_MODE_WP : UFFDIO_REGISTER_MODE_MISSING,
	};
	return fd >= 0 && !ioctl(fd, UFFDIO_API, &api) && !ioctl(fd, UFFDIO_REGISTER, &reg);
}

int main(int argc, char **argv)
{
	char line[256], op[32], how[32];
	setvbuf(stdout, NULL, _IONBF, 0);
	puts("ok");
	while (fgets(line, sizeof line, stdin)) {
		int s = 0;
		size_t a = 0, b = 0;
		how[0] = 0;
		sscanf(line, "%31s %d %zu %zu %31s", op, &s, &a, &b, how);
		int used = slot[s].at != NULL;
		char *from = used ? slot[s].at + (a < slot[s].pages ? a : 0) * PAGE : NULL;
		size_t n = used && a < slot[s].pages ? (b < slot[s].pages - a ? b : slot[s].pages - a) * PAGE : 0;
		if (!strcmp(op, "map")) {
			unmap(s);
			map(s, a, how, NULL);
		} else if (!strcmp(op, "remap") && used) // at the same place
			map(s, slot[s].pages, how, slot[s].at);
		else if (!strcmp(op, "unmap"))
			unmap(s);
		else if (!strcmp(op, "write"))
			touch(s, a, b, 1);
		else if (!strcmp(op, "read"))
			touch(s, a, b, 0);
		else if (!strcmp(op, "resize") && used && a && !slot[s].shared) // beyond the object
			move(s, a, MREMAP_MAYMOVE);
		else if (!strcmp(op, "move") && used) {
			char *p = mmap(NULL, slot[s].pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			p = mremap(slot[s].at, slot[s].pages * PAGE, slot[s].pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p);
			if (p != MAP_FAILED)
				slot[s].at = p;
		} else if (!strcmp(op, "advise") && n) {
			int advice = !strcmp(how, "dontneed") ? MADV_DONTNEED : !strcmp(how, "free") ? MADV_FREE
				: !strcmp(how, "pageout") ? 21 : !strcmp(how, "collapse") ? 25 : !strcmp(how, "guard") ? 102
				: !strcmp(how, "remove") ? MADV_REMOVE : MADV_NORMAL;
			madvise(from, n, advice);
			slot[s].guard |= advice == 102;
		} else if (!strcmp(op, "protect") && used) {
			slot[s].prot = !strcmp(how, "none") ? PROT_NONE : !strcmp(how, "ro") ? PROT_READ : PROT_READ | PROT_WRITE;
			mprotect(slot[s].at, slot[s].pages * PAGE, slot[s].prot);
		} else if (!strcmp(op, "fork")) {
			if (child) {
				kill(child, 9);
				waitpid(child, NULL, 0);
			}
			pid_t self = getpid();
			if (!(child = fork())) {
				prctl(PR_SET_PDEATHSIG, SIGKILL); // who executes itself forgets its child
				if (getppid() != self)
					_exit(0); // it has ended already
				for (s = 0; s < SLOTS; s++)
					if (slot[s].at)
						touch(s, 0, 8, 1);
				for (;;)
					pause();
			}
		} else if (!strcmp(op, "brk"))
			fill(sbrk((a + 1) * PAGE) + PAGE - 200);
		else if (!strcmp(op, "own")) {
			puts(own(s, !strcmp(how, "async")) ? "yes" : "no");
			continue;
		} else if (!strcmp(op, "where")) {
			printf("%lx\n", (unsigned long)slot[s].at);
			continue;
		} else if (!strcmp(op, "churn") && used) { // for ever
			puts("ok");
			for (unsigned r = 1;; r = r * 1664525 + 1013904223) {
				size_t page = r / 7 % slot[s].pages;
				fill(slot[s].at + page * PAGE);
				if (r % 61 == 0)
					madvise(slot[s].at + page * PAGE, PAGE, MADV_DONTNEED);
				if (r % 37 == 0)
					usleep(1000);
			}
		} else if (!strcmp(op, "exec"))
			execv(argv[0], argv);
		puts("ok");
	}
	if (child)
		kill(child, 9);
	return argc < 0;
}
