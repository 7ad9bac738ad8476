/* SPDX-License-Identifier: MIT */
/*
 * Storms of NMIs whose handler takes pages itself, keeps a few of them for each CPU, and gives them back (SPEC PA2). What pages those
 * are, and what the NMIs interrupt, is the suite's; who took what, and the sums that must come out at the end, are the same for all.
 *
 * Each handler has some pages of more than one frame before the first NMI. Whoever hits the holder of a lock does not get such a page, so
 * without those hardly any would be freed under the lock, and wait for it.
 */
#ifndef TESTS_MACHINE_KEEPER_H
#define TESTS_MACHINE_KEEPER_H

#include "kernel/base/rng.h"
#include "mm/account.h"
#include "mm/buddy.h"
#include "tests/machine/storm.h"

struct keeper {
	const char *name;		/* of the account */
	u64 nmis, nmis_soak;		/* how many at least: in `make test`, under soak=on */
	bool always_deferred;		/* even NMIs that come when they like find a lock held at a free */

	/* By handlers. */
	unsigned (*order)(struct rng *rng);	/* of the page to take next */
	/* What is wrong with it is added to *torn. NULL: there is none. */
	struct page *(*take)(struct rng *rng, unsigned order, struct account *account, u64 *torn);
	void (*give)(struct page *page, unsigned order);
	void (*mark)(const struct page *page, u64 word);
	bool (*marked)(const struct page *page, u64 word);
	bool (*lock_held_here)(void);		/* this CPU holds a lock of the allocator's */

	/* By tasks. */
	struct page *(*take_early)(unsigned order, struct account *account);	/* before the first NMI */
	u32 (*lock_holder)(void);		/* storm.h */
	void (*churn)(void *arg);		/* storm.h; says keeper_round(), and keeper_wrong() of what is not as it should be */
	u64 (*deferred_now)(void);
	unsigned (*check)(void);		/* faults of the allocator while handlers have pages of it; NULL: nothing to ask */
	void (*read_stats)(struct nolock_stats *stats);
};

typedef const char *(*storm_fn)(const struct storm *storm);

/*
 * Runs `how`, storm_by_timer() or storm_aimed(), and checks what it left. Returns whether there was one: there is none without such
 * a timer, or with one CPU. Tasks.
 */
bool keeper_run(const struct keeper *keeper, storm_fn how);

/* By the churn, on any CPU. */
void keeper_round(void);
void keeper_wrong(void);
struct account *keeper_account(void);	/* what handlers are charged to */

#endif
