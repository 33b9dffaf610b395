/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct task_struct: what belongs to one thread (include/linux/sched.h). */
#ifndef BPFCKPT_TASK_H
#define BPFCKPT_TASK_H

#include "abi.h"
#include "arch.h"
#include "pid.h"

struct mm_struct;
struct files_struct;
struct sighand_struct;
struct signal_struct;
struct cred;
struct nsproxy;
struct io_context;

struct thread_info {
	unsigned long flags;
} CORE;

struct sched_entity {
	__u64 sum_exec_runtime;
	__u64 slice;
	unsigned char custom_slice;
} CORE;

struct sched_dl_entity {
	__u64 dl_runtime, dl_deadline, dl_period;
	unsigned int flags;
} CORE;

struct sem_list {
	struct sem_list *next;
};

struct sem_undo_list {
	struct sem_list list_proc;
} CORE;

struct sysv_sem {
	struct sem_undo_list *undo_list;
} CORE;

struct seccomp {
	int mode;
} CORE;

struct task_io_accounting {
	__u64 read_bytes, write_bytes;
} CORE;

struct uprobe_task {
	void *return_instances;
} CORE;

struct restart_block {
	unsigned long arch_data;
	long (*fn)(struct restart_block *);
} CORE;

struct fs_struct {
	int umask;
} CORE;

struct sigset {
	unsigned long sig[1]; /* sigset_t */
};

struct sigpending {
	struct sigset signal;
} CORE;

struct task_struct {
	struct thread_info thread_info;
	void *stack;
	unsigned int flags, ptrace;
	int static_prio;
	unsigned int rt_priority;
	struct sched_entity se;
	struct sched_dl_entity dl;
	unsigned int policy;
	struct mm_struct *mm;
	void *bpf_storage; /* Linux 5.11 */
	int exit_state, exit_code, exit_signal, pdeath_signal;
	unsigned int personality;
	unsigned int sched_reset_on_fork : 1;
	unsigned long atomic_flags;
	struct restart_block restart_block;
	__s32 pid, tgid;
	struct task_struct *real_parent;
	struct task_struct *parent; /* the tracer, if there is one */
	struct task_struct *group_leader;
	struct pid *thread_pid;
	void *vfork_done;
	int *clear_child_tid;
	__u64 utime, stime;
	unsigned long nvcsw, nivcsw;
	__u64 start_boottime;
	unsigned long min_flt, maj_flt;
	const struct cred *real_cred;
	char comm[16];
	struct sysv_sem sysvsem;
	struct fs_struct *fs;
	struct files_struct *files;
	void *io_uring;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	struct sighand_struct *sighand;
	struct sigset blocked;
	struct sigpending pending;
	unsigned long sas_ss_sp;
	unsigned long sas_ss_size;
	unsigned int sas_ss_flags;
	struct seccomp seccomp;
	struct task_io_accounting ioac;
	void *robust_list;
	void *mempolicy;
	__u64 timer_slack_ns;
	struct uprobe_task *utask;
} CORE;

struct bpf_iter_meta {
	struct seq_file *seq;
} CORE;

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
} CORE;

struct nsproxy {
	void *uts_ns, *ipc_ns, *mnt_ns, *pid_ns_for_children, *net_ns, *time_ns, *cgroup_ns;
} CORE;

struct kernel_cap {
	__u64 val; /* kernel_cap_t: one __u64 since Linux 6.3, two __u32 before; the same bytes */
};

struct kid {
	__u32 val; /* kuid_t, kgid_t */
};

struct group_info {
	int ngroups;
	struct kid gid[0];
} CORE;

struct cred {
	struct kid uid, gid, suid, sgid, euid, egid, fsuid, fsgid;
	unsigned int securebits;
	struct kernel_cap cap_inheritable, cap_permitted, cap_effective, cap_bset, cap_ambient;
	void *user_ns;
	struct group_info *group_info;
	void *security;
	void *thread_keyring, *process_keyring, *session_keyring; /* CONFIG_KEYS */
} CORE;

#define ERESTART_RESTARTBLOCK 516 /* include/linux/errno.h */

/* The namespaces of a task. Pointers serve for comparison only. */
struct namespaces {
	__u64 proxy, mnt, pid, net, ipc, uts, cgroup, time, user;
};

/* What the reader, the current task of an iterator, is: the measure for namespaces and pid numbers. */
struct reader {
	struct namespaces ns;
	__u64 pid_ns;
	__u32 level;
};

static __always_inline void namespaces_get(struct namespaces *n, struct task_struct *t)
{
	struct nsproxy *p = core_ptr(t->nsproxy);
	const struct cred *c = core_ptr(t->real_cred);

	core_read(n->user, c->user_ns);
	n->proxy = (__u64)p;
	core_read(n->mnt, p->mnt_ns);
	core_read(n->pid, p->pid_ns_for_children);
	core_read(n->net, p->net_ns);
	core_read(n->ipc, p->ipc_ns);
	core_read(n->uts, p->uts_ns);
	core_read(n->cgroup, p->cgroup_ns);
	core_read(n->time, p->time_ns);
}

/* reader_pid is the part of reader_get that pid_nr needs. */
static __always_inline void reader_pid(struct reader *r)
{
	struct task_struct *me = bpf_get_current_task_btf();
	struct pid *pid = core_ptr(me->thread_pid);
	__s32 nr;

	r->level = 0;
	r->pid_ns = 0;
	core_read(r->level, pid->level);
	upid_at(pid, r->level, &nr, &r->pid_ns);
}

static __always_inline void reader_get(struct reader *r)
{
	namespaces_get(&r->ns, bpf_get_current_task_btf());
	reader_pid(r);
}

/* pid_nr is the number of a struct pid in the reader's pid namespace, 0 if it has none. */
static __noinline __s32 pid_nr(const struct reader *r, const struct pid *pid)
{
	__s32 nr = 0;
	__u64 ns = 0;

	return upid_at(pid, r->level, &nr, &ns) && ns == r->pid_ns ? nr : 0;
}

static __always_inline __u32 other_ns(const struct reader *r, struct task_struct *t)
{
	struct pid *pid = core_ptr(t->thread_pid);
	struct namespaces n;
	__u32 level = r->level, bits = 0;

	namespaces_get(&n, t);
	core_read(level, pid->level);
	bits |= n.user != r->ns.user ? NS_USER : 0;
	bits |= level != r->level ? NS_PID : 0;
	if (!n.proxy || n.proxy == r->ns.proxy) /* a task that has ended has none */
		return bits;
	bits |= n.mnt != r->ns.mnt ? NS_MNT : 0;
	bits |= n.pid != r->ns.pid ? NS_PID : 0;
	bits |= n.net != r->ns.net ? NS_NET : 0;
	bits |= n.ipc != r->ns.ipc ? NS_IPC : 0;
	bits |= n.uts != r->ns.uts ? NS_UTS : 0;
	bits |= n.cgroup != r->ns.cgroup ? NS_CGROUP : 0;
	bits |= n.time != r->ns.time ? NS_TIME : 0;
	return bits;
}

/* Every thread made with CLONE_SYSVSEM, that is by any threads library, has a list; it is empty unless SEM_UNDO was used. */
static __always_inline bool has_semaphore_undo(struct task_struct *t)
{
	struct sem_undo_list *list = core_ptr(t->sysvsem.undo_list);
	__u64 next = 0;

	if (!list)
		return false;
	bpf_probe_read_kernel(&next, sizeof(next), &list->list_proc.next);
	return next && next != (__u64)&list->list_proc;
}

static __always_inline __u32 thread_bits(struct task_struct *t)
{
	__u32 bits = arch_bits(t);

	bits |= has_semaphore_undo(t) ? THREAD_SEM_UNDO : 0;
	bits |= core_ptr(t->mempolicy) ? THREAD_MEMPOLICY : 0;
	if (core_exists(t->utask)) {
		struct uprobe_task *u = core_ptr(t->utask);

		bits |= u && core_ptr(u->return_instances) ? THREAD_URETPROBE : 0;
	}
	bits |= core_ptr(t->io_uring) ? THREAD_IO_URING : 0;
	return bits;
}

static __always_inline void usage_of_thread(struct usage_rec *u, struct task_struct *t)
{
	u->utime = t->utime;
	u->stime = t->stime;
	u->minflt = t->min_flt;
	u->majflt = t->maj_flt;
	u->inblock = t->ioac.read_bytes >> 9;
	u->oublock = t->ioac.write_bytes >> 9;
	u->nvcsw = t->nvcsw;
	u->nivcsw = t->nivcsw;
	u->maxrss = 0;
}

static __always_inline void thread_sched(struct thread_rec *r, struct task_struct *t)
{
	r->policy = t->policy;
	r->static_prio = t->static_prio;
	r->rt_priority = t->rt_priority;
	r->reset_on_fork = core_bits(t, sched_reset_on_fork);
	r->custom_slice = core_exists(t->se.custom_slice) ? t->se.custom_slice : 0;
	r->slice = core_exists(t->se.slice) ? t->se.slice : 0;
	r->dl_runtime = t->dl.dl_runtime;
	r->dl_deadline = t->dl.dl_deadline;
	r->dl_period = t->dl.dl_period;
	r->dl_flags = t->dl.flags;
}

/* thread_syscall reads what a stopped thread's interrupted system call left: result, number, restart block. */
static __always_inline void thread_syscall(struct thread_rec *r, struct task_struct *t)
{
	struct pt_regs *regs = bpf_task_pt_regs(t);
	struct restart_block *rb = &t->restart_block;
	__u64 fn = 0;

	core_read(fn, rb->fn);
	r->ax = regs_result(regs);
	r->orig_ax = regs_nr(regs);
	r->cs = regs_mode(regs);
	r->restart_fn[0] = 0;
	if (r->ax != -ERESTART_RESTARTBLOCK || r->orig_ax < 0)
		return;
	bpf_snprintf(r->restart_fn, sizeof(r->restart_fn), "%ps", &fn, sizeof(fn));
	/* The union that follows fn is the same in every release: no member of it was ever moved. */
	bpf_probe_read_kernel(r->restart_raw, sizeof(r->restart_raw), (const char *)&rb->fn + sizeof(rb->fn));
}

static struct thread_rec thread_out;

static __always_inline long emit_thread(struct seq_file *seq, const struct reader *me, struct task_struct *t, __s32 pid)
{
	struct thread_rec *r = &thread_out;

	r->head.kind = REC_THREAD;
	r->head.tail = 0;
	r->head.pid = pid;
	r->tid = pid_nr(me, core_ptr(t->thread_pid));
	r->exit_state = t->exit_state;
	core_read(r->mm, t->mm);
	core_read(r->files, t->files);
	core_read(r->fs, t->fs);
	core_read(r->sighand, t->sighand);
	core_read(r->cred, t->real_cred);
	r->sas_sp = t->sas_ss_sp;
	r->sas_size = t->sas_ss_size;
	r->sas_flags = t->sas_ss_flags;
	thread_sched(r, t);
	r->personality = t->personality;
	core_read(r->clear_child_tid, t->clear_child_tid);
	core_read(r->robust_list, t->robust_list);
	r->atomic_flags = t->atomic_flags;
	r->tif = t->thread_info.flags;
	r->task_flags = t->flags;
	r->pdeath_signal = t->pdeath_signal;
	r->seccomp_mode = t->seccomp.mode;
	r->timer_slack = t->timer_slack_ns;
	r->pending = t->pending.signal.sig[0];
	r->other_ns = other_ns(me, t);
	r->bits = thread_bits(t);
	r->runtime = t->se.sum_exec_runtime;
	usage_of_thread(&r->usage, t);
	thread_syscall(r, t);
	bpf_probe_read_kernel(r->comm, sizeof(r->comm), t->comm);
	return bpf_seq_write(seq, r, sizeof(*r));
}

static struct {
	struct cred_rec rec;
	__u32 groups[MAX_GROUPS];
} cred_out;

static __always_inline void cred_ids(struct cred_rec *r, const struct cred *c)
{
	r->cred = (__u64)c;
	r->uid = c->uid.val;
	r->gid = c->gid.val;
	r->suid = c->suid.val;
	r->sgid = c->sgid.val;
	r->euid = c->euid.val;
	r->egid = c->egid.val;
	r->fsuid = c->fsuid.val;
	r->fsgid = c->fsgid.val;
	r->securebits = c->securebits;
	core_read(r->inheritable, c->cap_inheritable);
	core_read(r->permitted, c->cap_permitted);
	core_read(r->effective, c->cap_effective);
	core_read(r->bset, c->cap_bset);
	core_read(r->ambient, c->cap_ambient);
}

/* lsm_word is the first word of the blob of security modules: that of the first one with a blob (security/lsm_init.c, ordered_lsm_init). */
static __always_inline __u64 lsm_word(struct cred *c)
{
	__u64 word = 0;

	if (core_exists(c->security))
		bpf_probe_read_kernel(&word, sizeof(word), core_ptr(c->security));
	return word;
}

static __always_inline __u32 keyrings(struct cred *c, struct cred *reader)
{
	__u32 bits = 0;

	if (!core_exists(c->session_keyring))
		return 0;
	if (core_ptr(c->thread_keyring))
		bits |= KEYRING_THREAD;
	if (core_ptr(c->process_keyring))
		bits |= KEYRING_PROCESS;
	if (core_ptr(c->session_keyring) != core_ptr(reader->session_keyring))
		bits |= KEYRING_SESSION;
	return bits;
}

/* emit_cred writes the credentials of a thread, unless they are the very ones of its leader. */
static __always_inline long emit_cred(struct seq_file *seq, struct task_struct *t, __s32 pid)
{
	struct cred_rec *r = &cred_out.rec;
	const struct cred *c = t->real_cred;
	struct task_struct *leader = core_ptr(t->group_leader);
	struct group_info *groups = c->group_info;
	struct cred *reader = (struct cred *)core_ptr(bpf_get_current_task_btf()->real_cred);
	__u32 n, bytes;

	if (leader != t && core_ptr(leader->real_cred) == c)
		return 0;
	r->head.kind = REC_CRED;
	r->head.pid = pid;
	cred_ids(r, c);
	r->lsm = lsm_word((struct cred *)c);
	if (r->lsm == lsm_word(reader))
		r->lsm = 0;
	r->keyrings = keyrings((struct cred *)c, reader);
	n = groups->ngroups;
	r->ngroups = n;
	if (n > MAX_GROUPS)
		n = MAX_GROUPS;
	bytes = n * sizeof(__u32);
	r->head.tail = bytes;
	if (bytes && bytes <= sizeof(cred_out.groups))
		bpf_probe_read_kernel(cred_out.groups, bytes, &groups->gid);
	bytes = sizeof(*r) + ((bytes + 7) & ~7U);
	return bytes <= sizeof(cred_out) ? bpf_seq_write(seq, &cred_out, bytes) : -1;
}

#endif
