/* SPDX-License-Identifier: MIT */
/*
 * A node of the page allocator: free blocks by order, on doubly linked lists through struct page, the last freed first, under the
 * node's lock. A block and its buddy are never both on the lists: they are one block of the next order.
 *
 * The state of a free block's first frame says its order, its node and its kind, in one word. Blocks coalesce only if that word
 * is the same, so blocks of two nodes never do. All parts of 2 MiB are of one kind: that of the frames that were given
 * out of it (PAGE_STEERED in their flags), until it is free as a whole.
 *
 * The node's lock is the innermost of all (DESIGN: Contexts and locks).
 */
#include "mm/buddy.h"

#include "kernel/base/bits.h"
#include "mm/buddy_internal.h"
#include "mm/directmap.h"
#include "mm/plant.h"

/* Blocks of 2 MiB in a gigabyte, in frames. */
#define GIGABYTE_FRAMES (1ull << ORDER_1G)
#define BLOCK_FRAMES (1ull << BLOCK_ORDER)

/* Gigabytes that one request to unmap looks at, and searches, under the lock. */
#define GIGABYTE_LOOKS 64u
#define GIGABYTE_SEARCHES 4u

/* Nothing is there, and nothing is deferred, until nodes_reset(). */
struct node nodes[NODES_MAX] = { [0 ... NODES_MAX - 1] = { .lock = SPINLOCK_INIT_CLASS(LOCK_NODE), .deferred = DEFERRED_INIT } };
unsigned nr_nodes = 1;
bool buddy_steering = true;

void nodes_reset(void)
{
	for (u32 id = 0; id < NODES_MAX; id++) {
		struct node *n = &nodes[id];

		*n = (struct node){ .lock = SPINLOCK_INIT_CLASS(LOCK_NODE), .id = id, .claimed = PFN_NONE, .deferred = DEFERRED_INIT };
		for (unsigned kind = 0; kind < KINDS; kind++) {
			struct page_lists *l = &n->lists[kind];

			l->state = page_state(PAGE_FREE, 0, PAGE_BUDDY | (kind == KIND_STEERED ? PAGE_STEERED : 0), id);
			for (unsigned order = 0; order <= ORDER_MAX; order++)
				l->head[order] = PFN_NONE;
		}
	}
	nr_nodes = 1;
}

/* ---- lists ---- */

static inline void list_push(struct page_lists *l, struct page *array, u32 pfn, unsigned order)
{
	u32 first = l->head[order];

	array[pfn].next = first;
	array[pfn].prev = PFN_NONE;
	store_relaxed(&array[pfn].state, l->state + (order << 8));
	if (first != PFN_NONE)
		array[first].prev = pfn;
	l->head[order] = pfn;
	l->filled |= 1u << order;
	l->nr[order]++;
}

/* Make `next` the first of a list. */
static inline void list_set_head(struct page_lists *l, struct page *array, u32 next, unsigned order)
{
	l->head[order] = next;
	if (next == PFN_NONE)
		l->filled &= ~(1u << order);
	else
		array[next].prev = PFN_NONE;
	l->nr[order]--;
}

static inline void list_unlink(struct page_lists *l, struct page *array, u32 pfn, unsigned order)
{
	u32 next = array[pfn].next, prev = array[pfn].prev;

	if (prev == PFN_NONE) {
		list_set_head(l, array, next, order);
		return;
	}
	array[prev].next = next;
	if (next != PFN_NONE)
		array[next].prev = prev;
	l->nr[order]--;
}

static inline enum page_kind kind_of(const struct page *page)
{
	return load_relaxed(&page->flags) & PAGE_STEERED ? KIND_STEERED : KIND_PLAIN;
}

/*
 * They leave the lists in state PAGE_CACHED. A block of a higher order is used whole where that many are wanted, else its lower
 * half is, and so on. Blocks next to each other are written highest first: a stack hands them out in ascending order.
 */
unsigned node_take(struct node *n, enum page_kind kind, unsigned order, struct page **slots, unsigned want)
{
	struct page_lists *l = &n->lists[kind];
	struct page *array = page_array;
	u32 cached = (l->state ^ (PAGE_BUDDY ^ PAGE_CACHED) << 16) + (order << 8);
	u64 step = 1u << order;
	unsigned got = 0;

	assert_held(&n->lock);
	while (got < want && l->filled >> order) {
		unsigned o = order + (unsigned)__builtin_ctz(l->filled >> order);
		u32 pfn = l->head[o];
		struct page *page;

		list_set_head(l, array, array[pfn].next, o);
		while (1u << (o - order) > want - got) {
			o--;
			list_push(l, array, pfn + (1u << o), o);
		}
		page = array + pfn + (1u << o);
		do {
			page -= step;
			store_relaxed(&page->state, cached);
			slots[got++] = page;
		} while (page != array + pfn);
	}
	return got;
}

static inline bool coalesce(struct page_lists *l, struct page *array, u32 *pfn, unsigned order, u32 inside)
{
	u32 buddy = *pfn ^ 1u << order;

	/* A block that is no free one is its owner's, who may be writing this: anything but what is looked for. */
	if (load_relaxed(&array[buddy].state) != l->state + (order << 8))
		return false;
	list_unlink(l, array, buddy, order);
	store_relaxed(&array[*pfn | buddy].state, inside);
	*pfn &= buddy;
	return true;
}

void node_give(struct node *n, u32 pfn, unsigned order, enum page_kind kind)
{
	struct page_lists *l = &n->lists[kind];
	struct page *array = page_array;
	u32 inside = state_inside(n);

	assert_held(&n->lock);
	if (unlikely(kind == KIND_STEERED)) {
		while (order < BLOCK_ORDER && coalesce(l, array, &pfn, order, inside))
			order++;
		if (order < BLOCK_ORDER) {
			list_push(l, array, pfn, order);
			return;
		}
		l = &n->lists[KIND_PLAIN];
	}
	while (order < SECTION_ORDER && coalesce(l, array, &pfn, order, inside))
		order++;
	while (order >= SECTION_ORDER && order < ORDER_MAX && pfn_valid(pfn ^ 1u << order) &&
	       coalesce(l, array, &pfn, order, inside))
		order++;
	list_push(l, array, pfn, order);
}

/*
 * Such as lie one behind the other in slots and in memory, as they do when what was allocated together is freed together, go
 * back as the large blocks they make up.
 */
void node_give_all(struct node *n, unsigned order, struct page *const *slots, u64 count)
{
	struct page *const *end = slots + count;
	u32 inside = state_inside(n);
	u64 step = 1u << order;

	while (slots < end) {
		u32 pfn = (u32)page_to_pfn(*slots);
		struct page *const *run = slots + 1;
		struct page *next = *slots + step;
		unsigned o = order;

		/* Inside a block, or else given by itself below, which writes it again. */
		for (; run < end && *run == next; run++, next += step)
			store_relaxed(&next->state, inside);
		if (run - slots > 1) {
			o += log2_floor((u64)(run - slots));
			if (pfn)
				o = MIN(o, (unsigned)__builtin_ctz(pfn));
		}
		node_give(n, pfn, o, KIND_PLAIN);
		slots += 1u << (o - order);
	}
}

/* ---- near ---- */

static inline bool is_in(const struct page *page, u32 state)
{
	return load_relaxed(&page->state) == state;
}

static inline bool any_of_four_is_in(const struct page *page, u64 step, u32 state)
{
	return is_in(page, state) || is_in(page + step, state) || is_in(page + 2 * step, state) || is_in(page + 3 * step, state);
}

/* The first of these frames, a step apart, that shows this state; NULL: none. Nearly all are looked at in vain, so eight at a time. */
static struct page *find_state(struct page *page, struct page *end, u64 step, u32 state)
{
	struct page *last = end - 7 * step;

	while (page < last && !any_of_four_is_in(page, step, state) && !any_of_four_is_in(page + 4 * step, step, state))
		page += 8 * step;
	for (; page < end; page += step)
		if (is_in(page, state))
			return page;
	return NULL;
}

/* One of that kind. Who shows the state of a free block is on the order's list: coalesce() goes by the same. */
static struct page *find_near_of(const struct node *n, enum page_kind kind, pfn_t pfn, unsigned order)
{
	struct page *first = pfn_to_page(pfn & ~(BLOCK_FRAMES - 1));
	u64 step = 1ull << order;
	struct page *from = pfn_to_page(pfn & ~(step - 1));
	u32 state = n->lists[kind].state + (order << 8);
	struct page *found;

	if (!(n->lists[kind].filled >> order & 1))
		return NULL;
	found = find_state(from, first + BLOCK_FRAMES, step, state);
	return found ? found : find_state(first, from, step, state);
}

/*
 * A free block of this order in the aligned 2 MiB around a frame, looked for from that frame on, then from the first one; NULL: none.
 * All there are of one kind: that frame's, but if it is inside a block it says nothing.
 */
static struct page *find_near(const struct node *n, pfn_t pfn, unsigned order, enum page_kind *kind)
{
	struct page *page;

	if (!pfn_valid(pfn))
		return NULL;
	*kind = kind_of(pfn_to_page(pfn));
	page = find_near_of(n, *kind, pfn, order);
	if (page || load_relaxed(&pfn_to_page(pfn)->state) != state_inside(n))
		return page;
	*kind = KIND_STEERED;
	return find_near_of(n, *kind, pfn, order);
}

static inline u32 allocated(struct page *page)
{
	return load_relaxed(&page->state) ^ PAGE_STATE_CHANGE;
}

struct page *node_take_near(struct node *n, unsigned order, pfn_t near)
{
	enum page_kind kind = KIND_PLAIN;
	struct page *page = NULL;
	struct page_lists *l;

	if (order <= BLOCK_ORDER)
		page = find_near(n, near, order, &kind);
	if (!page)
		return node_alloc_locked(n, order, ALLOC_UNMAPS);
	l = &n->lists[kind];
	list_unlink(l, page_array, (u32)page_to_pfn(page), order);
	store_relaxed(&page->state, (l->state ^ (PAGE_BUDDY ^ PAGE_CACHED) << 16) + (order << 8));
	store_relaxed(&page->state, allocated(page));
	n->allocs++;
	return page;
}

/* ---- steering ---- */

/* The largest free block, at least of 2 MiB, that a frame which is aligned to 2 MiB heads; 0: it heads none. */
static unsigned heads_block(const struct node *n, pfn_t pfn)
{
	u32 state = load_relaxed(&pfn_to_page(pfn)->state);
	unsigned order = state >> 8 & 0xff;

	return order >= BLOCK_ORDER && order <= ORDER_MAX && state == n->lists[KIND_PLAIN].state + (order << 8) ? order : 0;
}

/* The smallest free block of at least that order in a gigabyte. PFN_NONE: none. */
static u32 find_in_gigabyte(const struct node *n, pfn_t pfn, unsigned least, unsigned *order)
{
	pfn_t end;
	u32 found = PFN_NONE;

	pfn &= ~(GIGABYTE_FRAMES - 1);
	end = pfn + GIGABYTE_FRAMES;
	*order = ORDER_MAX + 1;
	for (u64 step; pfn < end; pfn += step) {
		unsigned o;

		step = SECTION_FRAMES;
		if (!pfn_valid(pfn))
			continue;
		o = heads_block(n, pfn);
		step = 1ull << MAX(o, BLOCK_ORDER);
		if (o >= least && o < *order) {
			*order = o;
			found = (u32)pfn;
			if (o == least)
				break;
		}
	}
	return found;
}

/*
 * The same in the gigabytes that the direct map has in pieces already, from the one where the last search ended. Not all at once: the
 * lock is held, and there may be very many without such a block.
 */
static u32 find_in_split(struct node *n, unsigned least, unsigned *order)
{
	u64 nr = (page_max_pfn + GIGABYTE_FRAMES - 1) / GIGABYTE_FRAMES;
	unsigned searches = 0;

	for (u64 looks = MIN(nr, GIGABYTE_LOOKS); looks && searches < GIGABYTE_SEARCHES; looks--) {
		pfn_t at = n->gigabyte * GIGABYTE_FRAMES;

		if (directmap_is_split(at)) {
			u32 pfn = find_in_gigabyte(n, at, least, order);

			if (pfn != PFN_NONE)
				return pfn;
			searches++;
		}
		n->gigabyte = n->gigabyte + 1 < nr ? n->gigabyte + 1 : 0;
	}
	return PFN_NONE;
}

/*
 * A free block of at least 2 MiB for frames that will lose their mapping: in a gigabyte that is split, in the one of the last such
 * block, or any.
 */
static u32 find_to_unmap(struct node *n, unsigned least, unsigned *order)
{
	u32 pfn;

	if (!(n->lists[KIND_PLAIN].filled >> least))
		return PFN_NONE;	/* aged memory: no use in looking everywhere */
	pfn = find_in_split(n, least, order);
	if (pfn == PFN_NONE && n->claimed != PFN_NONE)
		pfn = find_in_gigabyte(n, n->claimed, least, order);
	if (pfn == PFN_NONE) {
		*order = least + (unsigned)__builtin_ctz(n->lists[KIND_PLAIN].filled >> least);
		pfn = n->lists[KIND_PLAIN].head[*order];
	}
	return pfn;
}

/* Take such a block of exactly that order off the lists. PFN_NONE: there is none. */
static u32 take_to_unmap(struct node *n, unsigned order)
{
	struct page_lists *l = &n->lists[KIND_PLAIN];
	unsigned o;
	u32 pfn = find_to_unmap(n, order, &o);

	if (pfn == PFN_NONE)
		return pfn;
	list_unlink(l, page_array, pfn, o);
	while (o > order) {
		o--;
		list_push(l, page_array, pfn + (1u << o), o);
	}
	n->claimed = pfn;
	return pfn;
}

static struct page *take_one(struct node *n, enum page_kind kind, unsigned order)
{
	struct page *page;

	if (!node_take(n, kind, order, &page, 1))
		return NULL;
	store_relaxed(&page->state, allocated(page));
	n->allocs++;
	return page;
}

static struct page *alloc_to_unmap(struct node *n, unsigned order)
{
	struct page *page;
	u32 pfn;

	if (order < BLOCK_ORDER) {
		page = take_one(n, KIND_STEERED, order);
		if (page)
			return page;
		pfn = take_to_unmap(n, BLOCK_ORDER);
		if (pfn == PFN_NONE)
			return NULL;
		list_push(&n->lists[KIND_STEERED], page_array, pfn, BLOCK_ORDER);
		return take_one(n, KIND_STEERED, order);
	}
	pfn = take_to_unmap(n, order);
	if (pfn == PFN_NONE)
		return NULL;
	page = pfn_to_page(pfn);
	store_relaxed(&page->state, page_state(PAGE_KERNEL, order, PAGE_HEAD, n->id));
	n->allocs++;
	return page;
}

struct page *node_alloc_locked(struct node *n, unsigned order, unsigned flags)
{
	struct page *page = NULL;

	if (flags & ALLOC_UNMAPS && buddy_steering)
		page = alloc_to_unmap(n, order);
	if (!page)
		page = take_one(n, KIND_PLAIN, order);
	if (!page)
		page = take_one(n, KIND_STEERED, order);
	return page;
}

struct page *node_alloc(struct node *n, unsigned order, unsigned flags)
{
	struct page *page;

	node_lock(n);
	page = node_alloc_locked(n, order, flags);
	node_unlock(n);
	return page;
}

/* ---- free ---- */

void node_free(struct node *n, struct page *page, unsigned order)
{
	store_relaxed(&page->state, state_cached(page, order));
	node_lock(n);
	node_give(n, (u32)page_to_pfn(page), order, kind_of(page));
	n->frees++;
	node_unlock(n);
}

/* The lock is held: take all that is there back to the lists. */
void node_undefer(struct node *n)
{
	u32 pfn = deferred_take(&n->deferred);
	u64 blocks = 0;

	if (PLANTED(PLANT_DEFERRED_LOST))
		return;
	while (pfn != PFN_NONE) {
		struct page *page = pfn_to_page(pfn);
		u32 next = page->next;

		node_give(n, pfn, page->order, kind_of(page));
		n->frees++;
		blocks++;
		pfn = next;
	}
	deferred_done(&n->deferred, blocks);
}

/*
 * The lock has been let go, or could not be had, and there is something on the list: either the lock is to be had, or its holder has not
 * looked yet (it does so behind a full fence, as the push is one).
 */
void node_undefer_unlocked(struct node *n)
{
	while (deferred_any(&n->deferred) && spin_trylock(&n->lock)) {
		node_undefer(n);
		spin_unlock(&n->lock);
		fence_full();
	}
}

void node_defer(struct node *n, struct page *page, unsigned order)
{
	store_relaxed(&page->state, state_cached(page, order));
	deferred_push(&n->deferred, page);
	node_undefer_unlocked(n);
}

u64 buddy_deferred_now(void)
{
	u64 sum = 0;

	for (unsigned i = 0; i < nr_nodes; i++)
		sum += deferred_now(&nodes[i].deferred);
	return sum;
}

bool buddy_lock_held_here(void)
{
	for (unsigned i = 0; i < nr_nodes; i++)
		if (spin_held(&nodes[i].lock))
			return true;
	return false;
}
