// Attributes of processes and threads: scheduling, limits, prctl, directories.
#include "random.h"
#include <linux/membarrier.h>
#include <sys/personality.h>
#include <sys/resource.h>

struct attributes { // struct sched_attr (linux/sched/types.h), its first version
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

enum { OTHER, NICE, SLICE, BATCH, IDLE, FIFO, RR, DEADLINE };

static const struct attributes policies[] = {
	[OTHER] = {48, SCHED_OTHER, 1, .nice = 0}, // reset on fork
	[NICE] = {48, SCHED_OTHER, 0, .nice = 7},
	[SLICE] = {48, SCHED_OTHER, 0, .nice = 1, .runtime = 7000000},
	[BATCH] = {48, SCHED_BATCH, 0, .nice = 3},
	[IDLE] = {48, SCHED_IDLE, 0},
	[FIFO] = {48, SCHED_FIFO, 0, .priority = 5},
	[RR] = {48, SCHED_RR, 1, .priority = 11},
	[DEADLINE] = {48, 6, 1, .runtime = 5000000, .deadline = 40000000, .period = 50000000},
};

static void set_sched(struct item *it)
{
	struct attributes a = policies[it->feature->arg];
	need(it, syscall(SYS_sched_setattr, 0, &a, 0));
}

static void check_sched(struct item *it)
{
	struct attributes a = {0};
	const struct attributes *want = &policies[it->feature->arg];
	must(syscall(SYS_sched_getattr, 0, &a, sizeof a, 0));
	expect("policy", a.policy, want->policy);
	expect("flags", (long long)a.flags, (long long)want->flags);
	expect("nice", a.nice, want->nice);
	expect("priority", a.priority, want->priority);
	if (want->runtime != 0)
		expect("runtime or slice", (long long)a.runtime, (long long)want->runtime);
	expect("deadline", (long long)a.deadline, (long long)want->deadline);
	expect("period", (long long)a.period, (long long)want->period);
}

static void set_affinity(struct item *it)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET((size_t)it->feature->arg, &set);
	need(it, sched_setaffinity(0, sizeof set, &set));
}

static void check_affinity(struct item *it)
{
	cpu_set_t set;
	must(sched_getaffinity(0, sizeof set, &set));
	expect("CPUs", CPU_COUNT(&set), 1);
	expect("its own", CPU_ISSET((size_t)it->feature->arg, &set), 1);
}

static void set_ioprio(struct item *it) { need(it, syscall(SYS_ioprio_set, 1, 0, it->feature->arg)); }
static void check_ioprio(struct item *it) { expect("ioprio_get", syscall(SYS_ioprio_get, 1, 0), it->feature->arg); }

// A prctl with one number, and how it is read: through a pointer, or as the result.
struct number {
	int set, get;
	long value;
	int by_pointer;
};

enum { PDEATHSIG, TIMERSLACK, TSC, SUBREAPER, KEEPCAPS, DUMPABLE, UNDUMPABLE, IO_FLUSHER, NO_NEW_PRIVS };

static const struct number numbers[] = {
	[PDEATHSIG] = {PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, SIGUSR2, 1},
	[TIMERSLACK] = {PR_SET_TIMERSLACK, PR_GET_TIMERSLACK, 123456, 0},
	[TSC] = {PR_SET_TSC, PR_GET_TSC, PR_TSC_SIGSEGV, 1},
	[SUBREAPER] = {PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER, 1, 1},
	[KEEPCAPS] = {PR_SET_KEEPCAPS, PR_GET_KEEPCAPS, 1, 0},
	[DUMPABLE] = {PR_SET_DUMPABLE, PR_GET_DUMPABLE, 1, 0},
	[UNDUMPABLE] = {PR_SET_DUMPABLE, PR_GET_DUMPABLE, 0, 0},
	[IO_FLUSHER] = {57, 58, 1, 0}, // PR_SET_IO_FLUSHER, PR_GET_IO_FLUSHER
	[NO_NEW_PRIVS] = {PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS, 1, 0},
};

static void set_number(struct item *it)
{
	const struct number *n = &numbers[it->feature->arg];
	need(it, prctl(n->set, n->value, 0, 0, 0));
}

static void check_number(struct item *it)
{
	const struct number *n = &numbers[it->feature->arg];
	int v = -1;
	int r = n->by_pointer ? prctl(n->get, &v, 0, 0, 0) : prctl(n->get, 0, 0, 0, 0);
	expect("prctl", n->by_pointer ? v : r, n->value);
}

static void set_mce(struct item *it) { need(it, prctl(PR_MCE_KILL, PR_MCE_KILL_SET, it->feature->arg, 0, 0)); }
static void check_mce(struct item *it) { expect("PR_MCE_KILL_GET", prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), it->feature->arg); }

// Mitigations: arg is which, times 100, and how it is set.
static void set_speculation(struct item *it)
{
	need(it, prctl(PR_SET_SPECULATION_CTRL, it->feature->arg / 100, it->feature->arg % 100, 0, 0));
	it->v[0] = prctl(PR_GET_SPECULATION_CTRL, it->feature->arg / 100, 0, 0, 0);
}

static void check_speculation(struct item *it)
{
	expect("PR_GET_SPECULATION_CTRL", prctl(PR_GET_SPECULATION_CTRL, it->feature->arg / 100, 0, 0, 0), it->v[0]);
}

static void set_comm(struct item *it) { must(prctl(PR_SET_NAME, it->feature->arg ? "a (b) R\n1 \\" : "")); }

static void check_comm(struct item *it)
{
	char b[16];
	prctl(PR_GET_NAME, b);
	expect_str("name", b, it->feature->arg ? "a (b) R\n1 \\" : "");
}

static char selector;

static void set_dispatch(struct item *it) // system calls from nowhere are dispatched, those from everywhere are not
{
	selector = 0; // SYSCALL_DISPATCH_FILTER_ALLOW
	need(it, prctl(59 /* PR_SET_SYSCALL_USER_DISPATCH */, 1, 0, 0, &selector));
}

// The kernel lets nobody ask: a system call that is to be blocked raises SIGSYS.
static volatile int trapped;

static void on_sigsys(int sig, siginfo_t *info, void *uc)
{
	(void)sig;
	(void)uc;
	selector = 0;
	trapped = info->si_code;
}

static void check_dispatch(struct item *it)
{
	(void)it;
	struct sigaction sa = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO};
	must(sigaction(SIGSYS, &sa, NULL));
	selector = 1;
	syscall(SYS_getpid);
	selector = 0;
	expect("si_code of the SIGSYS", trapped, 2); // SYS_USER_DISPATCH
}

// its REGISTER command
static void set_membarrier(struct item *it) { need(it, syscall(SYS_membarrier, it->feature->arg * 2, 0, 0)); }

static void check_membarrier(struct item *it)
{
	static const int all[] = {MEMBARRIER_CMD_PRIVATE_EXPEDITED, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 1 << 7};
	for (size_t i = 0; i < COUNT(all); i++)
		if (all[i] == it->feature->arg)
			expect("the barrier", syscall(SYS_membarrier, all[i], 0, 0), 0);
}

static void set_global_membarrier(struct item *it) { need(it, syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0)); }

static void check_global_membarrier(struct item *it)
{
	(void)it;
	long have = syscall(SYS_membarrier, 1 << 9 /* MEMBARRIER_CMD_GET_REGISTRATIONS, Linux 6.3 */, 0, 0);
	if (have >= 0)
		expect("registrations", have & MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED);
}

static void set_futex_hash(struct item *it)
{
	need(it, prctl(78 /* PR_FUTEX_HASH, Linux 6.16 */, 1 /* set slots */, 64, 0, 0));
	it->v[0] = prctl(78, 2 /* get slots */, 0, 0, 0);
}

static void check_futex_hash(struct item *it) { expect("slots", prctl(78, 2, 0, 0, 0), it->v[0]); }

static void set_gs(struct item *it) { must(syscall(SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, it->random & 0x7ffffffff000)); }

static void check_gs(struct item *it)
{
	unsigned long have = 0;
	must(syscall(SYS_arch_prctl, 0x1004 /* ARCH_GET_GS */, &have));
	expect("base of GS", (long long)have, (long long)(it->random & 0x7ffffffff000));
}

static void set_amx(struct item *it) { need(it, syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18)); }

static void check_amx(struct item *it)
{
	(void)it;
	uint64_t have = 0;
	must(syscall(SYS_arch_prctl, 0x1022 /* ARCH_GET_XCOMP_PERM */, &have));
	expect("permission", have >> 18 & 1, 1);
}

static void set_proc_number(struct item *it) { write_file(it->feature->arg == 321 ? "/proc/self/oom_score_adj" : "/proc/self/coredump_filter", it->feature->arg == 321 ? "321" : "0x51"); }

static void check_proc_number(struct item *it)
{
	char b[32];
	expect_str("value", read_file(it->feature->arg == 321 ? "/proc/self/oom_score_adj" : "/proc/self/coredump_filter", b, sizeof b),
		   it->feature->arg == 321 ? "321" : "00000051");
}

static void set_limit(struct item *it)
{
	struct rlimit r;
	must(getrlimit((int)it->feature->arg, &r));
	if (r.rlim_max == 0)
		lack(it);
	if (it->random % 2) // the hard limit too
		r.rlim_max = r.rlim_max == RLIM_INFINITY ? 1UL << 40 : r.rlim_max - 1;
	r.rlim_cur = r.rlim_max == RLIM_INFINITY ? 1UL << 39 : r.rlim_max - 1;
	must(setrlimit((int)it->feature->arg, &r));
	it->v[0] = (long long)r.rlim_cur;
	it->v[1] = (long long)r.rlim_max;
}

static void check_limit(struct item *it)
{
	struct rlimit r;
	must(getrlimit((int)it->feature->arg, &r));
	expect("soft limit", (long long)r.rlim_cur, it->v[0]);
	expect("hard limit", (long long)r.rlim_max, it->v[1]);
}

static void set_umask(struct item *it)
{
	(void)it;
	umask(0137);
}

static void check_umask(struct item *it)
{
	(void)it;
	expect("umask", umask(0137), 0137);
}

static void set_directory(struct item *it)
{
	must(mkdir(path_of(it, " with a blank"), 0755));
	must(chdir(path_of(it, " with a blank")));
}

static void check_directory(struct item *it)
{
	char b[4096];
	if (getcwd(b, sizeof b) == NULL)
		differs("getcwd");
	expect_str("working directory", b, path_of(it, " with a blank"));
}

// A directory that is gone.
static void set_directory_gone(struct item *it)
{
	must(mkdir(path_of(it, ""), 0700));
	must(chmod(path_of(it, ""), 0711));
	must(chdir(path_of(it, "")));
	must(rmdir(path_of(it, "")));
}

static void check_directory_gone(struct item *it)
{
	char b[256];
	(void)it;
	struct stat st;
	must(stat(".", &st));
	expect("getcwd", getcwd(b, sizeof b) == NULL, 1);
	expect("mode", st.st_mode, S_IFDIR | 0711);
	expect("links", (long long)st.st_nlink, 0);
}

static void set_root(struct item *it)
{
	must(chroot(path_of(it, "/..")));
	must(chdir("/"));
	new_root();
}

static void set_root_first(struct item *it)
{
	must(mkdir(path_of(it, ""), 0755));
	set_root(it);
}

static void check_root(struct item *it)
{
	char b[4096];
	if (getcwd(b, sizeof b) == NULL)
		differs("getcwd");
	expect_str("working directory", b, "/");
	expect("a file outside", access("/etc/passwd", F_OK), -1);
	expect("a file inside", access(path_of(it, ""), F_OK), 0);
}

static void set_personality(struct item *it) { must(personality((unsigned long)it->feature->arg)); }
static void check_personality(struct item *it) { expect("personality", personality(0xffffffff), it->feature->arg); }

static void set_timerslack_ns(struct item *it) { must(prctl(PR_SET_TIMERSLACK, (unsigned long)(1000 + it->random % 1000000))); }
static void check_timerslack_ns(struct item *it) { expect("timer slack", prctl(PR_GET_TIMERSLACK), (long long)(1000 + it->random % 1000000)); }

static pthread_mutex_t robust;

static void *dies_with_lock(void *arg)
{
	pthread_mutex_lock(&robust);
	*(volatile int *)arg = 1;
	await_go();
	return NULL;
}

static pthread_t lock_owner;

static void set_robust(struct item *it)
{
	(void)it;
	volatile int up = 0;
	pthread_mutexattr_t attr;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attr);
	must(-pthread_create(&lock_owner, NULL, dies_with_lock, (void *)&up));
	while (!up)
		nap(MS);
}

static void check_robust(struct item *it)
{
	(void)it;
	expect("lock", pthread_mutex_lock(&robust), EOWNERDEAD);
	pthread_join(lock_owner, NULL);
}

#define LIMIT(which) {"limit " #which, set_limit, check_limit, which, ALONE}
#define SCHED(name, policy) {"sched " name, set_sched, check_sched, policy, OF_A_THREAD, "sched"}

static const struct feature features[] = {
	SCHED("reset on fork", OTHER), SCHED("nice", NICE), SCHED("slice", SLICE), SCHED("batch", BATCH), SCHED("idle", IDLE), SCHED("FIFO", FIFO),
	SCHED("round robin", RR), SCHED("deadline", DEADLINE),
	{"affinity CPU 0", set_affinity, check_affinity, 0, OF_A_THREAD, "affinity"},
	{"affinity CPU 1", set_affinity, check_affinity, 1, OF_A_THREAD, "affinity"},
	{"I/O priority best effort", set_ioprio, check_ioprio, 2 << 13 | 6, OF_A_THREAD, "ioprio"},
	{"I/O priority idle", set_ioprio, check_ioprio, 3 << 13, OF_A_THREAD, "ioprio"},
	{"I/O priority real-time", set_ioprio, check_ioprio, 1 << 13 | 3, OF_A_THREAD, "ioprio"},
	{"prctl parent-death signal", set_number, check_number, PDEATHSIG, ALONE},
	// real-time threads have none
	{"prctl timer slack", set_timerslack_ns, check_timerslack_ns, TIMERSLACK, OF_A_THREAD, "sched"},
	{"prctl TSC", set_number, check_number, TSC, ALONE},
	{"prctl subreaper", set_number, check_number, SUBREAPER, ALONE},
	{"prctl keep capabilities", set_number, check_number, KEEPCAPS, OF_A_THREAD, "keepcaps"},
	{"prctl dumpable", set_number, check_number, DUMPABLE, ALONE},
	{"prctl not dumpable", set_number, check_number, UNDUMPABLE, ALONE},
	{"prctl I/O flusher", set_number, check_number, IO_FLUSHER, OF_A_THREAD, "flusher"},
	{"prctl no new privileges", set_number, check_number, NO_NEW_PRIVS, OF_A_THREAD},
	{"prctl machine check early", set_mce, check_mce, PR_MCE_KILL_EARLY, OF_A_THREAD, "mce"},
	{"prctl machine check late", set_mce, check_mce, PR_MCE_KILL_LATE, OF_A_THREAD, "mce"},
	{"prctl no store bypass", set_speculation, check_speculation, 4, OF_A_THREAD, "ssb"},
	{"prctl no store bypass for ever", set_speculation, check_speculation, 8, OF_A_THREAD, "ssb"},
	{"prctl no store bypass until exec", set_speculation, check_speculation, 16, OF_A_THREAD, "ssb"},
	{"prctl no indirect branches", set_speculation, check_speculation, 104, OF_A_THREAD, "ib"},
	{"prctl no indirect branches for ever", set_speculation, check_speculation, 108, OF_A_THREAD, "ib"},
	{"prctl name", set_comm, check_comm, 1, OF_A_THREAD, "comm"},
	{"prctl name empty", set_comm, check_comm, 0, OF_A_THREAD, "comm"},
	{"prctl user dispatch", set_dispatch, check_dispatch, 0, ALONE},
	{"membarrier private", set_membarrier, check_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED},
	{"membarrier core", set_membarrier, check_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE},
	{"membarrier rseq", set_membarrier, check_membarrier, 1 << 7},
	{"membarrier global", set_global_membarrier, check_global_membarrier},
	{"prctl futex hash", set_futex_hash, check_futex_hash, 0, ALONE},
	{"GS base", set_gs, check_gs, 0, OF_A_THREAD, "gs"},
	{"AMX permission", set_amx, check_amx, 0, ALONE},
	{"OOM score", set_proc_number, check_proc_number, 321, ALONE},
	{"core dump filter", set_proc_number, check_proc_number, 0x51, ALONE},
	LIMIT(RLIMIT_CPU), LIMIT(RLIMIT_FSIZE), LIMIT(RLIMIT_DATA), LIMIT(RLIMIT_STACK), LIMIT(RLIMIT_CORE), LIMIT(RLIMIT_RSS), LIMIT(RLIMIT_NPROC),
	LIMIT(RLIMIT_NOFILE), LIMIT(RLIMIT_MEMLOCK), LIMIT(RLIMIT_AS), LIMIT(RLIMIT_LOCKS), LIMIT(RLIMIT_SIGPENDING), LIMIT(RLIMIT_MSGQUEUE),
	LIMIT(RLIMIT_NICE), LIMIT(RLIMIT_RTPRIO), LIMIT(RLIMIT_RTTIME),
	{"umask", set_umask, check_umask, 0, ALONE},
	{"working directory", set_directory, check_directory, 0, 0, "cwd"},
	{"working directory removed", set_directory_gone, check_directory_gone, 0, ALONE}, // what executes itself asks for its own
	{"root directory", set_root_first, check_root, 0, ALONE},
	{"personality", set_personality, check_personality, ADDR_NO_RANDOMIZE | 0x0020000 /* UNAME26 */, ALONE},
	{"robust mutex", set_robust, check_robust, 0, ALONE},
};

TABLE(process);
