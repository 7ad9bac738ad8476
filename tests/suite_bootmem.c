/* SPDX-License-Identifier: MIT */
/* Boot memory (mm/bootmem.h). It is empty once the machine runs, so the tests fill it with ranges that nobody touches. */
#include "mm/bootmem.h"

#include "kernel/base/bits.h"
#include "kernel/base/errno.h"
#include "kernel/base/string.h"
#include "tests/test.h"

/* Frames. */
static struct range frames(u64 start, u64 end)
{
	return range(start << PAGE_SHIFT, end << PAGE_SHIFT);
}

static void check_range(unsigned i, u64 start, u64 end)
{
	struct range r = { 0, 0 };

	CHECK(bootmem_range(i, &r));
	CHECK_EQ(r.start, start << PAGE_SHIFT);
	CHECK_EQ(r.end, end << PAGE_SHIFT);
}

static unsigned count(void)
{
	struct range r;
	unsigned n = 0;

	while (bootmem_range(n, &r))
		n++;
	return n;
}

TEST(bootmem, is_empty_after_boot)
{
	phys_t pa;

	CHECK_EQ(count(), 0);
	CHECK_EQ(bootmem_free_bytes(), 0);
	CHECK_EQ(bootmem_alloc(PAGE_SIZE, PAGE_SIZE, 0, &pa), -ENOMEM);
}

TEST(bootmem, ranges_are_sorted_and_merged)
{
	CHECK_EQ(bootmem_add(frames(50, 60)), 0);
	CHECK_EQ(bootmem_add(frames(10, 20)), 0);
	CHECK_EQ(bootmem_add(frames(30, 40)), 0);
	CHECK_EQ(count(), 3);
	check_range(0, 10, 20);
	check_range(2, 50, 60);
	CHECK_EQ(bootmem_add(frames(20, 30)), 0);	/* touches both */
	CHECK_EQ(count(), 2);
	check_range(0, 10, 40);
	CHECK_EQ(bootmem_add(frames(5, 10)), 0);
	CHECK_EQ(bootmem_add(frames(60, 61)), 0);
	CHECK_EQ(count(), 2);
	check_range(0, 5, 40);
	check_range(1, 50, 61);
	CHECK_EQ(bootmem_free_bytes(), 46 * PAGE_SIZE);
	bootmem_reset();
	CHECK_EQ(count(), 0);
}

TEST(bootmem, overlaps_are_refused)
{
	static const struct {
		u64 start, end;
	} bad[] = { { 10, 20 }, { 9, 11 }, { 19, 21 }, { 12, 13 }, { 0, 100 } };

	CHECK_EQ(bootmem_add(frames(10, 20)), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		CHECK_EQ(bootmem_add(frames(bad[i].start, bad[i].end)), -EINVAL);
	CHECK_EQ(count(), 1);
	check_range(0, 10, 20);
	bootmem_reset();
}

TEST(bootmem, partial_frames_are_dropped_and_reserved_whole)
{
	CHECK_EQ(bootmem_add(range(0x1001, 0x5fff)), 0);	/* frames 2, 3, 4 are whole */
	check_range(0, 2, 5);
	CHECK_EQ(bootmem_add(range(0x10001, 0x10fff)), 0);
	CHECK_EQ(count(), 1);
	CHECK_EQ(bootmem_reserve(range(0x3800, 0x3801)), 0);
	CHECK_EQ(count(), 2);
	check_range(0, 2, 3);
	check_range(1, 4, 5);
	bootmem_reset();
}

TEST(bootmem, reserve_cuts_every_way)
{
	CHECK_EQ(bootmem_add(frames(10, 20)), 0);
	CHECK_EQ(bootmem_add(frames(30, 40)), 0);
	CHECK_EQ(bootmem_reserve(frames(0, 10)), 0);	/* outside */
	CHECK_EQ(bootmem_reserve(frames(20, 30)), 0);
	CHECK_EQ(bootmem_reserve(frames(15, 15)), 0);	/* empty */
	CHECK_EQ(count(), 2);
	CHECK_EQ(bootmem_reserve(frames(8, 12)), 0);	/* the front */
	check_range(0, 12, 20);
	CHECK_EQ(bootmem_reserve(frames(18, 32)), 0);	/* an end and a front */
	check_range(0, 12, 18);
	check_range(1, 32, 40);
	CHECK_EQ(bootmem_reserve(frames(14, 16)), 0);	/* the middle */
	CHECK_EQ(count(), 3);
	check_range(0, 12, 14);
	check_range(1, 16, 18);
	CHECK_EQ(bootmem_reserve(frames(13, 39)), 0);	/* whole ranges and both edges */
	CHECK_EQ(count(), 2);
	check_range(0, 12, 13);
	check_range(1, 39, 40);
	bootmem_reset();
	CHECK_EQ(bootmem_free_bytes(), 0);
}

TEST(bootmem, alloc_takes_the_highest_that_fits)
{
	phys_t pa;

	CHECK_EQ(bootmem_add(frames(1024, 1124)), 0);
	CHECK_EQ(bootmem_add(frames(4090, 4100)), 0);
	CHECK_EQ(bootmem_alloc(1, PAGE_SIZE, 0, &pa), 0);
	CHECK_EQ(pa.raw >> PAGE_SHIFT, 4099);
	CHECK_EQ(bootmem_alloc(20 * PAGE_SIZE, PAGE_SIZE, 0, &pa), 0);	/* only the lower one has so many */
	CHECK_EQ(pa.raw >> PAGE_SHIFT, 1104);
	CHECK_EQ(bootmem_alloc(2 * PAGE_SIZE, 16 * PAGE_SIZE, 0, &pa), 0);	/* 4096: leaves 4098 behind it */
	CHECK_EQ(pa.raw >> PAGE_SHIFT, 4096);
	check_range(2, 4098, 4099);
	CHECK_EQ(bootmem_alloc(PAGE_SIZE, PAGE_SIZE, 1050 << PAGE_SHIFT, &pa), 0);
	CHECK_EQ(pa.raw >> PAGE_SHIFT, 1049);
	CHECK_EQ(bootmem_alloc(PAGE_SIZE, PAGE_SIZE, 1024 << PAGE_SHIFT, &pa), -ENOMEM);
	CHECK_EQ(bootmem_alloc(200 * PAGE_SIZE, PAGE_SIZE, 0, &pa), -ENOMEM);
	CHECK_EQ(bootmem_alloc(0, PAGE_SIZE, 0, &pa), -ENOMEM);
	CHECK_EQ(bootmem_alloc(PAGE_SIZE, 8 * MIB, 0, &pa), -ENOMEM);
	CHECK_EQ(bootmem_free_bytes(), (110 - 1 - 20 - 2 - 1) * PAGE_SIZE);
	bootmem_reset();
}

TEST(bootmem, full_list_changes_nothing)
{
	unsigned n = 0;
	phys_t pa;
	u64 bytes;

	while (!bootmem_add(frames(10 * n, 10 * n + 5)))
		n++;
	CHECK_EQ(count(), n);
	CHECK_EQ(bootmem_add(frames(10 * n, 10 * n + 5)), -ENOSPC);
	bytes = bootmem_free_bytes();
	CHECK_EQ(bootmem_reserve(frames(2, 3)), -ENOSPC);	/* would leave two ranges where one was */
	CHECK_EQ(bootmem_free_bytes(), bytes);
	/* The highest place would be 8 frames up and leave something on both sides. */
	CHECK_EQ(bootmem_alloc(2 * PAGE_SIZE, 4 * PAGE_SIZE, 0, &pa), 0);
	CHECK_EQ(bootmem_free_bytes(), bytes - 2 * PAGE_SIZE);
	CHECK_EQ(count(), n);
	CHECK_EQ(bootmem_add(frames(5, 10)), 0);	/* joins two: needs no room */
	CHECK_EQ(count(), n - 1);
	bootmem_reset();
	CHECK_EQ(count(), 0);
}

#define MODEL_FRAMES 2048u

/* Compare the list with a flag per frame: sorted, none touching another, nothing missing. */
static u64 differences(const u8 *model)
{
	struct range r, last = { 0, 0 };
	u64 wrong = 0, free = 0;
	static u8 seen[MODEL_FRAMES];

	memset(seen, 0, sizeof(seen));
	for (unsigned i = 0; bootmem_range(i, &r); i++, last = r) {
		wrong += r.start >= r.end || (i && r.start <= last.end) || r.end > (u64)MODEL_FRAMES << PAGE_SHIFT;
		for (u64 f = r.start >> PAGE_SHIFT; f < r.end >> PAGE_SHIFT && f < MODEL_FRAMES; f++)
			seen[f] = 1;
	}
	for (unsigned f = 0; f < MODEL_FRAMES; f++) {
		wrong += seen[f] != model[f];
		free += model[f];
	}
	return wrong + (bootmem_free_bytes() != free << PAGE_SHIFT);
}

static bool all_are(const u8 *model, u64 start, u64 nr, u8 value)
{
	for (u64 f = start; f < start + nr; f++)
		if (f >= MODEL_FRAMES || model[f] != value)
			return false;
	return true;
}

TEST(bootmem, random_operations_match_a_flat_model)
{
	static u8 model[MODEL_FRAMES];
	struct rng rng = test_rng();
	u64 wrong = 0;

	memset(model, 0, sizeof(model));
	for (unsigned i = 0; i < 3000; i++) {
		u64 start = rng_below(&rng, MODEL_FRAMES), nr = 1 + rng_below(&rng, 40), align = 1ull << rng_below(&rng, 6);
		phys_t pa;

		nr = MIN(nr, MODEL_FRAMES - start);
		switch (rng_below(&rng, 3)) {
		case 0:
			wrong += (bootmem_add(frames(start, start + nr)) == 0) != all_are(model, start, nr, 0);
			if (all_are(model, start, nr, 0))
				memset(model + start, 1, nr);
			break;
		case 1:
			wrong += bootmem_reserve(frames(start, start + nr)) != 0;
			memset(model + start, 0, nr);
			break;
		default: {
			u64 at = MODEL_FRAMES;	/* the highest aligned place */

			do {
				at -= align;
			} while (at && !all_are(model, at, nr, 1));
			if (bootmem_alloc(nr << PAGE_SHIFT, align << PAGE_SHIFT, 0, &pa)) {
				wrong += all_are(model, at, nr, 1);
				break;
			}
			wrong += pa.raw >> PAGE_SHIFT != at;
			memset(model + at, 0, nr);
			break;
		}
		}
		wrong += differences(model);
	}
	CHECK_EQ(wrong, 0);
	bootmem_reset();
}
