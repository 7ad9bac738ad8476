/* SPDX-License-Identifier: MIT */
/*
 * The mechanism of the page tables: split, collapse, breaks, policies, errors (SPEC PT3, PT4, PT6).
 *
 * Most tests map a physical range without RAM at addresses of their own, so that any attribute can be given
 * to it and nothing else is disturbed.
 */
#include "boot/boot_info.h"
#include "kernel/base/errno.h"
#include "mm/buddy.h"
#include "tests/fixture.h"
#include "tests/test.h"

#define BLOCK (2 * MIB)
/* Kernel addresses at which nothing ever is: behind the last area. */
#define HOLE VM_AREA_END

static u64 leaves_now(unsigned level)
{
	return kernel_space.stats[PT_OTHER].leaves[level];
}

static u64 tables_now(void)
{
	return kernel_space.stats[PT_OTHER].tables;
}

/* Map the range without RAM at va. */
static bool map_nowhere(u64 va, u64 size, u64 attrs)
{
	return CHECK_EQ(fixture_change(PT_OP_MAP, range_len(va, size), fixture_nowhere(),
				       attrs & arch_mm.pte_mask, 0),
			0);
}

static int protect(u64 va, u64 size, u64 set, u64 clear)
{
	return fixture_change(PT_OP_PROTECT, range_len(va, size), 0, set, clear);
}

static bool is_leaf_of(u64 va, unsigned level)
{
	struct pt_slot s = fixture_leaf(va);

	return s.level == level && pte_is_leaf(s.value, level);
}

/* ---- Whole leaves ---- */

static void whole_leaf(unsigned level)
{
	struct fixture_events before, after;
	struct fixture_area a;
	u64 size = pt_span(level), tables;
	pte_t was, now;

	if (!fixture_area_get(&a, 2 * size, size))
		return;
	if (map_nowhere(a.va, 2 * size, fixture_attrs())) {
		pte_t neighbour = fixture_leaf(a.va + size).value;

		was = fixture_leaf(a.va).value;
		tables = tables_now();
		fixture_events(&before);
		CHECK_EQ(protect(a.va, size, 0, PTE_W), 0);
		fixture_events(&after);
		now = fixture_leaf(a.va).value;
		CHECK(is_leaf_of(a.va, level));
		CHECK_EQ(now.raw, was.raw & ~PTE_W);
		CHECK_EQ(fixture_leaf(a.va + size).value.raw, neighbour.raw);
		CHECK_EQ(after.splits[PT_2M] + after.splits[PT_1G],
			 before.splits[PT_2M] + before.splits[PT_1G]);
		CHECK_EQ(tables_now(), tables);
	}
	fixture_area_put(&a);
}

TEST_ID(pgtable, whole_2m_leaf_changes_one_entry, "PT2 PT3")
{
	whole_leaf(PT_2M);
}

TEST_ID(pgtable, whole_1g_leaf_changes_one_entry, "PT2 PT3")
{
	if (arch_mm.max_leaf < PT_1G)
		SKIP("no 1G leaves");
	whole_leaf(PT_1G);
}

/* ---- Split ---- */

/* Every page below [va, va + size) has these attributes, leaves of this level, and frames in order. */
static void check_pieces(u64 va, u64 size, u64 pa, u64 attrs, unsigned level)
{
	unsigned wrong = 0;

	for (u64 at = 0; at < size; at += pt_span(level)) {
		struct pt_slot s = fixture_leaf(va + at);

		wrong += !(s.level == level && pte_is_leaf(s.value, level) &&
			   pte_attrs(s.value, level) == attrs && pte_leaf_pa(s.value, level).raw == pa + at);
	}
	CHECK_EQ(wrong, 0);
}

/*
 * Attributes that a split must keep, each alone and all together; PAT has the place that changes. A is set in
 * all of them: the CPU may set it at any moment, and in leaves of the kernel it is set from the start.
 */
static const u64 attribute_sets[] = {
	PTE_P | PTE_NX | PTE_A,
	PTE_P | PTE_NX | PTE_A | PTE_W,
	PTE_P | PTE_NX | PTE_A | PTE_PWT,
	PTE_P | PTE_NX | PTE_A | PTE_PCD,
	PTE_P | PTE_NX | PTE_A | PTE_PAT,
	PTE_P | PTE_NX | PTE_A | PTE_G,
	PTE_P | PTE_NX | PTE_A | PTE_D,
	PTE_P | PTE_NX | PTE_A | PTE_D | PTE_W | PTE_G | PTE_PWT | PTE_PCD | PTE_PAT,
};

static void split_keeps_attributes(unsigned from, unsigned to)
{
	u64 size = pt_span(from);
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);

	for (unsigned i = 0; i < ARRAY_SIZE(attribute_sets); i++) {
		u64 attrs = attribute_sets[i] & arch_mm.pte_mask;
		struct fixture_area a;
		pte_t was;

		if (!fixture_area_get(&a, size, size))
			break;
		if (map_nowhere(a.va, size, attrs)) {
			CHECK(is_leaf_of(a.va, from));
			was = fixture_leaf(a.va).value;
			fixture_policy(PT_COLLAPSE_OFF);
			CHECK_EQ(fixture_split(range_len(a.va, size), to), 0);
			check_pieces(a.va, size, fixture_nowhere(), attrs, to);
			fixture_policy(PT_COLLAPSE_EAGER);
			pt_settle(&kernel_space);
			CHECK(is_leaf_of(a.va, from));
			CHECK_EQ(fixture_leaf(a.va).value.raw, was.raw);
		}
		fixture_area_put(&a);
	}
	fixture_policy(policy);
}

/* PAT moves from bit 12 to bit 7, and back. */
TEST_ID(pgtable, split_2m_keeps_attributes, "PT3 PT4")
{
	split_keeps_attributes(PT_2M, PT_4K);
}

/* PAT stays in bit 12. */
TEST_ID(pgtable, split_1g_keeps_attributes, "PT3 PT4")
{
	if (arch_mm.max_leaf < PT_1G)
		SKIP("no 1G leaves");
	split_keeps_attributes(PT_1G, PT_2M);
}

TEST_ID(pgtable, split_1g_to_4k_keeps_attributes, "PT3 PT4")
{
	struct fixture_area a;
	u64 attrs = fixture_attrs() | PTE_PAT;
	pte_t was;

	if (arch_mm.max_leaf < PT_1G)
		SKIP("no 1G leaves");
	REQUIRE(fixture_area_get(&a, GIB, GIB));
	if (map_nowhere(a.va, GIB, attrs)) {
		was = fixture_leaf(a.va).value;
		CHECK_EQ(protect(a.va + 3 * BLOCK + PAGE_SIZE, PAGE_SIZE, 0, PTE_W), 0);
		check_pieces(a.va, 3 * BLOCK, fixture_nowhere(), attrs, PT_2M);
		check_pieces(a.va + 4 * BLOCK, GIB - 4 * BLOCK, fixture_nowhere() + 4 * BLOCK, attrs, PT_2M);
		check_pieces(a.va + 3 * BLOCK, PAGE_SIZE, fixture_nowhere() + 3 * BLOCK, attrs, PT_4K);
		check_pieces(a.va + 3 * BLOCK + PAGE_SIZE, PAGE_SIZE, fixture_nowhere() + 3 * BLOCK + PAGE_SIZE,
			     attrs & ~PTE_W, PT_4K);
		CHECK_EQ(protect(a.va + 3 * BLOCK + PAGE_SIZE, PAGE_SIZE, PTE_W, 0), 0);
		pt_settle(&kernel_space);
		CHECK_EQ(fixture_leaf(a.va).value.raw, was.raw);
	}
	fixture_area_put(&a);
}

/* A range that begins inside one leaf and ends inside another splits those two and no other. */
TEST_ID(pgtable, split_only_where_partial, "PT3")
{
	struct fixture_events before, after;
	struct fixture_area a;
	u64 tables;

	REQUIRE(fixture_area_get(&a, 5 * BLOCK, BLOCK));
	if (map_nowhere(a.va, 5 * BLOCK, fixture_attrs())) {
		tables = tables_now();
		fixture_events(&before);
		CHECK_EQ(protect(a.va + BLOCK / 2, 3 * BLOCK, 0, PTE_W), 0);
		fixture_events(&after);
		CHECK_EQ(after.splits[PT_2M] - before.splits[PT_2M], 2);
		CHECK_EQ(tables_now(), tables + 2);
		CHECK(is_leaf_of(a.va, PT_4K));
		CHECK(is_leaf_of(a.va + BLOCK, PT_2M) && is_leaf_of(a.va + 2 * BLOCK, PT_2M));
		CHECK(is_leaf_of(a.va + 3 * BLOCK, PT_4K));
		CHECK(is_leaf_of(a.va + 4 * BLOCK, PT_2M));
	}
	fixture_area_put(&a);
}

/* Setting what is set already needs no split. */
TEST_ID(pgtable, change_to_the_same_splits_nothing, "PT2")
{
	struct fixture_picture before;
	struct fixture_area a;

	REQUIRE(fixture_area_get(&a, BLOCK, BLOCK));
	if (map_nowhere(a.va, BLOCK, fixture_attrs())) {
		fixture_take(&before);
		CHECK_EQ(protect(a.va + PAGE_SIZE, PAGE_SIZE, PTE_W, 0), 0);
		fixture_same(&before);
	}
	fixture_area_put(&a);
}

/* ---- Collapse ---- */

TEST_ID(pgtable, collapse_restores_the_leaf, "PT4 PT6")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	struct fixture_events before, after;
	struct fixture_area a;

	if (fixture_area_get(&a, BLOCK, BLOCK) && map_nowhere(a.va, BLOCK, fixture_attrs())) {
		static const u32 pages[] = { 0, 1, 255, 510, 511 };
		pte_t was = fixture_leaf(a.va).value;
		u64 tables = tables_now(), small = leaves_now(PT_4K), large = leaves_now(PT_2M);

		for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
			u64 va = a.va + pages[i] * PAGE_SIZE;

			fixture_events(&before);
			CHECK_EQ(protect(va, PAGE_SIZE, 0, PTE_W), 0);
			CHECK(is_leaf_of(va, PT_4K));
			CHECK_EQ(leaves_now(PT_4K), small + PT_ENTRIES);
			CHECK_EQ(leaves_now(PT_2M), large - 1);
			CHECK_EQ(protect(va, PAGE_SIZE, PTE_W, 0), 0);
			fixture_events(&after);
			CHECK_EQ(fixture_leaf(va).value.raw, was.raw);
			CHECK_EQ(after.splits[PT_2M] - before.splits[PT_2M], 1);
			CHECK_EQ(after.collapses[PT_2M] - before.collapses[PT_2M], 1);
			CHECK_EQ(tables_now(), tables);
			CHECK_EQ(leaves_now(PT_4K), small);
			CHECK_EQ(leaves_now(PT_2M), large);
		}
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

/* A table that is uniform in another right than before is one leaf with that right. */
TEST_ID(pgtable, collapse_takes_the_new_rights, "PT4")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	struct fixture_area a;

	if (fixture_area_get(&a, BLOCK, BLOCK) && map_nowhere(a.va, BLOCK, fixture_attrs())) {
		pte_t was = fixture_leaf(a.va).value;

		CHECK_EQ(protect(a.va, 100 * PAGE_SIZE, 0, PTE_W), 0);
		CHECK(is_leaf_of(a.va, PT_4K));
		CHECK_EQ(protect(a.va + 100 * PAGE_SIZE, 412 * PAGE_SIZE, 0, PTE_W), 0);
		CHECK(is_leaf_of(a.va, PT_2M));
		CHECK_EQ(fixture_leaf(a.va).value.raw, was.raw & ~PTE_W);
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

/* Mapped page by page in any order, a block becomes one leaf with the last one. */
TEST_ID(pgtable, pages_mapped_one_by_one_become_a_leaf, "PT4")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	struct fixture_area a;
	unsigned failed = 0;

	if (fixture_area_get(&a, BLOCK, BLOCK)) {
		for (u64 i = 0; i < PT_ENTRIES; i++) {
			u64 at = (i * 37 % PT_ENTRIES) * PAGE_SIZE;

			failed += fixture_change(PT_OP_MAP, range_len(a.va + at, PAGE_SIZE),
						 fixture_nowhere() + at, fixture_attrs(), 0) != 0;
			if (i == PT_ENTRIES - 2)
				CHECK(!is_leaf_of(a.va, PT_2M));
		}
		CHECK_EQ(failed, 0);
		pt_settle(&kernel_space);
		CHECK(is_leaf_of(a.va, PT_2M));
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

/* Uniform, but the first frame is not aligned to 2 MiB; or aligned, and two frames exchanged. */
TEST_ID(pgtable, what_is_no_leaf_is_not_collapsed, "PT4")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	u64 pa = fixture_nowhere();
	struct fixture_area a;

	if (fixture_area_get(&a, 2 * BLOCK, BLOCK)) {
		CHECK_EQ(
			fixture_change(PT_OP_MAP, range_len(a.va, BLOCK), pa + PAGE_SIZE, fixture_attrs(), 0),
			0);
		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va + BLOCK, 510 * PAGE_SIZE), pa,
					fixture_attrs(), 0),
			 0);
		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va + BLOCK + 510 * PAGE_SIZE, PAGE_SIZE),
					pa + 511 * PAGE_SIZE, fixture_attrs(), 0), 0);
		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va + BLOCK + 511 * PAGE_SIZE, PAGE_SIZE),
					pa + 510 * PAGE_SIZE, fixture_attrs(), 0), 0);
		pt_settle(&kernel_space);
		CHECK(is_leaf_of(a.va, PT_4K));
		CHECK(is_leaf_of(a.va + BLOCK, PT_4K));
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

TEST_ID(pgtable, leaves_asked_for_small_stay_small, "PT4")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	struct fixture_area a;

	if (fixture_area_get(&a, BLOCK, BLOCK)) {
		struct pt_change c = {
			.op = PT_OP_MAP, .va = range_len(a.va, BLOCK), .pa = phys(fixture_nowhere()),
			.set = fixture_attrs() | PTE_KEEP, .max_leaf = PT_4K,
		};
		struct tlb_batch batch;

		tlb_batch_init(&batch, &kernel_space);
		CHECK_EQ(pt_change(&kernel_space, &c, &batch), 0);
		tlb_batch_finish(&batch);
		pt_settle(&kernel_space);
		CHECK(is_leaf_of(a.va, PT_4K));
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

TEST_ID(pgtable, one_gigabyte_comes_back_from_4k, "PT4")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	struct fixture_events before, after;
	struct fixture_area a;

	if (arch_mm.max_leaf < PT_1G)
		SKIP("no 1G leaves");
	if (fixture_area_get(&a, GIB, GIB) && map_nowhere(a.va, GIB, fixture_attrs())) {
		pte_t was = fixture_leaf(a.va).value;
		u64 tables = tables_now();

		fixture_events(&before);
		CHECK_EQ(protect(a.va + 7 * PAGE_SIZE, PAGE_SIZE, 0, PTE_W), 0);
		CHECK_EQ(protect(a.va + GIB - PAGE_SIZE, PAGE_SIZE, 0, PTE_W), 0);
		CHECK_EQ(tables_now(), tables + 3);
		CHECK_EQ(protect(a.va + 7 * PAGE_SIZE, PAGE_SIZE, PTE_W, 0), 0);
		CHECK_EQ(protect(a.va + GIB - PAGE_SIZE, PAGE_SIZE, PTE_W, 0), 0);
		fixture_events(&after);
		CHECK_EQ(fixture_leaf(a.va).value.raw, was.raw);
		CHECK_EQ(tables_now(), tables);
		CHECK_EQ(after.splits[PT_1G] - before.splits[PT_1G], 1);
		CHECK_EQ(after.splits[PT_2M] - before.splits[PT_2M], 2);
		CHECK_EQ(after.collapses[PT_1G] - before.collapses[PT_1G], 1);
		CHECK_EQ(after.collapses[PT_2M] - before.collapses[PT_2M], 2);
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

/* ---- Policies ---- */

/* Take a right from one page and give it back, n times. Returns the splits that cost. */
static u64 ping_pong(u64 va, unsigned n)
{
	struct fixture_events before, after;

	fixture_events(&before);
	for (unsigned i = 0; i < n; i++) {
		CHECK_EQ(protect(va, PAGE_SIZE, 0, PTE_W), 0);
		CHECK_EQ(protect(va, PAGE_SIZE, PTE_W, 0), 0);
	}
	fixture_events(&after);
	return after.splits[PT_2M] - before.splits[PT_2M];
}

TEST_ID(pgtable, off_keeps_the_damage, "PT4")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_OFF);
	struct fixture_area a;

	if (fixture_area_get(&a, BLOCK, BLOCK) && map_nowhere(a.va, BLOCK, fixture_attrs())) {
		CHECK_EQ(ping_pong(a.va, 3), 1);
		pt_settle(&kernel_space);
		CHECK(is_leaf_of(a.va, PT_4K));
		fixture_policy(PT_COLLAPSE_EAGER);
		pt_settle(&kernel_space);
		CHECK(is_leaf_of(a.va, PT_2M));
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

TEST_ID(pgtable, eager_collapses_each_time, "PT4")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	struct fixture_area a;

	if (fixture_area_get(&a, BLOCK, BLOCK) && map_nowhere(a.va, BLOCK, fixture_attrs())) {
		CHECK_EQ(ping_pong(a.va, 10), 10);
		CHECK(is_leaf_of(a.va, PT_2M));
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

/*
 * Give-and-take within the waiting time splits once; the leaf is back when it has been quiet for long enough.
 */
TEST_ID(pgtable, deferred_waits, "PT4")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_DEFERRED);
	struct fixture_area a;

	if (fixture_area_get(&a, 2 * BLOCK, BLOCK) && map_nowhere(a.va, 2 * BLOCK, fixture_attrs())) {
		CHECK_EQ(ping_pong(a.va, 20), 1);
		CHECK(is_leaf_of(a.va, PT_4K));
		/* Changes elsewhere make time pass. */
		for (unsigned i = 0; i < PT_DEFER_CHANGES; i++)
			CHECK_EQ(protect(a.va + BLOCK, BLOCK, i % 2 ? PTE_W : 0, i % 2 ? 0 : PTE_W), 0);
		CHECK(is_leaf_of(a.va, PT_2M));
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

TEST_ID(pgtable, settle_does_not_wait, "PT4")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_DEFERRED);
	struct fixture_area a;

	if (fixture_area_get(&a, BLOCK, BLOCK) && map_nowhere(a.va, BLOCK, fixture_attrs())) {
		CHECK_EQ(ping_pong(a.va, 1), 1);
		CHECK(is_leaf_of(a.va, PT_4K));
		pt_settle(&kernel_space);
		CHECK(is_leaf_of(a.va, PT_2M));
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

/* ---- Tables come and go ---- */

TEST_ID(pgtable, empty_tables_are_freed, "PT4 PT6")
{
	struct fixture_picture before;
	struct fixture_area a;

	REQUIRE(fixture_area_get(&a, 3 * BLOCK, BLOCK));
	pt_settle(&kernel_space);
	fixture_take(&before);
	/*
	 * Not at a block's start, and frames that no larger leaf fits: three tables of 4K leaves and what is
	 * above.
	 */
	CHECK_EQ(fixture_change(PT_OP_MAP, range(a.va + BLOCK / 2, a.va + 2 * BLOCK + BLOCK / 2),
				fixture_nowhere() + PAGE_SIZE, fixture_attrs(), 0), 0);
	CHECK(tables_now() >= before.stats[PT_OTHER].tables + 3);
	CHECK_EQ(fixture_change(PT_OP_UNMAP, range_len(a.va, 3 * BLOCK), 0, 0, 0), 0);
	fixture_same(&before);
	fixture_area_put(&a);
}

/* Split a leaf and put it together again: the frame of the table that was in between. */
static const u64 *freed_table(u64 va)
{
	const u64 *table;

	CHECK_EQ(protect(va, PAGE_SIZE, 0, PTE_W), 0);
	table = (const u64 *)align_down((u64)fixture_leaf(va).pte, PAGE_SIZE);
	CHECK_EQ(protect(va, PAGE_SIZE, PTE_W, 0), 0);
	CHECK(is_leaf_of(va, PT_2M));
	return table;
}

static u32 poisoned(const u64 *table)
{
	u32 nr = 0;

	for (unsigned i = 0; i < PT_ENTRIES; i++)
		nr += table[i] == PT_POISON;
	return nr;
}

/* It has no present entry any more; without the checks, which cost, it is left as it was. */
TEST_ID(pgtable, freed_tables_are_poisoned, "PT4 TL5")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	unsigned watched = buddy_watched();
	bool checks = pt_checks;
	struct fixture_area a;

	buddy_watch(BUDDY_POISON, false);	/* it would overwrite the frame once more */
	if (fixture_area_get(&a, BLOCK, BLOCK) && map_nowhere(a.va, BLOCK, fixture_attrs())) {
		pt_checks = true;
		CHECK_EQ(poisoned(freed_table(a.va)), PT_ENTRIES);
		pt_checks = false;
		CHECK_EQ(poisoned(freed_table(a.va)), 0);
		pt_checks = checks;
	}
	fixture_area_put(&a);
	buddy_watch(BUDDY_POISON, watched & BUDDY_POISON);
	fixture_policy(policy);
}

/* ---- Errors change nothing ---- */

TEST_ID(pgtable, map_over_something_else_is_busy, "PT2 PT3")
{
	struct fixture_picture before;
	struct fixture_area a;
	u64 pa = fixture_nowhere();

	REQUIRE(fixture_area_get(&a, 2 * BLOCK, BLOCK));
	CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va + BLOCK, PAGE_SIZE), pa, fixture_attrs(), 0), 0);
	fixture_take(&before);
	CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, 2 * BLOCK), pa, fixture_attrs(), 0), -EBUSY);
	CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va + BLOCK, PAGE_SIZE), pa, fixture_attrs() & ~PTE_W,
				0),
		 -EBUSY);
	fixture_same(&before);
	CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va + BLOCK, PAGE_SIZE), pa, fixture_attrs(), 0), 0);
	fixture_same(&before);
	fixture_area_put(&a);
}

TEST_ID(pgtable, bad_ranges_are_refused, "PT2")
{
	static const struct range rows[] = {
		{ HOLE + 1, HOLE + PAGE_SIZE },
		{ HOLE, HOLE + 100 },
		{ HOLE, HOLE },
		{ HOLE + PAGE_SIZE, HOLE },
		{ 0x1000, 0x2000 },			    /* the other half */
		{ 0x0000800000000000, 0x0000800000001000 }, /* not canonical with 4 levels, a user's with 5 */
		{ -PAGE_SIZE, 0 },			    /* wraps */
	};
	struct fixture_picture before;
	struct tlb_batch batch;

	fixture_take(&before);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		CHECK_EQ(fixture_change(PT_OP_MAP, rows[i], fixture_nowhere(), fixture_attrs(), 0), -EINVAL);
		CHECK_EQ(fixture_change(PT_OP_PROTECT, rows[i], 0, PTE_W, 0), -EINVAL);
		CHECK_EQ(fixture_change(PT_OP_UNMAP, rows[i], 0, 0, 0), -EINVAL);
		tlb_batch_init(&batch, &kernel_space);
		CHECK_EQ(pt_split_range(&kernel_space, rows[i], PT_4K, &batch), -EINVAL);
		tlb_batch_finish(&batch);
	}
	fixture_same(&before);
}

/* ---- Walks ---- */

/*
 * Tables were reserved for one plan; while nobody held the lock another CPU has put a gigabyte together, and the next plan has to keep
 * them out of the 2 MiB that it breaks. What lies there is changed for others.
 */
TEST_ID(pgtable, reserved_tables_are_judged_by_each_plan, "PT3")
{
	struct pt_pool pool = PT_POOL_INIT;
	struct pt_plan plan = { .nr_avoid = 1 };
	u32 there = 0;

	REQUIRE(pt_pool_reserve(&pool, 8, NULL) == 0);
	plan.avoid[0] = align_down((u64)pool.head << PAGE_SHIFT, 2 * MIB);
	CHECK_EQ(pt_pool_reserve(&pool, 8, &plan), 0);
	CHECK_EQ(pool.nr, 8);
	for (u32 i = 0, pfn = pool.head; i < pool.nr; i++, pfn = pfn_to_page(pfn)->next)
		there += align_down((u64)pfn << PAGE_SHIFT, 2 * MIB) == plan.avoid[0];
	CHECK_EQ(there, 0);
	pt_pool_release(&pool);
}

TEST_ID(pgtable, lockless_walk_agrees, "PT4")
{
	struct fixture_area a;

	REQUIRE(fixture_area_get(&a, 2 * BLOCK, BLOCK));
	if (map_nowhere(a.va, 2 * BLOCK, fixture_attrs())) {
		CHECK_EQ(protect(a.va + PAGE_SIZE, PAGE_SIZE, 0, PTE_W), 0);
		for (u64 va = a.va - PAGE_SIZE; va <= a.va + 2 * BLOCK; va += BLOCK / 4 + PAGE_SIZE) {
			struct pt_slot locked = fixture_leaf(va);
			struct pt_slot free = pt_walk_lockless(kernel_space.root, kernel_space.levels, va);

			CHECK_EQ(free.level, locked.level);
			CHECK_EQ(free.value.raw, locked.value.raw);
		}
	}
	fixture_area_put(&a);
}

/* A frame that is no table leads to an absent entry. */
TEST_ID(pgtable, lockless_walk_survives_a_freed_root, "PT4")
{
	struct page *page = alloc_page(ALLOC_ZERO);
	u64 *words;

	REQUIRE(page != NULL);
	words = page_to_virt(page);
	for (unsigned i = 0; i < PT_ENTRIES; i++)
		words[i] = pte_table(page_to_phys(page), false).raw;
	CHECK(pte_none(pt_walk_lockless(page_to_phys(page), arch_mm.levels, arch_mm.direct_base).value));
	free_page(page);
}

static bool count_leaf(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective)
{
	u64 *n = arg;

	(void)va, (void)level, (void)leaf, (void)effective;
	return ++*n < 3;
}

TEST_ID(pgtable, a_visitor_can_stop, "PT4")
{
	u64 n = 0;

	pt_for_each_leaf(&kernel_space, kernel_space.direct, count_leaf, &n);
	CHECK_EQ(n, 3);
}

/* The fewest leaves are those before the split. */
struct seen {
	u64 first;
	unsigned nr;
};

static bool note_first(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective)
{
	struct seen *seen = arg;

	(void)level;
	(void)leaf;
	(void)effective;
	if (!seen->nr++)
		seen->first = va;
	return true;
}

/* The leaf that the first address lies in, and what comes behind it; not what lies before it in the same gigabyte. */
TEST_ID(pgtable, a_visit_begins_and_ends_where_asked, "PT4")
{
	struct fixture_area a;

	if (!fixture_area_get(&a, 4 * BLOCK, BLOCK))
		return;
	if (map_nowhere(a.va, 4 * BLOCK, fixture_attrs())) {
		struct seen seen = { 0 };

		pt_for_each_leaf(&kernel_space, range(a.va + BLOCK + PAGE_SIZE, a.va + 2 * BLOCK + 1), note_first, &seen);
		CHECK_EQ(seen.first, a.va + BLOCK);
		CHECK_EQ(seen.nr, 2);
	}
	fixture_area_put(&a);
}

TEST_ID(pgtable, fewest_leaves_see_through_splits, "PT6")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_OFF);
	struct fixture_area a;
	u64 fewest;

	if (fixture_area_get(&a, 4 * BLOCK, BLOCK) && map_nowhere(a.va, 4 * BLOCK, fixture_attrs())) {
		fewest = pt_fewest_leaves(&kernel_space, PT_OTHER);
		CHECK_EQ(fixture_split(range_len(a.va, 4 * BLOCK), PT_4K), 0);
		CHECK_EQ(pt_fewest_leaves(&kernel_space, PT_OTHER), fewest);
		CHECK_EQ(protect(a.va, PAGE_SIZE, 0, PTE_W), 0);
		CHECK_EQ(pt_fewest_leaves(&kernel_space, PT_OTHER), fewest + PT_ENTRIES - 1);
	}
	fixture_policy(PT_COLLAPSE_EAGER);
	fixture_area_put(&a);
	fixture_policy(policy);
}
