/* SPDX-License-Identifier: MIT */
/*
 * What pages of the unmapped cache cost: `# cost` lines (RP1) beside what PEERS measures of others. A pair is an allocation
 * and its free, warm: the page is on the CPU's magazine.
 */
#include "kernel/base/fmt.h"
#include "mm/buddy.h"
#include "mm/temp_map.h"
#include "mm/unmapped.h"
#include "tests/fixture.h"
#include "tests/lab/measure.h"
#include "tests/test.h"

#define REPEATS 64u

static u32 ticks[SAMPLES_MAX];

enum what {
	PAIR,		/* alloc and free */
	PAIR_DIRTY,	/* the same, of a page that was not scrubbed the last time: both zeroing and scrubbing take place */
	ZERO_FRAME,	/* temp_zero() of one frame */
	REFILL,		/* the first page of an empty cache */
	RETURN,		/* a whole block goes back */
};

static const struct row {
	const char *op;
	enum what what;
	u8 order;
	unsigned flags;
	u32 goal;	/* instructions, release build; 0: none */
} rows[] = {
	{ "um_pair.plain", PAIR, 0, UNMAPPED_NOSCRUB, 300 },
	{ "um_pair.scrub", PAIR, 0, 0, 1000 },
	{ "um_pair.zero_and_scrub", PAIR_DIRTY, 0, UNMAPPED_ZERO, 1700 },
	{ "um_pair.zero_kept_clean", PAIR, 0, UNMAPPED_ZERO, 1000 },
	{ "um_pair.order9", PAIR, 9, UNMAPPED_NOSCRUB, 0 },
	{ "temp_zero", ZERO_FRAME, 0, 0, 0 },
	{ "um_refill.2m", REFILL, 0, UNMAPPED_NOSCRUB, 0 },
	{ "um_return.2m", RETURN, 0, UNMAPPED_NOSCRUB, 0 },
};

static unsigned count_rows(void)
{
	return ARRAY_SIZE(rows);
}

static void name_row(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "%s", rows[row].op);
}

static void pair(struct samples *s, const struct row *row)
{
	struct page *page;
	u64 start = arch_cycles();

	page = unmapped_pages_alloc(row->order, row->flags, -1, NULL);
	if (!CHECK(page != NULL))
		return;
	unmapped_pages_free(page, row->order);
	if (s)
		samples_add(s, start, arch_cycles());
}

static void sample(struct samples *s, const struct row *row)
{
	static const struct row dirty = { .flags = UNMAPPED_NOSCRUB };
	struct page *page;
	u64 start;

	switch (row->what) {
	case PAIR_DIRTY:
		pair(NULL, &dirty);
		/* fall through */
	case PAIR:
		pair(s, row);
		return;
	case ZERO_FRAME:
		page = unmapped_pages_alloc(0, UNMAPPED_NOSCRUB, -1, NULL);
		if (!CHECK(page != NULL))
			return;
		start = arch_cycles();
		temp_zero(page_to_pfn(page), 1);
		samples_add(s, start, arch_cycles());
		unmapped_pages_free(page, 0);
		return;
	case REFILL:
	case RETURN:
		unmapped_shrink(UNMAPPED_ALL);
		start = arch_cycles();
		page = unmapped_pages_alloc(0, row->flags, -1, NULL);
		if (!CHECK(page != NULL))
			return;
		if (row->what == REFILL)
			samples_add(s, start, arch_cycles());
		unmapped_pages_free(page, 0);
		start = arch_cycles();
		unmapped_shrink(UNMAPPED_ALL);
		if (row->what == RETURN)
			samples_add(s, start, arch_cycles());
	}
}

TEST_ROWS(costs_unmapped, rows, "UM2 UM4", TEST_FIGURES, count_rows, name_row)
{
	const struct row *row = &rows[test_row()];
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	enum unmapped_mode mode = unmapped_mode();
	struct samples s = { ticks, 0 };
	struct tlb_stats before, after;
	struct cost cost;

	CHECK_EQ(unmapped_set_mode(UNMAPPED_2M), 0);
	for (unsigned i = 0; i < 3; i++)
		pair(NULL, row);
	tlb_read_stats(&before);
	for (unsigned i = 0; i < REPEATS; i++)
		sample(&s, row);
	tlb_read_stats(&after);
	cost = cost_of(&s, &before, &after);
	cost_write(row->op, "policy=um-2m", &cost);
	CHECK_EQ(cost.nr, REPEATS);
	/* A warm page flushes nothing of the kernel's space. */
	if (row->what < REFILL)
		CHECK_EQ(after.batches, before.batches);
	if (row->goal && measure_exact() && !CONFIG_DEBUG)
		CHECK(cost.median <= row->goal);
	CHECK_EQ(unmapped_set_mode(mode), 0);
	fixture_policy(policy);
}
