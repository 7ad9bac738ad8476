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
#include "mm/account.h"

/* Below this order a block and its buddy lie in one section, so that the buddy has a struct page for sure. */
#define SECTION_ORDER (SECTION_SHIFT - PAGE_SHIFT)

/* How often a reader looks again at a stack that another CPU is working on. */
#define BUSY_RETRIES 1000u

/* How often caches are asked for one allocation. */
#define RECLAIM_ROUNDS 4u

struct node {
	spinlock_t lock;
	u32 filled;			/* bit o: the list of order o is not empty */
	u32 head[ORDER_MAX + 1];
	u64 nr[ORDER_MAX + 1];		/* blocks on the list */
	u64 frames;
	u64 share;			/* of each CPU's stacks: frames that one of them may hold */
	u64 allocs;			/* blocks taken */
	u64 frees;			/* blocks given back */
	u64 fails;
};

#define NODE_INIT { .lock = SPINLOCK_INIT_CLASS(LOCK_NODE), .head = { [0 ... ORDER_MAX] = PFN_NONE } }

static struct node node = NODE_INIT;
static u64 bad_frees;
static struct shrinker *shrinkers;

/* The first look says busy, for ever. */
struct page_cache page_cache_none = {
	.stack = { [0 ... ORDER_MAX] = { .top = PAGE_STACK_BUSY } },
};
static struct page_cache first_cache;
static struct page_cache *caches[MAX_CPUS];	/* by CPU; NULL: it has none */
static unsigned nr_caches;
struct alloc_inject alloc_inject;

/* Of a frame inside a free block, and of all but the first when a block is allocated. */
#define STATE_INSIDE page_state(PAGE_FREE, 0, 0, 0)

/* ---- the node's lists; its lock is held ---- */

static inline void list_push(struct node *n, struct page *array, u32 pfn, unsigned order)
{
	u32 first = n->head[order];

	assert_held(&n->lock);
	array[pfn].next = first;
	array[pfn].prev = PFN_NONE;
	store_relaxed(&array[pfn].state, page_state(PAGE_FREE, order, PAGE_BUDDY, 0));
	if (first != PFN_NONE)
		array[first].prev = pfn;
	n->head[order] = pfn;
	n->filled |= 1u << order;
	n->nr[order]++;
}

/* Make `next` the first of a list. */
static inline void list_set_head(struct node *n, struct page *array, u32 next, unsigned order)
{
	assert_held(&n->lock);
	n->head[order] = next;
	if (next == PFN_NONE)
		n->filled &= ~(1u << order);
	else
		array[next].prev = PFN_NONE;
	n->nr[order]--;
}

static inline void list_unlink(struct node *n, struct page *array, u32 pfn, unsigned order)
{
	u32 next = array[pfn].next, prev = array[pfn].prev;

	if (prev == PFN_NONE) {
		list_set_head(n, array, next, order);
		return;
	}
	array[prev].next = next;
	if (next != PFN_NONE)
		array[next].prev = prev;
	n->nr[order]--;
}

/*
 * Take up to `want` blocks of an order and write their pages to slots. They leave the lists in state
 * PAGE_CACHED. A block of a higher order is used whole where that many are wanted, else its lower half is, and
 * so on. Blocks next to each other are written highest first: a stack hands them out in ascending order.
 */
static unsigned node_take(struct node *n, unsigned order, struct page **slots, unsigned want)
{
	struct page *array = page_array;
	u64 step = 1u << order;
	unsigned got = 0;

	while (got < want && n->filled >> order) {
		unsigned o = order + (unsigned)__builtin_ctz(n->filled >> order);
		u32 pfn = n->head[o];
		struct page *page;

		list_set_head(n, array, array[pfn].next, o);
		while (1u << (o - order) > want - got) {
			o--;
			list_push(n, array, pfn + (1u << o), o);
		}
		page = array + pfn + (1u << o);
		do {
			page -= step;
			store_relaxed(&page->state, PAGE_STATE_CACHED(order));
			slots[got++] = page;
		} while (page != array + pfn);
	}
	return got;
}

static inline bool coalesce(struct node *n, struct page *array, u32 *pfn, unsigned order)
{
	u32 buddy = *pfn ^ 1u << order;

	/* A block that is no free one is its owner's, who may be writing this: anything but what is looked for. */
	if (load_relaxed(&array[buddy].state) != page_state(PAGE_FREE, order, PAGE_BUDDY, 0))
		return false;
	list_unlink(n, array, buddy, order);
	store_relaxed(&array[*pfn | buddy].state, STATE_INSIDE);
	*pfn &= buddy;
	return true;
}

static void node_give(struct node *n, u32 pfn, unsigned order)
{
	struct page *array = page_array;

	while (order < SECTION_ORDER && coalesce(n, array, &pfn, order))
		order++;
	while (order >= SECTION_ORDER && order < ORDER_MAX && pfn_valid(pfn ^ 1u << order) &&
	       coalesce(n, array, &pfn, order))
		order++;
	list_push(n, array, pfn, order);
}

/*
 * Give back `count` blocks of an order. Such as lie one behind the other in slots and in memory, as they do when
 * what was allocated together is freed together, go back as the large blocks they make up.
 */
static void node_give_all(struct node *n, unsigned order, struct page *const *slots, u64 count)
{
	struct page *const *end = slots + count;

	while (slots < end) {
		u32 pfn = (u32)page_to_pfn(*slots);
		struct page *const *run = slots + 1;
		unsigned o = order;

		while (run < end && *run == run[-1] + (1u << order))
			run++;
		if (run - slots > 1) {
			o += log2_floor((u64)(run - slots));
			if (pfn)
				o = MIN(o, (unsigned)__builtin_ctz(pfn));
			for (u64 i = 1; i < 1u << (o - order); i++)
				store_relaxed(&slots[i]->state, STATE_INSIDE);
		}
		node_give(n, pfn, o);
		slots += 1u << (o - order);
	}
}

/* ---- the stacks of a CPU ---- */

static inline struct page_cache *this_cache(void)
{
	return arch_this_cpu()->pages;
}

/* From here on everybody else on this CPU stays out of a stack that was found not busy. */
static inline void stack_enter(struct page_stack *s)
{
	store_relaxed(&s->top, PAGE_STACK_BUSY);
	fence_signal();
}

static inline void stack_leave(struct page_stack *s, i64 top)
{
	fence_signal();
	store_relaxed(&s->top, top);
}

/* The stack has been entered: give its oldest entries, `count` at most, to the node. Returns the new top. */
static i64 stack_drain(struct page_cache *cache, unsigned order, i64 top, u64 count)
{
	struct page_stack *s = &cache->stack[order];
	struct page **slots = cache->slots + s->base;
	u64 have = (u64)(top - s->base);

	count = MIN(count, have);
	if (!count)
		return top;
	spin_lock(&node.lock);
	node_give_all(&node, order, slots + have - count, count);
	node.frees += count;
	spin_unlock(&node.lock);
	return top - (i64)count;
}

/* The stack has been entered and is empty: fill it from the node. Returns the new top. */
static i64 stack_fill(struct page_cache *cache, unsigned order)
{
	struct page_stack *s = &cache->stack[order];
	unsigned got;

	spin_lock(&node.lock);
	got = node_take(&node, order, cache->slots + s->base, (unsigned)s->batch);
	node.allocs += got;
	spin_unlock(&node.lock);
	return s->base + got;
}

/* Give all that a CPU's stacks hold to the node: on that CPU itself, or while it does not allocate. */
static void cache_drain(struct page_cache *cache)
{
	for (unsigned order = 0; order < PAGE_STACKED_ORDERS; order++) {
		struct page_stack *s = &cache->stack[order];
		i64 top = load_relaxed(&s->top);

		if (top == PAGE_STACK_BUSY)
			continue;
		stack_enter(s);
		stack_leave(s, stack_drain(cache, order, top, UINT64_MAX));
	}
}

static unsigned stack_room(unsigned order)
{
	if (order == 0)
		return PAGE_STACK0_ROOM;
	if (order < PAGE_STACKED_ORDERS - 1)
		return PAGE_STACK_ROOM;
	return order < PAGE_STACKED_ORDERS ? PAGE_STACK9_ROOM : 0;
}

/*
 * Each stack holds at most its CPU's share of 1/64 of the memory, so that on a small machine no CPU keeps from the
 * others what they need. When the share changes, each CPU sees to its own stacks, the next time that it cannot go the usual way:
 * nobody else writes them. Stacks that are in use stay as they are.
 */
static void set_limits(struct page_cache *cache, u64 share)
{
	for (unsigned order = 0; order < PAGE_STACKED_ORDERS; order++) {
		struct page_stack *s = &cache->stack[order];
		u64 room = MIN(stack_room(order), share >> order);

		s->batch = MAX(room / (order ? 2 : 4), 1);
		s->limit = s->base + (i64)room;
	}
	cache->share = share;
}

/* This CPU's stacks, with their share of the memory that there is now. */
static inline struct page_cache *this_cache_for_change(void)
{
	struct page_cache *cache = this_cache();
	u64 share = load_relaxed(&node.share);

	if (unlikely(cache->share != share) && cache != &page_cache_none)
		set_limits(cache, share);
	return cache;
}

static void share_memory(struct node *n)
{
	assert_held(&n->lock);
	store_relaxed(&n->share, n->frames / 64 / MAX(nr_caches, 1));
}

static void cache_reset(struct page_cache *cache)
{
	i64 base = 0;

	for (unsigned order = 0; order <= ORDER_MAX; order++) {
		cache->stack[order] = (struct page_stack){ base, base, base, 0 };
		base += stack_room(order);
	}
	cache->share = 0;
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
	struct page *page = NULL;

	spin_lock(&node.lock);
	if (node_take(&node, order, &page, 1)) {
		store_relaxed(&page->state, PAGE_STATE_ALLOCATED(order));
		node.allocs++;
	}
	spin_unlock(&node.lock);
	return page;
}

/*
 * A free block of this order in the aligned 2 MiB around a frame; NULL: none. A frame that shows this state is on the order's list:
 * coalesce() goes by the same.
 */
static struct page *node_find_near(pfn_t pfn, unsigned order)
{
	u32 wanted = page_state(PAGE_FREE, order, PAGE_BUDDY, 0);
	struct page *page, *end;

	pfn &= ~((1ull << ORDER_2M) - 1);
	if (!pfn_valid(pfn))
		return NULL;
	page = pfn_to_page(pfn);
	for (end = page + (1u << ORDER_2M); page < end; page += 1u << order)
		if (load_relaxed(&page->state) == wanted)
			return page;
	return NULL;
}

/* A block of this order, preferably near a frame; the lists hold one, or a larger one. */
static struct page *node_take_near(struct node *n, unsigned order, pfn_t near)
{
	struct page *page = node_find_near(near, order);

	if (page)
		list_unlink(n, page_array, (u32)page_to_pfn(page), order);
	else
		node_take(n, order, &page, 1);
	store_relaxed(&page->state, PAGE_STATE_ALLOCATED(order));
	n->allocs++;
	return page;
}

/* The highest order, of those from least to most, of which a CPU holds a block; -1: none. */
static int stacked_order(const struct page_cache *cache, unsigned least, unsigned most)
{
	int order = (int)MIN(most, PAGE_STACKED_ORDERS - 1);

	while (order >= (int)least && load_relaxed(&cache->stack[order].top) <= cache->stack[order].base)
		order--;
	return order >= (int)least ? order : -1;
}

struct page *alloc_pages_upto_at(unsigned least, unsigned most, pfn_t near, unsigned *order, struct alloc_site *site)
{
	struct page_cache *cache = this_cache();
	struct page *page = NULL;
	int stacked, listed = -1;

	if (least > most || most > ORDER_MAX || (alloc_inject.armed && injected(site)))
		return NULL;
	stacked = stacked_order(cache, least, most);
	spin_lock(&node.lock);
	if (node.filled >> least)
		listed = (int)(node.filled >> most ? most : log2_floor(node.filled));
	if (listed >= 0 && listed >= stacked)
		page = node_take_near(&node, (unsigned)listed, near);
	spin_unlock(&node.lock);
	*order = (unsigned)MAX(listed, stacked);
	if (!page && stacked >= 0)
		page = page_stack_take(cache, &cache->stack[stacked], cache->stack[stacked].base);
	return page;
}

/* Nothing found: perhaps what this CPU holds back makes a block of that order, or is it. */
static struct page *alloc_last_resort(unsigned order)
{
	struct page *page;

	cache_drain(this_cache());
	page = node_alloc(order);
	if (!page) {
		spin_lock(&node.lock);
		node.fails++;
		spin_unlock(&node.lock);
	}
	return page;
}

/* From this CPU's stack, which is filled if it is empty; from the node if there is none, or it is busy. */
static struct page *alloc_any(unsigned order)
{
	struct page_cache *cache = this_cache_for_change();
	struct page_stack *s = &cache->stack[order];
	i64 top = load_relaxed(&s->top);
	struct page *page = NULL;

	if (unlikely(top == PAGE_STACK_BUSY) || unlikely(s->base == s->limit))
		return node_alloc(order);
	stack_enter(s);
	if (top == s->base)
		top = stack_fill(cache, order);
	if (top > s->base) {
		page = cache->slots[--top];
		page_state_change(page);
	}
	stack_leave(s, top);
	return page;
}

/*
 * Nothing found, and the caller holds nothing that a cache could wait for: ask the caches for what is missing. What
 * comes back need not make up a block of the order, so a few rounds are worth it; each is bounded by what was asked.
 */
static __noinline struct page *alloc_by_reclaim(unsigned order)
{
	assert(arch_this_cpu()->locks_held == 0 && arch_irqs_enabled());
	for (unsigned round = 0; round < RECLAIM_ROUNDS; round++) {
		struct page *page;
		u64 got = 0;

		for (struct shrinker *s = load_acquire(&shrinkers); s; s = s->next)
			got += s->shrink(1ull << order);
		if (!got)
			break;
		page = alloc_last_resort(order);
		if (page)
			return page;
	}
	return NULL;
}

/* All that page_stack_take() could not do. */
struct page *alloc_slow(unsigned order, unsigned flags, struct alloc_site *site)
{
	struct page *page;

	if (alloc_inject.armed && injected(site))
		return NULL;
	if (order > ORDER_MAX)
		return NULL;
	page = alloc_any(order);
	if (unlikely(!page) && !(flags & ALLOC_LIGHT))
		page = alloc_last_resort(order);
	if (!page && flags & ALLOC_MAY_RECLAIM)
		page = alloc_by_reclaim(order);
	if (page && flags & ALLOC_ZERO)
		page_zero(page, order);
	return page;
}

void page_zero(struct page *page, unsigned order)
{
	memset(page_to_virt(page), 0, PAGE_SIZE << order);
}

/* ---- free ---- */

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
 * A block where page_set_class() was used on more than the first frame: make all of them PAGE_FREE again. False, and
 * nothing changed, if one of them is still mapped.
 */
static bool reset_classes(struct page *page, unsigned order)
{
	u64 nr = 1u << order;

	for (u64 i = 1; i < nr; i++)
		if (page[i].word >> 32)
			return false;
	for (u64 i = 1; i < nr; i++)
		page_put_class(page + i, PAGE_FREE);
	return true;
}

/* Whether the other half of 2 MiB is free, so that this one completes it. Read without the lock: a hint. */
static bool completes_2m(const struct page *page)
{
	const struct page *buddy = pfn_to_page(page_to_pfn(page) ^ 1u << (BLOCK_ORDER - 1));

	return load_relaxed(&buddy->state) == page_state(PAGE_FREE, BLOCK_ORDER - 1, PAGE_BUDDY, 0);
}

static void give_to_node(struct page *page, unsigned order)
{
	store_relaxed(&page->state, PAGE_STATE_CACHED(order));
	spin_lock(&node.lock);
	node_give(&node, (u32)page_to_pfn(page), order);
	node.frees++;
	spin_unlock(&node.lock);
}

/* Put what has been found fit to be freed on this CPU's stack, or on the node's lists. */
static __noinline void give(struct page *page, unsigned order)
{
	struct page_cache *cache = this_cache_for_change();
	struct page_stack *s = &cache->stack[order];
	i64 top = load_relaxed(&s->top);

	/* A whole block of 2 MiB is worth more than the way to the node costs. */
	if (unlikely(top == PAGE_STACK_BUSY) || unlikely(s->base == s->limit) ||
	    (order == BLOCK_ORDER - 1 && completes_2m(page))) {
		give_to_node(page, order);
		return;
	}
	stack_enter(s);
	if (top >= s->limit)
		top = stack_drain(cache, order, top, s->batch);
	store_relaxed(&page->state, PAGE_STATE_CACHED(order));
	cache->slots[top] = page;
	stack_leave(s, top + 1);
}

/* All that is not the usual case: halves of 2 MiB, classes to be reset, charges to be taken back, nonsense. */
static __noinline void free_general(struct page *page, unsigned order)
{
	u64 pfn = page_index(page);
	const char *why = free_fault(page, pfn, order);

	if (!why && page->flags & PAGE_CLASSED && !reset_classes(page, order))
		why = "part of it is still mapped";
	if (why) {
		bad_free(pfn, order, why);
		return;
	}
	if (page->flags & PAGE_CHARGED)
		account_uncharge_page(page, order);
	give(page, order);
}

void free_block(struct page *page, unsigned order)
{
	struct page_cache *cache;
	struct page_stack *s;
	i64 top;

	if (order == BLOCK_ORDER - 1 || unlikely(page_index(page) >= page_max_pfn) ||
	    unlikely(page->word != PAGE_STATE_ALLOCATED(order))) {
		free_general(page, order);
		return;
	}
	cache = this_cache();
	s = &cache->stack[page->order];		/* one word less to keep over the call */
	top = load_relaxed(&s->top);
	if (unlikely((u64)top >= (u64)s->limit)) {	/* PAGE_STACK_BUSY too */
		give(page, page->order);
		return;
	}
	stack_enter(s);
	page_state_change(page);
	cache->slots[top] = page;
	stack_leave(s, top + 1);
}

void free_page(struct page *page)
{
	struct page_cache *cache;
	i64 top;

	if (unlikely(page_index(page) >= page_max_pfn) || unlikely(page->word != PAGE_STATE_ALLOCATED(0))) {
		free_general(page, 0);
		return;
	}
	cache = this_cache();
	top = load_relaxed(&cache->stack[0].top);
	if (unlikely((u64)top >= (u64)cache->stack[0].limit)) {	/* PAGE_STACK_BUSY too */
		give(page, 0);
		return;
	}
	stack_enter(&cache->stack[0]);
	store_relaxed(&page->state, PAGE_STATE_CACHED(0));
	cache->slots[top] = page;
	stack_leave(&cache->stack[0], top + 1);
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
		pfn_to_page(pfn + i)->word = STATE_INSIDE;
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
	share_memory(&node);
	spin_unlock(&node.lock);
}

void buddy_add(pfn_t pfn, u64 nr)
{
	pfn_t end = pfn + nr;
	u64 refused = 0;

	if (!nr_caches)
		buddy_add_cpu(&first_cache);
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

void buddy_add_cpu(struct page_cache *cache)
{
	struct cpu_state *cpu = arch_this_cpu();

	cache_reset(cache);
	spin_lock(&node.lock);
	nr_caches += !caches[cpu->id];
	store_release(&caches[cpu->id], cache);
	share_memory(&node);
	spin_unlock(&node.lock);
	cpu->pages = cache;
}

void buddy_add_shrinker(struct shrinker *shrinker)
{
	for (struct shrinker *s = shrinkers; s; s = s->next)
		if (s == shrinker)
			return;
	shrinker->next = shrinkers;
	store_release(&shrinkers, shrinker);
}

void buddy_reset(void)
{
	node = (struct node)NODE_INIT;
	bad_frees = 0;
	for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++)
		if (caches[cpu])
			cache_reset(caches[cpu]);
}

void buddy_drain(void)
{
	for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++)
		if (caches[cpu])
			cache_drain(caches[cpu]);
}

/* ---- figures ---- */

/* Entries of a stack. Its CPU may be at work on it: then look again, but not for ever. */
static u64 stack_entries(const struct page_stack *s)
{
	i64 top = load_relaxed(&s->top);

	for (unsigned i = 0; top == PAGE_STACK_BUSY && i < BUSY_RETRIES; i++) {
		arch_relax();
		top = load_relaxed(&s->top);
	}
	return top > s->base ? (u64)(top - s->base) : 0;
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
		for (unsigned order = 0; order < PAGE_STACKED_ORDERS && caches[cpu]; order++)
			out->cached += stack_entries(&caches[cpu]->stack[order]) << order;
	out->free += out->cached;
}

u64 buddy_free_frames(void)
{
	struct buddy_stats stats;

	buddy_read_stats(&stats);
	return stats.free;
}
