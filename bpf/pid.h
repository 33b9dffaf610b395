/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct pid: numbers of tasks in pid namespaces (include/linux/pid.h). */
#ifndef BPFCKPT_PID_H
#define BPFCKPT_PID_H

#include "core.h"

struct pid_namespace;

struct upid {
	int nr;
	struct pid_namespace *ns;
} CORE;

struct pid {
	unsigned int level;
	struct upid numbers[0];
} CORE;

#define MAX_PID_LEVEL 32 /* MAX_PID_NS_LEVEL, include/linux/pid_namespace.h */

/*
 * upid_at reads the number that pid has at one level of nesting; false if it has none there. pid must come from core_ptr: the verifier of
 * Linux 6.1 allows no sums with a number that is not known on a pointer whose type it knows.
 */
static __always_inline bool upid_at(const struct pid *pid, __u32 level, __s32 *nr, __u64 *ns)
{
	__u32 depth = 0;
	const struct upid *u;

	if (!pid || core_read(depth, pid->level) || depth < level || level > MAX_PID_LEVEL)
		return false;
	u = (const void *)((const char *)pid + core_offset(struct pid, numbers) + level * __builtin_preserve_type_info(*(struct upid *)0, 1));
	core_read(*nr, u->nr);
	return core_read(*ns, u->ns) == 0;
}

#endif
