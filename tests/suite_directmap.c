/* SPDX-License-Identifier: MIT */
/* The direct map: what is in it, taking frames out, putting them back (SPEC PT1, PT2, PT4, PT6). */
#include "mm/directmap.h"

#include "kernel/base/errno.h"
#include "mm/buddy.h"
#include "tests/fixture.h"
#include "tests/test.h"

static u64 va_of(pfn_t pfn)
{
	return phys_to_va(phys(pfn << PAGE_SHIFT));
}

static pte_t direct_leaf(pfn_t pfn)
{
	return fixture_leaf(va_of(pfn)).value;
}

static unsigned direct_level(pfn_t pfn)
{
	return fixture_leaf(va_of(pfn)).level;
}

/* ---- What is in it ---- */

static bool image_constant(pfn_t pfn)
{
	enum page_class class = pfn_to_page(pfn)->class;

	return class == PAGE_KERNEL_TEXT || class == PAGE_KERNEL_RODATA;
}

/* Frames in [pfn, end), under one leaf or one absent entry, that are not as PT1 says. */
static u64 count_wrong(pfn_t pfn, pfn_t end, struct pt_slot s)
{
	const u64 attrs = DIRECT_ATTRS & arch_mm.pte_mask;
	u64 wrong = 0;

	for (; pfn < end; pfn++) {
		bool mapped = pte_is_leaf(s.value, s.level);

		if (mapped != directmap_has(pfn))
			wrong++;
		else if (mapped &&
			 pte_attrs(s.value, s.level) != (image_constant(pfn) ? attrs & ~PTE_W : attrs))
			wrong++;
	}
	return wrong;
}

TEST_ID(directmap, holds_every_usable_frame_and_no_other, "PT1")
{
	u64 wrong = 0, moved = 0;

	for (pfn_t pfn = 0, end; pfn < page_max_pfn; pfn = end) {
		struct pt_slot s = fixture_leaf(va_of(pfn));

		end = MIN((pt_next(va_of(pfn), s.level) - arch_mm.direct_base) >> PAGE_SHIFT, page_max_pfn);
		wrong += count_wrong(pfn, end, s);
		if (pte_is_leaf(s.value, s.level))
			moved += pte_leaf_pa(s.value, s.level).raw !=
				 align_down(pfn << PAGE_SHIFT, pt_span(s.level));
	}
	CHECK_EQ(wrong, 0);
	CHECK_EQ(moved, 0);
}

struct types {
	u64 leaves, spanning, smaller;
};

static bool look_at_type(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective)
{
	struct types *t = arg;
	u64 end;

	(void)va, (void)effective;
	arch_memory_type(pte_leaf_pa(leaf, level), &end);
	t->leaves++;
	t->spanning += end < pte_leaf_pa(leaf, level).raw + pt_span(level);
	return true;
}

TEST_ID(directmap, no_leaf_spans_two_memory_types, "PT1")
{
	struct types t = { 0 };

	pt_for_each_leaf(&kernel_space, kernel_space.direct, look_at_type, &t);
	CHECK(t.leaves > 0);
	CHECK_EQ(t.spanning, 0);
}

TEST_ID(directmap, has_the_largest_leaves_that_fit, "PT1 PT6")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	struct directmap_stats s;

	pt_settle(&kernel_space);
	directmap_read_stats(&s);
	CHECK_EQ(s.leaves, s.fewest_leaves);
	CHECK(s.direct_map_2m > 0);
	fixture_policy(policy);
}

TEST_ID(directmap, counters_add_up, "PT6")
{
	struct directmap_stats s;
	u64 frames = 0;

	directmap_read_stats(&s);
	for (pfn_t pfn = 0; pfn < page_max_pfn; pfn++)
		frames += directmap_has(pfn);
	CHECK_EQ(s.direct_map_4k + s.direct_map_2m + s.direct_map_1g, frames << PAGE_SHIFT);
	CHECK_EQ(s.leaves, s.direct_map_4k / (4 * KIB) + s.direct_map_2m / (2 * MIB) + s.direct_map_1g / GIB);
	CHECK_EQ(s.tables, kernel_space.stats[PT_DIRECT].tables);
}

/* ---- Out and back ---- */

TEST_ID(directmap, one_page_out_and_back, "PT2 PT3 PT4")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	struct page *page = alloc_pages(ORDER_2M, 0);
	struct directmap_stats before, out, after;
	pfn_t pfn;
	pte_t was;

	REQUIRE(page != NULL);
	pfn = page_to_pfn(page) + 77;
	pt_settle(&kernel_space);
	was = direct_leaf(pfn);
	directmap_read_stats(&before);
	CHECK_EQ(set_direct_map_invalid(pfn, 1), 0);
	CHECK(pte_none(direct_leaf(pfn)));
	directmap_read_stats(&out);
	CHECK_EQ(out.direct_map_4k + out.direct_map_2m + out.direct_map_1g,
		 before.direct_map_4k + before.direct_map_2m + before.direct_map_1g - PAGE_SIZE);
	CHECK_EQ(set_direct_map_default(pfn, 1), 0);
	directmap_read_stats(&after);
	CHECK_EQ(direct_leaf(pfn).raw, was.raw);
	CHECK_EQ(after.leaves, before.leaves);
	CHECK_EQ(after.tables, before.tables);
	CHECK_EQ(after.direct_map_level2_splits - before.direct_map_level2_splits,
		 after.direct_map_level2_collapses - before.direct_map_level2_collapses);
	CHECK_EQ(after.direct_map_level3_splits - before.direct_map_level3_splits,
		 after.direct_map_level3_collapses - before.direct_map_level3_collapses);
	CHECK_EQ(after.direct_map_level2_splits - before.direct_map_level2_splits, 1);
	free_pages(page, ORDER_2M);
	fixture_policy(policy);
}

/* The neighbours of a page that is out keep everything but the size of their leaf. */
TEST_ID(directmap, neighbours_keep_their_rights, "PT2 PT3")
{
	struct page *page = alloc_pages(ORDER_2M, 0);
	const u64 attrs = DIRECT_ATTRS & arch_mm.pte_mask;
	unsigned wrong = 0;
	pfn_t pfn;

	REQUIRE(page != NULL);
	pfn = page_to_pfn(page);
	CHECK_EQ(set_direct_map_invalid(pfn + 3, 2), 0);
	for (unsigned i = 0; i < PT_ENTRIES; i++) {
		struct pt_slot s = fixture_leaf(va_of(pfn + i));

		if (i == 3 || i == 4)
			wrong += !pte_none(s.value);
		else
			wrong += pte_attrs(s.value, s.level) != attrs ||
				 pte_leaf_pa(s.value, s.level).raw != (pfn + i) << PAGE_SHIFT;
	}
	CHECK_EQ(wrong, 0);
	CHECK_EQ(set_direct_map_default(pfn + 3, 2), 0);
	free_pages(page, ORDER_2M);
}

/* Whole leaves, in and out, split nothing below their own size. */
static void whole(unsigned order, unsigned level)
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	struct page *page = alloc_pages(order, 0);
	struct directmap_stats before, after;
	pfn_t pfn;
	pte_t was;

	if (!page) {
		fixture_policy(policy);
		SKIP("no free block of order %u", order);
	}
	pfn = page_to_pfn(page);
	pt_settle(&kernel_space);
	if (direct_level(pfn) >= level) {
		was = direct_leaf(pfn);
		directmap_read_stats(&before);
		CHECK_EQ(set_direct_map_invalid(pfn, BIT(order)), 0);
		CHECK(pte_none(direct_leaf(pfn)) && pte_none(direct_leaf(pfn + BIT(order) - 1)));
		CHECK_EQ(direct_level(pfn), level);
		CHECK_EQ(set_direct_map_default(pfn, BIT(order)), 0);
		directmap_read_stats(&after);
		CHECK_EQ(direct_leaf(pfn).raw, was.raw);
		CHECK_EQ(after.direct_map_level2_splits, before.direct_map_level2_splits);
		if (level == PT_1G)
			CHECK_EQ(after.direct_map_level3_splits, before.direct_map_level3_splits);
		CHECK_EQ(after.leaves, before.leaves);
	}
	free_pages(page, order);
	fixture_policy(policy);
}

TEST_ID(directmap, whole_block_splits_nothing, "PT2 PT3")
{
	whole(ORDER_2M, PT_2M);
}

TEST_ID(directmap, whole_gigabyte_splits_nothing, "PT2 PT3")
{
	if (arch_mm.max_leaf < PT_1G)
		SKIP("no 1G leaves");
	whole(ORDER_1G, PT_1G);
}

/* Giving a page back needs no memory: a table of the direct map is kept even with nothing in it. */
TEST_ID(directmap, giving_back_allocates_nothing, "PT4")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	struct page *page = alloc_pages(ORDER_2M, 0);
	unsigned failed = 0;
	pfn_t pfn;
	u64 tables;

	if (page) {
		pfn = page_to_pfn(page);
		for (unsigned i = 0; i < PT_ENTRIES; i++)
			failed += set_direct_map_invalid(pfn + (i * 5 & 511), 1) != 0;
		CHECK_EQ(failed, 0);
		CHECK_EQ(direct_level(pfn), PT_4K);
		tables = kernel_space.stats[PT_DIRECT].tables;
		pt_settle(&kernel_space);
		CHECK_EQ(kernel_space.stats[PT_DIRECT].tables, tables);

		alloc_inject = (struct alloc_inject){ .armed = 1 };
		for (unsigned i = 0; i < PT_ENTRIES; i++)
			failed += set_direct_map_default(pfn + (i * 37 & 511), 1) != 0;
		alloc_inject.armed = 0;
		CHECK_EQ(failed, 0);
		CHECK_EQ(alloc_inject.calls, 0);
		CHECK(direct_level(pfn) >= PT_2M);
		free_pages(page, ORDER_2M);
	}
	CHECK(page != NULL);
	fixture_policy(policy);
}

TEST_ID(directmap, twice_is_once, "PT2")
{
	struct page *page = alloc_page(0);
	struct fixture_picture out, in;

	REQUIRE(page != NULL);
	fixture_take(&in);
	CHECK_EQ(set_direct_map_default(page_to_pfn(page), 1), 0);
	fixture_same(&in);
	CHECK_EQ(set_direct_map_invalid(page_to_pfn(page), 1), 0);
	fixture_take(&out);
	CHECK_EQ(set_direct_map_invalid(page_to_pfn(page), 1), 0);
	fixture_same(&out);
	CHECK_EQ(set_direct_map_default(page_to_pfn(page), 1), 0);
	free_page(page);
}

/* A range of which a part is out already goes out and comes back as a whole. */
TEST_ID(directmap, ranges_with_holes, "PT2")
{
	struct page *page = alloc_pages(ORDER_2M, 0);
	unsigned absent = 0, present = 0;
	pfn_t pfn;

	REQUIRE(page != NULL);
	pfn = page_to_pfn(page);
	CHECK_EQ(set_direct_map_invalid(pfn + 10, 3), 0);
	CHECK_EQ(set_direct_map_invalid(pfn + 5, 20), 0);
	for (unsigned i = 0; i < 64; i++)
		absent += pte_none(direct_leaf(pfn + i));
	CHECK_EQ(absent, 20);
	CHECK_EQ(set_direct_map_default(pfn + 8, 2), 0);
	CHECK_EQ(set_direct_map_default(pfn, PT_ENTRIES), 0);
	for (unsigned i = 0; i < PT_ENTRIES; i++)
		present += pte_present(direct_leaf(pfn + i));
	CHECK_EQ(present, PT_ENTRIES);
	free_pages(page, ORDER_2M);
}

/* Many changes in one batch: each is made, and flushed once. */
TEST_ID(directmap, a_batch_is_flushed_once, "PT2 TL1")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_OFF);
	struct page *pages[64];
	struct tlb_stats before, after;
	struct tlb_batch batch;
	unsigned n = 0, failed = 0;

	if (pt_bbm > 0) {
		fixture_policy(policy);
		SKIP("with break-before-make, a leaf that holds tables cannot be split");
	}
	tlb_read_stats(&before);
	tlb_batch_init(&batch, &kernel_space);
	for (; n < ARRAY_SIZE(pages) && (pages[n] = alloc_page(0)); n++)
		failed += set_direct_map_batch(page_to_pfn(pages[n]), 1, false, &batch) != 0;
	tlb_batch_finish(&batch);
	tlb_read_stats(&after);
	CHECK_EQ(n, ARRAY_SIZE(pages));
	CHECK_EQ(failed, 0);
	CHECK_EQ(after.batches - before.batches, 1);
	for (unsigned i = 0; i < n; i++) {
		CHECK(pte_none(direct_leaf(page_to_pfn(pages[i]))));
		CHECK_EQ(set_direct_map_default(page_to_pfn(pages[i]), 1), 0);
		free_page(pages[i]);
	}
	fixture_policy(PT_COLLAPSE_EAGER);
	pt_settle(&kernel_space);
	fixture_policy(policy);
}

/* ---- Refusals ---- */

/* The first frame that is not in the direct map, or page_max_pfn. */
static pfn_t foreign_frame(void)
{
	pfn_t pfn = 0;

	while (pfn < page_max_pfn && directmap_has(pfn))
		pfn++;
	return pfn;
}

static pfn_t frame_of_class(enum page_class class)
{
	pfn_t pfn = 0;

	while (pfn < page_max_pfn && !(pfn_valid(pfn) && pfn_to_page(pfn)->class == class))
		pfn++;
	return pfn;
}

TEST_ID(directmap, bad_ranges_are_refused, "PT2")
{
	const struct {
		pfn_t pfn;
		u64 nr;
		int rc;
	} rows[] = {
		{ 1, 0, -EINVAL },
		{ UINT64_MAX, 2, -EINVAL },
		{ page_max_pfn, 1, -ERANGE },
		{ page_max_pfn - 1, 2, -ERANGE },
		{ 1ull << 60, 1, -ERANGE },
		{ foreign_frame(), 1, -ERANGE },
	};
	struct fixture_picture before;

	fixture_take(&before);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		CHECK_EQ(set_direct_map_invalid(rows[i].pfn, rows[i].nr), rows[i].rc);
		CHECK_EQ(set_direct_map_default(rows[i].pfn, rows[i].nr), rows[i].rc);
	}
	fixture_same(&before);
}

TEST_ID(directmap, needed_frames_stay, "PT2 PT5")
{
	static const enum page_class classes[] = {
		PAGE_TABLE, PAGE_MEMMAP, PAGE_KERNEL_TEXT, PAGE_KERNEL_RODATA, PAGE_KERNEL_DATA,
	};
	struct fixture_picture before;

	fixture_take(&before);
	for (unsigned i = 0; i < ARRAY_SIZE(classes); i++) {
		pfn_t pfn = frame_of_class(classes[i]);

		if (CHECK(pfn < page_max_pfn))
			CHECK_EQ(set_direct_map_invalid(pfn, 1), -EPERM);
	}
	fixture_same(&before);
}

/* The frame that is refused is the last of its range: those before it stay too. */
TEST_ID(directmap, a_refused_range_changes_nothing, "PT2")
{
	struct page *page = alloc_pages(4, 0);
	struct fixture_picture before;

	REQUIRE(page != NULL);
	page_set_class(page_to_pfn(page) + 15, 1, PAGE_MEMMAP);
	fixture_take(&before);
	CHECK_EQ(set_direct_map_invalid(page_to_pfn(page), 16), -EPERM);
	fixture_same(&before);
	page_set_class(page_to_pfn(page) + 15, 1, PAGE_KERNEL);
	free_pages(page, 4);
}

/* ---- What loses its mapping comes from what is split already ---- */

/* Whether a free block of 2 MiB of this CPU's node lies in a gigabyte that is split. */
static bool split_has_block(void)
{
	bool has = false;

	for (pfn_t pfn = 0; pfn < page_max_pfn && !has; pfn += BIT(ORDER_1G)) {
		struct page *page = direct_level(pfn) < PT_1G ? fixture_block_in(pfn >> ORDER_1G) : NULL;

		if (!page)
			continue;
		has = page->node == buddy_this_node();
		free_pages(page, ORDER_2M);
	}
	buddy_drain();
	return has;
}

TEST_ID(directmap, split_gigabytes_are_found, "PA1 PT1")
{
	unsigned nr[2] = { 0, 0 };

	for (pfn_t pfn = 0; pfn < page_max_pfn; pfn += BIT(ORDER_1G)) {
		bool split = directmap_is_split(pfn);

		/* A hole in front says nothing of the rest: any entry below the gigabyte's own does. */
		CHECK_EQ(split, direct_level(pfn) < PT_1G);
		nr[split]++;
	}
	CHECK(!directmap_is_split(BIT(40)));
	test_note("gigabytes=%u split=%u", nr[0] + nr[1], nr[1]);
}

static u64 level3_splits(void)
{
	struct directmap_stats s;

	directmap_read_stats(&s);
	return s.direct_map_level3_splits;
}

TEST_ID(directmap, unmapped_blocks_come_from_split_gigabytes, "PA1 UM2")
{
	struct page *whole, *page = NULL;
	bool one_leaf;
	u64 before;

	if (!split_has_block())
		SKIP("no free block of 2 MiB in a gigabyte that is split");
	/* The last one was in a gigabyte that has one leaf. */
	whole = alloc_pages(ORDER_1G, ALLOC_UNMAPS);
	if (!whole)
		SKIP("no free block of 1 GiB");
	one_leaf = !directmap_is_split(page_to_pfn(whole)) && whole->node == buddy_this_node();
	free_pages(whole, ORDER_1G);
	if (!one_leaf)
		SKIP("the free block of 1 GiB is not mapped by one leaf, or another node's");
	before = level3_splits();
	/* One request looks at some gigabytes, the next one at those behind them. */
	for (pfn_t pfn = 0; pfn < page_max_pfn && !page; pfn += BIT(ORDER_1G)) {
		page = alloc_pages(ORDER_2M, ALLOC_UNMAPS);
		REQUIRE(page);
		if (!directmap_is_split(page_to_pfn(page))) {
			free_pages(page, ORDER_2M);
			buddy_drain();
			page = NULL;
		}
	}
	REQUIRE(page);
	CHECK(directmap_is_split(page_to_pfn(page)));
	CHECK_EQ(set_direct_map_invalid(page_to_pfn(page), BIT(ORDER_2M)), 0);
	CHECK_EQ(level3_splits(), before);
	CHECK_EQ(set_direct_map_default(page_to_pfn(page), BIT(ORDER_2M)), 0);
	free_pages(page, ORDER_2M);
}
