/* SPDX-License-Identifier: MIT */
/* vmalloc and vmap (SPEC VA1): what is mapped, what is refused, and that nothing is left behind (PA8). */
#include "mm/vmalloc.h"

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/set_memory.h"
#include "mm/vm_area.h"
#include "tests/fixture.h"
#include "tests/test.h"

#define PAGES 600u

static struct page *pages[PAGES];

/* PTE bits that every leaf of vmalloc() and vmap() has besides W. */
static u64 leaf_attrs(void)
{
	return fixture_attrs() & ~PTE_W;
}

/*
 * What is seen through a kernel mapping, by way of the direct map: the hosted machine has no other way to read
 * memory by a virtual address of the kernel half.
 */
static u64 *seen_at(u64 va)
{
	struct pt_slot s = fixture_leaf(va);

	if (!pte_is_leaf(s.value, s.level))
		return NULL;
	return phys_to_virt(phys(pte_leaf_pa(s.value, s.level).raw + (va & (pt_span(s.level) - 1))));
}

/* An area as vmalloc() should leave it: all mapped with the right attributes, zeroed, guards absent. */
static void check_area(const void *p, u64 size)
{
	u64 va = (u64)p, end = va + align_up(size, PAGE_SIZE), wrong = 0, sum = 0;
	struct vm_area *a = find_vm_area(va);

	REQUIRE(a);
	CHECK_EQ(a->start, va);
	CHECK_EQ(a->nr_pages, (end - va) >> PAGE_SHIFT);
	for (u64 at = va; at < end; at += PAGE_SIZE) {
		struct pt_slot s = fixture_leaf(at);
		u64 *words = seen_at(at);

		wrong += !words || (pte_attrs(s.value, s.level) & ~PTE_KEEP) != (leaf_attrs() | PTE_W);
		for (unsigned w = 0; words && w < PAGE_SIZE / 8; w += 64)
			sum |= words[w];
	}
	CHECK_EQ(wrong, 0);
	CHECK_EQ(sum, 0);
	CHECK(pte_none(fixture_leaf(va - PAGE_SIZE).value));
	CHECK(pte_none(fixture_leaf(end).value));
}

TEST_ID(vmalloc, every_size_is_mapped_and_zero, "VA1")
{
	static const u64 sizes[] = {
		1, PAGE_SIZE, PAGE_SIZE + 1, 64 * PAGE_SIZE, 65 * PAGE_SIZE, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 5 * MIB,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		u64 free = buddy_free_frames();
		void *p = vmalloc(sizes[i]);

		REQUIRE(p);
		CHECK(is_aligned((u64)p, sizes[i] >= 2 * MIB ? 2 * MIB : PAGE_SIZE));
		CHECK(free - buddy_free_frames() >= align_up(sizes[i], PAGE_SIZE) >> PAGE_SHIFT);
		check_area(p, sizes[i]);
		memset(seen_at((u64)p), 0xa5, PAGE_SIZE);	/* the next one must not see it */
		vfree(p);
		CHECK(!find_vm_area((u64)p));
		CHECK(pte_none(fixture_leaf((u64)p).value));
	}
}

TEST_ID(vmalloc, large_ones_are_mapped_by_2m_leaves, "VA1")
{
	u64 large = kernel_space.stats[PT_OTHER].leaves[PT_2M];
	void *p = vmalloc(6 * MIB + PAGE_SIZE);

	REQUIRE(p);
	for (u64 at = 0; at < 6 * MIB; at += 2 * MIB)
		CHECK_EQ(fixture_leaf((u64)p + at).level, PT_2M);
	CHECK_EQ(fixture_leaf((u64)p + 6 * MIB).level, PT_4K);
	CHECK_EQ(kernel_space.stats[PT_OTHER].leaves[PT_2M], large + 3);
	vfree(p);
	CHECK_EQ(kernel_space.stats[PT_OTHER].leaves[PT_2M], large);
}

TEST_ID(vmalloc, many_megabytes, "VA1")
{
	u64 size = MIN(256 * MIB, align_down(buddy_free_frames() << PAGE_SHIFT >> 2, 2 * MIB));
	u8 *p = vmalloc(size);

	REQUIRE(p);
	CHECK_EQ(find_vm_area((u64)p)->size, size);
	CHECK(seen_at((u64)p + size - PAGE_SIZE) != NULL);
	vfree(p);
}

TEST_ID(vmalloc, bad_sizes, "VA1")
{
	u64 warnings = log_warnings;

	CHECK(!vmalloc(0));
	CHECK_EQ(log_warnings, warnings + 1);
	CHECK(!vmalloc(UINT64_MAX));
	CHECK(!vmalloc(1ull << 62));
	CHECK(!vmalloc((buddy_free_frames() + 1) << PAGE_SHIFT));
}

/* Allocate all there is in blocks of one order, onto a list. */
static void hold_all(u32 *list, unsigned order)
{
	struct page *page;

	while ((page = alloc_pages(order, 0))) {
		page->next = *list;
		*list = (u32)page_to_pfn(page);
	}
}

static struct page *take_first(u32 *list)
{
	struct page *page = pfn_to_page(*list);

	*list = page->next;
	return page;
}

static void release(u32 *list)
{
	while (*list != PFN_NONE) {
		struct page *page = take_first(list);

		free_pages(page, page->order);
	}
}

#define HALVES 6u

/* No block of 2 MiB is free, but halves of such blocks are: the same area, of single frames. */
TEST_ID(vmalloc, falls_back_to_single_frames, "VA1")
{
	struct page *halves[HALVES][2];
	u32 blocks = PFN_NONE, held = PFN_NONE;
	unsigned n = 0;
	void *p;

	hold_all(&blocks, ORDER_2M);
	for (unsigned order = ORDER_2M; order-- > 0;)
		hold_all(&held, order);
	for (; n < HALVES && blocks != PFN_NONE; n++) {
		/* The only free one, so that both halves come from it. */
		free_pages(take_first(&blocks), ORDER_2M);
		halves[n][0] = alloc_pages(ORDER_2M - 1, 0);
		halves[n][1] = alloc_pages(ORDER_2M - 1, 0);
	}
	CHECK_EQ(n, HALVES);
	for (unsigned i = 0; i < n; i++)
		free_pages(halves[i][0], ORDER_2M - 1);
	CHECK(!alloc_pages(ORDER_2M, 0));
	p = vmalloc(2 * MIB + PAGE_SIZE);
	if (CHECK(p != NULL)) {
		check_area(p, 2 * MIB + PAGE_SIZE);
		CHECK_EQ(fixture_leaf((u64)p).level, PT_4K);
		vfree(p);
	}
	for (unsigned i = 0; i < n; i++)
		free_pages(halves[i][1], ORDER_2M - 1);
	release(&held);
	release(&blocks);
}

TEST_ID(vmalloc, bad_pointers_are_refused, "VA1")
{
	struct fixture_picture before;
	u8 *p = vmalloc(3 * PAGE_SIZE);
	struct page *page = alloc_page(0);
	void *alias = page ? vmap(&page, 1, 0) : NULL;
	u64 warnings = log_warnings;

	REQUIRE(p && alias);
	fixture_take(&before);
	vfree(NULL);
	vunmap(NULL);
	iounmap(NULL);
	CHECK_EQ(log_warnings, warnings);
	vfree(p + 1);
	vfree(p + PAGE_SIZE);
	vfree(p - PAGE_SIZE);
	vfree(alias);
	vunmap(p);
	iounmap(p);
	vfree(page_to_virt(page));
	CHECK_EQ(log_warnings, warnings + 7);
	fixture_same(&before);
	vfree(p);
	vfree(p);	/* gone */
	vunmap(alias);
	vunmap(alias);
	CHECK_EQ(log_warnings, warnings + 9);
	free_page(page);
}

/* Rights taken from an area go with it: the frames are as before in the direct map. */
TEST_ID(vmalloc, vfree_gives_rights_back, "VA1 PT2")
{
	u8 *p = vmalloc(4 * PAGE_SIZE);
	u64 direct;

	REQUIRE(p);
	direct = arch_mm.direct_base + pte_leaf_pa(fixture_leaf((u64)p + PAGE_SIZE).value, PT_4K).raw;
	CHECK(fixture_leaf(direct).value.raw & PTE_W);
	CHECK_EQ(set_memory_ro((u64)p + PAGE_SIZE, 2), 0);
	CHECK(pte_present(fixture_leaf(direct).value) && !(fixture_leaf(direct).value.raw & PTE_W));
	vfree(p);
	CHECK(fixture_leaf(direct).value.raw & PTE_W);
}

/* ---- vmap ---- */

static bool get_pages(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (!CHECK((pages[i] = alloc_page(0)) != NULL))
			return false;
	return true;
}

static void put_pages(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		free_page(pages[i]);
}

TEST_ID(vmalloc, vmap_shows_the_frames_in_order, "VA1")
{
	u64 wrong = 0;
	u8 *p;

	REQUIRE(get_pages(PAGES));
	p = vmap(pages, PAGES, 0);
	REQUIRE(p);
	for (unsigned i = 0; i < PAGES; i++) {
		struct pt_slot s = fixture_leaf((u64)p + i * PAGE_SIZE);

		wrong += seen_at((u64)p + i * PAGE_SIZE) != page_to_virt(pages[i]);
		wrong += !(pte_attrs(s.value, s.level) & PTE_W);
		wrong += pages[i]->writable_aliases != 1;
	}
	CHECK_EQ(wrong, 0);
	CHECK_EQ(find_vm_area((u64)p)->nr_pages, PAGES);
	vunmap(p);
	for (unsigned i = 0; i < PAGES; i++)
		wrong += pages[i]->writable_aliases != 0;
	CHECK_EQ(wrong, 0);
	put_pages(PAGES);
}

TEST_ID(vmalloc, vmap_read_only, "VA1")
{
	u8 *p;

	REQUIRE(get_pages(2));
	p = vmap(pages, 2, VMAP_RO);
	REQUIRE(p);
	CHECK_EQ(pte_attrs(fixture_leaf((u64)p).value, PT_4K) & ~PTE_KEEP, leaf_attrs());
	CHECK_EQ(pages[0]->writable_aliases, 0);
	vunmap(p);
	put_pages(2);
}

TEST_ID(vmalloc, vmap_of_a_block_is_one_leaf, "VA1")
{
	struct page *block = alloc_pages(ORDER_2M, 0);
	u8 *p;

	REQUIRE(block);
	for (unsigned i = 0; i < 512; i++)
		pages[i] = block + i;
	p = vmap(pages, 512, 0);
	REQUIRE(p);
	CHECK_EQ(fixture_leaf((u64)p).level, PT_2M);
	vunmap(p);
	free_pages(block, ORDER_2M);
}

TEST_ID(vmalloc, vmap_refuses, "VA1")
{
	struct fixture_picture before;
	struct page *kept;

	REQUIRE(get_pages(3));
	fixture_take(&before);
	CHECK(!vmap(pages, 0, 0));
	CHECK(!vmap(pages, 3, 2));
	CHECK(!vmap(pages, UINT64_MAX, 0));
	kept = pages[1];
	pages[1] = NULL;
	CHECK(!vmap(pages, 3, 0));
	pages[1] = phys_to_page(kernel_space.root);	/* a table */
	CHECK(!vmap(pages, 3, 0));
	CHECK(!vmap(pages, 3, VMAP_RO));
	pages[1] = kept;
	fixture_same(&before);
	put_pages(3);
}

/* ---- Failures ---- */

enum op {
	OP_VMALLOC_SMALL,
	OP_VMALLOC_LARGE,
	OP_VMAP,
	OPS,
};

static void *run_op(enum op op)
{
	switch (op) {
	case OP_VMALLOC_SMALL:
		return vmalloc(70 * PAGE_SIZE);
	case OP_VMALLOC_LARGE:
		return vmalloc(4 * MIB + 3 * PAGE_SIZE);
	default:
		return vmap(pages, PAGES, 0);
	}
}

static void undo_op(enum op op, void *p)
{
	if (op == OP_VMAP)
		vunmap(p);
	else
		vfree(p);
}

/* Fail the 1st, 2nd, ... allocation of each operation until none fails any more. */
TEST_ID(vmalloc, nth_allocation_fails_cleanly, "VA1 PA8")
{
	REQUIRE(get_pages(PAGES));
	for (enum op op = 0; op < OPS; op++) {
		unsigned refused = 0, n = 0;
		bool more = true;

		while (more && n < 5000) {
			struct fixture_picture before;
			void *p;

			fixture_take(&before);
			alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = ++n };
			p = run_op(op);
			alloc_inject.armed = 0;
			more = alloc_inject.failed;
			if (p) {
				CHECK(op == OP_VMALLOC_LARGE || !more);	/* single frames for a block are no failure */
				if (op != OP_VMAP)
					check_area(p, op == OP_VMALLOC_SMALL ? 70 * PAGE_SIZE : 4 * MIB + 3 * PAGE_SIZE);
				undo_op(op, p);
			} else {
				refused++;
				CHECK(more);
			}
			fixture_same(&before);
		}
		CHECK(!more);
		CHECK(refused > 0);
		test_note("op=%u allocations=%u refused=%u", op, n - 1, refused);
	}
	CHECK_EQ(vm_area_check(), 0);
	put_pages(PAGES);
}
