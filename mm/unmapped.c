/* SPDX-License-Identifier: MIT */
/*
 * The unmapped cache's usual calls: see unmapped.h for what it promises, unmapped_internal.h for how frames are marked,
 * unmapped_piece.c for where they come from.
 *
 * Single pages of a CPU's own node go through its magazine, all else to the lists of the node that it is of. A magazine is left before a node's
 * lock is waited for, and filled up before it is empty: so an interrupt that finds the lock held finds pages.
 */
#include "mm/unmapped.h"

#include "kernel/base/errno.h"
#include "kernel/base/log.h"
#include "mm/unmapped_internal.h"

struct um_magazine um_magazines[MAX_CPUS];

/* Water marks, by mode, in blocks. */
static const struct {
	u8 low, high;
} um_marks[] = {
	[UNMAPPED_OFF] = { 0, 0 },
	[UNMAPPED_2M] = { 2, 8 },
	[UNMAPPED_1G] = { 0, 1 },
};

static void assert_context(void)
{
	assert(arch_this_cpu()->locks_held == 0 && arch_irqs_enabled());
}

/* ---- Magazines ---- */

static inline struct um_magazine *my_magazine(void)
{
	return &um_magazines[arch_this_cpu()->id];
}

/* Single pages of one node that are on nothing any more. */
static void singles_give(const u32 *pfns, u32 count)
{
	struct um_node *n = um_node_of(pfn_to_page(pfns[0]));

	um_lock(n);
	for (u32 i = 0; i < count; i++)
		um_give(n, pfn_to_page(pfns[i]), 0);
	um_unlock(n);
}

/* The magazine is locked, and is not meanwhile: its oldest `count` pages, if it has so many, go to the lists. */
static __noinline void magazine_spill(struct um_magazine *m, u32 count)
{
	u32 batch[UM_MAGAZINE];
	u32 nr = MIN(count, m->nr);

	if (!nr)
		return;
	for (u32 i = 0; i < nr; i++)
		batch[i] = m->pfn[i];
	counter_add(&m->nr, -nr);
	for (u32 i = 0; i < m->nr; i++)
		m->pfn[i] = m->pfn[i + nr];
	spin_unlock(&m->lock);
	singles_give(batch, nr);
	spin_lock(&m->lock);
}

/*
 * The magazine is locked, and is not meanwhile: fill it from the lists of its node. The lowest page of what is taken will come out first.
 * What interrupts freed to it meanwhile may leave no room for all. Returns whether it holds any.
 */
static __noinline bool magazine_fill(struct um_magazine *m, struct um_node *n)
{
	u32 batch[UM_MAGAZINE_BATCH];
	u32 nr = 0;

	if (!(load_relaxed(&n->filled[UM_PART]) | load_relaxed(&n->filled[UM_WHOLE])))
		return m->nr;
	spin_unlock(&m->lock);
	um_lock(n);
	for (struct page *page; nr < UM_MAGAZINE_BATCH && (page = um_take(n, 0, UM_STACKED)); nr++)
		batch[nr] = (u32)page_to_pfn(page);
	um_unlock(n);
	spin_lock(&m->lock);
	while (nr && m->nr < UM_MAGAZINE)
		um_magazine_push(m, pfn_to_page(batch[--nr]));
	if (unlikely(nr)) {
		spin_unlock(&m->lock);
		singles_give(batch, nr);
		spin_lock(&m->lock);
	}
	return m->nr;
}

/* `own`: the node of this CPU. */
static inline struct page *magazine_take(struct um_magazine *m, unsigned own)
{
	struct page *page = NULL;

	spin_lock(&m->lock);
	if (likely(m->nr > UM_MAGAZINE_LOW) || magazine_fill(m, &um_nodes[own])) {
		page = um_magazine_pop(m);
		counter_add(&m->allocs, 1);
	}
	spin_unlock(&m->lock);
	return page;
}

/* Returns whether pages went on to the lists. */
static inline bool magazine_give(struct um_magazine *m, struct page *page)
{
	bool spilt = false;

	spin_lock(&m->lock);
	while (unlikely(m->nr == UM_MAGAZINE)) {
		magazine_spill(m, UM_MAGAZINE - UM_MAGAZINE_BATCH);
		spilt = true;
	}
	um_magazine_push(m, page);
	counter_add(&m->frees, 1);
	spin_unlock(&m->lock);
	return spilt;
}

static void drain_magazines(void)
{
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++) {
		struct um_magazine *m = &um_magazines[cpu];

		if (!load_relaxed(&m->nr))
			continue;
		spin_lock(&m->lock);
		magazine_spill(m, UM_MAGAZINE);
		spin_unlock(&m->lock);
	}
}

/* ---- Allocation ---- */

/* An allocation from the lists, or without a cache, is counted where single pages are. */
static void count_region(i64 frames)
{
	struct um_magazine *m = my_magazine();

	counter_add(&m->region_frames, (u64)frames);
	if (frames > 0)
		counter_add(&m->region_allocs, 1);
	else
		counter_add(&m->region_frees, 1);
}

static __noinline struct page *region_alloc(struct um_node *n, unsigned order)
{
	struct page *page;

	um_lock(n);
	page = um_take(n, order, UM_TAKEN);
	um_unlock(n);
	if (page)
		count_region((i64)BIT(order));
	return page;
}

/* What the cache has of a node. */
static __noinline struct page *cache_alloc(unsigned nid, unsigned order)
{
	const struct cpu_state *cpu = arch_this_cpu();

	if (!order && nid == cpu->pages->node)
		return magazine_take(&um_magazines[cpu->id], nid);
	return region_alloc(&um_nodes[nid], order);
}

/* Nothing of that order in the cache. Another CPU may be faster than this one to take what a refill brought. */
static struct page *refill_and_take(unsigned nid, unsigned order, bool gather)
{
	struct page *page = NULL;

	while (!page && um_refill(nid, order, gather))
		page = cache_alloc(nid, order);
	return page;
}

/* Of the node `first`, then, unless `strict`, of the others. */
static __noinline struct page *alloc_miss(unsigned first, unsigned order, unsigned flags)
{
	bool strict = flags & UNMAPPED_THIS_NODE;
	unsigned nodes = strict ? 1 : buddy_nodes();
	struct page *page = refill_and_take(first, order, false);
	struct um_node *n;

	for (unsigned i = 1; !page && i < nodes; i++) {
		page = cache_alloc(um_nth_node(first, i), order);
		if (!page)
			page = refill_and_take(um_nth_node(first, i), order, false);
	}
	for (unsigned i = 0; !page && i < nodes; i++)
		page = refill_and_take(um_nth_node(first, i), order, true);
	if (!page) {
		/* No memory left: what CPUs hold back may be what is asked for, or make it up. */
		drain_magazines();
		for (unsigned i = 0; !page && i < nodes; i++)
			page = cache_alloc(um_nth_node(first, i), order);
	}
	while (!page && flags & UNMAPPED_MAY_RECLAIM && (n = um_refill_by_reclaim(first, order, strict)))
		page = cache_alloc((unsigned)(n - um_nodes), order);
	if (page)
		counter_add(&my_magazine()->misses, 1);
	return page;
}

/* um=off: out of the direct map with exactly what was asked for. */
static __noinline struct page *alloc_single(unsigned first, unsigned order, unsigned flags)
{
	struct page *page = um_piece_alloc(first, order, (flags & UNMAPPED_MAY_RECLAIM ? ALLOC_MAY_RECLAIM : 0) |
						       (flags & UNMAPPED_THIS_NODE ? ALLOC_THIS_NODE : 0));

	if (page) {
		count_region((i64)BIT(order));
		counter_add(&my_magazine()->misses, 1);
	}
	return page;
}

/* All but single pages that lie on this CPU's magazine. */
static __noinline struct page *alloc_otherwise(unsigned first, unsigned order, unsigned flags, struct account *account)
{
	struct page *page;

	if (um_cache.mode == UNMAPPED_OFF) {
		page = alloc_single(first, order, flags);
	} else {
		page = cache_alloc(first, order);
		if (!page)
			page = alloc_miss(first, order, flags);
	}
	if (page)
		return page;
	fetch_add(&um_cache.stats.fails, 1);
	if (account)
		account_uncharge(account, BIT(order));
	return NULL;
}

struct page *unmapped_pages_alloc(unsigned order, unsigned flags, int nid, struct account *account)
{
	const unsigned known = UNMAPPED_ZERO | UNMAPPED_NOSCRUB | UNMAPPED_MAY_RECLAIM | UNMAPPED_THIS_NODE;
	struct cpu_state *cpu = arch_this_cpu();
	struct um_magazine *m = &um_magazines[cpu->id];
	unsigned own = cpu->pages->node, first = nid == NODE_ANY ? own : (unsigned)nid;
	bool single = likely(!(order | (first ^ own)));
	struct page *page = NULL;

	assert(cpu->locks_held == 0 && arch_irqs_enabled());
	if (unlikely(flags & ~known || (!single && (order > UNMAPPED_ORDER_MAX || first >= buddy_nodes()))))
		return NULL;
	if (account && account_charge(account, BIT(order)))
		return NULL;
	if (likely(single && um_cache.mode != UNMAPPED_OFF))
		page = magazine_take(m, own);
	if (unlikely(!page))
		page = alloc_otherwise(first, order, flags, account);
	if (likely(page))
		um_hand_out(m, page, order, flags, account);
	return page;
}

/* ---- Free ---- */

__noinline bool um_still_mapped(const struct page *page, unsigned order)
{
	for (u64 i = 0; i < BIT(order); i++)
		if (page[i].word >> 32)
			return true;
	return false;
}

/* Why a page is not to be freed. */
static const char *free_fault(const struct page *page, unsigned order)
{
	if (!um_is_page(page))
		return "there is no such frame";
	if (!um_ours(page))
		return "it does not come from the unmapped cache";
	if (um_state(page) == UM_INSIDE)
		return "it is inside a block";
	if (um_state(page) != UM_TAKEN)
		return "it is free already";
	if (um_order(page) != order)
		return "it was allocated in another order";
	if (um_still_mapped(page, order))
		return "it is still mapped, or a table in use";
	return "it is being freed";
}

__noinline void um_bad_free(const struct page *page, unsigned order)
{
	fetch_add(&um_cache.stats.bad_frees, 1);
	log_warn("unmapped_pages_free: page %p, frame %#llx, order %u: %s", (const void *)page,
		 (unsigned long long)((u64)page - (u64)page_array) / sizeof(struct page), order,
		 free_fault(page, order));
}

static __noinline void free_region(struct page *page, unsigned order)
{
	struct um_node *n = um_node_of(page);

	um_lock(n);
	um_give(n, page, order);
	um_unlock(n);
	count_region(-(i64)BIT(order));
	um_check_marks(n);
}

/* um=off: back into the direct map at once; what frees in other contexts had to leave goes along. */
static __noinline void free_single(struct page *page, unsigned order)
{
	struct um_node *n = um_node_of(page);

	um_piece_free(page);
	count_region(-(i64)BIT(order));
	um_check_marks(n);
}

void unmapped_pages_free(struct page *page, unsigned order)
{
	struct cpu_state *cpu = arch_this_cpu();
	struct um_magazine *m = &um_magazines[cpu->id];
	u64 was;

	assert(cpu->locks_held == 0 && arch_irqs_enabled());
	was = um_free_begin(page, order);
	if (unlikely(!was)) {
		um_bad_free(page, order);
		return;
	}
	um_take_back(m, page, order, was);
	if (unlikely(um_cache.mode == UNMAPPED_OFF))
		free_single(page, order);
	else if (unlikely(order | (um_nid_of_word(was) ^ cpu->pages->node)))
		free_region(page, order);
	else if (unlikely(magazine_give(m, page)))
		um_check_marks(&um_nodes[cpu->pages->node]);
}

/* ---- Shrinking ---- */

static u64 shrink_from(unsigned first, u64 frames)
{
	assert_context();
	drain_magazines();
	return um_give_back(first, frames);
}

u64 unmapped_shrink(u64 frames)
{
	return shrink_from(buddy_this_node(), frames);
}

/* For the page allocator: a piece at least, as less than that cannot be given. */
static u64 shrink_for_allocator(int nid, u64 frames)
{
	struct unmapped_stats *s = &um_cache.stats;
	u64 got = shrink_from(nid == NODE_ANY ? buddy_this_node() : (unsigned)nid, MAX(frames, BIT(um_block_order())));

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
	for (unsigned nid = 0; nid < NODES_MAX; nid++)
		um_nodes[nid].dry[0] = um_nodes[nid].dry[1] = 0;
}

static void node_reset(struct um_node *n)
{
	*n = (struct um_node){ .lock = SPINLOCK_INIT_CLASS(LOCK_UNMAPPED), .deferred = DEFERRED_INIT };
	for (unsigned kind = 0; kind < UM_KINDS; kind++)
		for (unsigned o = 0; o <= ORDER_MAX; o++)
			n->head[kind][o] = PFN_NONE;
}

void unmapped_reset(void)
{
	um_cache = (struct um_cache){ .mode = UNMAPPED_2M };
	um_nolock = (struct um_nolock){ .frames = 0 };
	for (unsigned nid = 0; nid < NODES_MAX; nid++)
		node_reset(&um_nodes[nid]);
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
	u64 sum = load_relaxed(&um_nolock.frames);

	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		sum += um_frames_in_use(&um_magazines[cpu]);
	return sum;
}

static u64 frames_of_all(void)
{
	u64 sum = 0;

	for (unsigned nid = 0; nid < buddy_nodes(); nid++)
		sum += load_relaxed(&um_nodes[nid].frames);
	return sum;
}

int unmapped_set_mode(enum unmapped_mode mode)
{
	if ((unsigned)mode > UNMAPPED_1G)
		return -EINVAL;
	if (frames_in_use())
		return -EBUSY;
	unmapped_shrink(UNMAPPED_ALL);
	if (frames_of_all())
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
	store_relaxed(&um_cache.low, MIN(low, high));
	store_relaxed(&um_cache.high, high);
	if (um_cache.mode == UNMAPPED_OFF)
		return;
	for (unsigned nid = 0; nid < buddy_nodes(); nid++)
		um_check_marks(&um_nodes[nid]);
}

void unmapped_watermarks(u64 *low, u64 *high)
{
	*low = um_cache.low;
	*high = um_cache.high;
}

/* ---- Figures ---- */

/* Pages of a node on magazines. */
static u64 stacked_of_node(unsigned nid)
{
	u64 sum = 0;

	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++) {
		struct um_magazine *m = &um_magazines[cpu];

		if (!load_relaxed(&m->nr))
			continue;
		spin_lock(&m->lock);
		if (m->nr && um_nid(pfn_to_page(m->pfn[0])) == nid)
			sum += m->nr;
		spin_unlock(&m->lock);
	}
	return sum;
}

void unmapped_read_node_stats(unsigned nid, struct unmapped_node_stats *out)
{
	struct um_node *n = &um_nodes[nid];
	u64 free;

	um_lock(n);
	for (unsigned o = 0; o <= ORDER_MAX; o++) {
		out->free_blocks[o] = n->nr[UM_PART][o] + n->nr[UM_WHOLE][o];
		out->refills[o] = load_relaxed(&n->refills[o]);
		out->returns[o] = load_relaxed(&n->returns[o]);
	}
	um_unlock(n);
	out->bytes = load_relaxed(&n->frames) << PAGE_SHIFT;
	out->free_blocks[0] += stacked_of_node(nid);
	free = 0;
	for (unsigned o = 0; o <= ORDER_MAX; o++)
		free += out->free_blocks[o] << o;
	out->bytes_in_use = out->bytes - (free << PAGE_SHIFT);
	out->deferred = load_relaxed(&n->deferred.pushed);
	out->deferred_most = load_relaxed(&n->deferred.most);
}

static void add_node(struct unmapped_stats *sum, unsigned nid)
{
	struct unmapped_node_stats s;

	unmapped_read_node_stats(nid, &s);
	sum->bytes += s.bytes;
	for (unsigned o = 0; o <= ORDER_MAX; o++) {
		sum->free_blocks[o] += s.free_blocks[o];
		sum->refills[o] += s.refills[o];
		sum->returns[o] += s.returns[o];
	}
}

void unmapped_read_stats(struct unmapped_stats *out)
{
	*out = um_cache.stats;
	for (unsigned nid = 0; nid < buddy_nodes(); nid++)
		add_node(out, nid);
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++) {
		const struct um_magazine *m = &um_magazines[cpu];

		out->allocs += load_relaxed(&m->allocs) + load_relaxed(&m->region_allocs);
		out->frees += load_relaxed(&m->frees) + load_relaxed(&m->region_frees);
		out->hits -= load_relaxed(&m->misses);
		out->zeroed += load_relaxed(&m->zeroed);
		out->scrubbed += load_relaxed(&m->scrubbed);
	}
	out->allocs += load_relaxed(&um_nolock.stats.served);
	out->frees += load_relaxed(&um_nolock.stats.frees);
	out->hits += out->allocs;
	out->bytes_in_use = frames_in_use() << PAGE_SHIFT;
}
