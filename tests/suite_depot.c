/* SPDX-License-Identifier: MIT */
/* The stack depot (mm/depot.h): each stack once, all of them found again, memory given back. */
#include "mm/depot.h"

#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "tests/test.h"

#define STACKS 3000u

static struct depot depot;
static u32 numbers[STACKS];

/* The n-th stack: depth and addresses follow from n; many begin alike. */
static unsigned make_stack(u64 n, u64 *out)
{
	unsigned nr = 1 + n % DEPOT_DEPTH_MAX;

	for (unsigned i = 0; i < nr; i++)
		out[i] = 0xffffffff80000000 + (i + 1 == nr ? n : i) * 16;
	return nr;
}

static bool is_stack(u32 number, u64 n)
{
	u64 want[DEPOT_DEPTH_MAX];
	unsigned nr = make_stack(n, want);
	const u64 *got;

	return depot_get(&depot, number, &got) == nr && !memcmp(got, want, nr * sizeof(u64));
}

static u32 put(u64 n)
{
	u64 stack[DEPOT_DEPTH_MAX];
	unsigned nr = make_stack(n, stack);

	return depot_put(&depot, stack, nr);
}

TEST_ID(depot, each_stack_is_kept_once, "PA6")
{
	u64 free, wrong = 0, walked = 0;

	buddy_drain();
	free = buddy_free_frames();
	for (u32 n = 0; n < STACKS; n++)
		numbers[n] = put(n);
	for (u32 n = 0; n < STACKS; n++)
		wrong += !numbers[n] || put(n) != numbers[n] || !is_stack(numbers[n], n);
	CHECK_EQ(wrong, 0);
	CHECK_EQ(depot.stacks, STACKS);
	CHECK_EQ(depot.lost + depot.spoilt, 0);
	/* Each once by its number, and by a walk over all, with notes of its own. */
	for (u32 n = 0; n < STACKS; n++)
		depot_notes(&depot, numbers[n])[n % DEPOT_NOTES] += n + 1;
	for (u32 number = depot_next(&depot, 0); number; number = depot_next(&depot, number)) {
		u64 *notes = depot_notes(&depot, number);
		u64 n = notes[0] + notes[1] + notes[2] + notes[3] - 1;

		walked++;
		wrong += n >= STACKS || numbers[n] != number;
	}
	CHECK_EQ(walked, STACKS);
	CHECK_EQ(wrong, 0);
	depot_reset(&depot);
	buddy_drain();
	CHECK_EQ(buddy_free_frames(), free);
	CHECK_EQ(depot_next(&depot, 0), 0);
}

/* What was taken ahead is enough for some hundreds of stacks. */
TEST_ID(depot, storage_taken_ahead, "PA6")
{
	u64 frames;

	CHECK(put(1) != 0);
	CHECK(depot_reserve(&depot, 4));
	frames = depot.frames;
	CHECK_EQ(frames, 5u << DEPOT_POOL_ORDER);
	for (u32 n = 0; n < 400; n++)
		CHECK(put(n) != 0);
	CHECK_EQ(depot.frames, frames);
	CHECK(depot_reserve(&depot, 4));
	CHECK(depot.frames > frames);
	frames = depot.frames;
	alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 1 };
	CHECK(!depot_reserve(&depot, 5));
	alloc_inject.armed = 0;
	CHECK_EQ(depot.frames, frames);
	depot_reset(&depot);
}

TEST_ID(depot, unknown_numbers_and_deep_stacks, "PA6")
{
	u64 deep[DEPOT_DEPTH_MAX + 4];
	const u64 *got;
	u32 number;

	CHECK_EQ(depot_get(&depot, 0, &got), 0);
	CHECK_EQ(depot_get(&depot, 1, &got), 0);
	CHECK_EQ(depot_get(&depot, UINT32_MAX, &got), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(deep); i++)
		deep[i] = i + 1;
	number = depot_put(&depot, deep, ARRAY_SIZE(deep));
	REQUIRE(number);
	CHECK_EQ(depot_get(&depot, number, &got), DEPOT_DEPTH_MAX);
	CHECK_EQ(got[DEPOT_DEPTH_MAX - 1], DEPOT_DEPTH_MAX);
	CHECK_EQ(depot_put(&depot, deep, DEPOT_DEPTH_MAX), number);
	CHECK_EQ(depot_put(&depot, deep, 0), 0);
	CHECK_EQ(depot_get(&depot, UINT32_MAX, &got), 0);
	depot_reset(&depot);
}

/* No storage: the stack has no number, that is counted, and the next one may have one again. */
TEST_ID(depot, no_memory_is_counted, "PA6 PA8")
{
	alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 1 };
	CHECK_EQ(put(1), 0);
	alloc_inject.armed = 0;
	CHECK_EQ(alloc_inject.failed, 1);
	CHECK_EQ(depot.lost, 1);
	CHECK(is_stack(put(1), 1));
	depot_reset(&depot);
}
