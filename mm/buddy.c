/* SPDX-License-Identifier: MIT */
/*
 * The page allocator: see buddy.h for the states of a frame and how the stacks of a CPU are guarded.
 *
 * A node keeps, by order, a doubly linked list of free blocks through struct page, the last freed first, and
 * its lock guards them. A block and its buddy are never both on the lists: they are one block of the next order.
 * The stacks of a CPU are filled from the node and emptied to it by the batch, a batch taken from as few
 * blocks as possible; what lies on a stack does not coalesce. A request that fails gives back what this CPU's
 * stacks hold and tries again, so a CPU by itself finds every frame and every block there is.
 *
 * The node's lock is the innermost of all (DESIGN: Contexts and locks).
 */
#include "mm/buddy.h"

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/base/spinlock.h"
#include "kernel/base/string.h"

/* Below this order a block and its buddy lie in one section, so that the buddy has a struct page for sure. */
#define SECTION_ORDER (SECTION_SHIFT - PAGE_SHIFT)

/* How often a reader looks again at a stack that another CPU is working on. */
#define BUSY_RETRIES 1000u

struct node {
	spinlock_t lock;
	u32 head[ORDER_MAX + 1];
	u64 nr[ORDER_MAX + 1];		/* blocks on the list */
	u64 frames;
	u64 allocs;			/* without those from stacks */
	u64 frees;			/* without those to stacks */
	u64 fails;
};

static struct node node = { .head = { [0 ... ORDER_MAX] = PFN_NONE } };
static u64 bad_frees;

struct page_cache page_caches[MAX_CPUS];
struct alloc_inject alloc_inject;

/* Where each stack lies in a cache, and how many entries are moved at a time. */
static const struct {
	u16 base;
	u16 limit;
	u16 batch;
} shapes[PAGE_STACKS] = {
	{ 0, 120, 32 },
	{ 120, 132, 6 }, { 132, 144, 6 }, { 144, 156, 6 }, { 156, 168, 6 }, { 168, 180, 6 },
	{ 180, 192, 6 }, { 192, 204, 6 }, { 204, 216, 6 }, { 216, 228, 6 },
};

/* ---- the node's lists; its lock is held ---- */

static inline void list_push(struct node *n, struct page *array, u32 pfn, unsigned order)
{
	u32 first = n->head[order];

	array[pfn].next = first;
	array[pfn].prev = PFN_NONE;
	array[pfn].state = page_state(PAGE_FREE, order, PAGE_BUDDY, 0);
	if (first != PFN_NONE)
		array[first].prev = pfn;
	n->head[order] = pfn;
	n->nr[order]++;
}

static inline void list_unlink(struct node *n, struct page *array, u32 pfn, unsigned order)
{
	u32 next = array[pfn].next, prev = array[pfn].prev;

	if (prev == PFN_NONE)
		n->head[order] = next;
	else
		array[prev].next = next;
	if (next != PFN_NONE)
		array[next].prev = prev;
	n->nr[order]--;
}

/*
 * Take up to `want` blocks of an order and write their frame numbers to slots. They leave the lists in state
 * PAGE_CACHED. A block of a higher order is used whole where that many are wanted, else its lower half is, and
 * so on. Blocks next to each other are written highest first: a stack hands them out in ascending order.
 */
static unsigned node_take(struct node *n, unsigned order, u32 *slots, unsigned want)
{
	struct page *array = page_array;
	unsigned got = 0;

	while (got < want) {
		unsigned o = order;
		unsigned count;
		u32 pfn;

		while (n->head[o] == PFN_NONE)
			if (++o > ORDER_MAX)
				return got;
		pfn = n->head[o];
		list_unlink(n, array, pfn, o);
		while (1u << (o - order) > want - got) {
			o--;
			list_push(n, array, pfn + (1u << o), o);
		}
		count = 1u << (o - order);
		while (count--) {
			slots[got] = pfn + (count << order);
			array[slots[got++]].state = PAGE_STATE_CACHED(order);
		}
	}
	return got;
}

static inline bool coalesce(struct node *n, struct page *array, u32 *pfn, unsigned order)
{
	u32 buddy = *pfn ^ 1u << order;

	if (array[buddy].state != page_state(PAGE_FREE, order, PAGE_BUDDY, 0))
		return false;
	list_unlink(n, array, buddy, order);
	/* The buddy may become the inside of a block: no flag says that it heads one. */
	array[buddy].state = page_state(PAGE_FREE, 0, 0, 0);
	*pfn &= buddy;
	return true;
}

static void node_give(struct node *n, u32 pfn, unsigned order)
{
	struct page *array = page_array;

	array[pfn].state = page_state(PAGE_FREE, 0, 0, 0);
	while (order < SECTION_ORDER && coalesce(n, array, &pfn, order))
		order++;
	while (order >= SECTION_ORDER && order < ORDER_MAX && pfn_valid(pfn ^ 1u << order) &&
	       coalesce(n, array, &pfn, order))
		order++;
	list_push(n, array, pfn, order);
}

/* ---- the stacks of a CPU ---- */

static inline struct page_cache *this_cache(void)
{
	return &page_caches[arch_this_cpu()->id];
}

/* Keep everybody else on this CPU out of a stack. Returns its top, or PAGE_STACK_BUSY: not to be had. */
static inline i32 stack_enter(struct page_stack *s)
{
	i32 top = load_relaxed(&s->top);

	store_relaxed(&s->top, PAGE_STACK_BUSY);
	fence_signal();
	return top;
}

static inline void stack_leave(struct page_stack *s, i32 top)
{
	fence_signal();
	store_relaxed(&s->top, top);
}

/* The stack has been entered: give its `count` oldest entries to the node. Returns the new top. */
static i32 stack_drain(struct page_cache *cache, unsigned order, i32 top, unsigned count)
{
	struct page_stack *s = &cache->stack[order];
	u32 *slots = cache->slots + s->base;
	unsigned have = (unsigned)top - s->base;

	count = MIN(count, have);
	if (!count)
		return top;
	spin_lock(&node.lock);
	for (unsigned i = 0; i < count; i++)
		node_give(&node, slots[i], order);
	spin_unlock(&node.lock);
	memmove(slots, slots + count, (have - count) * sizeof(slots[0]));
	s->moved -= count;
	return top - (i32)count;
}

/* The stack has been entered and is empty: fill it from the node. Returns the new top. */
static __noinline i32 stack_fill(struct page_cache *cache, unsigned order)
{
	struct page_stack *s = &cache->stack[order];
	unsigned got;

	s->base = shapes[order].base;
	s->limit = shapes[order].limit;
	spin_lock(&node.lock);
	got = node_take(&node, order, cache->slots + s->base, shapes[order].batch);
	spin_unlock(&node.lock);
	s->moved += got;
	return (i32)(s->base + got);
}

static inline struct page *stack_alloc(unsigned order)
{
	struct page_cache *cache = this_cache();
	struct page_stack *s = &cache->stack[order];
	i32 top = stack_enter(s);
	struct page *page = NULL;

	if (unlikely(top == PAGE_STACK_BUSY))
		return NULL;
	if (unlikely(top <= (i32)s->base))
		top = stack_fill(cache, order);
	if (likely(top > (i32)s->base)) {
		page = pfn_to_page(cache->slots[--top]);
		page->state = PAGE_STATE_ALLOCATED(order);
		s->allocs++;
	}
	stack_leave(s, top);
	return page;
}

static inline bool stack_free(u32 pfn, unsigned order)
{
	struct page_cache *cache = this_cache();
	struct page_stack *s = &cache->stack[order];
	i32 top = stack_enter(s);

	if (unlikely(top == PAGE_STACK_BUSY))
		return false;
	if (unlikely(top >= (i32)s->limit)) {
		s->base = shapes[order].base;
		s->limit = shapes[order].limit;
		top = stack_drain(cache, order, MAX(top, (i32)s->base), shapes[order].batch);
	}
	pfn_to_page(pfn)->state = PAGE_STATE_CACHED(order);
	cache->slots[top] = pfn;
	stack_leave(s, top + 1);
	return true;
}

/* Give all that a CPU's stacks hold to the node: on that CPU itself, or while it does not allocate. */
static void cache_drain(struct page_cache *cache)
{
	for (unsigned order = 0; order < PAGE_STACKS; order++) {
		struct page_stack *s = &cache->stack[order];
		i32 top = stack_enter(s);

		if (top != PAGE_STACK_BUSY)
			stack_leave(s, stack_drain(cache, order, top, PAGE_CACHE_SLOTS));
	}
}

/* ---- allocation ---- */

/* Whether this allocation is the one that is to fail. */
static bool injected(struct alloc_site *site)
{
	alloc_inject.calls++;
	site->calls++;
	if (!alloc_inject.countdown || --alloc_inject.countdown)
		return false;
	alloc_inject.failed++;
	site->failed++;
	return true;
}

static struct page *node_alloc(unsigned order)
{
	unsigned got;
	u32 pfn;

	spin_lock(&node.lock);
	got = node_take(&node, order, &pfn, 1);
	if (got) {
		pfn_to_page(pfn)->state = PAGE_STATE_ALLOCATED(order);
		node.allocs++;
	}
	spin_unlock(&node.lock);
	return got ? pfn_to_page(pfn) : NULL;
}

/* Nothing found: perhaps what this CPU holds back makes a block of that order, or is it. */
static __noinline struct page *alloc_last_resort(unsigned order)
{
	struct page *page;

	if (order > ORDER_MAX)
		return NULL;
	cache_drain(this_cache());
	page = node_alloc(order);
	if (!page) {
		spin_lock(&node.lock);
		node.fails++;
		spin_unlock(&node.lock);
	}
	return page;
}

struct page *alloc_pages_slow(unsigned order, unsigned flags, struct alloc_site *site)
{
	struct page *page = NULL;

	if (unlikely(alloc_inject.armed) && injected(site))
		return NULL;
	if (likely(order < PAGE_STACKS))
		page = stack_alloc(order);
	else if (order <= ORDER_MAX)
		page = node_alloc(order);
	if (unlikely(!page))
		page = alloc_last_resort(order);
	if (unlikely(flags & ALLOC_ZERO) && page)
		page_zero(page, order);
	return page;
}

void page_zero(struct page *page, unsigned order)
{
	memset(page_to_virt(page), 0, PAGE_SIZE << order);
}

/* ---- free ---- */

/* Why a frame is not to be freed; NULL: it is. */
static const char *free_fault(const struct page *page, u64 pfn, unsigned order)
{
	if (pfn >= page_max_pfn || !pfn_valid(pfn))
		return "there is no such frame";
	if (order > ORDER_MAX)
		return "there is no such order";
	if (page->flags & (PAGE_BUDDY | PAGE_CACHED))
		return "it is free already";
	if (page->flags & PAGE_QUARANTINE)
		return "a dead CPU may still reach it";
	if (!(page->flags & PAGE_HEAD))
		return page->class == PAGE_FREE ? "it is free already, or inside a block" :
						  "it is inside a block, or the allocator never gave it";
	if (page->order != order)
		return "it was allocated in another order";
	if (page->word >> 32)
		return "it is still mapped, or a table in use";
	return NULL;
}

static __noinline void bad_free(u64 pfn, unsigned order, const char *why)
{
	fetch_add(&bad_frees, 1);
	log_warn("free_pages: frame %#llx, order %u: %s", (unsigned long long)pfn, order, why);
}

/*
 * A block of more than one frame, where page_set_class() was used on frames like these: make all of them PAGE_FREE
 * again. False, and nothing changed, if one of them is still mapped.
 */
static __noinline bool reset_classes(u64 pfn, unsigned order)
{
	u64 nr = 1u << order;

	for (u64 i = 0; i < nr; i++)
		if (pfn_to_page(pfn + i)->word >> 32)
			return false;
	for (u64 i = 0; i < nr; i++)
		pfn_to_page(pfn + i)->class = PAGE_FREE;
	/* Of a smaller block, the rest of the 2 MiB is somebody else's and may be marked too. */
	for (u64 i = 0; order >= BLOCK_ORDER && i < nr >> BLOCK_ORDER; i++)
		pfn_to_block(pfn)[i].classed = 0;
	return true;
}

static inline bool block_classed(u64 pfn, unsigned order)
{
	const struct block *block = pfn_to_block(pfn);

	for (unsigned i = 0; i < 1u << MAX(order, BLOCK_ORDER) >> BLOCK_ORDER; i++)
		if (unlikely(block[i].classed))
			return true;
	return false;
}

void free_pages_slow(struct page *page, unsigned order)
{
	u64 pfn = page_index(page);
	const char *why = NULL;

	/* The usual case by one compare; free_fault() then only has to find out what is wrong. */
	if (unlikely(pfn >= page_max_pfn || !pfn_valid(pfn) || order > ORDER_MAX ||
		     page->word != PAGE_STATE_ALLOCATED(order)))
		why = free_fault(page, pfn, order);
	if (unlikely(why != NULL)) {
		bad_free(pfn, order, why);
		return;
	}
	if (order && unlikely(block_classed(pfn, order)) && !reset_classes(pfn, order)) {
		bad_free(pfn, order, "part of it is still mapped");
		return;
	}
	if (likely(order < PAGE_STACKS) && likely(stack_free((u32)pfn, order)))
		return;
	spin_lock(&node.lock);
	node_give(&node, (u32)pfn, order);
	node.frees++;
	spin_unlock(&node.lock);
}

/* ---- boot ---- */

/* Whether the allocator may be given this frame. */
static bool addable(pfn_t pfn)
{
	return pfn < PFN_NONE && pfn_valid(pfn) && pfn_to_page(pfn)->class != PAGE_FREE &&
	       !(pfn_to_page(pfn)->flags & (PAGE_BUDDY | PAGE_CACHED | PAGE_HEAD | PAGE_QUARANTINE));
}

/* A run of frames that are all addable: as few blocks as there can be. */
static void add_run(pfn_t pfn, u64 nr)
{
	for (u64 i = 0; i < nr; i++)
		pfn_to_page(pfn + i)->word = page_state(PAGE_FREE, 0, 0, 0);
	spin_lock(&node.lock);
	node.frames += nr;
	while (nr) {
		unsigned order = MIN(log2_floor(nr), ORDER_MAX);

		if (pfn)
			order = MIN(order, (unsigned)__builtin_ctzll(pfn));
		node_give(&node, (u32)pfn, order);
		pfn += 1ull << order;
		nr -= 1ull << order;
	}
	spin_unlock(&node.lock);
}

void buddy_add(pfn_t pfn, u64 nr)
{
	pfn_t end = pfn + nr;
	u64 refused = 0;

	while (pfn < end) {
		pfn_t run = pfn;

		while (run < end && addable(run))
			run++;
		if (run > pfn)
			add_run(pfn, run - pfn);
		for (pfn = run; pfn < end && !addable(pfn); pfn++)
			refused++;
	}
	if (refused)
		log_warn("buddy_add: %llu frames of those below %#llx are not there, or the allocator's already",
			 (unsigned long long)refused, (unsigned long long)end);
}

void buddy_reset(void)
{
	node = (struct node){ .head = { [0 ... ORDER_MAX] = PFN_NONE } };
	bad_frees = 0;
	memset(page_caches, 0, sizeof(page_caches));
}

void buddy_drain(void)
{
	for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++)
		cache_drain(&page_caches[cpu]);
}

/* ---- figures ---- */

/* Entries of a stack. Its CPU may be at work on it: then look again, but not for ever. */
static u64 stack_entries(const struct page_stack *s)
{
	i32 top = load_relaxed(&s->top);

	for (unsigned i = 0; top == PAGE_STACK_BUSY && i < BUSY_RETRIES; i++) {
		arch_relax();
		top = load_relaxed(&s->top);
	}
	return top > (i32)s->base ? (u64)top - s->base : 0;
}

void buddy_read_stats(struct buddy_stats *out)
{
	*out = (struct buddy_stats){ .bad_frees = load_relaxed(&bad_frees) };
	spin_lock(&node.lock);
	out->frames = node.frames;
	out->allocs = node.allocs;
	out->frees = node.frees;
	out->fails = node.fails;
	for (unsigned order = 0; order <= ORDER_MAX; order++) {
		out->blocks[order] = node.nr[order];
		out->free += node.nr[order] << order;
	}
	spin_unlock(&node.lock);
	for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++)
		for (unsigned order = 0; order < PAGE_STACKS; order++) {
			const struct page_stack *s = &page_caches[cpu].stack[order];
			u64 entries = stack_entries(s);

			out->cached += entries << order;
			out->allocs += s->allocs;
			/* What is on it, and has not come from the node, came by a free. */
			out->frees += entries + s->allocs - s->moved;
		}
	out->free += out->cached;
}

u64 buddy_free_frames(void)
{
	struct buddy_stats stats;

	buddy_read_stats(&stats);
	return stats.free;
}
