// The frame of the test programs in C. A program has cases; each case sets up one kind of state, calls ready(), which
// says READY and waits for the file "go" in the current directory, and then checks the state with expect() and its
// friends. What differs is printed, OK if nothing does. A snapshot and a restore between READY and the end must go
// unnoticed, so the output is the same with and without them.
#ifndef CKPT_H
#define CKPT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000LL
#define SEC 1000000000LL

// How much later than due something may be, in ms: the time from a snapshot to the death and that of a restore, on a
// busy machine.
#define LATE 20000
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define PAGE 4096UL

struct test_case {
	const char *name;
	void (*run)(void);
};

#ifdef CKPT_SEVERAL_FILES // a program of several files defines it in one of them
extern int differences;
#else
static int differences;
#endif
static int __attribute__((unused)) case_steps; // argv[2]: how long a case that computes goes on, 0 for its own choice

// differs reports one difference.
static void __attribute__((format(printf, 1, 2), unused)) differs(const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	printf("differs: ");
	vprintf(format, ap);
	printf("\n");
	fflush(stdout);
	va_end(ap);
	differences++;
}

// die ends the program because it could not set up its state.
static void __attribute__((format(printf, 1, 2), noreturn, unused)) die(const char *format, ...)
{
	int saved = errno;
	va_list ap;
	va_start(ap, format);
	printf("cannot set up: ");
	vprintf(format, ap);
	printf(": %s\n", strerror(saved));
	fflush(stdout);
	va_end(ap);
	_exit(2);
}

static void __attribute__((unused)) expect(const char *what, long long have, long long want)
{
	if (have != want)
		differs("%s: have %lld (0x%llx), want %lld (0x%llx)", what, have, have, want, want);
}

static void __attribute__((unused)) expect_range(const char *what, long long have, long long low, long long high)
{
	if (have < low || have > high)
		differs("%s: have %lld, want %lld to %lld", what, have, low, high);
}

static void __attribute__((unused)) expect_str(const char *what, const char *have, const char *want)
{
	if (strcmp(have, want) != 0)
		differs("%s: have \"%s\", want \"%s\"", what, have, want);
}

static void __attribute__((unused)) expect_mem(const char *what, const void *have, const void *want, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (((const unsigned char *)have)[i] != ((const unsigned char *)want)[i]) {
			differs("%s: byte %zu is %02x, want %02x", what, i, ((const unsigned char *)have)[i], ((const unsigned char *)want)[i]);
			return;
		}
	}
}

// must is for calls of the set-up: it ends the program if the call failed.
#define must(call)                                                                                                                   \
	({                                                                                                                           \
		__auto_type must_result = (call);                                                                                    \
		if ((long)must_result == -1)                                                                                         \
			die("%s", #call);                                                                                            \
		must_result;                                                                                                         \
	})

static long long __attribute__((unused)) now(clockid_t clock)
{
	struct timespec ts;
	clock_gettime(clock, &ts);
	return ts.tv_sec * SEC + ts.tv_nsec;
}

// nap sleeps for ns whatever signals arrive.
static void __attribute__((unused)) nap(long long ns)
{
	struct timespec ts = {ns / SEC, ns % SEC};
	while (nanosleep(&ts, &ts) == -1 && errno == EINTR)
		;
}

// say_ready prints READY.
static void __attribute__((unused)) say_ready(void)
{
	printf("READY\n");
	fflush(stdout);
}

// wait_go waits for the file "go".
static void __attribute__((unused)) wait_go(void)
{
	while (access("go", F_OK) != 0)
		nap(2 * MS);
}

static void __attribute__((unused)) ready(void)
{
	say_ready();
	wait_go();
}

// outage is how long the program did not exist, in ns: the test writes it, in ms, into the file "outage" before the
// restore.
static long long __attribute__((unused)) outage(void)
{
	FILE *f = fopen("outage", "r");
	long long ms = 0;
	if (f != NULL) {
		if (fscanf(f, "%lld", &ms) != 1)
			ms = 0;
		fclose(f);
	}
	return ms * MS;
}

// proc_line copies what follows "KEY:" and blanks in a file of /proc, without the newline, into buf.
static __attribute__((unused)) char *proc_line(const char *path, const char *key, char *buf, size_t n)
{
	FILE *f = fopen(path, "r");
	char line[8192];
	buf[0] = 0;
	if (f == NULL)
		return buf;
	while (fgets(line, sizeof line, f) != NULL) {
		size_t k = strlen(key);
		if (strncmp(line, key, k) != 0 || line[k] != ':')
			continue;
		char *s = line + k + 1;
		s += strspn(s, " \t");
		s[strcspn(s, "\n")] = 0;
		snprintf(buf, n, "%s", s);
		break;
	}
	fclose(f);
	return buf;
}

// smaps returns, in buf, the line of /proc/self/smaps that begins with key, for the mapping that starts at p.
static char __attribute__((unused)) *smaps(const void *p, const char *key, char *buf, size_t n)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	char line[5000]; // a name may have PATH_MAX bytes
	int here = 0;
	buf[0] = 0;
	while (f != NULL && fgets(line, sizeof line, f) != NULL) {
		unsigned long start, end;
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = start == (unsigned long)p;
		if (here && strncmp(line, key, strlen(key)) == 0) {
			line[strcspn(line, "\n")] = 0;
			snprintf(buf, n, "%s", line);
			break;
		}
	}
	if (f != NULL)
		fclose(f);
	return buf;
}

static int __attribute__((unused)) run_cases(const struct test_case *cases, size_t n, int argc, char **argv)
{
	if (argc < 2) {
		for (size_t i = 0; i < n; i++)
			printf("%s\n", cases[i].name);
		return 0;
	}
	for (size_t i = 0; i < n; i++) {
		if (strcmp(cases[i].name, argv[1]) != 0)
			continue;
		case_steps = argc > 2 ? atoi(argv[2]) : 0;
		cases[i].run();
		if (differences == 0)
			printf("OK\n");
		fflush(stdout);
		return differences != 0;
	}
	fprintf(stderr, "no case %s\n", argv[1]);
	return 64;
}

#define MAIN(cases)                                                                                                                  \
	int main(int argc, char **argv) { return run_cases(cases, COUNT(cases), argc, argv); }

#endif
