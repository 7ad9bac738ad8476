/* SPDX-License-Identifier: MIT */
/* Who uses unmapped pages besides executable memory: buffers of devices, and memory of guests (SPEC UM6). */
#include "kernel/base/errno.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "mm/dma_buffer.h"
#include "mm/guest_memory.h"
#include "mm/pgtable.h"
#include "mm/temp_map.h"
#include "mm/unmapped.h"
#include "tests/fixture.h"
#include "tests/test.h"

static bool in_direct_map(pfn_t pfn)
{
	return pte_present(fixture_leaf(phys_to_va(phys(pfn << PAGE_SHIFT))).value);
}

/* ---- Buffers of devices ---- */

TEST_ID(dma_buffer, copies_go_in_and_out, "UM6")
{
	static u8 out[3 * PAGE_SIZE + 100], back[sizeof(out)];
	struct rng rng = test_rng();
	struct dma_buffer b;

	REQUIRE(dma_buffer_alloc(&b, sizeof(out)) == 0);
	CHECK_EQ(b.order, 2);
	CHECK_EQ(b.pa.raw, page_to_phys(b.page).raw);
	CHECK_EQ(dma_buffer_read(&b, 0, back, sizeof(back)), 0);
	for (u64 i = 0; i < sizeof(out); i++) {
		if (back[i] && !CHECK(!"a fresh buffer is zero"))
			break;
		out[i] = (u8)rng_next(&rng);
	}
	for (unsigned i = 0; i < 4; i++)
		CHECK(!in_direct_map(page_to_pfn(b.page) + i));
	CHECK_EQ(dma_buffer_write(&b, 0, out, sizeof(out)), 0);
	memset(back, 0, sizeof(back));
	CHECK_EQ(dma_buffer_read(&b, 4000, back + 4000, 5000), 0);
	CHECK_EQ(memcmp(back + 4000, out + 4000, 5000), 0);
	CHECK(back[3999] == 0 && back[9000] == 0);
	CHECK_EQ(unmapped_check(), 0);
	dma_buffer_free(&b);
	CHECK(!b.page);
	dma_buffer_free(&b);
}

TEST_ID(dma_buffer, edges_are_refused, "UM6")
{
	enum unmapped_mode mode = unmapped_mode();
	struct dma_buffer b;
	u8 byte = 1;

	CHECK_EQ(unmapped_set_mode(UNMAPPED_2M), 0);
	CHECK_EQ(dma_buffer_alloc(&b, 0), -EINVAL);
	CHECK_EQ(dma_buffer_alloc(&b, DMA_BUFFER_MAX + 1), -E2BIG);
	CHECK_EQ(dma_buffer_alloc(&b, UINT64_MAX), -E2BIG);
	CHECK(!b.page);
	REQUIRE(dma_buffer_alloc(&b, 100) == 0);
	CHECK_EQ(dma_buffer_write(&b, 99, &byte, 1), 0);
	CHECK_EQ(dma_buffer_write(&b, 100, &byte, 1), -EINVAL);
	CHECK_EQ(dma_buffer_write(&b, 0, &byte, 101), -EINVAL);
	CHECK_EQ(dma_buffer_write(&b, 1, &byte, UINT64_MAX), -EINVAL);
	CHECK_EQ(dma_buffer_read(&b, UINT64_MAX, &byte, 1), -EINVAL);
	CHECK_EQ(dma_buffer_read(&b, 0, &byte, 0), -EINVAL);
	/* What lies behind the end, in the same page, is still zero. */
	temp_read(page_to_pfn(b.page), 100, &byte, 1);
	CHECK_EQ(byte, 0);
	dma_buffer_free(&b);
	CHECK_EQ(unmapped_shrink(UNMAPPED_ALL) % 512, 0);
	alloc_inject = (struct alloc_inject){ .armed = 1, .one_in = 1 };
	CHECK_EQ(dma_buffer_alloc(&b, DMA_BUFFER_MAX), -ENOMEM);
	alloc_inject = (struct alloc_inject){ 0 };
	CHECK(!b.page);
	dma_buffer_free(&b);
	CHECK_EQ(unmapped_set_mode(mode), 0);
}

/* ---- Guests ---- */

#define GUEST_SIZE (9 * MIB + 7 * PAGE_SIZE)
#define PATTERN 0x6e57f10072a3b4c5ull

struct seen {
	const struct guest_memory *g;
	u64 next;
	u64 extents;
	bool wrong;
};

static void see(void *arg, u64 gpa, pfn_t pfn, unsigned order)
{
	struct seen *s = arg;

	s->wrong |= gpa != s->next || !is_aligned(pfn, BIT(order));
	for (u64 i = 0; i < BIT(order); i += MAX(BIT(order) / 4, 1)) {
		s->wrong |= guest_memory_frame(s->g, (gpa >> PAGE_SHIFT) + i) != pfn + i;
		s->wrong |= in_direct_map(pfn + i);
	}
	s->next = gpa + (PAGE_SIZE << order);
	s->extents++;
}

TEST_ID(guest_memory, extents_cover_it, "UM6")
{
	struct guest_memory g;
	struct seen s = { .g = &g };

	CHECK_EQ(guest_memory_take(&g, 0, 0), -EINVAL);
	CHECK_EQ(guest_memory_take(&g, PAGE_SIZE + 1, 0), -EINVAL);
	CHECK_EQ(guest_memory_take(&g, PAGE_SIZE, 0x4), -EINVAL);
	guest_memory_give(&g);
	REQUIRE(guest_memory_take(&g, GUEST_SIZE, 0) == 0);
	CHECK_EQ(g.size, GUEST_SIZE);
	CHECK_EQ(g.extents, 4 + 1 + 3);		/* 4 of 2 MiB, 1 of 1 MiB, 4 + 2 + 1 pages */
	guest_memory_each(&g, see, &s);
	CHECK(!s.wrong);
	CHECK_EQ(s.next, GUEST_SIZE);
	CHECK_EQ(s.extents, g.extents);
	CHECK_EQ(guest_memory_frame(&g, GUEST_SIZE >> PAGE_SHIFT), PFN_NONE);
	CHECK_EQ(unmapped_check(), 0);
	guest_memory_give(&g);
	CHECK_EQ(g.extents, 0);
}

static void fill(pfn_t pfn, u64 word)
{
	u64 *p = phys_to_virt(phys(pfn << PAGE_SHIFT));

	for (unsigned i = 0; i < PAGE_SIZE / sizeof(u64); i++)
		p[i] = word;
}

static bool filled(pfn_t pfn, u64 word)
{
	const u64 *p = phys_to_virt(phys(pfn << PAGE_SHIFT));

	for (unsigned i = 0; i < PAGE_SIZE / sizeof(u64); i++)
		if (p[i] != word)
			return false;
	return true;
}

/* All free blocks, so that what is freed next is the only one; a list through struct page. */
static u32 hold_blocks(void)
{
	u32 held = PFN_NONE;
	struct page *block;

	while ((block = alloc_pages(ORDER_2M, 0))) {
		block->next = held;
		held = (u32)page_to_pfn(block);
	}
	return held;
}

static void release_blocks(u32 held)
{
	while (held != PFN_NONE) {
		struct page *block = pfn_to_page(held);

		held = block->next;
		free_pages(block, ORDER_2M);
	}
}

/*
 * Neither zeroed nor scrubbed: not one temporary mapping from the page allocator to the guest and back, and what was in the
 * frames before is in them afterwards. With zeroing and scrubbing, the control, it is gone.
 */
TEST_ID(guest_memory, is_never_touched_if_so_asked, "UM4 UM6")
{
	enum unmapped_mode mode = unmapped_mode();

	buddy_watch(BUDDY_POISON, false);
	CHECK_EQ(unmapped_set_mode(UNMAPPED_2M), 0);
	for (unsigned flags = 0; flags <= GUEST_MEMORY_NOSCRUB; flags += GUEST_MEMORY_NOSCRUB) {
		struct temp_map_stats before, after;
		struct guest_memory g;
		struct page *page;
		pfn_t pfn;
		u32 held;

		unmapped_shrink(UNMAPPED_ALL);
		page = alloc_pages(ORDER_2M, 0);
		REQUIRE(page != NULL);
		held = hold_blocks();
		pfn = page_to_pfn(page);
		for (unsigned i = 0; i < 512; i++)
			fill(pfn + i, PATTERN);
		free_pages(page, ORDER_2M);
		temp_map_read_stats(&before);
		if (CHECK_EQ(guest_memory_take(&g, 2 * MIB, flags), 0)) {
			CHECK_EQ(guest_memory_frame(&g, 0), pfn);
			guest_memory_give(&g);
		}
		unmapped_shrink(UNMAPPED_ALL);
		temp_map_read_stats(&after);
		CHECK_EQ(after.mappings - before.mappings, flags ? 0 : 512);
		page = alloc_pages(ORDER_2M, 0);
		if (CHECK(page != NULL) && CHECK_EQ(page_to_pfn(page), pfn))
			for (unsigned i = 0; i < 512; i++)
				if (!CHECK(filled(pfn + i, flags ? PATTERN : 0)))
					break;
		if (page) {
			memset(page_to_virt(page), 0, 2 * MIB);
			free_pages(page, ORDER_2M);
		}
		release_blocks(held);
	}
	CHECK_EQ(unmapped_set_mode(mode), 0);
}

/* Too little memory for all of it: nothing is kept. */
TEST_ID(guest_memory, all_or_nothing, "UM6")
{
	u64 free = buddy_free_frames();
	struct guest_memory g;

	CHECK_EQ(guest_memory_take(&g, (free + 1) << PAGE_SHIFT, GUEST_MEMORY_NOSCRUB), -ENOMEM);
	CHECK_EQ(g.extents, 0);
	unmapped_shrink(UNMAPPED_ALL);
	CHECK_EQ(unmapped_check(), 0);
}
