/* SPDX-License-Identifier: MIT */
/*
 * mm/ on many CPUs at the same time: each virtual CPU is a thread (arch_host.h), with a TLB of its own that speculates.
 *
 * What is exact here: a range that only one CPU changes. When its batch is finished, no CPU may translate it in another way
 * than the tables do, whatever all others change beside it at that moment. What several change is looked at when all
 * have stopped: tables, counters, caches, frames. The same program under ThreadSanitizer (`make tsan`) says whether any two
 * CPUs touch the same memory without an order between them.
 */
#include <sched.h>
#include <string.h>

#include "boot/boot_info.h"
#include "kernel/base/atomic.h"
#include "kernel/base/errno.h"
#include "kernel/base/fmt.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/execmem.h"
#include "mm/kernel_map.h"
#include "mm/plant.h"
#include "mm/pt_audit.h"
#include "mm/set_memory.h"
#include "mm/slab.h"
#include "mm/unmapped.h"
#include "mm/vm_area.h"
#include "mm/vmalloc.h"
#include "tests/fixture.h"
#include "tests/host/apart.h"
#include "tests/host/arch_host.h"
#include "tests/host/machine.h"
#include "tests/host/sim_tlb.h"
#include "tests/test.h"

#define BLOCK (2 * MIB)
#define BLOCKS 2u
#define PAGES (BLOCKS * PT_ENTRIES)
#define QUIET 64u	/* every so many pages one that nobody ever changes */

/* A few blocks of memory in one gigabyte, and an alias of them by 2M leaves. */
static struct {
	struct page *block;
	pfn_t pfn;
	struct fixture_area area;
	enum pt_collapse_policy policy;
	u64 seed;
	unsigned rounds;
	u64 seen[HOST_CPUS_MAX];
} s;

static unsigned rounds(unsigned sample, unsigned full)
{
	return (machine_full ? full : sample) / (HOST_TSAN ? 4 : 1);
}

static struct rng my_rng(void)
{
	return (struct rng){ s.seed ^ (host_cpu() + 1) * 0x9e3779b97f4a7c15ull };
}

static u64 direct_va(unsigned page)
{
	return phys_to_va(phys((s.pfn + page) << PAGE_SHIFT));
}

static u64 alias_va(unsigned page)
{
	return s.area.va + page * PAGE_SIZE;
}

static bool set_up(enum pt_collapse_policy policy)
{
	struct page *pages[PAGES];
	struct tlb_batch b;
	int rc;

	s.seed = test_rng().state;
	s.policy = fixture_policy(policy);
	s.block = alloc_pages(ORDER_2M + 1, 0);
	if (!CHECK(s.block != NULL) || !fixture_area_get(&s.area, BLOCKS * BLOCK, BLOCK))
		return false;
	s.pfn = page_to_pfn(s.block);
	for (unsigned i = 0; i < PAGES; i++)
		pages[i] = s.block + i;
	tlb_batch_init(&b, &kernel_space);
	rc = kernel_map_pages(s.area.va, pages, PAGES, fixture_attrs(), PT_2M, &b);
	tlb_batch_finish(&b);
	return CHECK_EQ(rc, 0);
}

static void tear_down(void)
{
	CHECK_EQ(sim_check(false), 0);
	CHECK_EQ(pt_check(&kernel_space), 0);
	CHECK_EQ(set_direct_map_default(s.pfn, PAGES), 0);
	fixture_area_put(&s.area);
	free_pages(s.block, ORDER_2M + 1);
	pt_settle(&kernel_space);
	fixture_policy(s.policy);
}

static void run_threads_with(void (*fn)(void *arg), void *arg)
{
	host_threads_run(fn, arg, s.seed);
}

static void run(void (*fn)(void *arg))
{
	run_threads_with(fn, NULL);
}

/* Fill this CPU's TLB with something of the blocks. */
static void glance(struct rng *rng)
{
	unsigned page = (unsigned)rng_below(rng, PAGES);

	sim_access(host_cpu(), rng_below(rng, 2) ? direct_va(page) : alias_va(page), (unsigned)rng_below(rng, 2));
}

/* ---- Changes of single pages, each by its owner ---- */

struct own {
	bool alias_w, direct, direct_w;
};

static void change_own(struct own *o, unsigned page, unsigned what, struct tlb_batch *b)
{
	pfn_t pfn = s.pfn + page;

	switch (what) {
	case 0:
		CHECK_EQ(set_direct_map_batch(pfn, 1, false, b), 0);
		o->direct = false;
		break;
	case 1:
		CHECK_EQ(set_direct_map_batch(pfn, 1, true, b), 0);
		o->direct = true;
		o->direct_w = true;
		break;
	case 2:
		CHECK_EQ(set_memory_batch(alias_va(page), 1, MEMORY_RO, b), 0);
		o->alias_w = false;
		o->direct_w = false;
		break;
	default:
		CHECK_EQ(set_memory_batch(alias_va(page), 1, MEMORY_RW, b), 0);
		o->alias_w = true;
		o->direct_w = true;
		break;
	}
}

/* What every CPU may have of a page that is its owner's to change, and has been flushed. */
static void check_own(const struct own *o, unsigned page)
{
	u32 cpu = host_cpu();

	sim_check_range(range_len(direct_va(page), PAGE_SIZE));
	sim_check_range(range_len(alias_va(page), PAGE_SIZE));
	CHECK_EQ(sim_access(cpu, direct_va(page), SIM_READ).fault, o->direct ? SIM_OK : SIM_ABSENT);
	if (o->direct)
		CHECK_EQ(sim_access(cpu, direct_va(page), SIM_WRITE).fault, o->direct_w ? SIM_OK : SIM_RIGHTS);
	CHECK_EQ(sim_access(cpu, alias_va(page), SIM_WRITE).fault, o->alias_w ? SIM_OK : SIM_RIGHTS);
}

#define BATCH 3u

static unsigned own_page(struct rng *rng)
{
	unsigned page;

	do
		page = (unsigned)rng_below(rng, PAGES / host.nr_cpus) * host.nr_cpus + host_cpu();
	while (page % QUIET == QUIET - 1);
	return page;
}

static void change_pages(void *arg)
{
	struct own own[PAGES / 2 + 1];
	struct rng rng = my_rng();

	(void)arg;
	for (unsigned i = 0; i < ARRAY_SIZE(own); i++)
		own[i] = (struct own){ true, true, true };
	if (!host_cpu()) {
		CHECK_EQ(set_direct_map_default(s.pfn, PAGES), 0);
		CHECK_EQ(set_memory_rw(s.area.va, PAGES), 0);
	}
	host_barrier();
	for (unsigned round = 0; round < s.rounds; round++) {
		unsigned pages[BATCH], n = 1 + (unsigned)rng_below(&rng, BATCH);
		struct tlb_batch b;

		tlb_batch_init(&b, &kernel_space);
		for (unsigned i = 0; i < n; i++) {
			pages[i] = own_page(&rng);
			glance(&rng);
			change_own(&own[pages[i] / host.nr_cpus], pages[i], (unsigned)rng_below(&rng, 4), &b);
		}
		tlb_batch_finish(&b);
		for (unsigned i = 0; i < n; i++)
			check_own(&own[pages[i] / host.nr_cpus], pages[i]);
	}
}

static void pages_by_policy(enum pt_collapse_policy policy, int bbm)
{
	int before = pt_bbm;

	if (host.nr_cpus < 2)
		SKIP("one CPU");
	if (set_up(policy)) {
		pt_bbm = bbm;
		s.rounds = rounds(300, 20000);
		run(change_pages);
		pt_bbm = before;
	}
	tear_down();
}

TEST_ID(threads, changes_in_one_gigabyte, "PT3 PT4 TL1 TL5")
{
	pages_by_policy(PT_COLLAPSE_EAGER, -1);
}

TEST_ID(threads, changes_without_collapse, "PT3 TL1 TL5")
{
	pages_by_policy(PT_COLLAPSE_OFF, -1);
}

TEST_ID(threads, changes_by_break_before_make, "PT3 PT4 TL1")
{
	pages_by_policy(PT_COLLAPSE_EAGER, 1);
}

/* ---- Walkers beside collapses and splits ---- */

/* Whether a leaf says of the quiet pages in it what it always has to say. */
static bool see_leaf(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective)
{
	u64 *seen = arg;

	for (unsigned page = QUIET - 1; page < PAGES; page += QUIET) {
		u64 at = direct_va(page);

		if (at < va || at - va >= pt_span(level))
			continue;
		(*seen)++;
		if (pte_leaf_pa(leaf, level).raw + (at - va) != va_to_phys(at).raw || !(effective & PTE_W))
			CHECK(!"a page that nobody changes is mapped as it should be");
	}
	return true;
}

static void walk_lockless(unsigned page)
{
	u64 va = direct_va(page);
	struct pt_slot at = pt_walk_lockless(kernel_space.root, kernel_space.levels, va);

	/* Absent: a table was freed under the walk. Anything else must be true. */
	if (!pte_none(at.value))
		CHECK_EQ(pte_leaf_pa(at.value, at.level).raw + (va & (pt_span(at.level) - 1)), va_to_phys(va).raw);
}

static void walk_on(struct rng *rng)
{
	struct pt_audit audit;
	u64 seen = 0;

	pt_for_each_leaf(&kernel_space, range_len(direct_va(0), PAGES * PAGE_SIZE), see_leaf, &seen);
	CHECK_EQ(seen, PAGES / QUIET);
	for (unsigned i = 0; i < 20; i++)
		walk_lockless((unsigned)rng_below(rng, PAGES / QUIET) * QUIET + QUIET - 1);
	if (!rng_below(rng, 16)) {
		CHECK_EQ(pt_audit(&audit), 0);
		CHECK_EQ(pt_check(&kernel_space), 0);
	}
	s.seen[host_cpu()]++;
}

/* All of a block but its quiet pages go and come back: tables come and go with them. */
static void toggle(struct rng *rng)
{
	unsigned page = own_page(rng);

	CHECK_EQ(set_direct_map_invalid(s.pfn + page, 1), 0);
	sim_check_range(range_len(direct_va(page), PAGE_SIZE));
	glance(rng);
	CHECK_EQ(set_direct_map_default(s.pfn + page, 1), 0);
	sim_check_range(range_len(direct_va(page), PAGE_SIZE));
}

static void walk_or_toggle(void *arg)
{
	struct rng rng = my_rng();

	(void)arg;
	for (unsigned round = 0; round < s.rounds; round++) {
		if (host_cpu() % 2)
			walk_on(&rng);
		else
			toggle(&rng);
	}
}

TEST_ID(threads, walkers_against_collapse, "PT4 PT5 PT6")
{
	struct fixture_events before, after;

	if (host.nr_cpus < 2)
		SKIP("one CPU");
	fixture_events(&before);
	if (set_up(PT_COLLAPSE_EAGER)) {
		s.rounds = rounds(400, 20000);
		run(walk_or_toggle);
	}
	fixture_events(&after);
	CHECK(after.collapses[PT_2M] > before.collapses[PT_2M]);
	tear_down();
}

static void split_and_collapse(void *arg)
{
	struct rng rng = my_rng();

	(void)arg;
	for (unsigned round = 0; round < s.rounds; round++) {
		unsigned page = (unsigned)rng_below(&rng, PAGES);
		bool alias = rng_below(&rng, 2);
		struct tlb_batch b;

		glance(&rng);
		switch (rng_below(&rng, 4)) {
		case 0:
			tlb_batch_init(&b, &kernel_space);
			CHECK_EQ(pt_split_range(&kernel_space, range_len(alias ? alias_va(page) : direct_va(page), PAGE_SIZE),
						PT_4K, &b), 0);
			tlb_batch_finish(&b);
			break;
		case 1:
			pt_settle(&kernel_space);
			break;
		case 2:
			CHECK_EQ(set_memory_ro(s.area.va, PAGES), 0);
			break;
		default:
			CHECK_EQ(set_memory_rw(s.area.va, PAGES), 0);
			break;
		}
	}
}

TEST_ID(threads, collapse_against_split, "PT3 PT4")
{
	struct fixture_events before, after;

	if (host.nr_cpus < 2)
		SKIP("one CPU");
	fixture_events(&before);
	if (set_up(PT_COLLAPSE_EAGER)) {
		s.rounds = rounds(200, 10000);
		run(split_and_collapse);
		CHECK_EQ(set_memory_rw(s.area.va, PAGES), 0);
		pt_settle(&kernel_space);
	}
	fixture_events(&after);
	CHECK(after.splits[PT_2M] > before.splits[PT_2M]);
	CHECK(after.collapses[PT_2M] > before.collapses[PT_2M]);
	tear_down();
}

/* ---- Whoever finds nothing to do waits for who has not flushed yet ---- */

#define SHARED 7u	/* the page that all seal */

static void seal_together(void *arg)
{
	struct rng rng = my_rng();
	struct range va = range_len(alias_va(SHARED), PAGE_SIZE);

	(void)arg;
	for (unsigned round = 0; round < s.rounds; round++) {
		/* Neighbours keep the table in place, and the generations moving. */
		unsigned page = SHARED + 1 + host_cpu();

		CHECK_EQ(sim_access(host_cpu(), va.start, SIM_WRITE).fault, SIM_OK);
		host_barrier();
		if (rng_below(&rng, 2))
			CHECK_EQ(set_memory_ro(alias_va(page), 1), 0);
		CHECK_EQ(set_memory_ro(va.start, 1), 0);
		/* One of us did it; for all of us it is done. */
		sim_check_range(va);
		CHECK_EQ(sim_access(host_cpu(), va.start, SIM_WRITE).fault, SIM_RIGHTS);
		CHECK_EQ(set_memory_rw(alias_va(page), 1), 0);
		host_barrier();
		if (round % host.nr_cpus == host_cpu())
			CHECK_EQ(set_memory_rw(va.start, 1), 0);
		host_barrier();
	}
}

TEST_ID(threads, no_op_callers_wait, "PT2 TL1")
{
	if (host.nr_cpus < 2)
		SKIP("one CPU");
	if (set_up(PT_COLLAPSE_EAGER)) {
		s.rounds = rounds(150, 10000);
		run(seal_together);
	}
	tear_down();
}

/* ---- Shootdowns from every CPU at once ---- */

static void all_at_once(void *arg)
{
	(void)arg;
	for (unsigned round = 0; round < s.rounds; round++) {
		unsigned page = host_cpu() * 3 + 1;

		host_barrier();
		CHECK_EQ(set_memory_ro(alias_va(page), 1), 0);
		sim_check_range(range_len(alias_va(page), PAGE_SIZE));
		host_barrier();
		CHECK_EQ(set_memory_rw(alias_va(page), 1), 0);
		sim_check_range(range_len(alias_va(page), PAGE_SIZE));
	}
}

static u64 all_ipis(void)
{
	u64 sum = 0;

	for (u32 cpu = 0; cpu < host.nr_cpus; cpu++)
		sum += host.ipis[cpu];
	return sum;
}

/* Nobody waits for ever, and every request is answered. */
TEST_ID(threads, shootdowns_from_every_cpu, "TL1 TL2")
{
	struct tlb_stats before, after;
	u64 ipis, asked;

	if (host.nr_cpus < 2)
		SKIP("one CPU");
	if (set_up(PT_COLLAPSE_OFF)) {
		CHECK_EQ(set_memory_ro(alias_va(0), 1), 0);	/* both tables are there from now on */
		s.rounds = rounds(300, 10000);
		tlb_read_stats(&before);
		ipis = all_ipis();
		run(all_at_once);
		tlb_read_stats(&after);
		ipis = all_ipis() - ipis;
		asked = after.nr_tlb_remote_flush - before.nr_tlb_remote_flush;
		CHECK_EQ(after.nr_tlb_remote_flush_received - before.nr_tlb_remote_flush_received, asked);
		CHECK(ipis <= asked);
		test_note("asked=%llu ipis=%llu flushes=%llu pages=%llu", (unsigned long long)asked,
			  (unsigned long long)ipis,
			  (unsigned long long)(after.nr_tlb_local_flush_all - before.nr_tlb_local_flush_all),
			  (unsigned long long)(after.pages_invalidated - before.pages_invalidated));
	}
	tear_down();
}

/* CPU 0 takes no interrupt until all others wait for it. */
static void merge_for_one(void *arg)
{
	(void)arg;
	for (unsigned round = 0; round < s.rounds; round++) {
		unsigned page = host_cpu() * 3 + 1;
		u64 before, flags;

		if (host_cpu()) {
			host_barrier();
			CHECK_EQ(round % 2 ? set_memory_rw(alias_va(page), 1) : set_memory_ro(alias_va(page), 1), 0);
			host_barrier();
			continue;
		}
		flags = arch_irq_save();
		before = load_relaxed(&host.ipis[0]);
		s.seen[0] = load_relaxed(&host.shootdowns[0]);
		host_barrier();		/* with interrupts off, as they are, it takes none */
		while (host_waiting_for(0) < host.nr_cpus - 1)
			sched_yield();
		arch_irq_restore(flags);
		CHECK_EQ(host.shootdowns[0] - s.seen[0], host.nr_cpus - 1);
		host_barrier();		/* the others have counted what they sent */
		CHECK_EQ(load_relaxed(&host.ipis[0]) - before, 1);
	}
}

TEST_ID(threads, requests_that_meet_cost_one_interrupt, "TL1 TL2")
{
	if (host.nr_cpus < 2)
		SKIP("one CPU");
	if (set_up(PT_COLLAPSE_OFF)) {
		CHECK_EQ(set_memory_ro(alias_va(0), 1), 0);
		s.rounds = rounds(40, 2000);
		run(merge_for_one);
	}
	tear_down();
}

/* ---- The page allocator ---- */

#define HELD 24u
#define MARK_WORDS 4u

/* The first words of a block say whose it is, and its last one. */
static void mark(struct page *page, unsigned order, u64 owner)
{
	u64 *words = page_to_virt(page);

	for (unsigned i = 0; i < MARK_WORDS; i++)
		words[i] = owner + i;
	words[(PAGE_SIZE << order) / 8 - 1] = owner;
}

static bool marked(const struct page *page, unsigned order, u64 owner)
{
	const u64 *words = page_to_virt(page);

	for (unsigned i = 0; i < MARK_WORDS; i++)
		if (words[i] != owner + i)
			return false;
	return words[(PAGE_SIZE << order) / 8 - 1] == owner;
}

/* What one CPU has allocated and another frees. */
static struct {
	spinlock_t lock;
	struct page *page;
	unsigned order;
	u64 owner;
} exchange;

static void hand_over(struct page **page, unsigned *order, u64 *owner)
{
	struct page *p;
	unsigned o;
	u64 w;

	spin_lock(&exchange.lock);
	p = exchange.page;
	o = exchange.order;
	w = exchange.owner;
	exchange.page = *page;
	exchange.order = *order;
	exchange.owner = *owner;
	spin_unlock(&exchange.lock);
	*page = p;
	*order = o;
	*owner = w;
}

static void alloc_and_free(void *arg)
{
	struct { struct page *page; unsigned order; u64 owner; } held[HELD] = { { 0 } };
	static const u8 orders[] = { 0, 0, 0, 0, 0, 1, 2, 3, 8, ORDER_2M };
	struct rng rng = my_rng();

	(void)arg;
	for (unsigned round = 0; round < s.rounds; round++) {
		unsigned i = (unsigned)rng_below(&rng, HELD);
		u64 owner = (u64)host_cpu() << 32 | round << 3;

		if (held[i].page) {
			CHECK(marked(held[i].page, held[i].order, held[i].owner));
			if (!rng_below(&rng, 4))
				hand_over(&held[i].page, &held[i].order, &held[i].owner);
			if (held[i].page) {
				CHECK(marked(held[i].page, held[i].order, held[i].owner));
				free_pages(held[i].page, held[i].order);
			}
			held[i].page = NULL;
			continue;
		}
		held[i].order = orders[rng_below(&rng, ARRAY_SIZE(orders))];
		held[i].owner = owner;
		held[i].page = alloc_pages(held[i].order, rng_below(&rng, 2) ? ALLOC_MAY_RECLAIM : 0);
		if (held[i].page)
			mark(held[i].page, held[i].order, owner);
		if (!rng_below(&rng, 64)) {
			struct buddy_stats stats;

			buddy_read_stats(&stats);
			CHECK(stats.frames >= stats.cached);
			alloc_pages(ORDER_MAX, ALLOC_MAY_RECLAIM) ? (void)CHECK(!"nobody frees this much") : (void)0;
		}
	}
	for (unsigned i = 0; i < HELD; i++)
		if (held[i].page) {
			CHECK(marked(held[i].page, held[i].order, held[i].owner));
			free_pages(held[i].page, held[i].order);
		}
}

TEST_ID(threads, page_allocator, "PA1")
{
	struct page *giant[64];
	unsigned n = 0;

	/* No gigabyte is free, so that whoever asks for one has shrinkers called. */
	while (n < ARRAY_SIZE(giant) && (giant[n] = alloc_pages(ORDER_MAX, 0)))
		n++;
	s.seed = test_rng().state;
	s.rounds = rounds(4000, 400000);
	run(alloc_and_free);
	if (exchange.page)
		free_pages(exchange.page, exchange.order);
	exchange.page = NULL;
	while (n)
		free_pages(giant[--n], ORDER_MAX);
}

/* ---- Pools ---- */

static void use_unmapped(struct rng *rng)
{
	struct page *pages[6];
	unsigned orders[ARRAY_SIZE(pages)];

	for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
		orders[i] = rng_below(rng, 4) ? 0 : (unsigned)rng_below(rng, 5);
		pages[i] = unmapped_pages_alloc(orders[i], rng_below(rng, 2) ? UNMAPPED_ZERO : 0, 0, NULL);
		if (pages[i])
			CHECK_EQ(sim_access(host_cpu(), phys_to_va(page_to_phys(pages[i])), SIM_READ).fault, SIM_ABSENT);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(pages); i++)
		if (pages[i]) {
			sim_check_range(range_len(phys_to_va(page_to_phys(pages[i])), PAGE_SIZE << orders[i]));
			unmapped_pages_free(pages[i], orders[i]);
		}
	if (!rng_below(rng, 8))
		unmapped_shrink(BIT(ORDER_2M));
}

static void use_execmem(struct rng *rng)
{
	u8 code[300];
	u64 size = 1 + rng_below(rng, sizeof(code));
	u8 *text = execmem_alloc(EXECMEM_TEXT, size, 0);

	memset(code, (int)host_cpu() + 1, sizeof(code));
	if (!text)
		return;
	CHECK_EQ(execmem_fill(text, code, size), 0);
	for (unsigned i = 0; i < size; i += 100)
		CHECK_EQ(*(u8 *)arch_va_ptr((u64)text + i, false), host_cpu() + 1);
	CHECK_EQ(sim_access(host_cpu(), (u64)text, SIM_EXEC).fault, SIM_OK);
	CHECK_EQ(sim_access(host_cpu(), (u64)text, SIM_WRITE).fault, SIM_RIGHTS);
	execmem_free(text);
}

static void use_pools(void *arg)
{
	struct rng rng = my_rng();

	(void)arg;
	for (unsigned round = 0; round < s.rounds; round++) {
		if (rng_below(&rng, 2))
			use_unmapped(&rng);
		else
			use_execmem(&rng);
	}
}

TEST_ID(threads, pools_of_all_cpus, "UM2 UM3 XM2")
{
	s.seed = test_rng().state;
	s.rounds = rounds(60, 2000);
	run(use_pools);
	CHECK_EQ(unmapped_check(), 0);
	CHECK_EQ(execmem_check(), 0);
}

/* ---- Areas ---- */

static void use_areas(void *arg)
{
	struct rng rng = my_rng();

	(void)arg;
	for (unsigned round = 0; round < s.rounds; round++) {
		u64 size = rng_below(&rng, 8) ? (1 + rng_below(&rng, 20)) * PAGE_SIZE : BLOCK + PAGE_SIZE;
		struct vm_area *found;
		struct page *page;
		u64 *p = vmalloc(size);
		void *map;

		if (!CHECK(p != NULL))
			break;
		*(u64 *)arch_va_ptr((u64)p, true) = round;
		page = alloc_page(0);
		map = page ? vmap(&page, 1, 0) : NULL;
		if (CHECK(map != NULL)) {
			*(u64 *)arch_va_ptr((u64)map, true) = host_cpu();
			CHECK_EQ(*(u64 *)page_to_virt(page), host_cpu());
			vunmap(map);	/* and from here on anybody may get the address */
		}
		if (page)
			free_page(page);
		found = find_vm_area((u64)p + size - 1);
		CHECK(found && found->start == (u64)p);
		CHECK(!find_vm_area_guard((u64)p));
		if (!rng_below(&rng, 16))
			CHECK_EQ(vm_area_check(), 0);
		CHECK_EQ(*(u64 *)arch_va_ptr((u64)p, false), round);
		vfree(p);
	}
}

TEST_ID(threads, areas_of_all_cpus, "VA1 PT4")
{
	s.seed = test_rng().state;
	s.rounds = rounds(100, 5000);
	run(use_areas);
	CHECK_EQ(vm_area_check(), 0);
	CHECK_EQ(sim_check(false), 0);
}

/* Objects of one size: each is one CPU's, from alloc to free. */
static struct slab_cache objects = { .name = "threads", .size = 48, .partial = PFN_NONE };

static void use_objects(void *arg)
{
	struct rng rng = my_rng();
	u64 *held[200] = { NULL };

	(void)arg;
	for (unsigned round = 0; round < s.rounds; round++) {
		unsigned i = (unsigned)rng_below(&rng, ARRAY_SIZE(held));

		if (held[i]) {
			CHECK_EQ(*held[i], (u64)host_cpu() << 32 | i);
			slab_free(&objects, held[i]);
			held[i] = NULL;
		} else if ((held[i] = slab_alloc(&objects))) {
			CHECK_EQ(*held[i], 0);
			*held[i] = (u64)host_cpu() << 32 | i;
		}
	}
	for (unsigned i = 0; i < ARRAY_SIZE(held); i++)
		slab_free(&objects, held[i]);
}

TEST_ID(threads, small_objects, "PA4")
{
	s.seed = test_rng().state;
	s.rounds = rounds(4000, 400000);
	run(use_objects);
	CHECK_EQ(objects.objects, 0);
	CHECK_EQ(objects.slabs, 0);
}

/* ---- A space that CPUs enter and leave ---- */

#define USER_VA 0x40000000ull
#define USER_PAGES 64u

static struct pt_space user_space;
static u64 user_gens[MAX_CPUS];

static void user_enter(void)
{
	u64 irqs = arch_irq_save();

	cpumask_set(&host.coming, host_cpu());
	tlb_space_enter(&user_space);
	cpumask_clear(&host.coming, host_cpu());
	if (host_root(host_cpu()) != user_space.root.raw)
		arch_switch_root(user_space.root);
	arch_irq_restore(irqs);
}

static void user_lazy(void)
{
	u64 irqs = arch_irq_save();

	tlb_space_lazy(&user_space);
	arch_irq_restore(irqs);
}

static void user_leave(void)
{
	u64 irqs = arch_irq_save();

	arch_switch_root(kernel_space.root);
	tlb_space_leave(&user_space);
	arch_irq_restore(irqs);
}

static u64 user_va(unsigned page)
{
	return USER_VA + page * PAGE_SIZE;
}

/*
 * Each page is changed by one CPU, which is inside: to absent, back, and read-only. Others come, read through whatever they
 * have, promise to be quiet, come back, and go.
 */
static void come_and_go(void *arg)
{
	struct rng rng = my_rng();
	bool inside = false;

	(void)arg;
	for (unsigned round = 0; round < s.rounds; round++) {
		unsigned page = (unsigned)rng_below(&rng, USER_PAGES / host.nr_cpus) * host.nr_cpus + host_cpu();
		struct range va = range_len(user_va(page), PAGE_SIZE);
		struct pt_change c = { .va = va };
		struct tlb_batch b;

		if (!inside || !rng_below(&rng, 4)) {
			user_enter();	/* for the first time, from lazy, or for nothing */
			inside = true;
		}
		for (unsigned i = 0; i < 4; i++)
			sim_access(host_cpu(), user_va((unsigned)rng_below(&rng, USER_PAGES)),
				   SIM_USER | (rng_below(&rng, 2) ? SIM_WRITE : SIM_READ));
		tlb_batch_init(&b, &user_space);
		c.op = PT_OP_UNMAP;
		CHECK_EQ(pt_change(&user_space, &c, &b), 0);
		tlb_batch_finish(&b);
		CHECK_EQ(sim_access(host_cpu(), va.start, SIM_USER).fault, SIM_ABSENT);
		c.op = PT_OP_MAP;
		c.pa = phys((s.pfn + page) << PAGE_SHIFT);
		c.set = PTE_P | PTE_U | PTE_W | PTE_NX;
		CHECK_EQ(pt_change(&user_space, &c, &b), 0);
		tlb_batch_finish(&b);
		CHECK_EQ(sim_access(host_cpu(), va.start, SIM_USER | SIM_WRITE).fault, SIM_OK);
		if (rng_below(&rng, 2))
			continue;
		c = (struct pt_change){ .op = PT_OP_PROTECT, .va = va, .clear = PTE_W };
		CHECK_EQ(pt_change(&user_space, &c, &b), 0);
		tlb_batch_finish(&b);
		CHECK_EQ(sim_access(host_cpu(), va.start, SIM_USER | SIM_WRITE).fault, SIM_RIGHTS);
		/* Whoever is inside knows, or has promised not to look. */
		sim_check_range(va);
		if (rng_below(&rng, 2)) {
			user_lazy();
			host_tick(0);
			arch_relax();
			if (rng_below(&rng, 2)) {
				user_enter();
				CHECK(load_relaxed(&user_gens[host_cpu()]) <= load_acquire(&user_space.gen));
				continue;
			}
		}
		user_leave();
		inside = false;
	}
	if (inside)
		user_leave();
}

TEST_ID(threads, who_uses_a_space, "TL1")
{
	struct pt_change c = { .op = PT_OP_MAP, .va = range_len(USER_VA, USER_PAGES * PAGE_SIZE) };
	struct tlb_batch b;

	if (host.nr_cpus < 2)
		SKIP("one CPU");
	if (set_up(PT_COLLAPSE_EAGER) && CHECK_EQ(pt_space_init(&user_space, "user", PT_SPACE_USER, phys(0), user_gens), 0)) {
		page_set_class(s.pfn, PAGES, PAGE_USER);
		c.pa = phys(s.pfn << PAGE_SHIFT);
		c.set = PTE_P | PTE_U | PTE_W | PTE_NX;
		tlb_batch_init(&b, &user_space);
		CHECK_EQ(pt_change(&user_space, &c, &b), 0);
		tlb_batch_finish(&b);
		s.rounds = rounds(300, 20000);
		run(come_and_go);
		/* All are gone: the set is empty, its size is 0, and nobody is behind. */
		CHECK(cpumask_empty(&user_space.cpus));
		CHECK(cpumask_empty(&user_space.lazy));
		CHECK_EQ(user_space.nr_cpus, 0);
		CHECK(tlb_flushed(&user_space, user_space.gen));
		CHECK_EQ(pt_check(&user_space), 0);
		pt_space_destroy(&user_space);
		page_set_class(s.pfn, PAGES, PAGE_KERNEL);
	}
	tear_down();
}

/* ---- In a process of its own: what ends badly, or leaves a CPU dead ---- */

struct findings {
	bool finished;
	u64 faults, reports;
	u64 wrong;
	u64 quarantined, freed;
	int again;
};

static struct findings *found;
static struct apart apart;

static int run_and_count(void *fn)
{
	u64 reports = host_tsan_reports();

	((void (*)(void))fn)();
	found->faults = host_faults();
	found->reports = host_tsan_reports() - reports;
	found->finished = true;
	return 0;
}

static bool run_apart(void (*fn)(void))
{
	found = apart_shared(sizeof(*found));
	return found && apart_run(&apart, run_and_count, (void *)fn);
}

static void forget_findings(void)
{
	apart_unshare(found, sizeof(*found));
	found = NULL;
}

/* ---- A CPU that never acknowledges ---- */

static u64 deaf_pa;	/* where the CPU that is dead saw its page */
static u32 deaf_step;

static void wait_for_step(u32 step)
{
	while (load_acquire(&deaf_step) != step)
		arch_relax();
}

/* The last CPU stops taking interrupts and goes on reading by what its TLB has; the others carry on. */
static void one_is_deaf(void *arg)
{
	u32 dead = host.nr_cpus - 1, me = host_cpu();
	u64 va = (u64)arg;
	struct tlb_batch b;

	if (me == dead) {
		host_irqs_set(false);
		deaf_pa = sim_access(me, va, SIM_READ).pa;
		store_release(&deaf_step, 1);
		while (load_acquire(&deaf_step) != 2) {
			struct sim_result r = sim_access(me, va, SIM_READ);

			/* What it reads is what it always was: nobody got the frame. */
			if (r.fault != SIM_OK || r.pa != deaf_pa || *(u64 *)(HOST_ARENA + r.pa) != va)
				fetch_add(&found->wrong, 1);
			sched_yield();
		}
		host_irqs_set(true);
		return;
	}
	wait_for_step(1);
	if (me)
		return;
	/* Its page is unmapped and freed; then memory is used up, so that whatever is free is handed out. */
	tlb_batch_init(&b, &kernel_space);
	found->wrong += kernel_unmap(range_len(va, PAGE_SIZE), &b) != 0;
	tlb_batch_free(&b, phys_to_page(phys(deaf_pa)), 0);
	tlb_batch_finish(&b);
	found->wrong += !b.dead;
	for (unsigned i = 0; i < 3000; i++) {
		struct page *page = alloc_page(0);

		if (!page)
			break;
		*(u64 *)page_to_virt(page) = ~va;
	}
	/* A request that would have to wait for the dead CPU is refused, not waited for. */
	page_set_class(s.pfn, 1, PAGE_EXECMEM);
	tlb_batch_init(&b, &kernel_space);
	found->again = set_memory_batch(alias_va(0), 1, MEMORY_ROX, &b);
	tlb_batch_finish(&b);
	store_release(&deaf_step, 2);
}

static void with_a_deaf_cpu(void)
{
	struct tlb_stats stats;
	struct page *page = alloc_page(0);
	struct fixture_area a;
	struct tlb_batch b;

	if (!page || !fixture_area_get(&a, PAGE_SIZE, PAGE_SIZE))
		return;
	tlb_batch_init(&b, &kernel_space);
	found->wrong += kernel_map_pages(a.va, &page, 1, fixture_attrs(), PT_4K, &b) != 0;
	tlb_batch_finish(&b);
	*(u64 *)page_to_virt(page) = a.va;
	cpumask_set(&host.deaf, host.nr_cpus - 1);
	run_threads_with(one_is_deaf, (void *)a.va);
	tlb_read_stats(&stats);
	found->quarantined = stats.frames_quarantined;
	found->freed = page->flags & PAGE_QUARANTINE ? 0 : 1;
	found->wrong += cpumask_has(&host.online, host.nr_cpus - 1);
}

TEST_ID(threads, a_cpu_that_never_acknowledges, "TL1")
{
	if (host.nr_cpus < 2)
		SKIP("one CPU");
	if (set_up(PT_COLLAPSE_EAGER) && run_apart(with_a_deaf_cpu)) {
		if (!CHECK(found->finished))
			apart_show(&apart);
		CHECK_EQ(found->wrong, 0);
		CHECK(found->quarantined >= 1);
		CHECK_EQ(found->freed, 0);
		CHECK_EQ(found->again, -EIO);
		CHECK_EQ(found->faults, 0);
	}
	forget_findings();
	tear_down();
}

/* ---- Planted races ---- */

/* Walks without a lock where tables come and go. */
static void lockless_beside_splits(void *arg)
{
	struct rng rng = my_rng();

	(void)arg;
	for (unsigned round = 0; round < s.rounds; round++) {
		unsigned page = (unsigned)rng_below(&rng, PAGES);

		if (host_cpu()) {
			pt_walk_lockless(kernel_space.root, kernel_space.levels, direct_va(page));
		} else {
			CHECK_EQ(set_direct_map_invalid(s.pfn + page, 1), 0);
			CHECK_EQ(set_direct_map_default(s.pfn + page, 1), 0);
		}
	}
}

/* Areas in hollow address space: tables that are empty at first. Walks go on for as long as tables come and go. */
static void lockless_beside_areas(void *arg)
{
	(void)arg;
	if (!host_cpu())
		store_relaxed(&s.seen[0], 0);
	host_barrier();
	if (host_cpu()) {
		while (!load_relaxed(&s.seen[0])) {
			pt_walk_lockless(kernel_space.root, kernel_space.levels, VM_AREA_BASE + 300 * PAGE_SIZE);
			arch_relax();
		}
		return;
	}
	for (unsigned round = 0; round < s.rounds; round++)
		vfree(vmalloc(PAGE_SIZE));
	store_relaxed(&s.seen[0], 1);
}

static const struct {
	const char *name;
	enum mm_plant plant;
	void (*work)(void *arg);
	bool by_sanitizer;	/* nothing else sees it */
} races[] = {
	{ "generation_recorded_behind_the_flush", PLANT_RACE_GEN, change_pages, false },
	{ "walk_without_acquire", PLANT_RACE_WALK, lockless_beside_areas, true },
	{ "area_found_without_the_lock", PLANT_RACE_FIND, use_areas, true },
};

_Static_assert(ARRAY_SIZE(races) == PLANT_RACES_END - PLANTS, "every planted race has a row");

static unsigned planted;

static void with_a_race(void)
{
	u64 seed = s.seed, reports = host_tsan_reports();

	mm_plant = (int)races[planted].plant;
	/* Who was not fast enough has another chance. */
	for (unsigned tries = 0; tries < 60 && !host_faults() && host_tsan_reports() == reports; tries++) {
		s.seed = seed + tries;
		run(races[planted].work);
	}
}

static unsigned count_races(void)
{
	return ARRAY_SIZE(races);
}

static void name_race(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "%s", races[row].name);
}

TEST_ROWS(threads_plant, is_caught, "TL5", 0, count_races, name_race)
{
	planted = test_row();
	if (host.nr_cpus < 2)
		SKIP("one CPU");
	if (races[planted].by_sanitizer && !HOST_TSAN)
		SKIP("ThreadSanitizer is what sees it: `make tsan`");
	if (set_up(PT_COLLAPSE_EAGER)) {
		s.rounds = 2000;
		if (run_apart(with_a_race)) {
			/* By a fault of the simulation, a report of the sanitizer, or an assertion of the code's own. */
			test_note("finished=%d faults=%llu reports=%llu", found->finished,
				  (unsigned long long)found->faults, (unsigned long long)found->reports);
			CHECK(!found->finished || found->faults + found->reports > 0);
		}
		forget_findings();
	}
	tear_down();
}

/* The same work with nothing planted: clean. */
TEST_ID(threads_plant, control_is_clean, "TL5")
{
	if (host.nr_cpus < 2)
		SKIP("one CPU");
	if (set_up(PT_COLLAPSE_EAGER)) {
		u64 reports = host_tsan_reports();

		s.rounds = rounds(500, 2000);
		run(lockless_beside_splits);
		run(lockless_beside_areas);
		run(use_areas);
		CHECK_EQ(host_tsan_reports(), reports);
		CHECK_EQ(host_faults(), 0);
	}
	tear_down();
}
