/* SPDX-License-Identifier: MIT */
/*
 * What any CPU may see of a page at any time (SPEC TL5), exactly: as long as a change is not flushed, what the page was before
 * or what it is now; from then on what it is, and nothing else.
 *
 * Each virtual CPU has a batch of its own that stays open for a while, so the changes of many are in flight together, over one
 * another and over splits and collapses of the leaves that they stand in. CPUs fill translations and table entries by
 * themselves at random. Every access is compared with the states that the page may be seen in.
 */
#include "mm/pgtable.h"
#include "tests/fixture.h"
#include "tests/host/arch_host.h"
#include "tests/host/machine.h"
#include "tests/host/sim_tlb.h"
#include "tests/test.h"

#define STEPS 20000u
#define STEPS_FULL 1000000u	/* on each of four machines */
#define PAGES (2 * PT_ENTRIES)
#define LIVELY 12u		/* pages that change one by one; the rest keeps tables uniform but for them */

/* A state of a page: what it maps, and the rights. 0: absent. */
#define STATE_PRESENT 1u
#define STATE_W 2u
#define STATE_X 4u
#define STATE_OTHER 8u		/* the other one of its two frames */

static struct {
	struct fixture_area area;
	struct tlb_batch batch[HOST_CPUS_MAX];
	u8 now[PAGES];
	u16 visible[PAGES];	/* states that a CPU may still see, one bit each */
	u16 pending[PAGES];	/* CPUs whose batches have a change of it */
	struct rng rng;
	u64 seen_old;		/* accesses that saw what was no more */
	u64 wrong;
} o;

static u64 va_of(unsigned page)
{
	return o.area.va + page * PAGE_SIZE;
}

static u64 frame_of(unsigned page, unsigned state)
{
	return fixture_nowhere() + (state & STATE_OTHER ? GIB : 0) + page * PAGE_SIZE;
}

static u64 attrs_of(unsigned state)
{
	u64 attrs = PTE_P | PTE_A | PTE_D | PTE_G | (state & STATE_W ? PTE_W : 0) | (state & STATE_X ? 0 : PTE_NX);

	return attrs & arch_mm.pte_mask;
}

/* Whether an access would have gone like this in this state. */
static bool explains(unsigned page, unsigned state, unsigned kind, struct sim_result r)
{
	if (!(state & STATE_PRESENT))
		return r.fault == SIM_ABSENT;
	if ((kind == SIM_WRITE && !(state & STATE_W)) || (kind == SIM_EXEC && !(state & STATE_X)))
		return r.fault == SIM_RIGHTS;
	return r.fault == SIM_OK && r.pa == frame_of(page, state);
}

static void look(u32 cpu, unsigned page)
{
	unsigned kind = (unsigned)rng_below(&o.rng, 3);
	struct sim_result r = sim_access(cpu, va_of(page), kind);
	bool known = false;

	for (unsigned state = 0; state < 16; state++)
		known |= o.visible[page] >> state & 1 && explains(page, state, kind, r);
	o.seen_old += !explains(page, o.now[page], kind, r);
	if (!known && o.wrong++ < 4)
		test_note("CPU %u, page %u, access %u: fault %u, %#llx; the page is %#x, may be seen as %#x", cpu, page, kind,
			  r.fault, (unsigned long long)r.pa, o.now[page], o.visible[page]);
}

static void become(u32 cpu, unsigned page, unsigned state)
{
	o.now[page] = (u8)state;
	o.visible[page] |= (u16)(1u << state);
	o.pending[page] |= (u16)(1u << cpu);
}

/* One change of a run of pages that are all present, or all absent. */
static void change(u32 cpu, unsigned page, unsigned n)
{
	struct pt_change c = { .va = range_len(va_of(page), n * PAGE_SIZE) };
	unsigned state = o.now[page], next;

	for (unsigned i = 1; i < n; i++)
		if (o.now[page + i] != state)
			n = i;
	c.va.end = c.va.start + n * PAGE_SIZE;
	if (!(state & STATE_PRESENT)) {
		c.op = PT_OP_MAP;
		next = STATE_PRESENT | (unsigned)rng_below(&o.rng, 2) * STATE_W | (unsigned)rng_below(&o.rng, 2) * STATE_OTHER;
		c.pa = phys(frame_of(page, next));
		c.set = attrs_of(next);
	} else if (!rng_below(&o.rng, 3)) {
		c.op = PT_OP_UNMAP;
		next = 0;
	} else {
		c.op = PT_OP_PROTECT;
		next = (state & (STATE_PRESENT | STATE_OTHER)) | (unsigned)rng_below(&o.rng, 4) * STATE_W;
		c.set = attrs_of(next) & (PTE_W | PTE_NX);
		c.clear = ~attrs_of(next) & (PTE_W | PTE_NX);
	}
	CHECK_EQ(pt_change(&kernel_space, &c, &o.batch[cpu]), 0);
	for (unsigned i = 0; i < n; i++)
		become(cpu, page + i, next);
}

static void finish(u32 cpu)
{
	u16 mine = (u16)(1u << cpu);

	tlb_batch_finish(&o.batch[cpu]);
	for (unsigned page = 0; page < PAGES; page++) {
		if (!(o.pending[page] & mine))
			continue;
		o.pending[page] &= (u16)~mine;
		if (o.pending[page])
			continue;
		o.visible[page] = (u16)(1u << o.now[page]);
		if (page % 7 == 0 || page % PT_ENTRIES < LIVELY)
			sim_check_range(range_len(va_of(page), PAGE_SIZE));
	}
}

static void step(void)
{
	u32 cpu = (u32)rng_below(&o.rng, host.nr_cpus);
	unsigned page = (unsigned)(rng_below(&o.rng, PAGES / PT_ENTRIES) * PT_ENTRIES + rng_below(&o.rng, LIVELY));
	unsigned half = page & ~(PT_ENTRIES - 1);

	host_cpu_set(cpu);
	switch (rng_below(&o.rng, 48)) {
	case 0:
	case 1:
		change(cpu, page, 1);
		break;
	case 2:
		change(cpu, page, 1 + (unsigned)rng_below(&o.rng, LIVELY));
		break;
	case 3:
		if (!rng_below(&o.rng, 8))
			change(cpu, half, PT_ENTRIES);
		break;
	case 4:
		finish(cpu);
		break;
	default:
		look((u32)rng_below(&o.rng, host.nr_cpus), page);
		break;
	}
	host_cpu_set(0);
}

static void run_oracle(enum pt_collapse_policy policy)
{
	enum pt_collapse_policy before = fixture_policy(policy);
	unsigned steps = machine_full ? STEPS_FULL / 2 : STEPS / 2;

	o.rng = test_rng();
	o.seen_old = 0;
	o.wrong = 0;
	if (fixture_area_get(&o.area, PAGES * PAGE_SIZE, 2 * MIB)) {
		for (u32 cpu = 0; cpu < host.nr_cpus; cpu++)
			tlb_batch_init(&o.batch[cpu], &kernel_space);
		for (unsigned page = 0; page < PAGES; page++) {
			o.now[page] = 0;
			o.visible[page] = 1;
			o.pending[page] = 0;
		}
		for (unsigned i = 0; i < steps && o.wrong < 4; i++)
			step();
		for (u32 cpu = 0; cpu < host.nr_cpus; cpu++) {
			host_cpu_set(cpu);
			finish(cpu);
		}
		host_cpu_set(0);
		CHECK_EQ(o.wrong, 0);
		/* Otherwise no CPU ever kept anything, and nothing has been shown. */
		if (host.nr_cpus > 1)
			CHECK(o.seen_old > steps / 1000);
		for (unsigned page = 0; page < PAGES; page += 37)
			CHECK_EQ(sim_probe(va_of(page)), 0);
		test_note("steps=%u saw_old=%llu", steps, (unsigned long long)o.seen_old);
	}
	fixture_area_put(&o.area);
	fixture_policy(before);
}

TEST_ID(oracle, old_or_new_and_then_new, "TL1 TL5")
{
	run_oracle(PT_COLLAPSE_OFF);
}

TEST_ID(oracle, over_splits_and_collapses, "TL1 TL5 PT4")
{
	run_oracle(PT_COLLAPSE_EAGER);
}
