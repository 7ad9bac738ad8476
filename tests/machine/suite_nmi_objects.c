/* SPDX-License-Identifier: MIT */
/*
 * NMIs that hit CPUs in the middle of kmalloc() and kfree(), the lock of a size held or a CPU's list occupied, and allocate and free
 * objects themselves (SPEC PA2, PA4). Each CPU's task and each CPU's handler keep objects with a word in them that must be there
 * when they are freed; handlers free each other's.
 */
#include "kernel/base/atomic.h"
#include "kernel/base/bits.h"
#include "kernel/base/rng.h"
#include "kernel/cmdline.h"
#include "mm/buddy.h"
#include "mm/kmalloc.h"
#include "tests/machine/crew.h"
#include "tests/machine/storm.h"
#include "tests/test.h"

#define NMIS 1000u
#define NMIS_SOAK 100000u
#define HELD 8u
#define BURST 40u
#define SCATTER 32u	/* looks at all locks: about as long as a burst */

static const u16 sizes[] = { 16, 64, 64, 200, 1024, 2048, 5000 };

/* Of one CPU, written by its handler. */
struct hits {
	struct rng rng;
	u64 locked;	/* NMIs that interrupted the holder of a size's lock */
	u64 asked, had, freed;
	u64 locked_asked, locked_had;
	u64 torn;
} __aligned(64);

static struct {
	struct hits of[MAX_CPUS];
	u64 *slots[MAX_CPUS * HELD];	/* objects of handlers; whoever exchanges one out frees it */
	u64 rounds, wrong, seed;
	u32 cpus;
} m;

static u64 word_of(const u64 *p)
{
	return (u64)p ^ 0x5a5a;
}

static void in_nmi(void)
{
	struct hits *h = &m.of[arch_this_cpu()->id];
	bool locked = kmalloc_lock_held_here();

	h->locked += locked;
	for (unsigned i = 0; i < 2; i++) {
		u64 **slot = &m.slots[rng_below(&h->rng, m.cpus * HELD)];
		u64 *p = kmalloc_nolock(sizes[rng_below(&h->rng, ARRAY_SIZE(sizes))], 0), *old;

		h->asked++;
		h->had += p != NULL;
		h->locked_asked += locked;
		h->locked_had += locked && p;
		if (p)
			p[0] = word_of(p);
		old = __atomic_exchange_n(slot, p, __ATOMIC_ACQ_REL);
		if (!old)
			continue;
		h->torn += old[0] != word_of(old);
		h->freed++;
		kfree_nolock(old);
	}
}

/* Bursts of one size, so that lists run empty and full, and locks are taken. */
static void churn(void *arg)
{
	struct rng rng = { m.seed + arch_this_cpu()->id };
	u64 *p[BURST];

	(void)arg;
	while (!storm_over()) {
		size_t size = sizes[rng_below(&rng, ARRAY_SIZE(sizes) - 1)];

		for (unsigned i = 0; i < BURST; i++) {
			p[i] = kmalloc(size, 0);
			if (p[i])
				p[i][0] = word_of(p[i]) + i;
			else
				fetch_add(&m.wrong, 1);
		}
		for (unsigned i = 0; i < BURST; i++) {
			if (p[i] && p[i][0] != word_of(p[i]) + i)
				fetch_add(&m.wrong, 1);
			kfree(p[i]);
		}
		fetch_add(&m.rounds, 1);
	}
}

static struct storm storm = { in_nmi, NULL, churn, kmalloc_lock_holder, NMIS, SCATTER };

static void begin(u32 cpus, struct kmalloc_stats *before)
{
	u64 seed = test_rng().state;

	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		m.of[cpu] = (struct hits){ .rng = { seed ^ (u64)cpu << 20 } };
	storm.wanted = cmdline.soak ? NMIS_SOAK : NMIS;
	m.seed = seed;
	m.rounds = m.wrong = 0;
	m.cpus = cpus;
	kmalloc_drain();
	kmalloc_read_stats(before);
}

static void check_storm(const char *how, const struct kmalloc_stats *before)
{
	struct hits sum = { .locked = 0 };
	u64 nmis = storm_seen();
	struct kmalloc_stats now;

	for (u32 i = 0; i < MAX_CPUS * HELD; i++) {
		sum.torn += m.slots[i] && m.slots[i][0] != word_of(m.slots[i]);
		sum.freed += m.slots[i] != NULL;
		kfree(m.slots[i]);
		m.slots[i] = NULL;
	}
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++) {
		const struct hits *h = &m.of[cpu];

		sum.locked += h->locked;
		sum.asked += h->asked;
		sum.had += h->had;
		sum.freed += h->freed;
		sum.locked_asked += h->locked_asked;
		sum.locked_had += h->locked_had;
		sum.torn += h->torn;
	}
	CHECK_EQ(kmalloc_check(), 0);	/* before anybody could take in what was deferred */
	kmalloc_drain();
	kmalloc_read_stats(&now);
	test_note("%s: nmis=%llu lock_held=%llu asked=%llu had=%llu asked_lock_held=%llu had_lock_held=%llu deferrals=%llu rounds=%llu",
		  how, (unsigned long long)nmis, (unsigned long long)sum.locked, (unsigned long long)sum.asked,
		  (unsigned long long)sum.had, (unsigned long long)sum.locked_asked, (unsigned long long)sum.locked_had,
		  (unsigned long long)(now.deferrals - before->deferrals), (unsigned long long)m.rounds);
	CHECK(nmis >= storm.wanted);
	CHECK(sum.had * 10 >= sum.asked * 9);
	CHECK(sum.locked_had * 10 >= sum.locked_asked * 9);
	CHECK_EQ(now.nolock_fails - before->nolock_fails, sum.asked - sum.had);
	CHECK_EQ(sum.had, sum.freed);
	CHECK_EQ(sum.torn, 0);
	CHECK_EQ(m.wrong, 0);
	CHECK_EQ(now.objects, before->objects);
	CHECK_EQ(now.slabs, before->slabs);
	CHECK_EQ(now.bad_frees, before->bad_frees);
}

/* A timer's NMIs, on this CPU alone. */
TEST_ID(nmi_objects, timer_storm_on_one_cpu, "PA2 PA4")
{
	struct kmalloc_stats before;
	const char *name;

	begin(1, &before);
	name = storm_by_timer(&storm);
	if (!name)
		SKIP("no timer that makes NMIs");
	check_storm(name, &before);
}

TEST_ID(nmi_objects, sent_to_who_holds_a_lock, "PA2 PA4")
{
	struct kmalloc_stats before;
	u32 ids[CREW_MAX];
	u64 locked = 0;

	begin(crew_cpus(ids), &before);
	if (!storm_aimed(&storm))
		SKIP("one CPU");
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		locked += m.of[cpu].locked;
	/* A batch holds its lock for some 300 instructions, and an NMI takes longer to arrive. */
	CHECK(locked * 50 >= storm_seen());
	check_storm("sent", &before);
}
