/* SPDX-License-Identifier: MIT */
/*
 * Blocks that could not be freed because a lock was not to be had: a list without a lock, through struct page.
 *
 * Whoever cannot have the lock pushes, and tries the lock once more behind a full fence. Whoever has it takes the list in before it lets go,
 * and looks once more behind the unlock and a full fence. One of the two sees the other, so a list that is not empty has somebody
 * at it, and an idle machine has none. Taking in is the work of the lock's owner; this is the list.
 */
#ifndef MM_DEFERRED_H
#define MM_DEFERRED_H

#include "kernel/base/atomic.h"
#include "mm/page.h"

struct deferred {
	u32 first;	/* frame number of the first block, PFN_NONE: none; pushed to by anybody */
	u64 pushed;	/* counted before they are */
	/* The lock is held: */
	u64 taken;
	u64 most;	/* taken at once */
};

#define DEFERRED_INIT { .first = PFN_NONE }

static inline bool deferred_any(const struct deferred *d)
{
	return load_relaxed(&d->first) != PFN_NONE;
}

/* Any context. The block is the caller's, and its `next` the list's from now on; a look at the lock has to follow. */
static inline void deferred_push(struct deferred *d, struct page *page)
{
	u32 first = load_relaxed(&d->first);

	fetch_add(&d->pushed, 1);
	do
		page->next = first;
	while (!compare_exchange(&d->first, &first, (u32)page_to_pfn(page)));
	fence_full();
}

/* The lock is held: all that is there, a list through `next` that is the caller's. */
static inline u32 deferred_take(struct deferred *d)
{
	return exchange_acquire(&d->first, PFN_NONE);
}

/* The lock is held: so many have been taken in. */
static inline void deferred_done(struct deferred *d, u64 blocks)
{
	store_relaxed(&d->taken, d->taken + blocks);
	store_relaxed(&d->most, MAX(d->most, blocks));
}

/* Blocks that wait now. */
static inline u64 deferred_now(const struct deferred *d)
{
	u64 taken = load_relaxed(&d->taken);

	return load_relaxed(&d->pushed) - taken;
}

#endif
