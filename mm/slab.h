/* SPDX-License-Identifier: MIT */
/*
 * Small objects of one size each, from whole pages (Bonwick, The Slab Allocator, USENIX 1994), for any context (SPEC PA4).
 * What is of no type of its own comes from mm/kmalloc.h.
 *
 * A slab is one frame of class PAGE_SLAB; its struct page says which cache it is of. Empty slabs go back to the page allocator at
 * once, so that a test's leak check sees every object. A free that cannot have the cache's lock is deferred: see slab.c for why
 * nothing stays deferred.
 */
#ifndef MM_SLAB_H
#define MM_SLAB_H

#include "kernel/base/spinlock.h"
#include "kernel/base/types.h"

struct account;
struct slab_deferred;

#define SLAB_SIZE_MIN 16u
#define SLAB_SIZE_MAX 2048u

struct slab_cache {
	const char *name;
	u32 size;		/* bytes of an object, 16..2048 */
	spinlock_t lock;
	u32 partial;		/* slabs with free objects: list through struct page */
	u64 objects;		/* out of their slabs: in use, on their way, or on a list of a CPU */
	u64 slabs;
	struct account *account;	/* charged for the slabs, a frame each; NULL: nobody */
	/* The cache's own. */
	struct slab_deferred *deferred;	/* freed objects that wait for the lock */
	u64 deferrals;
	u32 reciprocal;		/* 2^32 / bytes of an object, rounded up */
	u32 per_slab;
};

#define SLAB_CACHE_INIT(type) { .name = #type, .size = sizeof(type), .partial = UINT32_MAX, \
				.lock = SPINLOCK_INIT_CLASS(LOCK_SLAB) }

/* One object, zeroed, 16-byte aligned (powers of two: to their size); NULL: no frame, or the account's limit. Task context. */
void *slab_alloc(struct slab_cache *cache);
/*
 * NULL is fine. An object of another cache, one that is free, a pointer into an object or to anywhere else is named in the log,
 * counted (slab_bad_frees), and changes nothing; of two frees at the same time one counts. Task context.
 */
void slab_free(struct slab_cache *cache, void *object);

/* The same from any context, with any lock held by whom was interrupted, this cache's too. Never waits. */
void *slab_alloc_nolock(struct slab_cache *cache);
void slab_free_nolock(struct slab_cache *cache, void *object);

extern u64 slab_bad_frees;

/*
 * Each slab of the cache, found by looking at all frames: an object is in use, or in its slab, or neither, but not both; slabs and the objects
 * in use add up. Returns the number of faults. Quiescent points.
 */
unsigned slab_check(const struct slab_cache *cache);

#endif
