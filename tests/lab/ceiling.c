/* SPDX-License-Identifier: MIT */
/*
 * From how many pages on is it cheaper to forget everything (SPEC TL1)? Batches of 1 to 512 pages are flushed under several values of
 * tlb_flush_ceiling, and each time a set of other pages is read afterwards, as whoever goes on working would: what a full flush costs is
 * what has to be translated again.
 *
 * Which translations were lost the CPU says itself. Their leaves lose their A bits, in the tables only, while the TLB has them: a CPU that
 * translates by its TLB leaves A alone, one that walks sets it (SDM 3A 4.8). So this counts walks on any machine, without hardware
 * counters. All pages are mapped to one frame: there is nothing to collapse, and nothing else to be missed than translations.
 */
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "mm/arch.h"
#include "mm/buddy.h"
#include "tests/fixture.h"
#include "tests/lab/lab.h"
#include "tests/test.h"

#define REPEATS 16u
#define REPEATS_MANY 4u		/* with several CPUs, where ticks say nothing */
#define TOUCHED 256u		/* pages that are read afterwards */
#define BATCH_MAX 512u
#define NEVER UINT32_MAX

static const u32 ceilings[] = { 1, 8, 32, 128, NEVER };
static const u32 batches[] = { 1, 2, 4, 8, 16, 32, 64, 128, 256, BATCH_MAX };

/* Two tables of 4K entries: the pages that are flushed, and those that are read. */
struct ground {
	struct fixture_area area;
	struct page *frame;
	u64 touched;		/* address of the first page that is read */
	pte_t *slots;		/* its entry, and behind it those of the others */
};

/* What one batch cost, all repetitions together, and in the median. */
struct figures {
	struct tlb_stats before, after;
	u64 walked;
	u32 flush, touch;	/* ticks */
};

static u32 flush_ticks[SAMPLES_MAX], touch_ticks[SAMPLES_MAX];
/* Ticks of a flush and of what follows, by row. */
static u32 totals[ARRAY_SIZE(ceilings)][ARRAY_SIZE(batches)];

static u32 repeats(void)
{
	return measure_cpus() > 1 ? REPEATS_MANY : REPEATS;
}

static bool ground_open(struct ground *g)
{
	u64 attrs = fixture_attrs() & ~PTE_W;

	g->frame = alloc_page(0);
	if (!CHECK(g->frame != NULL) || !fixture_area_get(&g->area, 4 * MIB, 2 * MIB))
		return false;
	g->touched = g->area.va + 2 * MIB;
	for (u64 i = 0; i < BATCH_MAX + TOUCHED; i++)
		if (!CHECK_EQ(fixture_change(PT_OP_MAP, range_len(g->area.va + (i << PAGE_SHIFT), PAGE_SIZE),
					     page_to_phys(g->frame).raw, attrs, 0), 0))
			return false;
	g->slots = fixture_leaf(g->touched).pte;
	pt_settle(&kernel_space);
	return true;
}

static void ground_close(struct ground *g)
{
	if (g->area.area)
		fixture_area_put(&g->area);
	if (g->frame)
		free_page(g->frame);
	pt_settle(&kernel_space);
}

static __noinline void touch(const struct ground *g)
{
	for (u64 i = 0; i < TOUCHED; i++)
		(void)*(volatile u64 *)arch_va_ptr(g->touched + (i << PAGE_SHIFT), false);
}

/* The leaves of the pages that are read, with A or without it. Returns how many were different. */
static u32 set_accessed(const struct ground *g, u64 accessed)
{
	u32 changed = 0;

	spin_lock(&kernel_space.lock);
	for (u32 i = 0; i < TOUCHED; i++) {
		pte_t now = { load_relaxed(&g->slots[i].raw) }, want = { (now.raw & ~PTE_A) | accessed };

		if (now.raw == want.raw)
			continue;
		arch_pte_store(g->slots + i, want, PT_4K);
		changed++;
	}
	spin_unlock(&kernel_space.lock);
	return changed;
}

/* Change the rights of n pages, flush that, and go on reading. */
static bool flush_once(const struct ground *g, u32 n, bool writable, struct samples *flush, struct samples *after, u64 *walked)
{
	struct pt_change c = {
		.op = PT_OP_PROTECT,
		.va = range_len(g->area.va, (u64)n << PAGE_SHIFT),
		.set = writable ? PTE_W : 0,
		.clear = writable ? 0 : PTE_W,
	};
	struct tlb_batch batch;
	u64 start, flushed, end;
	int rc;

	touch(g);
	CHECK_EQ(set_accessed(g, 0), TOUCHED);
	tlb_batch_init(&batch, &kernel_space);
	rc = pt_change(&kernel_space, &c, &batch);
	start = arch_cycles();
	tlb_batch_finish(&batch);
	flushed = arch_cycles();
	touch(g);
	end = arch_cycles();
	samples_add(flush, start, flushed);
	samples_add(after, flushed, end);
	*walked += TOUCHED - set_accessed(g, PTE_A);
	return CHECK_EQ(rc, 0);
}

static void measure(const struct ground *g, u32 n, struct figures *f)
{
	struct samples flush = { flush_ticks, 0 }, after = { touch_ticks, 0 };

	f->walked = 0;
	tlb_read_stats(&f->before);
	for (u32 i = 0; i < repeats(); i++)
		if (!flush_once(g, n, i % 2 == 0, &flush, &after, &f->walked))
			return;
	tlb_read_stats(&f->after);
	f->flush = cost_of(&flush, &f->before, &f->after).median;
	f->touch = cost_of(&after, &f->before, &f->after).median;
}

static void write_figures(u32 ceiling, u32 n, const struct figures *f)
{
	const struct tlb_stats *b = &f->before, *a = &f->after;
	struct report_line line = { .length = 0 };

	line_add(&line, "lab workload=flush policy=ceiling-");
	if (ceiling == NEVER)
		line_add(&line, "never");
	else
		line_add(&line, "%u", ceiling);
	line_add(&line, " cpus=%u pages=%u n=%u flush_all=%llu flush_one=%llu pages_invalidated=%llu remote_flush=%llu touched=%u walked=%llu",
		 measure_cpus(), n, repeats(),
		 (unsigned long long)(a->nr_tlb_local_flush_all - b->nr_tlb_local_flush_all),
		 (unsigned long long)(a->nr_tlb_local_flush_one - b->nr_tlb_local_flush_one),
		 (unsigned long long)(a->pages_invalidated - b->pages_invalidated),
		 (unsigned long long)(a->nr_tlb_remote_flush - b->nr_tlb_remote_flush), TOUCHED * repeats(),
		 (unsigned long long)f->walked);
	if (measure_cpus() == 1)
		line_add(&line, " flush_%s=%u touch_%s=%u", measure_unit(), f->flush, measure_unit(), f->touch);
	line_write(&line);
}

/* All CPUs do the same: by pages up to the ceiling, in full beyond it. A full flush leaves nothing that need not be walked for. */
static void check_figures(u32 ceiling, u32 n, const struct figures *f)
{
	u64 all = f->after.nr_tlb_local_flush_all - f->before.nr_tlb_local_flush_all;
	u64 pages = f->after.pages_invalidated - f->before.pages_invalidated;
	u64 flushes = (u64)repeats() * measure_cpus();

	CHECK_EQ(all, n > ceiling ? flushes : 0);
	CHECK_EQ(pages, n > ceiling ? 0 : flushes * n);
	if (n > ceiling)
		CHECK_EQ(f->walked, (u64)TOUCHED * repeats());
}

/* The largest batch up to which pages were no dearer than everything, each flush with the reading behind it. */
static u32 cheaper_up_to(void)
{
	u32 best = 1;

	for (unsigned i = 1; i < ARRAY_SIZE(batches) && totals[ARRAY_SIZE(ceilings) - 1][i] <= totals[0][i]; i++)
		best = batches[i];
	return best;
}

static unsigned count_ceilings(void)
{
	return ARRAY_SIZE(ceilings);
}

static void name_ceiling(unsigned row, char *buf, size_t size)
{
	if (ceilings[row] == NEVER)
		fmt_print(buf, size, "never");
	else
		fmt_print(buf, size, "ceiling%u", ceilings[row]);
}

TEST_ROWS(costs_flush, ceiling, "TL1 TL2 RP1", TEST_FIGURES, count_ceilings, name_ceiling)
{
	u32 before = tlb_flush_ceiling, ceiling = ceilings[test_row()];
	struct ground g = { 0 };

	if (ground_open(&g)) {
		tlb_flush_ceiling = ceiling;
		for (unsigned i = 0; i < ARRAY_SIZE(batches); i++) {
			struct figures f;

			measure(&g, batches[i], &f);
			write_figures(ceiling, batches[i], &f);
			check_figures(ceiling, batches[i], &f);
			totals[test_row()][i] = f.flush + f.touch;
		}
		tlb_flush_ceiling = before;
	}
	ground_close(&g);
	if (ceiling == NEVER && totals[0][0] && measure_cpus() == 1)
		test_note("page by page was no dearer than everything up to pages=%u touched=%u unit=%s, the ceiling is %u",
			  cheaper_up_to(), TOUCHED, measure_unit(), before);
}

/*
 * The control: who walks sets A, and who need not does not. A TLB may lose what it had at any time, but not each time all of it.
 */
TEST_FLAGS(costs_flush, walks_are_counted, "TL1", TEST_FIGURES)
{
	struct ground g = { 0 };
	u32 kept = 0;

	if (ground_open(&g)) {
		for (u32 i = 0; i < repeats() && !kept; i++) {
			touch(&g);
			CHECK_EQ(set_accessed(&g, 0), TOUCHED);
			touch(&g);
			kept = set_accessed(&g, PTE_A);
		}
		CHECK(kept > 0);
		test_note("touched=%u walked_without_a_flush=%u", TOUCHED, TOUCHED - kept);
		touch(&g);
		CHECK_EQ(set_accessed(&g, 0), TOUCHED);
		arch_tlb_flush_all();
		touch(&g);
		CHECK_EQ(set_accessed(&g, PTE_A), 0);
	}
	ground_close(&g);
}
