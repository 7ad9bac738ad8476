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
 * Give back what alloc_pages() gave, with the same order. Task context. All else is counted
 * (buddy_stats.bad_frees), named in the log, and changes nothing: a double free; another order; a frame inside
 * an allocation; one the allocator never gave; no frame at all; a frame whose alias counts (a table: whose breaks)
 * are not 0, as somebody can still reach it.
 */
static inline void free_pages(struct page *page, unsigned order);

static inline void free_page(struct page *page)
{
	free_pages(page, 0);
}

/*
 * Boot: hand nr frames from pfn on to the allocator. Coalesces with what is free beside them. Frames without a
 * struct page, or that the allocator has already, are left out and named in the log.
 */
void buddy_add(pfn_t pfn, u64 nr);

/* Forget everything (hosted benchmarks and tests, before the first buddy_add). */
void buddy_reset(void);

/* Give all that is on the stacks of CPUs back to the node, where it coalesces. Quiescent points only (no CPU allocates meanwhile). */
void buddy_drain(void);

struct buddy_stats {
	u64 frames;			/* handed to the allocator */
	u64 free;			/* free now, those on the stacks of CPUs included */
	u64 cached;			/* of these: on the stacks of CPUs */
	u64 blocks[ORDER_MAX + 1];	/* free blocks by order, without those on stacks */
	u64 allocs;			/* that succeeded */
	u64 frees;
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
extern struct alloc_inject alloc_inject;

/* Registered sites, between these two. */
extern struct alloc_site *const __start_alloc_sites[];
extern struct alloc_site *const __stop_alloc_sites[];

/*
 * What follows is private to the allocator: the fast path of order 0, in sight of the compiler because a pair of
 * alloc and free is to stay below 50 instructions.
 */
#define PAGE_STACKS 10u		/* orders 0..9 */
#define PAGE_STACK_BUSY (-1)
#define PAGE_CACHE_SLOTS 228u

/* One order's stack of one CPU: slots base .. top of the CPU's cache are in use. All zero: not set up yet. */
struct page_stack {
	i32 top;	/* or PAGE_STACK_BUSY */
	u16 base;	/* order 0: 0 */
	u16 limit;	/* top when it is full */
	u64 allocs;	/* taken from it by allocations */
	u64 moved;	/* came from the node minus went back there */
};

struct page_cache {
	struct page_stack stack[PAGE_STACKS];	/* by order */
	u32 slots[PAGE_CACHE_SLOTS];		/* frame numbers */
} __aligned(64);

extern struct page_cache page_caches[MAX_CPUS];

#define PAGE_STATE_ALLOCATED(order) page_state(PAGE_KERNEL, order, PAGE_HEAD, 0)
#define PAGE_STATE_CACHED(order) page_state(PAGE_FREE, order, PAGE_CACHED, 0)

struct page *alloc_pages_slow(unsigned order, unsigned flags, struct alloc_site *site);
void free_pages_slow(struct page *page, unsigned order);
void page_zero(struct page *page, unsigned order);

/*
 * The frame number that belongs to a pointer, or a number beyond all if it points between two struct pages or
 * before the array: the rotation moves the bits that should be 0 to the top.
 */
static inline u64 page_index(const struct page *page)
{
	u64 offset = (u64)page - (u64)page_array;

	_Static_assert(sizeof(struct page) == 32, "the rotation");
	return offset >> 5 | offset << 59;
}

static inline struct page *page_cache_take(void)
{
	struct page_cache *cache = &page_caches[arch_this_cpu()->id];
	struct page_stack *stack = &cache->stack[0];
	i32 top = load_relaxed(&stack->top) - 1;
	struct page *page;

	if (unlikely(top < 0))
		return NULL;
	store_relaxed(&stack->top, PAGE_STACK_BUSY);
	fence_signal();
	page = pfn_to_page(cache->slots[top]);
	page->state = PAGE_STATE_ALLOCATED(0);
	stack->allocs++;
	fence_signal();
	store_relaxed(&stack->top, top);
	return page;
}

static inline bool page_cache_give(struct page *page)
{
	u64 pfn = page_index(page);
	struct page_cache *cache;
	struct page_stack *stack;
	i32 top;

	if (unlikely(pfn >= page_max_pfn) || unlikely(page->word != PAGE_STATE_ALLOCATED(0)))
		return false;
	cache = &page_caches[arch_this_cpu()->id];
	stack = &cache->stack[0];
	top = load_relaxed(&stack->top);
	if (unlikely((u32)top >= stack->limit))
		return false;
	store_relaxed(&stack->top, PAGE_STACK_BUSY);
	fence_signal();
	page->state = PAGE_STATE_CACHED(0);
	cache->slots[top] = (u32)pfn;
	fence_signal();
	store_relaxed(&stack->top, top + 1);
	return true;
}

static inline struct page *alloc_pages_at(unsigned order, unsigned flags, struct alloc_site *site)
{
	struct page *page = likely(!(order | alloc_inject.armed)) ? page_cache_take() : NULL;

	if (unlikely(!page))
		return alloc_pages_slow(order, flags, site);
	if (flags & ALLOC_ZERO)
		page_zero(page, 0);
	return page;
}

static inline void free_pages(struct page *page, unsigned order)
{
	if (unlikely(order != 0) || unlikely(!page_cache_give(page)))
		free_pages_slow(page, order);
}

#endif
