/* SPDX-License-Identifier: MIT */
/*
 * The page allocator: a binary buddy of orders 0..18 per node, with a list per CPU before it for
 * order 0 (SPEC PA1; Knuth, TAOCP 1, 2.5).
 *
 * The list of a CPU is guarded by a flag of that CPU, not by a lock or by interrupts off: whoever finds
 * it taken has interrupted its user and goes to the node instead.
 */
#ifndef MM_BUDDY_H
#define MM_BUDDY_H

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
 * 2^order frames, naturally aligned, of class PAGE_KERNEL; NULL when there are none (or a failure was
 * injected). Contents undefined without ALLOC_ZERO. Task context.
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

struct page *alloc_pages_at(unsigned order, unsigned flags, struct alloc_site *site);

/*
 * Give back what alloc_pages() gave, with the same order. A double free, or a wrong order or a frame the
 * allocator never gave, is counted (buddy_stats.bad_frees), named in the log, and changes nothing.
 */
void free_pages(struct page *page, unsigned order);

static inline void free_page(struct page *page)
{
	free_pages(page, 0);
}

/*
 * Boot: hand nr frames from pfn on to the allocator. Their struct pages exist. Coalesces with what is
 * free beside them.
 */
void buddy_add(pfn_t pfn, u64 nr);

/* Forget everything (hosted benchmarks and tests, before the first buddy_add). */
void buddy_reset(void);

/* Put every CPU's list back on the buddy's. Quiescent points only (no CPU allocates meanwhile). */
void buddy_drain(void);

struct buddy_stats {
	u64 frames;			/* handed to the allocator */
	u64 free;			/* free now, those on the lists of CPUs included */
	u64 cached;			/* of these: on the lists of CPUs */
	u64 blocks[ORDER_MAX + 1];	/* free blocks by order */
	u64 allocs;
	u64 frees;
	u64 fails;			/* nothing of that order */
	u64 bad_frees;
};

/* A snapshot. Task context. */
void buddy_read_stats(struct buddy_stats *out);

/* Free frames now. Task context, cheap enough for a check after each test. */
u64 buddy_free_frames(void);

/*
 * Failure injection (PA8). While armed, the n-th allocation from now on fails (n from 1), that one
 * only. The counter tells how many there were. The order-0 lists are bypassed by nothing: an injected
 * failure happens before anything is taken.
 */
struct alloc_inject {
	bool armed;
	u64 countdown;		/* 0: only count */
	u64 calls;
	u64 failed;
};
extern struct alloc_inject alloc_inject;

/* Registered sites, between these two. */
extern struct alloc_site *const __start_alloc_sites[];
extern struct alloc_site *const __stop_alloc_sites[];

#endif
