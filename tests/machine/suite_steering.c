/* SPDX-License-Identifier: MIT */
/*
 * What steering is worth (SPEC PA1): mixed churn in which one request in twenty takes its frames out of the direct map, once with
 * steering and once without, the same requests. Counted are the 2 MiB blocks and the gigabytes whose leaf was ever
 * split by it: each block that frames were taken out of.
 */
#include "kernel/base/rng.h"
#include "kernel/base/string.h"
#include "kernel/cmdline.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "tests/fixture.h"
#include "tests/report.h"
#include "tests/test.h"

#define OPS 200000u
#define OPS_SOAK 10000000u
#define SLOTS 16384u
#define BLOCKS_MAX 65536u

struct slot {
	struct page *page;
	u8 order;
	bool unmapped;
};

static struct {
	struct slot slots[SLOTS];
	u64 split[BLOCKS_MAX / 64], split_1g[BLOCKS_MAX / 512 / 64 + 1];
	u64 blocks, gigabytes, unmapped;
	u64 failed;
} s;

static void mark(u64 *bits, u64 *count, u64 bit)
{
	u64 mask = 1ull << bit % 64;

	*count += !(bits[bit / 64] & mask);
	bits[bit / 64] |= mask;
}

static void take(struct slot *slot, struct rng *rng)
{
	u64 r = rng_below(rng, 512);
	unsigned order = r ? (unsigned)__builtin_clzll(r) - 55 : 9;	/* 0 every other time, 1 every fourth */
	bool unmaps = !rng_below(rng, 20);
	pfn_t pfn;

	slot->order = (u8)MIN(order, 6u);
	slot->page = alloc_pages(slot->order, unmaps ? ALLOC_UNMAPS : 0);
	slot->unmapped = unmaps;
	if (!slot->page) {
		s.failed++;
		return;
	}
	if (!unmaps)
		return;
	pfn = page_to_pfn(slot->page);
	s.unmapped++;
	if (set_direct_map_invalid(pfn, 1ull << slot->order)) {
		s.failed++;
		free_pages(slot->page, slot->order);
		slot->page = NULL;
		return;
	}
	if (pfn >> BLOCK_ORDER < BLOCKS_MAX) {
		mark(s.split, &s.blocks, pfn >> BLOCK_ORDER);
		mark(s.split_1g, &s.gigabytes, pfn >> ORDER_1G);
	}
}

static void give(struct slot *slot)
{
	if (slot->unmapped && set_direct_map_default(page_to_pfn(slot->page), 1ull << slot->order))
		s.failed++;
	free_pages(slot->page, slot->order);
	slot->page = NULL;
}

static void churn(bool steering, u64 ops, struct rng rng)
{
	memset(&s, 0, sizeof(s));
	buddy_drain();
	buddy_steering = steering;
	for (u64 i = 0; i < ops; i++) {
		struct slot *slot = &s.slots[rng_below(&rng, SLOTS)];

		if (slot->page)
			give(slot);
		else
			take(slot, &rng);
	}
	for (unsigned i = 0; i < SLOTS; i++)
		if (s.slots[i].page)
			give(&s.slots[i]);
	buddy_steering = true;
	pt_settle(&kernel_space);	/* tables that wait to be collapsed are frames */
	buddy_drain();
}

TEST_ID(steering, splits_few_blocks, "PA1 UM2")
{
	struct report_steering r = { .operations = cmdline.soak ? OPS_SOAK : OPS };
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	u64 free;

	pt_settle(&kernel_space);
	free = buddy_free_frames();
	for (unsigned on = 0; on < 2; on++) {
		churn(on, r.operations, test_rng());
		CHECK_EQ(s.failed, 0);
		CHECK_EQ(buddy_free_frames(), free);
		CHECK(!on || s.unmapped == r.unmapped);
		r.unmapped = s.unmapped;
		r.blocks[on] = s.blocks;
		r.gigabytes[on] = s.gigabytes;
	}
	test_note("steering_off_blocks=%llu steering_on_blocks=%llu", (unsigned long long)r.blocks[0], (unsigned long long)r.blocks[1]);
	CHECK(r.blocks[0] > 0);
	CHECK(r.blocks[1] * 2 <= r.blocks[0]);
	CHECK(r.gigabytes[1] * 2 <= r.gigabytes[0] || (r.gigabytes[0] < 2 && r.gigabytes[1] <= r.gigabytes[0]));
	report_steering = r;
	fixture_policy(policy);
}
