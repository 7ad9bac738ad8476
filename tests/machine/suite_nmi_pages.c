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
#include "kernel/cmdline.h"
#include "mm/account.h"
#include "mm/buddy.h"
#include "mm/buddy_internal.h"
#include "tests/machine/storm.h"
#include "tests/test.h"

#define NMIS 5000u
#define NMIS_SOAK 100000u
#define HELD 8u
#define SINGLES 200u

/* Of one CPU: written by its handler, and read when all is over. */
struct hits {
	struct rng rng;
	struct page *held[HELD];
	u8 order[HELD];
	u64 locked;		/* that interrupted the holder of a node's lock */
	u64 singles;		/* single frames that those asked for */
	u64 singles_had;
	u64 asked, had, freed;
	u64 torn;		/* pages that somebody else wrote to, or not as they should be */
} __aligned(64);

static struct {
	struct hits of[MAX_CPUS];
	u64 rounds;
	u64 wrong;		/* by tasks */
	u64 seed;
} m;

/* Who is charged by handlers, and by what they interrupt. */
static struct account account;

static u64 *first_word(struct page *page)
{
	return page_to_virt(page);
}

static void take_in_nmi(struct hits *h, unsigned slot, bool locked)
{
	static const u8 orders[] = { 0, 0, 0, 0, 0, 0, 1, 2, 3, 9 };
	unsigned order = orders[rng_below(&h->rng, ARRAY_SIZE(orders))];
	struct page *page = alloc_pages_nolock_account(NODE_ANY, order, &account);

	h->asked++;
	h->had += page != NULL;
	h->singles += locked && !order;
	h->singles_had += locked && !order && page;
	h->held[slot] = page;
	h->order[slot] = (u8)order;
	if (!page)
		return;
	h->torn += page->order != order || (page->flags & PAGE_HEAD) == 0 || page_to_pfn(page) & (BIT(order) - 1);
	*first_word(page) = (u64)page ^ slot;
}

static void give_in_nmi(struct hits *h, unsigned slot)
{
	struct page *page = h->held[slot];

	h->torn += *first_word(page) != ((u64)page ^ slot);
	h->held[slot] = NULL;
	h->freed++;
	free_pages_nolock(page, h->order[slot]);
}

static void in_nmi(void)
{
	struct hits *h = &m.of[arch_this_cpu()->id];
	bool locked = buddy_lock_held_here();

	h->locked += locked;
	for (unsigned i = 0; i < 2; i++) {
		unsigned slot = (unsigned)rng_below(&h->rng, HELD);

		if (h->held[slot])
			give_in_nmi(h, slot);
		else
			take_in_nmi(h, slot, locked);
	}
}

/* ---- What is interrupted ---- */

static void churn_singles(u64 round)
{
	struct page *pages[SINGLES];
	unsigned n = 0, got = round & 1 ? (unsigned)alloc_pages_bulk(NODE_ANY, SINGLES, pages) : 0;

	for (n = got; n < SINGLES && (pages[n] = alloc_pages_account(0, 0, &account)); n++)
		;
	for (unsigned i = 0; i < n; i++)
		*first_word(pages[i]) = (u64)pages[i] + round;
	for (unsigned i = 0; i < n; i++) {
		if (*first_word(pages[i]) != (u64)pages[i] + round)
			fetch_add(&m.wrong, 1);
		free_page(pages[i]);
	}
}

static void churn(void *arg)
{
	struct page *full = alloc_pages(ORDER_2M, 0);
	struct rng rng = { m.seed + arch_this_cpu()->id };

	(void)arg;
	if (!full) {
		fetch_add(&m.wrong, 1);
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
		fetch_add(&m.rounds, 1);
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

static struct storm storm = { in_nmi, churn, lock_holder, NMIS };

static void begin(void)
{
	u64 seed = test_rng().state;

	/* Filling blocks of up to 8 MiB takes so long that NMIs by the clock would hardly ever find a lock held. */
	buddy_watch(BUDDY_POISON, false);
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		m.of[cpu] = (struct hits){ .rng = { seed ^ (u64)cpu << 20 } };
	CHECK_EQ(account_open(&account, "nmi_pages", NULL, ACCOUNT_NO_LIMIT), 0);
	storm.wanted = cmdline.soak ? NMIS_SOAK : NMIS;
	m.seed = seed;
	m.rounds = m.wrong = 0;
}

/* Nobody is interrupted any more. What NMIs deferred must be gone before anybody allocates or frees again. */
static void settle(struct hits *sum)
{
	u64 held = 0;

	*sum = (struct hits){ .locked = 0 };
	CHECK_EQ(buddy_deferred_now(), 0);
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		for (unsigned slot = 0; slot < HELD; slot++)
			held += m.of[cpu].held[slot] ? BIT(m.of[cpu].order[slot]) : 0;
	CHECK_EQ(account_charged(&account), held);
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++) {
		struct hits *h = &m.of[cpu];

		for (unsigned slot = 0; slot < HELD; slot++)
			if (h->held[slot])
				give_in_nmi(h, slot);
		sum->locked += h->locked;
		sum->singles += h->singles;
		sum->singles_had += h->singles_had;
		sum->asked += h->asked;
		sum->had += h->had;
		sum->freed += h->freed;
		sum->torn += h->torn;
	}
}

static void check_storm(const char *how, const struct nolock_stats *before, u64 free)
{
	struct buddy_stats stats;
	struct nolock_stats now;
	struct hits sum;
	u64 failed = 0, nmis = storm_seen();

	settle(&sum);
	buddy_read_nolock_stats(&now);
	buddy_read_stats(&stats);
	for (unsigned why = 0; why < NOLOCK_FAILURES; why++)
		failed += now.failed[why] - before->failed[why];
	test_note("%s: nmis=%llu lock_held=%llu singles_then=%llu served=%llu asked=%llu by_reserve=%llu frees=%llu deferred=%llu "
		  "failed_lock=%llu failed_empty=%llu most_deferred=%llu rounds=%llu",
		  how, (unsigned long long)nmis, (unsigned long long)sum.locked, (unsigned long long)sum.singles,
		  (unsigned long long)sum.singles_had, (unsigned long long)sum.asked,
		  (unsigned long long)(now.from_reserve - before->from_reserve),
		  (unsigned long long)sum.freed, (unsigned long long)(now.deferred - before->deferred),
		  (unsigned long long)(now.failed[NOLOCK_LOCK] - before->failed[NOLOCK_LOCK]),
		  (unsigned long long)(now.failed[NOLOCK_EMPTY] - before->failed[NOLOCK_EMPTY]),
		  (unsigned long long)stats.deferred_most, (unsigned long long)m.rounds);
	CHECK(nmis >= storm.wanted);
	CHECK(sum.locked * 10 >= nmis);
	CHECK(sum.singles > 0);
	CHECK(sum.singles_had * 10 >= sum.singles * 9);
	CHECK_EQ(sum.torn, 0);
	CHECK_EQ(m.wrong, 0);
	CHECK_EQ(sum.had, sum.freed);
	CHECK_EQ(now.requests - before->requests, sum.asked);
	CHECK_EQ(now.served - before->served, sum.had);
	CHECK_EQ(failed, sum.asked - sum.had);
	CHECK_EQ(now.frees - before->frees, sum.freed);
	CHECK(now.deferred > before->deferred);
	CHECK_EQ(stats.deferred_now, 0);
	CHECK_EQ(stats.free, free);
	CHECK_EQ(account_close(&account), 0);
}

static void run(const char *(*how)(const struct storm *), const char *without)
{
	struct nolock_stats before;
	const char *name;
	u64 free;

	begin();
	free = buddy_free_frames();
	buddy_read_nolock_stats(&before);
	name = how(&storm);
	if (!name) {
		CHECK_EQ(account_close(&account), 0);
		SKIP("%s", without);
	}
	check_storm(name, &before, free);
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
