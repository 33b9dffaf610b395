// A program drawn at random: what its parts have in common. A feature is one kind of state: it is set up before READY
// and checked after the go sign. A program has many of them, spread over processes and threads; which ones, the seed
// says.
#ifndef RANDOM_H
#define RANDOM_H

#define CKPT_SEVERAL_FILES
#include "../ckpt.h"

#pragma GCC diagnostic ignored "-Wmissing-field-initializers" // what a line of a table leaves out is zero

struct feature;

// item is a feature of a program: an instance, with what its check needs to know. Everything of it is in private
// memory.
struct item {
	const struct feature *feature;
	char name[24];   // the beginning of the names of its files, unique in the program
	uint64_t random; // a number of its own
	int lacking;     // this machine lacks the thing
	char *p, *q;
	int fd[4];
	long long v[6];
	pid_t pid;
	char text[256];
};

enum {
	OF_A_THREAD = 1, // it belongs to one thread: any
	ALONE = 2,       // it gets a process of its own: it hinders others, or others would disturb it
	LAST = 4,        // set up when everything else of the process is: it takes rights or room away
	RARE = 8,        // it takes long or much: drawn less often
	BLOCKS = 16,     // it waits in a system call, instead of for the go sign; needs ALONE
};

struct feature {
	const char *name;
	void (*set)(struct item *);
	void (*check)(struct item *);
	long arg;
	int flags;
	const char *alone;   // features with the same word here exclude each other in a process, or in a thread
	const char *refused; // the codes a refusal has, with commas between; NULL for what is supported
};

// table is a list of features of one file.
struct table {
	const struct feature *features;
	size_t n;
};

extern const struct table memory_table, filemap_table, files_table, pipes_table, events_table, timers_table, signals_table, process_table, rights_table,
	children_table, calls_table, exec_table, refused_table, refused_fds_table;

// lack says that this machine lacks what the feature needs.
#define lack(it)                                                                                                                     \
	do {                                                                                                                         \
		(it)->lacking = 1;                                                                                                   \
		return;                                                                                                              \
	} while (0)

// need makes the call, and the feature lacking if it fails because the machine does not have the thing.
#define need(it, call)                                                                                                               \
	({                                                                                                                           \
		__auto_type need_result = (call);                                                                                    \
		if ((long)need_result == -1) {                                                                                       \
			if (!is_lack(errno))                                                                                         \
				die("%s: %s", (it)->feature->name, #call);                                                           \
			lack(it);                                                                                                    \
		}                                                                                                                    \
		need_result;                                                                                                         \
	})

int is_lack(int err);

// path_of is the path of a file of the item's own; the result is valid until the thread's next but three calls.
const char *path_of(const struct item *it, const char *suffix);
// go_path is the path of the go sign.
const char *go_path(void);
// new_root says that the program's directory is the root directory now.
void new_root(void);
// await_go waits for the go sign, wherever the current directory is.
void await_go(void);
int have_go(void);
// signal_number hands out real-time signals, each once in a process; -1 if there are no more.
int signal_number(void);
uint64_t draw(uint64_t *state);

// Content that depends on a seed, so that a page in the wrong place is seen.
void fill(void *p, size_t len, uint64_t seed);
void check_fill(const char *what, const void *p, size_t len, uint64_t seed);
void make_file(const char *name, size_t len, uint64_t seed);
char *map(size_t len, int prot, int flags, int fd, off_t off);
char *anon(size_t len); // mapped so that it has no neighbours it could be merged with
void expect_flag(const void *p, const char *flag); // VmFlags of the mapping at p has it
void write_file(const char *name, const char *text);
char *read_file(const char *name, char *buf, size_t n);
int block(int sig);
int take(int sig, siginfo_t *info); // dequeues sig without waiting; its number, or -1
int next_ticks(int fd, uint64_t *ticks); // what a read of an eventfd or timerfd gives without waiting; -1 with errno

// helper starts a process that waits for nothing: body runs in it, then it ends with what body returns. It says with
// told() that it is as it should be; the pid is negative if it has ended without that.
pid_t helper(struct item *it, int (*body)(struct item *));
void told(void);
// status_of waits for a child and returns its wait status.
int status_of(pid_t pid);

// executed is the main function of a program of exec.c.
int executed(char **argv);

#define TABLE(name) const struct table name##_table = {features, COUNT(features)}

#endif
