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

static u64 seed;

static u64 *first_word(const struct page *page)
{
	return page_to_virt(page);
}

static void mark(const struct page *page, u64 word)
{
	*first_word(page) = word;
}

static bool is_marked(const struct page *page, u64 word)
{
	return *first_word(page) == word;
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

static void churn(void *arg)
{
	struct page *full = alloc_pages(ORDER_2M, 0);
	struct rng rng = { seed + arch_this_cpu()->id };

	(void)arg;
	if (!full) {
		keeper_wrong();
		return;
	}
	for (u64 round = 0; !storm_over(); round++) {
		unsigned order = (unsigned)rng_below(&rng, 12), had;
		struct page *page = alloc_pages(order, 0), *near;

		for (unsigned i = 0; i < 20; i++) {
			near = alloc_pages_upto(0, 0, page_to_pfn(full), &had);
			if (near)
				free_pages(near, had);
		}
		if (page)
			free_pages(page, order);
		if (round % 4 == 0)
			churn_singles(round);
		keeper_round();
	}
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
	struct buddy_stats stats;
	bool ran;
	u64 free;

	/* Filling blocks of up to 8 MiB takes so long that NMIs by the clock would hardly ever find a lock held. */
	buddy_watch(BUDDY_POISON, false);
	seed = test_rng().state;
	free = buddy_free_frames();
	ran = keeper_run(&keeper, how);
	buddy_read_stats(&stats);
	CHECK_EQ(stats.deferred_now, 0);
	CHECK_EQ(stats.free, free);
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
