//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Programs for tests: what the probes decide about a call, run on given arguments by BPF_PROG_TEST_RUN. The probes themselves are of types
 * that the kernel does not run this way.
 */
#include "probe_call.h"

char LICENSE[] SEC("license") = "GPL";

struct unit_arg {
	struct call_regs call;
	__s64 ret;
	__u64 nr;
	__s64 out;
};
const struct unit_arg *abi_unit_arg;

SEC("syscall")
int unit_fcntl(struct unit_arg *a)
{
	struct call_regs c = a->call;

	a->out = fcntl_slot(&c, a->ret);
	return 0;
}

SEC("syscall")
int unit_ioctl(struct unit_arg *a)
{
	struct call_regs c = a->call;

	a->out = ioctl_slot(&c);
	return 0;
}

SEC("syscall")
int unit_place(struct unit_arg *a)
{
	struct call_regs c = a->call;

	a->out = place(&c, a->nr, a->ret);
	return 0;
}

SEC("syscall")
int unit_may_record(struct unit_arg *a)
{
	a->out = may_record(a->nr);
	return 0;
}

SEC("syscall")
int unit_received(struct unit_arg *a)
{
	struct call_regs c = a->call;

	a->out = received(&c);
	return 0;
}
