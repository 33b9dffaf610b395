// Descriptors that have to be refused: what is behind them cannot be read, or cannot be made again.
#include "random.h"
#include <linux/bpf.h>
#include <linux/if_alg.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

// open_at_all is the check of most: the program can still use its descriptor.
static void open_at_all(struct item *it)
{
	struct stat st;
	expect("fstat", fstat(it->fd[0], &st), 0);
}

static void set_device(struct item *it)
{
	static const char *const names[] = {"/dev/ptmx", "/dev/fuse", "/dev/loop-control", "/dev/kmsg", "/dev/hwrng", "/dev/loop0", "/dev/net/tun",
					    "/dev/btrfs-control", "/dev/autofs", "/dev/kvm", "/dev/cpu_dma_latency"};
	it->fd[0] = need(it, open(names[it->feature->arg], O_RDONLY | O_NOCTTY | O_NONBLOCK));
}

static void set_pseudo(struct item *it)
{
	static const char *const names[] = {"/proc/self/status", "/proc/self/maps", "/proc/self/mem", "/proc/self/ns/net", "/proc/self/fd", "/proc/self/task",
					    "/proc/self/attr/current", "/proc/thread-self/comm", "/proc/self/pagemap"};
	it->fd[0] = need(it, open(names[it->feature->arg], O_RDONLY));
}

static void set_written(struct item *it)
{
	it->fd[0] = need(it, open(it->feature->arg ? "/sys/kernel/mm/transparent_hugepage/khugepaged/defrag" : "/sys/kernel/mm/transparent_hugepage/enabled", O_WRONLY));
}

// Sockets.
enum { PAIR, PAIR_DGRAM, PAIR_SEQPACKET, UNBOUND, LISTENING, TCP, TCP_LISTENING, TCP_CONNECTED, UDP, UDP6, RAW, PACKET, NETLINK, ALG };

static void set_socket(struct item *it)
{
	static const int kinds[][3] = {
		[PAIR] = {AF_UNIX, SOCK_STREAM}, [PAIR_DGRAM] = {AF_UNIX, SOCK_DGRAM}, [PAIR_SEQPACKET] = {AF_UNIX, SOCK_SEQPACKET},
		[UNBOUND] = {AF_UNIX, SOCK_STREAM}, [LISTENING] = {AF_UNIX, SOCK_STREAM}, [TCP] = {AF_INET, SOCK_STREAM}, [TCP_LISTENING] = {AF_INET, SOCK_STREAM},
		[TCP_CONNECTED] = {AF_INET, SOCK_STREAM}, [UDP] = {AF_INET, SOCK_DGRAM}, [UDP6] = {AF_INET6, SOCK_DGRAM}, [RAW] = {AF_INET, SOCK_RAW, IPPROTO_ICMP},
		[PACKET] = {AF_PACKET, SOCK_RAW}, [NETLINK] = {AF_NETLINK, SOCK_RAW}, [ALG] = {AF_ALG, SOCK_SEQPACKET},
	};
	long how = it->feature->arg;
	const int *k = kinds[how];
	if (how <= PAIR_SEQPACKET) {
		must(socketpair(k[0], k[1], 0, it->fd));
		must(write(it->fd[0], "x", 1));
		return;
	}
	it->fd[0] = need(it, socket(k[0], k[1], k[2]));
	if (how == LISTENING) {
		struct sockaddr_un a = {.sun_family = AF_UNIX}; // no name: the kernel gives one
		must(bind(it->fd[0], (void *)&a, sizeof a.sun_family) + listen(it->fd[0], 1));
	}
	if (how == TCP_LISTENING || how == TCP_CONNECTED) {
		struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		socklen_t len = sizeof a;
		must(bind(it->fd[0], (void *)&a, sizeof a) + listen(it->fd[0], 1) + getsockname(it->fd[0], (void *)&a, &len));
		if (how == TCP_CONNECTED) {
			it->fd[1] = must(socket(AF_INET, SOCK_STREAM, 0));
			must(connect(it->fd[1], (void *)&a, sizeof a));
		}
	}
}

static void check_socket(struct item *it)
{
	char c = 0;
	open_at_all(it);
	if (it->feature->arg <= PAIR_SEQPACKET) {
		expect("read", read(it->fd[1], &c, 1), 1);
		expect("it", c, 'x');
	}
}

static void set_pidfd(struct item *it) { it->fd[0] = need(it, (int)syscall(SYS_pidfd_open, 1, 0)); } // outside of the tree
static void set_fanotify(struct item *it) { it->fd[0] = need(it, fanotify_init(FAN_CLASS_NOTIF, O_RDONLY)); }
static void set_userfaultfd(struct item *it) { it->fd[0] = need(it, (int)syscall(SYS_userfaultfd, O_CLOEXEC)); }
static void set_fscontext(struct item *it) { it->fd[0] = need(it, (int)syscall(SYS_fsopen, "tmpfs", 0)); }
static void set_mount(struct item *it) { it->fd[0] = need(it, (int)syscall(SYS_open_tree, AT_FDCWD, "/proc", 1 /* OPEN_TREE_CLONE */)); }
static void set_secret(struct item *it) { it->fd[0] = need(it, (int)syscall(SYS_memfd_secret, 0)); }
static void set_huge_memfd(struct item *it) { it->fd[0] = need(it, memfd_create("huge", MFD_HUGETLB)); }

static void set_ruleset(struct item *it)
{
	uint64_t handled = 2; // LANDLOCK_ACCESS_FS_WRITE_FILE
	it->fd[0] = need(it, (int)syscall(SYS_landlock_create_ruleset, &handled, sizeof handled, 0));
}

static void set_bpf(struct item *it)
{
	union bpf_attr a = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};
	it->fd[0] = need(it, (int)syscall(SYS_bpf, BPF_MAP_CREATE, &a, sizeof a));
}

static void set_perf(struct item *it)
{
	struct perf_event_attr a = {.type = PERF_TYPE_SOFTWARE, .size = sizeof a, .config = PERF_COUNT_SW_PAGE_FAULTS};
	it->fd[0] = need(it, (int)syscall(SYS_perf_event_open, &a, 0, -1, -1, 0));
	if (it->feature->arg)
		it->p = need(it, mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, it->fd[0], 0));
}

static void set_io_uring(struct item *it)
{
	char params[120] = {0}; // struct io_uring_params
	it->fd[0] = need(it, (int)syscall(SYS_io_uring_setup, 4, params));
	if (it->feature->arg)
		it->p = need(it, mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, it->fd[0], 0));
}

static void set_mqueue(struct item *it)
{
	char name[64];
	snprintf(name, sizeof name, "/random-%d-%s", getpid(), it->name);
	it->fd[0] = need(it, mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, NULL));
	must(mq_unlink(name));
}

static void set_lease(struct item *it)
{
	write_file(path_of(it, ""), "x");
	it->fd[0] = must(open(path_of(it, ""), O_RDONLY));
	need(it, fcntl(it->fd[0], F_SETLEASE, it->feature->arg));
}

static void check_lease(struct item *it) { expect("lease", fcntl(it->fd[0], F_GETLEASE), it->feature->arg); }

static void set_dnotify(struct item *it)
{
	must(mkdir(path_of(it, ""), 0755));
	it->fd[0] = must(open(path_of(it, ""), O_RDONLY));
	need(it, fcntl(it->fd[0], F_NOTIFY, DN_CREATE | DN_MULTISHOT));
}

static void set_owner_outside(struct item *it)
{
	must(pipe(it->fd));
	must(fcntl(it->fd[0], F_SETOWN, 1));
}

static void check_owner_outside(struct item *it) { expect("owner", fcntl(it->fd[0], F_GETOWN), 1); }

static void set_mixed_pipe(struct item *it)
{
	must(pipe2(it->fd, O_DIRECT));
	must(write(it->fd[1], "packet", 6));
	must(fcntl(it->fd[1], F_SETFL, 0));
	must(write(it->fd[1], "plain", 5));
}

static void check_mixed_pipe(struct item *it)
{
	char b[32];
	expect("the packet", read(it->fd[0], b, sizeof b), 6);
}

// A file whose only name left is in another directory.
static void set_elsewhere(struct item *it)
{
	write_file(path_of(it, ""), "content");
	must(mkdir(path_of(it, ".d"), 0755));
	it->fd[0] = must(open(path_of(it, ""), O_RDWR));
	must(link(path_of(it, ""), path_of(it, ".d/link")));
	must(unlink(path_of(it, "")));
}

enum { FIRED, CLOSED };

static void set_epoll(struct item *it)
{
	struct epoll_event e = {.events = EPOLLIN | (it->feature->arg == FIRED ? EPOLLONESHOT : 0)};
	it->fd[0] = must(epoll_create1(EPOLL_CLOEXEC));
	it->fd[1] = must(eventfd(1, EFD_CLOEXEC));
	must(epoll_ctl(it->fd[0], EPOLL_CTL_ADD, it->fd[1], &e));
	if (it->feature->arg == FIRED) {
		must(epoll_wait(it->fd[0], &e, 1, 0));
	} else {
		it->fd[2] = must(dup(it->fd[1]));
		close(it->fd[1]);
	}
}

static void check_epoll(struct item *it)
{
	struct epoll_event e;
	expect("events", epoll_wait(it->fd[0], &e, 1, 0), it->feature->arg == CLOSED);
}

static void set_inotify(struct item *it)
{
	it->fd[0] = must(inotify_init1(IN_CLOEXEC));
	must(mkdir(path_of(it, ""), 0755));
	must(inotify_add_watch(it->fd[0], path_of(it, ""), IN_CREATE));
	write_file(path_of(it, "/new"), "");
}

static void check_inotify(struct item *it)
{
	char b[64];
	expect("read", read(it->fd[0], b, sizeof b), 32);
}

#define SOCKET(name, kind) {"socket " name, set_socket, check_socket, kind, 0, NULL, "E_FD_SOCKET"}
#define DEVICE(name, at) {"device " name, set_device, open_at_all, at, 0, NULL, "E_FD_DEVICE"}
#define PSEUDO(name, at) {"proc own " name, set_pseudo, open_at_all, at, 0, NULL, "E_FD_PSEUDO"}
#define KIND(name, set, arg) {name, set, open_at_all, arg, 0, NULL, "E_FD_KIND"}

static const struct feature features[] = {
	SOCKET("pair", PAIR), SOCKET("datagram pair", PAIR_DGRAM), SOCKET("packet pair", PAIR_SEQPACKET), SOCKET("unbound", UNBOUND), SOCKET("listening", LISTENING),
	SOCKET("TCP", TCP), SOCKET("TCP listening", TCP_LISTENING), SOCKET("TCP connected", TCP_CONNECTED), SOCKET("UDP", UDP), SOCKET("UDP6", UDP6),
	SOCKET("raw", RAW), SOCKET("packet", PACKET), SOCKET("netlink", NETLINK), SOCKET("algorithm", ALG),
	DEVICE("ptmx", 0), DEVICE("fuse", 1), DEVICE("loop-control", 2), DEVICE("kmsg", 3), DEVICE("hwrng", 4), DEVICE("block", 5), DEVICE("tun", 6),
	DEVICE("btrfs-control", 7), DEVICE("autofs", 8), DEVICE("kvm", 9), DEVICE("cpu_dma_latency", 10),
	PSEUDO("status", 0), PSEUDO("maps", 1), PSEUDO("mem", 2), PSEUDO("fd", 4), PSEUDO("task", 5), PSEUDO("attr", 6), PSEUDO("comm", 7),
	PSEUDO("pagemap", 8),
	KIND("proc own ns", set_pseudo, 3),
	{"sysfs file written", set_written, open_at_all, 0, 0, NULL, "E_FD_PSEUDO"},
	KIND("pidfd of init", set_pidfd, 0), KIND("fanotify", set_fanotify, 0), KIND("userfaultfd", set_userfaultfd, 0), KIND("file system context", set_fscontext, 0),
	KIND("Landlock ruleset", set_ruleset, 0), KIND("BPF map", set_bpf, 0), KIND("perf event", set_perf, 0), KIND("io_uring", set_io_uring, 0),
	{"detached mount", set_mount, open_at_all, 0, 0, NULL, "E_FD_KIND,E_FD_DELETED,E_FD_PSEUDO,E_NOT_RESTORABLE"},
	{"secret memory", set_secret, open_at_all, 0, 0, NULL, "E_FD_KIND,E_FD_PSEUDO,E_FD_STATE"},
	{"memfd of huge pages", set_huge_memfd, open_at_all, 0, 0, NULL, "E_FD_STATE"},
	{"perf event mapped", set_perf, open_at_all, 1, ALONE, NULL, "E_FD_KIND,E_MAPPING"},
	{"io_uring mapped", set_io_uring, open_at_all, 1, 0, NULL, "E_FD_KIND,E_MAPPING"},
	{"POSIX message queue", set_mqueue, open_at_all, 0, 0, NULL, "E_FD_PSEUDO,E_FD_KIND"},
	{"lease for reading", set_lease, check_lease, F_RDLCK, 0, NULL, "E_FD_LEASE"},
	{"lease for writing", set_lease, check_lease, F_WRLCK, 0, NULL, "E_FD_LEASE"},
	{"directory notification", set_dnotify, open_at_all, 0, 0, NULL, "E_FD_NOTIFY"},
	{"owner outside", set_owner_outside, check_owner_outside, 0, 0, NULL, "E_FD_STATE"},
	{"pipe with packets and plain data", set_mixed_pipe, check_mixed_pipe, 0, 0, NULL, "E_FD_STATE"},
	{"file with a name elsewhere", set_elsewhere, open_at_all, 0, 0, NULL, "E_FD_DELETED,E_NOT_RESTORABLE"},
	{"epoll one-shot fired", set_epoll, check_epoll, FIRED, 0, NULL, "E_FD_STATE"},
	{"epoll entry closed", set_epoll, check_epoll, CLOSED, 0, NULL, "E_FD_STATE"},
	{"inotify with events", set_inotify, check_inotify, 0, 0, NULL, "E_FD_STATE"},
};

TABLE(refused_fds);
