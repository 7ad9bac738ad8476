/* SPDX-License-Identifier: MIT */
/*
 * Small objects of one size each. See slab.h.
 *
 * A slab is one frame: a header with a bitmap of the objects in use, then the objects. The bitmap, not a list through the
 * objects, says what is free, so a double free is seen and a freed object that is written to breaks nothing.
 * Slabs with free objects are on the cache's list, through struct page; full ones are on none.
 */
#include "mm/slab.h"

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"

#define SLAB_MAGIC 0x62616c73u	/* "slab" */
#define SLAB_WORDS 4u		/* 256 objects of 16 bytes would fill a frame */

struct slab {
	u32 magic;
	u32 in_use;
	struct slab_cache *cache;
	u64 used[SLAB_WORDS];
};

_Static_assert(sizeof(struct slab) % 16 == 0, "objects are 16-byte aligned");

static u32 object_size(const struct slab_cache *cache)
{
	return (u32)align_up(cache->size, 16);
}

static u32 objects_per_slab(const struct slab_cache *cache)
{
	return (u32)((PAGE_SIZE - sizeof(struct slab)) / object_size(cache));
}

static void list_push(struct slab_cache *cache, struct page *page)
{
	assert_held(&cache->lock);
	page->prev = PFN_NONE;
	page->next = cache->partial;
	if (cache->partial != PFN_NONE)
		pfn_to_page(cache->partial)->prev = (u32)page_to_pfn(page);
	cache->partial = (u32)page_to_pfn(page);
}

static void list_take(struct slab_cache *cache, struct page *page)
{
	assert_held(&cache->lock);
	if (page->prev == PFN_NONE)
		cache->partial = page->next;
	else
		pfn_to_page(page->prev)->next = page->next;
	if (page->next != PFN_NONE)
		pfn_to_page(page->next)->prev = page->prev;
}

/* Take an object out of a slab that has one. Locked. */
static void *take(struct slab_cache *cache, struct page *page)
{
	struct slab *slab = page_to_virt(page);
	u32 i = 0;

	while (!~slab->used[i / 64])
		i += 64;
	i += (u32)__builtin_ctzll(~slab->used[i / 64]);
	slab->used[i / 64] |= BIT(i % 64);
	if (++slab->in_use == objects_per_slab(cache))
		list_take(cache, page);
	cache->objects++;
	return (char *)(slab + 1) + i * object_size(cache);
}

/* A new slab, not on the list yet. */
static struct page *new_slab(struct slab_cache *cache)
{
	struct page *page = alloc_page(0);
	struct slab *slab;

	if (!page)
		return NULL;
	page_put_class(page, PAGE_SLAB);
	slab = page_to_virt(page);
	memset(slab, 0, sizeof(*slab));
	slab->magic = SLAB_MAGIC;
	slab->cache = cache;
	/* Objects that do not fit are in use for ever. */
	for (u32 i = objects_per_slab(cache); i < SLAB_WORDS * 64; i++)
		slab->used[i / 64] |= BIT(i % 64);
	return page;
}

void *slab_alloc(struct slab_cache *cache)
{
	struct page *fresh = NULL;
	void *object;

	spin_lock(&cache->lock);
	if (cache->partial == PFN_NONE) {
		spin_unlock(&cache->lock);
		fresh = new_slab(cache);
		if (!fresh)
			return NULL;
		spin_lock(&cache->lock);
		list_push(cache, fresh);
		cache->slabs++;
	}
	object = take(cache, pfn_to_page(cache->partial));
	spin_unlock(&cache->lock);
	memset(object, 0, object_size(cache));
	return object;
}

/* The slab and the index of an object, or false with the reason in the log. */
static bool find_object(struct slab_cache *cache, const void *object, struct slab **out, u32 *index)
{
	struct slab *slab = (struct slab *)align_down((u64)object, PAGE_SIZE);
	pfn_t pfn = phys_to_pfn(virt_to_phys(slab));
	u64 offset = (u64)object - (u64)(slab + 1);

	if (!pfn_valid(pfn) || page_class(pfn_to_page(pfn)) != PAGE_SLAB || slab->magic != SLAB_MAGIC ||
	    slab->cache != cache) {
		log_warn("slab %s: free of %p, which is not its", cache->name, object);
		return false;
	}
	*out = slab;
	*index = (u32)(offset / object_size(cache));
	if (offset % object_size(cache) || *index >= objects_per_slab(cache)) {
		log_warn("slab %s: free of %p, which is inside an object", cache->name, object);
		return false;
	}
	return true;
}

void slab_free(struct slab_cache *cache, void *object)
{
	struct page *page, *empty = NULL;
	struct slab *slab;
	u32 i;

	if (!object || !find_object(cache, object, &slab, &i))
		return;
	page = virt_to_page(slab);
	spin_lock(&cache->lock);
	if (!(slab->used[i / 64] >> (i % 64) & 1)) {
		spin_unlock(&cache->lock);
		log_warn("slab %s: %p freed twice", cache->name, object);
		return;
	}
	slab->used[i / 64] &= ~BIT(i % 64);
	cache->objects--;
	if (slab->in_use-- == objects_per_slab(cache))
		list_push(cache, page);
	if (!slab->in_use) {
		list_take(cache, page);
		cache->slabs--;
		empty = page;
	}
	spin_unlock(&cache->lock);
	if (empty) {
		slab->magic = 0;
		page_put_class(empty, PAGE_KERNEL);
		free_page(empty);
	}
}
