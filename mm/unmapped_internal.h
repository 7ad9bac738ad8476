/* SPDX-License-Identifier: MIT */
/*
 * What the files of the unmapped cache share: the state of a frame, the lists (unmapped_piece.c), the magazines and the usual calls
 * (unmapped.c), those for any context (unmapped_nolock.c), the check (unmapped_check.c).
 *
 * A piece is what was taken from the page allocator in one go: 2^origin frames of one node. It is tiled by regions, each a free block, a
 * page on a magazine, or an allocation; the first frame of a region says which, and its order, the others say UM_INSIDE.
 * All of it stands in `private` of each frame's struct page, under a mark that is neither an address nor a generation.
 */
#ifndef MM_UNMAPPED_INTERNAL_H
#define MM_UNMAPPED_INTERNAL_H

#include "kernel/base/bits.h"
#include "kernel/base/spinlock.h"
#include "mm/account.h"
#include "mm/buddy.h"
#include "mm/deferred.h"
#include "mm/plant.h"
#include "mm/temp_map.h"
#include "mm/unmapped.h"

enum um_state {
	UM_INSIDE,	/* of a region, and not its first frame */
	UM_FREE,	/* heads a free block on a list */
	UM_STACKED,	/* on a magazine */
	UM_TAKEN,	/* heads an allocation */
	UM_MOVING,	/* heads what somebody is at work on: being freed, deferred, or going back */
};

#define UM_MARK (0x6e6f6d6170ull << 24)
#define UM_MARK_MASK (~0ull << 24)
#define UM_ORIGIN_SHIFT 0
#define UM_ORDER_SHIFT 5
#define UM_STATE_SHIFT 10
#define UM_STATE_MASK (15ull << UM_STATE_SHIFT)
#define UM_ORDER_MASK (31ull << UM_ORDER_SHIFT)
#define UM_REGION_MASK (UM_MARK_MASK | UM_STATE_MASK | UM_ORDER_MASK)
#define UM_NOSCRUB BIT(14)	/* of an allocation's first frame */
#define UM_CLEAN BIT(15)	/* of each frame by itself: it is zero, and has been out of reach since */
#define UM_NODE_SHIFT 16	/* of the piece: whose lists it is on */

_Static_assert(NODES_MAX <= 256, "a node's number fits below the mark");

static inline u64 um_word(enum um_state state, unsigned order, unsigned origin, unsigned nid)
{
	return UM_MARK | (u64)nid << UM_NODE_SHIFT | (u64)state << UM_STATE_SHIFT | order << UM_ORDER_SHIFT |
	       origin << UM_ORIGIN_SHIFT;
}

static inline bool um_ours(const struct page *page)
{
	return (page->private & UM_MARK_MASK) == UM_MARK;
}

static inline unsigned um_origin(const struct page *page)
{
	return page->private >> UM_ORIGIN_SHIFT & 31;
}

static inline unsigned um_order(const struct page *page)
{
	return load_relaxed(&page->private) >> UM_ORDER_SHIFT & 31;
}

static inline enum um_state um_state(const struct page *page)
{
	return (enum um_state)(load_relaxed(&page->private) >> UM_STATE_SHIFT & 15);
}

static inline unsigned um_nid_of_word(u64 word)
{
	return word >> UM_NODE_SHIFT & 0xff;
}

static inline unsigned um_nid(const struct page *page)
{
	return um_nid_of_word(load_relaxed(&page->private));
}

/* The frame becomes the first of a region. What is known of its own content stays known. */
static inline void um_set(struct page *page, enum um_state state, unsigned order)
{
	store_relaxed(&page->private, (page->private & ~(UM_STATE_MASK | UM_ORDER_MASK | UM_NOSCRUB)) |
					      (u64)state << UM_STATE_SHIFT | order << UM_ORDER_SHIFT);
}

/* Free blocks are on one of two lists of their order: whole pieces, or parts of a piece. */
enum um_kind {
	UM_PART,
	UM_WHOLE,
	UM_KINDS,
};

/* What is free of one node, but for what lies on magazines. */
struct um_node {
	spinlock_t lock;	/* lists; no other lock is taken inside */
	u32 filled[UM_KINDS];	/* bit o: the list of order o is not empty */
	u32 head[UM_KINDS][ORDER_MAX + 1];
	u64 nr[UM_KINDS][ORDER_MAX + 1];
	u64 frames;		/* of all its pieces */
	pfn_t open;		/* in the 2 MiB whose leaf was split last for a piece that is no block: go on there */
	u8 dry[2];		/* refills left that do not have a block of 2 MiB, of 1 GiB gathered for them */
	u64 refills[ORDER_MAX + 1];
	u64 returns[ORDER_MAX + 1];
	struct deferred deferred __aligned(64);	/* frees that found the lock held */
} __aligned(64);
extern struct um_node um_nodes[NODES_MAX];

struct um_cache {
	u64 low, high;		/* of each node */
	u8 mode;		/* enum unmapped_mode */
	struct unmapped_stats stats;	/* what the slow paths count */
};
extern struct um_cache um_cache;

/* Refills without a whole block, between two that have one gathered. */
#define UM_DRY_REFILLS 63u

#define UM_MAGAZINE 32u
#define UM_MAGAZINE_BATCH 16u
#define UM_MAGAZINE_LOW 4u	/* filled up when no more are left: they are for interrupts that find the node's lock held */

/* Single pages of one CPU, of its own node, the last freed first, and what the CPU counts. */
struct um_magazine {
	spinlock_t lock;	/* nr and pfn; not held while a node's lock is waited for */
	u32 nr;
	u32 pfn[UM_MAGAZINE];
	u64 allocs, frees;	/* of single pages through the magazine */
	/* The slower paths. */
	u64 region_allocs, region_frees;
	u64 region_frames;	/* taken here minus freed here: only the sum over CPUs means anything */
	u64 misses;
	u64 zeroed, scrubbed;	/* frames, in any context */
} __aligned(64);
extern struct um_magazine um_magazines[MAX_CPUS];

/* What the functions for any context count; by atomic instructions, as they interrupt each other. */
struct um_nolock {
	struct nolock_stats stats;
	u64 frames;		/* taken minus freed */
};
extern struct um_nolock um_nolock;

/* Frames in use, by one CPU's counts: only the sum over CPUs, and um_nolock's, means anything. */
static inline u64 um_frames_in_use(const struct um_magazine *m)
{
	return load_relaxed(&m->allocs) - load_relaxed(&m->frees) + load_relaxed(&m->region_frames);
}

/* The order of the pieces that are kept. */
static inline unsigned um_block_order(void)
{
	return um_cache.mode == UNMAPPED_1G ? ORDER_1G : ORDER_2M;
}

/* The i-th node to be asked, if `first` is the first one: then come the others by their number. */
static inline unsigned um_nth_node(unsigned first, unsigned i)
{
	return i == 0 ? first : i <= first ? i - 1 : i;
}

static inline struct um_node *um_node_of(const struct page *page)
{
	return &um_nodes[um_nid(page)];
}

/* ---- Lists and pieces (unmapped_piece.c) ---- */

static inline void um_lock(struct um_node *n)
{
	spin_lock(&n->lock);
}

/* Only by the next two. */
void um_undefer(struct um_node *n);
void um_undefer_unlocked(struct um_node *n);

/* What was deferred while the lock was held becomes free first, and nothing stays behind (deferred.h). */
static inline void um_unlock(struct um_node *n)
{
	if (unlikely(deferred_any(&n->deferred)))
		um_undefer(n);
	spin_unlock(&n->lock);
	fence_full();
	if (unlikely(deferred_any(&n->deferred)))
		um_undefer_unlocked(n);
}

/* The lock is held: a region of this order for somebody, in that state; NULL: there is none. */
struct page *um_take(struct um_node *n, unsigned order, enum um_state state);
/* The lock is held: a region becomes free. */
void um_give(struct um_node *n, struct page *page, unsigned order);
/* The same without the lock, when it could not be had: any context. */
void um_defer(struct um_node *n, struct page *page);

/*
 * Put a piece of at least 2^order frames of that node on its lists: what lies ready, or, if there is none anywhere, what can be gathered, or what
 * caches give back; of any node then, unless `strict`. Returns the node whose it is; NULL: there is none.
 */
struct um_node *um_refill(unsigned nid, unsigned order, bool gather);
struct um_node *um_refill_by_reclaim(unsigned nid, unsigned order, bool strict);
/* um=off: a piece of exactly that order, in use. `how`: flags of alloc_pages(). */
struct page *um_piece_alloc(unsigned nid, unsigned order, unsigned how);
/* Its way back. If that is not possible, it waits on its list. */
void um_piece_free(struct page *page);

/* Give whole free pieces back, at most so many frames of them, those of node `first` first. Returns the frames. */
u64 um_give_back(unsigned first, u64 frames);
/* What is free beyond the high-water mark goes, down to the low one; a piece that is no block goes at once. */
void um_give_back_surplus(struct um_node *n, u64 keep);

/* After frees: is there more than is to be kept? */
static inline void um_check_marks(struct um_node *n)
{
	unsigned block = um_block_order();

	if (unlikely(load_relaxed(&n->filled[UM_WHOLE]) & ~BIT(block)))
		um_give_back_surplus(n, um_cache.high);
	if (unlikely(load_relaxed(&n->nr[UM_WHOLE][block]) > um_cache.high))
		um_give_back_surplus(n, um_cache.low);
}

/* ---- What all ways to allocate and to free have in common: any context ---- */

/*
 * What is zero already, because nobody could reach it since it was scrubbed, is left alone. (An interrupt may count here between two
 * instructions of whom it interrupted, and counting is one.)
 */
static inline void um_hand_out_frame(struct um_magazine *m, struct page *page, bool zero)
{
	if (page->private & UM_CLEAN) {
		store_relaxed(&page->private, page->private & ~UM_CLEAN);
	} else if (zero) {
		temp_zero(page_to_pfn(page), 1);
		counter_add(&m->zeroed, 1);
	}
}

/* A region becomes its owner's. The magazine is this CPU's. */
static inline void um_hand_out(struct um_magazine *m, struct page *page, unsigned order, unsigned flags,
			       struct account *account)
{
	page->account = (u64)account;
	um_hand_out_frame(m, page, flags & UNMAPPED_ZERO);
	for (u64 i = 1; unlikely(i < BIT(order)); i++)
		um_hand_out_frame(m, page + i, flags & UNMAPPED_ZERO);
	if (flags & UNMAPPED_NOSCRUB)
		store_relaxed(&page->private, page->private | UM_NOSCRUB);
}

static inline bool um_is_page(const struct page *page)
{
	u64 offset = (u64)page - (u64)page_array;

	return offset % sizeof(struct page) == 0 && offset / sizeof(struct page) < page_max_pfn &&
	       pfn_valid(offset / sizeof(struct page));
}

bool um_still_mapped(const struct page *page, unsigned order);
/* A free that is none: counted, and named in the log. */
void um_bad_free(const struct page *page, unsigned order);

/* The page is this caller's to free from now on. Of two frees at a time one gets it. Returns what its word was, or 0. */
static inline u64 um_free_begin(struct page *page, unsigned order)
{
	u64 was;

	if (unlikely(!um_is_page(page)))
		return 0;
	was = load_relaxed(&page->private);
	if (unlikely((was & UM_REGION_MASK) != um_word(UM_TAKEN, order, 0, 0)))
		return 0;
	if (unlikely(page->word >> 32) || (unlikely(order) && um_still_mapped(page, order)))
		return 0;
	if (unlikely(!compare_exchange(&page->private, &was, was ^ (u64)(UM_TAKEN ^ UM_MOVING) << UM_STATE_SHIFT)))
		return 0;
	return was;
}

static inline void um_scrub(struct um_magazine *m, struct page *page, unsigned order)
{
	if (PLANTED(PLANT_UM_NO_SCRUB))
		return;
	temp_zero(page_to_pfn(page), BIT(order));
	for (u64 i = 0; i < BIT(order); i++)
		store_relaxed(&page[i].private, page[i].private | UM_CLEAN);
	counter_add(&m->scrubbed, BIT(order));
}

/* Nobody is charged for it any more, and its content is gone unless its owner did not care. */
static inline void um_take_back(struct um_magazine *m, struct page *page, unsigned order, u64 was)
{
	if (page->account) {
		account_uncharge((struct account *)page->account, BIT(order));
		page->account = 0;
	}
	store_relaxed(&page->class, PAGE_UNMAPPED);
	for (u64 i = 1; unlikely(i < BIT(order)); i++)
		store_relaxed(&page[i].class, PAGE_UNMAPPED);
	if (!(was & UM_NOSCRUB))
		um_scrub(m, page, order);
}

/* ---- Magazines: the lock is held ---- */

/* The last one freed; there is one. */
static inline struct page *um_magazine_pop(struct um_magazine *m)
{
	struct page *page;

	counter_add(&m->nr, -1);
	page = pfn_to_page(m->pfn[m->nr]);
	um_set(page, UM_TAKEN, 0);
	return page;
}

/* There is room. */
static inline void um_magazine_push(struct um_magazine *m, struct page *page)
{
	um_set(page, UM_STACKED, 0);
	m->pfn[m->nr] = (u32)page_to_pfn(page);
	counter_add(&m->nr, 1);
}

#endif
