/* SPDX-License-Identifier: MIT */
/*
 * The page allocator: a binary buddy of orders 0..18 per node, with stacks per CPU before it for orders 0..9
 * (SPEC PA1; Knuth, TAOCP 1, 2.5).
 *
 * The stacks of a CPU are guarded by neither a lock nor interrupts off: whoever works on one puts
 * PAGE_STACK_BUSY where the number of its entries stood, which to anybody else looks empty when taking and full
 * when giving. Only an interrupter on the same CPU can ever see it, and goes to the node instead. This relies on
 * tasks not being moved to another CPU inside the allocator.
 *
 * The state of a frame is in its struct page (page.h) and tells a double free apart at once:
 *	PAGE_FREE + PAGE_BUDDY		heads a block on a list of the node, `order` is the block's
 *	PAGE_FREE + PAGE_CACHED		heads a block on a stack of a CPU
 *	PAGE_HEAD			heads an allocation, `order` is the allocation's
 *	none of these			inside a block, or not the allocator's
 */
#ifndef MM_BUDDY_H
#define MM_BUDDY_H

#include "kernel/base/arch_cpu.h"
#include "kernel/base/atomic.h"
#include "kernel/base/types.h"
#include "mm/page.h"

#define ORDER_MAX 18u	/* 1 GiB */
#define ORDER_2M 9u
#define ORDER_1G 18u

#define ALLOC_ZERO 0x1u		/* the pages are zero */
#define ALLOC_MAY_RECLAIM 0x2u	/* before it fails, caches are asked to give memory back: no spinlock held, interrupts on */
#define ALLOC_LIGHT 0x4u	/* only what lies ready: no stack is emptied for it, and that there was nothing is not counted */

/* A place in the source that allocates: PA8 counts which of them a failure was tried at. */
struct alloc_site {
	const char *file;
	int line;
	u64 calls;	/* counted only while injection is armed */
	u64 failed;	/* injected failures */
};

/*
 * 2^order frames, naturally aligned; NULL when there are none (or a failure was injected). The first frame is of
 * class PAGE_KERNEL (page.h says what the others show). Contents undefined without ALLOC_ZERO. Task context.
 *
 * The macro registers the caller as an allocation site (section alloc_sites holds pointers to them).
 */
#define alloc_pages(order, flags)                                                                       \
	({                                                                                              \
		static struct alloc_site alloc_site_ = { __FILE__, __LINE__, 0, 0 };                    \
		static struct alloc_site *const alloc_site_p_ __used __section("alloc_sites") = &alloc_site_; \
		alloc_pages_at((order), (flags), &alloc_site_);                                         \
	})
#define alloc_page(flags) alloc_pages(0, flags)

static inline struct page *alloc_pages_at(unsigned order, unsigned flags, struct alloc_site *site);

/*
 * The largest block of orders `least` to `most` that lies ready, in one look: *order says which it is. Of blocks of that order, one in the
 * aligned 2 MiB around `near` is preferred. For callers who can do with less, and to whom it matters where a frame
 * lies. NULL: there is none, or a failure was injected. Not counted as a failure. Task context.
 */
#define alloc_pages_upto(least, most, near, order)                                                      \
	({                                                                                              \
		static struct alloc_site alloc_site_ = { __FILE__, __LINE__, 0, 0 };                    \
		static struct alloc_site *const alloc_site_p_ __used __section("alloc_sites") = &alloc_site_; \
		alloc_pages_upto_at((least), (most), (near), (order), &alloc_site_);                    \
	})
struct page *alloc_pages_upto_at(unsigned least, unsigned most, pfn_t near, unsigned *order, struct alloc_site *site);

/*
 * Give back what alloc_pages() gave, with the same order. Task context. All else is counted
 * (buddy_stats.bad_frees), named in the log, and changes nothing: a double free; another order; a frame inside
 * an allocation; one the allocator never gave; no frame at all; a frame whose alias counts (a table: whose breaks)
 * are not 0, as somebody can still reach it.
 */
static inline void free_pages(struct page *page, unsigned order);

/* The same for one frame. */
void free_page(struct page *page);

/*
 * Boot: hand nr frames from pfn on to the allocator. Coalesces with what is free beside them. Frames without a
 * struct page, or that the allocator has already, are left out and named in the log.
 */
void buddy_add(pfn_t pfn, u64 nr);

/*
 * Give this CPU stacks of its own, in memory of the caller's that stays. The CPU that calls buddy_add() first has its
 * own from then on; another one works without them until this call, and pays for the node's lock each time.
 */
void buddy_add_cpu(struct page_cache *cache);

/*
 * A cache that can give memory back. shrink() is asked for so many frames, may give more if what it has comes in larger pieces,
 * and returns how many it gave; 0: it has none. It may take its own locks and flush, and must not allocate with
 * ALLOC_MAY_RECLAIM. Registered once and for ever; twice is harmless. Boot.
 */
struct shrinker {
	const char *name;
	u64 (*shrink)(u64 frames);
	struct shrinker *next;
};
void buddy_add_shrinker(struct shrinker *shrinker);

/* Forget all frames (hosted benchmarks and tests, before the first buddy_add). */
void buddy_reset(void);

/* Give all that is on the stacks of CPUs back to the node, where it coalesces. Quiescent points only (no CPU allocates meanwhile). */
void buddy_drain(void);

struct buddy_stats {
	u64 frames;			/* handed to the allocator */
	u64 free;			/* free now, those on the stacks of CPUs included */
	u64 cached;			/* of these: on the stacks of CPUs */
	u64 blocks[ORDER_MAX + 1];	/* free blocks by order, without those on stacks */
	u64 allocs;			/* blocks that left the node's lists, to a stack or to a caller */
	u64 frees;			/* blocks that came back to them */
	u64 fails;			/* nothing of that order (injected failures are not counted) */
	u64 bad_frees;
};

/* A snapshot, exact as long as no other CPU is inside the allocator. Task context. */
void buddy_read_stats(struct buddy_stats *out);

/* Free frames now; exact like the above. Task context, cheap enough for a check after each test. */
u64 buddy_free_frames(void);

/*
 * Failure injection (PA8). While armed, the n-th allocation from now on fails (n from 1), that one
 * only. The counter tells how many there were. An injected failure happens before anything is taken.
 */
struct alloc_inject {
	u32 armed;		/* 0 or 1; a whole word, so that the fast path tests it together with the order */
	u64 countdown;		/* n; 0: only count */
	u64 calls;
	u64 failed;
};
extern struct alloc_inject alloc_inject __hidden;

/* Registered sites, between these two. */
extern struct alloc_site *const __start_alloc_sites[];
extern struct alloc_site *const __stop_alloc_sites[];

/*
 * What follows is private to the allocator: the usual path of an allocation, in sight of the compiler because a pair of
 * alloc and free is to cost about 50 instructions.
 */
#define PAGE_STACKED_ORDERS 10u	/* orders 0..9 have stacks */
#define PAGE_STACK0_ROOM 128u	/* entries of the stack of order 0, which has slots 0..127 */
#define PAGE_STACK_ROOM 16u	/* of those of orders 1..8 */
#define PAGE_STACK9_ROOM 32u	/* of that of order 9 */
#define PAGE_STACK_BUSY (-1ll)

/*
 * One order's stack of one CPU: slots `base` to below `top` of the CPU's cache are in use, up to `limit`. Orders
 * without a stack have one without room, so that the usual paths need not tell.
 */
struct page_stack {
	i64 top;	/* or PAGE_STACK_BUSY */
	i64 base;
	i64 limit;
	u64 batch;	/* entries that are moved to or from the node at a time */
};

struct page_cache {
	struct page_stack stack[ORDER_MAX + 1];	/* by order */
	struct page *slots[PAGE_STACK0_ROOM + (PAGE_STACKED_ORDERS - 2) * PAGE_STACK_ROOM + PAGE_STACK9_ROOM];
	u64 share;	/* frames that each stack may hold at most, as its CPU has last heard */
} __aligned(64);

#define PAGE_STATE_ALLOCATED(order) page_state(PAGE_KERNEL, order, PAGE_HEAD, 0)
#define PAGE_STATE_CACHED(order) page_state(PAGE_FREE, order, PAGE_CACHED, 0)
/* The difference of the two, whatever the order. */
#define PAGE_STATE_CHANGE (PAGE_STATE_ALLOCATED(0) ^ PAGE_STATE_CACHED(0))

struct page *alloc_slow(unsigned order, unsigned flags, struct alloc_site *site);
void free_block(struct page *page, unsigned order);
void page_zero(struct page *page, unsigned order);

/* A block passes between a stack and its owner: a store of the one's who has it, that others may look at. */
static inline void page_state_change(struct page *page)
{
	store_relaxed(&page->state, load_relaxed(&page->state) ^ PAGE_STATE_CHANGE);
}

/* What lies on top of a stack, whose base is given; NULL: nothing does, or PAGE_STACK_BUSY. */
static inline struct page *page_stack_take(struct page_cache *cache, struct page_stack *stack, i64 base)
{
	i64 top = load_relaxed(&stack->top);
	struct page *page;

	if (unlikely(top <= base))
		return NULL;
	store_relaxed(&stack->top, PAGE_STACK_BUSY);
	fence_signal();
	page = cache->slots[--top];
	page_state_change(page);
	fence_signal();
	store_relaxed(&stack->top, top);
	return page;
}

static inline struct page *alloc_pages_at(unsigned order, unsigned flags, struct alloc_site *site)
{
	struct page_cache *cache;
	struct page *page;

	if (likely(!(order | load_relaxed(&alloc_inject.armed)))) {
		cache = arch_this_cpu()->pages;
		page = page_stack_take(cache, &cache->stack[0], 0);
		if (unlikely(!page))
			return alloc_slow(0, flags, site);
	} else {
		if (unlikely(order > ORDER_MAX) || unlikely(load_relaxed(&alloc_inject.armed)))
			return alloc_slow(order, flags, site);
		cache = arch_this_cpu()->pages;
		page = page_stack_take(cache, &cache->stack[order], cache->stack[order].base);
		if (unlikely(!page))
			return alloc_slow(order, flags, site);
	}
	if (flags & ALLOC_ZERO)
		page_zero(page, order);
	return page;
}

static inline void free_pages(struct page *page, unsigned order)
{
	if (order)
		free_block(page, order);
	else
		free_page(page);
}

#endif
