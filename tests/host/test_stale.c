/* SPDX-License-Identifier: MIT */
/*
 * The stale-entry oracle (SPEC TL5), exact: prime every CPU, change, flush, access from every CPU, for each
 * size of leaf and each kind of change. What an access gives afterwards is compared with a walk of the tables
 * as they are.
 *
 * Each row has a control: the same by a store without the flush must be seen to be stale, on every CPU.
 */
#include "kernel/base/fmt.h"
#include "mm/pgtable.h"
#include "tests/fixture.h"
#include "tests/host/arch_host.h"
#include "tests/host/sim_tlb.h"
#include "tests/test.h"

enum change {
	TO_RO,
	TO_NX,
	TO_ABSENT,
	TO_OTHER_FRAME,
	CHANGES,
};

static const char *const change_names[CHANGES] = { "ro", "nx", "absent", "other_frame" };
static const char *const level_names[] = { "", "4k", "2m", "1g" };

static unsigned count_rows(void)
{
	return CHANGES * (arch_mm.max_leaf - PT_4K + 1);
}

static void name_row(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "%s.%s", level_names[row / CHANGES + PT_4K], change_names[row % CHANGES]);
}

/* Mapped writable, for nx executable: entries are made by hand, as no one would be allowed this. */
static u64 first_attrs(enum change change)
{
	u64 attrs = fixture_attrs();

	return change == TO_NX ? attrs & ~(PTE_NX | PTE_W) : attrs;
}

static void make_change(struct range va, enum change change)
{
	switch (change) {
	case TO_RO:
		CHECK_EQ(fixture_change(PT_OP_PROTECT, va, 0, 0, PTE_W), 0);
		break;
	case TO_NX:
		CHECK_EQ(fixture_change(PT_OP_PROTECT, va, 0, PTE_NX, 0), 0);
		break;
	case TO_ABSENT:
		CHECK_EQ(fixture_change(PT_OP_UNMAP, va, 0, 0, 0), 0);
		break;
	default:
		CHECK_EQ(fixture_change(PT_OP_UNMAP, va, 0, 0, 0), 0);
		CHECK_EQ(fixture_change(PT_OP_MAP, va, fixture_nowhere() + GIB, fixture_attrs(), 0), 0);
		break;
	}
}

/* Addresses of a leaf that are looked at: its ends and some between. */
#define PROBES 5u
static u64 probe(struct range va, unsigned i)
{
	return va.start +
	       align_down(range_size(va) / (PROBES - 1) * i - (i == PROBES - 1 ? PAGE_SIZE : 0), PAGE_SIZE) +
	       (range_size(va) > PAGE_SIZE ? 8 * i : 0);
}

static void prime(struct range va)
{
	for (u32 cpu = 0; cpu < host.nr_cpus; cpu++)
		for (unsigned i = 0; i < PROBES; i++)
			CHECK_EQ(sim_access(cpu, probe(va, i), SIM_READ).fault, SIM_OK);
}

static void check_result(struct range va, enum change change)
{
	for (u32 cpu = 0; cpu < host.nr_cpus; cpu++) {
		u64 at = probe(va, cpu % PROBES);
		struct sim_result r = sim_access(cpu, at, SIM_READ);

		CHECK_EQ(r.fault, change == TO_ABSENT ? SIM_ABSENT : SIM_OK);
		if (change == TO_OTHER_FRAME)
			CHECK_EQ(r.pa, fixture_nowhere() + GIB + (at - va.start));
		if (change == TO_RO)
			CHECK_EQ(sim_access(cpu, at, SIM_WRITE).fault, SIM_RIGHTS);
		if (change == TO_NX)
			CHECK_EQ(sim_access(cpu, at, SIM_EXEC).fault, SIM_RIGHTS);
	}
	for (unsigned i = 0; i < PROBES; i++)
		CHECK_EQ(sim_probe(probe(va, i)), 0);
}

TEST_ROWS(stale, after_change, "TL1 TL5", 0, count_rows, name_row)
{
	unsigned level = test_row() / CHANGES + PT_4K;
	enum change change = test_row() % CHANGES;
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_OFF);
	struct fixture_area a;

	if (fixture_area_get(&a, pt_span(level), pt_span(level))) {
		struct range va = range_len(a.va, a.size);

		CHECK_EQ(fixture_change(PT_OP_MAP, va, fixture_nowhere(), first_attrs(change), 0), 0);
		CHECK_EQ(fixture_leaf(a.va).level, level);
		prime(va);
		make_change(va, change);
		check_result(va, change);
		CHECK_EQ(sim_check(false), 0);
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

/* The store alone. */
static void store_only(u64 va, enum change change)
{
	struct pt_slot s = fixture_leaf(va);
	pte_t e = s.value;

	if (change == TO_RO)
		e.raw &= ~PTE_W;
	else if (change == TO_NX)
		e.raw |= PTE_NX;
	else if (change == TO_ABSENT)
		e.raw = 0;
	else
		e.raw += GIB;
	arch_pte_store(s.pte, e, s.level);
}

TEST_ROWS(stale_control, without_a_flush, "TL5", 0, count_rows, name_row)
{
	unsigned level = test_row() / CHANGES + PT_4K;
	enum change change = test_row() % CHANGES;
	struct fixture_area a;

	if (fixture_area_get(&a, pt_span(level), pt_span(level))) {
		struct range va = range_len(a.va, a.size);
		pte_t was;

		CHECK_EQ(fixture_change(PT_OP_MAP, va, fixture_nowhere(), first_attrs(change), 0), 0);
		prime(va);
		was = fixture_leaf(a.va).value;
		host.quiet = true;
		store_only(a.va, change);
		CHECK(sim_check(false) >= host.nr_cpus);
		CHECK(sim_stale_in(va) >= host.nr_cpus);
		arch_pte_store(fixture_leaf(a.va).pte, was, level);
		for (u32 cpu = 0; cpu < host.nr_cpus; cpu++)
			sim_flush_all(cpu);	/* whatever was filled meanwhile */
		CHECK(host_faults_clear() > 0);
		host.quiet = false;
	}
	fixture_area_put(&a);
}

/*
 * One page of a large leaf changes: the large translation must go, and with it what it said about the page.
 */
TEST_ID(stale, one_page_of_a_large_leaf, "TL5 PT3")
{
	for (unsigned level = PT_2M; level <= arch_mm.max_leaf; level++) {
		struct fixture_area a;

		if (!fixture_area_get(&a, pt_span(level), pt_span(level)))
			return;
		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, a.size), fixture_nowhere(),
					fixture_attrs(), 0),
			 0);
		for (unsigned i = 0; i < 64; i++) {
			u64 va = a.va + (u64)i * 7919 % (a.size / PAGE_SIZE) * PAGE_SIZE;
			bool seal = i % 2;

			for (u32 cpu = 0; cpu < host.nr_cpus; cpu++)
				sim_access(cpu, va ^ PAGE_SIZE, SIM_READ);
			CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(va, PAGE_SIZE), 0, seal ? 0 : PTE_W,
						seal ? PTE_W : 0), 0);
			CHECK_EQ(sim_probe(va), 0);
			CHECK_EQ(sim_probe(va ^ PAGE_SIZE), 0);
		}
		CHECK_EQ(sim_check(false), 0);
		fixture_area_put(&a);
	}
}

/* The simulation itself: INVLPG forgets one address in every size, and the table entries of this root. */
TEST_ID(stale, invlpg_as_the_manual_says, "TL5")
{
	bool speculation = host.speculation;
	struct fixture_area a;

	if (fixture_area_get(&a, 4 * MIB, 2 * MIB)) {
		u64 held;

		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, a.size), fixture_nowhere(),
					fixture_attrs(), 0),
			 0);
		host.speculation = false;
		sim_flush_all(0);
		sim_access(0, a.va, SIM_READ);
		sim_access(0, a.va + 2 * MIB, SIM_READ);
		held = sim_entries(0);
		CHECK_EQ(held, 2);
		sim_flush_page(0, a.va + MIB);
		CHECK_EQ(sim_entries(0), 1);
		sim_flush_page(0, a.va);
		CHECK_EQ(sim_entries(0), 1);
		sim_flush_page(0, a.va + 3 * MIB);
		CHECK_EQ(sim_entries(0), 0);
		host.speculation = speculation;
	}
	fixture_area_put(&a);
}

/* CPUs fill translations that nobody asked for: without it, many a missing flush would go unseen. */
TEST_ID(stale, cpus_speculate, "TL5")
{
	struct fixture_area a;
	u64 held = 0;

	if (fixture_area_get(&a, 2 * MIB, 2 * MIB)) {
		for (u32 cpu = 0; cpu < host.nr_cpus; cpu++)
			sim_flush_all(cpu);
		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, a.size), fixture_nowhere(),
					fixture_attrs(), 0),
			 0);
		for (unsigned i = 0; i < 1000; i++)
			host_tick(a.va);
		for (u32 cpu = 0; cpu < host.nr_cpus; cpu++)
			held += sim_entries(cpu) > 0;
		CHECK_EQ(held, host.nr_cpus);
		CHECK(sim_holds(range_len(a.va, a.size)));
	}
	fixture_area_put(&a);
}
