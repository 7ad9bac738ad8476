/* SPDX-License-Identifier: MIT */
/*
 * The page allocator's usual calls: see buddy.h for the states of a frame and for what a CPU keeps.
 *
 * The stacks of a CPU are filled from the node and emptied to it by the batch, a batch taken from as few blocks as possible; what
 * lies on a stack does not coalesce. A request that fails gives back what this CPU holds and tries again, so a CPU by itself
 * finds every frame and every block there is. While the node's lock is held
 * a CPU's reserve is whole, and free to be used.
 */
#include "mm/buddy.h"

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/base/spinlock.h"
#include "kernel/base/string.h"
#include "mm/account.h"
#include "mm/page_owner.h"
#include "mm/buddy_internal.h"

/* How often caches are asked for one allocation. */
#define RECLAIM_ROUNDS 4u

/* Frames that a bulk allocation takes from the node at once. */
#define BULK_STEP 256u

static u64 bad_frees;
static u32 limits_version = 1;	/* of what limits are made of */
static struct shrinker *shrinkers;

/* No room for anything: each allocation and free goes to the node. */
struct page_cache page_cache_none;
static struct page_cache first_cache;
struct page_cache *page_caches[MAX_CPUS];
struct alloc_inject alloc_inject;

/* ---- what a CPU keeps ---- */

static inline struct node *node_of(const struct page_cache *cache)
{
	return &nodes[cache->node];
}

/* What a reserve should hold: room is left for as many frees. */
unsigned reserve_want(const struct page_reserve *r)
{
	return r->room / 2;
}

/* Fill this CPU's reserve from its stack, of which `top` is the number. Returns the new one. Task context. */
static i64 reserve_fill(struct page_cache *cache, unsigned order, i64 top)
{
	struct page_stack *s = &cache->stack[order];
	struct page_reserve *r;
	u32 nr;

	if (order >= PAGE_RESERVE_ORDERS)
		return top;
	r = &cache->reserve[order];
	if (load_relaxed(&r->nr) >= reserve_want(r) || !local_trylock(&r->lock))
		return top;
	for (nr = r->nr; nr < reserve_want(r) && top > s->base; nr++)
		r->slots[nr] = cache->slots[--top];
	store_relaxed(&r->nr, nr);
	local_unlock(&r->lock);
	return top;
}

/* Give the entries on top, `count` at most, to the node. */
static void stack_drain(struct page_cache *cache, unsigned order, u64 count)
{
	struct page_stack *s = &cache->stack[order];
	struct node *n = node_of(cache);
	u64 have = (u64)(s->top - s->base);

	count = MIN(count, have);
	if (!count)
		return;
	node_lock(n);
	node_give_all(n, order, cache->slots + s->base + have - count, count);
	n->frees += count;
	node_unlock(n);
	store_relaxed(&s->top, s->top - (i64)count);
}

/* The stack is empty: fill it from the node, and the reserve, too. */
static void stack_fill(struct page_cache *cache, unsigned order)
{
	struct page_stack *s = &cache->stack[order];
	struct node *n = node_of(cache);
	unsigned want = s->batch, got;

	if (order < PAGE_RESERVE_ORDERS && load_relaxed(&cache->reserve[order].nr) < reserve_want(&cache->reserve[order]))
		want += reserve_want(&cache->reserve[order]);
	node_lock(n);
	got = node_take(n, KIND_PLAIN, order, cache->slots + s->base, MIN(want, s->room));
	n->allocs += got;
	node_unlock(n);
	store_relaxed(&s->top, reserve_fill(cache, order, s->base + got));
}

/* The reserve of a CPU, to the node. */
static void reserve_drain(struct page_cache *cache, unsigned order)
{
	struct page_reserve *r = &cache->reserve[order];
	struct page *batch[PAGE_RESERVE0_ROOM];
	struct node *n = node_of(cache);
	unsigned nr;

	if (!load_relaxed(&r->nr) || !local_trylock(&r->lock))
		return;
	nr = r->nr;
	for (unsigned i = 0; i < nr; i++)
		batch[i] = r->slots[i];
	store_relaxed(&r->nr, 0);
	local_unlock(&r->lock);
	node_lock(n);
	node_give_all(n, order, batch, nr);
	n->frees += nr;
	node_unlock(n);
}

/* Give all that a CPU keeps to the node: on that CPU itself, or while it does not allocate. */
static void cache_drain(struct page_cache *cache)
{
	for (unsigned order = 0; order < PAGE_STACKED_ORDERS; order++) {
		if (order < PAGE_RESERVE_ORDERS)
			reserve_drain(cache, order);
		stack_drain(cache, order, UINT64_MAX);
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
 * Orders of which a block does not wait on a stack while its buddy is free: large blocks are worth more than the way to the node
 * costs. (From 6 on: then as many blocks of 2 MiB are left as without stacks, and most frees still go the usual way.)
 */
static inline bool gives_back(unsigned order)
{
	return order >= 6 && order < BLOCK_ORDER;
}

static void stack_set_limits(struct page_stack *s, unsigned order, u64 frames)
{
	/* What is moved of order 9 is a power of two where there is much, so that it makes one block. */
	if (order == ORDER_2M)
		frames += frames / 2;
	s->room = (u16)MIN(stack_room(order), frames >> order);
	s->batch = (u16)MAX(order == ORDER_2M ? s->room * 2 / 3 : s->room / (order ? 2 : 4), 1);
	s->low = alloc_watch ? INT64_MAX : s->base;
	s->limit = s->base + (alloc_watch || gives_back(order) ? 0u : s->room);
}

/*
 * Each stack holds at most its CPU's share of 1/64 of its node's memory, that of order 9 half as much again, and the reserve a quarter of that, so that on a small
 * machine no CPU keeps from the others what they need. When the share changes, each CPU sees to its own stacks, the next time that it
 * cannot go the usual way: nobody else writes them. What they hold stays.
 */
static void set_limits(struct page_cache *cache)
{
	u64 share;
	u32 users = 0;

	cache->limits = load_acquire(&limits_version);
	for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++) {
		const struct page_cache *other = load_acquire(&page_caches[cpu]);

		users += other && other->node == cache->node;
	}
	share = load_relaxed(&node_of(cache)->frames) / 64 / MAX(users, 1u);
	for (unsigned order = 0; order < PAGE_STACKED_ORDERS; order++)
		stack_set_limits(&cache->stack[order], order, share);
	for (unsigned order = 0; order < PAGE_RESERVE_ORDERS; order++)
		store_relaxed(&cache->reserve[order].room,
			      (u32)MIN(order ? PAGE_RESERVE_ROOM : PAGE_RESERVE0_ROOM, share >> order >> 2));
}

static void limits_changed(void)
{
	fetch_add(&limits_version, 1);
}

/* This CPU's stacks, with their share of the memory that there is now. */
static inline struct page_cache *this_cache_for_change(void)
{
	struct page_cache *cache = this_cache();

	if (unlikely(cache->limits != load_relaxed(&limits_version)) && cache != &page_cache_none)
		set_limits(cache);
	return cache;
}

void buddy_watch_changed(void)
{
	for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++)
		if (page_caches[cpu])
			set_limits(page_caches[cpu]);
}

static void cache_reset(struct page_cache *cache)
{
	u32 base = 0;

	for (unsigned order = 0; order <= ORDER_MAX; order++) {
		cache->stack[order] = (struct page_stack){ .top = base, .low = base, .limit = base, .base = base };
		base += stack_room(order);
	}
	for (unsigned order = 0; order < PAGE_RESERVE_ORDERS; order++)
		cache->reserve[order] = (struct page_reserve){ .nr = 0 };
	cache->limits = 0;
}

/* The node that a CPU of node `home` gets its pages from. */
static unsigned node_serving(unsigned home)
{
	if (home < nr_nodes && nodes[home].frames)
		return home;
	for (unsigned i = 0; i < nr_nodes; i++)
		if (nodes[i].frames)
			return i;
	return 0;
}

/* The CPU keeps nothing now. */
static void cache_set_node(struct page_cache *cache, unsigned home)
{
	cache->home = home;
	cache->node = node_serving(home);
	cache->own = PAGE_STATE_ALLOCATED(0) | (u64)cache->node << 24;
}

/* ---- allocation ---- */

/* The highest order, of those from least to most, of which a CPU holds a block; -1: none. */
static int stacked_order(const struct page_cache *cache, unsigned least, unsigned most)
{
	int order = (int)MIN(most, PAGE_STACKED_ORDERS - 1);

	while (order >= (int)least && cache->stack[order].top <= cache->stack[order].base)
		order--;
	return order >= (int)least ? order : -1;
}

/* Take what lies on top, whatever the slow path is for. */
static struct page *stack_pop(struct page_cache *cache, unsigned order)
{
	struct page_stack *s = &cache->stack[order];
	struct page *page;

	if (s->top <= s->base)
		return NULL;
	page = cache->slots[s->top - 1];
	page_state_change(page);
	store_relaxed(&s->top, s->top - 1);
	return page;
}

/* The largest of one node. stacked: what this CPU holds, -1: nothing. */
static struct page *node_alloc_upto(struct node *n, unsigned least, unsigned most, pfn_t near, int stacked, int *order)
{
	struct page *page = NULL;
	u32 filled;

	node_lock(n);
	filled = node_filled(n);
	*order = -1;
	if (filled >> least)
		*order = (int)(filled >> most ? most : log2_floor(filled));
	if (*order >= 0 && *order >= stacked)
		page = node_take_near(n, (unsigned)*order, near);
	node_unlock(n);
	return page;
}

static void finish_alloc(struct page *page, unsigned order, unsigned flags)
{
	if (unlikely(alloc_watch))
		alloc_watched(page, order);
	if (flags & ALLOC_ZERO)
		page_zero(page, order);
}

struct page *alloc_pages_upto_at(int nid, unsigned least, unsigned most, pfn_t near, unsigned *order, struct alloc_site *site)
{
	struct page_cache *cache = this_cache();
	unsigned first = nid == NODE_ANY ? cache->node : (unsigned)nid;
	struct page *page = NULL;
	int stacked = -1, listed = -1;

	if (least > most || most > ORDER_MAX || first >= nr_nodes || (alloc_inject.armed && alloc_injected(site, most)))
		return NULL;
	if (first == cache->node)
		stacked = stacked_order(cache, least, most);
	page = node_alloc_upto(&nodes[first], least, most, near, stacked, &listed);
	if (!page && stacked >= 0) {
		listed = stacked;
		page = stack_pop(cache, (unsigned)stacked);
	}
	for (unsigned i = 0; nid == NODE_ANY && !page && i < nr_nodes; i++)
		if (i != first)
			page = node_alloc_upto(&nodes[i], least, most, near, -1, &listed);
	if (!page)
		return NULL;
	*order = (unsigned)listed;
	finish_alloc(page, *order, 0);
	return page;
}

/* From this CPU's stack, which is filled if it is empty; from its node if there is none. */
static struct page *alloc_own(struct page_cache *cache, unsigned order, unsigned flags)
{
	struct page_stack *s = &cache->stack[order];
	struct page *page;

	if (unlikely(!s->room) || (flags & ALLOC_UNMAPS && buddy_steering))
		return node_alloc(node_of(cache), order, flags);
	if (s->top <= s->base)
		stack_fill(cache, order);
	page = stack_pop(cache, order);
	/* Nothing ordinary: perhaps what is kept for others, or what interrupts gave back meanwhile. */
	return page ? page : node_alloc(node_of(cache), order, flags);
}

/* A node by itself: where this CPU is served, what it keeps counts, and comes back if need be. */
static struct page *alloc_of_node(struct page_cache *cache, unsigned nid, unsigned order, unsigned flags)
{
	struct page *page;

	if (nid != cache->node)
		return node_alloc(&nodes[nid], order, flags);
	page = alloc_own(cache, order, flags);
	if (likely(page) || flags & ALLOC_LIGHT)
		return page;
	cache_drain(cache);
	return node_alloc(node_of(cache), order, flags);
}

static struct page *alloc_of_any(int nid, unsigned order, unsigned flags)
{
	struct page_cache *cache = this_cache_for_change();
	unsigned first = nid == NODE_ANY ? cache->node : (unsigned)nid;
	struct page *page = alloc_of_node(cache, first, order, flags);

	for (unsigned i = 0; !page && i < nr_nodes && !(flags & ALLOC_THIS_NODE); i++)
		if (i != first)
			page = alloc_of_node(cache, i, order, flags);
	if (unlikely(!page) && !(flags & ALLOC_LIGHT)) {
		node_lock(&nodes[first]);
		nodes[first].fails++;
		node_unlock(&nodes[first]);
	}
	return page;
}

/*
 * Nothing found, and the caller holds nothing that a cache could wait for: ask the caches for what is missing. What
 * comes back need not make up a block of the order, so a few rounds are worth it; each is bounded by what was asked.
 */
static __noinline struct page *alloc_by_reclaim(int nid, unsigned order, unsigned flags)
{
	assert(arch_this_cpu()->locks_held == 0 && arch_irqs_enabled());
	for (unsigned round = 0; round < RECLAIM_ROUNDS; round++) {
		struct page *page;
		u64 got = 0;

		for (struct shrinker *s = load_acquire(&shrinkers); s; s = s->next)
			got += s->shrink(nid, 1ull << order);
		if (!got)
			break;
		page = alloc_of_any(nid, order, flags);
		if (page)
			return page;
	}
	return NULL;
}

/* All that page_stack_take() could not do. */
struct page *alloc_slow(int nid, unsigned order, unsigned flags, struct alloc_site *site)
{
	struct page *page;

	if (alloc_inject.armed && alloc_injected(site, order))
		return NULL;
	if (order > ORDER_MAX || (nid != NODE_ANY && (unsigned)nid >= nr_nodes))
		return NULL;
	page = alloc_of_any(nid, order, flags);
	if (!page && flags & ALLOC_MAY_RECLAIM)
		page = alloc_by_reclaim(nid, order, flags);
	if (page)
		finish_alloc(page, order, flags);
	return page;
}

struct page *alloc_pages_node_at(int nid, unsigned order, unsigned flags, struct alloc_site *site)
{
	if (nid == NODE_ANY || (nid == (int)this_cache()->node && !(flags & ALLOC_THIS_NODE)))
		return alloc_pages_at(order, flags, site);
	return alloc_slow(nid, order, flags, site);
}

void page_zero(struct page *page, unsigned order)
{
	memset(page_to_virt(page), 0, PAGE_SIZE << order);
}

/* Frames of the node's ordinary lists, a step under one hold of the lock. */
static u64 bulk_from_node(struct node *n, u64 nr, struct page **pages)
{
	u64 done = 0, got;

	do {
		node_lock(n);
		got = node_take(n, KIND_PLAIN, 0, pages + done, (unsigned)MIN(nr - done, BULK_STEP));
		n->allocs += got;
		node_unlock(n);
		for (u64 i = 0; i < got; i++)
			page_state_change(pages[done + i]);
		done += got;
	} while (got && done < nr);
	return done;
}

u64 alloc_pages_bulk_at(int nid, u64 nr, struct page **pages, struct alloc_site *site)
{
	struct page_cache *cache = this_cache();
	unsigned first = nid == NODE_ANY ? cache->node : (unsigned)nid;
	u64 done = 0;

	if (first >= nr_nodes)
		return 0;
	if (!load_relaxed(&alloc_inject.armed) && !alloc_watch) {
		while (first == cache->node && done < nr && (pages[done] = stack_pop(cache, 0)))
			done++;
		if (done < nr)
			done += bulk_from_node(&nodes[first], nr - done, pages + done);
	}
	/* What is kept back, and other nodes. */
	while (done < nr && (pages[done] = alloc_slow(nid, 0, 0, site)))
		done++;
	return done;
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
	if (page->class == PAGE_TABLE)		/* whose `order` is its level */
		return "it is a page table";
	if (page->order != order)
		return "it was allocated in another order";
	if (page->word >> 32)
		return "it is still mapped";
	return NULL;
}

void bad_free(u64 pfn, unsigned order, const char *why)
{
	fetch_add(&bad_frees, 1);
	log_warn("free_pages: frame %#llx, order %u: %s", (unsigned long long)pfn, order, why);
	if (unlikely(alloc_watch & BUDDY_OWNER) && pfn < page_max_pfn && pfn_valid(pfn))
		page_owner_log_frame(pfn_to_page(pfn));
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

/* Whether the other half of the next larger block is on the node's lists. Read without the lock: a hint. */
static bool buddy_is_free(const struct page *page, unsigned order)
{
	const struct page *buddy = pfn_to_page(page_to_pfn(page) ^ 1u << order);

	return load_relaxed(&buddy->state) == page_state(PAGE_FREE, order, PAGE_BUDDY, page->node);
}

const char *free_prepare(struct page *page, u64 pfn, unsigned order)
{
	const char *why = free_fault(page, pfn, order);

	if (!why && page->flags & PAGE_CLASSED && !reset_classes(page, order))
		why = "part of it is still mapped";
	if (!why && page->flags & PAGE_CHARGED)
		account_uncharge_page(page, order);
	return why;
}

u64 page_index_of(const struct page *page)
{
	return page_index(page);
}

/* Put what has been found fit to be freed on this CPU's stack, or on the node's lists. */
static __noinline void give(struct page *page, unsigned order)
{
	struct page_cache *cache = this_cache_for_change();
	struct page_stack *s = &cache->stack[order];

	if (unlikely(alloc_watch & BUDDY_POISON))
		page_poison(page, order);
	if (unlikely(!s->room) || page->node != cache->node || page->flags & PAGE_STEERED ||
	    (gives_back(order) && buddy_is_free(page, order))) {
		node_free(&nodes[page->node], page, order);
		return;
	}
	if (s->top >= s->base + s->room)
		stack_drain(cache, order, s->batch);
	store_relaxed(&page->state, state_cached(page, order));
	cache->slots[s->top] = page;
	store_relaxed(&s->top, reserve_fill(cache, order, s->top + 1));
}

/* All that is not the usual case: halves of 2 MiB, classes to be reset, charges to be taken back, other nodes, nonsense. */
static __noinline void free_general(struct page *page, unsigned order)
{
	u64 pfn = page_index(page);
	const char *why = free_prepare(page, pfn, order);

	if (why)
		bad_free(pfn, order, why);
	else
		give(page, order);
}

void free_block(struct page *page, unsigned order)
{
	struct page_cache *cache;
	struct page_stack *s;
	i64 top;

	if (unlikely(page_index(page) >= page_max_pfn)) {
		free_general(page, order);
		return;
	}
	cache = this_cache();
	if (unlikely(page->word != cache->own + (order << 8))) {
		free_general(page, order);
		return;
	}
	s = &cache->stack[order];
	top = s->top;
	if (unlikely(top >= s->limit)) {
		give(page, order);
		return;
	}
	page_state_change(page);
	cache->slots[top] = page;
	store_relaxed(&s->top, top + 1);
}

void free_page(struct page *page)
{
	struct page_cache *cache;
	i64 top;

	if (unlikely(page_index(page) >= page_max_pfn)) {
		free_general(page, 0);
		return;
	}
	cache = this_cache();
	if (unlikely(page->word != cache->own)) {
		free_general(page, 0);
		return;
	}
	top = cache->stack[0].top;
	if (unlikely(top >= cache->stack[0].limit)) {
		give(page, 0);
		return;
	}
	store_relaxed(&page->state, (u32)cache->own ^ PAGE_STATE_CHANGE);
	cache->slots[top] = page;
	store_relaxed(&cache->stack[0].top, top + 1);
}

/* ---- boot ---- */

/* Whether the allocator may be given this frame. */
static bool addable(pfn_t pfn)
{
	return pfn < PFN_NONE && pfn_valid(pfn) && pfn_to_page(pfn)->class != PAGE_FREE &&
	       !(pfn_to_page(pfn)->flags & (PAGE_BUDDY | PAGE_CACHED | PAGE_HEAD | PAGE_QUARANTINE));
}

/* A run of frames of one node that are all addable: as few blocks as there can be. */
static void add_run(pfn_t pfn, u64 nr)
{
	struct node *n = &nodes[pfn_to_page(pfn)->node];

	for (u64 i = 0; i < nr; i++)
		pfn_to_page(pfn + i)->word = state_inside(n);
	node_lock(n);
	store_relaxed(&n->frames, n->frames + nr);
	while (nr) {
		unsigned order = MIN(log2_floor(nr), ORDER_MAX);

		if (pfn)
			order = MIN(order, (unsigned)__builtin_ctzll(pfn));
		node_give(n, (u32)pfn, order, KIND_PLAIN);
		pfn += 1ull << order;
		nr -= 1ull << order;
	}
	limits_changed();
	node_unlock(n);
}

void buddy_add(pfn_t pfn, u64 nr)
{
	pfn_t end = pfn + nr;
	u64 refused = 0;

	if (!nodes[0].lists[KIND_PLAIN].state)
		nodes_reset();
	if (!arch_this_cpu()->id && arch_this_cpu()->pages == &page_cache_none)
		buddy_add_cpu(&first_cache, 0);
	while (pfn < end) {
		pfn_t run = pfn;

		while (run < end && addable(run) && pfn_to_page(run)->node == pfn_to_page(pfn)->node)
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

void buddy_add_cpu(struct page_cache *cache, unsigned node)
{
	struct cpu_state *cpu = arch_this_cpu();

	cache_reset(cache);
	cache_set_node(cache, node);
	store_release(&page_caches[cpu->id], cache);
	limits_changed();
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

/* Number the frames, and count for each node what the allocator has of it. */
static void number_frames(pfn_t pfn, pfn_t end, u32 node)
{
	for (; pfn < end && pfn < page_max_pfn; pfn++)
		if (pfn_valid(pfn))
			pfn_to_page(pfn)->node = (u8)node;
		else
			pfn |= SECTION_FRAMES - 1;
}

/* Count what is allocated, by the first frame's node. */
static void count_allocated(void)
{
	for (pfn_t pfn = 0; pfn < page_max_pfn; pfn++)
		if (!pfn_valid(pfn))
			pfn |= SECTION_FRAMES - 1;
		else if (pfn_to_page(pfn)->flags & PAGE_HEAD)
			nodes[pfn_to_page(pfn)->node].frames += 1ull << pfn_to_page(pfn)->order;
}

/* The first frame of [pfn, end) that is of another node than the first. */
static pfn_t same_node_until(pfn_t pfn, pfn_t end)
{
	u8 node = pfn_to_page(pfn)->node;

	while (pfn < end && pfn_to_page(pfn)->node == node)
		pfn++;
	return pfn;
}

/* Empty the lists of node 0, of which all was until now, and add each block where it belongs. */
static void distribute_free(void)
{
	struct node *old = &nodes[0];
	u32 first[ORDER_MAX + 1];

	for (unsigned order = 0; order <= ORDER_MAX; order++)
		first[order] = old->lists[KIND_PLAIN].head[order];
	nodes_reset();
	count_allocated();
	for (unsigned order = 0; order <= ORDER_MAX; order++)
		for (u32 pfn = first[order], next; pfn != PFN_NONE; pfn = next) {
			pfn_t end = pfn + (1ull << order);

			next = pfn_to_page(pfn)->next;
			for (pfn_t at = pfn, to; at < end; at = to) {
				to = same_node_until(at, end);
				add_run(at, to - at);
			}
		}
}

void buddy_set_nodes(unsigned count, const struct node_range *ranges, unsigned nr_ranges, unsigned node)
{
	struct node before;

	assert(count && count <= NODES_MAX && nr_nodes == 1);
	buddy_drain();
	before = nodes[0];
	number_frames(0, page_max_pfn, 0);
	for (unsigned i = 0; i < nr_ranges; i++)
		if (ranges[i].node < count)
			number_frames(ranges[i].pa.start >> PAGE_SHIFT, ranges[i].pa.end >> PAGE_SHIFT, ranges[i].node);
	distribute_free();
	nr_nodes = count;
	nodes[0].allocs += before.allocs;
	nodes[0].frees += before.frees;
	nodes[0].fails += before.fails;
	for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++)
		if (page_caches[cpu])
			cache_set_node(page_caches[cpu], cpu == arch_this_cpu()->id ? node : page_caches[cpu]->home);
	limits_changed();
}

unsigned buddy_nodes(void)
{
	return nr_nodes;
}

unsigned buddy_this_node(void)
{
	return this_cache()->node;
}

void buddy_reset(void)
{
	nodes_reset();
	bad_frees = 0;
	for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++)
		if (page_caches[cpu]) {
			cache_reset(page_caches[cpu]);
			cache_set_node(page_caches[cpu], 0);
		}
}

void buddy_drain(void)
{
	for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++)
		if (page_caches[cpu])
			cache_drain(page_caches[cpu]);
}

/* ---- figures ---- */

/* Frames that CPUs keep of a node. Their owners may be at work: what is read of each is what it was or will be. */
static u64 cached_frames(unsigned nid)
{
	u64 sum = 0;

	for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++) {
		const struct page_cache *cache = page_caches[cpu];

		if (!cache || cache->node != nid)
			continue;
		for (unsigned order = 0; order < PAGE_STACKED_ORDERS; order++)
			sum += (u64)(load_relaxed(&cache->stack[order].top) - cache->stack[order].base) << order;
		for (unsigned order = 0; order < PAGE_RESERVE_ORDERS; order++)
			sum += (u64)load_relaxed(&cache->reserve[order].nr) << order;
	}
	return sum;
}

static void add_node_stats(struct buddy_stats *out, unsigned nid)
{
	struct node *n = &nodes[nid];
	u64 cached = cached_frames(nid);

	out->deferred_now += deferred_now(&n->deferred);	/* before the lock is taken, which has them taken in */
	node_lock(n);
	if (deferred_any(&n->deferred))
		node_undefer(n);
	out->frames += n->frames;
	out->allocs += n->allocs;
	out->frees += n->frees;
	out->fails += n->fails;
	out->deferred += load_relaxed(&n->deferred.pushed);
	out->deferred_most = MAX(out->deferred_most, n->deferred.most);
	for (unsigned order = 0; order <= ORDER_MAX; order++) {
		out->blocks[order] += n->lists[KIND_PLAIN].nr[order] + n->lists[KIND_STEERED].nr[order];
		out->free += (n->lists[KIND_PLAIN].nr[order] + n->lists[KIND_STEERED].nr[order]) << order;
		out->steered += n->lists[KIND_STEERED].nr[order] << order;
	}
	node_unlock(n);
	out->cached += cached;
	out->free += cached;
}

void buddy_read_node_stats(unsigned nid, struct buddy_stats *out)
{
	*out = (struct buddy_stats){ .frames = 0 };
	if (nid < nr_nodes)
		add_node_stats(out, nid);
}

void buddy_read_stats(struct buddy_stats *out)
{
	*out = (struct buddy_stats){ .bad_frees = load_relaxed(&bad_frees) };
	for (unsigned i = 0; i < nr_nodes; i++)
		add_node_stats(out, i);
}

u64 buddy_free_frames(void)
{
	struct buddy_stats stats;

	buddy_read_stats(&stats);
	return stats.free;
}
