/* SPDX-License-Identifier: MIT */
/*
 * The unmapped cache of a node: lists of what is free, and pieces, as they come from the page allocator and go back to it.
 *
 * A node's lock guards its lists, and is not held while frames are allocated, mappings change or anything is flushed: a refill or a
 * return works on a piece that nobody else can see. A frame leaves the direct map, and that has been flushed everywhere, before its
 * class says PAGE_UNMAPPED; on the way back the class changes first.
 */
#include "kernel/base/errno.h"
#include "kernel/base/trace.h"
#include "mm/directmap.h"
#include "mm/unmapped_internal.h"

struct um_cache um_cache;
struct um_node um_nodes[NODES_MAX];

/* ---- The lists; the node's lock is held ---- */

static enum um_kind kind_of(const struct page *page, unsigned order)
{
	return order == um_origin(page) ? UM_WHOLE : UM_PART;
}

static void list_push(struct um_node *n, struct page *page, unsigned order)
{
	enum um_kind kind = kind_of(page, order);
	u32 pfn = (u32)page_to_pfn(page);
	u32 first = n->head[kind][order];

	um_set(page, UM_FREE, order);
	page->next = first;
	page->prev = PFN_NONE;
	if (first != PFN_NONE)
		pfn_to_page(first)->prev = pfn;
	n->head[kind][order] = pfn;
	store_relaxed(&n->filled[kind], n->filled[kind] | 1u << order);
	counter_add(&n->nr[kind][order], 1);
}

static void list_unlink(struct um_node *n, struct page *page, unsigned order)
{
	enum um_kind kind = kind_of(page, order);

	if (page->prev == PFN_NONE)
		n->head[kind][order] = page->next;
	else
		pfn_to_page(page->prev)->next = page->next;
	if (page->next != PFN_NONE)
		pfn_to_page(page->next)->prev = page->prev;
	if (n->head[kind][order] == PFN_NONE)
		store_relaxed(&n->filled[kind], n->filled[kind] & ~(1u << order));
	counter_add(&n->nr[kind][order], -1);
}

/* Out of a part of a piece if there is one that fits, else out of a whole one. */
struct page *um_take(struct um_node *n, unsigned order, enum um_state state)
{
	enum um_kind kind = n->filled[UM_PART] >> order ? UM_PART : UM_WHOLE;
	struct page *page;
	unsigned o;

	assert_held(&n->lock);
	if (!(n->filled[kind] >> order))
		return NULL;
	o = order + (unsigned)__builtin_ctz(n->filled[kind] >> order);
	page = pfn_to_page(n->head[kind][o]);
	list_unlink(n, page, o);
	while (o > order) {
		o--;
		list_push(n, page + BIT(o), o);
	}
	um_set(page, state, order);
	return page;
}

/* It grows as long as its buddy is free, up to the piece. */
void um_give(struct um_node *n, struct page *page, unsigned order)
{
	unsigned origin = um_origin(page);
	pfn_t pfn = page_to_pfn(page);

	assert_held(&n->lock);
	for (; order < origin; order++) {
		struct page *buddy = pfn_to_page(pfn ^ BIT(order));
		struct page *upper;

		if (um_state(buddy) != UM_FREE || um_order(buddy) != order)
			break;
		if (!PLANTED(PLANT_UM_BUDDY_STAYS))
			list_unlink(n, buddy, order);
		pfn &= ~BIT(order);
		upper = pfn_to_page(pfn + BIT(order));
		um_set(upper, UM_INSIDE, 0);
	}
	list_push(n, pfn_to_page(pfn), order);
}

/* ---- Frees that found the lock held ---- */

void um_undefer(struct um_node *n)
{
	u32 pfn = deferred_take(&n->deferred);
	u64 blocks = 0;

	assert_held(&n->lock);
	if (PLANTED(PLANT_UM_DEFERRED_LOST))
		return;
	while (pfn != PFN_NONE) {
		struct page *page = pfn_to_page(pfn);

		pfn = page->next;
		um_give(n, page, um_order(page));
		if (PLANTED(PLANT_UM_DEFERRED_TWICE))
			um_give(n, page, um_order(page));
		blocks++;
	}
	deferred_done(&n->deferred, blocks);
}

void um_undefer_unlocked(struct um_node *n)
{
	while (deferred_any(&n->deferred) && spin_trylock(&n->lock)) {
		um_undefer(n);
		spin_unlock(&n->lock);
		fence_full();
	}
}

void um_defer(struct um_node *n, struct page *page)
{
	deferred_push(&n->deferred, page);
	um_undefer_unlocked(n);
}

/* ---- Pieces: taken from the page allocator, and given back ---- */

static void assert_context(void)
{
	assert(arch_this_cpu()->locks_held == 0 && arch_irqs_enabled());
}

static void count_blocks(pfn_t pfn, unsigned order, bool more)
{
	u64 nr = MIN(BIT(order), BIT(BLOCK_ORDER));

	for (pfn_t at = pfn; at < pfn + BIT(order); at += nr)
		fetch_add(&pfn_to_block(at)->unmapped, (u16)(more ? nr : -nr));
}

/*
 * Take frames of the page allocator's out of the direct map; they become a piece, on no list yet. On an error they go back (but
 * see set_direct_map_invalid() of a CPU that dies meanwhile).
 */
static int piece_unmap(struct page *page, unsigned order)
{
	struct um_node *n = &um_nodes[page->node];
	u64 word = um_word(UM_INSIDE, 0, order, page->node);
	pfn_t pfn = page_to_pfn(page);
	int rc;

	assert_context();
	rc = PLANTED(PLANT_UM_STAYS_MAPPED) ? 0 : set_direct_map_invalid(pfn, BIT(order));
	if (rc) {
		free_pages(page, order);
		return rc;
	}
	fetch_add(&um_cache.stats.flush_batches, 1);
	page_set_class(pfn, BIT(order), PAGE_UNMAPPED);
	for (u64 i = 0; i < BIT(order); i++)
		page[i].private = word;
	count_blocks(pfn, order, true);
	fetch_add(&n->frames, BIT(order));
	fetch_add(&n->refills[order], 1);
	trace_event(TRACE_REFILL, pfn, order, load_relaxed(&n->frames));
	if (order < ORDER_2M)
		store_relaxed(&n->open, pfn);
	return 0;
}

/* Take a piece of this order. NULL: *rc says why, -EAGAIN that there is none. */
static struct page *piece_take(unsigned nid, unsigned order, unsigned how, int *rc)
{
	struct page *page;

	assert_context();
	page = alloc_pages_node((int)nid, order, how | ALLOC_UNMAPS);
	*rc = page ? piece_unmap(page, order) : -EAGAIN;
	return *rc ? NULL : page;
}

/*
 * The largest piece of orders least to most that lies ready. It is no block and splits the leaf of its 2 MiB, so of equals one in
 * the 2 MiB that were split last is taken. NULL: *rc says why; with an error *order is what was tried.
 */
static struct page *piece_take_upto(unsigned nid, unsigned least, unsigned most, unsigned *order, int *rc)
{
	struct page *page;

	assert_context();
	page = alloc_pages_upto_node((int)nid, least, most, load_relaxed(&um_nodes[nid].open), order);
	*rc = page ? piece_unmap(page, *order) : -EAGAIN;
	return *rc ? NULL : page;
}

/* What undoes piece_unmap(), for a piece that is on no list. On an error the piece is as it was. */
static int piece_give(struct page *page, struct tlb_batch *batch)
{
	struct um_node *n = um_node_of(page);
	unsigned order = um_origin(page);
	u64 nr = BIT(order);
	int rc;

	assert_context();
	for (u64 i = 0; i < nr; i++)
		store_relaxed(&page[i].class, PAGE_KERNEL);
	rc = set_direct_map_batch(page_to_pfn(page), nr, true, batch);
	if (rc) {
		for (u64 i = 0; i < nr; i++)
			store_relaxed(&page[i].class, PAGE_UNMAPPED);
		return rc;
	}
	for (u64 i = 0; i < nr; i++)
		page[i].private = 0;
	count_blocks(page_to_pfn(page), order, false);
	fetch_add(&n->frames, -nr);
	fetch_add(&n->returns[order], 1);
	trace_event(TRACE_RETURN, page_to_pfn(page), order, load_relaxed(&n->frames));
	free_pages(page, order);
	return 0;
}

/* Finish a batch of returns; collapsing may flush. */
static void returns_finish(struct tlb_batch *batch)
{
	const struct pt_stats *s = &kernel_space.stats[PT_DIRECT];
	u64 before = load_relaxed(&s->collapses[PT_2M]) + load_relaxed(&s->collapses[PT_1G]);
	u64 flushes = batch->flush.gen_last != 0;

	tlb_batch_finish(batch);
	flushes += load_relaxed(&s->collapses[PT_2M]) + load_relaxed(&s->collapses[PT_1G]) != before;
	fetch_add(&um_cache.stats.flush_batches, flushes);
}

/* A piece that is on no list goes on its node's. */
static struct um_node *piece_list(struct page *page)
{
	struct um_node *n = um_node_of(page);

	um_lock(n);
	list_push(n, page, um_origin(page));
	um_unlock(n);
	return n;
}

/* ---- Refills ---- */

/*
 * A whole block. The page allocator gathers what lies about for one, but not each time where it was in vain the last time: memory
 * without a block stays so for a while, and what is gathered is only strewn about again.
 */
static struct page *block_take(unsigned nid, unsigned order, int *rc)
{
	u8 *dry = &um_nodes[nid].dry[order == ORDER_1G];
	u8 left = load_relaxed(dry);
	struct page *page = piece_take(nid, order, ALLOC_THIS_NODE | (left ? ALLOC_LIGHT : 0), rc);

	if (page)
		left = 0;
	else
		left = left ? left - 1u : UM_DRY_REFILLS;
	store_relaxed(dry, left);
	return page;
}

/* What lies ready, the highest order first, below `most` down to `least`: while 2 MiB are not gathered, a block is found in the same look. */
static struct page *highest_take(unsigned nid, unsigned least, unsigned most, int *rc)
{
	u8 *dry = &um_nodes[nid].dry[0];
	struct page *page = NULL;

	while (!page && *rc != -ENOMEM && most > least) {
		page = piece_take_upto(nid, least, most - 1, &most, rc);
		if (*rc == -EAGAIN)
			break;
	}
	if (page && most == ORDER_2M)
		store_relaxed(dry, 0);
	return page;
}

/*
 * A block of the mode's, or of 2 MiB, or the highest order there is below. (Between 1 GiB and 2 MiB nothing is gained by more: a 2M leaf is
 * whole either way.) gather: what will just do, and all that CPUs hold back is gathered for it.
 */
struct um_node *um_refill(unsigned nid, unsigned order, bool gather)
{
	u8 *dry = &um_nodes[nid].dry[0];
	struct page *page = NULL;
	unsigned most = ORDER_2M;
	int rc = -EAGAIN;
	u8 left;

	if (gather) {
		page = piece_take(nid, order, ALLOC_THIS_NODE, &rc);
		return page ? piece_list(page) : NULL;
	}
	if (um_block_order() == ORDER_1G)
		page = block_take(nid, ORDER_1G, &rc);
	left = load_relaxed(dry);
	if (!page && rc != -ENOMEM) {
		if (left) {
			store_relaxed(dry, left - 1u);
			most = ORDER_2M + 1;
		} else {
			page = block_take(nid, ORDER_2M, &rc);
		}
	}
	if (!page)
		page = highest_take(nid, order, most, &rc);
	return page ? piece_list(page) : NULL;
}

struct um_node *um_refill_by_reclaim(unsigned nid, unsigned order, bool strict)
{
	int rc;
	struct page *page = piece_take(nid, order, ALLOC_MAY_RECLAIM | (strict ? ALLOC_THIS_NODE : 0), &rc);

	return page ? piece_list(page) : NULL;
}

struct page *um_piece_alloc(unsigned nid, unsigned order, unsigned how)
{
	int rc;
	struct page *page = piece_take(nid, order, how, &rc);

	if (page)
		um_set(page, UM_TAKEN, order);
	return page;
}

/* ---- Returns ---- */

void um_piece_free(struct page *page)
{
	struct tlb_batch batch;

	tlb_batch_init(&batch, &kernel_space);
	if (piece_give(page, &batch))
		piece_list(page);
	returns_finish(&batch);
}

/* A whole free piece of at most so many frames, off its list. surplus: only one that is not to be kept. */
static struct page *piece_pick(struct um_node *n, u64 frames, bool surplus)
{
	unsigned block = um_block_order();
	struct page *page = NULL;
	u32 orders;

	um_lock(n);
	orders = n->filled[UM_WHOLE];
	if (surplus)
		orders &= ~BIT(block);
	if (!orders && surplus)
		orders = n->filled[UM_WHOLE];
	if (orders && BIT(__builtin_ctz(orders)) <= frames) {
		unsigned o = (unsigned)__builtin_ctz(orders);

		page = pfn_to_page(n->head[UM_WHOLE][o]);
		list_unlink(n, page, o);
		um_set(page, UM_MOVING, o);
	}
	um_unlock(n);
	return page;
}

static u64 node_give_back(struct um_node *n, u64 frames, struct tlb_batch *batch)
{
	struct page *page;
	u64 done = 0;

	while ((page = piece_pick(n, frames - done, false))) {
		u64 nr = BIT(um_origin(page));

		if (piece_give(page, batch)) {
			piece_list(page);
			break;
		}
		done += nr;
	}
	return done;
}

u64 um_give_back(unsigned first, u64 frames)
{
	struct tlb_batch batch;
	u64 done = 0;

	tlb_batch_init(&batch, &kernel_space);
	for (unsigned i = 0; i < buddy_nodes(); i++)
		done += node_give_back(&um_nodes[um_nth_node(first, i)], frames - done, &batch);
	returns_finish(&batch);
	return done;
}

void um_give_back_surplus(struct um_node *n, u64 keep)
{
	unsigned block = um_block_order();
	struct tlb_batch batch;
	struct page *page;

	tlb_batch_init(&batch, &kernel_space);
	while (load_relaxed(&n->nr[UM_WHOLE][block]) > keep || load_relaxed(&n->filled[UM_WHOLE]) & ~BIT(block)) {
		page = piece_pick(n, UNMAPPED_ALL, true);
		if (!page)
			break;
		if (piece_give(page, &batch)) {
			piece_list(page);
			break;
		}
	}
	returns_finish(&batch);
}
