/* SPDX-License-Identifier: MIT */
/*
 * The page allocator: a binary buddy of orders 0..18 per node, with stacks per CPU before it for orders 0..9
 * (SPEC PA1, PA2; Knuth, TAOCP 1, 2.5).
 *
 * A CPU's stacks hold pages of one node only, its own, and are its tasks': no interrupt touches them, and threads are not preempted,
 * so they need neither lock nor atomic instruction. What a CPU keeps for interrupts and NMIs lies beside them, its reserve,
 * guarded by a local_trylock; the slow paths of tasks fill it up before it is empty, and hold nothing of the CPU's while
 * they hold the node's lock. An NMI that hits a CPU inside the allocator, the node's lock held, so finds pages.
 *
 * Whoever cannot have the node's lock to free pushes the block onto the node's deferred list, by compare-exchange. Whoever holds
 * the lock takes what is there before it lets go, and looks once more afterwards; who has pushed tries the lock once more. So a list
 * that is not empty has somebody at it: nothing is left for later, and an idle machine has none.
 *
 * The state of a frame is in its struct page (page.h) and tells a double free apart at once:
 *	PAGE_FREE + PAGE_BUDDY		heads a block on a list of the node, `order` is the block's
 *	PAGE_FREE + PAGE_CACHED		heads a block on a stack or in a reserve of a CPU, or on a deferred list
 *	PAGE_HEAD			heads an allocation, `order` is the allocation's
 *	none of these			inside a block, or not the allocator's
 * Its node is beside it from boot on and never changes.
 *
 * Steering: requests with ALLOC_UNMAPS, whose frames will lose their direct mapping, are served from 2 MiB blocks that are kept for
 * them, in gigabytes where there are such already, so that few leaves of the direct map are ever split. Others get such frames when
 * there is nothing else. A block that is free as a whole is an ordinary one again.
 */
#ifndef MM_BUDDY_H
#define MM_BUDDY_H

#include "kernel/base/arch_cpu.h"
#include "kernel/base/atomic.h"
#include "kernel/base/local_trylock.h"
#include "kernel/base/range.h"
#include "kernel/base/types.h"
#include "mm/page.h"

#define ORDER_MAX 18u	/* 1 GiB */
#define ORDER_2M 9u
#define ORDER_1G 18u

#define NODES_MAX 64u
#define NODE_ANY (-1)	/* this CPU's own, then the others */

#define ALLOC_ZERO 0x1u		/* the pages are zero */
#define ALLOC_MAY_RECLAIM 0x2u	/* before it fails, caches are asked to give memory back: no spinlock held, interrupts on */
#define ALLOC_LIGHT 0x4u	/* only what lies ready: no stack is emptied for it, and that there was nothing is not counted */
#define ALLOC_UNMAPS 0x8u	/* the frames will lose their direct mapping: see Steering */
#define ALLOC_THIS_NODE 0x10u	/* of this node or not at all */

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
 * The same, of a node: NODE_ANY, or the one that is tried first. Then come the others by their number (there is no measure of
 * distance), unless ALLOC_THIS_NODE. No such node: NULL.
 */
#define alloc_pages_node(nid, order, flags)                                                             \
	({                                                                                              \
		static struct alloc_site alloc_site_ = { __FILE__, __LINE__, 0, 0 };                    \
		static struct alloc_site *const alloc_site_p_ __used __section("alloc_sites") = &alloc_site_; \
		alloc_pages_node_at((nid), (order), (flags), &alloc_site_);                             \
	})
struct page *alloc_pages_node_at(int nid, unsigned order, unsigned flags, struct alloc_site *site);

/*
 * nr single frames at once: their pages go to pages[0] and on. Returns how many there are, fewer than nr only if memory or an
 * injected failure ended it. Task context.
 */
#define alloc_pages_bulk(nid, nr, pages)                                                                \
	({                                                                                              \
		static struct alloc_site alloc_site_ = { __FILE__, __LINE__, 0, 0 };                    \
		static struct alloc_site *const alloc_site_p_ __used __section("alloc_sites") = &alloc_site_; \
		alloc_pages_bulk_at((nid), (nr), (pages), &alloc_site_);                                \
	})
u64 alloc_pages_bulk_at(int nid, u64 nr, struct page **pages, struct alloc_site *site);

/*
 * 2^order frames or NULL, from any context: NMI and machine check, with any lock held by whom was interrupted, this allocator's
 * too. Never waits. Orders 0..3 and 9. Of the node, or NODE_ANY; then of the others. Failures are counted by cause
 * (nolock_stats). Contents undefined. The idea: seed 002. With an account: alloc_pages_nolock_account() (mm/account.h).
 */
#define alloc_pages_nolock(nid, order)                                                                  \
	({                                                                                              \
		static struct alloc_site alloc_site_ = { __FILE__, __LINE__, 0, 0 };                    \
		static struct alloc_site *const alloc_site_p_ __used __section("alloc_sites") = &alloc_site_; \
		alloc_pages_nolock_at((nid), (order), NULL, &alloc_site_);                              \
	})
struct account;
struct page *alloc_pages_nolock_at(int nid, unsigned order, struct account *account, struct alloc_site *site);

/* free_pages() from any context, for what any of these functions gave. Never waits. */
void free_pages_nolock(struct page *page, unsigned order);

/* Why alloc_pages_nolock() gave nothing. */
enum nolock_failure {
	NOLOCK_LOCK,	/* a node's lock was held by others, or by whom was interrupted, and no other node had any */
	NOLOCK_EMPTY,	/* there is nothing of that order */
	NOLOCK_ORDER,	/* not an order, or not a node, that it takes */
	NOLOCK_LIMIT,	/* it was not to have any: an injected failure, an account's limit */
	NOLOCK_FAILURES,
};

/* requests == served and all of failed. */
struct nolock_stats {
	u64 requests;
	u64 served;
	u64 from_reserve;		/* of these: by this CPU's reserve */
	u64 failed[NOLOCK_FAILURES];
	u64 frees;
	u64 to_reserve;			/* of these: to this CPU's reserve */
	u64 deferred;			/* of these: to a deferred list */
};
void buddy_read_nolock_stats(struct nolock_stats *out);

/*
 * The largest block of orders `least` to `most` that lies ready, in one look: *order says which it is. Of blocks of that order, one in the
 * aligned 2 MiB around `near` is preferred. For callers who can do with less, and to whom it matters where a frame
 * lies. NULL: there is none, or a failure was injected. Not counted as a failure. Task context.
 */
#define alloc_pages_upto(least, most, near, order)                                                      \
	({                                                                                              \
		static struct alloc_site alloc_site_ = { __FILE__, __LINE__, 0, 0 };                    \
		static struct alloc_site *const alloc_site_p_ __used __section("alloc_sites") = &alloc_site_; \
		alloc_pages_upto_at(NODE_ANY, (least), (most), (near), (order), &alloc_site_);          \
	})
/* The same, of that node only. No such node: NULL. */
#define alloc_pages_upto_node(nid, least, most, near, order)                                            \
	({                                                                                              \
		static struct alloc_site alloc_site_ = { __FILE__, __LINE__, 0, 0 };                    \
		static struct alloc_site *const alloc_site_p_ __used __section("alloc_sites") = &alloc_site_; \
		alloc_pages_upto_at((nid), (least), (most), (near), (order), &alloc_site_);             \
	})
struct page *alloc_pages_upto_at(int nid, unsigned least, unsigned most, pfn_t near, unsigned *order, struct alloc_site *site);

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
 * Give this CPU, which is of that node, stacks of its own, in memory of the caller's that stays. The CPU that calls buddy_add()
 * first has its own from then on; another one works without them until this call, and pays for the node's lock each time.
 * A CPU of a node without memory is served as one of the first node that has some.
 */
void buddy_add_cpu(struct page_cache *cache, unsigned node);

/* Memory of a node; frames in no range are node 0's. */
struct node_range {
	struct range pa;
	u32 node;
};

/*
 * From now on there are nr_nodes nodes, with that memory; the calling CPU is of node `node`. Boot, once, while there is one CPU, after most
 * of the memory has been added: what is free moves to the lists of its node. Before this there is node 0 only. An allocation
 * that lies in two nodes is of the first frame's.
 */
void buddy_set_nodes(unsigned nr_nodes, const struct node_range *ranges, unsigned nr_ranges, unsigned node);

unsigned buddy_nodes(void);
/* The node whose pages this CPU gets first. */
unsigned buddy_this_node(void);

/*
 * A cache that can give memory back. shrink() is asked for so many frames, of node nid first (NODE_ANY: it does not matter), may give more if what it has comes in larger pieces,
 * and returns how many it gave; 0: it has none. It may take its own locks and flush, and must not allocate with
 * ALLOC_MAY_RECLAIM. Registered once and for ever; twice is harmless. Boot.
 */
struct shrinker {
	const char *name;
	u64 (*shrink)(int nid, u64 frames);
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
	u64 steered;			/* free frames in blocks that are kept for ALLOC_UNMAPS */
	u64 deferred;			/* frees that went to a deferred list */
	u64 deferred_now;		/* of these: still there when it was asked; the answer takes them in */
	u64 deferred_most;		/* most that were taken from one at once */
};

/* A snapshot, exact as long as no other CPU is inside the allocator. Task context. */
void buddy_read_stats(struct buddy_stats *out);
/* The same of one node. bad_frees is 0. */
void buddy_read_node_stats(unsigned nid, struct buddy_stats *out);
/* Frees that wait on deferred lists. Any context; takes no lock. */
u64 buddy_deferred_now(void);
/* Whether this CPU holds the lock of a node: what an NMI hit. Any context. */
bool buddy_lock_held_here(void);

/* false: ALLOC_UNMAPS means nothing (to compare with). Quiescent points only. */
extern bool buddy_steering;

/* Free frames now; exact like the above. Task context, cheap enough for a check after each test. */
u64 buddy_free_frames(void);

/*
 * Failure injection (PA8). While armed, the n-th allocation from now on fails (n from 1), that one only, or one in so many by
 * chance, or both; `orders` and `site` say which allocations are meant, and others are not counted either. An injected failure
 * happens before anything is taken.
 */
struct alloc_inject {
	u32 armed;		/* 0 or 1; a whole word, so that the fast path tests it together with the order */
	u32 orders;		/* bit o: those of order o; 0: of any */
	u64 countdown;		/* n; 0: none by count */
	u64 calls;
	u64 failed;
	const struct alloc_site *site;	/* NULL: of any site */
	u32 one_in;		/* 0: none by chance */
	u64 seed;		/* of chance */
};
extern struct alloc_inject alloc_inject __hidden;

/* Registered sites, between these two. */
extern struct alloc_site *const __start_alloc_sites[];
extern struct alloc_site *const __stop_alloc_sites[];
/* The first site in a file, whose name ends so, from that line on; NULL: there is none. */
struct alloc_site *alloc_site_find(const char *file, int line);

/*
 * What is looked at by the slow paths alone. While any of it is on, every allocation and free goes there, and none pays for it
 * otherwise. Quiescent points only.
 *   BUDDY_POISON  frames hold a pattern from when they are freed, and one that somebody wrote to meanwhile is named in the log,
 *                 with whom it was allocated by last if that is watched too, when it is allocated again. Frames
 *                 must be in the direct map when they are freed.
 *   BUDDY_OWNER   of mm/page_owner.h
 */
enum buddy_watch { BUDDY_POISON = 1, BUDDY_OWNER = 2 };
void buddy_watch(unsigned what, bool on);
unsigned buddy_watched(void);

/* Frames that were found written to, and the last of them. */
struct buddy_poison_hit {
	pfn_t pfn;
	unsigned byte;
};
extern u64 buddy_poison_hits;
extern struct buddy_poison_hit buddy_poison_last;
/* Look at all that is free now, once for each frame that is found. Quiescent points only. */
void buddy_check_poison(void);

/*
 * What follows is private to the allocator: the usual path of an allocation, in sight of the compiler because a pair of
 * alloc and free is to cost about 50 instructions.
 */
#define PAGE_STACKED_ORDERS 10u	/* orders 0..9 have stacks */
#define PAGE_STACK0_ROOM 128u	/* entries of the stack of order 0, which has slots 0..127 */
#define PAGE_STACK_ROOM 16u	/* of those of orders 1..8 */
#define PAGE_STACK9_ROOM 48u	/* of that of order 9 */
#define PAGE_RESERVE_ORDERS 4u	/* orders 0..3 have a reserve */
#define PAGE_RESERVE0_ROOM 32u
#define PAGE_RESERVE_ROOM 8u

/*
 * One order's stack of one CPU: slots `base` to below `top` of the CPU's cache are in use, at most `room` of them. Orders
 * without a stack have one without room. The usual paths go by `low` and `limit`, which are base and base + room, or such that
 * every allocation or free takes the slow path: frees of orders 6 to 8 always do.
 */
struct page_stack {
	i64 top;
	i64 low;
	i64 limit;
	u32 base;
	u16 room;
	u16 batch;	/* entries that are moved to or from the node at a time */
};

_Static_assert(sizeof(struct page_stack) == 32, "a shift finds one of an order");

/* What a CPU keeps for its interrupts: entries 0 to below nr. */
struct page_reserve {
	local_trylock_t lock;
	u32 nr;
	u32 room;
	struct page *slots[PAGE_RESERVE0_ROOM];
};

struct page_cache {
	struct page_stack stack[ORDER_MAX + 1];	/* by order */
	u64 own;	/* struct page's word of an allocated frame of the CPU's node, order 0 */
	u32 node;	/* whose pages the stacks hold */
	u32 home;	/* which the CPU is of */
	u32 limits;	/* which ones are set */
	struct page_reserve reserve[PAGE_RESERVE_ORDERS];
	struct page *slots[PAGE_STACK0_ROOM + (PAGE_STACKED_ORDERS - 2) * PAGE_STACK_ROOM + PAGE_STACK9_ROOM];
} __aligned(64);

/* State of the first frame of an allocation of node 0; the node is in the highest byte. */
#define PAGE_STATE_ALLOCATED(order) page_state(PAGE_KERNEL, order, PAGE_HEAD, 0)
#define PAGE_STATE_CACHED(order) page_state(PAGE_FREE, order, PAGE_CACHED, 0)
/* The difference of the two, whatever the order. */
#define PAGE_STATE_CHANGE (PAGE_STATE_ALLOCATED(0) ^ PAGE_STATE_CACHED(0))

struct page *alloc_slow(int nid, unsigned order, unsigned flags, struct alloc_site *site);
void free_block(struct page *page, unsigned order);
void page_zero(struct page *page, unsigned order);

/* A block passes between a stack and its owner: a store of the one's who has it, that others may look at. */
static inline void page_state_change(struct page *page)
{
	store_relaxed(&page->state, load_relaxed(&page->state) ^ PAGE_STATE_CHANGE);
}

/* What lies on top of a stack; NULL: nothing does, or the slow path is asked for. */
static inline struct page *page_stack_take(struct page_cache *cache, struct page_stack *stack)
{
	i64 top = stack->top;
	struct page *page;

	if (unlikely(top <= stack->low))
		return NULL;
	page = cache->slots[--top];
	page_state_change(page);
	store_relaxed(&stack->top, top);
	return page;
}

static inline struct page *alloc_pages_at(unsigned order, unsigned flags, struct alloc_site *site)
{
	struct page_cache *cache;
	struct page *page;

	if (flags & (ALLOC_UNMAPS | ALLOC_THIS_NODE))
		return alloc_slow(NODE_ANY, order, flags, site);
	if (likely(!(order | load_relaxed(&alloc_inject.armed)))) {
		cache = arch_this_cpu()->pages;
		page = page_stack_take(cache, &cache->stack[0]);
		if (unlikely(!page))
			return alloc_slow(NODE_ANY, 0, flags, site);
	} else {
		if (unlikely(order > ORDER_MAX) || unlikely(load_relaxed(&alloc_inject.armed)))
			return alloc_slow(NODE_ANY, order, flags, site);
		cache = arch_this_cpu()->pages;
		page = page_stack_take(cache, &cache->stack[order]);
		if (unlikely(!page))
			return alloc_slow(NODE_ANY, order, flags, site);
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
