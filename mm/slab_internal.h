/* SPDX-License-Identifier: MIT */
/* What mm/slab.c does for mm/kmalloc.c: objects by the batch, and who is free. */
#ifndef MM_SLAB_INTERNAL_H
#define MM_SLAB_INTERNAL_H

#include "mm/page.h"
#include "mm/slab.h"

/* Where a pointer leads to. */
struct slab_object {
	struct page *page;
	struct slab_cache *cache;
	u32 index;
};

/* NULL: it is an object. Else why it is none. Reads no memory but struct pages. Any context. */
const char *slab_find(const void *pointer, struct slab_object *out);

/* The object is its caller's from now on. Any context. */
void slab_mark_used(const void *object);
/* It is its caller's no longer. False: it was not in use. Of two at a time one gets true. Any context. */
bool slab_mark_free(const struct slab_object *object);

/* Named in the log and counted. Any context. */
void slab_bad_free(const struct slab_cache *cache, const void *pointer, const char *why);

/* Up to `want` objects out of their slabs, of a new slab if need be. Task context. */
unsigned slab_take(struct slab_cache *cache, void **objects, unsigned want);
/* One. Any context. */
void *slab_take_nolock(struct slab_cache *cache);

/* Objects that are out of their slabs, and nobody's, go back. Task context. */
void slab_give(struct slab_cache *cache, void *const *objects, unsigned nr);
/* One. Any context. */
void slab_give_nolock(struct slab_cache *cache, void *object);

#endif
