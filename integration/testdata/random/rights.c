// Rights: users, groups, capabilities, seccomp filters. They are given up, so each has a process of its own, or a
// thread's end.
#include "random.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <stddef.h>

static void set_users(struct item *it)
{
	must(syscall(SYS_setresuid, 2001, it->feature->arg ? 2002 : 2001, it->feature->arg ? 2003 : 2001));
}

static void check_users(struct item *it)
{
	uid_t r, e, s;
	must(getresuid(&r, &e, &s));
	expect("uid", r, 2001);
	expect("euid", e, it->feature->arg ? 2002 : 2001);
	expect("suid", s, it->feature->arg ? 2003 : 2001);
	expect("becoming root again", syscall(SYS_setuid, 0), -1);
}

static void set_effective(struct item *it)
{
	(void)it;
	must(syscall(SYS_setresuid, -1, 2002, -1));
}

static void check_effective(struct item *it)
{
	(void)it;
	expect("euid", geteuid(), 2002);
	expect("uid", getuid(), 0);
	expect("becoming root again", syscall(SYS_setresuid, -1, 0, -1), 0);
}

static void set_fsids(struct item *it)
{
	(void)it;
	syscall(SYS_setfsgid, 3002);
	syscall(SYS_setfsuid, 3001);
}

static void check_fsids(struct item *it)
{
	(void)it;
	expect("fsuid", syscall(SYS_setfsuid, -1), 3001);
	expect("fsgid", syscall(SYS_setfsgid, -1), 3002);
}

static void set_groups(struct item *it)
{
	gid_t many[65];
	size_t n = it->feature->arg ? 1 + it->random % COUNT(many) : 0;
	for (size_t i = 0; i < n; i++)
		many[i] = 100 + (gid_t)i * 3;
	must(setgroups(n, many));
	must(syscall(SYS_setresgid, 1001, 1002, 1003));
	it->v[0] = (long long)n;
}

static void check_groups(struct item *it)
{
	gid_t r, e, s, have[65];
	expect("number of groups", getgroups(65, have), it->v[0]);
	for (int i = 0; i < it->v[0]; i++)
		expect("group", have[i], 100 + i * 3);
	must(getresgid(&r, &e, &s));
	expect("gid", r, 1001);
	expect("egid", e, 1002);
	expect("sgid", s, 1003);
}

static void caps_get(struct __user_cap_data_struct *data)
{
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	must(syscall(SYS_capget, &h, data));
}

static void caps_set(uint32_t permitted, uint32_t effective, uint32_t inheritable)
{
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2] = {{.permitted = permitted, .effective = effective, .inheritable = inheritable}};
	must(syscall(SYS_capset, &h, d));
}

enum { NONE, SOME, AMBIENT, BOUNDING };

static const uint32_t some = 1 << CAP_NET_BIND_SERVICE | 1 << CAP_CHOWN | 1 << CAP_KILL;

static void set_caps(struct item *it)
{
	if (it->feature->arg == NONE)
		caps_set(0, 0, 0);
	if (it->feature->arg == SOME)
		caps_set(some, 1 << CAP_CHOWN, 1 << CAP_KILL);
	if (it->feature->arg == AMBIENT) {
		caps_set(some, some, some);
		must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0));
	}
	if (it->feature->arg == BOUNDING)
		must(prctl(PR_CAPBSET_DROP, CAP_MKNOD) + prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE));
	caps_get((void *)it->v);
}

static void check_caps(struct item *it)
{
	struct __user_cap_data_struct have[2];
	const uint32_t *want = (const uint32_t *)it->v;
	caps_get(have);
	expect_mem("capabilities", have, want, sizeof have);
	for (int c = 0; c < 40; c++)
		expect("ambient capability", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, c, 0, 0), it->feature->arg == AMBIENT && c == CAP_KILL);
	expect("bounding CAP_MKNOD", prctl(PR_CAPBSET_READ, CAP_MKNOD), it->feature->arg != BOUNDING);
	expect("bounding CAP_CHOWN", prctl(PR_CAPBSET_READ, CAP_CHOWN), 1);
}

static void set_securebits(struct item *it) { must(prctl(PR_SET_SECUREBITS, it->feature->arg)); }
static void check_securebits(struct item *it) { expect("securebits", prctl(PR_GET_SECUREBITS), it->feature->arg); }

static int install(unsigned nr, unsigned action, unsigned flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {COUNT(code), code};
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog);
}

static void set_filters(struct item *it)
{
	it->v[0] = 1 + (long long)(it->random % 4);
	need(it, install(SYS_getppid, SECCOMP_RET_ERRNO | 70, (unsigned)it->feature->arg));
	for (int i = 1; i < it->v[0]; i++)
		must(install(SYS_getpgid, SECCOMP_RET_ERRNO | (71U + (unsigned)i), 0));
}

static void check_filters(struct item *it)
{
	char b[32], want[32];
	expect("getppid", syscall(SYS_getppid), -1);
	expect("its errno", errno, 70);
	if (it->v[0] > 1) {
		expect("getpgid", syscall(SYS_getpgid, 0), -1);
		expect("its errno", errno, 71 + it->v[0] - 1); // the last one comes first
	}
	snprintf(want, sizeof want, "%lld", it->v[0]);
	expect_str("filters", proc_line("/proc/thread-self/status", "Seccomp_filters", b, sizeof b), want);
}

static const struct feature features[] = {
	{"rights user", set_users, check_users, 0, ALONE},
	{"rights three users", set_users, check_users, 1, ALONE},
	{"rights effective user", set_effective, check_effective, 0, ALONE},
	{"rights file system user", set_fsids, check_fsids, 0, ALONE},
	{"rights no groups", set_groups, check_groups, 0, ALONE},
	{"rights groups", set_groups, check_groups, 1, ALONE},
	{"capabilities none", set_caps, check_caps, NONE, ALONE},
	{"capabilities some", set_caps, check_caps, SOME, ALONE},
	{"capabilities ambient", set_caps, check_caps, AMBIENT, ALONE},
	{"capabilities bounding", set_caps, check_caps, BOUNDING, ALONE},
	{"securebits no root", set_securebits, check_securebits, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED, ALONE},
	{"securebits keep", set_securebits, check_securebits, SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP, ALONE},
	{"securebits no ambient", set_securebits, check_securebits, SECBIT_NO_CAP_AMBIENT_RAISE, ALONE},
	{"securebits all locked", set_securebits, check_securebits,
	 SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED, ALONE},
	{"seccomp filters", set_filters, check_filters, 0, ALONE},
	{"seccomp filters logged", set_filters, check_filters, SECCOMP_FILTER_FLAG_LOG, ALONE},
	{"seccomp filters with mitigations", set_filters, check_filters, SECCOMP_FILTER_FLAG_SPEC_ALLOW, ALONE},
};

TABLE(rights);
