/* SPDX-License-Identifier: MIT */
/*
 * Storms of NMIs that hit CPUs in the middle of their work: sent to whoever holds a lock by a CPU that looks, or by a timer of the machine
 * that comes when it likes.
 */
#ifndef TESTS_MACHINE_STORM_H
#define TESTS_MACHINE_STORM_H

#include "kernel/base/types.h"

struct storm {
	void (*handler)(void);		/* what each NMI does */
	void (*prepare)(void);		/* on each CPU that will be hit, before the first NMI; may be NULL */
	void (*churn)(void *arg);	/* what it interrupts; until storm_over() */
	u32 (*lock_holder)(void);	/* a CPU that holds one of the locks now; MAX_CPUS: none does */
	u64 wanted;			/* NMIs, in all */
	u32 scatter;			/* aimed: up to so many looks later, as one takes as long to arrive each time, and the lock may be gone */
};

/* Whether there have been enough of them. Any context. */
bool storm_over(void);
/* How many there have been. */
u64 storm_seen(void);

/* By a timer, on this CPU alone. Returns its name; NULL: there is none, and nothing has happened. */
const char *storm_by_timer(const struct storm *storm);

/* Sent by this CPU to all others, one NMI at a time for each. NULL: there are no others. */
const char *storm_aimed(const struct storm *storm);

#endif
