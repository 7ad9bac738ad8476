/* SPDX-License-Identifier: MIT */
/*
 * Memory for execmem: frames, addresses and mappings, taken and given back (SPEC XM2..XM4, XM6).
 *
 * Order of taking: nodes, frames, addresses, content, mapping. The content comes before the mapping, so
 * that what is executable is INT3 from its first moment on. Order of giving back: mapping, flush, frames,
 * addresses, nodes. What may fail on the way back (a table for the direct map, under `pages` only; a CPU that never
 * answers) leaves the region on a list, and is tried again with the next one.
 */
#include "kernel/base/errno.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/execmem_internal.h"
#include "mm/kernel_map.h"
#include "mm/plant.h"
#include "mm/slab.h"
#include "mm/temp_map.h"
#include "mm/unmapped.h"

#define MAP_PAGES 32u	/* single frames mapped by one change */

static struct slab_cache regions = SLAB_CACHE_INIT(struct region);

static u64 region_bytes(unsigned order)
{
	return PAGE_SIZE << order;
}

struct region *region_of(u64 va)
{
	if (range_has(execmem.tail_range, va))
		return &execmem.tail;
	for (unsigned i = 0; i < ARRAY_SIZE(execmem.ranges); i++)
		if (range_has(execmem.ranges[i], va)) {
			struct span *s = span_find(&execmem.addresses[i], va);

			return s ? s->owner : NULL;
		}
	return NULL;
}

/* ---- Frames ---- */

static struct page *take_frames(const struct execmem_params *row, unsigned order)
{
	bool exec = execmem_is_executable(row);
	struct page *page;
	pfn_t pfn;
	u8 fill;

	if (row->flags & EXECMEM_UNMAPPED)
		page = unmapped_pages_alloc(order, UNMAPPED_MAY_RECLAIM | (exec ? UNMAPPED_NOSCRUB : UNMAPPED_ZERO),
					    -1, NULL);
	else
		page = alloc_pages(order, exec ? 0 : ALLOC_ZERO);
	if (!page || !exec)
		return page;
	pfn = page_to_pfn(page);
	page_set_class(pfn, BIT(order), PAGE_EXECMEM);
	fill = PLANTED(PLANT_EXECMEM_MAP_UNFILLED) ? 0 : EXECMEM_INT3;
	if (row->flags & EXECMEM_UNMAPPED)
		temp_fill(pfn, BIT(order), fill);
	else
		memset(page_to_virt(page), fill, region_bytes(order));
	return page;
}

static void free_frames(const struct region *r)
{
	if (r->unmapped)
		unmapped_pages_free(pfn_to_page(r->pfn), r->order);
	else
		free_pages(pfn_to_page(r->pfn), r->order);
}

/* ---- Regions without addresses ---- */

static void region_free(struct region *r)
{
	free_frames(r);
	span_pool_release(&r->spare);
	slab_free(&regions, r);
}

static struct region *region_new(const struct execmem_params *row, unsigned order)
{
	struct region *r = slab_alloc(&regions);
	struct page *page = NULL;

	if (!r)
		return NULL;
	r->order = (u8)order;
	r->leaf = order ? row->leaf : PT_4K;
	r->type = (u8)row->folded;
	r->unmapped = row->flags & EXECMEM_UNMAPPED;
	r->sealable = row->flags & EXECMEM_REPROTECT;
	if (!span_pool_reserve(&r->spare, 1))
		page = take_frames(row, order);
	if (!page) {
		span_pool_release(&r->spare);
		slab_free(&regions, r);
		return NULL;
	}
	r->pfn = page_to_pfn(page);
	return r;
}

static void list_free(struct region *list)
{
	while (list) {
		struct region *next = list->next;

		region_free(list);
		list = next;
	}
}

/* nr regions of 2^order frames, or none. */
static struct region *list_new(const struct execmem_params *row, unsigned order, u64 nr)
{
	struct region *list = NULL;

	while (nr--) {
		struct region *r = region_new(row, order);

		if (!r) {
			list_free(list);
			return NULL;
		}
		r->next = list;
		list = r;
	}
	return list;
}

/* ---- Addresses ---- */

/*
 * Addresses for all of the list, side by side, where the row says; each region gets its part. The pool has two
 * nodes more than regions.
 */
static int list_place(struct region *list, u64 nr, u64 align, const struct execmem_params *row,
		      struct span_pool *pool)
{
	u64 size = region_bytes(list->order), start;

	for (unsigned i = 0; i < ARRAY_SIZE(row->ranges); i++) {
		int told = execmem_range_of(row->ranges[i]);
		struct span_tree *tree = &execmem.addresses[MAX(told, 0)];
		struct span *s = told < 0 ? NULL : span_first_fit_in(tree, row->ranges[i], nr * size, MAX(align, size), &start);

		if (!s)
			continue;
		s = span_take(tree, s, start, nr * size, pool);
		for (struct region *r = list; r; r = r->next) {
			struct span *rest = r->next ? span_split(tree, s, s->start + size, pool) : NULL;

			r->va = s;
			s->owner = r;
			s = rest;
		}
		return 0;
	}
	return -ENOSPC;
}

static void unplace(struct region *r, struct span_pool *pool)
{
	for (unsigned i = 0; i < ARRAY_SIZE(execmem.ranges); i++)
		if (range_has(execmem.ranges[i], r->va->start))
			span_give(&execmem.addresses[i], r->va, pool);
	r->va = NULL;
}

/* ---- Mappings ---- */

static u64 first_attrs(const struct execmem_params *row)
{
	return row->flags & EXECMEM_REPROTECT ? DIRECT_ATTRS : row->prot;
}

/* Map from *at on: a block, or as many single frames as one change takes. Moves *at behind it. */
static int map_some(struct region **at, u64 attrs, struct tlb_batch *batch)
{
	struct page *pages[MAP_PAGES];
	struct region *r = *at;
	u64 va = r->va->start;
	u32 nr = 0;
	int rc;

	if (r->order) {
		rc = kernel_map_range(va, range_len(r->pfn << PAGE_SHIFT, region_bytes(r->order)), attrs, r->leaf,
				      batch);
		r = r->next;
	} else {
		for (; r && nr < MAP_PAGES; r = r->next)
			pages[nr++] = pfn_to_page(r->pfn);
		rc = kernel_map_pages(va, pages, nr, attrs, PT_4K, batch);
	}
	if (!rc)
		*at = r;
	return rc;
}

static int list_map(struct region *list, u64 attrs)
{
	struct region *at = list;
	struct tlb_batch batch;
	int rc = 0;

	tlb_batch_init(&batch, &kernel_space);
	while (at && !rc)
		rc = map_some(&at, attrs, &batch);
	/* Whole leaves that nobody has seen yet: taking them away takes no table. */
	if (rc && at != list && kernel_unmap(range(list->va->start, at->va->start), &batch))
		log_warn("execmem: 0x%llx cannot be unmapped", (unsigned long long)list->va->start);
	tlb_batch_finish(&batch);
	return rc;
}

/* ---- Making ---- */

static void count_regions(const struct region *list, bool fallback)
{
	for (; list; list = list->next) {
		struct execmem_counters *c = &execmem.counters[list->type];

		c->regions++;
		c->region_bytes += region_bytes(list->order);
		c->leaves_2m += list->leaf == PT_2M;
		c->leaves_4k += list->leaf == PT_4K ? BIT(list->order) : 0;
		c->blocks_taken += list->order == BLOCK_ORDER;
		c->fallbacks_4k += fallback;
	}
}

static int make_of_order(const struct execmem_params *row, u64 size, u64 align, unsigned order,
			 struct region **out)
{
	u64 nr = align_up(size, region_bytes(order)) >> (PAGE_SHIFT + order);
	struct span_pool pool = { 0 };
	struct region *list = NULL;
	int rc = span_pool_reserve(&pool, (u32)nr + SPAN_TAKE_NODES);

	if (!rc) {
		list = list_new(row, order, nr);
		rc = list ? 0 : -ENOMEM;
	}
	if (!rc) {
		spin_lock(&execmem.lock);
		rc = list_place(list, nr, align, row, &pool);
		spin_unlock(&execmem.lock);
	}
	if (!rc) {
		rc = list_map(list, first_attrs(row));
		spin_lock(&execmem.lock);
		if (rc)
			for (struct region *r = list; r; r = r->next)
				unplace(r, &pool);
		else
			count_regions(list, !order && row->flags & EXECMEM_PACKED);
		spin_unlock(&execmem.lock);
	}
	span_pool_release(&pool);
	if (rc)
		list_free(list);
	else
		*out = list;
	return rc;
}

int regions_make(enum execmem_type type, u64 size, u64 align, struct region **list)
{
	/* What is shared is made as its owner has it. */
	const struct execmem_params *row = execmem_row(execmem_row(type)->folded);
	int rc = -ENOMEM;

	if (execmem.nr_stuck)
		regions_retry();
	if (row->flags & EXECMEM_PACKED)
		rc = make_of_order(row, size, align, BLOCK_ORDER, list);
	return rc ? make_of_order(row, size, align, 0, list) : 0;
}

/* ---- Giving back ---- */

static void count_return(const struct region *r)
{
	struct execmem_counters *c = &execmem.counters[r->type];

	c->regions--;
	c->region_bytes -= region_bytes(r->order);
	c->leaves_2m -= r->leaf == PT_2M;
	c->leaves_4k -= r->leaf == PT_4K ? BIT(r->order) : 0;
	c->blocks_returned += r->order == BLOCK_ORDER;
}

/*
 * What was sealed is read-only in the direct map until it is put back there. The mapping is gone by then,
 * or nothing but read-only would be allowed. Tried again, it still has to wait for what was not flushed the last time.
 */
static int region_detach(struct region *r, struct tlb_batch *batch)
{
	int rc = 0;

	if (!r->detached)
		rc = kernel_unmap(region_range(r), batch);
	if (rc)
		return rc;
	if (r->detached) {
		spin_lock(&kernel_space.lock);
		tlb_batch_wait(batch, r->gen);
		spin_unlock(&kernel_space.lock);
	} else {
		r->gen = batch->flush.gen_last;
		r->detached = true;
	}
	return r->sealable && !r->unmapped ? set_direct_map_batch(r->pfn, BIT(r->order), true, batch) : 0;
}

/* To be tried again whenever a region is made. The first reason is said, and no more. */
static void stick(struct region *r, int rc)
{
	const char *why = rc == -ENOMEM ? "no memory for a table" : rc == -EIO ? "a CPU does not answer" : "its mapping is busy";

	if (!r->named)
		log_warn("execmem: region at 0x%llx cannot be given back (%s): kept",
			 (unsigned long long)r->va->start, why);
	r->named = true;
	spin_lock(&execmem.lock);
	r->next = execmem.stuck;
	execmem.stuck = r;
	execmem.nr_stuck++;
	spin_unlock(&execmem.lock);
}

void regions_release(struct region *list)
{
	struct region *gone = NULL;
	struct tlb_batch batch;

	if (!list)
		return;
	tlb_batch_init(&batch, &kernel_space);
	for (struct region *next; list; list = next) {
		int rc = region_detach(list, &batch);

		next = list->next;
		if (rc) {
			stick(list, rc);
			continue;
		}
		list->next = gone;
		gone = list;
	}
	tlb_batch_finish(&batch);
	for (struct region *next; gone; gone = next) {
		struct span_pool pool = { 0 };

		next = gone->next;
		if (batch.dead) {
			stick(gone, -EIO);
			continue;
		}
		spin_lock(&execmem.lock);
		count_return(gone);
		unplace(gone, &pool);
		spin_unlock(&execmem.lock);
		span_pool_release(&pool);
		region_free(gone);
	}
}

void regions_retry(void)
{
	struct region *list;

	spin_lock(&execmem.lock);
	list = execmem.stuck;
	execmem.stuck = NULL;
	execmem.nr_stuck = 0;
	spin_unlock(&execmem.lock);
	regions_release(list);
}
