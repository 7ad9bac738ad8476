/* SPDX-License-Identifier: MIT */
/*
 * What the files of the unmapped cache share: the state of a frame, the lists, the magazines. Included by unmapped.c and
 * unmapped_check.c only.
 *
 * A piece is what was taken from the page allocator in one go: 2^origin frames. It is tiled by regions, each a free block, a
 * page on a magazine, or an allocation; the first frame of a region says which, and its order, the others say UM_INSIDE.
 * All of it stands in `private` of each frame's struct page, under a mark that is neither an address nor a generation.
 */
#ifndef MM_UNMAPPED_INTERNAL_H
#define MM_UNMAPPED_INTERNAL_H

#include "kernel/base/bits.h"
#include "kernel/base/spinlock.h"
#include "mm/buddy.h"
#include "mm/unmapped.h"

enum um_state {
	UM_INSIDE,	/* of a region, and not its first frame */
	UM_FREE,	/* heads a free block on a list */
	UM_STACKED,	/* on a magazine */
	UM_TAKEN,	/* heads an allocation */
	UM_MOVING,	/* heads what somebody is at work on: being freed, or going back */
};

#define UM_MARK (0x6e6f6d6170ull << 24)
#define UM_MARK_MASK (~0ull << 24)
#define UM_REGION_MASK (UM_MARK_MASK | 15ull << UM_STATE_SHIFT | 31ull << UM_ORDER_SHIFT)
#define UM_ORIGIN_SHIFT 0
#define UM_ORDER_SHIFT 5
#define UM_STATE_SHIFT 10
#define UM_NOSCRUB BIT(14)	/* of an allocation's first frame */
#define UM_CLEAN BIT(15)	/* of each frame by itself: it is zero, and has been out of reach since */

static inline u64 um_word(enum um_state state, unsigned order, unsigned origin)
{
	return UM_MARK | (u64)state << UM_STATE_SHIFT | order << UM_ORDER_SHIFT | origin << UM_ORIGIN_SHIFT;
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

/* The frame becomes the first of a region. What is known of its own content stays known. */
static inline void um_set(struct page *page, enum um_state state, unsigned order)
{
	store_relaxed(&page->private, um_word(state, order, um_origin(page)) | (page->private & UM_CLEAN));
}

/* The same for a single page that stays one. */
static inline void um_set_single(struct page *page, enum um_state state)
{
	store_relaxed(&page->private, (page->private & (UM_MARK_MASK | 31ull << UM_ORIGIN_SHIFT | UM_CLEAN)) |
					      (u64)state << UM_STATE_SHIFT);
}

/* Free blocks are on one of two lists of their order: whole pieces, or parts of a piece. */
enum um_kind {
	UM_PART,
	UM_WHOLE,
	UM_KINDS,
};

struct um_cache {
	spinlock_t lock;	/* lists; inside a magazine's lock */
	u32 head[UM_KINDS][ORDER_MAX + 1];
	u64 nr[UM_KINDS][ORDER_MAX + 1];
	u32 filled[UM_KINDS];	/* bit o: the list of order o is not empty */
	u64 frames;		/* of all pieces */
	u64 low, high;
	pfn_t open;		/* in the 2 MiB whose leaf was split last for a piece that is no block: go on there */
	u8 mode;		/* enum unmapped_mode */
	u8 dry[2];		/* refills left that do not have a block of 2 MiB, of 1 GiB gathered for them */
	struct unmapped_stats stats;	/* what the slow paths count */
};
extern struct um_cache um_cache;

/* Refills without a whole block, between two that have one gathered. */
#define UM_DRY_REFILLS 63u

#define UM_MAGAZINE 32u
#define UM_MAGAZINE_BATCH 16u

/* Single pages of one CPU, the last freed first, and what the CPU counts. */
struct um_magazine {
	spinlock_t lock;
	u32 nr;
	u32 pfn[UM_MAGAZINE];
	u64 allocs, frees;	/* of single pages through the magazine */
	/* The slower paths. */
	u64 region_allocs, region_frees;
	u64 region_frames;	/* taken here minus freed here: only the sum over CPUs means anything */
	u64 misses, zeroed, scrubbed;
} __aligned(64);
extern struct um_magazine um_magazines[MAX_CPUS];

/* Frames in use, by one CPU's counts: only the sum over CPUs means anything. */
static inline u64 um_frames_in_use(const struct um_magazine *m)
{
	return load_relaxed(&m->allocs) - load_relaxed(&m->frees) + load_relaxed(&m->region_frames);
}

/* The order of the pieces that are kept. */
static inline unsigned um_block_order(void)
{
	return um_cache.mode == UNMAPPED_1G ? ORDER_1G : ORDER_2M;
}

#endif
