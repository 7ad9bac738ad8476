/* SPDX-License-Identifier: MIT */
/*
 * NMIs that hit CPUs inside the unmapped cache, its locks held, and take and free unmapped pages themselves (SPEC PA2, UM1, UM4): what they
 * zero, write and scrub goes by the temporary mapping of their own level. Each page has words at both ends that must be there when it is freed.
 */
#include "kernel/base/atomic.h"
#include "mm/unmapped_internal.h"
#include "tests/machine/keeper.h"
#include "tests/test.h"

#define SINGLES 40u
#define WORKED_ON 40u

static bool lock_held_here(void)
{
	for (unsigned nid = 0; nid < buddy_nodes(); nid++)
		if (spin_held(&um_nodes[nid].lock))
			return true;
	return false;
}

static u32 lock_holder(void)
{
	for (unsigned nid = 0; nid < buddy_nodes(); nid++) {
		u32 holder = load_relaxed(&um_nodes[nid].lock.holder);

		if (holder)
			return holder - 1;
	}
	return MAX_CPUS;
}

static bool ends_are(const struct page *page, u64 word)
{
	u64 words[2];

	temp_read(page_to_pfn(page), 0, &words[0], sizeof(u64));
	temp_read(page_to_pfn(page), PAGE_SIZE - sizeof(u64), &words[1], sizeof(u64));
	return words[0] == word && words[1] == word;
}

static void write_ends(const struct page *page, u64 word)
{
	temp_write(page_to_pfn(page), 0, &word, sizeof(word));
	temp_write(page_to_pfn(page), PAGE_SIZE - sizeof(word), &word, sizeof(word));
}

static unsigned pick_order(struct rng *rng)
{
	return rng_below(rng, 3) ? 0 : (unsigned)rng_below(rng, 4);
}

static struct page *take(struct rng *rng, unsigned order, struct account *account, u64 *torn)
{
	unsigned flags = (unsigned)rng_below(rng, 4) & (UNMAPPED_ZERO | UNMAPPED_NOSCRUB);
	struct page *page = unmapped_pages_alloc_nolock(order, flags, -1, account);

	if (page) {
		*torn += page->class != PAGE_UNMAPPED || page_to_pfn(page) & (BIT(order) - 1);
		*torn += flags & UNMAPPED_ZERO && !ends_are(page, 0);
	}
	return page;
}

static struct page *take_early(unsigned order, struct account *account)
{
	return unmapped_pages_alloc(order, 0, -1, account);
}

/* ---- What is interrupted ---- */

/* So many that the magazine runs low and full. */
static void churn_singles(u64 round)
{
	struct page *pages[SINGLES];
	unsigned flags = round & 1 ? UNMAPPED_NOSCRUB : 0;

	for (unsigned i = 0; i < SINGLES; i++) {
		pages[i] = unmapped_pages_alloc(0, flags, -1, keeper_account());
		if (pages[i])
			write_ends(pages[i], (u64)pages[i] + round);
		else
			keeper_wrong();
	}
	for (unsigned i = 0; i < SINGLES; i++) {
		if (!pages[i])
			continue;
		if (!ends_are(pages[i], (u64)pages[i] + round))
			keeper_wrong();
		unmapped_pages_free(pages[i], 0);
	}
}

/* Regions out of the lists and back, under one hold of their lock: so that it is held for a while. */
static void work_on_lists(struct um_node *n, unsigned order)
{
	struct page *pages[WORKED_ON];
	unsigned got = 0;

	um_lock(n);
	while (got < WORKED_ON && (pages[got] = um_take(n, order, UM_TAKEN)))
		got++;
	while (got)
		um_give(n, pages[--got], order);
	um_unlock(n);
}

static void churn(void *arg)
{
	struct um_node *n = &um_nodes[buddy_this_node()];

	(void)arg;
	for (u64 round = 0; !storm_over(); round++) {
		struct page *page = unmapped_pages_alloc(round % 6, UNMAPPED_NOSCRUB, -1, NULL);

		for (unsigned i = 0; i < 200; i++)
			work_on_lists(n, i % 3);
		if (page)
			unmapped_pages_free(page, round % 6);
		else
			keeper_wrong();
		churn_singles(round);
		keeper_round();
	}
}

/* ---- The tests ---- */

static const struct keeper keeper = {
	.name = "nmi_unmapped",
	.nmis = 1000,
	.nmis_soak = 100000,
	.order = pick_order,
	.take = take,
	.give = unmapped_pages_free_nolock,
	.mark = write_ends,
	.marked = ends_are,
	.lock_held_here = lock_held_here,
	.take_early = take_early,
	.lock_holder = lock_holder,
	.churn = churn,
	.deferred_now = unmapped_deferred_now,
	.check = unmapped_check,
	.read_stats = unmapped_read_nolock_stats,
};

static void run(storm_fn how, const char *without)
{
	enum unmapped_mode mode = unmapped_mode();
	struct unmapped_stats stats;
	bool ran;

	CHECK_EQ(unmapped_set_mode(UNMAPPED_2M), 0);
	ran = keeper_run(&keeper, how);
	CHECK_EQ(unmapped_check(), 0);
	unmapped_read_stats(&stats);
	CHECK_EQ(stats.bytes_in_use, 0);
	CHECK_EQ(unmapped_set_mode(mode), 0);
	if (!ran)
		SKIP("%s", without);
}

/* A timer's NMIs, on this CPU alone: they come when they come, and may all find the lock free, or room on the magazine. */
TEST_ID(nmi_unmapped, timer_storm_on_one_cpu, "PA2 UM1")
{
	run(storm_by_timer, "no timer that makes NMIs");
}

TEST_ID(nmi_unmapped, sent_to_who_holds_a_lock, "PA2 UM1")
{
	run(storm_aimed, "one CPU");
}
