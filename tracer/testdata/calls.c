// Makes one call of each kind that a watch tells of, then ends with status 3.
#include "../../integration/testdata/ckpt.h"
#include <dlfcn.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

static void handler(int sig) { (void)sig; }

static void *thread(void *arg) { return arg; }

static void mappings(void)
{
	int fd = must(open("file", O_RDWR | O_CREAT, 0600));
	must(ftruncate(fd, 100000));
	char *p = must(mmap(NULL, 12345, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	must(munmap(p, 12345));
	must(mmap(NULL, 54321, PROT_READ, MAP_SHARED, fd, 0));
	p = must(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	must(mprotect(p, PAGE, PROT_READ));
	must(mprotect(p, PAGE, PROT_READ | PROT_WRITE));
	p = must(mremap(p, 8192, 40960, MREMAP_MAYMOVE));
	must(madvise(p, PAGE, MADV_DONTFORK));
	must(mlock(p, PAGE));
	close(fd);
}

static void descriptors(void)
{
	int pair[2];
	must(symlink("file", "link"));
	int fd = must(open("./link", O_RDONLY));
	must(dup2(fd, 77));
	must(pipe2(pair, O_CLOEXEC));
	sigset_t none;
	sigemptyset(&none);
	must(eventfd(0, 0));
	must(epoll_create1(0));
	must(signalfd(-1, &none, 0));
	must(timerfd_create(CLOCK_MONOTONIC, 0));
	must(memfd_create("calls", 0));
	must(socket(AF_UNIX, SOCK_DGRAM, 0));
	must(inotify_add_watch(must(inotify_init1(0)), "/etc", IN_CREATE));
}

static void rest(void)
{
	struct sigaction sa = {.sa_handler = handler};
	struct rlimit r = {4321, RLIM_INFINITY};
	stack_t ss = {.ss_sp = malloc(65536), .ss_size = 65536};
	pthread_t t;
	must(sigaction(SIGUSR1, &sa, NULL));
	must(sigaltstack(&ss, NULL));
	must(setrlimit(RLIMIT_CORE, &r));
	umask(027);
	must(prctl(PR_SET_NAME, "renamed"));
	pthread_create(&t, NULL, thread, NULL);
	pthread_join(t, NULL);
	void *library = dlopen("libm.so.6", RTLD_NOW);
	if (library) // a static program may find none
		dlclose(library);
	must(chdir("/tmp"));
}

int main(void)
{
	ready();
	mappings();
	descriptors();
	rest();
	pid_t child = must(fork());
	if (child == 0) {
		must(open("/dev/null", O_RDONLY));
		execl("/bin/true", "true", NULL);
		_exit(9);
	}
	must(waitpid(child, NULL, 0));
	return 3;
}
