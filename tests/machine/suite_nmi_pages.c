/* SPDX-License-Identifier: MIT */
/*
 * NMIs that hit CPUs inside the page allocator, its locks held, and allocate and free pages themselves (SPEC PA2): sent by another
 * CPU that looks who holds a lock, and by a timer of the machine that comes when it likes.
 *
 * Each CPU churns pages of its own. It asks for frames near a block that has none, which is looked through under the node's lock, so
 * that a lock is held much of the time; and it takes and gives single frames in such numbers that its stacks are filled and
 * emptied. The handler keeps a few pages per CPU, with a word in each that must still be there when it frees it. It charges them, and
 * hits CPUs that charge the same account.
 */
#include "kernel/base/atomic.h"
#include "kernel/base/bits.h"
#include "kernel/base/rng.h"
#include "mm/buddy_internal.h"
#include "tests/machine/keeper.h"
#include "tests/test.h"

#define SINGLES 200u
#define KEPT 8u		/* blocks that a task has at a time */

static u64 seed, bad_frees;

static u64 *first_word(const struct page *page)
{
	return page_to_virt(page);
}

/* Each frame of the block, so that whoever has one of them, too, is noticed. */
static void mark(const struct page *page, u64 word)
{
	for (u64 i = 0; i < BIT(page->order); i++)
		*first_word(page + i) = word + i;
}

static bool is_marked(const struct page *page, u64 word)
{
	for (u64 i = 0; i < BIT(page->order); i++)
		if (*first_word(page + i) != word + i)
			return false;
	return true;
}

static unsigned pick_order(struct rng *rng)
{
	static const u8 orders[] = { 0, 0, 0, 0, 0, 0, 1, 2, 3, 9 };

	return orders[rng_below(rng, ARRAY_SIZE(orders))];
}

static struct page *take(struct rng *rng, unsigned order, struct account *account, u64 *torn)
{
	struct page *page = alloc_pages_nolock_account(NODE_ANY, order, account);

	(void)rng;
	if (page)
		*torn += page->order != order || (page->flags & PAGE_HEAD) == 0 || page_to_pfn(page) & (BIT(order) - 1);
	return page;
}

static struct page *take_early(unsigned order, struct account *account)
{
	return alloc_pages_account(order, 0, account);
}

/* ---- What is interrupted ---- */

static void churn_singles(u64 round)
{
	struct page *pages[SINGLES];
	unsigned n = 0, got = round & 1 ? (unsigned)alloc_pages_bulk(NODE_ANY, SINGLES, pages) : 0;

	for (n = got; n < SINGLES && (pages[n] = alloc_pages_account(0, 0, keeper_account())); n++)
		;
	for (unsigned i = 0; i < n; i++)
		*first_word(pages[i]) = (u64)pages[i] + round;
	for (unsigned i = 0; i < n; i++) {
		if (*first_word(pages[i]) != (u64)pages[i] + round)
			keeper_wrong();
		free_page(pages[i]);
	}
}

/* Any kind of request. */
static struct page *request(struct rng *rng)
{
	unsigned order = (unsigned)rng_below(rng, rng_below(rng, 4) ? 4 : 10);
	u64 kind = rng_below(rng, 10);

	if (kind < 6)
		return alloc_pages(order, 0);
	if (kind < 8)
		return alloc_pages(order, ALLOC_UNMAPS);
	return alloc_pages_node((int)rng_below(rng, nr_nodes), order, 0);
}

/* A block goes, and another comes; now and then it is to go in a wrong order first. */
static void churn_block(struct rng *rng, struct page **kept)
{
	if (*kept) {
		if (!is_marked(*kept, (u64)kept))
			keeper_wrong();
		if (!rng_below(rng, 500)) {
			free_pages(*kept, (*kept)->order + 1u);
			fetch_add(&bad_frees, 1);
		}
		free_pages(*kept, (*kept)->order);
	}
	*kept = request(rng);
	if (*kept)
		mark(*kept, (u64)kept);
}

static void churn(void *arg)
{
	struct page *full = alloc_pages(ORDER_2M, 0), *kept[KEPT] = { NULL };
	struct rng rng = { seed + arch_this_cpu()->id };

	(void)arg;
	if (!full) {
		keeper_wrong();
		return;
	}
	for (u64 round = 0; !storm_over(); round++) {
		struct page *near;
		unsigned had;

		churn_block(&rng, &kept[rng_below(&rng, KEPT)]);
		for (unsigned i = 0; i < 20; i++) {
			near = alloc_pages_upto(0, 0, page_to_pfn(full), &had);
			if (near)
				free_pages(near, had);
		}
		if (round % 4 == 0)
			churn_singles(round);
		keeper_round();
	}
	for (unsigned i = 0; i < KEPT; i++)
		if (kept[i])
			free_pages(kept[i], kept[i]->order);
	free_pages(full, ORDER_2M);
}

/* ---- The tests ---- */

/* The CPU that holds a node's lock now. */
static u32 lock_holder(void)
{
	for (unsigned i = 0; i < nr_nodes; i++) {
		u32 holder = load_relaxed(&nodes[i].lock.holder);

		if (holder)
			return holder - 1;
	}
	return MAX_CPUS;
}

static const struct keeper keeper = {
	.name = "nmi_pages",
	.nmis = 5000,
	.nmis_soak = 100000,
	.always_deferred = true,
	.order = pick_order,
	.take = take,
	.give = free_pages_nolock,
	.mark = mark,
	.marked = is_marked,
	.lock_held_here = buddy_lock_held_here,
	.take_early = take_early,
	.lock_holder = lock_holder,
	.churn = churn,
	.deferred_now = buddy_deferred_now,
	.read_stats = buddy_read_nolock_stats,
};

static void run(storm_fn how, const char *without)
{
	struct buddy_stats before, stats;
	bool ran;

	/* Filling blocks of up to 8 MiB takes so long that NMIs by the clock would hardly ever find a lock held. */
	buddy_watch(BUDDY_POISON, false);
	seed = test_rng().state;
	bad_frees = 0;
	buddy_read_stats(&before);
	ran = keeper_run(&keeper, how);
	buddy_read_stats(&stats);
	CHECK_EQ(stats.deferred_now, 0);
	CHECK_EQ(stats.free, before.free);
	CHECK_EQ(stats.bad_frees - before.bad_frees, bad_frees);
	if (!ran)
		SKIP("%s", without);
	test_note("most_deferred=%llu", (unsigned long long)stats.deferred_most);
}

/* A timer's NMIs, on this CPU alone: they come when they come. */
TEST_ID(nmi_pages, timer_storm_on_one_cpu, "PA2")
{
	run(storm_by_timer, "no timer that makes NMIs");
}

TEST_ID(nmi_pages, sent_to_who_holds_a_lock, "PA2")
{
	run(storm_aimed, "one CPU");
}
