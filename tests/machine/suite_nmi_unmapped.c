/* SPDX-License-Identifier: MIT */
/*
 * NMIs that hit CPUs inside the unmapped cache, its locks held, and take and free unmapped pages themselves (SPEC PA2, UM1, UM4): what they
 * zero, write and scrub goes by the temporary mapping of their own level. Each page has words at both ends that must be there when it is freed.
 */
#include "kernel/base/atomic.h"
#include "kernel/base/rng.h"
#include "kernel/cmdline.h"
#include "mm/unmapped_internal.h"
#include "tests/machine/storm.h"
#include "tests/test.h"

#define NMIS 1000u
#define NMIS_SOAK 100000u
#define HELD 6u
#define SINGLES 40u
#define WORKED_ON 40u

/* Of one CPU: written by its handler, and read when all is over. */
struct hits {
	struct rng rng;
	struct page *held[HELD];
	u8 order[HELD];
	u64 locked;		/* NMIs that interrupted the holder of a lock of the lists */
	u64 singles, singles_had;	/* single pages that those asked for */
	u64 asked, had, freed;
	u64 torn;
} __aligned(64);

static struct {
	struct hits of[MAX_CPUS];
	struct account account;
	u64 rounds, wrong, seed;
} m;

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

static void take_in_nmi(struct hits *h, unsigned slot, bool locked)
{
	unsigned order = rng_below(&h->rng, 3) ? 0 : (unsigned)rng_below(&h->rng, 4);
	unsigned flags = (unsigned)rng_below(&h->rng, 4) & (UNMAPPED_ZERO | UNMAPPED_NOSCRUB);
	struct page *page = unmapped_pages_alloc_nolock(order, flags, -1, &m.account);

	h->asked++;
	h->had += page != NULL;
	h->singles += locked && !order;
	h->singles_had += locked && !order && page;
	h->held[slot] = page;
	h->order[slot] = (u8)order;
	if (!page)
		return;
	h->torn += page->class != PAGE_UNMAPPED || page_to_pfn(page) & (BIT(order) - 1);
	h->torn += flags & UNMAPPED_ZERO && !ends_are(page, 0);
	write_ends(page, (u64)page ^ slot);
}

static void give_in_nmi(struct hits *h, unsigned slot)
{
	struct page *page = h->held[slot];

	h->torn += !ends_are(page, (u64)page ^ slot);
	h->held[slot] = NULL;
	h->freed++;
	unmapped_pages_free_nolock(page, h->order[slot]);
}

static void in_nmi(void)
{
	struct hits *h = &m.of[arch_this_cpu()->id];
	bool locked = lock_held_here();

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

/* So many that the magazine runs low and full. */
static void churn_singles(u64 round)
{
	struct page *pages[SINGLES];
	unsigned flags = round & 1 ? UNMAPPED_NOSCRUB : 0;

	for (unsigned i = 0; i < SINGLES; i++) {
		pages[i] = unmapped_pages_alloc(0, flags, -1, &m.account);
		if (pages[i])
			write_ends(pages[i], (u64)pages[i] + round);
		else
			fetch_add(&m.wrong, 1);
	}
	for (unsigned i = 0; i < SINGLES; i++) {
		if (!pages[i])
			continue;
		if (!ends_are(pages[i], (u64)pages[i] + round))
			fetch_add(&m.wrong, 1);
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
			fetch_add(&m.wrong, 1);
		churn_singles(round);
		fetch_add(&m.rounds, 1);
	}
}

/* ---- The tests ---- */

static struct storm storm = { in_nmi, churn, lock_holder, NMIS };

/* Nobody is interrupted any more. What NMIs deferred must be gone before anybody allocates or frees again. */
static void settle(struct hits *sum)
{
	u64 held = 0;

	*sum = (struct hits){ .locked = 0 };
	CHECK_EQ(unmapped_deferred_now(), 0);
	CHECK_EQ(unmapped_check(), 0);
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		for (unsigned slot = 0; slot < HELD; slot++)
			held += m.of[cpu].held[slot] ? BIT(m.of[cpu].order[slot]) : 0;
	CHECK_EQ(account_charged(&m.account), held);
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

static void check_storm(const char *how, const struct nolock_stats *before)
{
	struct unmapped_stats stats;
	struct nolock_stats now;
	struct hits sum;
	u64 failed = 0, nmis = storm_seen();

	settle(&sum);
	unmapped_read_nolock_stats(&now);
	unmapped_read_stats(&stats);
	for (unsigned why = 0; why < NOLOCK_FAILURES; why++)
		failed += now.failed[why] - before->failed[why];
	test_note("%s: nmis=%llu lock_held=%llu singles_then=%llu served=%llu asked=%llu by_magazine=%llu frees=%llu deferred=%llu "
		  "failed_lock=%llu failed_empty=%llu rounds=%llu",
		  how, (unsigned long long)nmis, (unsigned long long)sum.locked, (unsigned long long)sum.singles,
		  (unsigned long long)sum.singles_had, (unsigned long long)sum.asked,
		  (unsigned long long)(now.from_reserve - before->from_reserve), (unsigned long long)sum.freed,
		  (unsigned long long)(now.deferred - before->deferred),
		  (unsigned long long)(now.failed[NOLOCK_LOCK] - before->failed[NOLOCK_LOCK]),
		  (unsigned long long)(now.failed[NOLOCK_EMPTY] - before->failed[NOLOCK_EMPTY]),
		  (unsigned long long)m.rounds);
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
	CHECK_EQ(stats.bytes_in_use, 0);
	CHECK_EQ(account_charged(&m.account), 0);
}

static void run(const char *(*how)(const struct storm *), const char *without)
{
	enum unmapped_mode mode = unmapped_mode();
	struct nolock_stats before, now;
	u64 seed = test_rng().state;
	const char *name;

	CHECK_EQ(unmapped_set_mode(UNMAPPED_2M), 0);
	CHECK_EQ(account_open(&m.account, "nmi_unmapped", NULL, ACCOUNT_NO_LIMIT), 0);
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		m.of[cpu] = (struct hits){ .rng = { seed ^ (u64)cpu << 20 } };
	m.rounds = m.wrong = 0;
	storm.wanted = cmdline.soak ? NMIS_SOAK : NMIS;
	unmapped_read_nolock_stats(&before);
	name = how(&storm);
	if (name)
		check_storm(name, &before);
	unmapped_read_nolock_stats(&now);
	/* A timer's may all have found the lock free, or room on the magazine. */
	if (name && how == storm_aimed)
		CHECK(now.deferred > before.deferred);
	CHECK_EQ(account_close(&m.account), 0);
	CHECK_EQ(unmapped_set_mode(mode), 0);
	if (!name)
		SKIP("%s", without);
}

/* A timer's NMIs, on this CPU alone: they come when they come. */
TEST_ID(nmi_unmapped, timer_storm_on_one_cpu, "PA2 UM1")
{
	run(storm_by_timer, "no timer that makes NMIs");
}

TEST_ID(nmi_unmapped, sent_to_who_holds_a_lock, "PA2 UM1")
{
	run(storm_aimed, "one CPU");
}
