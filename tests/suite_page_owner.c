/* SPDX-License-Identifier: MIT */
/* Page owner (mm/page_owner.h): planted leaks are found, by the stack that made them. */
#include "mm/page_owner.h"

#include "kernel/base/errno.h"
#include "kernel/base/log.h"
#include "mm/buddy.h"
#include "tests/test.h"

/* What a planted leak comes from: the return address that is on no other stack. */
static __noinline struct page *plant(unsigned order, u64 *from)
{
	struct page *page = alloc_pages(order, 0);

	*from = (u64)__builtin_return_address(0);
	return page;
}

static u64 from_one, from_other;

/* Not unrolled: all from one place. */
static __noinline void plant_three(struct page *pages[3])
{
	for (volatile unsigned i = 0; i < 3; i++)
		pages[i] = plant(1, &from_one);
}

static __noinline struct page *plant_other(unsigned order)
{
	struct page *page = plant(order, &from_other);

	fence_full();		/* a call in the last place would be a jump */
	return page;
}

static bool is_from(const struct page_owner_row *row, u64 from)
{
	for (unsigned i = 0; i < row->depth; i++)
		if (row->stack[i] == from)
			return true;
	return false;
}

static struct {
	unsigned rows;
	u64 blocks, frames;
	unsigned by_one, by_other;
} seen;

static void look(void *arg, const struct page_owner_row *row)
{
	(void)arg;
	seen.rows++;
	seen.blocks += row->blocks - row->blocks_before;
	seen.frames += row->frames - row->frames_before;
	seen.by_other += is_from(row, from_other);
	seen.by_one += is_from(row, from_one);
}

static unsigned leaks(unsigned most)
{
	seen.rows = seen.by_one = seen.by_other = 0;
	seen.blocks = seen.frames = 0;
	return page_owner_report(PAGE_OWNER_LEAKS, most, look, NULL);
}

TEST_ID(page_owner, planted_leaks_are_found_by_stack, "PA6")
{
	bool was_on = page_owner_on();
	struct page *one[3], *other;

	if (!was_on)
		REQUIRE(!page_owner_start());
	CHECK_EQ(page_owner_start(), -EBUSY);
	page_owner_mark();
	CHECK_EQ(leaks(10), 0);
	plant_three(one);
	other = plant_other(5);
	REQUIRE(one[0] && one[1] && one[2] && other);
	CHECK_EQ(leaks(10), 2);
	CHECK_EQ(seen.by_one, 1);
	CHECK_EQ(seen.by_other, 1);
	CHECK_EQ(seen.blocks, 4);
	CHECK_EQ(seen.frames, 3 * 2 + 32);
	/* The largest first. */
	CHECK_EQ(leaks(1), 2);
	CHECK_EQ(seen.rows, 1);
	CHECK_EQ(seen.by_other, 1);
	free_pages(other, 5);
	free_pages(one[1], 1);
	CHECK_EQ(leaks(10), 1);
	CHECK_EQ(seen.by_one, 1);
	CHECK_EQ(seen.frames, 4);
	/* From now on it is none. */
	page_owner_mark();
	CHECK_EQ(leaks(10), 0);
	free_pages(one[0], 1);
	free_pages(one[2], 1);
	CHECK_EQ(leaks(10), 0);
	if (!was_on)
		page_owner_stop();
}

/* Whoever had a frame last is known when it is freed a second time. */
TEST_ID(page_owner, the_last_owner_stays_known, "PA6 PA7")
{
	bool was_on = page_owner_on();
	struct page_owner_row row = { 0 };
	struct page *page;

	if (!was_on)
		REQUIRE(!page_owner_start());
	page = plant_other(0);
	REQUIRE(page != NULL);
	free_page(page);
	row.depth = page_owner_stack(page, &row.stack);
	CHECK(is_from(&row, from_other));
	if (!was_on) {
		page_owner_stop();
		CHECK_EQ(page_owner_stack(page, &row.stack), 0);
	}
}

/* A write to a free frame is found, and whose it was last, wherever in the block it lies. */
TEST_ID(page_owner, who_had_a_spoilt_frame, "PA6 PA7")
{
	bool was_on = page_owner_on();
	u64 hits = buddy_poison_hits, warnings = log_warnings;
	struct page_owner_row row = { 0 };
	struct page *page;

	if (!was_on)
		REQUIRE(!page_owner_start());
	buddy_watch(BUDDY_POISON, false);
	buddy_watch(BUDDY_POISON, true);	/* what has been poisoned before is not looked at */
	page = plant_other(3);
	REQUIRE(page != NULL);
	free_pages(page, 3);
	((u8 *)page_to_virt(page + 5))[77]++;
	buddy_check_poison();
	CHECK_EQ(buddy_poison_hits, hits + 1);
	CHECK_EQ(log_warnings, warnings + 1);
	CHECK_EQ(buddy_poison_last.pfn, page_to_pfn(page + 5));
	CHECK_EQ(buddy_poison_last.byte, 77);
	row.depth = page_owner_stack(page + 5, &row.stack);
	CHECK(is_from(&row, from_other));
	buddy_poison_hits = hits;
	log_warnings = warnings;
	if (!was_on)
		page_owner_stop();
}

/* Every failure at the start leaves nothing behind. */
TEST_ID(page_owner, start_without_memory, "PA6 PA8")
{
	bool was_on = page_owner_on();
	u64 free, n = 0;
	int rc;

	if (was_on)
		SKIP("it is on already");
	buddy_drain();
	free = buddy_free_frames();
	do {
		alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = ++n };
		rc = page_owner_start();
		alloc_inject.armed = 0;
		if (rc) {
			CHECK_EQ(rc, -ENOMEM);
			CHECK(!page_owner_on());
			buddy_drain();
			CHECK_EQ(buddy_free_frames(), free);
		}
	} while (rc && n < 1000);
	CHECK(n > 2);
	page_owner_stop();
	buddy_drain();
	CHECK_EQ(buddy_free_frames(), free);
}
