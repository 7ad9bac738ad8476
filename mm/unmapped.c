/* SPDX-License-Identifier: MIT */
/*
 * The unmapped cache: see unmapped.h for what it promises, unmapped_internal.h for how frames are marked.
 *
 * Lock order: a magazine, then the cache. Neither is held while frames are allocated, mappings change or anything is
 * flushed: a refill or a return works on a piece that nobody else can see. A frame leaves the direct map, and that has been
 * flushed everywhere, before its class says PAGE_UNMAPPED; on the way back the class changes first.
 */
#include "mm/unmapped.h"

#include "kernel/base/errno.h"
#include "kernel/base/log.h"
#include "kernel/base/trace.h"
#include "mm/account.h"
#include "mm/directmap.h"
#include "mm/plant.h"
#include "mm/temp_map.h"
#include "mm/unmapped_internal.h"

struct um_cache um_cache;
struct um_magazine um_magazines[MAX_CPUS];

/* Water marks, by mode, in blocks. */
static const struct {
	u8 low, high;
} um_marks[] = {
	[UNMAPPED_OFF] = { 0, 0 },
	[UNMAPPED_2M] = { 2, 8 },
	[UNMAPPED_1G] = { 0, 1 },
};

/* ---- The lists; the cache's lock is held ---- */

static enum um_kind kind_of(const struct page *page, unsigned order)
{
	return order == um_origin(page) ? UM_WHOLE : UM_PART;
}

static void list_push(struct page *page, unsigned order)
{
	struct um_cache *c = &um_cache;
	enum um_kind kind = kind_of(page, order);
	u32 pfn = (u32)page_to_pfn(page);
	u32 first = c->head[kind][order];

	um_set(page, UM_FREE, order);
	page->next = first;
	page->prev = PFN_NONE;
	if (first != PFN_NONE)
		pfn_to_page(first)->prev = pfn;
	c->head[kind][order] = pfn;
	store_relaxed(&c->filled[kind], c->filled[kind] | 1u << order);
	counter_add(&c->nr[kind][order], 1);
}

static void list_unlink(struct page *page, unsigned order)
{
	struct um_cache *c = &um_cache;
	enum um_kind kind = kind_of(page, order);

	if (page->prev == PFN_NONE)
		c->head[kind][order] = page->next;
	else
		pfn_to_page(page->prev)->next = page->next;
	if (page->next != PFN_NONE)
		pfn_to_page(page->next)->prev = page->prev;
	if (c->head[kind][order] == PFN_NONE)
		store_relaxed(&c->filled[kind], c->filled[kind] & ~(1u << order));
	counter_add(&c->nr[kind][order], -1);
}

/* A region of this order, out of a part of a piece if there is one that fits, else out of a whole one. */
static struct page *lists_take(unsigned order, enum um_state state)
{
	struct um_cache *c = &um_cache;
	enum um_kind kind = c->filled[UM_PART] >> order ? UM_PART : UM_WHOLE;
	struct page *page;
	unsigned o;

	if (!(c->filled[kind] >> order))
		return NULL;
	o = order + (unsigned)__builtin_ctz(c->filled[kind] >> order);
	page = pfn_to_page(c->head[kind][o]);
	list_unlink(page, o);
	while (o > order) {
		o--;
		list_push(page + BIT(o), o);
	}
	um_set(page, state, order);
	return page;
}

/* A region becomes free: it grows as long as its buddy is free, up to the piece. */
static void lists_give(struct page *page, unsigned order)
{
	unsigned origin = um_origin(page);
	pfn_t pfn = page_to_pfn(page);

	for (; order < origin; order++) {
		struct page *buddy = pfn_to_page(pfn ^ BIT(order));
		struct page *upper;

		if (um_state(buddy) != UM_FREE || um_order(buddy) != order)
			break;
		if (!PLANTED(PLANT_UM_BUDDY_STAYS))
			list_unlink(buddy, order);
		pfn &= ~BIT(order);
		upper = pfn_to_page(pfn + BIT(order));
		um_set(upper, UM_INSIDE, 0);
	}
	list_push(pfn_to_page(pfn), order);
}

/* ---- Pieces: taken from the page allocator, and given back ---- */

static void assert_context(void)
{
	assert(arch_this_cpu()->locks_held == 0 && arch_irqs_enabled());
}

static void count_blocks(pfn_t pfn, unsigned order, bool more)
{
	u64 nr = MIN(BIT(order), BIT(BLOCK_ORDER));

	for (pfn_t at = pfn; at < pfn + BIT(order); at += nr)
		fetch_add(&pfn_to_block(at)->unmapped, (u16)(more ? nr : -nr));
}

/* Take frames of the page allocator's out of the direct map; they become a piece, on no list yet. On an error they go back. */
static int piece_unmap(struct page *page, unsigned order)
{
	pfn_t pfn = page_to_pfn(page);
	struct tlb_batch batch;
	int rc;

	assert_context();
	tlb_batch_init(&batch, &kernel_space);
	rc = PLANTED(PLANT_UM_STAYS_MAPPED) ? 0 : set_direct_map_batch(pfn, BIT(order), false, &batch);
	if (!rc)
		fetch_add(&um_cache.stats.flush_batches, batch.flush.gen_last != 0);
	tlb_batch_finish(&batch);
	if (rc) {
		free_pages(page, order);
		return rc;
	}
	page_set_class(pfn, BIT(order), PAGE_UNMAPPED);
	for (u64 i = 0; i < BIT(order); i++)
		page[i].private = um_word(UM_INSIDE, 0, order);
	count_blocks(pfn, order, true);
	fetch_add(&um_cache.frames, BIT(order));
	fetch_add(&um_cache.stats.refills[order], 1);
	trace_event(TRACE_REFILL, pfn, order, load_relaxed(&um_cache.frames));
	if (order < ORDER_2M)
		store_relaxed(&um_cache.open, pfn);
	return 0;
}

/* Take a piece of this order. NULL: *rc says why, -EAGAIN that there is none. */
static struct page *piece_take(unsigned order, unsigned how, int *rc)
{
	struct page *page;

	assert_context();
	page = alloc_pages(order, how | (order < ORDER_2M ? ALLOC_UNMAPS : 0));
	*rc = page ? piece_unmap(page, order) : -EAGAIN;
	return *rc ? NULL : page;
}

/*
 * The largest piece of orders least to most that lies ready. It is no block and splits the leaf of its 2 MiB, so of equals one in
 * the 2 MiB that were split last is taken. NULL: *rc says why; with an error *order is what was tried.
 */
static struct page *piece_take_upto(unsigned least, unsigned most, unsigned *order, int *rc)
{
	struct page *page;

	assert_context();
	page = alloc_pages_upto(least, most, load_relaxed(&um_cache.open), order);
	*rc = page ? piece_unmap(page, *order) : -EAGAIN;
	return *rc ? NULL : page;
}

/* What undoes piece_unmap(), for a piece that is on no list. On an error the piece is as it was. */
static int piece_give(struct page *page, struct tlb_batch *batch)
{
	unsigned order = um_origin(page);
	u64 nr = BIT(order);
	int rc;

	assert_context();
	for (u64 i = 0; i < nr; i++)
		store_relaxed(&page[i].class, PAGE_KERNEL);
	rc = set_direct_map_batch(page_to_pfn(page), nr, true, batch);
	if (rc) {
		for (u64 i = 0; i < nr; i++)
			store_relaxed(&page[i].class, PAGE_UNMAPPED);
		return rc;
	}
	for (u64 i = 0; i < nr; i++)
		page[i].private = 0;
	count_blocks(page_to_pfn(page), order, false);
	fetch_add(&um_cache.frames, -nr);
	fetch_add(&um_cache.stats.returns[order], 1);
	trace_event(TRACE_RETURN, page_to_pfn(page), order, load_relaxed(&um_cache.frames));
	free_pages(page, order);
	return 0;
}

/* Finish a batch of returns; collapsing may flush. */
static void returns_finish(struct tlb_batch *batch)
{
	const struct pt_stats *s = &kernel_space.stats[PT_DIRECT];
	u64 before = load_relaxed(&s->collapses[PT_2M]) + load_relaxed(&s->collapses[PT_1G]);
	u64 flushes = batch->flush.gen_last != 0;

	tlb_batch_finish(batch);
	flushes += load_relaxed(&s->collapses[PT_2M]) + load_relaxed(&s->collapses[PT_1G]) != before;
	fetch_add(&um_cache.stats.flush_batches, flushes);
}

/*
 * A whole block. The page allocator gathers what lies about for one, but not each time where it was in vain the last time: memory
 * without a block stays so for a while, and what is gathered is only strewn about again.
 */
static struct page *block_take(unsigned order, int *rc)
{
	u8 *dry = &um_cache.dry[order == ORDER_1G];
	u8 left = load_relaxed(dry);
	struct page *page = piece_take(order, left ? ALLOC_LIGHT : 0, rc);

	if (page)
		left = 0;
	else
		left = left ? left - 1u : UM_DRY_REFILLS;
	store_relaxed(dry, left);
	return page;
}

/*
 * Put a piece of at least 2^order frames on the lists: a block of the mode's, or of 2 MiB, or the highest order there is below. (Between 1 GiB
 * and 2 MiB nothing is gained by more: a 2M leaf is whole either way.)
 */
static int refill(unsigned order, unsigned flags)
{
	struct page *page = NULL;
	unsigned most = ORDER_2M;
	int rc = -EAGAIN;

	if (um_block_order() == ORDER_1G)
		page = block_take(ORDER_1G, &rc);
	if (!page && rc != -ENOMEM && order < ORDER_2M)
		page = block_take(ORDER_2M, &rc);
	while (!page && rc != -ENOMEM && most > order) {
		page = piece_take_upto(order, most - 1, &most, &rc);
		if (rc == -EAGAIN)
			break;
	}
	/* All that CPUs and caches hold back is gathered for what will just do. */
	if (!page && rc != -ENOMEM)
		page = piece_take(order, flags & UNMAPPED_MAY_RECLAIM ? ALLOC_MAY_RECLAIM : 0, &rc);
	if (!page)
		return -ENOMEM;
	spin_lock(&um_cache.lock);
	list_push(page, um_origin(page));
	spin_unlock(&um_cache.lock);
	return 0;
}

/* A whole free piece of at most so many frames, off its list. surplus: only one that is not to be kept. */
static struct page *piece_pick(u64 frames, bool surplus)
{
	struct um_cache *c = &um_cache;
	unsigned block = um_block_order();
	struct page *page = NULL;
	u32 orders;

	spin_lock(&c->lock);
	orders = c->filled[UM_WHOLE];
	if (surplus)
		orders &= ~BIT(block);
	if (!orders && surplus)
		orders = c->filled[UM_WHOLE];
	if (orders && BIT(__builtin_ctz(orders)) <= frames) {
		unsigned o = (unsigned)__builtin_ctz(orders);

		page = pfn_to_page(c->head[UM_WHOLE][o]);
		list_unlink(page, o);
		um_set(page, UM_MOVING, o);
	}
	spin_unlock(&c->lock);
	return page;
}

static void piece_back(struct page *page)
{
	spin_lock(&um_cache.lock);
	list_push(page, um_origin(page));
	spin_unlock(&um_cache.lock);
}

/* Give whole free pieces back, at most so many frames of them. */
static u64 give_back(u64 frames)
{
	struct tlb_batch batch;
	struct page *page;
	u64 done = 0;

	tlb_batch_init(&batch, &kernel_space);
	while ((page = piece_pick(frames - done, false))) {
		u64 nr = BIT(um_origin(page));

		if (piece_give(page, &batch)) {
			piece_back(page);
			break;
		}
		done += nr;
	}
	returns_finish(&batch);
	return done;
}

/* What is free beyond the high-water mark goes, down to the low one; a piece that is no block goes at once. */
static __noinline void give_back_surplus(u64 keep)
{
	unsigned block = um_block_order();
	struct tlb_batch batch;
	struct page *page;

	tlb_batch_init(&batch, &kernel_space);
	while (load_relaxed(&um_cache.nr[UM_WHOLE][block]) > keep || load_relaxed(&um_cache.filled[UM_WHOLE]) & ~BIT(block)) {
		page = piece_pick(UNMAPPED_ALL, true);
		if (!page)
			break;
		if (piece_give(page, &batch)) {
			piece_back(page);
			break;
		}
	}
	returns_finish(&batch);
}

/* After frees: is there more than is to be kept? */
static inline void check_marks(void)
{
	unsigned block = um_block_order();

	if (unlikely(load_relaxed(&um_cache.filled[UM_WHOLE]) & ~BIT(block)))
		give_back_surplus(um_cache.high);
	if (unlikely(load_relaxed(&um_cache.nr[UM_WHOLE][block]) > um_cache.high))
		give_back_surplus(um_cache.low);
}

/* ---- Magazines ---- */

static inline struct um_magazine *my_magazine(void)
{
	return &um_magazines[arch_this_cpu()->id];
}

/* The magazine is locked: give its oldest `count` pages to the lists. */
static void magazine_spill(struct um_magazine *m, u32 count)
{
	spin_lock(&um_cache.lock);
	for (u32 i = 0; i < count; i++)
		lists_give(pfn_to_page(m->pfn[i]), 0);
	spin_unlock(&um_cache.lock);
	counter_add(&m->nr, -count);
	for (u32 i = 0; i < m->nr; i++)
		m->pfn[i] = m->pfn[i + count];
}

/* The magazine is locked and empty: fill it from the lists. The lowest page of what is taken will come out first. */
static void magazine_fill(struct um_magazine *m)
{
	u32 batch[UM_MAGAZINE_BATCH];
	u32 n = 0;

	spin_lock(&um_cache.lock);
	for (struct page *page; n < UM_MAGAZINE_BATCH && (page = lists_take(0, UM_STACKED)); n++)
		batch[n] = (u32)page_to_pfn(page);
	spin_unlock(&um_cache.lock);
	while (n) {
		m->pfn[m->nr] = batch[--n];
		counter_add(&m->nr, 1);
	}
}

static inline struct page *magazine_take(struct um_magazine *m)
{
	struct page *page = NULL;

	spin_lock(&m->lock);
	if (unlikely(!m->nr))
		magazine_fill(m);
	if (likely(m->nr)) {
		counter_add(&m->nr, -1);
		page = pfn_to_page(m->pfn[m->nr]);
		um_set_single(page, UM_TAKEN);
		counter_add(&m->allocs, 1);
	}
	spin_unlock(&m->lock);
	return page;
}

/* Returns whether pages went on to the lists. */
static inline bool magazine_give(struct um_magazine *m, struct page *page)
{
	bool spill;

	spin_lock(&m->lock);
	spill = m->nr == UM_MAGAZINE;
	if (unlikely(spill))
		magazine_spill(m, UM_MAGAZINE - UM_MAGAZINE_BATCH);
	um_set_single(page, UM_STACKED);
	m->pfn[m->nr] = (u32)page_to_pfn(page);
	counter_add(&m->nr, 1);
	counter_add(&m->frees, 1);
	spin_unlock(&m->lock);
	return spill;
}

static void drain_magazines(void)
{
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++) {
		struct um_magazine *m = &um_magazines[cpu];

		if (!load_relaxed(&m->nr))
			continue;
		spin_lock(&m->lock);
		magazine_spill(m, m->nr);
		spin_unlock(&m->lock);
	}
}

/* ---- Allocation ---- */

/* An allocation of more than one frame, or without a cache, is counted where single pages are. */
static void count_region(i64 frames)
{
	struct um_magazine *m = my_magazine();

	spin_lock(&m->lock);
	counter_add(&m->region_frames, (u64)frames);
	if (frames > 0)
		counter_add(&m->region_allocs, 1);
	else
		counter_add(&m->region_frees, 1);
	spin_unlock(&m->lock);
}

static __noinline struct page *region_alloc(unsigned order)
{
	struct page *page;

	spin_lock(&um_cache.lock);
	page = lists_take(order, UM_TAKEN);
	spin_unlock(&um_cache.lock);
	if (page)
		count_region((i64)BIT(order));
	return page;
}

static inline struct page *lists_alloc(struct um_magazine *m, unsigned order)
{
	return likely(!order) ? magazine_take(m) : region_alloc(order);
}

/* Nothing of that order in the cache. Another CPU may be faster than this one to take what a refill brought. */
static __noinline struct page *alloc_miss(unsigned order, unsigned flags)
{
	struct page *page = NULL;

	counter_add(&my_magazine()->misses, 1);
	while (!page && !refill(order, flags))
		page = lists_alloc(my_magazine(), order);
	if (!page) {
		/* No memory left: what CPUs hold back may be what is asked for, or make it up. */
		drain_magazines();
		page = lists_alloc(my_magazine(), order);
	}
	if (!page)
		counter_add(&my_magazine()->misses, -1);	/* it is a failure: hits are allocations without misses */
	return page;
}

/* um=off: out of the direct map with exactly what was asked for. */
static __noinline struct page *alloc_single(unsigned order, unsigned flags)
{
	int rc;
	struct page *page = piece_take(order, flags & UNMAPPED_MAY_RECLAIM ? ALLOC_MAY_RECLAIM : 0, &rc);

	if (page) {
		um_set(page, UM_TAKEN, order);
		count_region((i64)BIT(order));
		counter_add(&my_magazine()->misses, 1);
	}
	return page;
}

/* What is zero already, because nobody could reach it since it was scrubbed, is left alone. */
static inline void hand_out(struct page *page, bool zero)
{
	if (page->private & UM_CLEAN) {
		store_relaxed(&page->private, page->private & ~UM_CLEAN);
	} else if (zero) {
		temp_zero(page_to_pfn(page), 1);
		counter_add(&my_magazine()->zeroed, 1);
	}
}

struct page *unmapped_pages_alloc(unsigned order, unsigned flags, int nid, struct account *account)
{
	const unsigned known = UNMAPPED_ZERO | UNMAPPED_NOSCRUB | UNMAPPED_MAY_RECLAIM;
	struct cpu_state *cpu = arch_this_cpu();
	struct page *page;

	assert(cpu->locks_held == 0 && arch_irqs_enabled());
	if (unlikely(order > UNMAPPED_ORDER_MAX || flags & ~known || nid < -1 || nid > 0))
		return NULL;
	if (account && account_charge(account, BIT(order)))
		return NULL;
	if (unlikely(um_cache.mode == UNMAPPED_OFF)) {
		page = alloc_single(order, flags);
	} else {
		page = lists_alloc(&um_magazines[cpu->id], order);
		if (unlikely(!page))
			page = alloc_miss(order, flags);
	}
	if (unlikely(!page)) {
		fetch_add(&um_cache.stats.fails, 1);
		if (account)
			account_uncharge(account, BIT(order));
		return NULL;
	}
	page->account = (u64)account;
	hand_out(page, flags & UNMAPPED_ZERO);
	for (u64 i = 1; unlikely(i < BIT(order)); i++)
		hand_out(page + i, flags & UNMAPPED_ZERO);
	if (flags & UNMAPPED_NOSCRUB)
		store_relaxed(&page->private, page->private | UM_NOSCRUB);
	return page;
}

/* ---- Free ---- */

static inline bool is_page(const struct page *page)
{
	u64 offset = (u64)page - (u64)page_array;

	return offset % sizeof(struct page) == 0 && offset / sizeof(struct page) < page_max_pfn &&
	       pfn_valid(offset / sizeof(struct page));
}

static __noinline bool still_mapped(const struct page *page, unsigned order)
{
	for (u64 i = 0; i < BIT(order); i++)
		if (page[i].word >> 32)
			return true;
	return false;
}

/* Why a page is not to be freed. */
static const char *free_fault(const struct page *page, unsigned order)
{
	if (!is_page(page))
		return "there is no such frame";
	if (!um_ours(page))
		return "it does not come from the unmapped cache";
	if (um_state(page) == UM_INSIDE)
		return "it is inside a block";
	if (um_state(page) != UM_TAKEN)
		return "it is free already";
	if (um_order(page) != order)
		return "it was allocated in another order";
	if (still_mapped(page, order))
		return "it is still mapped, or a table in use";
	return "it is being freed";
}

static __noinline void bad_free(const struct page *page, unsigned order)
{
	fetch_add(&um_cache.stats.bad_frees, 1);
	log_warn("unmapped_pages_free: page %p, frame %#llx, order %u: %s", (const void *)page,
		 (unsigned long long)((u64)page - (u64)page_array) / sizeof(struct page), order,
		 free_fault(page, order));
}

/* The page is this caller's to free from now on. Of two frees at a time one gets it. Returns what its word was, or 0. */
static inline u64 free_begin(struct page *page, unsigned order)
{
	u64 was;

	if (unlikely(!is_page(page)))
		return 0;
	was = load_relaxed(&page->private);
	if (unlikely((was & UM_REGION_MASK) != um_word(UM_TAKEN, order, 0)))
		return 0;
	if (unlikely(page->word >> 32) || (unlikely(order) && still_mapped(page, order)))
		return 0;
	if (unlikely(!compare_exchange(&page->private, &was, was ^ (u64)(UM_TAKEN ^ UM_MOVING) << UM_STATE_SHIFT)))
		return 0;
	return was;
}

static void scrub(struct page *page, unsigned order)
{
	if (PLANTED(PLANT_UM_NO_SCRUB))
		return;
	temp_zero(page_to_pfn(page), BIT(order));
	for (u64 i = 0; i < BIT(order); i++)
		store_relaxed(&page[i].private, page[i].private | UM_CLEAN);
	counter_add(&my_magazine()->scrubbed, BIT(order));
}

static __noinline void free_region(struct page *page, unsigned order)
{
	spin_lock(&um_cache.lock);
	lists_give(page, order);
	spin_unlock(&um_cache.lock);
	count_region(-(i64)BIT(order));
	check_marks();
}

/* um=off: back into the direct map at once. If that is not possible, it waits on a list as a piece by itself. */
static __noinline void free_single(struct page *page, unsigned order)
{
	struct tlb_batch batch;

	tlb_batch_init(&batch, &kernel_space);
	if (piece_give(page, &batch))
		piece_back(page);
	returns_finish(&batch);
	count_region(-(i64)BIT(order));
}

void unmapped_pages_free(struct page *page, unsigned order)
{
	struct cpu_state *cpu = arch_this_cpu();
	u64 was = free_begin(page, order);

	assert(cpu->locks_held == 0 && arch_irqs_enabled());
	if (unlikely(!was)) {
		bad_free(page, order);
		return;
	}
	if (page->account) {
		account_uncharge((struct account *)page->account, BIT(order));
		page->account = 0;
	}
	store_relaxed(&page->class, PAGE_UNMAPPED);
	for (u64 i = 1; unlikely(i < BIT(order)); i++)
		store_relaxed(&page[i].class, PAGE_UNMAPPED);
	if (!(was & UM_NOSCRUB))
		scrub(page, order);
	if (unlikely(um_cache.mode == UNMAPPED_OFF))
		free_single(page, order);
	else if (unlikely(order))
		free_region(page, order);
	else if (unlikely(magazine_give(&um_magazines[cpu->id], page)))
		check_marks();
}

/* ---- Shrinking ---- */

u64 unmapped_shrink(u64 frames)
{
	assert_context();
	drain_magazines();
	return give_back(frames);
}

/* For the page allocator: a piece at least, as less than that cannot be given. */
static u64 shrink_for_allocator(u64 frames)
{
	struct unmapped_stats *s = &um_cache.stats;
	u64 got = unmapped_shrink(MAX(frames, BIT(um_block_order())));

	fetch_add(&s->reclaim_runs, 1);
	fetch_add(&s->reclaim_frames, got);
	/* The largest: several CPUs may come with one. */
	for (u64 most = load_relaxed(&s->reclaim_most); most < got;)
		if (compare_exchange(&s->reclaim_most, &most, got))
			break;
	return got;
}

static struct shrinker um_shrinker = { .name = "unmapped", .shrink = shrink_for_allocator };

/* ---- Modes ---- */

static void take_mode(enum unmapped_mode mode)
{
	um_cache.mode = (u8)mode;
	um_cache.low = um_marks[mode].low;
	um_cache.high = um_marks[mode].high;
	um_cache.dry[0] = um_cache.dry[1] = 0;
}

void unmapped_reset(void)
{
	um_cache = (struct um_cache){ .lock = SPINLOCK_INIT_CLASS(LOCK_UNMAPPED), .mode = UNMAPPED_2M };
	for (unsigned kind = 0; kind < UM_KINDS; kind++)
		for (unsigned o = 0; o <= ORDER_MAX; o++)
			um_cache.head[kind][o] = PFN_NONE;
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		um_magazines[cpu] = (struct um_magazine){ .lock = SPINLOCK_INIT_CLASS(LOCK_UNMAPPED_CPU) };
	take_mode(UNMAPPED_2M);
}

void unmapped_init(enum unmapped_mode mode)
{
	unmapped_reset();
	take_mode(mode);
	buddy_add_shrinker(&um_shrinker);
}

static u64 frames_in_use(void)
{
	u64 sum = 0;

	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		sum += um_frames_in_use(&um_magazines[cpu]);
	return sum;
}

int unmapped_set_mode(enum unmapped_mode mode)
{
	if ((unsigned)mode > UNMAPPED_1G)
		return -EINVAL;
	if (frames_in_use())
		return -EBUSY;
	unmapped_shrink(UNMAPPED_ALL);
	if (load_relaxed(&um_cache.frames))
		return -EBUSY;
	take_mode(mode);
	return 0;
}

enum unmapped_mode unmapped_mode(void)
{
	return (enum unmapped_mode)um_cache.mode;
}

void unmapped_set_watermarks(u64 low, u64 high)
{
	spin_lock(&um_cache.lock);
	um_cache.low = MIN(low, high);
	um_cache.high = high;
	spin_unlock(&um_cache.lock);
	if (um_cache.mode != UNMAPPED_OFF)
		check_marks();
}

void unmapped_watermarks(u64 *low, u64 *high)
{
	*low = um_cache.low;
	*high = um_cache.high;
}

void unmapped_read_stats(struct unmapped_stats *out)
{
	spin_lock(&um_cache.lock);
	*out = um_cache.stats;
	for (unsigned o = 0; o <= ORDER_MAX; o++)
		out->free_blocks[o] = um_cache.nr[UM_PART][o] + um_cache.nr[UM_WHOLE][o];
	out->bytes = um_cache.frames << PAGE_SHIFT;
	spin_unlock(&um_cache.lock);
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++) {
		const struct um_magazine *m = &um_magazines[cpu];

		out->free_blocks[0] += load_relaxed(&m->nr);
		out->allocs += load_relaxed(&m->allocs) + load_relaxed(&m->region_allocs);
		out->frees += load_relaxed(&m->frees) + load_relaxed(&m->region_frees);
		out->hits -= load_relaxed(&m->misses);
		out->zeroed += load_relaxed(&m->zeroed);
		out->scrubbed += load_relaxed(&m->scrubbed);
	}
	out->hits += out->allocs;
	out->bytes_in_use = frames_in_use() << PAGE_SHIFT;
}
