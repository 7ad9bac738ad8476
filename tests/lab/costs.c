/* SPDX-License-Identifier: MIT */
/*
 * What single operations cost: `# cost` lines, each the median of REPEATS samples, without the cost of reading the clock
 * (measure.h), and with the flushes that the operations made.
 *
 * The ground is a piece of the direct map of four 2M leaves, the first of which is read-only all the time: so the gigabyte
 * around it is split already, and what is measured splits a 2M leaf or nothing.
 */
#include "kernel/base/errno.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/kmalloc.h"
#include "mm/pgtable.h"
#include "mm/vmalloc.h"
#include "tests/lab/measure.h"
#include "tests/test.h"

#define REPEATS 64u
#define GROUND_ORDER 11u
#define SPLIT_GOAL 3000u	/* instructions that the split of a 2M leaf may cost, release build */

static u32 ticks_there[SAMPLES_MAX], ticks_back[SAMPLES_MAX];

/* Samples of one operation, and what it did to the TLB. */
struct meter {
	struct samples samples;
	struct tlb_stats sum, before;
	u64 start;
};

static void meter_start(struct meter *m)
{
	tlb_read_stats(&m->before);
	m->start = arch_cycles();
}

static void meter_stop(struct meter *m)
{
	u64 end = arch_cycles();
	struct tlb_stats now;

	tlb_read_stats(&now);
	samples_add(&m->samples, m->start, end);
	m->sum.nr_tlb_local_flush_all += now.nr_tlb_local_flush_all - m->before.nr_tlb_local_flush_all;
	m->sum.nr_tlb_local_flush_one += now.nr_tlb_local_flush_one - m->before.nr_tlb_local_flush_one;
	m->sum.nr_tlb_remote_flush += now.nr_tlb_remote_flush - m->before.nr_tlb_remote_flush;
	m->sum.pages_invalidated += now.pages_invalidated - m->before.pages_invalidated;
}

/* Write the line and return it. */
static struct cost meter_write(struct meter *m, const char *op, const char *policy)
{
	static const struct tlb_stats none;
	struct cost cost = cost_of(&m->samples, &none, &m->sum);

	CHECK_EQ(cost.nr, REPEATS);
	cost_write(op, policy, &cost);
	return cost;
}

/* ---- the ground ---- */

struct ground {
	struct page *pages;
	enum pt_collapse_policy policy;
	bool ready;
};

static u64 ground_va(const struct ground *g, unsigned page)
{
	return phys_to_va(page_to_phys(g->pages + page));
}

static void ground_open(struct ground *g)
{
	g->policy = kernel_space.policy;
	pt_set_policy(&kernel_space, PT_COLLAPSE_EAGER);
	pt_settle(&kernel_space);
	g->pages = alloc_pages(GROUND_ORDER, 0);
	g->ready = g->pages && set_memory_ro(ground_va(g, 0), PT_ENTRIES) == 0;
}

static void ground_close(struct ground *g)
{
	if (g->ready)
		CHECK_EQ(set_memory_rw(ground_va(g, 0), PT_ENTRIES), 0);
	if (g->pages)
		free_pages(g->pages, GROUND_ORDER);
	pt_settle(&kernel_space);
	pt_set_policy(&kernel_space, g->policy);
}

static unsigned level_at(u64 va)
{
	return pt_walk(&kernel_space, va, PT_4K).level;
}

/* ---- the clock ---- */

TEST_FLAGS(costs, clock, "RP1", TEST_FIGURES)
{
	u64 before = arch_cycles();

	test_note("unit=%s overhead=%u cpus=%u", measure_unit(), measure_overhead(), measure_cpus());
	CHECK(arch_cycles() > before);
	/* Whatever the clock counts: 1,000 instructions take more than none. */
	CHECK(!measure_exact() || measure_overhead() < 200);
}

/* ---- split and collapse alone ---- */

/* Split the leaf at va, of this level, and nothing else: no flush, no call around it. */
static bool measure_split(struct meter *m, u64 va, unsigned level)
{
	struct pt_pool pool = PT_POOL_INIT;
	bool ok = pt_pool_reserve(&pool, 1, NULL) == 0;
	struct pt_slot s;

	spin_lock(&kernel_space.lock);
	s = pt_walk(&kernel_space, va, PT_4K);
	ok = ok && s.level == level;
	if (ok) {
		meter_start(m);
		pt_split_leaf(&kernel_space, s, va, &pool);
		meter_stop(m);
	}
	spin_unlock(&kernel_space.lock);
	pt_pool_release(&pool);
	return ok;
}

/* Collapse the one table that can be; its frame is freed, after a flush, outside the sample. */
static void measure_collapse(struct meter *m)
{
	struct tlb_batch batch;

	tlb_batch_init(&batch, &kernel_space);
	spin_lock(&kernel_space.lock);
	meter_start(m);
	pt_collapse_pending(&kernel_space, &batch);
	meter_stop(m);
	spin_unlock(&kernel_space.lock);
	tlb_batch_finish(&batch);
}

/* A leaf that pt_split_range() makes of the one at va, one level lower, and then the collapse. */
static bool split_and_measure_collapse(struct meter *m, u64 va, unsigned level)
{
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &kernel_space);
	pt_set_policy(&kernel_space, PT_COLLAPSE_OFF);
	rc = pt_split_range(&kernel_space, range_len(align_down(va, pt_span(level)), PAGE_SIZE), level - 1, &batch);
	tlb_batch_finish(&batch);
	pt_set_policy(&kernel_space, PT_COLLAPSE_EAGER);
	if (rc || level_at(va) != level - 1)
		return false;
	measure_collapse(m);
	return level_at(va) == level;
}

TEST_FLAGS(costs, split_and_collapse_2m, "PT3 PT4 RP1", TEST_FIGURES)
{
	struct meter split = { .samples.ticks = ticks_there }, collapse = { .samples.ticks = ticks_back };
	struct ground g;
	struct cost cost;

	ground_open(&g);
	for (unsigned i = 0; CHECK(g.ready) && i < REPEATS; i++) {
		u64 va = ground_va(&g, PT_ENTRIES);

		if (!CHECK(measure_split(&split, va, PT_2M)))
			break;
		/* A change and its reversal: the table is uniform, and found to be. */
		CHECK_EQ(set_memory_ro(va, 1), 0);
		CHECK_EQ(set_memory_rw(va, 1), 0);
		if (!CHECK(split_and_measure_collapse(&collapse, va, PT_2M)))
			break;
	}
	ground_close(&g);
	cost = meter_write(&split, "split_2m", "policy=none");
	meter_write(&collapse, "collapse_2m", "policy=none");
	if (measure_exact() && measure_cpus() == 1 && !CONFIG_DEBUG)
		CHECK(cost.median <= SPLIT_GOAL);
}

static bool find_1g(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective)
{
	(void)leaf;
	(void)effective;
	if (level != PT_1G)
		return true;
	*(u64 *)arg = va;
	return false;
}

TEST_FLAGS(costs, split_and_collapse_1g, "PT3 PT4 RP1", TEST_FIGURES)
{
	struct meter split = { .samples.ticks = ticks_there }, collapse = { .samples.ticks = ticks_back };
	enum pt_collapse_policy policy = kernel_space.policy;
	struct tlb_batch batch;
	u64 va = 0;

	pt_set_policy(&kernel_space, PT_COLLAPSE_EAGER);
	pt_settle(&kernel_space);
	pt_for_each_leaf(&kernel_space, kernel_space.direct, find_1g, &va);
	if (!va) {
		pt_set_policy(&kernel_space, policy);
		SKIP("the direct map has no 1G leaf");
	}
	for (unsigned i = 0; i < REPEATS; i++) {
		if (!CHECK(measure_split(&split, va, PT_1G)))
			break;
		/* One level further down and back: the collapse below finds that the one above is due. */
		tlb_batch_init(&batch, &kernel_space);
		CHECK_EQ(pt_split_range(&kernel_space, range_len(va, PAGE_SIZE), PT_4K, &batch), 0);
		tlb_batch_finish(&batch);
		pt_settle(&kernel_space);
		if (!CHECK(split_and_measure_collapse(&collapse, va, PT_1G)))
			break;
	}
	pt_settle(&kernel_space);
	pt_set_policy(&kernel_space, policy);
	meter_write(&split, "split_1g", "policy=none");
	meter_write(&collapse, "collapse_1g", "policy=none");
}

/* ---- changes of rights, there and back ---- */

/* The ground's pages, from block 1 on: block 0 is the one that is always read-only. */
#define PAGE_OF(block, page) ((block) * PT_ENTRIES + (page))

/* One change on [page, page + nr) and its reversal. held: pages that stay read-only, so that blocks stay split. */
struct change_row {
	const char *there;
	const char *back;
	int (*there_fn)(u64 first, u64 nr);
	int (*back_fn)(u64 first, u64 nr);
	bool by_pfn;
	unsigned page, nr;
	unsigned held[2];	/* 0: none */
	unsigned splits;	/* that it takes */
};

static const struct change_row change_rows[] = {
	{ "set_memory_ro.1.split", "set_memory_rw.1.collapse", set_memory_ro, set_memory_rw, false, PAGE_OF(1, 7), 1,
	  { 0, 0 }, 1 },
	{ "set_memory_ro.1", "set_memory_rw.1", set_memory_ro, set_memory_rw, false, PAGE_OF(1, 7), 1,
	  { PAGE_OF(1, 100), 0 }, 0 },
	{ "set_memory_ro.512.leaf", "set_memory_rw.512.leaf", set_memory_ro, set_memory_rw, false, PAGE_OF(1, 0), 512,
	  { 0, 0 }, 0 },
	{ "set_memory_ro.512.split", "set_memory_rw.512.collapse", set_memory_ro, set_memory_rw, false,
	  PAGE_OF(1, 256), 512, { 0, 0 }, 2 },
	{ "set_memory_ro.512", "set_memory_rw.512", set_memory_ro, set_memory_rw, false, PAGE_OF(1, 256), 512,
	  { PAGE_OF(1, 100), PAGE_OF(2, 500) }, 0 },
	{ "direct_map_invalid.1.split", "direct_map_default.1.collapse", set_direct_map_invalid,
	  set_direct_map_default, true, PAGE_OF(1, 7), 1, { 0, 0 }, 1 },
	{ "direct_map_invalid.1", "direct_map_default.1", set_direct_map_invalid, set_direct_map_default, true,
	  PAGE_OF(1, 7), 1, { PAGE_OF(1, 100), 0 }, 0 },
	{ "direct_map_invalid.512.leaf", "direct_map_default.512.leaf", set_direct_map_invalid,
	  set_direct_map_default, true, PAGE_OF(1, 0), 512, { 0, 0 }, 0 },
};

static unsigned count_changes(void)
{
	return ARRAY_SIZE(change_rows);
}

static void name_change(unsigned row, char *buf, size_t size)
{
	size_t i = 0;

	for (; change_rows[row].there[i] && i + 1 < size; i++)
		buf[i] = change_rows[row].there[i];
	buf[i] = 0;
}

static void hold(const struct ground *g, const struct change_row *row, int (*fn)(u64 va, u64 nr))
{
	for (unsigned i = 0; i < ARRAY_SIZE(row->held); i++)
		if (row->held[i])
			CHECK_EQ(fn(ground_va(g, row->held[i]), 1), 0);
}

static void repeat_change(const struct ground *g, const struct change_row *row, struct meter *there, struct meter *back)
{
	u64 first = row->by_pfn ? page_to_pfn(g->pages) + row->page : ground_va(g, row->page);

	for (unsigned i = 0; i < REPEATS; i++) {
		int rc;

		meter_start(there);
		rc = row->there_fn(first, row->nr);
		meter_stop(there);
		CHECK_EQ(rc, 0);
		meter_start(back);
		rc = row->back_fn(first, row->nr);
		meter_stop(back);
		CHECK_EQ(rc, 0);
	}
}

TEST_ROWS(costs, changes, "PT2 RP1", TEST_FIGURES, count_changes, name_change)
{
	const struct change_row *row = &change_rows[test_row()];
	struct meter there = { .samples.ticks = ticks_there }, back = { .samples.ticks = ticks_back };
	const struct pt_stats *stats = &kernel_space.stats[PT_DIRECT];
	u64 splits, collapses;
	struct ground g;

	ground_open(&g);
	if (CHECK(g.ready)) {
		hold(&g, row, set_memory_ro);
		splits = stats->splits[PT_2M];
		collapses = stats->collapses[PT_2M];
		repeat_change(&g, row, &there, &back);
		CHECK_EQ(stats->splits[PT_2M] - splits, row->splits * REPEATS);
		CHECK_EQ(stats->collapses[PT_2M] - collapses, row->splits * REPEATS);
		hold(&g, row, set_memory_rw);
	}
	ground_close(&g);
	meter_write(&there, row->there, "policy=eager");
	meter_write(&back, row->back, "policy=eager");
}

/* ---- allocations and aliases ---- */

static void measure_pair(const char *op, unsigned order)
{
	struct meter m = { .samples.ticks = ticks_there };

	/* One before the clock runs: an empty list of this CPU is filled by it. */
	for (unsigned i = 0; i <= REPEATS; i++) {
		struct page *page;

		meter_start(&m);
		page = alloc_pages(order, 0);
		if (page)
			free_pages(page, order);
		meter_stop(&m);
		CHECK(page != NULL);
		if (i == 0)
			m = (struct meter){ .samples.ticks = ticks_there };
	}
	meter_write(&m, op, "policy=none");
}

TEST_FLAGS(costs, alloc_pairs, "PA1 RP1", TEST_FIGURES)
{
	measure_pair("alloc_free.order0", 0);
	measure_pair("alloc_free.order9", ORDER_2M);
}

/* An object and its free, by the usual calls and by those for any context. */
static void measure_object_pair(const char *op, size_t size, bool nolock)
{
	struct meter m = { .samples.ticks = ticks_there };

	kfree(kmalloc(size, 0));	/* an empty list of this CPU is filled by it */
	for (unsigned i = 0; i < REPEATS; i++) {
		void *object;

		meter_start(&m);
		if (nolock) {
			object = kmalloc_nolock(size, 0);
			kfree_nolock(object);
		} else {
			object = kmalloc(size, 0);
			kfree(object);
		}
		meter_stop(&m);
		CHECK(object != NULL);
	}
	meter_write(&m, op, "policy=none");
}

TEST_FLAGS(costs, object_pairs, "PA4 RP1", TEST_FIGURES)
{
	measure_object_pair("kmalloc_kfree.64", 64, false);
	measure_object_pair("kmalloc_kfree.1024", 1024, false);
	measure_object_pair("kmalloc_nolock_kfree_nolock.64", 64, true);
}

TEST_FLAGS(costs, vmap_pair, "VA1 RP1", TEST_FIGURES)
{
	struct meter m = { .samples.ticks = ticks_there };
	struct page *page = alloc_page(0);

	REQUIRE(page != NULL);
	for (unsigned i = 0; i < REPEATS; i++) {
		void *alias;

		meter_start(&m);
		alias = vmap(&page, 1, 0);
		if (alias)
			vunmap(alias);
		meter_stop(&m);
		CHECK(alias != NULL);
	}
	free_page(page);
	meter_write(&m, "vmap_vunmap.1", "policy=none");
}

TEST_FLAGS(costs, empty_batch, "TL1 RP1", TEST_FIGURES)
{
	struct meter m = { .samples.ticks = ticks_there };
	struct tlb_batch batch;

	for (unsigned i = 0; i < REPEATS; i++) {
		meter_start(&m);
		tlb_batch_init(&batch, &kernel_space);
		tlb_batch_finish(&batch);
		meter_stop(&m);
	}
	CHECK_EQ(m.sum.nr_tlb_local_flush_all + m.sum.nr_tlb_local_flush_one, 0);
	meter_write(&m, "empty_batch", "policy=none");
}
