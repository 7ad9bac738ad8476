/* SPDX-License-Identifier: MIT */
/* Handlers of NMIs that keep pages. See keeper.h. */
#include "tests/machine/keeper.h"

#include "kernel/base/atomic.h"
#include "kernel/cmdline.h"
#include "tests/test.h"

#define HELD 8u
#define LARGE 3u	/* pages of more than one frame, before the first NMI: of order 1, 2 and 3 */

/* Of one CPU: written by its handler, and read when all is over. */
struct hits {
	struct rng rng;
	struct page *held[HELD];
	u8 order[HELD];
	u64 locked;		/* NMIs that interrupted the holder of a lock */
	u64 singles;		/* single frames that those asked for */
	u64 singles_had;
	u64 early;		/* pages that it had before the first NMI */
	u64 asked, had, freed;
	u64 torn;		/* pages that somebody else wrote to, or not as they should be */
} __aligned(64);

static struct {
	const struct keeper *keeper;
	struct hits of[MAX_CPUS];
	struct account account;
	u64 rounds;
	u64 wrong;		/* by tasks */
} m;

void keeper_round(void)
{
	fetch_add(&m.rounds, 1);
}

void keeper_wrong(void)
{
	fetch_add(&m.wrong, 1);
}

struct account *keeper_account(void)
{
	return &m.account;
}

/* ---- The handler ---- */

static void keep(struct hits *h, unsigned slot, struct page *page, unsigned order)
{
	h->held[slot] = page;
	h->order[slot] = (u8)order;
	if (page)
		m.keeper->mark(page, (u64)page ^ slot);
}

static void take(struct hits *h, unsigned slot, bool locked)
{
	unsigned order = m.keeper->order(&h->rng);
	struct page *page = m.keeper->take(&h->rng, order, &m.account, &h->torn);

	h->asked++;
	h->had += page != NULL;
	h->singles += locked && !order;
	h->singles_had += locked && !order && page;
	keep(h, slot, page, order);
}

static void give(struct hits *h, unsigned slot)
{
	struct page *page = h->held[slot];

	h->torn += !m.keeper->marked(page, (u64)page ^ slot);
	h->held[slot] = NULL;
	h->freed++;
	m.keeper->give(page, h->order[slot]);
}

static void in_nmi(void)
{
	struct hits *h = &m.of[arch_this_cpu()->id];
	bool locked = m.keeper->lock_held_here();

	h->locked += locked;
	for (unsigned i = 0; i < 2; i++) {
		unsigned slot = (unsigned)rng_below(&h->rng, HELD);

		if (h->held[slot])
			give(h, slot);
		else
			take(h, slot, locked);
	}
}

/* A task of the handler's CPU. */
static void take_early(void)
{
	struct hits *h = &m.of[arch_this_cpu()->id];

	for (unsigned slot = 0; slot < LARGE; slot++) {
		keep(h, slot, m.keeper->take_early(slot + 1, &m.account), slot + 1);
		h->early += h->held[slot] != NULL;
	}
}

/* ---- The sums ---- */

/* Nobody is interrupted any more. What NMIs deferred must be gone before anybody allocates or frees again. */
static void settle(struct hits *sum)
{
	u64 held = 0;

	*sum = (struct hits){ .locked = 0 };
	CHECK_EQ(m.keeper->deferred_now(), 0);
	if (m.keeper->check)
		CHECK_EQ(m.keeper->check(), 0);
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		for (unsigned slot = 0; slot < HELD; slot++)
			held += m.of[cpu].held[slot] ? BIT(m.of[cpu].order[slot]) : 0;
	CHECK_EQ(account_charged(&m.account), held);
	CHECK_EQ(account_check(), 0);
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++) {
		struct hits *h = &m.of[cpu];

		for (unsigned slot = 0; slot < HELD; slot++)
			if (h->held[slot])
				give(h, slot);
		sum->locked += h->locked;
		sum->singles += h->singles;
		sum->singles_had += h->singles_had;
		sum->early += h->early;
		sum->asked += h->asked;
		sum->had += h->had;
		sum->freed += h->freed;
		sum->torn += h->torn;
	}
	CHECK_EQ(m.keeper->deferred_now(), 0);
	CHECK_EQ(account_charged(&m.account), 0);
	CHECK_EQ(account_check(), 0);
}

/* What the figures have gone up by. */
static struct nolock_stats stats_since(const struct nolock_stats *then)
{
	struct nolock_stats now;

	m.keeper->read_stats(&now);
	now.requests -= then->requests;
	now.served -= then->served;
	now.from_reserve -= then->from_reserve;
	now.frees -= then->frees;
	now.to_reserve -= then->to_reserve;
	now.deferred -= then->deferred;
	for (unsigned why = 0; why < NOLOCK_FAILURES; why++)
		now.failed[why] -= then->failed[why];
	return now;
}

static void check(const char *how, u64 wanted, bool aimed, const struct nolock_stats *before)
{
	u64 nmis = storm_seen(), failed = 0;
	struct nolock_stats stats;
	struct hits sum;

	settle(&sum);
	stats = stats_since(before);
	for (unsigned why = 0; why < NOLOCK_FAILURES; why++)
		failed += stats.failed[why];
	test_note("%s: nmis=%llu lock_held=%llu singles_then=%llu served=%llu asked=%llu by_reserve=%llu frees=%llu deferred=%llu "
		  "failed_lock=%llu failed_empty=%llu rounds=%llu",
		  how, (unsigned long long)nmis, (unsigned long long)sum.locked, (unsigned long long)sum.singles,
		  (unsigned long long)sum.singles_had, (unsigned long long)sum.asked, (unsigned long long)stats.from_reserve,
		  (unsigned long long)sum.freed, (unsigned long long)stats.deferred,
		  (unsigned long long)stats.failed[NOLOCK_LOCK], (unsigned long long)stats.failed[NOLOCK_EMPTY],
		  (unsigned long long)m.rounds);
	CHECK(nmis >= wanted);
	/* Those of a clock come when they come. */
	CHECK(aimed ? sum.locked * 10 >= nmis : sum.locked > 0);
	CHECK(sum.singles > 0);
	CHECK(sum.singles_had * 10 >= sum.singles * 9);
	CHECK(sum.early > 0 && sum.early % LARGE == 0);
	CHECK_EQ(sum.torn, 0);
	CHECK_EQ(m.wrong, 0);
	CHECK_EQ(sum.early + sum.had, sum.freed);
	CHECK_EQ(stats.requests, sum.asked);
	CHECK_EQ(stats.served, sum.had);
	CHECK_EQ(failed, sum.asked - sum.had);
	CHECK_EQ(stats.frees, sum.freed);
	CHECK(stats.deferred > 0 || !(aimed || m.keeper->always_deferred));
}

bool keeper_run(const struct keeper *keeper, storm_fn how)
{
	struct storm storm = { in_nmi, take_early, keeper->churn, keeper->lock_holder,
			       cmdline.soak ? keeper->nmis_soak : keeper->nmis, 0 };
	struct nolock_stats before;
	u64 seed = test_rng().state;
	const char *name;

	m.keeper = keeper;
	m.rounds = m.wrong = 0;
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		m.of[cpu] = (struct hits){ .rng = { seed ^ (u64)cpu << 20 } };
	CHECK_EQ(account_open(&m.account, keeper->name, NULL, ACCOUNT_NO_LIMIT), 0);
	keeper->read_stats(&before);
	name = how(&storm);
	if (name)
		check(name, storm.wanted, how == storm_aimed, &before);
	CHECK_EQ(account_close(&m.account), 0);
	return name != NULL;
}
