/* SPDX-License-Identifier: MIT */
/*
 * The page allocator (SPEC PA1), what it refuses to take back (PA7), failure injection (PA8). All on the live
 * allocator: each test gives back what it took, and the free blocks by order must then be the same.
 */
#include "mm/buddy.h"

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/directmap.h"
#include "mm/pt_internal.h"
#include "tests/test.h"

/* Allocated blocks, held on a list through struct page. */
struct held {
	u32 first;
	u64 blocks;
	u64 frames;
};

#define HELD_NONE { PFN_NONE, 0, 0 }

static bool hold(struct held *h, unsigned order)
{
	struct page *page = alloc_pages(order, 0);

	if (!page)
		return false;
	page->next = h->first;
	h->first = (u32)page_to_pfn(page);
	h->blocks++;
	h->frames += 1ull << order;
	return true;
}

static struct page *unhold(struct held *h)
{
	struct page *page = pfn_to_page(h->first);

	h->first = page->next;
	h->blocks--;
	h->frames -= 1ull << page->order;
	return page;
}

static void release(struct held *h)
{
	while (h->first != PFN_NONE) {
		struct page *page = unhold(h);

		free_pages(page, page->order);
	}
}

/* Every frame there is, in blocks as large as can be. */
static void hold_everything(struct held *h)
{
	for (unsigned order = ORDER_MAX + 1; order-- > 0;)
		while (hold(h, order))
			;
}

static void read_drained(struct buddy_stats *out)
{
	buddy_drain();
	buddy_read_stats(out);
}

/* The free blocks are as before: what the tests gave back has coalesced into the same ones. */
static void same_blocks(const struct buddy_stats *before)
{
	struct buddy_stats now;

	read_drained(&now);
	CHECK_EQ(now.free, before->free);
	for (unsigned order = 0; order <= ORDER_MAX; order++)
		CHECK_EQ(now.blocks[order], before->blocks[order]);
}

TEST_ID(buddy, every_order_is_aligned_and_headed, "PA1")
{
	struct buddy_stats before;

	read_drained(&before);
	for (unsigned order = 0; order <= ORDER_MAX; order++) {
		u64 free = buddy_free_frames();
		struct page *page = alloc_pages(order, 0);

		if (!page) {	/* a machine may have no free gigabyte */
			CHECK(order > ORDER_2M);
			continue;
		}
		CHECK(is_aligned(page_to_pfn(page), 1ull << order));
		CHECK_EQ(page->class, PAGE_KERNEL);
		CHECK_EQ(page->flags, PAGE_HEAD);
		CHECK_EQ(page->order, order);
		CHECK_EQ(buddy_free_frames(), free - (1ull << order));
		free_pages(page, order);
		CHECK_EQ(page->class, PAGE_FREE);
		CHECK_EQ(buddy_free_frames(), free);
	}
	same_blocks(&before);
}

TEST_ID(buddy, no_such_order, "PA1")
{
	u64 free = buddy_free_frames();

	CHECK(!alloc_pages(ORDER_MAX + 1, 0));
	CHECK(!alloc_pages(31, 0));
	CHECK(!alloc_pages(~0u, 0));
	CHECK_EQ(buddy_free_frames(), free);
}

TEST_ID(buddy, zero_is_zero, "PA1")
{
	static const unsigned orders[] = { 0, 1, 3, 10 };

	for (unsigned i = 0; i < ARRAY_SIZE(orders); i++) {
		u64 words = PAGE_SIZE << orders[i] >> 3;
		struct page *page = alloc_pages(orders[i], 0);
		u64 sum = 0;
		u64 *p;

		REQUIRE(page);
		memset(page_to_virt(page), 0xa5, words << 3);
		free_pages(page, orders[i]);
		page = alloc_pages(orders[i], ALLOC_ZERO);	/* the same one: the last freed is the first to go */
		REQUIRE(page);
		p = page_to_virt(page);
		for (u64 w = 0; w < words; w++)
			sum |= p[w];
		CHECK_EQ(sum, 0);
		free_pages(page, orders[i]);
	}
}

/* No two allocations share a frame: each frame is written with the number of its block, and read back. */
TEST_ID(buddy, blocks_do_not_overlap, "PA1")
{
	struct buddy_stats before;
	struct rng rng = test_rng();
	struct held h = HELD_NONE;
	u64 wrong = 0;

	read_drained(&before);
	for (unsigned i = 0; i < 400; i++)
		REQUIRE(hold(&h, (unsigned)rng_below(&rng, 6)));
	for (u32 pfn = h.first; pfn != PFN_NONE; pfn = pfn_to_page(pfn)->next)
		for (u64 i = 0; i < 1ull << pfn_to_page(pfn)->order; i++)
			*(u64 *)page_to_virt(pfn_to_page(pfn + i)) = pfn;
	for (u32 pfn = h.first; pfn != PFN_NONE; pfn = pfn_to_page(pfn)->next)
		for (u64 i = 0; i < 1ull << pfn_to_page(pfn)->order; i++)
			wrong += *(u64 *)page_to_virt(pfn_to_page(pfn + i)) != pfn;
	CHECK_EQ(wrong, 0);
	release(&h);
	same_blocks(&before);
}

TEST_ID(buddy, random_order_coalesces_whole, "PA1")
{
	struct rng rng = test_rng();
	struct buddy_stats before;
	struct page *slots[256] = { NULL };
	u8 orders[256];

	read_drained(&before);
	for (unsigned i = 0; i < 20000; i++) {
		unsigned k = (unsigned)rng_below(&rng, ARRAY_SIZE(slots));

		if (slots[k]) {
			free_pages(slots[k], orders[k]);
			slots[k] = NULL;
		} else {
			orders[k] = (u8)rng_below(&rng, rng_below(&rng, 11) + 1);
			slots[k] = alloc_pages(orders[k], 0);
		}
	}
	for (unsigned k = 0; k < ARRAY_SIZE(slots); k++)
		if (slots[k])
			free_pages(slots[k], orders[k]);
	same_blocks(&before);
}

TEST_ID(buddy, every_frame_can_be_had, "PA1")
{
	struct buddy_stats before, full, now;
	struct held h = HELD_NONE;

	read_drained(&before);
	hold_everything(&h);
	CHECK_EQ(h.frames, before.free);
	buddy_read_stats(&full);
	CHECK_EQ(full.free, 0);
	CHECK_EQ(full.cached, 0);
	for (unsigned order = 0; order <= ORDER_MAX; order++)
		CHECK(!alloc_pages(order, 0));
	buddy_read_stats(&now);
	CHECK_EQ(now.fails, full.fails + ORDER_MAX + 1);
	release(&h);
	same_blocks(&before);
}

/* All that is free lies on this CPU's stacks, in single frames: it must still be found, and as a block. */
TEST_ID(buddy, stacks_are_drained_for_a_block, "PA1")
{
	struct buddy_stats before, now;
	struct held rest = HELD_NONE, singles = HELD_NONE;
	struct page *block;

	read_drained(&before);
	block = alloc_pages(ORDER_2M, 0);
	REQUIRE(block);
	hold_everything(&rest);
	free_pages(block, ORDER_2M);
	while (hold(&singles, 0))
		;
	CHECK_EQ(singles.blocks, 1ull << ORDER_2M);
	while (singles.first != PFN_NONE)
		free_page(unhold(&singles));
	buddy_read_stats(&now);
	CHECK_EQ(now.free, 1ull << ORDER_2M);
	CHECK(now.cached > 0);
	CHECK(alloc_pages(ORDER_2M, 0) == block);
	CHECK_EQ(buddy_free_frames(), 0);
	free_pages(block, ORDER_2M);
	release(&rest);
	same_blocks(&before);
}

/*
 * Two free blocks of one order, in different 2 MiB: the one that is near is had, whichever was freed last. If there is nothing
 * as large, nothing comes; a smaller one comes out of any.
 */
TEST_ID(buddy, upto_takes_the_largest_and_near, "PA1")
{
	struct held rest = HELD_NONE, parts = HELD_NONE;
	struct buddy_stats before;
	struct page *blocks[2], *page;
	unsigned order;

	read_drained(&before);
	for (unsigned i = 0; i < 2; i++)
		REQUIRE(blocks[i] = alloc_pages(ORDER_2M, 0));
	hold_everything(&rest);
	free_pages(blocks[0], ORDER_2M);
	free_pages(blocks[1], ORDER_2M);
	buddy_drain();
	while ((page = alloc_pages(3, 0)))
		if (page != blocks[0] + 72 && page != blocks[1] + 72) {
			page->next = parts.first;
			parts.first = (u32)page_to_pfn(page);
			parts.blocks++;
		}
	CHECK_EQ(parts.blocks, 126);
	for (unsigned last = 0; last < 2; last++)
		for (unsigned i = 0; i < 2; i++) {
			/* Pages 72 to 79 of both. */
			free_pages(blocks[!last] + 72, 3);
			free_pages(blocks[last] + 72, 3);
			buddy_drain();
			CHECK(!alloc_pages_upto(4, 8, page_to_pfn(blocks[i]), &order));
			page = alloc_pages_upto(1, 8, page_to_pfn(blocks[i]) + 300, &order);
			CHECK(page == blocks[i] + 72);
			CHECK_EQ(order, 3);
			CHECK(page && page->flags == PAGE_HEAD && page->order == 3);
			page = alloc_pages_upto(0, 2, page_to_pfn(blocks[i]), &order);
			CHECK(page == blocks[!i] + 72);
			CHECK_EQ(order, 2);
			CHECK_EQ(buddy_free_frames(), 4);
			free_pages(page, 2);
			buddy_drain();
			page = alloc_pages(3, 0);
			CHECK(page == blocks[!i] + 72);
		}
	CHECK(!alloc_pages_upto(3, 2, 0, &order));
	CHECK(!alloc_pages_upto(0, ORDER_MAX + 1, 0, &order));
	CHECK_EQ(buddy_free_frames(), 0);
	parts.frames = parts.blocks << 3;
	free_pages(blocks[0] + 72, 3);
	free_pages(blocks[1] + 72, 3);
	release(&parts);
	release(&rest);
	same_blocks(&before);
}

/* Behind the frame first, then from the front of its 2 MiB. */
TEST_ID(buddy, near_goes_on_behind_the_frame, "PA1 UM2")
{
	static const struct {
		u16 near, found;
	} asked[] = { { 150, 200 }, { 200, 200 }, { 201, 301 }, { 302, 10 }, { 511, 10 }, { 0, 10 } };
	struct held rest = HELD_NONE, singles = HELD_NONE;
	struct buddy_stats before;
	struct page *block, *page;
	unsigned order;

	read_drained(&before);
	REQUIRE(block = alloc_pages(ORDER_2M, 0));
	hold_everything(&rest);
	free_pages(block, ORDER_2M);
	buddy_drain();
	while ((page = alloc_pages(0, 0)))
		if (page != block + 10 && page != block + 200 && page != block + 301) {
			page->next = singles.first;
			singles.first = (u32)page_to_pfn(page);
			singles.blocks++;
		}
	CHECK_EQ(singles.blocks, 509);
	free_pages(block + 10, 0);
	free_pages(block + 200, 0);
	free_pages(block + 301, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(asked); i++) {
		buddy_drain();
		page = alloc_pages_upto(0, 8, page_to_pfn(block) + asked[i].near, &order);
		CHECK(page == block + asked[i].found);
		CHECK_EQ(order, 0);
		if (page)
			free_pages(page, 0);
	}
	singles.frames = singles.blocks;
	release(&singles);
	release(&rest);
	same_blocks(&before);
}

/* What is larger on this CPU's stack is better than what is on the lists; and what is light empties no stack. */
TEST_ID(buddy, light_takes_what_lies_ready, "PA1")
{
	struct held rest = HELD_NONE, singles = HELD_NONE;
	struct page *block, *page, *pages[PAGE_RESERVE_ROOM + 1];
	struct buddy_stats start, before, after;
	unsigned order;

	read_drained(&start);
	block = alloc_pages(ORDER_2M, 0);
	REQUIRE(block);
	hold_everything(&rest);
	free_pages(block, ORDER_2M);
	while (hold(&singles, 0))
		;
	while (singles.first != PFN_NONE)
		free_page(unhold(&singles));
	buddy_read_stats(&before);
	CHECK(before.cached > 0);
	CHECK(!alloc_pages(ORDER_2M, ALLOC_LIGHT));
	CHECK(!alloc_pages(ORDER_MAX, ALLOC_LIGHT));
	buddy_read_stats(&after);
	CHECK_EQ(after.cached, before.cached);
	CHECK_EQ(after.frees, before.frees);
	CHECK_EQ(after.fails, before.fails);
	page = alloc_pages(ORDER_2M, 0);
	CHECK(page == block);
	free_pages(page, ORDER_2M);
	buddy_drain();

	for (unsigned i = 0; i < PAGE_RESERVE_ROOM + 1; i++)
		REQUIRE(pages[i] = alloc_pages(2, 0));
	while (hold(&singles, 1))
		;
	/* While allocations are watched each free takes the slow way, which fills the reserve from the stack. */
	for (unsigned i = 0; i < PAGE_RESERVE_ROOM + 1; i++)
		free_pages(pages[i], 2);
	CHECK(alloc_pages_upto(0, 8, 0, &order) == pages[PAGE_RESERVE_ROOM]);
	CHECK_EQ(order, 2);
	CHECK_EQ(buddy_free_frames(), PAGE_RESERVE_ROOM << 2);
	free_pages(pages[PAGE_RESERVE_ROOM], 2);
	release(&singles);
	release(&rest);
	same_blocks(&start);
}

/* ---- What is not taken back ---- */

/* The free must be refused: counted, named in the log, nothing else changed. */
static void check_refused(struct page *page, unsigned order, const char *what)
{
	struct buddy_stats before, after;
	u64 warnings = log_warnings;

	buddy_read_stats(&before);
	free_pages(page, order);
	buddy_read_stats(&after);
	if (!CHECK_EQ(after.bad_frees, before.bad_frees + 1) || !CHECK_EQ(log_warnings, warnings + 1))
		test_note("not refused: %s", what);
	CHECK_EQ(after.free, before.free);
	CHECK_EQ(after.cached, before.cached);
	CHECK_EQ(after.frees, before.frees);
}

TEST_ID(buddy, double_free_is_refused, "PA7")
{
	for (unsigned order = 0; order <= 10; order += 2) {
		struct page *page = alloc_pages(order, 0);

		REQUIRE(page);
		free_pages(page, order);
		check_refused(page, order, "on a stack");
		buddy_drain();
		check_refused(page, order, "back in the node");
	}
}

TEST_ID(buddy, wrong_order_is_refused, "PA7")
{
	static const unsigned orders[] = { 0, 1, 9, 10 };

	for (unsigned i = 0; i < ARRAY_SIZE(orders); i++) {
		struct page *page = alloc_pages(orders[i], 0);

		REQUIRE(page);
		check_refused(page, orders[i] + 1, "one more");
		check_refused(page, orders[i] ? orders[i] - 1 : ORDER_MAX, "one less");
		check_refused(page, ORDER_MAX + 1, "no order");
		check_refused(page, 256 + orders[i], "more than the field holds");
		free_pages(page, orders[i]);
	}
}

/* One without an entry, too, as pinned ones may be; its level is where other frames have their order. */
TEST_ID(buddy, tables_are_refused, "PA7")
{
	struct page *page = alloc_page(0);

	REQUIRE(page);
	page_put_class(page, PAGE_TABLE);
	for (unsigned level = PT_4K; level <= arch_mm.levels; level++) {
		page->order = (u8)level;
		check_refused(page, level, "its level as its order");
		check_refused(page, 0, "its order");
	}
	pt_table_retire(page);
	free_page(page);
}

TEST_ID(buddy, inside_of_a_block_is_refused, "PA7")
{
	struct page *page = alloc_pages(4, 0);

	REQUIRE(page);
	for (unsigned i = 1; i < 16; i += 7)
		for (unsigned order = 0; order <= 4; order += 4)
			check_refused(page + i, order, "inside");
	free_pages(page, 4);
}

TEST_ID(buddy, foreign_pointers_are_refused, "PA7")
{
	struct page *page = alloc_page(0);
	u8 local[sizeof(struct page)] = { 0 };

	REQUIRE(page);
	for (unsigned order = 0; order <= ORDER_2M; order += ORDER_2M) {
		check_refused(NULL, order, "NULL");
		check_refused((struct page *)local, order, "not in the array");
		check_refused(page_array - 1, order, "before the array");
		check_refused(page_array + page_max_pfn, order, "behind the array");
		for (unsigned i = 1; i < sizeof(struct page); i += 5)
			check_refused((struct page *)((u8 *)page + i), order, "between two struct pages");
	}
	free_page(page);
}

/* Owned by somebody at boot, or no RAM at all: not the allocator's. */
TEST_ID(buddy, reserved_frames_are_refused, "PA7")
{
	bool seen[PAGE_CLASSES] = { false };
	unsigned kinds = 0;

	for (pfn_t pfn = 0; pfn < page_max_pfn; pfn++) {
		struct page *page;

		if (!pfn_valid(pfn)) {
			pfn |= SECTION_FRAMES - 1;
			continue;
		}
		page = pfn_to_page(pfn);
		if (page->flags & (PAGE_HEAD | PAGE_BUDDY | PAGE_CACHED) || page->class == PAGE_FREE ||
		    seen[page->class])
			continue;
		seen[page->class] = true;
		kinds++;
		for (unsigned order = 0; order <= 1; order++)
			check_refused(page, order, page_class_name(page->class));
	}
	CHECK(kinds >= 2);
}

TEST_ID(buddy, mapped_frames_are_refused, "PA7 PT5")
{
	for (unsigned order = 0; order <= 3; order++) {
		struct page *page = alloc_pages(order, 0);

		REQUIRE(page);
		page->writable_aliases = 1;
		check_refused(page, order, "writable alias");
		page->writable_aliases = 0;
		page->exec_aliases = 1;
		check_refused(page, order, "executable alias");
		page->exec_aliases = 0;
		free_pages(page, order);
	}
}

TEST_ID(buddy, added_twice_is_refused, "PA1")
{
	struct page *page = alloc_pages(1, 0);
	struct page *listed = alloc_page(0);
	u64 warnings = log_warnings;
	struct buddy_stats before, now;

	REQUIRE(page && listed);
	free_page(listed);
	buddy_read_stats(&before);
	buddy_add(page_to_pfn(page), 2);
	buddy_add(page_to_pfn(listed), 1);
	buddy_add(page_max_pfn, 5);
	buddy_read_stats(&now);
	CHECK_EQ(log_warnings, warnings + 3);
	CHECK_EQ(now.frames, before.frames);
	CHECK_EQ(now.free, before.free);
	CHECK_EQ(page->flags, PAGE_HEAD);
	free_pages(page, 1);
}

/* ---- Classes ---- */

TEST_ID(buddy, free_resets_every_class, "PT5")
{
	static const unsigned orders[] = { 0, 1, 5, 9, 10 };

	for (unsigned i = 0; i < ARRAY_SIZE(orders); i++) {
		u64 nr = 1ull << orders[i], wrong = 0;
		struct page *page = alloc_pages(orders[i], 0);

		REQUIRE(page);
		page_set_class(page_to_pfn(page), nr, PAGE_EXECMEM);
		for (u64 k = 0; k < nr; k++)
			wrong += page[k].class != PAGE_EXECMEM;
		free_pages(page, orders[i]);
		for (u64 k = 0; k < nr; k++)
			wrong += page[k].class != PAGE_FREE;
		CHECK_EQ(wrong, 0);
	}
}

/* One frame in the middle is enough, and what was said of it does not outlive the allocation. */
TEST_ID(buddy, free_resets_a_class_inside, "PT5")
{
	for (unsigned order = 1; order <= 10; order++) {
		u64 inside = (1ull << order) - 1;
		struct page *page = alloc_pages(order, 0);

		REQUIRE(page);
		page_set_class(page_to_pfn(page) + inside, 1, PAGE_USER);
		CHECK_EQ(page->class, PAGE_KERNEL);
		CHECK(page->flags & PAGE_CLASSED);
		free_pages(page, order);
		CHECK_EQ(page[inside].class, PAGE_FREE);
		page = alloc_pages(order, 0);
		REQUIRE(page);
		CHECK_EQ(page->flags, PAGE_HEAD);
		free_pages(page, order);
	}
}

TEST_ID(buddy, block_mapped_inside_is_refused, "PA7 PT5")
{
	struct page *page = alloc_pages(3, 0);

	REQUIRE(page);
	page_set_class(page_to_pfn(page), 8, PAGE_EXECMEM);
	page[5].exec_aliases = 1;
	check_refused(page, 3, "part of it is executable");
	CHECK_EQ(page[7].class, PAGE_EXECMEM);
	page[5].exec_aliases = 0;
	free_pages(page, 3);
	CHECK_EQ(page[7].class, PAGE_FREE);
}

TEST_ID(buddy, class_of_one_allocation_stays_in_it, "PT5")
{
	struct page *a = alloc_pages(2, 0), *b = alloc_pages(2, 0);

	REQUIRE(a && b);
	page_set_class(page_to_pfn(a) + 1, 3, PAGE_USER);
	CHECK(a->flags & PAGE_CLASSED);
	CHECK_EQ(b->flags, PAGE_HEAD);
	CHECK_EQ(b[1].class, PAGE_FREE);
	free_pages(b, 2);
	CHECK_EQ(a[3].class, PAGE_USER);
	free_pages(a, 2);
	CHECK_EQ(a[3].class, PAGE_FREE);
}

TEST(buddy, class_names_differ)
{
	for (unsigned i = 0; i < PAGE_CLASSES; i++) {
		CHECK(strlen(page_class_name(i)) > 1);
		for (unsigned k = 0; k < i; k++)
			CHECK(strcmp(page_class_name(i), page_class_name(k)));
	}
	CHECK(!strcmp(page_class_name(PAGE_CLASSES), "?"));
}

/* ---- Stacks ---- */

TEST_ID(buddy, stacks_save_the_lock, "PA1")
{
	struct buddy_stats before, now;
	struct page *page;

	for (unsigned order = 0; order < PAGE_STACKED_ORDERS; order++) {
		if (order == ORDER_2M - 1)	/* may go to the node anyway */
			continue;
		page = alloc_pages(order, 0);
		REQUIRE(page);
		free_pages(page, order);
		buddy_read_stats(&before);
		for (unsigned i = 0; i < 100; i++) {
			page = alloc_pages(order, 0);
			REQUIRE(page);
			free_pages(page, order);
		}
		buddy_read_stats(&now);
		CHECK_EQ(now.allocs, before.allocs);
		CHECK_EQ(now.frees, before.frees);
	}
}

/* A half of 2 MiB does not wait on a stack while the other half is free. */
TEST_ID(buddy, halves_make_a_block_at_once, "PA1")
{
	struct page *block, *low, *high, *again;
	struct held rest = HELD_NONE;
	struct buddy_stats now;

	block = alloc_pages(ORDER_2M, 0);
	REQUIRE(block);
	hold_everything(&rest);
	free_pages(block, ORDER_2M);
	low = alloc_pages(ORDER_2M - 1, 0);
	high = alloc_pages(ORDER_2M - 1, 0);
	CHECK(low && high && !alloc_pages(ORDER_2M - 1, 0));
	free_pages(low, ORDER_2M - 1);
	buddy_drain();
	free_pages(high, ORDER_2M - 1);
	buddy_read_stats(&now);
	CHECK_EQ(now.cached, 0);
	CHECK_EQ(now.blocks[ORDER_2M], 1);
	again = alloc_pages(ORDER_2M, 0);
	CHECK(again == block);
	free_pages(again, ORDER_2M);
	release(&rest);
}

/* ---- Failure injection ---- */

static void arm(u64 n)
{
	alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = n };
}

static void disarm(void)
{
	alloc_inject.armed = 0;
}

TEST_ID(buddy, nth_allocation_fails_and_no_other, "PA8")
{
	static const unsigned orders[] = { 0, 0, 9, 3, 12, 0, 1, 0 };
	struct buddy_stats before, now;

	buddy_read_stats(&before);
	for (unsigned n = 1; n <= ARRAY_SIZE(orders) + 1; n++) {
		u64 free = buddy_free_frames();
		struct held h = HELD_NONE;

		arm(n);
		for (unsigned i = 0; i < ARRAY_SIZE(orders); i++) {
			u64 now_free = buddy_free_frames();
			bool got = hold(&h, orders[i]);

			CHECK_EQ(got, i + 1 != n);
			if (!got)
				CHECK_EQ(buddy_free_frames(), now_free);
		}
		disarm();
		CHECK_EQ(alloc_inject.calls, ARRAY_SIZE(orders));
		CHECK_EQ(alloc_inject.failed, n <= ARRAY_SIZE(orders));
		release(&h);
		CHECK_EQ(buddy_free_frames(), free);
	}
	buddy_read_stats(&now);
	CHECK_EQ(now.fails, before.fails);
}

TEST_ID(buddy, injection_only_counts_without_a_number, "PA8")
{
	struct held h = HELD_NONE;

	arm(0);
	for (unsigned i = 0; i < 50; i++)
		CHECK(hold(&h, i % 4));
	disarm();
	CHECK_EQ(alloc_inject.calls, 50);
	CHECK_EQ(alloc_inject.failed, 0);
	release(&h);
	CHECK(alloc_inject.calls == 50);
}

TEST_ID(buddy, sites_are_listed_and_counted, "PA8")
{
	struct alloc_site *mine = NULL;
	struct held h = HELD_NONE;

	/* hold() has the only site in this file that this run of the loop below calls. */
	for (struct alloc_site *const *s = __start_alloc_sites; s < __stop_alloc_sites; s++) {
		CHECK((*s)->line > 0);
		(*s)->calls = 0;
		(*s)->failed = 0;
	}
	arm(3);
	for (unsigned i = 0; i < 5; i++)
		hold(&h, 0);
	disarm();
	for (struct alloc_site *const *s = __start_alloc_sites; s < __stop_alloc_sites; s++)
		if ((*s)->calls) {
			CHECK(!mine);
			mine = *s;
		}
	REQUIRE(mine);
	CHECK_EQ(mine->calls, 5);
	CHECK_EQ(mine->failed, 1);
	CHECK_EQ(h.blocks, 4);
	release(&h);
}

/* One in so many by chance, the same ones for the same seed. */
TEST_ID(buddy, injection_by_chance, "PA8")
{
	u64 failed[2];

	for (unsigned run = 0; run < 2; run++) {
		struct held h = HELD_NONE;

		alloc_inject = (struct alloc_inject){ .armed = 1, .one_in = 10, .seed = 42 };
		for (unsigned i = 0; i < 1000; i++)
			hold(&h, 0);
		disarm();
		failed[run] = alloc_inject.failed;
		CHECK_EQ(h.blocks, 1000 - failed[run]);
		release(&h);
	}
	CHECK_EQ(failed[0], failed[1]);
	CHECK(failed[0] > 50 && failed[0] < 200);
}

TEST_ID(buddy, injection_by_size, "PA8")
{
	struct held h = HELD_NONE;

	alloc_inject = (struct alloc_inject){ .armed = 1, .one_in = 1, .orders = 1u << 3 | 1u << 5 };
	for (unsigned order = 0; order < 8; order++)
		CHECK_EQ(hold(&h, order), order != 3 && order != 5);
	disarm();
	CHECK_EQ(alloc_inject.calls, 2);
	CHECK_EQ(alloc_inject.failed, 2);
	release(&h);
}

TEST_ID(buddy, injection_by_site, "PA8")
{
	struct alloc_site *site = alloc_site_find("tests/suite_buddy.c", __LINE__);
	struct held h = HELD_NONE;
	struct page *page;

	REQUIRE(site);
	CHECK(!alloc_site_find("tests/no_such_file.c", 0));
	alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 1, .site = site };
	CHECK(hold(&h, 0));
	page = alloc_pages(1, 0);	/* the first site below its search */
	CHECK(hold(&h, 0));
	disarm();
	CHECK(!page);
	CHECK_EQ(alloc_inject.calls, 1);
	CHECK_EQ(site->line, __LINE__ - 5);
	release(&h);
}

/* ---- Poison ---- */

/* A byte of the last frame of a block. */
static void spoil(struct page *page, unsigned order)
{
	((u8 *)page_to_virt(page + (1ull << order) - 1))[1234] ^= 1;
}

static void check_hit(const struct page *page, unsigned order, u64 hits)
{
	CHECK_EQ(buddy_poison_hits, hits);
	CHECK_EQ(buddy_poison_last.pfn, page_to_pfn(page) + (1ull << order) - 1);
	CHECK_EQ(buddy_poison_last.byte, 1234);
}

/* From now on: what has been poisoned before is not looked at. */
static void poison_anew(void)
{
	buddy_watch(BUDDY_POISON, false);
	buddy_watch(BUDDY_POISON, true);
}

/* When it is allocated again, or looked for. */
TEST_ID(buddy, write_to_a_free_frame_is_found, "PA7")
{
	u64 hits = buddy_poison_hits, warnings = log_warnings;
	static const unsigned orders[] = { 0, 2, ORDER_2M };

	poison_anew();
	for (unsigned i = 0; i < ARRAY_SIZE(orders); i++) {
		unsigned order = orders[i];
		struct page *page = alloc_pages(order, 0), *again;

		REQUIRE(page);
		free_pages(page, order);
		again = alloc_pages(order, 0);
		CHECK(again == page);		/* untouched */
		CHECK_EQ(buddy_poison_hits, hits + 2 * i);
		free_pages(again, order);
		spoil(page, order);
		again = alloc_pages(order, 0);
		CHECK(again == page);
		check_hit(page, order, hits + 2 * i + 1);
		REQUIRE(again);
		free_pages(again, order);
		buddy_check_poison();
		CHECK_EQ(buddy_poison_hits, hits + 2 * i + 1);
		spoil(page, order);
		buddy_check_poison();
		buddy_check_poison();
		check_hit(page, order, hits + 2 * i + 2);
	}
	CHECK_EQ(log_warnings, warnings + 2 * ARRAY_SIZE(orders));
	buddy_poison_hits = hits;
	log_warnings = warnings;
}

/* What is used while it is off is nobody's fault when it is on again. */
TEST_ID(buddy, poison_begins_when_it_is_switched_on, "PA7")
{
	u64 hits = buddy_poison_hits;

	for (unsigned order = 0; order <= ORDER_2M; order += 3) {
		struct page *page;

		buddy_watch(BUDDY_POISON, false);
		page = alloc_pages(order, 0);
		REQUIRE(page);
		memset(page_to_virt(page), 0, PAGE_SIZE << order);
		free_pages(page, order);
		buddy_watch(BUDDY_POISON, true);
		buddy_check_poison();
		page = alloc_pages(order, 0);
		CHECK(page);
		free_pages(page, order);
	}
	CHECK_EQ(buddy_poison_hits, hits);
}

/* ---- Steering ---- */

/* Frames that will lose their mapping come from few blocks, and others do not come from those while there are more. */
TEST_ID(buddy, unmapped_frames_keep_to_their_blocks, "PA1")
{
	struct page *unmapped[600], *plain[600];
	struct buddy_stats before, now;
	unsigned blocks = 0, mixed = 0;

	read_drained(&before);
	CHECK_EQ(before.steered, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(plain); i++) {
		REQUIRE(unmapped[i] = alloc_pages(0, ALLOC_UNMAPS));
		REQUIRE(plain[i] = alloc_pages(0, 0));
		CHECK(unmapped[i]->flags & PAGE_STEERED);
		CHECK(!(plain[i]->flags & PAGE_STEERED));
	}
	for (unsigned i = 0; i < ARRAY_SIZE(unmapped); i++) {
		bool seen = false;

		for (unsigned k = 0; k < ARRAY_SIZE(plain); k++) {
			mixed += pfn_to_block(page_to_pfn(unmapped[i])) == pfn_to_block(page_to_pfn(plain[k]));
			seen |= k < i && pfn_to_block(page_to_pfn(unmapped[k])) == pfn_to_block(page_to_pfn(unmapped[i]));
		}
		blocks += !seen;
	}
	CHECK_EQ(mixed, 0);
	CHECK_EQ(blocks, 2);
	buddy_read_stats(&now);
	CHECK_EQ(now.steered, 2 * 512 - ARRAY_SIZE(unmapped));
	for (unsigned i = 0; i < ARRAY_SIZE(plain); i++) {
		free_pages(unmapped[i], 0);
		free_pages(plain[i], 0);
	}
	buddy_read_stats(&now);
	CHECK_EQ(now.steered, 0);
	same_blocks(&before);
}

/* Blocks of 2 MiB for that come out of one gigabyte as long as it has any, but one that is split is better than one that is not. */
TEST_ID(buddy, unmapped_blocks_keep_to_their_gigabyte, "PA1")
{
	struct page *a = alloc_pages(ORDER_2M, ALLOC_UNMAPS), *held, *b;

	REQUIRE(a);
	held = alloc_pages(ORDER_2M, 0);
	b = alloc_pages(ORDER_2M, ALLOC_UNMAPS);
	if (b && held)
		CHECK(page_to_pfn(a) >> ORDER_1G == page_to_pfn(b) >> ORDER_1G ||
		      (!directmap_is_split(page_to_pfn(a)) && directmap_is_split(page_to_pfn(b))));
	free_pages(a, ORDER_2M);
	if (held)
		free_pages(held, ORDER_2M);
	if (b)
		free_pages(b, ORDER_2M);
}
