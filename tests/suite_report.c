/* SPDX-License-Identifier: MIT */
/* The small parts that figures go through: a wrong median or a digit cut off would go unnoticed in a report. */
#include "kernel/base/string.h"
#include "tests/lab/measure.h"
#include "tests/report.h"
#include "tests/test.h"

/* Room for as many samples as a cost can have. */
static u32 values[SAMPLES_MAX];

static const char *number(struct report_line *line, unsigned width, u64 value)
{
	line->length = 0;
	line_number(line, width, value);
	return line->text;
}

TEST_ID(report, numbers_are_parted_by_thousands, "RP2")
{
	struct report_line line;

	CHECK(!strcmp(number(&line, 0, 0), "0"));
	CHECK(!strcmp(number(&line, 0, 999), "999"));
	CHECK(!strcmp(number(&line, 0, 1000), "1,000"));
	CHECK(!strcmp(number(&line, 8, 12345), "  12,345"));
	CHECK(!strcmp(number(&line, 3, 1234567), "1,234,567"));
	CHECK(!strcmp(number(&line, 0, UINT64_MAX), "18,446,744,073,709,551,615"));
}

TEST_ID(report, a_line_that_is_too_long_is_cut, "RP2")
{
	struct report_line line = { .length = 0 };

	for (unsigned i = 0; i < 2 * sizeof(line.text); i++)
		line_add(&line, "%c", 'x');
	CHECK_EQ(line.length, sizeof(line.text) - 1);
	CHECK_EQ(strlen(line.text), sizeof(line.text) - 1);
}

/* How many of n values are below x, and how many equal. */
static void rank(u32 n, u32 x, u32 *below, u32 *equal)
{
	*below = *equal = 0;
	for (u32 i = 0; i < n; i++) {
		*below += values[i] < x;
		*equal += values[i] == x;
	}
}

TEST_ID(report, selection_finds_the_kth_smallest, "RP1")
{
	static const u32 spreads[] = { 1, 2, 5, 1000, UINT32_MAX };
	struct rng rng = test_rng();

	for (unsigned round = 0; round < 200; round++) {
		u32 n = 1 + (u32)rng_below(&rng, 100), k = (u32)rng_below(&rng, n);
		u32 spread = spreads[round % ARRAY_SIZE(spreads)];
		u32 below, equal, x;

		for (u32 i = 0; i < n; i++)
			values[i] = (u32)rng_below(&rng, spread);
		x = select_kth(values, n, k);
		rank(n, x, &below, &equal);
		if (!CHECK(below <= k && k < below + equal))
			test_note("n=%u k=%u spread=%u", n, k, spread);
	}
}

/* In order, in reverse order, all alike: the shapes that make a bad choice of pivot slow, or never end. */
TEST_ID(report, selection_of_the_most_samples, "RP1")
{
	for (u32 i = 0; i < SAMPLES_MAX; i++)
		values[i] = i;
	CHECK_EQ(select_kth(values, SAMPLES_MAX, 77), 77);
	for (u32 i = 0; i < SAMPLES_MAX; i++)
		values[i] = SAMPLES_MAX - i;
	CHECK_EQ(select_kth(values, SAMPLES_MAX, SAMPLES_MAX - 1), SAMPLES_MAX);
	for (u32 i = 0; i < SAMPLES_MAX; i++)
		values[i] = 5;
	CHECK_EQ(select_kth(values, SAMPLES_MAX, SAMPLES_MAX / 2), 5);
}

TEST_ID(report, a_cost_sums_up_its_samples, "RP1")
{
	struct samples samples = { .ticks = values };
	struct tlb_stats before = { .nr_tlb_local_flush_all = 5, .nr_tlb_local_flush_one = 7, .nr_tlb_remote_flush = 1 };
	struct tlb_stats after = { .nr_tlb_local_flush_all = 6, .nr_tlb_local_flush_one = 17, .nr_tlb_remote_flush = 4,
				   .pages_invalidated = 9 };
	u32 overhead = measure_overhead();
	struct cost c = cost_of(&samples, &before, &after);

	CHECK_EQ(c.nr, 0);
	CHECK_EQ(c.median, 0);
	samples_add(&samples, 1000, 1000 + overhead + 40);
	samples_add(&samples, 0, overhead + 10);
	samples_add(&samples, 0, overhead + 1000);
	samples_add(&samples, 0, overhead / 2);		/* less than reading the clock costs: nothing, not a huge number */
	c = cost_of(&samples, &before, &after);
	CHECK_EQ(c.nr, 4);
	CHECK_EQ(c.min, 0);
	CHECK_EQ(c.max, 1000);
	CHECK_EQ(c.median, 40);
	CHECK_EQ(c.mean, 262);
	CHECK_EQ(c.flushes, 11);
	CHECK_EQ(c.ipis, 3);
	CHECK_EQ(c.pages, 9);
}

TEST_ID(report, samples_beyond_the_room_are_dropped, "RP1")
{
	struct samples samples = { .ticks = values, .nr = SAMPLES_MAX };

	samples_add(&samples, 0, 100);
	CHECK_EQ(samples.nr, SAMPLES_MAX);
}
