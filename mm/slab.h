/* SPDX-License-Identifier: MIT */
/*
 * Small objects of one size each, from whole pages (Bonwick, The Slab Allocator, USENIX 1994).
 *
 * A slab is one frame of class PAGE_SLAB; its struct page holds the list of its free objects. Empty slabs go
 * back to the page allocator at once, so that a test's leak check sees every object.
 */
#ifndef MM_SLAB_H
#define MM_SLAB_H

#include "kernel/base/spinlock.h"
#include "kernel/base/types.h"

struct slab_cache {
	const char *name;
	u32 size;		/* bytes of an object, 16..2048 */
	spinlock_t lock;
	u32 partial;		/* slabs with free objects: list through struct page */
	u64 objects;		/* in use */
	u64 slabs;
};

#define SLAB_CACHE_INIT(type) { .name = #type, .size = sizeof(type), .partial = UINT32_MAX, \
				.lock = SPINLOCK_INIT_CLASS(LOCK_SLAB) }

/* One object, zeroed, 16-byte aligned; NULL: no frame. Task context. */
void *slab_alloc(struct slab_cache *cache);
/* NULL is fine. An object of another cache, or one that is free, is named in the log and changes nothing. */
void slab_free(struct slab_cache *cache, void *object);

#endif
