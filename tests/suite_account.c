/* SPDX-License-Identifier: MIT */
/* Accounts (mm/account.h): charges, limits in a tree, stock, pages that bring their charge back. */
#include "mm/account.h"

#include "kernel/base/bits.h"
#include "kernel/base/errno.h"
#include "kernel/base/log.h"
#include "mm/slab.h"
#include "mm/unmapped.h"
#include "tests/test.h"

#define NODES 9u	/* accounts of the random tree */
#define HELD 300u

static struct account tree[NODES];

static void open_or_fail(struct account *a, struct account *parent, u64 limit)
{
	CHECK_EQ(account_open(a, "test", parent, limit), 0);
}

/* usage, with every stock called back. */
static u64 settled(struct account *a)
{
	account_drain();
	CHECK_EQ(a->usage, account_charged(a));
	return a->usage;
}

TEST_ID(account, charges_count_up_to_the_top, "PA5")
{
	struct account top, mid, leaf, other;

	open_or_fail(&top, NULL, ACCOUNT_NO_LIMIT);
	open_or_fail(&mid, &top, ACCOUNT_NO_LIMIT);
	open_or_fail(&leaf, &mid, ACCOUNT_NO_LIMIT);
	open_or_fail(&other, &top, ACCOUNT_NO_LIMIT);
	CHECK_EQ(account_charge(&leaf, 5), 0);
	CHECK_EQ(account_charge(&mid, 100), 0);
	CHECK_EQ(account_charge(&other, 1000), 0);
	CHECK_EQ(account_charged(&leaf), 5);
	CHECK_EQ(account_charged(&mid), 105);
	CHECK_EQ(account_charged(&other), 1000);
	CHECK_EQ(account_charged(&top), 1105);
	CHECK_EQ(settled(&top), 1105);
	CHECK_EQ(settled(&leaf), 5);
	CHECK_EQ(account_close(&leaf), -EBUSY);
	account_uncharge(&leaf, 2);
	account_uncharge(&leaf, 3);
	CHECK_EQ(account_charged(&leaf), 0);
	CHECK_EQ(account_close(&mid), -EBUSY);
	CHECK_EQ(account_close(&leaf), 0);
	account_uncharge(&mid, 100);
	account_uncharge(&other, 1000);
	CHECK_EQ(account_charged(&top), 0);
	CHECK_EQ(account_close(&top), -EBUSY);
	CHECK_EQ(account_close(&mid), 0);
	CHECK_EQ(account_close(&other), 0);
	CHECK_EQ(account_close(&top), 0);
}

TEST_ID(account, each_limit_holds_and_refusal_leaves_no_trace, "PA5")
{
	struct account top, mid, leaf;
	struct account *const all[] = { &top, &mid, &leaf };

	/* Whichever of the three is the tight one. */
	for (unsigned tight = 0; tight < 3; tight++) {
		open_or_fail(&top, NULL, tight == 0 ? 100 : 10000);
		open_or_fail(&mid, &top, tight == 1 ? 100 : 10000);
		open_or_fail(&leaf, &mid, tight == 2 ? 100 : 10000);
		CHECK_EQ(account_charge(&leaf, 60), 0);
		CHECK_EQ(account_charge(&leaf, 41), -ENOMEM);
		for (unsigned i = 0; i < 3; i++) {
			CHECK_EQ(all[i]->refused, i == tight);
			CHECK_EQ(settled(all[i]), 60);
		}
		CHECK_EQ(account_charge(&leaf, UINT64_MAX), -ENOMEM);
		CHECK_EQ(account_charge(&leaf, 40), 0);
		CHECK_EQ(account_charge(&leaf, 1), -ENOMEM);
		for (unsigned i = 0; i < 3; i++)
			CHECK_EQ(settled(all[i]), 100);
		account_uncharge(&leaf, 100);
		for (unsigned i = 3; i-- > 0;)
			CHECK_EQ(account_close(all[i]), 0);
	}
}

TEST_ID(account, stock_is_no_charge_and_fills_the_limit, "PA5")
{
	struct account a;
	u64 got = 0;

	open_or_fail(&a, NULL, 100000);
	CHECK_EQ(account_charge(&a, 1), 0);
	CHECK_EQ(account_charged(&a), 1);
	CHECK(a.usage > 1);			/* this CPU has charged ahead */
	for (unsigned i = 0; i < ACCOUNT_STOCK; i++)
		CHECK_EQ(account_charge(&a, 1), 0);
	CHECK_EQ(account_charged(&a), 1 + ACCOUNT_STOCK);
	account_uncharge(&a, 1 + ACCOUNT_STOCK);
	CHECK_EQ(account_charged(&a), 0);
	/* Page by page up to the limit, exactly. */
	CHECK_EQ(account_set_limit(&a, 1000), 0);
	while (!account_charge(&a, 1) && got < 2000)
		got++;
	CHECK_EQ(got, 1000);
	CHECK_EQ(a.usage, 1000);
	CHECK_EQ(account_set_limit(&a, 999), -EBUSY);
	CHECK_EQ(a.limit, 1000);
	account_uncharge(&a, 1);
	CHECK_EQ(account_set_limit(&a, 999), 0);
	CHECK_EQ(account_charge(&a, 1), -ENOMEM);
	account_uncharge(&a, 999);
	CHECK_EQ(account_close(&a), 0);
}

TEST_ID(account, uncharging_too_much_changes_nothing, "PA5")
{
	u64 warnings = log_warnings, bad = account_bad_uncharges;
	struct account a;

	open_or_fail(&a, NULL, 1000);
	CHECK_EQ(account_charge(&a, 7), 0);
	account_drain();
	account_uncharge(&a, 8);
	CHECK_EQ(account_charged(&a), 7);
	CHECK_EQ(account_bad_uncharges, bad + 1);
	CHECK_EQ(log_warnings, warnings + 1);
	account_uncharge(&a, 7);
	CHECK_EQ(account_close(&a), 0);
	log_warnings = warnings;
	account_bad_uncharges = bad;
}

TEST_ID(account, depth_is_bounded, "PA5")
{
	static struct account chain[ACCOUNT_DEPTH_MAX + 1];

	for (unsigned i = 0; i < ACCOUNT_DEPTH_MAX; i++)
		open_or_fail(&chain[i], i ? &chain[i - 1] : NULL, 1000);
	CHECK_EQ(account_open(&chain[ACCOUNT_DEPTH_MAX], "test", &chain[ACCOUNT_DEPTH_MAX - 1], 1), -E2BIG);
	CHECK_EQ(account_charge(&chain[ACCOUNT_DEPTH_MAX - 1], 1000), 0);
	CHECK_EQ(account_charge(&chain[3], 1), -ENOMEM);
	CHECK_EQ(settled(&chain[0]), 1000);
	account_uncharge(&chain[ACCOUNT_DEPTH_MAX - 1], 1000);
	for (unsigned i = ACCOUNT_DEPTH_MAX; i-- > 0;)
		CHECK_EQ(account_close(&chain[i]), 0);
}

TEST_ID(account, pages_bring_their_charge_back, "PA5")
{
	static const unsigned orders[] = { 0, 1, 3, 8, 9 };
	u64 bad;
	struct buddy_stats stats;
	struct account a;

	buddy_read_stats(&stats);
	bad = stats.bad_frees;
	open_or_fail(&a, NULL, 600);
	for (unsigned i = 0; i < ARRAY_SIZE(orders); i++) {
		unsigned order = orders[i];
		struct page *page = alloc_pages_account(order, ALLOC_ZERO, &a);

		REQUIRE(page != NULL);
		CHECK_EQ(account_charged(&a), 1u << order);
		CHECK_EQ(page->account, (u64)&a);
		if (order)
			page_set_class(page_to_pfn(page), 1u << order, PAGE_USER);
		free_pages(page, order + 1);		/* refused: nothing changes */
		CHECK_EQ(account_charged(&a), 1u << order);
		free_pages(page, order);
		CHECK_EQ(account_charged(&a), 0);
		free_pages(page, order);		/* and a second time */
		CHECK_EQ(account_charged(&a), 0);
		CHECK_EQ(settled(&a), 0);
	}
	buddy_read_stats(&stats);
	CHECK_EQ(stats.bad_frees - bad, 2 * ARRAY_SIZE(orders));
	CHECK(!alloc_pages_account(10, 0, &a));
	CHECK(!alloc_pages_account(ORDER_MAX + 1, 0, &a));
	CHECK_EQ(settled(&a), 0);
	CHECK_EQ(account_close(&a), 0);
}

/* A charge is compared with frames that say whose they are: of pages, of slabs, of the unmapped cache. */
TEST_ID(account, charges_equal_frames_in_use, "PA5")
{
	struct slab_cache cache = { .name = "test", .size = 1024, .partial = UINT32_MAX };
	struct page *pages[2], *unmapped[2];
	struct account top, below;
	void *object;

	open_or_fail(&top, NULL, 1000);
	open_or_fail(&below, &top, 1000);
	cache.account = &below;
	for (unsigned i = 0; i < 2; i++) {
		pages[i] = alloc_pages_account(4 * i, 0, i ? &below : &top);
		unmapped[i] = unmapped_pages_alloc(3 * i, 0, NODE_ANY, i ? &top : &below);
	}
	object = slab_alloc(&cache);
	CHECK(pages[0] && pages[1] && unmapped[0] && unmapped[1] && object);
	if (unmapped[1])
		page_set_class(page_to_pfn(unmapped[1]), 8, PAGE_USER);
	CHECK_EQ(account_check(), 0);
	CHECK_EQ(below.found, 16 + 1 + 1);
	CHECK_EQ(top.found, 16 + 1 + 1 + 1 + 8);
	CHECK_EQ(account_charged(&top), top.found);
	slab_free(&cache, object);
	CHECK_EQ(account_check(), 0);
	CHECK_EQ(below.found, 16 + 1);
	for (unsigned i = 0; i < 2; i++) {
		if (pages[i])
			free_pages(pages[i], 4 * i);
		if (unmapped[i])
			unmapped_pages_free(unmapped[i], 3 * i);
	}
	CHECK_EQ(account_check(), 0);
	CHECK_EQ(top.found, 0);
	CHECK_EQ(account_close(&below), 0);
	CHECK_EQ(account_close(&top), 0);
}

/* The check is not blind: a charge without a frame, a frame whose charge is gone, a frame of an account that is not open. */
TEST_ID(account, a_charge_without_frames_is_seen, "PA5")
{
	u64 warnings = log_warnings;
	struct account top, below, closed;
	struct page *page;

	open_or_fail(&top, NULL, 1000);
	open_or_fail(&below, &top, 1000);
	CHECK_EQ(account_check(), 0);
	CHECK_EQ(account_charge(&below, 3), 0);
	CHECK_EQ(account_check(), 2);		/* it, and the one above it */
	account_uncharge(&below, 3);
	CHECK_EQ(account_check(), 0);
	page = alloc_pages_account(2, 0, &top);
	REQUIRE(page != NULL);
	CHECK_EQ(account_check(), 0);
	account_uncharge(&top, 1);
	CHECK_EQ(account_check(), 1);
	CHECK_EQ(account_charge(&top, 1), 0);
	page->account = (u64)&closed;
	CHECK_EQ(account_check(), 2);		/* whose frames these are, and whose they are not */
	page->account = (u64)&top;
	free_pages(page, 2);
	CHECK_EQ(account_check(), 0);
	CHECK_EQ(log_warnings, warnings + 2 + 1 + 2);
	log_warnings = warnings;
	CHECK_EQ(account_close(&below), 0);
	CHECK_EQ(account_close(&top), 0);
}

/* The allocation fails behind the charge: nothing is charged. */
TEST_ID(account, failed_allocation_leaves_no_charge, "PA5 PA8")
{
	struct account top, a;
	struct page *page;

	open_or_fail(&top, NULL, 10000);
	open_or_fail(&a, &top, 10000);
	alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 1 };
	page = alloc_pages_account(3, 0, &a);
	alloc_inject.armed = 0;
	CHECK(!page);
	CHECK_EQ(alloc_inject.failed, 1);
	CHECK_EQ(account_charged(&a), 0);
	CHECK_EQ(settled(&top), 0);
	/* And none of an account's pages: no charge at all. */
	page = alloc_pages_account(0, 0, NULL);
	CHECK(page && !(page->flags & PAGE_CHARGED));
	if (page)
		free_page(page);
	CHECK_EQ(account_close(&a), 0);
	CHECK_EQ(account_close(&top), 0);
}

/* ---- Random operations against sums kept beside ---- */

static struct {
	struct page *page;
	unsigned order, node;
} held[HELD];

static u64 own[NODES];		/* frames charged to each, children left out */

static u64 expected(unsigned node)
{
	u64 sum = own[node];

	for (unsigned i = 0; i < NODES; i++)
		if (i != node && tree[i].parent == &tree[node])
			sum += expected(i);
	return sum;
}

/* The limit that refuses, if one does. */
static bool fits(unsigned node, u64 frames)
{
	for (struct account *a = &tree[node]; a; a = a->parent)
		if (expected((unsigned)(a - tree)) + frames > a->limit)
			return false;
	return true;
}

static u64 compare_sums(void)
{
	u64 wrong = 0;

	for (unsigned i = 0; i < NODES; i++)
		wrong += account_charged(&tree[i]) != expected(i) || account_charged(&tree[i]) > tree[i].limit;
	return wrong;
}

static u64 random_step(struct rng *rng)
{
	unsigned k = (unsigned)rng_below(rng, HELD);
	bool room;

	if (held[k].page) {
		free_pages(held[k].page, held[k].order);
		own[held[k].node] -= 1u << held[k].order;
		held[k].page = NULL;
		return 0;
	}
	held[k].order = rng_below(rng, 3) ? 0 : (unsigned)rng_below(rng, 6);
	held[k].node = (unsigned)rng_below(rng, NODES);
	room = fits(held[k].node, 1u << held[k].order);
	held[k].page = alloc_pages_account(held[k].order, 0, &tree[held[k].node]);
	if (held[k].page)
		own[held[k].node] += 1u << held[k].order;
	return room != (held[k].page != NULL);
}

TEST_ID(account, random_operations_match_the_sums, "PA5")
{
	struct rng rng = test_rng();
	u64 wrong = 0, refused = 0;

	for (unsigned i = 0; i < NODES; i++) {
		open_or_fail(&tree[i], i ? &tree[(i - 1) / 2] : NULL, i ? 60 + 40 * rng_below(&rng, 20) : 700);
		own[i] = 0;
	}
	for (unsigned i = 0; i < 20000; i++) {
		wrong += random_step(&rng);
		if (i % 64 == 0)
			wrong += compare_sums();
		if (i % 2048 == 0)
			wrong += account_check();
	}
	CHECK_EQ(wrong, 0);
	for (unsigned i = 0; i < NODES; i++)
		refused += tree[i].refused;
	CHECK(refused > 100);
	test_note("refused=%llu", (unsigned long long)refused);
	for (unsigned i = 0; i < HELD; i++)
		if (held[i].page) {
			own[held[i].node] -= 1u << held[i].order;
			free_pages(held[i].page, held[i].order);
			held[i].page = NULL;
		}
	CHECK_EQ(compare_sums(), 0);
	CHECK_EQ(account_check(), 0);
	CHECK_EQ(settled(&tree[0]), 0);
	for (unsigned i = NODES; i-- > 0;)
		CHECK_EQ(account_close(&tree[i]), 0);
}
