/* SPDX-License-Identifier: MIT */
/*
 * The unmapped cache: what it costs the direct map, what becomes of contents, and what happens when memory is short
 * (SPEC UM1..UM5). unmapped_check() and the shape of the direct map are looked at all along.
 */
#include "mm/unmapped.h"

#include "kernel/base/errno.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/account.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/kernel_map.h"
#include "mm/temp_map.h"
#include "tests/fixture.h"
#include "tests/test.h"

#define GIGABYTES 64u

/* Pages that a test holds: a list through struct page, of any order. */
struct hoard {
	u32 head;
	u64 blocks;
	u64 frames;
};

#define HOARD_INIT { PFN_NONE, 0, 0 }

static void hoard_add(struct hoard *h, struct page *page, unsigned order)
{
	page->next = h->head;
	h->head = (u32)page_to_pfn(page);
	h->blocks++;
	h->frames += BIT(order);
}

static struct page *hoard_pop(struct hoard *h, unsigned order)
{
	struct page *page = h->head == PFN_NONE ? NULL : pfn_to_page(h->head);

	if (page) {
		h->head = page->next;
		h->blocks--;
		h->frames -= BIT(order);
	}
	return page;
}

/* What a test begins with, and must end with. */
struct ground {
	struct fixture_picture picture;
	enum pt_collapse_policy policy;
	enum unmapped_mode mode;
	struct directmap_stats map;
	struct unmapped_stats um;
	struct tlb_stats tlb;
	bool was_1g[GIGABYTES];		/* mapped by one leaf */
};

static bool is_1g_leaf(u64 gigabyte)
{
	struct pt_slot s = fixture_leaf(arch_mm.direct_base + gigabyte * GIB);

	return s.level == PT_1G && pte_is_leaf(s.value, PT_1G);
}

static void ground_begin(struct ground *g, enum unmapped_mode mode)
{
	g->policy = fixture_policy(PT_COLLAPSE_EAGER);
	g->mode = unmapped_mode();
	CHECK_EQ(unmapped_set_mode(mode), 0);
	pt_settle(&kernel_space);
	buddy_drain();
	fixture_take(&g->picture);
	directmap_read_stats(&g->map);
	unmapped_read_stats(&g->um);
	tlb_read_stats(&g->tlb);
	for (u64 i = 0; i < GIGABYTES && i * GIB < page_max_pfn << PAGE_SHIFT; i++)
		g->was_1g[i] = is_1g_leaf(i);
	CHECK_EQ(g->um.bytes, 0);
	CHECK_EQ(unmapped_check(), 0);
}

/* All is freed: every leaf, table and free frame is as it was. */
static void ground_end(struct ground *g)
{
	struct fixture_picture now;

	unmapped_shrink(UNMAPPED_ALL);
	CHECK_EQ(unmapped_check(), 0);
	buddy_drain();
	fixture_take(&now);
	CHECK_EQ(now.leaves, g->picture.leaves);
	CHECK_EQ(now.digest, g->picture.digest);
	CHECK_EQ(now.free, g->picture.free);
	for (unsigned part = 0; part < PT_PARTS; part++)
		CHECK_EQ(now.stats[part].tables, g->picture.stats[part].tables);
	CHECK_EQ(unmapped_set_mode(g->mode), 0);
	fixture_policy(g->policy);
}

/* Since ground_begin(). */
static u64 splits(const struct ground *g, unsigned level)
{
	struct directmap_stats now;

	directmap_read_stats(&now);
	return level == PT_2M ? now.direct_map_level2_splits - g->map.direct_map_level2_splits
			      : now.direct_map_level3_splits - g->map.direct_map_level3_splits;
}

static u64 refills(const struct ground *g, unsigned order)
{
	struct unmapped_stats now;

	unmapped_read_stats(&now);
	return now.refills[order] - g->um.refills[order];
}

static u64 all_refills(const struct ground *g)
{
	u64 sum = 0;

	for (unsigned o = 0; o <= ORDER_MAX; o++)
		sum += refills(g, o);
	return sum;
}

static u64 returns(const struct ground *g, unsigned order)
{
	struct unmapped_stats now;

	unmapped_read_stats(&now);
	return now.returns[order] - g->um.returns[order];
}

static u64 batches(const struct ground *g)
{
	struct tlb_stats now;

	tlb_read_stats(&now);
	return now.batches - g->tlb.batches;
}

static bool take(struct hoard *h, unsigned order, unsigned flags)
{
	struct page *page = unmapped_pages_alloc(order, flags, -1, NULL);

	if (page)
		hoard_add(h, page, order);
	return page != NULL;
}

static void put_all(struct hoard *h, unsigned order)
{
	for (struct page *page; (page = hoard_pop(h, order));)
		unmapped_pages_free(page, order);
}

/* ---- What it costs the direct map ---- */

static const u32 sizes[] = { 64, 512, 4096, 16384 };

static unsigned count_sizes(void)
{
	return ARRAY_SIZE(sizes);
}

static void name_size(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "one_leaf_per_block.%u", sizes[row]);
}

/* Gigabytes that were one leaf and of which pages were taken. */
static u64 gigabytes_entered(const struct ground *g, const struct hoard *h)
{
	bool seen[GIGABYTES] = { false };
	u64 n = 0;

	for (u32 pfn = h->head; pfn != PFN_NONE; pfn = pfn_to_page(pfn)->next) {
		u64 at = (u64)pfn >> ORDER_1G;

		n += at < GIGABYTES && g->was_1g[at] && !seen[at];
		if (at < GIGABYTES)
			seen[at] = true;
	}
	return n;
}

/* N single pages: no 2M leaf is split, one is cleared per 512 pages and one batch flushed for it; then all as before. */
TEST_ROWS(unmapped, rows, "UM2 UM3 UM5", 0, count_sizes, name_size)
{
	u64 n = sizes[test_row()], blocks = (n + 511) / 512;
	struct hoard h = HOARD_INIT;
	struct directmap_stats map;
	struct unmapped_stats um;
	struct ground g;

	ground_begin(&g, UNMAPPED_2M);
	unmapped_set_watermarks(2, 8);
	for (u64 i = 0; i < n; i++)
		if (!CHECK(take(&h, 0, 0)))
			break;
	directmap_read_stats(&map);
	unmapped_read_stats(&um);
	CHECK_EQ(splits(&g, PT_2M), 0);
	CHECK_EQ(splits(&g, PT_1G), gigabytes_entered(&g, &h));
	CHECK_EQ(refills(&g, ORDER_2M), blocks);
	CHECK_EQ(all_refills(&g), blocks);
	CHECK_EQ(batches(&g), blocks);
	CHECK_EQ(um.flush_batches - g.um.flush_batches, blocks);
	CHECK_EQ(map.direct_map_4k, g.map.direct_map_4k);
	CHECK_EQ((g.map.direct_map_1g - map.direct_map_1g) + g.map.direct_map_2m - map.direct_map_2m, blocks * 2 * MIB);
	CHECK_EQ(um.hits - g.um.hits, n - blocks);
	CHECK_EQ(um.bytes, blocks * 2 * MIB);
	CHECK_EQ(um.bytes_in_use, n * PAGE_SIZE);
	CHECK_EQ(unmapped_check(), 0);
	test_note("pages=%llu blocks=%llu level2_splits=%llu level3_splits=%llu flush_batches=%llu",
		  (unsigned long long)n, (unsigned long long)blocks, (unsigned long long)splits(&g, PT_2M),
		  (unsigned long long)splits(&g, PT_1G), (unsigned long long)batches(&g));
	put_all(&h, 0);
	CHECK_EQ(unmapped_check(), 0);
	ground_end(&g);
	unmapped_read_stats(&um);
	CHECK_EQ(um.bytes, 0);
	CHECK_EQ(um.bytes_in_use, 0);
	CHECK_EQ(um.scrubbed - g.um.scrubbed, n);
	CHECK_EQ(um.allocs - um.frees, g.um.allocs - g.um.frees);
	CHECK_EQ(returns(&g, ORDER_2M), blocks);
}

/* um=1g: one leaf of 1 GiB for all of it, and nothing is split at all. */
TEST_ID(unmapped, one_leaf_per_gigabyte, "UM2 UM3")
{
	struct hoard h = HOARD_INIT;
	struct directmap_stats map;
	struct page *probe;
	struct ground g;

	if (arch_mm.max_leaf < PT_1G)
		SKIP("no 1G leaves");
	probe = alloc_pages_node((int)buddy_this_node(), ORDER_1G, ALLOC_THIS_NODE);
	if (!probe)
		SKIP("no gigabyte of this node is free");
	free_pages(probe, ORDER_1G);
	ground_begin(&g, UNMAPPED_1G);
	for (u64 i = 0; i < 5000; i++)
		CHECK(take(&h, i % 4 ? 0 : 1, 0));
	directmap_read_stats(&map);
	CHECK_EQ(splits(&g, PT_2M), 0);
	CHECK_EQ(splits(&g, PT_1G), 0);
	CHECK_EQ(refills(&g, ORDER_1G), 1);
	CHECK_EQ(all_refills(&g), 1);
	CHECK_EQ(batches(&g), 1);
	CHECK_EQ(g.map.direct_map_1g - map.direct_map_1g, GIB);
	CHECK_EQ(map.leaves, g.map.leaves - 1);
	CHECK_EQ(unmapped_check(), 0);
	for (u64 i = 5000; i--;)
		unmapped_pages_free(hoard_pop(&h, 0), i % 4 ? 0 : 1);
	CHECK_EQ(unmapped_check(), 0);
	ground_end(&g);
	CHECK_EQ(returns(&g, ORDER_1G), 1);
}

/* um=off, the control: a batch and a change of the direct map per page. */
TEST_ID(unmapped, without_a_cache_each_page_pays, "UM2")
{
	struct hoard h = HOARD_INIT;
	struct ground g;

	ground_begin(&g, UNMAPPED_OFF);
	for (u64 i = 0; i < 1024; i++)
		CHECK(take(&h, 0, 0));
	CHECK_EQ(refills(&g, 0), 1024);
	CHECK_EQ(batches(&g), 1024);
	CHECK(splits(&g, PT_2M) >= 1);
	CHECK_EQ(unmapped_check(), 0);
	put_all(&h, 0);
	CHECK_EQ(returns(&g, 0), 1024);
	ground_end(&g);
}

/* ---- No whole block ---- */

/* Break-before-make cannot split a leaf that holds its own tables: where next to nothing is free, some do. */
static bool splits_may_fail(void)
{
	return pt_bbm > 0 || (pt_bbm < 0 && arch_mm.bbm);
}

/* Take everything the page allocator has: blocks of an order first, then the rest. */
static void exhaust(struct hoard h[ORDER_MAX + 1], unsigned order)
{
	for (unsigned o = 0; o <= ORDER_MAX; o++)
		h[o] = (struct hoard)HOARD_INIT;
	for (unsigned o = order + 1; o--;)
		for (struct page *page; (page = alloc_pages(o, 0));)
			hoard_add(&h[o], page, o);
}

static void release(struct hoard h[ORDER_MAX + 1])
{
	for (unsigned o = 0; o <= ORDER_MAX; o++)
		for (struct page *page; (page = hoard_pop(&h[o], o));)
			free_pages(page, o);
	buddy_drain();
}

#define HOLES 20u	/* blocks of order 8 that are broken up; half of each is free */

/*
 * Give back HOLES blocks of order 8, none the buddy of another, and of these again every other block of a lower order: then
 * nothing of a higher order is free. False: there are not that many.
 */
static bool make_holes(struct hoard h[ORDER_MAX + 1], unsigned order)
{
	struct hoard kept = HOARD_INIT, odd = HOARD_INIT, parts = HOARD_INIT;

	for (struct page *page; (page = hoard_pop(&h[8], 8));)
		hoard_add(page_to_pfn(page) & BIT(8) && odd.blocks < HOLES ? &odd : &kept, page, 8);
	h[8] = kept;
	if (!CHECK_EQ(odd.blocks, HOLES)) {
		for (struct page *page; (page = hoard_pop(&odd, 8));)
			free_pages(page, 8);
		return false;
	}
	for (struct page *page; (page = hoard_pop(&odd, 8));)
		free_pages(page, 8);
	buddy_drain();
	if (order == 8)
		return true;
	for (struct page *page; (page = alloc_pages(order, 0));)
		hoard_add(&parts, page, order);
	for (struct page *page; (page = hoard_pop(&parts, order));)
		if (page_to_pfn(page) & BIT(order))
			free_pages(page, order);
		else
			hoard_add(&h[order], page, order);
	buddy_drain();
	return true;
}

static const u8 hole_orders[] = { 8, 5, 0 };

static unsigned count_holes(void)
{
	return ARRAY_SIZE(hole_orders);
}

static void name_holes(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "no_whole_block.order%u", hole_orders[row]);
}

/* Splits that so many pages take from memory full of holes of an order. */
static u64 splits_with_holes(enum unmapped_mode mode, unsigned order, u64 pages)
{
	static struct hoard rest[ORDER_MAX + 1];
	struct hoard h = HOARD_INIT;
	struct ground g;
	u64 n = 0;

	ground_begin(&g, mode);
	exhaust(rest, 8);
	if (make_holes(rest, order)) {
		while (h.blocks < pages && take(&h, 0, 0))
			;
		CHECK_EQ(h.blocks, pages);
		n = splits(&g, PT_2M);
		CHECK_EQ(all_refills(&g), refills(&g, mode == UNMAPPED_OFF ? 0 : order));
		if (mode != UNMAPPED_OFF)
			CHECK_EQ(refills(&g, order), (pages + BIT(order) - 1) >> order);
		CHECK_EQ(unmapped_check(), 0);
		put_all(&h, 0);
		CHECK_EQ(unmapped_check(), 0);
	}
	unmapped_shrink(UNMAPPED_ALL);
	release(rest);
	ground_end(&g);
	return n;
}

/* The highest order there is serves, and splits no more blocks than pages taken singly do. */
TEST_ROWS(unmapped, holes, "UM2", 0, count_holes, name_holes)
{
	unsigned order = hole_orders[test_row()];
	u64 cached, single;

	if (splits_may_fail())
		SKIP("break-before-make");
	cached = splits_with_holes(UNMAPPED_2M, order, 1536);
	single = splits_with_holes(UNMAPPED_OFF, order, 1536);
	test_note("holes_of_order=%u pages=1536 splits=%llu splits_singly=%llu", order, (unsigned long long)cached,
		  (unsigned long long)single);
	CHECK(cached > 0);
	CHECK(cached <= single);
	if (order == 8)
		CHECK_EQ(cached, 6);
}

/* A piece that is no block goes back as soon as all of it is free. */
TEST_ID(unmapped, pieces_go_back_at_once, "UM3")
{
	static struct hoard rest[ORDER_MAX + 1];
	struct ground g;

	ground_begin(&g, UNMAPPED_2M);
	exhaust(rest, 8);
	if (make_holes(rest, 5)) {
		struct page *page = unmapped_pages_alloc(3, 0, 0, NULL);

		CHECK(page != NULL);
		CHECK_EQ(refills(&g, 5), 1);
		if (page)
			unmapped_pages_free(page, 3);
		CHECK_EQ(returns(&g, 5), 1);
		CHECK(!unmapped_pages_alloc(6, 0, 0, NULL));
		CHECK_EQ(all_refills(&g), 1);
		CHECK_EQ(unmapped_check(), 0);
	}
	release(rest);
	ground_end(&g);
}

/*
 * Memory without a whole block: it is gathered for one now and then and not for each page, or a page would cost twenty times
 * as much. A block that lies ready is taken at once.
 */
TEST_ID(unmapped, dry_memory_is_not_gathered_each_time, "UM2")
{
	static struct hoard rest[ORDER_MAX + 1];
	struct buddy_stats before, after;
	struct hoard h = HOARD_INIT;
	struct page *block;
	struct ground g;

	if (splits_may_fail())
		SKIP("break-before-make");
	ground_begin(&g, UNMAPPED_2M);
	block = alloc_pages(ORDER_2M, 0);
	exhaust(rest, 8);
	if (CHECK(block != NULL) && make_holes(rest, 0)) {
		buddy_read_stats(&before);
		while (h.blocks < 128 && take(&h, 0, UNMAPPED_NOSCRUB))
			;
		buddy_read_stats(&after);
		CHECK_EQ(h.blocks, 128);
		CHECK_EQ(refills(&g, 0), 128);
		CHECK(after.fails - before.fails <= 2 * buddy_nodes());
		CHECK(after.frees - before.frees <= 2 * PAGE_STACK0_ROOM);
		free_pages(block, ORDER_2M);
		buddy_drain();
		CHECK(take(&h, 0, UNMAPPED_NOSCRUB));
		CHECK_EQ(refills(&g, ORDER_2M), 1);
	}
	put_all(&h, 0);
	unmapped_shrink(UNMAPPED_ALL);
	release(rest);
	ground_end(&g);
}

/* A block in single pages on a CPU's stack is found by who can do with nothing less, whatever was in vain before. */
TEST_ID(unmapped, what_will_just_do_is_gathered, "UM2")
{
	static struct hoard rest[ORDER_MAX + 1];
	struct hoard singles = HOARD_INIT, h = HOARD_INIT;
	struct page *block, *spare;
	struct ground g;

	ground_begin(&g, UNMAPPED_2M);
	block = alloc_pages(ORDER_2M, 0);
	spare = alloc_page(0);			/* for the table that splits the gigabyte */
	exhaust(rest, ORDER_MAX);
	if (CHECK(block && spare)) {
		free_pages(block, ORDER_2M);
		for (struct page *page; (page = alloc_page(0));)
			hoard_add(&singles, page, 0);
		CHECK_EQ(singles.blocks, BIT(ORDER_2M));
		CHECK(!take(&h, 0, 0));
		for (struct page *page; (page = hoard_pop(&singles, 0));)
			free_page(page);
		free_page(spare);
		CHECK(take(&h, ORDER_2M, UNMAPPED_NOSCRUB));
		CHECK_EQ(refills(&g, ORDER_2M), 1);
		CHECK_EQ(all_refills(&g), 1);
		put_all(&h, ORDER_2M);
		unmapped_shrink(UNMAPPED_ALL);
	}
	release(rest);
	ground_end(&g);
}

/* Both halves of one 2 MiB, out of what exhaust() took. False: there are none. */
static bool pick_halves(struct hoard h[ORDER_MAX + 1], struct page *halves[2])
{
	struct hoard kept = HOARD_INIT;
	struct page *page;
	unsigned n = 0;

	for (u32 pfn = h[8].head; pfn != PFN_NONE && n < 2; pfn = pfn_to_page(pfn)->next) {
		n = 0;
		for (u32 other = h[8].head; other != PFN_NONE; other = pfn_to_page(other)->next)
			n += (other ^ pfn) >> ORDER_2M == 0;
		halves[0] = pfn_to_page(pfn & ~(u32)BIT(8));
	}
	if (!CHECK_EQ(n, 2))
		return false;
	halves[1] = halves[0] + BIT(8);
	while ((page = hoard_pop(&h[8], 8)))
		if (page != halves[0] && page != halves[1])
			hoard_add(&kept, page, 8);
	h[8] = kept;
	return true;
}

/*
 * Memory is given back when there is none: pieces that make up 2 MiB together, of which nothing is mapped any more, find the table they
 * need, and blocks need none.
 */
TEST_ID(unmapped, giving_back_takes_no_frame, "UM3")
{
	static struct hoard rest[ORDER_MAX + 1];
	struct hoard h = HOARD_INIT;
	struct page *halves[2], *page, *spare[2];
	struct ground g;

	if (splits_may_fail())
		SKIP("break-before-make");
	ground_begin(&g, UNMAPPED_2M);
	unmapped_set_watermarks(1, 1);
	CHECK(take(&h, ORDER_2M, UNMAPPED_NOSCRUB));
	CHECK(take(&h, ORDER_2M, UNMAPPED_NOSCRUB));
	for (unsigned i = 0; i < 2; i++)	/* for the tables of the first half: its gigabyte may be one leaf still */
		spare[i] = alloc_page(0);
	exhaust(rest, 8);
	if (CHECK(spare[0] && spare[1]) && pick_halves(rest, halves)) {
		struct page *pieces[2];

		free_page(spare[0]);
		free_page(spare[1]);
		for (unsigned i = 0; i < 2; i++) {
			free_pages(halves[i], 8);
			pieces[i] = unmapped_pages_alloc(8, UNMAPPED_NOSCRUB, -1, NULL);
			CHECK(pieces[i] == halves[i]);
		}
		CHECK_EQ(refills(&g, 8), 2);
		while ((page = alloc_page(0)))
			hoard_add(&rest[0], page, 0);
		CHECK_EQ(buddy_free_frames(), 0);
		for (unsigned i = 0; i < 2; i++)
			if (pieces[i])
				unmapped_pages_free(pieces[i], 8);
		CHECK_EQ(returns(&g, 8), 2);
		/* The second one is above the mark. */
		unmapped_pages_free(hoard_pop(&h, ORDER_2M), ORDER_2M);
		unmapped_pages_free(hoard_pop(&h, ORDER_2M), ORDER_2M);
		CHECK_EQ(returns(&g, ORDER_2M), 1);
		CHECK_EQ(unmapped_check(), 0);
	}
	put_all(&h, ORDER_2M);
	release(rest);
	ground_end(&g);
}

/* ---- Water marks ---- */

static u64 whole_blocks(void)
{
	struct unmapped_stats s;

	unmapped_read_stats(&s);
	return s.free_blocks[ORDER_2M];
}

TEST_ID(unmapped, marks_with_hysteresis, "UM3")
{
	static const u64 after[] = { 1, 2, 3, 1, 2, 3 };
	struct hoard h = HOARD_INIT;
	u64 low, high;
	struct ground g;

	ground_begin(&g, UNMAPPED_2M);
	unmapped_set_watermarks(7, 5);
	unmapped_watermarks(&low, &high);
	CHECK(low == 5 && high == 5);
	unmapped_set_watermarks(1, 3);
	for (unsigned i = 0; i < ARRAY_SIZE(after); i++)
		CHECK(take(&h, ORDER_2M, UNMAPPED_NOSCRUB));
	for (unsigned i = 0; i < ARRAY_SIZE(after) && h.blocks; i++) {
		unmapped_pages_free(hoard_pop(&h, ORDER_2M), ORDER_2M);
		CHECK_EQ(whole_blocks(), after[i]);
	}
	CHECK_EQ(returns(&g, ORDER_2M), 3);
	/* At the mark, back and forth costs nothing. */
	for (unsigned i = 0; i < 10; i++) {
		CHECK(take(&h, ORDER_2M, UNMAPPED_NOSCRUB));
		put_all(&h, ORDER_2M);
	}
	CHECK_EQ(returns(&g, ORDER_2M), 3);
	CHECK_EQ(refills(&g, ORDER_2M), 6);
	CHECK_EQ(unmapped_shrink(511), 0);
	CHECK_EQ(unmapped_shrink(1025), 1024);
	CHECK_EQ(whole_blocks(), 1);
	unmapped_set_watermarks(0, 0);
	CHECK_EQ(whole_blocks(), 0);
	CHECK_EQ(unmapped_check(), 0);
	ground_end(&g);
}

/* Regions of every order, freed in another sequence than they were taken, make up whole blocks again. */
TEST_ID(unmapped, frees_coalesce, "UM1 UM3")
{
	struct hoard h[UNMAPPED_ORDER_MAX + 1];
	struct rng rng = test_rng();
	u64 frames = 0, blocks;
	struct ground g;

	ground_begin(&g, UNMAPPED_2M);
	unmapped_set_watermarks(1000, 1000);
	for (unsigned o = 0; o <= UNMAPPED_ORDER_MAX; o++)
		h[o] = (struct hoard)HOARD_INIT;
	for (unsigned i = 0; i < 200; i++) {
		unsigned o = (unsigned)rng_below(&rng, UNMAPPED_ORDER_MAX + 1);

		CHECK(take(&h[o], o, UNMAPPED_NOSCRUB));
		CHECK(h[o].head != PFN_NONE && is_aligned(h[o].head, BIT(o)));
		frames += BIT(o);
	}
	CHECK_EQ(unmapped_check(), 0);
	blocks = refills(&g, ORDER_2M);
	CHECK(blocks >= (frames + 511) / 512);
	for (unsigned left = 200; left; ) {
		unsigned o = (unsigned)rng_below(&rng, UNMAPPED_ORDER_MAX + 1);

		if (!h[o].blocks)
			continue;
		unmapped_pages_free(hoard_pop(&h[o], o), o);
		left--;
	}
	CHECK_EQ(unmapped_check(), 0);
	CHECK_EQ(returns(&g, ORDER_2M), 0);
	CHECK_EQ(unmapped_shrink(UNMAPPED_ALL), blocks * 512);
	CHECK_EQ(returns(&g, ORDER_2M), blocks);
	ground_end(&g);
}

/* ---- Contents ---- */

#define PATTERN 0x5ec2e75ec2e75ec2ull

/*
 * Have the next block that a refill takes full of a pattern. Returns its first frame. Asked the second time, the allocator answers as
 * the first time (mm/buddy_node.c: a gigabyte that is split, or the one of the last answer), and goes on to do so.
 */
static pfn_t dirty_block(void)
{
	struct page *page = NULL;
	u64 *words;

	for (unsigned i = 0; i < 2; i++) {
		page = alloc_pages(ORDER_2M, ALLOC_UNMAPS);
		if (!CHECK(page != NULL))
			return 0;
		words = page_to_virt(page);
		for (u64 k = 0; i == 1 && k < 2 * MIB / sizeof(u64); k++)
			words[k] = PATTERN;
		free_pages(page, ORDER_2M);
		buddy_drain();
	}
	return page_to_pfn(page);
}

/* The same block, which is free again, without the pattern. Nobody else allocates. */
static void wash_block(pfn_t pfn)
{
	memset(phys_to_virt(phys(pfn << PAGE_SHIFT)), 0, 2 * MIB);
}

/* Whether every word of a frame is this one. */
static bool frame_is(const struct page *page, u64 word)
{
	static u64 words[PAGE_SIZE / sizeof(u64)];

	temp_read(page_to_pfn(page), 0, words, PAGE_SIZE);
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		if (words[i] != word)
			return false;
	return true;
}

/* Straight from a refill: ZERO is zero, and without it nobody has touched the page, not even to look. */
TEST_ID(unmapped, zero_is_zero_and_the_rest_untouched, "UM4")
{
	struct temp_map_stats before, after;
	struct page *plain, *zero, *four;
	struct unmapped_stats um;
	struct ground g;
	pfn_t dirty;

	buddy_watch(BUDDY_POISON, false);
	ground_begin(&g, UNMAPPED_2M);
	dirty = dirty_block();
	temp_map_read_stats(&before);
	plain = unmapped_pages_alloc(0, 0, -1, NULL);
	temp_map_read_stats(&after);
	CHECK_EQ(after.mappings, before.mappings);
	zero = unmapped_pages_alloc(0, UNMAPPED_ZERO, -1, NULL);
	four = unmapped_pages_alloc(2, UNMAPPED_ZERO | UNMAPPED_NOSCRUB, -1, NULL);
	if (CHECK(plain && zero && four) && CHECK_EQ(page_to_pfn(plain) & ~511ull, dirty)) {
		CHECK_EQ(page_to_pfn(zero) & ~511ull, dirty);
		CHECK(frame_is(plain, PATTERN));
		CHECK(frame_is(zero, 0));
		for (unsigned i = 0; i < 4; i++)
			CHECK(frame_is(four + i, 0));
	}
	unmapped_read_stats(&um);
	CHECK_EQ(um.zeroed - g.um.zeroed, 5);
	if (plain)
		unmapped_pages_free(plain, 0);
	if (zero)
		unmapped_pages_free(zero, 0);
	if (four)
		unmapped_pages_free(four, 2);
	unmapped_shrink(UNMAPPED_ALL);
	wash_block(dirty);
	ground_end(&g);
}

/* Free wipes, unless the owner says otherwise; what was wiped and out of reach since is not wiped again. */
TEST_ID(unmapped, free_scrubs_unless_told_not_to, "UM4")
{
	struct unmapped_stats a, b;
	struct ground g;

	ground_begin(&g, UNMAPPED_2M);
	for (unsigned order = 0; order <= 3; order += 3) {
		struct page *wiped = unmapped_pages_alloc(order, 0, -1, NULL);
		struct page *left = unmapped_pages_alloc(order, UNMAPPED_NOSCRUB, -1, NULL);
		struct page *again;

		if (!CHECK(wiped && left))
			return;
		temp_fill(page_to_pfn(wiped), BIT(order), 0x77);
		temp_fill(page_to_pfn(left), BIT(order), 0x77);
		unmapped_pages_free(left, order);
		unmapped_pages_free(wiped, order);
		for (unsigned i = 0; i < BIT(order); i++) {
			CHECK(frame_is(wiped + i, 0));
			CHECK(frame_is(left + i, 0x7777777777777777ull));
		}
		unmapped_read_stats(&a);
		again = unmapped_pages_alloc(order, UNMAPPED_ZERO, -1, NULL);
		unmapped_read_stats(&b);
		CHECK(again == wiped || order);
		CHECK_EQ(b.zeroed - a.zeroed, again == wiped ? 0 : BIT(order));
		for (unsigned i = 0; i < BIT(order); i++)
			CHECK(frame_is(again + i, 0));
		/* Its owner could have written to it: next time it is not taken on trust. */
		unmapped_pages_free(again, order);
		temp_fill(page_to_pfn(left), BIT(order), 0);
	}
	ground_end(&g);
}

/* ---- What is refused ---- */

TEST_ID(unmapped, bad_arguments, "UM1")
{
	struct ground g;

	ground_begin(&g, UNMAPPED_2M);
	CHECK(!unmapped_pages_alloc(UNMAPPED_ORDER_MAX + 1, 0, 0, NULL));
	CHECK(!unmapped_pages_alloc(64, 0, 0, NULL));
	CHECK(!unmapped_pages_alloc(0, 0x10, 0, NULL));
	CHECK(!unmapped_pages_alloc(0, 0, (int)buddy_nodes(), NULL));
	CHECK(!unmapped_pages_alloc(0, 0, -2, NULL));
	CHECK_EQ(unmapped_set_mode((enum unmapped_mode)3), -EINVAL);
	CHECK_EQ(all_refills(&g), 0);
	ground_end(&g);
}

/* Whoever is named is charged for what is in use, up to the limit, in every mode; a refusal and a bad free change nothing. */
TEST_ID(unmapped, accounts_are_charged, "UM1 PA5")
{
	static const enum unmapped_mode modes[] = { UNMAPPED_OFF, UNMAPPED_2M };
	u64 warnings = log_warnings;
	struct account top, below;
	struct page *pages[5];

	CHECK_EQ(account_open(&top, "top", NULL, 8 + 4 + 2 + 1), 0);
	CHECK_EQ(account_open(&below, "below", &top, 1000), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
		struct ground g;

		ground_begin(&g, modes[i]);
		for (unsigned order = 0; order < 4; order++)
			pages[order] = unmapped_pages_alloc(order, 0, -1, order % 2 ? &top : &below);
		REQUIRE(pages[0] && pages[1] && pages[2] && pages[3]);
		CHECK_EQ(account_charged(&below), 1 + 4);
		CHECK_EQ(account_charged(&top), 15);
		CHECK(!unmapped_pages_alloc(0, 0, -1, &below));
		CHECK_EQ(account_charged(&top), 15);
		pages[4] = unmapped_pages_alloc(0, 0, -1, NULL);	/* nobody's */
		REQUIRE(pages[4] != NULL);
		unmapped_pages_free(pages[3], 2);			/* another order */
		CHECK_EQ(account_charged(&top), 15);
		CHECK_EQ(account_check(), 0);
		for (unsigned order = 0; order < 4; order++)
			unmapped_pages_free(pages[order], order);
		unmapped_pages_free(pages[4], 0);
		CHECK_EQ(account_charged(&below), 0);
		CHECK_EQ(account_charged(&top), 0);
		ground_end(&g);
	}
	CHECK_EQ(log_warnings, warnings + ARRAY_SIZE(modes));
	log_warnings = warnings;
	CHECK_EQ(account_close(&below), 0);
	CHECK_EQ(account_close(&top), 0);
}

/* No memory behind the charge. */
TEST_ID(unmapped, no_memory_leaves_no_charge, "UM1 PA5 PA8")
{
	struct ground g;
	struct account a;

	CHECK_EQ(account_open(&a, "test", NULL, 1000), 0);
	ground_begin(&g, UNMAPPED_OFF);
	alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 1 };
	CHECK(!unmapped_pages_alloc(2, 0, -1, &a));
	alloc_inject.armed = 0;
	CHECK_EQ(alloc_inject.failed, 1);
	CHECK_EQ(account_charged(&a), 0);
	CHECK_EQ(a.refused, 0);
	ground_end(&g);
	CHECK_EQ(account_close(&a), 0);
}

/* Each is counted, named, and changes nothing. */
TEST_ID(unmapped, bad_frees_change_nothing, "UM1")
{
	u64 warnings = log_warnings;
	struct page *page, *other, *foreign = alloc_page(0);
	struct fixture_area area;
	struct unmapped_stats um;
	struct tlb_batch batch;
	struct ground g;

	REQUIRE(foreign != NULL);
	ground_begin(&g, UNMAPPED_2M);
	page = unmapped_pages_alloc(3, 0, 0, NULL);
	other = unmapped_pages_alloc(0, 0, 0, NULL);
	if (CHECK(page && other) && fixture_area_get(&area, PAGE_SIZE, PAGE_SIZE)) {
		struct page *const inner = page + 1;

		unmapped_pages_free(foreign, 0);
		unmapped_pages_free(page, 2);
		unmapped_pages_free(inner, 0);
		unmapped_pages_free((struct page *)((char *)page + 8), 3);
		unmapped_pages_free(page_array - 1, 0);
		unmapped_pages_free(pfn_to_page(page_max_pfn), 0);
		tlb_batch_init(&batch, &kernel_space);
		CHECK_EQ(kernel_map_pages(area.va, &inner, 1, fixture_attrs(), PT_4K, &batch), 0);
		tlb_batch_finish(&batch);
		unmapped_pages_free(page, 3);
		fixture_area_put(&area);
		CHECK_EQ(unmapped_check(), 0);
		unmapped_pages_free(other, 0);
		unmapped_pages_free(other, 0);
		CHECK_EQ(unmapped_set_mode(UNMAPPED_1G), -EBUSY);
		unmapped_pages_free(page, 3);
		unmapped_pages_free(page, 3);
		unmapped_read_stats(&um);
		CHECK_EQ(um.bad_frees - g.um.bad_frees, 9);
		CHECK_EQ(um.frees - g.um.frees, 2);
		CHECK_EQ(log_warnings - warnings, 9);
		CHECK_EQ(unmapped_check(), 0);
	}
	unmapped_shrink(UNMAPPED_ALL);
	unmapped_pages_free(page, 3);		/* it is not even the cache's any more */
	log_warnings = warnings;
	free_page(foreign);
	buddy_drain();
	/* ground_begin() saw the foreign page in use. */
	g.picture.free++;
	ground_end(&g);
}

/* ---- Who can reach a page ---- */

/* The direct map cannot; a mapping of the owner's can; its class is the owner's for as long as it has it. */
TEST_ID(unmapped, only_its_owner_maps_it, "UM1 PT5")
{
	struct fixture_area area;
	struct tlb_batch batch;
	struct page *page;
	struct ground g;

	ground_begin(&g, UNMAPPED_2M);
	page = unmapped_pages_alloc(0, UNMAPPED_ZERO, 0, NULL);
	if (CHECK(page != NULL) && fixture_area_get(&area, PAGE_SIZE, PAGE_SIZE)) {
		u64 va = phys_to_va(page_to_phys(page));

		CHECK_EQ(page->class, PAGE_UNMAPPED);
		CHECK(!pte_present(fixture_leaf(va).value));
		tlb_batch_init(&batch, &kernel_space);
		CHECK_EQ(kernel_map_pages(area.va, &page, 1, fixture_attrs(), PT_4K, &batch), 0);
		tlb_batch_finish(&batch);
		CHECK_EQ(pte_leaf_pa(fixture_leaf(area.va).value, PT_4K).raw, page_to_phys(page).raw);
		CHECK_EQ(unmapped_check(), 0);
		fixture_area_put(&area);
		page_set_class(page_to_pfn(page), 1, PAGE_EXECMEM);
		CHECK_EQ(unmapped_check(), 0);
		unmapped_pages_free(page, 0);
		CHECK_EQ(page->class, PAGE_UNMAPPED);
		CHECK_EQ(unmapped_check(), 0);
	}
	ground_end(&g);
}

/* The check itself: a leaf over a frame of the cache, and over one that is free, are found. */
TEST_ID(unmapped, check_finds_a_leaf, "UM5")
{
	u64 warnings = log_warnings;
	struct fixture_area area;
	struct page *page;
	struct ground g;

	ground_begin(&g, UNMAPPED_2M);
	page = unmapped_pages_alloc(0, 0, 0, NULL);
	if (CHECK(page != NULL) && fixture_area_get(&area, PAGE_SIZE, PAGE_SIZE)) {
		u64 pa = page_to_phys(page).raw;
		struct range direct = range_len(phys_to_va(phys(pa)), PAGE_SIZE);

		CHECK_EQ(fixture_change(PT_OP_MAP, direct, pa, fixture_attrs(), 0), 0);
		CHECK(unmapped_check() > 0);
		CHECK_EQ(fixture_change(PT_OP_UNMAP, direct, 0, 0, 0), 0);
		/* By somebody else, who does not even count it. */
		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(area.va, PAGE_SIZE), pa, fixture_attrs(), 0), 0);
		CHECK_EQ(unmapped_check(), 0);
		unmapped_pages_free(page, 0);
		CHECK(unmapped_check() > 0);
		CHECK_EQ(fixture_change(PT_OP_UNMAP, range_len(area.va, PAGE_SIZE), 0, 0, 0), 0);
		CHECK_EQ(unmapped_check(), 0);
		fixture_area_put(&area);
	}
	log_warnings = warnings;
	ground_end(&g);
}

/* ---- Short of memory ---- */

/* Every allocation on the way fails in turn: NULL or a smaller piece, and nothing is lost or half unmapped. */
TEST_ID(unmapped, fails_without_a_trace, "UM2 PA8")
{
	static const unsigned orders[] = { 0, 5, 9 };
	static const enum unmapped_mode modes[] = { UNMAPPED_2M, UNMAPPED_1G, UNMAPPED_OFF };

	for (unsigned m = 0; m < ARRAY_SIZE(modes); m++)
		for (unsigned i = 0; i < ARRAY_SIZE(orders); i++) {
			u64 injected = 1;

			for (u64 n = 1; injected && n < 100; n++) {
				struct page *page;
				struct ground g;

				ground_begin(&g, modes[m]);
				alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = n };
				page = unmapped_pages_alloc(orders[i], UNMAPPED_ZERO, -1, NULL);
				injected = alloc_inject.failed;
				alloc_inject = (struct alloc_inject){ 0 };
				CHECK(page || injected);
				CHECK_EQ(unmapped_check(), 0);
				if (page)
					unmapped_pages_free(page, orders[i]);
				ground_end(&g);
				CHECK(n > 1 || injected);
			}
		}
}

/*
 * Nearly all memory is taken, and the rest lies in the cache: a request fails, and succeeds if it may have caches asked. No
 * more is given back than that takes.
 */
TEST_ID(unmapped, gives_back_under_pressure, "UM3")
{
	static struct hoard rest[ORDER_MAX + 1];
	struct hoard h = HOARD_INIT;
	u64 total = buddy_free_frames();
	u64 blocks = total / 20 / 512;	/* 5 % */
	struct unmapped_stats um;
	struct page *page;
	struct ground g;

	ground_begin(&g, UNMAPPED_2M);
	unmapped_set_watermarks(blocks, blocks);
	for (u64 i = 0; i < blocks; i++)
		CHECK(take(&h, ORDER_2M, UNMAPPED_NOSCRUB));
	put_all(&h, ORDER_2M);
	CHECK_EQ(whole_blocks(), blocks);
	exhaust(rest, ORDER_MAX);
	CHECK_EQ(buddy_free_frames(), 0);

	for (unsigned i = 0; i < 3; i++) {
		static const unsigned orders[] = { ORDER_2M, 0, 4 };

		CHECK(!alloc_pages(orders[i], 0));
		page = alloc_pages(orders[i], ALLOC_MAY_RECLAIM | ALLOC_ZERO);
		unmapped_read_stats(&um);
		CHECK(page != NULL);
		CHECK_EQ(um.reclaim_runs - g.um.reclaim_runs, i + 1);
		CHECK_EQ(um.reclaim_frames - g.um.reclaim_frames, (i + 1) * 512);
		CHECK_EQ(whole_blocks(), blocks - i - 1);
		if (page)
			hoard_add(&rest[orders[i]], page, orders[i]);
		for (unsigned o = orders[i] + 1; o--;)
			while ((page = alloc_pages(o, 0)))
				hoard_add(&rest[o], page, o);
	}
	CHECK_EQ(um.reclaim_most, MAX(g.um.reclaim_most, 512));
	CHECK_EQ(unmapped_check(), 0);
	test_note("memory_taken=%llu%% reclaim_most=%llu frames", (unsigned long long)(100 - blocks * 512 * 100 / total),
		  (unsigned long long)um.reclaim_most);
	/* The cache asks for itself as well: with nothing left, for all that others hold, it fails. */
	unmapped_shrink(UNMAPPED_ALL);
	for (unsigned o = ORDER_MAX + 1; o--;)
		while ((page = alloc_pages(o, 0)))
			hoard_add(&rest[o], page, o);
	CHECK(!unmapped_pages_alloc(0, UNMAPPED_MAY_RECLAIM, 0, NULL));
	unmapped_read_stats(&um);
	CHECK_EQ(um.fails - g.um.fails, 1);
	CHECK_EQ(um.reclaim_runs - g.um.reclaim_runs, 4);
	release(rest);
	ground_end(&g);
}

/* The table is what the counters say. Nothing to compare with by machine: it must come out, a row for each thing. */
TEST_ID(unmapped, prints_its_table, "UM5")
{
	struct unmapped_stats s;
	struct page *page;
	struct ground g;

	ground_begin(&g, UNMAPPED_2M);
	page = unmapped_pages_alloc(0, 0, 0, NULL);
	if (CHECK(page != NULL)) {
		unmapped_read_stats(&s);
		CHECK_EQ(s.bytes, 2 * MIB);
		CHECK_EQ(s.bytes_in_use, PAGE_SIZE);
		for (unsigned o = 0; o < ORDER_2M; o++)
			CHECK_EQ(s.free_blocks[o], o == 0 ? 15 : o >= 4);
		unmapped_print();
		unmapped_pages_free(page, 0);
	}
	ground_end(&g);
}
