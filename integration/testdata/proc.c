// Attributes of processes and threads.
#include "ckpt.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/membarrier.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <stddef.h>
#include <sys/personality.h>
#include <sys/resource.h>

static void limits(void)
{
	struct rlimit before[RLIM_NLIMITS], after;
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit r;
		must(getrlimit(i, &r));
		if (i == RLIMIT_CORE || i == RLIMIT_CPU || i == RLIMIT_MSGQUEUE || i == RLIMIT_SIGPENDING) {
			r.rlim_cur = r.rlim_max == RLIM_INFINITY ? 12345 + (rlim_t)i : r.rlim_max / 2;
			must(setrlimit(i, &r));
		}
	}
	struct rlimit files = {100, 200};
	must(setrlimit(RLIMIT_NOFILE, &files));
	for (int i = 0; i < RLIM_NLIMITS; i++)
		must(getrlimit(i, &before[i]));
	ready();
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		must(getrlimit(i, &after));
		if (after.rlim_cur != before[i].rlim_cur || after.rlim_max != before[i].rlim_max)
			differs("limit %d: have %llu of %llu, want %llu of %llu", i, (long long)after.rlim_cur, (long long)after.rlim_max,
				(long long)before[i].rlim_cur, (long long)before[i].rlim_max);
	}
}

static void niceness(void)
{
	must(setpriority(PRIO_PROCESS, 0, 7));
	must(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6)); // best effort, level 6
	ready();
	expect("nice", getpriority(PRIO_PROCESS, 0), 7);
	expect("ioprio", syscall(SYS_ioprio_get, 1, 0), 2 << 13 | 6);
}

static void *batch_thread(void *arg)
{
	struct sched_param p = {0};
	must(sched_setscheduler(0, SCHED_BATCH, &p));
	must(setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 3));
	*(volatile int *)arg = 1;
	wait_go();
	expect("policy of the thread", sched_getscheduler(0), SCHED_BATCH);
	expect("nice of the thread", getpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid)), 3);
	return NULL;
}

static void sched(void)
{
	struct sched_param p = {.sched_priority = 11};
	volatile int up = 0;
	pthread_t t;
	must(-pthread_create(&t, NULL, batch_thread, (void *)&up));
	while (!up)
		nap(MS);
	must(setpriority(PRIO_PROCESS, 0, 7)); // which counts again when the policy is another
	int fifo = sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &p) == 0; // needs CAP_SYS_NICE
	ready();
	if (fifo) {
		expect("policy", sched_getscheduler(0), SCHED_RR | SCHED_RESET_ON_FORK);
		must(sched_getparam(0, &p));
		expect("priority", p.sched_priority, 11);
	}
	expect("nice", getpriority(PRIO_PROCESS, 0), 7);
	pthread_join(t, NULL);
}

static void *pinned_thread(void *arg)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(1, &set);
	must(sched_setaffinity(0, sizeof set, &set));
	*(volatile int *)arg = 1;
	wait_go();
	CPU_ZERO(&set);
	must(sched_getaffinity(0, sizeof set, &set));
	expect("CPUs of the thread", CPU_COUNT(&set), 1);
	expect("CPU 1 of the thread", CPU_ISSET(1, &set), 1);
	return NULL;
}

static void affinity(void)
{
	cpu_set_t set;
	volatile int up = 0;
	pthread_t t;
	must(-pthread_create(&t, NULL, pinned_thread, (void *)&up));
	while (!up)
		nap(MS);
	CPU_ZERO(&set);
	CPU_SET(0, &set);
	must(sched_setaffinity(0, sizeof set, &set));
	ready();
	CPU_ZERO(&set);
	must(sched_getaffinity(0, sizeof set, &set));
	expect("CPUs", CPU_COUNT(&set), 1);
	expect("CPU 0", CPU_ISSET(0, &set), 1);
	pthread_join(t, NULL);
}

static void oom(void)
{
	char b[32] = "";
	int fd = must(open("/proc/self/oom_score_adj", O_WRONLY));
	must(write(fd, "321", 3));
	close(fd);
	ready();
	fd = must(open("/proc/self/oom_score_adj", O_RDONLY));
	must(read(fd, b, sizeof b - 1));
	expect("oom_score_adj", atoi(b), 321);
}

static void directory(void)
{
	char b[4096], want[4096];
	must(mkdir("sub dir", 0755));
	must(symlink("../go", "sub dir/go"));
	must(chdir("sub dir"));
	must((long)getcwd(want, sizeof want) ? 0 : -1);
	umask(0137);
	ready();
	expect_str("cwd", getcwd(b, sizeof b), want);
	expect("umask", umask(0), 0137);
	expect("mkdir", mkdir("inner", 0777), 0);
}

static void removed_directory(void)
{
	char b[4096];
	struct stat st;
	int above = must(open(".", O_PATH | O_DIRECTORY)), self;
	must(mkdir("sub dir", 0750));
	must(chdir("sub dir"));
	self = must(open(".", O_RDONLY | O_DIRECTORY));
	must(rmdir("../sub dir"));
	say_ready();
	while (faccessat(above, "go", F_OK, 0) != 0)
		nap(2 * MS);
	expect("cwd", getcwd(b, sizeof b) == NULL, 1);
	must(stat(".", &st));
	expect("mode", st.st_mode, S_IFDIR | 0750);
	ino_t ino = st.st_ino;
	must(fstat(self, &st));
	expect("the same directory by a descriptor", st.st_ino == ino, 1);
	expect("a file in it", open("new", O_CREAT | O_WRONLY, 0600), -1);
}

static void root_directory(void)
{
	char b[4096];
	must(mkdir("jail", 0755));
	must(mkdir("jail/proc", 0755));
	must(chroot("jail"));
	must(chdir("/"));
	say_ready();
	while (access("/go", F_OK) != 0) // the test writes jail/go
		nap(2 * MS);
	expect_str("cwd", getcwd(b, sizeof b), "/");
	expect("file in the root", access("/proc", F_OK), 0);
	expect("file outside", access("/etc/passwd", F_OK), -1);
}

static void ids(void)
{
	gid_t groups[] = {7, 100, 65534, 4242};
	must(setgroups(COUNT(groups), groups));
	must(setresgid(1001, 1002, 1003));
	must(setresuid(2001, 2002, 2003));
	ready();
	uid_t r, e, s;
	gid_t have[16];
	must(getresuid(&r, &e, &s));
	expect("uid", r, 2001);
	expect("euid", e, 2002);
	expect("suid", s, 2003);
	must(getresgid(&r, &e, &s));
	expect("gid", r, 1001);
	expect("egid", e, 1002);
	expect("sgid", s, 1003);
	expect("groups", getgroups(16, have), 4);
	expect("first group", have[0], 7);
	expect("last group", have[3], 65534);
	expect("cannot go back", setuid(0), -1);
}

static void *other_user(void *arg)
{
	must(syscall(SYS_setresuid, 3001, 3001, 3001));
	*(volatile int *)arg = 1;
	while (access("go", F_OK) != 0)
		nap(2 * MS);
	expect("uid of the thread", syscall(SYS_getuid), 3001);
	return NULL;
}

static void thread_ids(void)
{
	volatile int up = 0;
	pthread_t t;
	must(-pthread_create(&t, NULL, other_user, (void *)&up));
	while (!up)
		nap(MS);
	ready();
	expect("uid of the leader", syscall(SYS_getuid), 0);
	pthread_join(t, NULL);
}

static void caps_get(struct __user_cap_data_struct *data)
{
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	must(syscall(SYS_capget, &h, data));
}

static void capabilities(void)
{
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2] = {0}, after[2];
	must(prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE));
	must(prctl(PR_CAPBSET_DROP, CAP_MKNOD));
	must(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT | SECBIT_NOROOT_LOCKED));
	must(setresuid(1234, 1234, 1234));
	d[0].permitted = 1 << CAP_NET_BIND_SERVICE | 1 << CAP_CHOWN | 1 << CAP_KILL;
	d[0].effective = 1 << CAP_CHOWN;
	d[0].inheritable = 1 << CAP_NET_BIND_SERVICE;
	must(syscall(SYS_capset, &h, d));
	must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
	ready();
	caps_get(after);
	expect("permitted", after[0].permitted, d[0].permitted);
	expect("effective", after[0].effective, d[0].effective);
	expect("inheritable", after[0].inheritable, d[0].inheritable);
	expect("high words", after[1].permitted | after[1].effective | after[1].inheritable, 0);
	expect("bounding CAP_SYS_MODULE", prctl(PR_CAPBSET_READ, CAP_SYS_MODULE), 0);
	expect("bounding CAP_MKNOD", prctl(PR_CAPBSET_READ, CAP_MKNOD), 0);
	expect("bounding CAP_CHOWN", prctl(PR_CAPBSET_READ, CAP_CHOWN), 1);
	expect("ambient", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_NET_BIND_SERVICE, 0, 0), 1);
	expect("securebits", prctl(PR_GET_SECUREBITS), SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT | SECBIT_NOROOT_LOCKED);
}

static void no_new_privs(void)
{
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	ready();
	expect("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
}

// A filter that makes one system call fail with an errno of its own.
static void install_filter(unsigned nr, unsigned err)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | err),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {COUNT(code), code};
	must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog));
}

static void seccomp_filter(void)
{
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	install_filter(SYS_getppid, 71);
	install_filter(SYS_getpgid, 72);
	install_filter(SYS_getppid, 73); // the later one wins: both return ERRNO, the last installed runs first
	syscall(SYS_getppid);
	int before = errno;
	ready();
	expect("getppid", syscall(SYS_getppid), -1);
	expect("its errno", errno, before);
	expect("getpgid", syscall(SYS_getpgid, 0), -1);
	expect("its errno", errno, 72);
	expect("mode", prctl(PR_GET_SECCOMP), 2);
	char b[32];
	expect_str("filters", proc_line("/proc/self/status", "Seccomp_filters", b, sizeof b), "3");
}

static void dumpable(void)
{
	must(prctl(PR_SET_DUMPABLE, 0));
	ready();
	expect("dumpable", prctl(PR_GET_DUMPABLE), 0);
}

struct deadline {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

static void deadline(void)
{
	// SCHED_DEADLINE, RESET_ON_FORK, RECLAIM
	struct deadline want = {sizeof want, 6, 1 | 2, 0, 0, MS, 50 * MS, 100 * MS}, have = {0};
	int set = syscall(SYS_sched_setattr, 0, &want, 0) == 0; // needs CAP_SYS_NICE, and room
	ready();
	if (!set)
		return;
	must(syscall(SYS_sched_getattr, 0, &have, sizeof have, 0));
	expect_mem("scheduling attributes", &have, &want, sizeof have);
}

static void autogroup_is(const char *what, int want)
{
	char line[64] = "";
	int fd = open("/proc/self/autogroup", O_RDONLY);
	const char *nice = fd >= 0 && read(fd, line, sizeof line - 1) > 0 ? strstr(line, " nice ") : NULL;
	if (nice != NULL)
		expect(what, atoi(nice + 6), want);
	close(fd);
}

// How nice a session is as a whole.
static void autogroup(void)
{
	int up[2], status;
	must(pipe(up));
	pid_t pid = must(fork());
	if (pid == 0) {
		must(prctl(PR_SET_PDEATHSIG, SIGKILL)); // who kills our parent does not look for us in another session
		must(setsid());
		int fd = open("/proc/self/autogroup", O_WRONLY);
		if (fd >= 0)
			must(write(fd, "7", 1));
		close(fd);
		must(write(up[1], "", 1));
		wait_go();
		autogroup_is("nice value of the session", 7);
		_exit(differences);
	}
	must(read(up[0], &status, 1));
	ready();
	must(waitpid(pid, &status, 0));
	expect("the child", status, 0);
}

static void flags(void)
{
	must(prctl(PR_SET_PDEATHSIG, SIGUSR2));
	must(prctl(PR_SET_CHILD_SUBREAPER, 1));
	must(prctl(PR_SET_TIMERSLACK, 123456));
	must(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	must(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
	ready();
	int v = 0;
	must(prctl(PR_GET_PDEATHSIG, &v));
	expect("parent-death signal", v, SIGUSR2);
	must(prctl(PR_GET_CHILD_SUBREAPER, &v));
	expect("subreaper", v, 1);
	expect("timer slack", prctl(PR_GET_TIMERSLACK), 123456);
	expect("no huge pages", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1);
	expect("machine checks", prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), PR_MCE_KILL_EARLY);
}

static void persona(void)
{
	must(personality(ADDR_NO_RANDOMIZE | UNAME26));
	ready();
	expect("personality", personality(0xffffffff), ADDR_NO_RANDOMIZE | UNAME26);
}

static void *named_thread(void *arg)
{
	char b[16];
	prctl(PR_SET_NAME, "a thread) R 1 (");
	*(volatile int *)arg = 1;
	wait_go();
	prctl(PR_GET_NAME, b);
	expect_str("name of the thread", b, "a thread) R 1 (");
	return NULL;
}

static void comm(void)
{
	char b[16];
	volatile int up = 0;
	pthread_t t;
	must(-pthread_create(&t, NULL, named_thread, (void *)&up));
	while (!up)
		nap(MS);
	prctl(PR_SET_NAME, "the\nleader");
	ready();
	prctl(PR_GET_NAME, b);
	expect_str("name", b, "the\nleader");
	pthread_join(t, NULL);
}

static pthread_mutex_t robust_lock;

static void *owner(void *arg)
{
	pthread_mutex_lock(&robust_lock);
	*(volatile int *)arg = 1;
	wait_go();
	return NULL; // ends with the lock held: the kernel walks its robust list
}

static void robust(void)
{
	volatile int up = 0;
	pthread_mutexattr_t attr;
	pthread_t t;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust_lock, &attr);
	must(-pthread_create(&t, NULL, owner, (void *)&up));
	while (!up)
		nap(MS);
	void *before, *after;
	size_t len;
	must(syscall(SYS_get_robust_list, 0, &before, &len));
	ready();
	must(syscall(SYS_get_robust_list, 0, &after, &len));
	expect("list head", (long)after, (long)before);
	expect("lock", pthread_mutex_lock(&robust_lock), EOWNERDEAD);
	pthread_join(t, NULL);
}

extern const ptrdiff_t __rseq_offset __attribute__((weak));

// The kernel writes the CPU into a registered rseq area whenever it moves or preempts the thread.
static void rseq(void)
{
	ready();
	if (&__rseq_offset == NULL)
		return; // a libc that does not register
	volatile int *cpu = (int *)((char *)__builtin_thread_pointer() + __rseq_offset);
	cpu_set_t set;
	for (int want = 0; want < 2; want++) {
		CPU_ZERO(&set);
		CPU_SET(want, &set);
		if (sched_setaffinity(0, sizeof set, &set) != 0)
			continue;
		expect("CPU the kernel wrote", cpu[1], want);
	}
}

static void *sleeper(void *arg)
{
	wait_go();
	return arg;
}

static void join(void)
{
	pthread_t t[8];
	for (size_t i = 0; i < COUNT(t); i++)
		must(-pthread_create(&t[i], NULL, sleeper, (void *)(i + 1)));
	ready();
	for (size_t i = 0; i < COUNT(t); i++) {
		void *r = NULL;
		expect("join", pthread_join(t[i], &r), 0);
		expect("result", (long)r, (long)i + 1);
	}
	pthread_t after;
	expect("create", pthread_create(&after, NULL, sleeper, (void *)99), 0);
	void *r = NULL;
	pthread_join(after, &r);
	expect("result of a new thread", (long)r, 99);
}

static void membarriers(void)
{
	must(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0));
	must(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0));
	ready();
	expect("private expedited", syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0), 0);
	expect("sync core is not registered", syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0), -1);
}

// Field n of /proc/self/stat, counted as in proc(5).
static unsigned long stat_field(int n)
{
	char b[4096] = "";
	int fd = must(open("/proc/self/stat", O_RDONLY));
	must(read(fd, b, sizeof b - 1));
	close(fd);
	char *s = strrchr(b, ')') + 2;
	for (int i = 3; i < n; i++)
		s = strchr(s, ' ') + 1;
	return strtoul(s, NULL, 10);
}

static size_t slurp(const char *name, char *b, size_t n)
{
	int fd = must(open(name, O_RDONLY));
	ssize_t got = must(read(fd, b, n));
	close(fd);
	return (size_t)got;
}

static void check_title(void)
{
	char args[4096], env[4096], link[4096] = "", args_now[4096], env_now[4096], link_now[4096] = "";
	size_t n = slurp("/proc/self/cmdline", args, sizeof args), m = slurp("/proc/self/environ", env, sizeof env);
	must(readlink("/proc/self/exe", link, sizeof link - 1));
	ready();
	expect("length of cmdline", slurp("/proc/self/cmdline", args_now, sizeof args_now), n);
	expect_mem("cmdline", args_now, args, n);
	expect("length of environ", slurp("/proc/self/environ", env_now, sizeof env_now), m);
	expect_mem("environ", env_now, env, m);
	must(readlink("/proc/self/exe", link_now, sizeof link_now - 1));
	expect_str("exe", link_now, link);
}

// What setproctitle does: the arguments are overwritten in place.
static void title(void)
{
	memset((char *)stat_field(48), 'T', 4);
	check_title();
}

// What services do that need more room: the arguments are moved elsewhere.
static void title_moved(void)
{
	static char moved[] = "a new title\0with two words";
	struct prctl_mm_map map = {
		.start_code = stat_field(26), .end_code = stat_field(27), .start_data = stat_field(45), .end_data = stat_field(46),
		.start_brk = stat_field(47), .brk = (uint64_t)sbrk(0), .start_stack = stat_field(28),
		.arg_start = (uint64_t)moved, .arg_end = (uint64_t)moved + sizeof moved,
		.env_start = stat_field(50), .env_end = stat_field(51), .exe_fd = (uint32_t)-1,
	};
	must(prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0));
	check_title();
}

static void execute_again(void)
{
	ready();
	char *argv[] = {"proc", "executed", NULL};
	execv("/proc/self/exe", argv);
	differs("execv: %s", strerror(errno));
}

static void executed(void)
{
	char b[32] = "";
	proc_line("/proc/self/status", "TracerPid", b, sizeof b);
	expect_str("tracer", b, "0");
}

static void time_stamp_counter(void)
{
	int v = 0;
	must(prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0));
	ready();
	must(prctl(PR_GET_TSC, &v, 0, 0, 0));
	expect("TSC", v, PR_TSC_SIGSEGV);
	must(prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0));
}

static const struct test_case cases[] = {
	{"limits", limits},
	{"nice", niceness},
	{"sched", sched},
	{"deadline", deadline},
	{"autogroup", autogroup},
	{"affinity", affinity},
	{"oom", oom},
	{"directory", directory},
	{"removed-directory", removed_directory},
	{"chroot", root_directory},
	{"ids", ids},
	{"thread-ids", thread_ids},
	{"capabilities", capabilities},
	{"no-new-privs", no_new_privs},
	{"seccomp", seccomp_filter},
	{"dumpable", dumpable},
	{"flags", flags},
	{"personality", persona},
	{"comm", comm},
	{"robust", robust},
	{"rseq", rseq},
	{"join", join},
	{"membarrier", membarriers},
	{"title", title},
	{"title-moved", title_moved},
	{"exec", execute_again},
	{"executed", executed},
	{"tsc", time_stamp_counter},
};

MAIN(cases)
