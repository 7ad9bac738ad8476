/* SPDX-License-Identifier: MIT */
/*
 * Random use of the unmapped cache from several CPUs, beside a model that knows who has which frame and what is in it
 * (SPEC UM1..UM4). After every step: unmapped_check(), no stale translation, the counters of the model; with allocations
 * that fail at any place, frees that are none, and interrupts that find locks held.
 */
#include "mm/unmapped_internal.h"

#include <stdlib.h>
#include <string.h>

#include "kernel/base/log.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/kernel_map.h"
#include "mm/temp_map.h"
#include "tests/fixture.h"
#include "tests/host/arch_host.h"
#include "tests/host/log_host.h"
#include "tests/host/machine.h"
#include "tests/host/sim_tlb.h"
#include "tests/test.h"

#define LIVE_MAX 300u
#define MAPPED_MAX 8u

/* One allocation. */
struct live {
	struct page *page;
	unsigned order;
	unsigned flags;
	int nid;		/* that was asked for */
	u64 tag;		/* first word of its i-th frame: tag + i */
	i32 slot;		/* of the area where its owner has the first frame mapped, or -1 */
};

static struct {
	struct live live[LIVE_MAX];
	u32 nr;
	u8 *taken;		/* by frame */
	u64 frames;
	u64 allocs, fails, frees, refused, injected, asked_nolock, nolock;
	struct rng rng;
	struct fixture_area area;
	bool used[MAPPED_MAX];
	bool broken;
} m;

static u64 below(u64 n)
{
	return rng_below(&m.rng, n);
}

static u64 *words(pfn_t pfn)
{
	return (u64 *)(HOST_ARENA + (pfn << PAGE_SHIFT));
}

#define EXPECT(cond)                        \
	do {                                \
		if (!CHECK(cond))           \
			m.broken = true;    \
	} while (0)

static bool page_is_zero(pfn_t pfn)
{
	for (unsigned i = 0; i < PAGE_SIZE / sizeof(u64); i++)
		if (words(pfn)[i])
			return false;
	return true;
}

/* A fresh allocation: nobody else's, out of the kernel's reach on every CPU, zero if so asked. Then it is the owner's. */
static void claim(struct live *l)
{
	pfn_t pfn = page_to_pfn(l->page);

	EXPECT(is_aligned(pfn, BIT(l->order)));
	for (u64 i = 0; i < BIT(l->order); i++) {
		u64 word = l->tag + i;

		EXPECT(!m.taken[pfn + i]);
		m.taken[pfn + i] = 1;
		EXPECT(l->page[i].class == PAGE_UNMAPPED);
		if (i < 4)
			EXPECT(sim_access((u32)below(host.nr_cpus), phys_to_va(phys((pfn + i) << PAGE_SHIFT)), SIM_READ).fault ==
			       SIM_ABSENT);
		if (l->flags & UNMAPPED_ZERO)
			EXPECT(page_is_zero(pfn + i));
		temp_write(pfn + i, 0, &word, sizeof(word));
		temp_write(pfn + i, PAGE_SIZE - 8, &word, sizeof(word));
	}
	m.frames += BIT(l->order);
}

/* Whether a block of that order lies ready in the page allocator. */
static bool has_block(int nid, unsigned order)
{
	struct buddy_stats s;

	buddy_read_node_stats((unsigned)nid, &s);
	while (order < ORDER_MAX && !s.blocks[order])
		order++;
	return s.blocks[order];
}

static void do_alloc(void)
{
	struct live *l = &m.live[m.nr];
	struct temp_map_stats before, after;
	bool inject = !below(6), has;

	if (m.nr == LIVE_MAX)
		return;
	l->order = below(4) ? (unsigned)below(3) : (unsigned)below(UNMAPPED_ORDER_MAX + 1);
	l->flags = (below(2) ? UNMAPPED_ZERO : 0) | (below(4) ? 0 : UNMAPPED_NOSCRUB) |
		   (below(4) ? 0 : UNMAPPED_MAY_RECLAIM);
	l->tag = rng_next(&m.rng) | 1;
	l->slot = -1;
	/* What the cache hardly has, so that the page allocator is asked. */
	if (inject && below(4)) {
		unmapped_shrink(UNMAPPED_ALL);
		l->order = UNMAPPED_ORDER_MAX - (unsigned)below(2);
	}
	l->nid = (int)below(buddy_nodes() + 1) - 1;
	if (l->nid >= 0 && below(2))
		l->flags |= UNMAPPED_THIS_NODE;
	has = l->nid >= 0 && has_block(l->nid, l->order);
	temp_map_read_stats(&before);
	if (inject)
		alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 1 + below(3) };
	l->page = unmapped_pages_alloc(l->order, l->flags, l->nid, NULL);
	inject = alloc_inject.failed;
	m.injected += inject;
	alloc_inject = (struct alloc_inject){ 0 };
	temp_map_read_stats(&after);
	if (!(l->flags & UNMAPPED_ZERO))
		EXPECT(after.mappings == before.mappings);
	if (!l->page) {
		EXPECT(inject || (l->flags & UNMAPPED_THIS_NODE && !has));
		m.fails++;
		return;
	}
	if (has && !inject)
		EXPECT(l->page->node == l->nid);
	m.allocs++;
	m.nr++;
	claim(l);
}

/* An interrupt on this CPU: of any level, with locks held by whom it interrupted or by others. */
static struct {
	bool lists[NODES_MAX];
	struct um_magazine *magazine;
} taken;

static void interrupt_begin(void)
{
	struct um_magazine *mine = &um_magazines[host_cpu()];

	for (unsigned nid = 0; nid < buddy_nodes(); nid++) {
		taken.lists[nid] = below(2);
		if (taken.lists[nid])
			EXPECT(spin_trylock(&um_nodes[nid].lock));
	}
	taken.magazine = below(4) ? NULL : mine;
	if (taken.magazine)
		EXPECT(spin_trylock(&taken.magazine->lock));
	arch_this_cpu()->nesting = (u8)(CPU_TASK + below(CPU_NESTING_LEVELS));
}

static void interrupt_end(void)
{
	arch_this_cpu()->nesting = CPU_TASK;
	if (taken.magazine)
		spin_unlock(&taken.magazine->lock);
	for (unsigned nid = buddy_nodes(); nid-- > 0;)
		if (taken.lists[nid])
			um_unlock(&um_nodes[nid]);
	EXPECT(unmapped_deferred_now() == 0);
}

static void do_alloc_nolock(void)
{
	struct live *l = &m.live[m.nr];

	if (m.nr == LIVE_MAX)
		return;
	l->order = below(3) ? 0 : (unsigned)below(6);
	l->flags = (below(2) ? UNMAPPED_ZERO : 0) | (below(4) ? 0 : UNMAPPED_NOSCRUB);
	l->tag = rng_next(&m.rng) | 1;
	l->slot = -1;
	l->nid = (int)below(buddy_nodes() + 1) - 1;
	if (l->nid >= 0 && below(2))
		l->flags |= UNMAPPED_THIS_NODE;
	interrupt_begin();
	l->page = unmapped_pages_alloc_nolock(l->order, l->flags, l->nid, NULL);
	interrupt_end();
	m.asked_nolock++;
	if (!l->page)
		return;
	if (l->flags & UNMAPPED_THIS_NODE)
		EXPECT(l->page->node == l->nid);
	m.allocs++;
	m.nolock++;
	m.nr++;
	claim(l);
}

/* The owner maps its first frame for itself, and sees its word there. */
static void do_map(void)
{
	struct live *l = &m.live[m.nr ? below(m.nr) : 0];
	i32 slot = (i32)below(MAPPED_MAX);
	u64 va = m.area.va + (u64)slot * PAGE_SIZE;
	struct tlb_batch batch;
	struct sim_result r;

	if (!m.nr || l->slot >= 0 || m.used[slot])
		return;
	tlb_batch_init(&batch, &kernel_space);
	EXPECT(kernel_map_pages(va, &l->page, 1, fixture_attrs(), PT_4K, &batch) == 0);
	tlb_batch_finish(&batch);
	l->slot = slot;
	m.used[slot] = true;
	r = sim_access((u32)below(host.nr_cpus), va, SIM_READ);
	EXPECT(r.fault == SIM_OK && r.pa >> PAGE_SHIFT == page_to_pfn(l->page));
	/* While it is mapped it is not to be freed. */
	unmapped_pages_free(l->page, l->order);
	m.refused++;
}

static void unmap(struct live *l)
{
	struct tlb_batch batch;

	if (l->slot < 0)
		return;
	tlb_batch_init(&batch, &kernel_space);
	EXPECT(kernel_unmap(range_len(m.area.va + (u64)l->slot * PAGE_SIZE, PAGE_SIZE), &batch) == 0);
	tlb_batch_finish(&batch);
	m.used[l->slot] = false;
}

static void do_free(u32 i)
{
	struct live l = m.live[i];
	pfn_t pfn = page_to_pfn(l.page);
	bool cached = unmapped_mode() != UNMAPPED_OFF;

	unmap(&l);
	for (u64 k = 0; k < BIT(l.order); k++) {
		EXPECT(words(pfn + k)[0] == l.tag + k && words(pfn + k)[PAGE_SIZE / 8 - 1] == l.tag + k);
		m.taken[pfn + k] = 0;
	}
	if (below(2))
		page_set_class(pfn, BIT(l.order), PAGE_EXECMEM);
	if (below(3)) {
		unmapped_pages_free(l.page, l.order);
	} else {
		interrupt_begin();
		unmapped_pages_free_nolock(l.page, l.order);
		interrupt_end();
	}
	for (u64 k = 0; k < BIT(l.order); k++)
		if (!(l.flags & UNMAPPED_NOSCRUB))
			EXPECT(page_is_zero(pfn + k));
		else if (cached)
			EXPECT(words(pfn + k)[0] == l.tag + k);
	m.live[i] = m.live[--m.nr];
	m.frames -= BIT(l.order);
	m.frees++;
}

/* Frees that are none: twice, of another order, of a frame inside. */
static void do_bad_free(void)
{
	struct live *l = &m.live[m.nr ? below(m.nr) : 0];

	if (!m.nr)
		return;
	unmapped_pages_free(l->page, (l->order + 1 + (unsigned)below(UNMAPPED_ORDER_MAX)) % (UNMAPPED_ORDER_MAX + 1));
	m.refused++;
	if (l->order) {
		unmapped_pages_free(l->page + BIT(l->order - 1), l->order - 1);
		m.refused++;
	}
}

static void do_manage(void)
{
	switch (below(3)) {
	case 0:
		unmapped_shrink(below(2) ? UNMAPPED_ALL : below(3000));
		break;
	case 1:
		unmapped_set_watermarks(below(4), below(8));
		break;
	default:
		fixture_policy(below(2) ? PT_COLLAPSE_EAGER : PT_COLLAPSE_DEFERRED);
	}
}

static void check_step(void)
{
	struct unmapped_stats s;

	unmapped_read_stats(&s);
	EXPECT(unmapped_check() == 0);
	EXPECT(sim_check(true) == 0);
	EXPECT(s.bytes_in_use == m.frames * PAGE_SIZE);
}

static void step(void)
{
	u64 what = below(100);
	/* Waves: now more is taken, now more is given back. */
	bool growing = (m.allocs + m.frees) / 150 % 2 == 0;

	host_cpu_set((u32)below(host.nr_cpus));
	if (what < (growing ? 55 : 30))
		below(4) ? do_alloc() : do_alloc_nolock();
	else if (what < 85 && m.nr)
		do_free((u32)below(m.nr));
	else if (what < 90)
		do_map();
	else if (what < 94)
		do_bad_free();
	else
		do_manage();
	host_cpu_set(0);
	check_step();
}

static const struct row {
	enum unmapped_mode mode;
	const char *name;
	u32 steps, full;
} rows[] = {
	{ UNMAPPED_2M, "random.2m", 1500, 100000 },
	{ UNMAPPED_1G, "random.1g", 150, 5000 },
	{ UNMAPPED_OFF, "random.off", 800, 50000 },
};

static unsigned count_rows(void)
{
	return ARRAY_SIZE(rows);
}

static void name_row(unsigned row, char *buf, size_t size)
{
	(void)size;
	strcpy(buf, rows[row].name);
}

TEST_ROWS(unmapped_model, random, "UM1 UM2 UM3 UM4 PA8", 0, count_rows, name_row)
{
	const struct row *row = &rows[test_row()];
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	enum unmapped_mode mode = unmapped_mode();
	struct unmapped_stats before, after;
	u64 warnings = log_warnings;
	bool silent = log_silent;
	u32 steps = machine_full ? row->full : row->steps;

	memset(&m, 0, sizeof(m));
	m.rng = test_rng();
	m.taken = calloc(page_max_pfn, 1);
	REQUIRE(m.taken != NULL && fixture_area_get(&m.area, MAPPED_MAX * PAGE_SIZE, PAGE_SIZE));
	CHECK_EQ(unmapped_set_mode(row->mode), 0);
	unmapped_read_stats(&before);
	log_silent = true;
	sim_check(false);
	for (u32 i = 0; i < steps && !m.broken; i++)
		step();
	while (m.nr && !m.broken)
		do_free(m.nr - 1);
	check_step();
	log_silent = silent;
	log_warnings = warnings;
	unmapped_read_stats(&after);
	CHECK_EQ(after.allocs - before.allocs, m.allocs);
	CHECK_EQ(after.frees - before.frees, m.frees);
	CHECK_EQ(after.fails - before.fails, m.fails);
	CHECK_EQ(after.bad_frees - before.bad_frees, m.refused);
	CHECK(row->mode == UNMAPPED_OFF ? !m.nolock : m.nolock > 0);
	CHECK((m.injected || row->mode == UNMAPPED_1G) && m.refused && m.allocs > steps / 5);
	test_note("steps=%u allocs=%llu frees=%llu injected=%llu failed=%llu refused=%llu nolock=%llu of %llu", steps, (unsigned long long)m.allocs,
		  (unsigned long long)m.frees, (unsigned long long)m.injected, (unsigned long long)m.fails,
		  (unsigned long long)m.refused, (unsigned long long)m.nolock, (unsigned long long)m.asked_nolock);
	if (!m.broken)
		CHECK_EQ(unmapped_set_mode(mode), 0);
	fixture_area_put(&m.area);
	fixture_policy(policy);
	free(m.taken);
}

/* The hosted port's own control: pointers are good for what the tables allow, and only between begin and end. */
TEST_ID(unmapped_model, pointers_go_by_the_tables, "UM4")
{
	struct page *page = unmapped_pages_alloc(0, 0, 0, NULL);
	struct temp_map t;
	pfn_t pfn;

	REQUIRE(page != NULL);
	pfn = page_to_pfn(page);
	host.quiet = true;
	host.testing = false;
	temp_map_begin(&t, &pfn, 1, false);
	CHECK_EQ((u64)temp_map_ptr(&t, 5, false), HOST_ARENA + (pfn << PAGE_SHIFT) + 5);
	CHECK_EQ(host_faults(), 0);
	CHECK((u64)temp_map_ptr(&t, 5, true) != HOST_ARENA + (pfn << PAGE_SHIFT) + 5);
	CHECK_EQ(host_faults_clear(), 1);
	CHECK(temp_map_ptr(&t, PAGE_SIZE, false) != NULL);
	CHECK_EQ(host_faults_clear(), 1);
	temp_map_end(&t);
	CHECK(arch_va_ptr(t.va, false) != NULL);
	CHECK_EQ(host_faults_clear(), 1);
	CHECK(arch_va_ptr(phys_to_va(page_to_phys(page)), false) != NULL);
	CHECK_EQ(host_faults_clear(), 1);
	host.quiet = false;
	host.testing = true;
	unmapped_pages_free(page, 0);
}
