/* SPDX-License-Identifier: MIT */
/*
 * Private spaces and many CPUs: leaves of ring 3, whose A and D bits the CPUs set by themselves; who is asked
 * to flush, who is lazy, who comes late (SPEC PT4, TL1, TL2).
 */
#include <string.h>

#include "kernel/base/errno.h"
#include "mm/buddy.h"
#include "tests/fixture.h"
#include "tests/host/apart.h"
#include "tests/host/arch_host.h"
#include "tests/host/machine.h"
#include "tests/host/sim_tlb.h"
#include "tests/test.h"

#define BLOCK (2 * MIB)
#define VA 0x40000000ull
#define RW (PTE_P | PTE_U | PTE_W | PTE_NX)

static struct pt_space space;
static u64 gens[MAX_CPUS];
static struct page *block;	/* 2 MiB of frames to map */

static u64 frame_pa(unsigned i)
{
	return page_to_phys(block).raw + i * PAGE_SIZE;
}

/* ---- Who uses the space ---- */

static void enter(u32 cpu)
{
	u32 before = host_cpu_set(cpu);
	u64 irqs = arch_irq_save();

	tlb_space_enter(&space);
	if (host_root(cpu) != space.root.raw)
		arch_switch_root(space.root);
	arch_irq_restore(irqs);
	host_cpu_set(before);
}

static void leave(u32 cpu)
{
	u32 before = host_cpu_set(cpu);
	u64 irqs = arch_irq_save();

	if (host_root(cpu) == space.root.raw) {
		arch_switch_root(kernel_space.root);
		tlb_space_leave(&space);
	}
	arch_irq_restore(irqs);
	host_cpu_set(before);
}

static void go_lazy(u32 cpu)
{
	u32 before = host_cpu_set(cpu);
	u64 irqs = arch_irq_save();

	tlb_space_lazy(&space);
	arch_irq_restore(irqs);
	host_cpu_set(before);
}

/* A space that the last `users` CPUs of the machine use; CPU 0 changes it. */
static bool set_up(u32 users)
{
	block = alloc_pages(ORDER_2M, 0);
	if (!CHECK(block != NULL))
		return false;
	page_set_class(page_to_pfn(block), PT_ENTRIES, PAGE_USER);
	if (!CHECK_EQ(pt_space_init(&space, "user", PT_SPACE_USER, phys(0), gens), 0))
		return false;
	for (u32 i = 0; i < users; i++)
		enter(host.nr_cpus - 1 - i);
	return true;
}

static void tear_down(void)
{
	CHECK_EQ(sim_check(false), 0);
	CHECK_EQ(pt_check(&space), 0);
	host.meanwhile = NULL;
	for (u32 cpu = 0; cpu < host.nr_cpus; cpu++)
		leave(cpu);
	pt_space_destroy(&space);
	page_set_class(page_to_pfn(block), PT_ENTRIES, PAGE_KERNEL);
	free_pages(block, ORDER_2M);
}

static u32 user(void)
{
	return host.nr_cpus - 1;
}

static int change_in(struct tlb_batch *b, enum pt_op op, struct range va, u64 pa, u64 set, u64 clear)
{
	struct pt_change c = { .op = op, .va = va, .pa = phys(pa), .set = set, .clear = clear };

	return pt_change(&space, &c, b);
}

static void change(enum pt_op op, struct range va, u64 pa, u64 set, u64 clear)
{
	struct tlb_batch b;

	tlb_batch_init(&b, &space);
	CHECK_EQ(change_in(&b, op, va, pa, set, clear), 0);
	tlb_batch_finish(&b);
}

static struct pt_slot slot_at(u64 va)
{
	struct pt_slot s;

	spin_lock(&space.lock);
	s = pt_walk(&space, va, PT_4K);
	spin_unlock(&space.lock);
	return s;
}

static u64 ad_at(u64 va)
{
	struct pt_slot s = slot_at(va);

	return pte_attrs(s.value, s.level) & PTE_AD;
}

/* ---- What checks the stores ---- */

/* Free pages until the next one to be handed out is that one. */
static bool bring_up(struct page *wanted)
{
	struct page *held[256];
	unsigned nr = 0;
	bool found = false;

	while (!found && nr < ARRAY_SIZE(held) && (held[nr] = alloc_page(0)))
		found = held[nr++] == wanted;
	for (unsigned i = 0; i < nr; i++)
		if (held[i] != wanted)
			free_page(held[i]);
	if (found)
		free_page(wanted);
	return found;
}

/* A frame was a private table a moment ago, and is one of the kernel's now: the log of stores tells its two lives apart. */
TEST_ID(user, a_frame_is_a_table_twice, "PT3")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_OFF);
	struct fixture_area a;
	struct pt_slot s;
	struct page *table;

	if (fixture_area_get(&a, BLOCK, BLOCK) &&
	    CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, BLOCK), fixture_nowhere(), fixture_attrs(), 0), 0) && set_up(0)) {
		change(PT_OP_MAP, range_len(VA, BLOCK), frame_pa(0), RW, 0);
		change(PT_OP_PROTECT, range_len(VA, PAGE_SIZE), 0, 0, PTE_W);
		table = pfn_to_page(((u64)slot_at(VA).pte - HOST_ARENA) >> PAGE_SHIFT);
		tear_down();
		CHECK(bring_up(table));
		CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(a.va, PAGE_SIZE), 0, 0, PTE_W), 0);
		s = fixture_leaf(a.va);
		CHECK(pfn_to_page(((u64)s.pte - HOST_ARENA) >> PAGE_SHIFT) == table);
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

/* ---- Translations ---- */

TEST_ID(user, leaves_are_private, "PT4")
{
	struct sim_result r;

	if (set_up(1)) {
		change(PT_OP_MAP, range_len(VA, BLOCK), frame_pa(0), RW, 0);
		r = sim_access(user(), VA + 0x1234, SIM_READ | SIM_USER);
		CHECK_EQ(r.fault, SIM_OK);
		CHECK_EQ(r.pa, frame_pa(0) + 0x1234);
		CHECK_EQ(sim_access(user(), VA, SIM_EXEC | SIM_USER).fault, SIM_RIGHTS);
		/* The kernel half is the same in this root, and not the user's. */
		r = sim_access(user(), phys_to_va(phys(frame_pa(3))), SIM_WRITE);
		CHECK_EQ(r.fault, SIM_OK);
		CHECK_EQ(r.pa, frame_pa(3));
		CHECK_EQ(sim_access(user(), phys_to_va(phys(frame_pa(3))), SIM_READ | SIM_USER).fault,
			 SIM_RIGHTS);
		if (user())
			CHECK_EQ(sim_access(0, VA, SIM_READ | SIM_USER).fault, SIM_ABSENT);
	}
	tear_down();
}

/* A change of the kernel half reaches a CPU that runs on a private root. */
TEST_ID(user, kernel_changes_reach_private_roots, "TL1 TL5")
{
	struct fixture_area a;

	if (set_up(host.nr_cpus) && fixture_area_get(&a, BLOCK, BLOCK)) {
		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, a.size), fixture_nowhere(),
					fixture_attrs(), 0),
			 0);
		for (unsigned i = 0; i < 20; i++) {
			u64 va = a.va + (i * 97 & 511) * PAGE_SIZE;

			sim_prime(user(), range_len(a.va, BLOCK), PAGE_SIZE);
			CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(va, PAGE_SIZE), 0, i & 1 ? PTE_W : 0,
						i & 1 ? 0 : PTE_W), 0);
			CHECK_EQ(sim_probe(va), 0);
		}
		fixture_area_put(&a);
	}
	tear_down();
}

/* ---- A and D ---- */

TEST_ID(user, cpus_set_a_and_d, "PT4")
{
	bool speculation = host.speculation;

	host.speculation = false;
	if (set_up(1)) {
		pt_set_policy(&space, PT_COLLAPSE_OFF);
		change(PT_OP_MAP, range_len(VA + PAGE_SIZE, 4 * PAGE_SIZE), frame_pa(1), RW, 0);
		CHECK_EQ(ad_at(VA + PAGE_SIZE), 0);
		sim_access(user(), VA + PAGE_SIZE, SIM_READ | SIM_USER);
		CHECK_EQ(ad_at(VA + PAGE_SIZE), PTE_A);
		sim_access(user(), VA + PAGE_SIZE, SIM_WRITE | SIM_USER);
		CHECK_EQ(ad_at(VA + PAGE_SIZE), PTE_A | PTE_D);
		sim_access(user(), VA + 2 * PAGE_SIZE, SIM_WRITE | SIM_USER);
		CHECK_EQ(ad_at(VA + 2 * PAGE_SIZE), PTE_A | PTE_D);
		CHECK_EQ(ad_at(VA + 3 * PAGE_SIZE), 0);
	}
	tear_down();
	host.speculation = speculation;
}

TEST_ID(user, split_keeps_a_and_d, "PT3 PT4")
{
	bool speculation = host.speculation;

	host.speculation = false;
	for (unsigned i = 0; i < 3; i++) {
		static const u64 ad[] = { 0, PTE_A, PTE_A | PTE_D };
		unsigned wrong = 0;

		if (set_up(1)) {
			pt_set_policy(&space, PT_COLLAPSE_OFF);
			change(PT_OP_MAP, range_len(VA, BLOCK), frame_pa(0), RW | ad[i], 0);
			CHECK_EQ(slot_at(VA).level, PT_2M);
			change(PT_OP_PROTECT, range_len(VA + PAGE_SIZE, PAGE_SIZE), 0, 0, PTE_W);
			CHECK_EQ(slot_at(VA).level, PT_4K);
			for (u64 va = VA; va < VA + BLOCK; va += PAGE_SIZE)
				wrong += ad_at(va) != ad[i];
			CHECK_EQ(wrong, 0);
		}
		tear_down();
	}
	host.speculation = speculation;
}

/* The leaf has A if any page had it, and D likewise. */
TEST_ID(user, collapse_ors_a_and_d, "PT4")
{
	bool speculation = host.speculation;

	host.speculation = false;
	for (unsigned i = 0; i < 3; i++) {
		static const unsigned kind[] = { 0, SIM_READ, SIM_WRITE };
		static const u64 ad[] = { 0, PTE_A, PTE_A | PTE_D };

		if (set_up(1)) {
			pt_set_policy(&space, PT_COLLAPSE_OFF);
			change(PT_OP_MAP, range_len(VA, BLOCK - PAGE_SIZE), frame_pa(0), RW, 0);
			change(PT_OP_MAP, range_len(VA + BLOCK - PAGE_SIZE, PAGE_SIZE), frame_pa(511), RW, 0);
			CHECK_EQ(slot_at(VA).level, PT_4K);
			if (i)
				sim_access(user(), VA + 300 * PAGE_SIZE, kind[i] | SIM_USER);
			pt_set_policy(&space, PT_COLLAPSE_EAGER);
			pt_settle(&space);
			CHECK_EQ(slot_at(VA).level, PT_2M);
			CHECK_EQ(ad_at(VA), ad[i]);
			CHECK_EQ(space.stats[PT_OTHER].collapses[PT_2M], 1);
			CHECK_EQ(space.stats[PT_OTHER].leaves[PT_4K], 0);
		}
		tear_down();
	}
	host.speculation = speculation;
}

/* What other CPUs do meanwhile: write pages, and remember which writes went through. */
static struct {
	struct rng rng;
	bool written[PT_ENTRIES];
	u64 writes;
} mutator;

static void write_somewhere(void *arg)
{
	unsigned i = (unsigned)rng_below(&mutator.rng, PT_ENTRIES);
	u32 cpu = host.nr_cpus - 1 - (u32)rng_below(&mutator.rng, host.nr_cpus);

	(void)arg;
	if (rng_below(&mutator.rng, 4) || host_root(cpu) != space.root.raw)
		return;
	if (sim_access(cpu, VA + i * PAGE_SIZE, SIM_WRITE | SIM_USER).fault != SIM_OK)
		return;
	mutator.written[i] = true;
	mutator.writes++;
}

static void start_writing(struct rng rng)
{
	memset(&mutator, 0, sizeof(mutator));
	mutator.rng = rng;
	host.meanwhile = write_somewhere;
}

/* Pages that were written and are not dirty, with host.meanwhile off. */
static unsigned lost_dirt(void)
{
	unsigned lost = 0;

	host.meanwhile = NULL;
	for (unsigned i = 0; i < PT_ENTRIES; i++)
		lost += mutator.written[i] && !(ad_at(VA + i * PAGE_SIZE) & PTE_D);
	return lost;
}

TEST_ID(user, collapse_never_loses_a_d, "PT4")
{
	struct rng rng = test_rng();
	u64 writes = 0;

	if (set_up(host.nr_cpus)) {
		for (unsigned round = 0; round < 100; round++) {
			pt_set_policy(&space, PT_COLLAPSE_OFF);
			change(PT_OP_MAP, range_len(VA, BLOCK - PAGE_SIZE), frame_pa(0), RW, 0);
			change(PT_OP_MAP, range_len(VA + BLOCK - PAGE_SIZE, PAGE_SIZE), frame_pa(511), RW, 0);
			pt_set_policy(&space, PT_COLLAPSE_EAGER);
			start_writing((struct rng){ rng_next(&rng) });
			pt_settle(&space);
			writes += mutator.writes;
			CHECK_EQ(lost_dirt(), 0);
			CHECK_EQ(slot_at(VA).level, PT_2M);
			change(PT_OP_UNMAP, range_len(VA, BLOCK), 0, 0, 0);
		}
		CHECK(writes > 0);
	}
	tear_down();
}

TEST_ID(user, change_and_split_never_lose_a_d, "PT3 PT4")
{
	struct rng rng = test_rng();
	u64 writes = 0;

	if (set_up(host.nr_cpus)) {
		pt_set_policy(&space, PT_COLLAPSE_OFF);
		for (unsigned round = 0; round < 100; round++) {
			change(PT_OP_MAP, range_len(VA, BLOCK), frame_pa(0), RW, 0);
			start_writing((struct rng){ rng_next(&rng) });
			/* The split, then rights of single pages and of many. */
			change(PT_OP_PROTECT, range_len(VA + 5 * PAGE_SIZE, PAGE_SIZE), 0, 0, PTE_NX);
			change(PT_OP_PROTECT, range_len(VA + 50 * PAGE_SIZE, 400 * PAGE_SIZE), 0, 0, PTE_NX);
			change(PT_OP_PROTECT, range_len(VA, BLOCK), 0, PTE_NX, 0);
			writes += mutator.writes;
			CHECK_EQ(lost_dirt(), 0);
			change(PT_OP_UNMAP, range_len(VA, BLOCK), 0, 0, 0);
		}
		CHECK(writes > 0);
	}
	tear_down();
}

/* The same writers see a collapse that does not wait for them: the control. */
TEST_ID(user, control_a_plain_store_loses_a_d, "PT4")
{
	struct rng rng = test_rng();
	unsigned lost = 0;

	if (set_up(host.nr_cpus)) {
		pt_set_policy(&space, PT_COLLAPSE_OFF);
		/* Until one is: how soon a writer falls into the gap is chance. */
		for (unsigned round = 0; round < 10000 && !lost; round++) {
			change(PT_OP_MAP, range_len(VA, PAGE_SIZE), frame_pa(0), RW, 0);
			start_writing((struct rng){ rng_next(&rng) });
			for (unsigned i = 0; i < 100 && !mutator.written[0]; i++) {
				struct pt_slot s = slot_at(VA);

				arch_pte_store(s.pte, s.value, s.level);	/* read, then written back */
			}
			lost += lost_dirt();
			change(PT_OP_UNMAP, range_len(VA, PAGE_SIZE), 0, 0, 0);
			host_faults_clear();
		}
		CHECK(lost > 0);
	}
	tear_down();
}

/* ---- Who is asked ---- */

struct asked {
	u64 by_cpu[HOST_CPUS_MAX];
	struct tlb_stats stats;
};

static struct asked ask(void)
{
	struct asked a;

	memcpy(a.by_cpu, host.shootdowns, sizeof(a.by_cpu));
	tlb_read_stats(&a.stats);
	return a;
}

#define NEED_CPUS(n)                                                    \
	do {                                                            \
		if (host.nr_cpus < (n))                                 \
			SKIP("%u CPUs, not %u", host.nr_cpus, (n));     \
	} while (0)

/* N changes in a batch are one shootdown per other CPU that uses the space; those that never did get none. */
TEST_ID(user, one_shootdown_per_cpu_and_batch, "TL1 TL2")
{
	NEED_CPUS(4);
	if (set_up(2)) {
		struct tlb_batch b;
		struct asked before, after;

		pt_set_policy(&space, PT_COLLAPSE_OFF);
		change(PT_OP_MAP, range_len(VA, BLOCK), frame_pa(0), RW, 0);
		before = ask();
		tlb_batch_init(&b, &space);
		for (unsigned i = 0; i < 20; i++)
			CHECK_EQ(change_in(&b, PT_OP_PROTECT, range_len(VA + 3 * i * PAGE_SIZE, PAGE_SIZE), 0,
					   0, PTE_W),
				 0);
		tlb_batch_finish(&b);
		after = ask();
		for (u32 cpu = 0; cpu < host.nr_cpus; cpu++)
			CHECK_EQ(after.by_cpu[cpu] - before.by_cpu[cpu], cpu + 2 >= host.nr_cpus);
		CHECK_EQ(after.stats.nr_tlb_remote_flush - before.stats.nr_tlb_remote_flush, 2);
		CHECK_EQ(after.stats.nr_tlb_remote_flush_received - before.stats.nr_tlb_remote_flush_received,
			 2);
	}
	tear_down();
}

/*
 * One more if something was collapsed (a user's leaf takes another: cleared, flushed, then the table's own).
 */
TEST_ID(user, collapse_costs_one_more, "TL1 PT4")
{
	struct fixture_area a;
	struct asked before, after;
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);

	NEED_CPUS(2);
	if (fixture_area_get(&a, BLOCK, BLOCK)) {
		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, a.size), fixture_nowhere(),
					fixture_attrs(), 0),
			 0);
		before = ask();
		CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(a.va, PAGE_SIZE), 0, 0, PTE_W), 0);
		after = ask();
		CHECK_EQ(after.stats.nr_tlb_remote_flush - before.stats.nr_tlb_remote_flush, host.nr_cpus - 1);
		CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(a.va, PAGE_SIZE), 0, PTE_W, 0), 0);
		before = ask();
		CHECK_EQ(before.stats.nr_tlb_remote_flush - after.stats.nr_tlb_remote_flush,
			 2 * (host.nr_cpus - 1));
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

/*
 * A lazy CPU is left alone; when it comes back one full flush brings it up to date, however much it missed.
 */
TEST_ID(user, lazy_cpus_catch_up_in_one_flush, "TL1 TL2")
{
	NEED_CPUS(2);
	if (set_up(1)) {
		struct asked before, after;

		pt_set_policy(&space, PT_COLLAPSE_OFF);
		change(PT_OP_MAP, range_len(VA, BLOCK), frame_pa(0), RW, 0);
		change(PT_OP_PROTECT, range_len(VA, PAGE_SIZE), 0, 0, PTE_W);
		sim_prime(user(), range_len(VA, BLOCK), PAGE_SIZE);
		go_lazy(user());
		before = ask();
		for (unsigned i = 1; i < 30; i++)
			change(PT_OP_PROTECT, range_len(VA + i * PAGE_SIZE, PAGE_SIZE), 0, 0, PTE_W);
		after = ask();
		CHECK_EQ(after.by_cpu[user()], before.by_cpu[user()]);
		CHECK(!tlb_flushed(&space, space.gen));
		CHECK(sim_stale_in(range_len(VA, BLOCK)) == 0);		/* lazy: not looked at */
		before = ask();
		enter(user());
		after = ask();
		CHECK_EQ(after.stats.nr_tlb_local_flush_all - before.stats.nr_tlb_local_flush_all, 1);
		CHECK(tlb_flushed(&space, space.gen));
		CHECK_EQ(sim_check(false), 0);
		for (unsigned i = 0; i < 30; i++)
			CHECK_EQ(sim_access(user(), VA + i * PAGE_SIZE, SIM_WRITE | SIM_USER).fault,
				 SIM_RIGHTS);
		before = ask();
		enter(user());		/* nothing was missed */
		after = ask();
		CHECK_EQ(after.stats.nr_tlb_local_flush_all, before.stats.nr_tlb_local_flush_all);
	}
	tear_down();
}

/* Freed tables are another matter: a lazy CPU may still walk through them. */
TEST_ID(user, lazy_cpus_are_asked_when_tables_go, "PT4 TL1")
{
	NEED_CPUS(2);
	if (set_up(1)) {
		struct asked before, after;

		change(PT_OP_MAP, range_len(VA + PAGE_SIZE, 8 * PAGE_SIZE), frame_pa(1), RW, 0);
		sim_prime(user(), range_len(VA, BLOCK), PAGE_SIZE);
		go_lazy(user());
		before = ask();
		change(PT_OP_UNMAP, range_len(VA, BLOCK), 0, 0, 0);
		after = ask();
		CHECK(after.by_cpu[user()] > before.by_cpu[user()]);
		CHECK_EQ(host_faults(), 0);
		enter(user());
	}
	tear_down();
}

/* A CPU that left and comes back has nothing left of it to flush, and sees what is there now. */
TEST_ID(user, late_cpus_see_the_present, "TL1")
{
	NEED_CPUS(2);
	if (set_up(1)) {
		struct asked before, after;

		change(PT_OP_MAP, range_len(VA, BLOCK), frame_pa(0), RW, 0);
		sim_prime(user(), range_len(VA, BLOCK), PAGE_SIZE);
		leave(user());
		before = ask();
		change(PT_OP_PROTECT, range_len(VA, BLOCK), 0, 0, PTE_W);
		after = ask();
		CHECK_EQ(after.by_cpu[user()], before.by_cpu[user()]);
		CHECK(tlb_flushed(&space, space.gen));
		enter(user());
		CHECK_EQ(sim_access(user(), VA, SIM_WRITE | SIM_USER).fault, SIM_RIGHTS);
		CHECK_EQ(sim_check(false), 0);
	}
	tear_down();
}

/* A CPU that comes in while a batch is open sees the stores, and is brought up to date like the others. */
TEST_ID(user, cpus_that_come_in_between, "TL1")
{
	NEED_CPUS(2);
	if (set_up(1)) {
		struct tlb_batch b;

		change(PT_OP_MAP, range_len(VA, BLOCK), frame_pa(0), RW, 0);
		sim_prime(user(), range_len(VA, BLOCK), PAGE_SIZE);
		tlb_batch_init(&b, &space);
		CHECK_EQ(change_in(&b, PT_OP_PROTECT, range_len(VA, BLOCK), 0, 0, PTE_W), 0);
		enter(0);
		CHECK_EQ(sim_access(0, VA, SIM_WRITE | SIM_USER).fault, SIM_RIGHTS);
		tlb_batch_finish(&b);
		CHECK_EQ(sim_check(false), 0);
	}
	tear_down();
}

/* ---- Random changes while all CPUs use the space ---- */

struct user_page {
	bool present, w, written;
};

static struct user_page pages[PT_ENTRIES];

static void note_writes(void)
{
	for (unsigned i = 0; i < PT_ENTRIES; i++)
		pages[i].written |= pages[i].present && mutator.written[i];
	memset(mutator.written, 0, sizeof(mutator.written));
}

static unsigned differ(void)
{
	unsigned wrong = 0;

	for (unsigned i = 0; i < PT_ENTRIES; i++) {
		u64 va = VA + i * PAGE_SIZE;
		struct pt_slot s = slot_at(va);
		const struct user_page *p = &pages[i];
		u64 attrs = pte_attrs(s.value, s.level);

		if (!p->present) {
			wrong += !pte_none(s.value);
			continue;
		}
		wrong += !pte_is_leaf(s.value, s.level) || !(attrs & PTE_W) != !p->w ||
			 (p->written && !(attrs & PTE_D)) ||
			 pte_leaf_pa(s.value, s.level).raw + (va & (pt_span(s.level) - 1)) != frame_pa(i);
	}
	return wrong;
}

/*
 * One change. What was unmapped in a batch is not mapped again in the same one: until the flush a CPU may
 * write by the old translation, and nobody could say which of the two the write belongs to.
 */
static void random_change(struct rng *rng, struct tlb_batch *b, bool *unmapped)
{
	unsigned first = (unsigned)rng_below(rng, PT_ENTRIES);
	unsigned n = 1 + (unsigned)rng_below(rng, rng_below(rng, 3) ? 4 : PT_ENTRIES);
	unsigned what = (unsigned)rng_below(rng, 8);
	struct range va;

	n = MIN(n, PT_ENTRIES - first);
	if (!rng_below(rng, 3)) {
		first = 0;
		n = PT_ENTRIES;
	}
	va = range_len(VA + first * PAGE_SIZE, n * PAGE_SIZE);
	if (what < 1) {
		CHECK_EQ(change_in(b, PT_OP_UNMAP, va, 0, 0, 0), 0);
		*unmapped = true;
		for (unsigned i = first; i < first + n; i++)
			pages[i] = (struct user_page){ 0 };
		return;
	}
	if (what < 5) {
		bool w = rng_below(rng, 2);

		CHECK_EQ(change_in(b, PT_OP_PROTECT, va, 0, w ? PTE_W : 0, w ? 0 : PTE_W), 0);
		for (unsigned i = first; i < first + n; i++)
			pages[i].w = w;
		return;
	}
	for (unsigned i = first; !*unmapped && i < first + n; i++) {
		unsigned end = i;

		while (end < first + n && !pages[end].present)
			pages[end++] = (struct user_page){ true, true, false };
		if (end > i)
			CHECK_EQ(change_in(b, PT_OP_MAP, range(VA + i * PAGE_SIZE, VA + end * PAGE_SIZE),
					   frame_pa(i), RW, 0),
				 0);
		i = end;
	}
}

/* CPUs come and go, and are lazy for a while. */
static void random_users(struct rng *rng)
{
	u32 cpu = (u32)rng_below(rng, host.nr_cpus);

	switch (rng_below(rng, 6)) {
	case 0:
		leave(cpu);
		break;
	case 1:
		if (host_root(cpu) == space.root.raw && cpu)
			go_lazy(cpu);
		break;
	case 2:
		enter(cpu);
		break;
	default:
		break;
	}
}

/* A CPU that is about to enter, no longer lazy and not yet up to date, is in the kernel with its interrupts off: it writes nothing. */
static void write_if_not_lazy(void *arg)
{
	u32 cpu = (u32)rng_below(&mutator.rng, host.nr_cpus);
	unsigned i = (unsigned)rng_below(&mutator.rng, PT_ENTRIES);

	(void)arg;
	if (rng_below(&mutator.rng, 4) || host_root(cpu) != space.root.raw || cpumask_has(&space.lazy, cpu))
		return;
	if (cpu == host_cpu() && !arch_irqs_enabled())
		return;
	if (sim_access(cpu, VA + i * PAGE_SIZE, SIM_WRITE | SIM_USER).fault == SIM_OK) {
		mutator.written[i] = true;
		mutator.writes++;
	}
}

TEST_ID(user, random_changes_under_writers, "PT3 PT4 TL1 TL5")
{
	struct rng rng = test_rng();
	unsigned rounds = machine_full ? 20000 : 500;

	memset(pages, 0, sizeof(pages));
	if (set_up(host.nr_cpus)) {
		start_writing((struct rng){ rng_next(&rng) });
		for (unsigned round = 0; round < rounds; round++) {
			struct tlb_batch b;
			unsigned n = 1 + (unsigned)rng_below(&rng, 3);
			bool unmapped = false;

			host.meanwhile = write_if_not_lazy;
			random_users(&rng);
			host_cpu_set((u32)rng_below(&rng, host.nr_cpus));
			if (!rng_below(&rng, 10))
				pt_set_policy(&space, (enum pt_collapse_policy)rng_below(&rng, 3));
			tlb_batch_init(&b, &space);
			while (n--)
				random_change(&rng, &b, &unmapped);
			tlb_batch_finish(&b);
			host.meanwhile = NULL;
			note_writes();
			if (!CHECK_EQ(differ() + sim_check(true) + pt_check(&space), 0)) {
				test_note("seed=%llu round=%u", (unsigned long long)test_seed, round);
				break;
			}
		}
		host_cpu_set(0);
		CHECK(mutator.writes > 0);
		test_note("writes=%llu splits=%llu collapses=%llu", (unsigned long long)mutator.writes,
			  (unsigned long long)space.stats[PT_OTHER].splits[PT_2M],
			  (unsigned long long)space.stats[PT_OTHER].collapses[PT_2M]);
	}
	tear_down();
}

/* ---- A CPU that does not answer ---- */

struct outcome {
	bool finished, online, quarantined;
	u64 frames_quarantined, freed;
};

static int change_with_a_deaf_cpu(void *arg)
{
	struct outcome *out = arg;
	struct page *page = alloc_page(0);
	struct tlb_stats stats;
	struct tlb_batch b;
	struct fixture_area a;
	u64 free;

	if (!page || !fixture_area_get(&a, PAGE_SIZE, PAGE_SIZE))
		return 1;
	if (fixture_change(PT_OP_MAP, range_len(a.va, PAGE_SIZE), page_to_phys(page).raw,
			   fixture_attrs() & ~PTE_W, 0))
		return 1;
	cpumask_set(&host.deaf, host.nr_cpus - 1);
	free = buddy_free_frames();
	tlb_batch_init(&b, &kernel_space);
	if (fixture_change(PT_OP_PROTECT, range_len(arch_mm.direct_base, PAGE_SIZE), 0, 0, 0) == -EINVAL)
		return 1;
	spin_lock(&kernel_space.lock);
	tlb_batch_free(&b, page, 0);
	spin_unlock(&kernel_space.lock);
	if (pt_change(&kernel_space,
		      &(struct pt_change){ .op = PT_OP_UNMAP, .va = range_len(a.va, PAGE_SIZE) }, &b))
		return 1;
	tlb_batch_finish(&b);
	tlb_read_stats(&stats);
	out->online = cpumask_has(&host.online, host.nr_cpus - 1);
	out->quarantined = page->flags & PAGE_QUARANTINE;
	out->frames_quarantined = stats.frames_quarantined;
	out->freed = buddy_free_frames() - free;
	out->finished = true;
	return 0;
}

/* In a process of its own: the machine is not the same afterwards. */
TEST_ID(user, a_dead_cpu_costs_its_frames, "TL1")
{
	struct apart apart = { 0 };
	struct outcome *out;

	NEED_CPUS(2);
	out = apart_shared(sizeof(*out));
	REQUIRE(out);
	apart_run(&apart, change_with_a_deaf_cpu, out);
	if (!CHECK(out->finished))
		apart_show(&apart);
	CHECK(!out->online);
	CHECK(out->quarantined);
	CHECK(out->frames_quarantined > 0);
	CHECK_EQ(out->freed, 0);
	apart_unshare(out, sizeof(*out));
}

/* What a CPU had begun when it was given up: a table that is neither there nor gone. */
static int change_what_is_never_finished(void *arg)
{
	struct tlb_batch b;
	struct pt_slot s;
	int rc;

	(void)arg;
	if (!set_up(host.nr_cpus))
		return 1;
	change(PT_OP_MAP, range_len(VA, PAGE_SIZE), frame_pa(0), RW, 0);
	spin_lock(&space.lock);
	s = pt_walk(&space, VA, PT_2M);
	*(volatile u64 *)s.pte = s.value.raw & ~(u64)PTE_P;
	spin_unlock(&space.lock);
	cpumask_clear(&host.online, user());
	tlb_batch_init(&b, &space);
	rc = change_in(&b, PT_OP_PROTECT, range_len(VA, PAGE_SIZE), 0, 0, PTE_W);
	return rc == -EIO ? 0 : 2;
}

TEST_ID(user, what_a_dead_cpu_had_begun_is_an_error, "PT4 TL1")
{
	struct apart apart = { .aloud = true };

	NEED_CPUS(2);
	REQUIRE(apart_run(&apart, change_what_is_never_finished, NULL));
	if (!CHECK(apart_came_back(&apart)))
		apart_show(&apart);
}
