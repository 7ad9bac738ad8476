/* SPDX-License-Identifier: MIT */
/* ioremap (SPEC VA1, PT1): types, sizes, refusals. Maps physical addresses where nothing answers, and never reads there. */
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/vm_area.h"
#include "mm/vmalloc.h"
#include "tests/fixture.h"
#include "tests/test.h"

TEST_ID(ioremap, each_type_has_its_bits, "VA1")
{
	bool pat = arch_mm.pte_mask & PTE_PAT_LARGE;	/* without it the bit must not be set: uncached instead */
	const u64 bits[] = {
		[IOREMAP_WB] = 0,
		[IOREMAP_WT] = PTE_PWT,
		[IOREMAP_UC_MINUS] = PTE_PCD,
		[IOREMAP_UC] = PTE_PCD | PTE_PWT,
		[IOREMAP_WC] = pat ? PTE_PAT : PTE_PCD,
	};
	static const u64 sizes[] = { PAGE_SIZE, 2 * MIB };
	u64 pa = fixture_nowhere();

	for (unsigned k = 0; k < ARRAY_SIZE(sizes); k++)
		for (unsigned type = IOREMAP_WB; type <= IOREMAP_WC; type++)
			for (unsigned ro = 0; ro <= IOREMAP_RO; ro += IOREMAP_RO) {
				u64 want = (fixture_attrs() | bits[type]) & ~(ro ? PTE_W : 0);
				void *p = ioremap(pa, sizes[k], type | ro);
				struct pt_slot s;

				REQUIRE(p);
				s = fixture_leaf((u64)p);
				CHECK_EQ(s.level, sizes[k] == 2 * MIB ? PT_2M : PT_4K);
				CHECK_EQ(pte_attrs(s.value, s.level) & ~PTE_KEEP, want);
				CHECK_EQ(pte_leaf_pa(s.value, s.level).raw, pa);
				iounmap(p);
				CHECK(pte_none(fixture_leaf((u64)p).value));
			}
}

TEST_ID(ioremap, any_alignment_keeps_its_offset, "VA1")
{
	static const struct {
		u64 offset, size, pages;
	} cases[] = {
		{ 0, 1, 1 }, { 1, 1, 1 }, { 0xfff, 1, 1 }, { 0xfff, 2, 2 }, { 0x800, PAGE_SIZE, 2 }, { 0, PAGE_SIZE, 1 },
		{ 0x123, 5 * PAGE_SIZE, 6 }, { 1, 2 * MIB, 513 }, { PAGE_SIZE, 2 * MIB, 512 },
	};
	u64 pa = fixture_nowhere();

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		u64 at = pa + cases[i].offset;
		void *p = ioremap(at, cases[i].size, IOREMAP_UC);
		struct vm_area *a = find_vm_area((u64)p);

		REQUIRE(p && a);
		CHECK_EQ((u64)p & (PAGE_SIZE - 1), at & (PAGE_SIZE - 1));
		CHECK_EQ(a->nr_pages, cases[i].pages);
		CHECK_EQ(a->size, cases[i].pages * PAGE_SIZE);
		CHECK_EQ(a->pa, at);
		CHECK_EQ(a->kind, VM_AREA_IOREMAP);
		for (u64 k = 0; k < cases[i].pages; k++) {
			u64 va = a->start + k * PAGE_SIZE;
			struct pt_slot s = fixture_leaf(va);

			CHECK_EQ(pte_leaf_pa(s.value, s.level).raw + (va & (pt_span(s.level) - 1)),
				 align_down(at, PAGE_SIZE) + k * PAGE_SIZE);
		}
		CHECK(pte_none(fixture_leaf(a->start - PAGE_SIZE).value));
		CHECK(pte_none(fixture_leaf(a->start + a->size).value));
		iounmap(p);
	}
}

static void check_refused(u64 pa, u64 size, unsigned type)
{
	u64 warnings = log_warnings;

	if (!CHECK(!ioremap(pa, size, type)))
		test_note("not refused: %#llx, %#llx bytes, type %u", (unsigned long long)pa, (unsigned long long)size, type);
	CHECK_EQ(log_warnings, warnings + 1);
}

TEST_ID(ioremap, refuses_nonsense, "VA1")
{
	u64 pa = fixture_nowhere(), top = BIT(arch_mm.phys_bits);
	struct fixture_picture before;
	void *p;

	fixture_take(&before);
	check_refused(pa, 0, IOREMAP_UC);
	check_refused(pa, UINT64_MAX, IOREMAP_UC);
	check_refused(pa, -pa, IOREMAP_UC);
	check_refused(top, 1, IOREMAP_UC);
	check_refused(top - PAGE_SIZE, PAGE_SIZE + 1, IOREMAP_UC);
	check_refused(UINT64_MAX, 1, IOREMAP_UC);
	check_refused(pa, PAGE_SIZE, IOREMAP_WC + 1);
	check_refused(pa, PAGE_SIZE, 0x20);
	p = ioremap(top - PAGE_SIZE, PAGE_SIZE, IOREMAP_UC);	/* the last page there can be */
	CHECK(p != NULL);
	iounmap(p);
	fixture_same(&before);
}

/* One frame, one type: what is in the direct map is write-back there (SDM 3A 12.12.4). */
TEST_ID(ioremap, refuses_another_type_for_ram, "VA1 PT1")
{
	struct page *page = alloc_pages(2, 0);
	struct fixture_picture before;
	u64 pa;

	REQUIRE(page);
	pa = page_to_phys(page).raw;
	fixture_take(&before);
	for (unsigned type = IOREMAP_WT; type <= IOREMAP_WC; type++) {
		check_refused(pa, PAGE_SIZE, type);
		check_refused(pa + 0xfff, 1, type | IOREMAP_RO);
		check_refused(pa + PAGE_SIZE, 2 * PAGE_SIZE, type);
	}
	fixture_same(&before);
	for (unsigned ro = 0; ro <= IOREMAP_RO; ro += IOREMAP_RO) {
		void *p = ioremap(pa, 4 * PAGE_SIZE, IOREMAP_WB | ro);

		REQUIRE(p);
		CHECK_EQ(page->writable_aliases, !ro);
		iounmap(p);
		CHECK_EQ(page->writable_aliases, 0);
	}
	free_pages(page, 2);
}

TEST_ID(ioremap, unmapped_by_any_address_of_its_first_page, "VA1")
{
	u64 pa = fixture_nowhere(), warnings = log_warnings;
	u8 *p = ioremap(pa + 0x10, 2 * PAGE_SIZE, IOREMAP_UC);

	REQUIRE(p);
	vfree((u8 *)align_down((u64)p, PAGE_SIZE));
	vunmap(p);
	iounmap(p + PAGE_SIZE);
	CHECK_EQ(log_warnings, warnings + 3);
	CHECK(find_vm_area((u64)p) != NULL);
	iounmap(p);
	CHECK(!find_vm_area((u64)p));
	iounmap(p);
	CHECK_EQ(log_warnings, warnings + 4);
}

TEST_ID(ioremap, nth_allocation_fails_cleanly, "VA1 PA8")
{
	static const u64 sizes[] = { PAGE_SIZE, 2 * MIB, 5 * MIB + PAGE_SIZE, GIB + 2 * MIB };
	u64 pa = fixture_nowhere();

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		bool more = true;
		unsigned n = 0;

		while (more && n < 100) {
			struct fixture_picture before;
			void *p;

			fixture_take(&before);
			alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = ++n };
			p = ioremap(pa, sizes[i], IOREMAP_UC);
			alloc_inject.armed = 0;
			more = alloc_inject.failed;
			CHECK_EQ(p != NULL, !more);
			iounmap(p);
			fixture_same(&before);
		}
		CHECK(!more);
		/* Small ones may find their tables there; more than a gigabyte takes one that cannot be. */
		CHECK(n > 1 || sizes[i] < GIB);
	}
}
