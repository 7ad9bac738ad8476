/* SPDX-License-Identifier: MIT */
/*
 * Changes of mappings from several CPUs in one gigabyte (PT3, TL1): four threads map, unmap, split and collapse, in 2M of their
 * own and in 2M that they share; beside them an audit, walkers with and without the lock, and readers that use the
 * translations. With fewer CPUs they take turns on them.
 *
 * A frame's content says whether it may be seen. Each page of a block has its name in it as long as it is mapped or about to be; once
 * its owner has unmapped it and every CPU is said to have flushed, the owner overwrites the name, as the next owner of
 * the frame would. Who reads anything else than the name through the mapping has used a translation that was to be gone.
 *
 * One page of the shared 2M stays mapped throughout, while the table with its entry comes and goes: it can be read at any moment. A
 * fault on it is a walk through a table that has been freed, which for all other pages may be a fault as it should be.
 *
 * The leaves are read-only: of those the frames' alias counts know nothing, so the audit is exact at any moment.
 */
#include "arch/x86_64/ipi.h"
#include "arch/x86_64/trap.h"
#include "kernel/base/atomic.h"
#include "kernel/base/string.h"
#include "kernel/cmdline.h"
#include "mm/arch.h"
#include "mm/buddy.h"
#include "mm/pt_audit.h"
#include "tests/fixture.h"
#include "tests/machine/crew.h"
#include "tests/machine/trial.h"
#include "tests/test.h"

#define CHANGERS 4u
#define CYCLES_SAMPLED 80u	/* of all changers together */
#define CYCLES_SOAK 100000u
#define BLOCK_PAGES BIT(ORDER_2M)
#define QUARTER (BLOCK_PAGES / CHANGERS)
#define PAUSE_NS 500000u
#define LOOKED_AT 8u		/* pages of a range that a cycle looks at */
#define NAME(slot, page) (0x9a3e000000000000ull + (slot) * 0x10000ull + (page))
#define OVERWRITTEN 0xdeadull	/* what the next owner of the frame would write */

/* Slots of 2M in the area: one for each changer, and the shared one. Far apart, so that they share tables from 1G on. */
#define SLOTS (CHANGERS + 1)
#define SHARED CHANGERS
#define KEPT 0u			/* the page of the shared slot that stays mapped */

struct world {
	struct fixture_area area;
	struct page *blocks[SLOTS];
	u32 cycles;			/* that a changer makes */
	u32 done;			/* changers that have made their cycles */
	u32 meetings;			/* of all changers so far, times their number */
	u32 failed_calls;
	u32 wrong_reads;		/* by the changers: not what they had just made */
	u32 stale_reads;		/* by anyone: what was overwritten, or is nonsense */
	u32 reads, faults;		/* by the readers */
	u32 kept_reads, lost;		/* of the page that stays mapped: as it should be, faults */
	u32 walks, wrong_walks;
	u32 audits, violations;
};

static struct world world;

static u64 slot_va(unsigned slot)
{
	return world.area.va + slot * (128 * MIB) + 2 * MIB;
}

static u64 page_va(unsigned slot, u64 page)
{
	return slot_va(slot) + (page << PAGE_SHIFT);
}

static u64 frame_pa(unsigned slot, u64 page)
{
	return page_to_phys(world.blocks[slot]).raw + (page << PAGE_SHIFT);
}

/* By the direct map, which has all of them all the time. */
static void write_name(unsigned slot, u64 page, u64 name)
{
	store_release((u64 *)phys_to_virt(phys(frame_pa(slot, page))), name);
}

/* ---- The changers ---- */

static u64 leaf_attrs(void)
{
	return fixture_attrs() & ~PTE_W;
}

static void map_pages(unsigned slot, u64 page, u64 nr)
{
	if (fixture_change(PT_OP_MAP, range_len(page_va(slot, page), nr << PAGE_SHIFT), frame_pa(slot, page), leaf_attrs(), 0))
		fetch_add(&world.failed_calls, 1);
}

static void unmap_pages(unsigned slot, u64 page, u64 nr)
{
	if (fixture_change(PT_OP_UNMAP, range_len(page_va(slot, page), nr << PAGE_SHIFT), 0, 0, 0))
		fetch_add(&world.failed_calls, 1);
}

/* A reader's view of a page: mapped and its own, or not mapped. */
enum view { VIEW_NAME, VIEW_FAULT, VIEW_STALE };

static enum view view(unsigned slot, u64 page)
{
	u64 name;

	if (!trap_read_u64(page_va(slot, page), &name))
		return VIEW_FAULT;
	return name == NAME(slot, page) ? VIEW_NAME : VIEW_STALE;
}

static void expect(unsigned slot, u64 page, enum view want)
{
	enum view got = view(slot, page);

	if (got == VIEW_STALE)
		fetch_add(&world.stale_reads, 1);
	else if (got != want)
		fetch_add(&world.wrong_reads, 1);
}

/* The page that stays mapped. */
static void look_at_kept(void)
{
	switch (view(SHARED, KEPT)) {
	case VIEW_NAME:
		fetch_add(&world.kept_reads, 1);
		break;
	case VIEW_FAULT:
		fetch_add(&world.lost, 1);
		break;
	case VIEW_STALE:
		fetch_add(&world.stale_reads, 1);
	}
}

/* A changer's pages of the shared slot. */
static struct range quarter(unsigned me)
{
	return range(me * QUARTER + (me == KEPT / QUARTER), (me + 1) * QUARTER);
}

/* Pages that a cycle gives a name, looks at and takes the name from: spread over the range, others each time. */
static u64 looked_at(u64 page, u64 nr, u32 cycle, u32 i)
{
	return page + (cycle * 7 + i * (nr / LOOKED_AT)) % nr;
}

static void name_all(unsigned slot, u64 page, u64 nr)
{
	for (u64 i = 0; i < nr; i++)
		write_name(slot, page + i, NAME(slot, page + i));
}

static void overwrite_all(unsigned slot, u64 page, u64 nr)
{
	for (u64 i = 0; i < nr; i++)
		write_name(slot, page + i, OVERWRITTEN);
}

static void expect_all(unsigned slot, u64 page, u64 nr, u32 cycle, enum view want)
{
	for (u32 i = 0; i < LOOKED_AT; i++)
		expect(slot, looked_at(page, nr, cycle, i), want);
}

/*
 * Map; take one page out (a split, if it was one leaf) and put it back (a collapse, if the whole block is there); unmap.
 */
static void cycle_once(unsigned slot, u64 page, u64 nr, u32 cycle)
{
	u64 hole = looked_at(page, nr, cycle, 3);

	name_all(slot, page, nr);
	map_pages(slot, page, nr);
	expect_all(slot, page, nr, cycle, VIEW_NAME);
	unmap_pages(slot, hole, 1);
	write_name(slot, hole, OVERWRITTEN);
	expect(slot, hole, VIEW_FAULT);
	write_name(slot, hole, NAME(slot, hole));
	map_pages(slot, hole, 1);
	expect(slot, hole, VIEW_NAME);
	unmap_pages(slot, page, nr);
	overwrite_all(slot, page, nr);
	expect_all(slot, page, nr, cycle, VIEW_FAULT);
}

static void change(void *arg)
{
	unsigned me = (unsigned)(u64)arg;
	struct range mine = quarter(me);

	for (u32 i = 0; i < world.cycles; i++) {
		if (i % 2)
			cycle_once(SHARED, mine.start, range_size(mine), i);
		else
			cycle_once(me, 0, BLOCK_PAGES, i);
		thread_yield();
	}
	fetch_add(&world.done, 1);
}

/* All changers have come this far, as many times. */
static void meet(u32 times)
{
	fetch_add(&world.meetings, 1);
	while (load_acquire(&world.meetings) < times * CHANGERS) {
		arch_relax();
		thread_yield();
	}
}

/*
 * The four quarters of one block, all at once: the last one to come makes it one leaf, the first one to go splits it, while the
 * others come and go, and one page stays.
 */
static void share(void *arg)
{
	unsigned me = (unsigned)(u64)arg;
	u64 page = quarter(me).start, nr = range_size(quarter(me));

	for (u32 i = 0; i < world.cycles; i++) {
		name_all(SHARED, page, nr);
		map_pages(SHARED, page, nr);
		expect_all(SHARED, page, nr, i, VIEW_NAME);
		meet(2 * i + 1);
		unmap_pages(SHARED, page, nr);
		overwrite_all(SHARED, page, nr);
		expect_all(SHARED, page, nr, i, VIEW_FAULT);
		meet(2 * i + 2);
	}
	fetch_add(&world.done, 1);
}

/* ---- Beside them ---- */

/* A pause, so that they leave the host of virtual CPUs some time for the changers. */
static bool goes_on(void)
{
	thread_sleep(PAUSE_NS);
	return load_acquire(&world.done) < CHANGERS;
}

static void read_on(void *arg)
{
	u32 n = (u32)(u64)arg;

	do {
		for (u32 i = 0; i < 64; i++, n += 61) {
			switch (view(n % SLOTS, n / SLOTS % BLOCK_PAGES)) {
			case VIEW_NAME:
				fetch_add(&world.reads, 1);
				break;
			case VIEW_FAULT:
				fetch_add(&world.faults, 1);
				break;
			case VIEW_STALE:
				fetch_add(&world.stale_reads, 1);
			}
			look_at_kept();
		}
	} while (goes_on());
}

/* Whatever the tables are at the moment: a page's entry maps that page's frame, or nothing. */
static bool walk_is_right(struct pt_slot s, unsigned slot, u64 page)
{
	u64 offset = page_va(slot, page) & (pt_span(s.level) - 1);

	if (!pte_present(s.value))
		return true;
	return pte_is_leaf(s.value, s.level) && pte_leaf_pa(s.value, s.level).raw + offset == frame_pa(slot, page);
}

static void walk_on(void *arg)
{
	u32 n = (u32)(u64)arg;

	do {
		for (u32 i = 0; i < 64; i++, n += 61) {
			unsigned slot = n % SLOTS;
			u64 page = n / SLOTS % BLOCK_PAGES;
			struct pt_slot s = pt_walk_lockless(kernel_space.root, kernel_space.levels, page_va(slot, page));

			fetch_add(&world.walks, 1);
			if (!walk_is_right(s, slot, page) || !walk_is_right(fixture_leaf(page_va(slot, page)), slot, page))
				fetch_add(&world.wrong_walks, 1);
			/* With the lock, that is: without it a walk that meets a freed table says that there is nothing. */
			if (!pte_present(fixture_leaf(page_va(SHARED, KEPT)).value))
				fetch_add(&world.wrong_walks, 1);
		}
	} while (goes_on());
}

static void audit_on(void *arg)
{
	(void)arg;
	do {
		struct pt_audit audit;

		if (pt_audit(&audit))
			fetch_add(&world.violations, 1);
		fetch_add(&world.audits, 1);
	} while (goes_on());
}

/* ---- The tests ---- */

static bool make_world(u32 cycles)
{
	bool ok;

	memset(&world, 0, sizeof(world));
	world.cycles = cycles / CHANGERS;
	ok = fixture_area_get(&world.area, GIB, GIB);
	for (unsigned i = 0; i < SLOTS && ok; i++) {
		world.blocks[i] = alloc_pages(ORDER_2M, 0);
		ok = CHECK(world.blocks[i] != NULL);
		if (ok)
			overwrite_all(i, 0, BLOCK_PAGES);
	}
	if (ok) {
		write_name(SHARED, KEPT, NAME(SHARED, KEPT));
		map_pages(SHARED, KEPT, 1);
	}
	return ok;
}

static void unmake_world(void)
{
	fixture_area_put(&world.area);
	for (unsigned i = 0; i < SLOTS; i++)
		if (world.blocks[i])
			free_pages(world.blocks[i], ORDER_2M);
}

static void run_world(void (*changer)(void *arg))
{
	struct crew_role roles[CHANGERS + 4] = {
		[CHANGERS] = { "auditor", audit_on, 0 },
		{ "reader", read_on, 1000 },
		{ "walker", walk_on, 2000 },
		{ "reader", read_on, 3000 },
	};
	u32 ids[CREW_MAX], online = 0, still = 0;
	struct fixture_events before, after;

	for (unsigned i = 0; i < CHANGERS; i++)
		roles[i] = (struct crew_role){ "changer", changer, i };
	for_each_cpu(cpu, arch_cpus_online())
		online += cpu < MAX_CPUS;
	fixture_events(&before);
	crew_play(roles, ARRAY_SIZE(roles));
	fixture_events(&after);
	for_each_cpu(cpu, arch_cpus_online())
		still += cpu < MAX_CPUS;

	CHECK_EQ(world.failed_calls, 0);
	CHECK_EQ(world.wrong_reads, 0);
	CHECK_EQ(world.stale_reads, 0);
	CHECK_EQ(world.wrong_walks, 0);
	CHECK_EQ(world.lost, 0);
	CHECK(world.kept_reads > 0);
	CHECK_EQ(world.violations, 0);
	CHECK_EQ(still, online);		/* every CPU has answered each time */
	CHECK(world.audits > 0 && world.walks > 0 && world.faults + world.reads > 0);
	/* Otherwise leaves are put together later, or never, and there are fewer to split. */
	if (kernel_space.policy == PT_COLLAPSE_EAGER) {
		CHECK(after.splits[PT_2M] > before.splits[PT_2M]);
		CHECK(after.collapses[PT_2M] > before.collapses[PT_2M]);
	}
	CHECK_EQ(pt_check(&kernel_space), 0);
	test_note("cpus=%u cycles=%u splits=%llu collapses=%llu audits=%u walks=%u reads=%u faults=%u kept=%u", crew_cpus(ids),
		  world.cycles * CHANGERS, (unsigned long long)(after.splits[PT_2M] - before.splits[PT_2M]),
		  (unsigned long long)(after.collapses[PT_2M] - before.collapses[PT_2M]), world.audits, world.walks,
		  world.reads, world.faults, world.kept_reads);
}

static u32 cycles(void)
{
	return cmdline.soak ? CYCLES_SOAK : CYCLES_SAMPLED;
}

TEST_ID(concurrent, map_split_collapse_unmap, "PT3 TL1 TL5")
{
	if (make_world(cycles()))
		run_world(change);
	unmake_world();
}

TEST_ID(concurrent, one_leaf_of_four_owners, "PT3 TL1 TL5")
{
	if (make_world(cycles()))
		run_world(share);
	unmake_world();
}

/*
 * The control: a page that somebody overwrites while it is mapped is seen at once. So is one that is gone from the tables but not
 * from the TLB, which no store by the page-table code leaves behind: here one is made by hand.
 */
TEST_ID(concurrent, what_is_stale_is_noticed, "TL5")
{
	u32 noticed = 0;

	if (make_world(0)) {
		write_name(0, 5, NAME(0, 5));
		map_pages(0, 0, BLOCK_PAGES);
		CHECK_EQ(view(0, 5), VIEW_NAME);
		CHECK_EQ(view(0, 6), VIEW_STALE);
		write_name(0, 5, OVERWRITTEN);
		CHECK_EQ(view(0, 5), VIEW_STALE);
		expect(0, 5, VIEW_NAME);
		CHECK_EQ(world.stale_reads, 1);
		for (unsigned i = 0; i < 8; i++) {
			struct pt_slot slot = fixture_leaf(page_va(0, 5));

			CHECK_EQ(view(0, 5), VIEW_STALE);	/* now the TLB has it */
			arch_pte_store(slot.pte, (pte_t){ 0 }, slot.level);
			noticed += view(0, 5) == VIEW_STALE;
			arch_tlb_flush_all();
			CHECK_EQ(view(0, 5), VIEW_FAULT);
			arch_pte_store(slot.pte, slot.value, slot.level);
			arch_tlb_flush_all();
		}
		if (trial_translated_by_qemu())
			CHECK(noticed > 0);
		test_note("used_after_it_was_gone=%u of=8", noticed);
		unmap_pages(0, 0, BLOCK_PAGES);
		CHECK_EQ(world.failed_calls, 0);
	}
	unmake_world();
}

/* The same for the page that stays: a CPU that walks a table which was freed, and poisoned, faults, and that is counted. */
TEST_ID(concurrent, a_walk_of_a_freed_table_is_noticed, "PT3 TL5")
{
	struct page *freed = alloc_page(0);

	REQUIRE(freed);
	if (make_world(0)) {
		struct pt_slot slot;

		spin_lock(&kernel_space.lock);
		slot = pt_walk(&kernel_space, page_va(SHARED, KEPT), PT_2M);
		spin_unlock(&kernel_space.lock);
		CHECK(pte_present(slot.value) && !pte_is_leaf(slot.value, slot.level));
		look_at_kept();
		CHECK_EQ(world.kept_reads, 1);
		for (unsigned i = 0; i < PT_ENTRIES; i++)
			((u64 *)page_to_virt(freed))[i] = PT_POISON;
		arch_pte_store(slot.pte, pte_table(page_to_phys(freed), false), slot.level);
		arch_tlb_flush_all();
		look_at_kept();
		arch_pte_store(slot.pte, slot.value, slot.level);
		arch_tlb_flush_all();
		CHECK_EQ(world.lost, 1);
		look_at_kept();
		CHECK_EQ(world.kept_reads, 2);
		CHECK_EQ(world.lost, 1);
		CHECK_EQ(world.stale_reads, 0);
		CHECK_EQ(world.failed_calls, 0);
	}
	unmake_world();
	free_page(freed);
}
