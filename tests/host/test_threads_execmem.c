/* SPDX-License-Identifier: MIT */
/*
 * Executable memory on many CPUs at once, in a gigabyte whose direct map others split and collapse meanwhile (test_threads.c says how
 * CPUs are threads): some allocate, fill, seal, read and free; some take single frames out of the direct map and put them back, change
 * their rights, and make the unmapped cache take blocks and give them back; one audits. What an object holds and what may be done with it
 * is exact for the CPU that has it. One object stays for the whole time, so that there is executable memory in that gigabyte.
 */
#include <string.h>

#include "kernel/base/atomic.h"
#include "kernel/base/errno.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/execmem.h"
#include "mm/plant.h"
#include "mm/pt_audit.h"
#include "mm/set_memory.h"
#include "mm/unmapped.h"
#include "tests/fixture.h"
#include "tests/host/apart.h"
#include "tests/host/arch_host.h"
#include "tests/host/machine.h"
#include "tests/host/sim_tlb.h"
#include "tests/test.h"

#define CODE 300u		/* bytes that are filled in at once, at most */
#define CHANGES 3u		/* of frames, for each object */

static struct {
	u64 seed;
	unsigned rounds;
	struct page *block;	/* 2 MiB in the same gigabyte: each CPU changes frames of its own there */
	u32 fillers_done;
	u32 wrong;
	u32 objects, in_gigabyte, audits;
} w;

/* Also in a process that keeps what it says. */
static void check(bool ok, const char *what, int line)
{
	if (ok)
		return;
	fetch_add(&w.wrong, 1);
	log_warn("line %d: not true on CPU %u: %s", line, host_cpu(), what);
}

#define expect(what) check((what), #what, __LINE__)

/* ---- Who fills ---- */

static bool holds(const u8 *at, const u8 *want, u64 n)
{
	for (u64 i = 0; i < n; i += 37)
		if (*(u8 *)arch_va_ptr((u64)at + i, false) != want[i])
			return false;
	return true;
}

/* What this CPU may do with an object that is final. */
static void check_sealed(const u8 *p, enum execmem_type type, u64 size)
{
	bool text = type == EXECMEM_TEXT;
	u64 alias = phys_to_va(phys(fixture_pa((u64)p)));

	expect(sim_access(host_cpu(), (u64)p, SIM_EXEC).fault == (text ? SIM_OK : SIM_RIGHTS));
	expect(sim_access(host_cpu(), (u64)p, SIM_WRITE).fault == SIM_RIGHTS);
	expect(sim_access(host_cpu(), alias, SIM_WRITE).fault != SIM_OK);
	expect(sim_access(host_cpu(), alias, SIM_EXEC).fault != SIM_OK);
	sim_check_range(range(align_down((u64)p, PAGE_SIZE), align_up((u64)p + size, PAGE_SIZE)));
	fetch_add(&w.in_gigabyte, fixture_pa((u64)p) / GIB == page_to_phys(w.block).raw / GIB);
}

static void use_object(struct rng *rng)
{
	enum execmem_type type = rng_below(rng, 3) ? EXECMEM_TEXT : EXECMEM_RO_AFTER_INIT;
	u64 size = rng_below(rng, 16) ? CODE + rng_below(rng, 2 * PAGE_SIZE) : 2 * MIB;
	u64 n = 2 + rng_below(rng, CODE - 1);	/* of two bytes, one byte too far, one at least is another's */
	u8 *p = execmem_alloc(type, size, 0), code[CODE];

	if (!p)
		return;
	for (unsigned i = 0; i < CODE; i++)
		code[i] = (u8)rng_next(rng);
	expect(execmem_fill(p, code, n) == 0);
	expect(execmem_fill(p + size - n, code, n) == 0);
	expect(execmem_fill(p + size - n + 1, code, n) == -EINVAL);
	expect(execmem_seal(p) == 0);
	expect(holds(p, code, size < 2 * n ? MIN(n, size - n) : n) && holds(p + size - n, code, n));
	check_sealed(p, type, size);
	fetch_add(&w.objects, 1);
	execmem_free(p);
}

static void fill(struct rng *rng)
{
	for (unsigned round = 0; round < w.rounds; round++)
		use_object(rng);
	fetch_add(&w.fillers_done, 1);
}

/* ---- Who changes what lies beside ---- */

static void change_frame(struct rng *rng)
{
	u32 cpus = host.nr_cpus;
	u64 page = rng_below(rng, PT_ENTRIES / cpus) * cpus + host_cpu();
	pfn_t pfn = page_to_pfn(w.block) + page;
	u64 va = phys_to_va(phys(pfn << PAGE_SHIFT));

	if (rng_below(rng, 2)) {
		expect(set_direct_map_invalid(pfn, 1) == 0);
		expect(sim_access(host_cpu(), va, SIM_READ).fault == SIM_ABSENT);
		expect(set_direct_map_default(pfn, 1) == 0);
	} else {
		expect(set_memory_ro(va, 1) == 0);
		expect(sim_access(host_cpu(), va, SIM_WRITE).fault == SIM_RIGHTS);
		expect(set_memory_rw(va, 1) == 0);
	}
	expect(sim_access(host_cpu(), va, SIM_WRITE).fault == SIM_OK);
	sim_check_range(range_len(va, PAGE_SIZE));
}

static void take_and_return(void)
{
	struct page *page = unmapped_pages_alloc(0, 0, 0, NULL);

	if (!page)
		return;
	expect(sim_access(host_cpu(), phys_to_va(page_to_phys(page)), SIM_READ).fault == SIM_ABSENT);
	unmapped_pages_free(page, 0);
	unmapped_shrink(UNMAPPED_ALL);
}

static void audit(void)
{
	struct pt_audit found;

	expect(pt_audit(&found) == 0);
	fetch_add(&w.audits, 1);
}

/* Half of the CPUs fill. The others do a piece of their work for each object: else they would do nothing but keep those waiting. */
static void play(void *arg)
{
	u32 me = host_cpu(), fillers = (host.nr_cpus + 1) / 2, seen = 0;
	struct rng rng = { w.seed ^ (me + 1) * 0x9e3779b97f4a7c15ull };

	(void)arg;
	if (me < fillers) {
		fill(&rng);
		return;
	}
	while (load_acquire(&w.fillers_done) < fillers) {
		if (load_relaxed(&w.objects) == seen) {
			arch_relax();
			continue;
		}
		seen = load_relaxed(&w.objects);
		if (me == host.nr_cpus - 1)
			audit();
		for (unsigned i = 0; i < CHANGES; i++)
			change_frame(&rng);
		if (!rng_below(&rng, 4))
			take_and_return();
	}
}

/* ---- The whole ---- */

/* Returns how much was wrong. */
static u64 fill_beside_changes(enum execmem_policy policy, unsigned rounds)
{
	static const u8 code[] = { 0x90, 0xc3 };
	enum execmem_policy before = execmem_policy();
	u64 faults = host_faults(), seed = test_rng().state;
	u8 *stays;

	memset(&w, 0, sizeof(w));
	w.seed = seed;
	w.rounds = rounds;
	expect(execmem_set_policy(policy) == 0);
	stays = execmem_alloc(EXECMEM_TEXT, sizeof(code), 0);
	expect(stays && execmem_fill(stays, code, sizeof(code)) == 0 && execmem_seal(stays) == 0);
	w.block = stays ? fixture_block_in(fixture_pa((u64)stays) / GIB) : NULL;
	expect(w.block != NULL);
	if (w.block)
		host_threads_run(play, NULL, seed);
	if (w.block)
		free_pages(w.block, ORDER_2M);
	expect(stays && holds(stays, code, sizeof(code)));
	expect(execmem_check() == 0);
	execmem_free(stays);
	unmapped_shrink(UNMAPPED_ALL);
	expect(execmem_set_policy(before) == 0);
	expect(pt_check(&kernel_space) == 0);
	expect(sim_check(false) == 0);
	return w.wrong + host_faults() - faults;
}

static const enum execmem_policy policies[] = { EXECMEM_PAGES, EXECMEM_PACK, EXECMEM_HUGE };

static unsigned count_policies(void)
{
	return ARRAY_SIZE(policies);
}

static void name_policy(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "fills_beside_collapse.%s", execmem_policy_name(policies[row]));
}

TEST_ROWS(threads, fills_beside_collapse, "PT3 PT4 PT5 XM2 XM5", 0, count_policies, name_policy)
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	struct fixture_events before, after;

	if (host.nr_cpus < 2)
		SKIP("one CPU");
	fixture_events(&before);
	CHECK_EQ(fill_beside_changes(policies[test_row()], (machine_full ? 4000 : 60) / (HOST_TSAN ? 4 : 1)), 0);
	fixture_events(&after);
	CHECK(w.objects > 0 && w.audits > 0);
	/* Packed beside the one that stays; page by page they lie anywhere. */
	CHECK(w.in_gigabyte > 0 || policies[test_row()] == EXECMEM_PAGES);
	CHECK(after.splits[PT_2M] > before.splits[PT_2M] && after.collapses[PT_2M] > before.collapses[PT_2M]);
	test_note("objects=%u in_the_gigabyte=%u audits=%u splits=%llu collapses=%llu", w.objects, w.in_gigabyte, w.audits,
		  (unsigned long long)(after.splits[PT_2M] - before.splits[PT_2M]),
		  (unsigned long long)(after.collapses[PT_2M] - before.collapses[PT_2M]));
	fixture_policy(policy);
}

/* ---- The control ---- */

static const struct {
	const char *name;
	enum mm_plant plant;
} plants[] = {
	{ "nothing", PLANT_NONE },
	{ "no_flush", PLANT_NO_FLUSH },
	{ "freed_text_stays", PLANT_EXECMEM_NO_INT3 },
	{ "one_byte_too_many", PLANT_EXECMEM_BOUNDS },
};

static unsigned count_plants(void)
{
	return ARRAY_SIZE(plants);
}

static void name_plant(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "fills_beside_collapse.%s", plants[row].name);
}

static int fill_with(void *plant)
{
	mm_plant = *(enum mm_plant *)plant;
	return fill_beside_changes(EXECMEM_HUGE, 30) != 0;
}

/* It says by its status what it found; a panic is an answer, too. Without a plant it is the test above, and finds nothing. */
TEST_ROWS(threads_plant, fills_beside_collapse, "XM2 TL5", 0, count_plants, name_plant)
{
	enum mm_plant plant = plants[test_row()].plant;
	struct apart apart = { .aloud = plant == PLANT_NONE };

	if (host.nr_cpus < 2)
		SKIP("one CPU");
	REQUIRE(apart_run(&apart, fill_with, &plant));
	if (!CHECK_EQ(apart_came_back(&apart), plant == PLANT_NONE))
		apart_show(&apart);
}
