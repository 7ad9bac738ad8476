/* SPDX-License-Identifier: MIT */
/*
 * What the parts of the page allocator share: a node and its lists (buddy_node.c), the stacks of CPUs and the usual calls
 * (buddy.c), those for any context (buddy_nolock.c), what is looked at on request (buddy_debug.c).
 */
#ifndef MM_BUDDY_INTERNAL_H
#define MM_BUDDY_INTERNAL_H

#include "kernel/base/spinlock.h"
#include "mm/buddy.h"
#include "mm/deferred.h"

/* Below this order a block and its buddy lie in one section, so that the buddy has a struct page for sure. */
#define SECTION_ORDER (SECTION_SHIFT - PAGE_SHIFT)

/* Lists of free blocks: the ordinary ones, and those in 2 MiB that are kept for ALLOC_UNMAPS (PAGE_STEERED), orders 0..8. */
enum page_kind { KIND_PLAIN, KIND_STEERED, KINDS };

struct page_lists {
	u32 filled;			/* bit o: the list of order o is not empty */
	u32 state;			/* of the first frame of a free block of order 0 */
	u32 head[ORDER_MAX + 1];
	u64 nr[ORDER_MAX + 1];		/* blocks on the list */
};

struct node {
	spinlock_t lock;
	u32 id;
	struct page_lists lists[KINDS];
	u64 frames;
	u64 allocs;			/* blocks taken */
	u64 frees;			/* blocks given back */
	u64 fails;
	u32 claimed;			/* frame of the last block that was kept for ALLOC_UNMAPS, or PFN_NONE */
	u32 gigabyte;			/* where the next search for such a block begins */
	struct deferred deferred __aligned(64);	/* frees by who could not have the lock */
} __aligned(64);

extern struct node nodes[NODES_MAX] __hidden;
extern unsigned nr_nodes;
extern struct page_cache *page_caches[MAX_CPUS];	/* by CPU; NULL: it has none */

/* Of a frame inside a free block, and of all but the first when a block is allocated. */
static inline u32 state_inside(const struct node *n)
{
	return page_state(PAGE_FREE, 0, 0, n->id);
}

/* Of the first frame of a block that is free, and on no list of a node. */
static inline u32 state_cached(const struct page *page, unsigned order)
{
	return page_state(PAGE_FREE, order, PAGE_CACHED | (page->flags & PAGE_STEERED), page->node);
}

static inline struct page_cache *this_cache(void)
{
	return arch_this_cpu()->pages;
}

static inline void node_lock(struct node *n)
{
	spin_lock(&n->lock);
}

/* Only by the next three. */
void node_undefer(struct node *n);
void node_undefer_unlocked(struct node *n);

/* What was deferred while the lock was held goes back to the lists first, and nothing stays behind. */
static inline void node_unlock(struct node *n)
{
	if (unlikely(deferred_any(&n->deferred)))
		node_undefer(n);
	spin_unlock(&n->lock);
	fence_full();
	if (unlikely(deferred_any(&n->deferred)))
		node_undefer_unlocked(n);
}

void nodes_reset(void);

/* ---- The node's lock is held ---- */

/* Take up to `want` blocks of an order, of one kind; their pages are written to slots, in state PAGE_CACHED. */
unsigned node_take(struct node *n, enum page_kind kind, unsigned order, struct page **slots, unsigned want);
/* A block comes back. */
void node_give(struct node *n, u32 pfn, unsigned order, enum page_kind kind);
/* `count` ordinary blocks of an order. */
void node_give_all(struct node *n, unsigned order, struct page *const *slots, u64 count);
/* A block for a caller, state and all, of any kind; NULL: there is none. ALLOC_UNMAPS counts. */
struct page *node_alloc_locked(struct node *n, unsigned order, unsigned flags);
/* A block of this order, preferably near a frame; the lists hold one, or a larger one. */
struct page *node_take_near(struct node *n, unsigned order, pfn_t near);
/* The orders of which there are blocks, of any kind. */
static inline u32 node_filled(const struct node *n)
{
	return n->lists[KIND_PLAIN].filled | n->lists[KIND_STEERED].filled;
}

/* ---- It is not ---- */

struct page *node_alloc(struct node *n, unsigned order, unsigned flags);
/* A block that has been found fit to be freed. */
void node_free(struct node *n, struct page *page, unsigned order);
/* The same when the lock could not be had: any context. */
void node_defer(struct node *n, struct page *page, unsigned order);

/* ---- CPUs (buddy.c) ---- */

/* Why a frame is not to be freed; NULL: it is, and all its frames are PAGE_FREE. Any context. */
const char *free_prepare(struct page *page, u64 pfn, unsigned order);
void bad_free(u64 pfn, unsigned order, const char *why);
u64 page_index_of(const struct page *page);
/* Entries of a reserve. */
unsigned reserve_want(const struct page_reserve *r);
/* Quiescent points: all CPUs' stacks are to go by alloc_watch. */
void buddy_watch_changed(void);

/* ---- On request (buddy_debug.c) ---- */

/* Whether this allocation is one that is to fail. Any context. */
bool alloc_injected(struct alloc_site *site, unsigned order);
extern unsigned alloc_watch;
/* While it is not 0: this block has been allocated. Any context. */
void alloc_watched(struct page *page, unsigned order);
/* For BUDDY_POISON: a block that is about to be free, or to be allocated. Any context. */
void page_poison(struct page *page, unsigned order);
void page_unpoison(struct page *page, unsigned order);

#endif
