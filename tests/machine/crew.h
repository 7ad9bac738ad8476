/* SPDX-License-Identifier: MIT */
/* Threads for tests that run on several CPUs. */
#ifndef TESTS_MACHINE_CREW_H
#define TESTS_MACHINE_CREW_H

#include "kernel/thread.h"

#define CREW_MAX 64u	/* CPUs that a test uses at most */

/* Ids of the CPUs that take threads, this one first. Returns how many. */
unsigned crew_cpus(u32 ids[CREW_MAX]);

/* thread_start(); no memory is a panic, as those who run already may wait for it. */
struct thread *crew_start(u32 cpu, const char *name, void (*fn)(void *arg), void *arg);

/* Join all of nr threads, and CHECK that each could be. */
void crew_join(struct thread *const *threads, unsigned nr);

/*
 * Play nr roles (up to CREW_ROLES), each in a thread, this CPU's first, as many on each CPU. Stacks come and go with threads, which an audit
 * beside them would notice: so nobody begins before all are there, and no stack goes before all have ended.
 */
#define CREW_ROLES 16u
struct crew_role {
	const char *name;
	void (*fn)(void *arg);
	u64 arg;
};
void crew_play(const struct crew_role *roles, unsigned nr);

#endif
