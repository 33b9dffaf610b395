/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The probe of handlers that the kernel resets as it calls them. */
#ifndef BPFCKPT_PROBE_SIGNAL_H
#define BPFCKPT_PROBE_SIGNAL_H

#include "probe.h"

#define SA_RESETHAND 0x80000000UL

/* signal_deliver(sig, info, ka): the signal's lock is held. SA_RESETHAND takes effect just after. */
SEC("tp_btf/signal_deliver")
int on_signal(__u64 *ctx)
{
	struct k_sigaction *ka = (void *)ctx[2];
	struct ev_action *e;
	struct watched *w;

	if (!(ka->sa.flags & SA_RESETHAND))
		return 0;
	w = followed(bpf_get_current_task_btf());
	if (!w)
		return 0;
	e = event_new(struct ev_action, EV_ACTION, w, 0, 0, LOST_ACTIONS);
	if (!e)
		return 0;
	e->signal = ctx[0];
	e->pad = 0;
	e->action.handler = 0; /* SIG_DFL; the rest stays */
	e->action.flags = ka->sa.flags;
	e->action.restorer = ka->sa.restorer;
	e->action.mask = ka->sa.mask;
	event_done(e);
	return 0;
}

#endif
