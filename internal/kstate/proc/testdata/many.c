// A process with many threads, mappings and descriptors, as the arguments say: for measuring.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

static pthread_mutex_t never = PTHREAD_MUTEX_INITIALIZER;

static void *waiter(void *arg) {
	pthread_mutex_lock(&never);
	return arg;
}

int main(int argc, char **argv) {
	if (argc != 4) return 2;
	int threads = atoi(argv[1]), maps = atoi(argv[2]), fds = atoi(argv[3]);
	struct rlimit rl = {20000, 20000};
	setrlimit(RLIMIT_NOFILE, &rl);
	pthread_mutex_lock(&never);
	for (int i = 0; i < fds; i++)
		if (open("/etc/passwd", O_RDONLY) < 0) return 1;
	char *p = mmap(0, 8192L * (maps + 1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) return 1;
	for (int i = 0; i < maps / 2; i++)
		if (mprotect(p + 8192L * i, 4096, PROT_READ)) return 1;
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	for (int i = 0; i < threads; i++) {
		pthread_t t;
		if (pthread_create(&t, &attr, waiter, 0)) return 1;
	}
	usleep(50000);
	puts("ready");
	fflush(stdout);
	for (;;) pause();
}
