/* SPDX-License-Identifier: MIT */
/* Kernel virtual areas (SPEC VA1), among those that the running machine has. */
#include "mm/vm_area.h"

#include "boot/boot_info.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "tests/test.h"

#define AREAS 300u

static struct vm_area *areas[AREAS];

static struct vm_area *get(u64 size, u64 align)
{
	return get_vm_area(size, align, VM_AREA_SPARSE, "test");
}

/* What first fit must answer, by going through all areas in order. */
struct fit {
	u64 size, align;
	u64 from;	/* end of the guard behind the last area seen */
	u64 start;	/* the answer */
	u64 last;
	u64 disorder;	/* areas out of order, or guards that overlap */
};

static void try_gap(struct fit *f, u64 end)
{
	u64 start = align_up(f->from + PAGE_SIZE, f->align);

	if (!f->start && start + f->size + PAGE_SIZE <= end)
		f->start = start;
}

static bool fit_visit(void *arg, const struct vm_area *a)
{
	struct fit *f = arg;

	f->disorder += a->start - PAGE_SIZE < f->from;
	try_gap(f, a->start - PAGE_SIZE);
	f->from = a->start + a->size + PAGE_SIZE;
	return true;
}

static struct fit first_fit(u64 size, u64 align)
{
	struct fit f = { .size = align_up(size, PAGE_SIZE), .align = align, .from = VM_AREA_BASE };

	vm_area_for_each(fit_visit, &f);
	try_gap(&f, VM_AREA_END);
	return f;
}

TEST_ID(vm_area, has_guards_on_both_sides, "VA1")
{
	struct vm_area *a = get(3 * PAGE_SIZE, PAGE_SIZE), *b = get(PAGE_SIZE, PAGE_SIZE);

	REQUIRE(a && b);
	CHECK_EQ(a->size, 3 * PAGE_SIZE);
	CHECK_EQ(a->kind, VM_AREA_SPARSE);
	CHECK(!strcmp(a->caller, "test"));
	CHECK(find_vm_area(a->start) == a);
	CHECK(find_vm_area(a->start + a->size - 1) == a);
	CHECK(!find_vm_area(a->start - 1));
	CHECK(!find_vm_area(a->start + a->size));
	CHECK(!find_vm_area_guard(a->start));
	CHECK(!find_vm_area_guard(a->start + a->size - 1));
	CHECK(find_vm_area_guard(a->start - 1) == a);
	CHECK(find_vm_area_guard(a->start - PAGE_SIZE) == a);
	CHECK(find_vm_area_guard(a->start + a->size) == a);
	CHECK(find_vm_area_guard(a->start + a->size + PAGE_SIZE - 1) == a);
	CHECK(find_vm_area_guard(a->start - PAGE_SIZE - 1) != a);
	CHECK(find_vm_area_guard(a->start + a->size + PAGE_SIZE) != a);
	/* Neighbours do not share a guard. */
	CHECK(b->start + b->size + 2 * PAGE_SIZE <= a->start || a->start + a->size + 2 * PAGE_SIZE <= b->start);
	free_vm_area(a);
	free_vm_area(b);
	CHECK(!find_vm_area(a->start));
}

TEST_ID(vm_area, sizes_are_rounded_and_checked, "VA1")
{
	struct vm_area *a = get(1, PAGE_SIZE);
	static const struct {
		u64 size, align;
	} bad[] = {
		{ 0, PAGE_SIZE }, { PAGE_SIZE, 0 }, { PAGE_SIZE, 1 }, { PAGE_SIZE, 2048 }, { PAGE_SIZE, 3 * PAGE_SIZE },
		{ UINT64_MAX, PAGE_SIZE }, { UINT64_MAX - PAGE_SIZE, PAGE_SIZE }, { PAGE_SIZE, 1ull << 63 },
		{ VM_AREA_END - VM_AREA_BASE, PAGE_SIZE }, { VM_AREA_END - VM_AREA_BASE - PAGE_SIZE, PAGE_SIZE },
	};

	REQUIRE(a);
	CHECK_EQ(a->size, PAGE_SIZE);
	free_vm_area(a);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		CHECK(!get(bad[i].size, bad[i].align));
	CHECK(!get_vm_area(PAGE_SIZE, PAGE_SIZE, VM_AREA_KINDS, "test"));
	CHECK_EQ(vm_area_check(), 0);
}

TEST_ID(vm_area, alignments_up_to_a_gigabyte, "VA1")
{
	for (u64 align = PAGE_SIZE; align <= GIB; align <<= 1) {
		struct fit want = first_fit(5 * PAGE_SIZE, align);
		struct vm_area *a = get(5 * PAGE_SIZE, align);

		REQUIRE(a);
		CHECK_EQ(a->start, want.start);
		CHECK(is_aligned(a->start, align));
		CHECK_EQ(vm_area_check(), 0);
		free_vm_area(a);
	}
}

TEST_ID(vm_area, random_areas_are_first_fit, "VA1")
{
	static const u64 aligns[] = { PAGE_SIZE, PAGE_SIZE, PAGE_SIZE, 8 * PAGE_SIZE, 64 * PAGE_SIZE, 2 * MIB };
	struct rng rng = test_rng();
	u64 wrong = 0;

	for (unsigned i = 0; i < 4000; i++) {
		unsigned k = (unsigned)rng_below(&rng, AREAS);
		u64 size = 1 + rng_below(&rng, 40 * PAGE_SIZE), align = aligns[rng_below(&rng, ARRAY_SIZE(aligns))];
		struct fit want;

		if (areas[k]) {
			free_vm_area(areas[k]);
			areas[k] = NULL;
			continue;
		}
		want = first_fit(size, align);
		areas[k] = get(size, align);
		REQUIRE(areas[k]);
		wrong += areas[k]->start != want.start || want.disorder;
		if (i % 64 == 0)
			wrong += vm_area_check();
	}
	CHECK_EQ(wrong, 0);
	CHECK_EQ(vm_area_check(), 0);
	for (unsigned k = 0; k < AREAS; k++) {
		if (areas[k])
			free_vm_area(areas[k]);
		areas[k] = NULL;
	}
	CHECK_EQ(vm_area_check(), 0);
}

/* In and against the order of address, and alternately: what unbalances a tree. */
TEST_ID(vm_area, tree_stays_balanced, "VA1")
{
	for (unsigned i = 0; i < AREAS; i++) {
		areas[i] = get(PAGE_SIZE, PAGE_SIZE);
		REQUIRE(areas[i]);
	}
	CHECK_EQ(vm_area_check(), 0);
	for (unsigned i = 0; i < AREAS; i += 2)
		free_vm_area(areas[i]);
	CHECK_EQ(vm_area_check(), 0);
	for (unsigned i = 0; i < AREAS; i += 2) {
		areas[i] = get(PAGE_SIZE, PAGE_SIZE);
		REQUIRE(areas[i]);
	}
	CHECK_EQ(vm_area_check(), 0);
	for (unsigned i = AREAS; i-- > 0;) {
		free_vm_area(areas[i]);
		areas[i] = NULL;
	}
	CHECK_EQ(vm_area_check(), 0);
}

TEST_ID(vm_area, claimed_once, "VA1")
{
	struct vm_area *a = get(2 * PAGE_SIZE, PAGE_SIZE);
	const char *why = NULL;

	REQUIRE(a);
	CHECK(!claim_vm_area(a->start, VM_AREA_ALLOC, &why));
	CHECK(why && !strcmp(why, "an area of another kind"));
	CHECK(!claim_vm_area(a->start + PAGE_SIZE, VM_AREA_SPARSE, &why));
	CHECK(why && !strcmp(why, "not the beginning of the area"));
	CHECK(!claim_vm_area(a->start - PAGE_SIZE, VM_AREA_SPARSE, &why));
	CHECK(why && !strcmp(why, "no such area"));
	CHECK(claim_vm_area(a->start, VM_AREA_SPARSE, &why) == a);
	CHECK(!claim_vm_area(a->start, VM_AREA_SPARSE, &why));
	CHECK(why && !strcmp(why, "somebody else is freeing it"));
	unclaim_vm_area(a);
	CHECK(claim_vm_area(a->start, VM_AREA_SPARSE, &why) == a);
	free_vm_area(a);
}

TEST_ID(vm_area, no_node_no_area, "PA8 VA1")
{
	struct vm_area *taken[64];
	unsigned n = 0;

	/* Without a frame to be had, the areas end with the last node of the last slab. */
	alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 1 };
	while (n < ARRAY_SIZE(taken) && (taken[n] = get(PAGE_SIZE, PAGE_SIZE)))
		n++;
	alloc_inject.armed = 0;
	CHECK(n < ARRAY_SIZE(taken));
	CHECK_EQ(alloc_inject.failed, 1);
	CHECK_EQ(vm_area_check(), 0);
	while (n)
		free_vm_area(taken[--n]);
}

static bool stop_at_second(void *arg, const struct vm_area *a)
{
	(void)a;
	return ++*(unsigned *)arg < 2;
}

TEST_ID(vm_area, visits_stop_when_told, "VA1")
{
	struct vm_area *a = get(PAGE_SIZE, PAGE_SIZE), *b = get(PAGE_SIZE, PAGE_SIZE), *c = get(PAGE_SIZE, PAGE_SIZE);
	unsigned seen = 0;

	REQUIRE(a && b && c);
	vm_area_for_each(stop_at_second, &seen);
	CHECK_EQ(seen, 2);
	free_vm_area(a);
	free_vm_area(b);
	free_vm_area(c);
}

TEST(vm_area, kinds_have_names)
{
	for (unsigned i = 0; i < VM_AREA_KINDS; i++)
		CHECK(strlen(vm_area_kind_name(i)) > 3);
	CHECK(!strcmp(vm_area_kind_name(VM_AREA_KINDS), "?"));
}
