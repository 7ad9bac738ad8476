/* SPDX-License-Identifier: MIT */
/*
 * A piece of a test in a process of its own: one that breaks the machine, ends by a panic, or leaves a CPU dead. What it prints is not
 * printed as this test's, where it would read as results, but kept.
 */
#ifndef TESTS_HOST_APART_H
#define TESTS_HOST_APART_H

#include <stdbool.h>
#include <stddef.h>

struct apart {
	bool aloud;		/* in: diagnostics of the log and of the simulation's faults are wanted, too */
	int status;		/* as of waitpid() */
	char said[4096];	/* the first of what it printed; ends with a zero */
};

/*
 * Run fn(arg); its result is the process's exit status. Returns whether the process ran and ended, however that was; a failed
 * check otherwise.
 */
bool apart_run(struct apart *apart, int (*fn)(void *arg), void *arg);

/* fn() came back, with 0. (ThreadSanitizer makes it something else for what it reported, in the process that forked, too.) */
bool apart_came_back(const struct apart *apart);

/* What it printed, as notes of this test. */
void apart_show(struct apart *apart);

/* Memory, zeroed, in which such a process leaves what it finds. NULL: none, and a failed check. */
void *apart_shared(size_t size);
void apart_unshare(void *shared, size_t size);

#endif
