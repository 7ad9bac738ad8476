/* SPDX-License-Identifier: MIT */
/*
 * Accounts, objects and call stacks on many CPUs at once, each a thread (tests/host/test_threads.c says how): sums are exact at the end,
 * what goes from CPU to CPU is whole, a stack is kept once whoever puts it in. With ThreadSanitizer, too.
 */
#include "kernel/base/atomic.h"
#include "kernel/base/bits.h"
#include "mm/account.h"
#include "mm/depot.h"
#include "mm/kmalloc.h"
#include "mm/slab.h"
#include "tests/host/arch_host.h"
#include "tests/host/machine.h"
#include "tests/test.h"

#define SLOTS 64u
#define STACKS 400u
#define LIMIT 300u

static struct {
	u64 seed;
	unsigned rounds;
	struct account top, below[2];
	u64 held[2];			/* frames charged, by account */
	u64 refused, exceeded, wrong, lost;
	u64 *slots[SLOTS];		/* objects on their way to another CPU */
	struct depot depot;
	u32 numbers[HOST_CPUS_MAX][STACKS];
} s;

static struct rng my_rng(void)
{
	return (struct rng){ s.seed ^ (host_cpu() + 1) * 0x9e3779b97f4a7c15ull };
}

static void run(void (*fn)(void *arg), unsigned sample, unsigned full)
{
	s.seed = test_rng().state;
	s.rounds = (machine_full ? full : sample) / (HOST_TSAN ? 4 : 1);
	s.wrong = 0;
	host_threads_run(fn, NULL, s.seed);
	CHECK_EQ(s.wrong, 0);
}

/* ---- Accounts ---- */

static void charge(void *arg)
{
	struct rng rng = my_rng();
	u32 held[24] = { 0 };

	(void)arg;
	for (unsigned i = 0; i < s.rounds; i++) {
		unsigned k = (unsigned)rng_below(&rng, ARRAY_SIZE(held)), which = k % 2;
		u32 frames = 1 + (u32)rng_below(&rng, rng_below(&rng, 4) ? 3 : 40);

		if (held[k]) {
			account_uncharge(&s.below[which], held[k]);
			fetch_add(&s.held[which], -(u64)held[k]);
			held[k] = 0;
		} else if (!account_charge(&s.below[which], frames)) {
			held[k] = frames;
			fetch_add(&s.held[which], frames);
		} else {
			fetch_add(&s.refused, 1);
		}
		if (load_relaxed(&s.top.usage) > LIMIT)
			fetch_add(&s.exceeded, 1);
	}
}

TEST_ID(threads, charges_add_up, "PA5")
{
	CHECK_EQ(account_open(&s.top, "top", NULL, LIMIT), 0);
	CHECK_EQ(account_open(&s.below[0], "a", &s.top, LIMIT / 2), 0);
	CHECK_EQ(account_open(&s.below[1], "b", &s.top, ACCOUNT_NO_LIMIT), 0);
	s.held[0] = s.held[1] = s.refused = s.exceeded = 0;
	run(charge, 20000, 400000);
	CHECK_EQ(account_charged(&s.below[0]), s.held[0]);
	CHECK_EQ(account_charged(&s.below[1]), s.held[1]);
	account_drain();
	CHECK_EQ(s.top.usage, s.held[0] + s.held[1]);
	CHECK_EQ(s.top.refused + s.below[0].refused + s.below[1].refused, s.refused);
	CHECK_EQ(s.exceeded, 0);
	test_note("refused=%llu", (unsigned long long)s.refused);
	for (unsigned i = 0; i < 2; i++) {
		account_uncharge(&s.below[i], s.held[i]);
		CHECK_EQ(account_close(&s.below[i]), 0);
	}
	CHECK_EQ(account_close(&s.top), 0);
}

/* ---- Objects ---- */

/* The first word says how long it is; the last is its complement. */
static u64 *object_new(struct rng *rng)
{
	size_t words = 2 + rng_below(rng, BIT(1 + rng_below(rng, 9)));
	u64 *p = rng_below(rng, 3) ? kmalloc(words * sizeof(u64), 0) : kmalloc_nolock(words * sizeof(u64), 0);

	if (!p)
		return NULL;
	p[0] = words;
	p[words - 1] = ~words;
	return p;
}

static void object_end(u64 *p, struct rng *rng)
{
	if (p[p[0] - 1] != ~p[0])
		fetch_add(&s.wrong, 1);
	if (rng_below(rng, 3))
		kfree(p);
	else
		kfree_nolock(p);
}

static void pass_objects(void *arg)
{
	struct rng rng = my_rng();

	(void)arg;
	for (unsigned i = 0; i < s.rounds; i++) {
		u64 *old, *p = rng_below(&rng, 4) ? object_new(&rng) : NULL;

		old = __atomic_exchange_n(&s.slots[rng_below(&rng, SLOTS)], p, __ATOMIC_ACQ_REL);
		if (old)
			object_end(old, &rng);
	}
}

TEST_ID(threads, objects_go_from_cpu_to_cpu, "PA4")
{
	struct rng rng = test_rng();
	struct kmalloc_stats before, after;

	kmalloc_drain();
	kmalloc_read_stats(&before);
	run(pass_objects, 20000, 400000);
	for (unsigned i = 0; i < SLOTS; i++) {
		if (s.slots[i])
			object_end(s.slots[i], &rng);
		s.slots[i] = NULL;
	}
	CHECK_EQ(s.wrong, 0);
	CHECK_EQ(kmalloc_check(), 0);
	kmalloc_drain();
	kmalloc_read_stats(&after);
	CHECK_EQ(after.objects, before.objects);
	CHECK_EQ(after.slabs, before.slabs);
	CHECK_EQ(after.bad_frees, before.bad_frees);
}

/* ---- One object, freed by all ---- */

#define TWICE 40u

static struct slab_cache twice = { .name = "twice", .size = 32, .partial = UINT32_MAX };
static void *objects[TWICE];

static void free_them_all(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < TWICE; i++)
		if (i % 2)
			slab_free(&twice, objects[i]);
		else
			slab_free_nolock(&twice, objects[i]);
}

TEST_ID(threads, one_of_all_frees_counts, "PA4 PA7")
{
	u64 bad = slab_bad_frees;
	void *keep = slab_alloc(&twice);	/* so that a slab that is empty is not somebody else's meanwhile */

	REQUIRE(keep != NULL);
	for (unsigned i = 0; i < TWICE; i++) {
		objects[i] = slab_alloc(&twice);
		REQUIRE(objects[i]);
	}
	run(free_them_all, 1, 1);
	CHECK_EQ(slab_bad_frees - bad, (host.nr_cpus - 1) * TWICE);
	CHECK_EQ(twice.objects, 1);
	CHECK_EQ(slab_check(&twice), 0);
	slab_free(&twice, keep);
	CHECK_EQ(twice.slabs, 0);
}

/* ---- Stacks ---- */

static void put_stacks(void *arg)
{
	u32 cpu = host_cpu();
	struct rng rng = my_rng();

	(void)arg;
	for (unsigned i = 0; i < s.rounds; i++) {
		u64 n = rng_below(&rng, STACKS);
		const u64 stack[] = { n, n / 7, n * n };
		u32 number = depot_put(&s.depot, stack, 1 + n % 3);

		/* Another CPU may hold the allocator's lock when a pool is wanted: then the stack is not taken in, and counted. */
		if (!number) {
			fetch_add(&s.lost, 1);
			continue;
		}
		if (s.numbers[cpu][n] && s.numbers[cpu][n] != number)
			fetch_add(&s.wrong, 1);
		s.numbers[cpu][n] = number;
	}
}

TEST_ID(threads, each_stack_once, "PA6")
{
	u64 differ = 0;

	for (u32 cpu = 0; cpu < HOST_CPUS_MAX; cpu++)
		for (u32 n = 0; n < STACKS; n++)
			s.numbers[cpu][n] = 0;
	s.lost = 0;
	run(put_stacks, 4000, 100000);
	CHECK_EQ(s.lost, s.depot.lost);
	for (u32 cpu = 1; cpu < host.nr_cpus; cpu++)
		for (u32 n = 0; n < STACKS; n++)
			differ += s.numbers[cpu][n] && s.numbers[0][n] && s.numbers[cpu][n] != s.numbers[0][n];
	CHECK_EQ(differ, 0);
	CHECK(s.depot.stacks <= STACKS && s.depot.stacks > STACKS / 2);
	test_note("stacks=%llu put_in_vain=%llu", (unsigned long long)s.depot.stacks, (unsigned long long)s.depot.spoilt);
	depot_reset(&s.depot);
}
