// Memory, threads and processes in a state that has to be refused.
#include "random.h"
#include <asm/ldt.h>
#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <stddef.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>

static void set_aio(struct item *it)
{
	aio_context_t ctx = 0;
	need(it, syscall(SYS_io_setup, 4, &ctx));
	it->v[0] = (long long)ctx;
}

static void check_aio(struct item *it) { expect("io_destroy", syscall(SYS_io_destroy, it->v[0]), 0); }

static void set_sysv(struct item *it)
{
	int id = need(it, shmget(IPC_PRIVATE, 2 * PAGE, IPC_CREAT | 0600));
	it->p = must(shmat(id, NULL, 0));
	must(shmctl(id, IPC_RMID, NULL)); // goes when we go
	fill(it->p, PAGE, it->random);
}

static void check_sysv(struct item *it)
{
	check_fill("content", it->p, PAGE, it->random);
	expect("shmdt", shmdt(it->p), 0);
}

static void set_hugetlb(struct item *it)
{
	it->p = need(it, mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0));
}

static void check_mapped(struct item *it)
{
	char b[256];
	expect("it is mapped", smaps(it->p, "VmFlags", b, sizeof b)[0] != 0, 1);
}

static void set_pkey(struct item *it)
{
	it->p = anon(2 * PAGE);
	int key = need(it, pkey_alloc(0, 0));
	must(pkey_mprotect(it->p, PAGE, PROT_READ | PROT_WRITE, key));
}

static void set_registered(struct item *it)
{
	it->p = anon(2 * PAGE);
	it->fd[0] = need(it, (int)syscall(SYS_userfaultfd, O_CLOEXEC));
	struct uffdio_api api = {.api = UFFD_API};
	must(ioctl(it->fd[0], UFFDIO_API, &api));
	struct uffdio_register reg = {.range = {(unsigned long)it->p, 2 * PAGE}, .mode = it->feature->arg ? UFFDIO_REGISTER_MODE_WP : UFFDIO_REGISTER_MODE_MISSING};
	need(it, ioctl(it->fd[0], UFFDIO_REGISTER, &reg));
}

// Segments of its own, loaded or not.
static void set_ldt(struct item *it)
{
	struct user_desc d = {.entry_number = 0, .base_addr = 0x1000, .limit = 0xfff, .seg_32bit = 1, .useable = 1};
	need(it, syscall(SYS_modify_ldt, 1, &d, sizeof d));
	if (it->feature->arg)
		__asm__ volatile("mov %0, %%es" : : "r"((unsigned short)7));
}

static void check_ldt(struct item *it)
{
	char b[64];
	unsigned short es = 0;
	expect("modify_ldt", syscall(SYS_modify_ldt, 0, b, sizeof b) >= 8, 1);
	__asm__ volatile("mov %%es, %0" : "=r"(es));
	expect("es", es, it->feature->arg ? 7 : 0);
}

static void set_ports(struct item *it) { need(it, it->feature->arg ? iopl(3) : ioperm(0x80, 1, 1)); }

static void set_strict_thread(int *fd)
{
	char c;
	syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
	syscall(SYS_write, fd[1], "x", 1);
	syscall(SYS_read, fd[2], &c, 1);
	syscall(SYS_exit, 0);
}

static void *strict_thread(void *arg)
{
	set_strict_thread(arg);
	return NULL;
}

static pthread_t other;

static void set_strict(struct item *it)
{
	char c;
	must(pipe(it->fd));
	must(pipe(it->fd + 2));
	must(-pthread_create(&other, NULL, strict_thread, it->fd));
	must(read(it->fd[0], &c, 1));
}

static void check_strict(struct item *it)
{
	must(write(it->fd[3], "x", 1));
	pthread_join(other, NULL);
}

static void set_notify(struct item *it)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {COUNT(code), code};
	it->fd[0] = need(it, (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog));
}

static void set_namespace(struct item *it) { need(it, unshare((int)it->feature->arg)); }

static void set_landlock(struct item *it)
{
	uint64_t handled = LANDLOCK_ACCESS_FS_MAKE_SOCK;
	int fd = need(it, (int)syscall(SYS_landlock_create_ruleset, &handled, sizeof handled, 0));
	must(syscall(SYS_landlock_restrict_self, fd, 0));
	close(fd);
}

static void check_landlock(struct item *it) { expect("mknod", mknod(path_of(it, ""), S_IFSOCK | 0600, 0), -1); }

// Processes that share what only threads share. The child has a stack of its own and touches nothing of the C library.
static volatile int child_up;

static int shares(void *arg)
{
	(void)arg;
	child_up = 1;
	char go[256];
	snprintf(go, sizeof go, "%s", go_path());
	struct timespec ts = {0, 5 * MS};
	while (syscall(SYS_access, go, F_OK) != 0)
		syscall(SYS_nanosleep, &ts, NULL);
	syscall(SYS_exit, 0);
	return 0;
}

static void set_shared(struct item *it)
{
	char *stack = anon(16 * PAGE);
	child_up = 0;
	it->pid = must(clone(shares, stack + 16 * PAGE, (int)it->feature->arg | SIGCHLD, NULL));
	if (it->feature->arg & CLONE_VM)
		while (!child_up)
			nap(MS);
}

static void check_shared(struct item *it) { expect("status of the child", status_of(it->pid), 0); }

// A thread that waits in vfork for its child.
static void *vforks(void *arg)
{
	(void)arg;
	pid_t pid = vfork();
	if (pid == 0)
		shares(NULL);
	return (void *)(long)pid;
}

static void set_vfork(struct item *it)
{
	(void)it;
	child_up = 0;
	must(-pthread_create(&other, NULL, vforks, NULL));
	while (!child_up)
		nap(MS);
}

static void check_vfork(struct item *it)
{
	void *pid;
	(void)it;
	pthread_join(other, &pid);
	expect("status of the child", status_of((pid_t)(long)pid), 0);
}

// A thread that has left what its process shares.
static void *leaves(void *arg)
{
	must(unshare((int)((struct item *)arg)->feature->arg));
	child_up = 1;
	await_go();
	return NULL;
}

static void set_leaving(struct item *it)
{
	child_up = 0;
	must(-pthread_create(&other, NULL, leaves, it));
	while (!child_up)
		nap(MS);
}

static void check_leaving(struct item *it)
{
	(void)it;
	pthread_join(other, NULL);
}

// The first thread has ended, another goes on.
static void *goes_on(void *arg)
{
	char path[64], b[512];
	(void)arg;
	snprintf(path, sizeof path, "/proc/self/task/%d/stat", getpid());
	while (strstr(read_file(path, b, sizeof b), ") Z") == NULL)
		nap(MS);
	told();
	await_go();
	_exit(0);
}

static void set_leader_gone(struct item *it)
{
	(void)it;
	must(-pthread_create(&other, NULL, goes_on, NULL));
	syscall(SYS_exit, 0);
}

static int traced(struct item *it)
{
	(void)it;
	told();
	await_go();
	return 0;
}

static void set_traced(struct item *it)
{
	it->pid = helper(it, traced);
	must(ptrace(PTRACE_SEIZE, it->pid, 0, 0));
}

static void check_traced(struct item *it) { expect("status of the child", status_of(it->pid), 0); }

static void nothing(struct item *it) { (void)it; }

#define NAMESPACE(name, flag) {"namespace " name, set_namespace, nothing, flag, ALONE, NULL, "E_NAMESPACE"}

static const struct feature features[] = {
	{"aio context", set_aio, check_aio, 0, ALONE, NULL, "E_MAPPING,E_PROCESS_STATE,E_NOT_RESTORABLE"},
	{"SysV shared memory", set_sysv, check_sysv, 0, 0, NULL, "E_MAPPING"},
	{"vma huge pages of hugetlbfs", set_hugetlb, check_mapped, 0, ALONE, NULL, "E_MAPPING"},
	{"vma protection key", set_pkey, check_mapped, 0, ALONE, NULL, "E_MAPPING"},
	{"userfaultfd for missing pages", set_registered, check_mapped, 0, ALONE, NULL, "E_FD_KIND,E_MAPPING"},
	{"userfaultfd for writes", set_registered, check_mapped, 1, ALONE, NULL, "E_FD_KIND,E_MAPPING"},
	{"LDT", set_ldt, check_ldt, 0, ALONE, NULL, "E_THREAD_STATE,E_PROCESS_STATE"},
	{"LDT segment loaded", set_ldt, check_ldt, 1, ALONE, NULL, "E_THREAD_STATE,E_PROCESS_STATE"},
	{"I/O ports", set_ports, nothing, 0, ALONE, NULL, "E_THREAD_STATE"},
	{"I/O privilege level", set_ports, nothing, 1, ALONE, NULL, "E_THREAD_STATE"},
	{"seccomp strict", set_strict, check_strict, 0, ALONE, NULL, "E_THREAD_STATE"},
	{"seccomp supervised", set_notify, nothing, 0, ALONE, NULL, "E_THREAD_STATE,E_FD_KIND"},
	NAMESPACE("UTS", CLONE_NEWUTS), NAMESPACE("IPC", CLONE_NEWIPC), NAMESPACE("network", CLONE_NEWNET), NAMESPACE("mount", CLONE_NEWNS),
	NAMESPACE("cgroup", CLONE_NEWCGROUP), NAMESPACE("PID for children", CLONE_NEWPID),
	NAMESPACE("time for children", 0x80),
	{"namespace user", set_namespace, nothing, CLONE_NEWUSER, ALONE, NULL, "E_NAMESPACE,E_NOT_RESTORABLE"},
	{"Landlock", set_landlock, check_landlock, 0, ALONE, NULL, "E_THREAD_STATE,E_PROCESS_STATE"},
	{"shared descriptors", set_shared, check_shared, CLONE_FILES, ALONE, NULL, "E_SHARED"},
	{"shared directories", set_shared, check_shared, CLONE_FS, ALONE, NULL, "E_SHARED"},
	{"shared memory space", set_shared, check_shared, CLONE_VM, ALONE, NULL, "E_SHARED"},
	{"shared memory space and handlers", set_shared, check_shared, CLONE_VM | CLONE_SIGHAND, ALONE, NULL, "E_SHARED"},
	{"in vfork", set_vfork, check_vfork, 0, ALONE, NULL, "E_SHARED"},
	{"thread with directories of its own", set_leaving, check_leaving, CLONE_FS, ALONE, NULL, "E_SHARED"},
	{"thread with descriptors of its own", set_leaving, check_leaving, CLONE_FILES, ALONE, NULL, "E_SHARED"},
	{"first thread ended", set_leader_gone, NULL, 0, ALONE | BLOCKS, NULL, "E_THREAD_STATE"},
	{"traced", set_traced, check_traced, 0, ALONE, NULL, "E_TRACED"},
};

TABLE(refused);
