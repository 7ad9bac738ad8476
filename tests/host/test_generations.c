/* SPDX-License-Identifier: MIT */
/*
 * Several batches open at once, on several CPUs: who finds nothing to do, or is granted a right, must not come back while a
 * CPU still holds what another batch has taken away but not flushed (SPEC PT2, PT5, TL1). And break-before-make where it is
 * easily forgotten: user leaves, tables in the way, collapses (PT3).
 */
#include "kernel/base/errno.h"
#include "mm/buddy.h"
#include "mm/alias.h"
#include "mm/directmap.h"
#include "mm/kernel_map.h"
#include "mm/set_memory.h"
#include "mm/vmalloc.h"
#include "tests/fixture.h"
#include "tests/host/arch_host.h"
#include "tests/host/sim_tlb.h"
#include "tests/test.h"

/* Take W away, in a batch that stays open. */
static void take_w(u64 va, u64 size, struct tlb_batch *b)
{
	struct pt_change c = { .op = PT_OP_PROTECT, .va = range_len(va, size), .clear = PTE_W };
	CHECK_EQ(pt_change(&kernel_space, &c, b), 0);
}

/* A batch that has a generation of its own open waits for the later one of another batch, too, where it finds nothing to do. */
TEST_ID(generations, waits_for_others_behind_its_own, "PT2 PT5 TL1")
{
	enum pt_collapse_policy policy;
	struct fixture_area a;
	struct tlb_batch b, c;

	if (host.nr_cpus < 3)
		SKIP("fewer than 3 CPUs");
	policy = fixture_policy(PT_COLLAPSE_OFF);
	if (fixture_area_get(&a, 128 * PAGE_SIZE, PAGE_SIZE)) {
		u64 g;
		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, a.size), fixture_nowhere() + PAGE_SIZE, fixture_attrs(), 0), 0);
		CHECK_EQ(sim_access(2, a.va + 5 * PAGE_SIZE, SIM_WRITE).fault, SIM_OK);
		tlb_batch_init(&b, &kernel_space);
		tlb_batch_init(&c, &kernel_space);
		take_w(a.va, PAGE_SIZE, &b);		/* its own: generation 1 */
		host_cpu_set(1);
		take_w(a.va + 5 * PAGE_SIZE, PAGE_SIZE, &c);	/* of another: generation 2, still open */
		g = kernel_space.gen;
		host_cpu_set(0);
		take_w(a.va + 5 * PAGE_SIZE, PAGE_SIZE, &b);	/* nothing to do, but generation 2 to be waited for */
		tlb_batch_finish(&b);
		CHECK(tlb_flushed(&kernel_space, g));
		CHECK_EQ(sim_access(2, a.va + 5 * PAGE_SIZE, SIM_WRITE).fault, SIM_RIGHTS);
		host_cpu_set(1);
		tlb_batch_finish(&c);
		host_cpu_set(0);
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

/* A leaf that was changed, and not flushed yet, is split: who finds nothing to do in one of the parts waits as for the whole. */
TEST_ID(generations, a_split_keeps_the_generation, "PT2 PT5 TL1")
{
	enum pt_collapse_policy policy;
	struct fixture_area a;
	struct tlb_batch c;

	if (host.nr_cpus < 3)
		SKIP("fewer than 3 CPUs");
	policy = fixture_policy(PT_COLLAPSE_OFF);
	if (fixture_area_get(&a, 2 * MIB, 2 * MIB)) {
		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, a.size), fixture_nowhere(), fixture_attrs(), 0), 0);
		CHECK_EQ(sim_access(2, a.va + 5 * PAGE_SIZE, SIM_WRITE).fault, SIM_OK);
		host_cpu_set(1);
		tlb_batch_init(&c, &kernel_space);
		take_w(a.va, a.size, &c);
		host_cpu_set(0);
		CHECK_EQ(fixture_split(range_len(a.va, PAGE_SIZE), PT_4K), 0);
		/* Nothing to do, but the other batch is to be waited for. */
		CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(a.va + 5 * PAGE_SIZE, PAGE_SIZE), 0, 0, PTE_W), 0);
		CHECK_EQ(sim_access(2, a.va + 5 * PAGE_SIZE, SIM_WRITE).fault, SIM_RIGHTS);
		host_cpu_set(1);
		tlb_batch_finish(&c);
		host_cpu_set(0);
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

/* The same with a 1G leaf that a change of one page splits, not the test hook: the tables have the generation of the leaf. */
TEST_ID(generations, a_split_by_a_change_keeps_the_generation, "PT2 PT5 TL1")
{
	enum pt_collapse_policy policy;
	struct fixture_area a;
	struct tlb_batch c, d;

	if (host.nr_cpus < 3 || arch_mm.max_leaf < PT_1G)
		SKIP("fewer than 3 CPUs, or no 1G leaves");
	policy = fixture_policy(PT_COLLAPSE_OFF);
	if (fixture_area_get(&a, GIB, GIB)) {
		struct pt_change one_page_rw = { .op = PT_OP_PROTECT, .va = range_len(a.va, PAGE_SIZE), .set = PTE_W };

		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, a.size), fixture_nowhere(), fixture_attrs(), 0), 0);
		CHECK_EQ(sim_access(2, a.va + 8 * MIB, SIM_WRITE).fault, SIM_OK);
		host_cpu_set(1);
		tlb_batch_init(&c, &kernel_space);
		take_w(a.va, a.size, &c);
		tlb_batch_init(&d, &kernel_space);
		CHECK_EQ(pt_change(&kernel_space, &one_page_rw, &d), 0);
		host_cpu_set(0);
		CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(a.va + 8 * MIB, 2 * MIB), 0, 0, PTE_W), 0);
		CHECK_EQ(sim_access(2, a.va + 8 * MIB, SIM_WRITE).fault, SIM_RIGHTS);
		host_cpu_set(1);
		tlb_batch_finish(&c);
		tlb_batch_finish(&d);
		host_cpu_set(0);
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

static struct pt_space space;
static u64 gens[MAX_CPUS];

/* ---- Break-before-make ---- */

/* User leaves are broken before they are split, as the kernel's are: one rendezvous. */
TEST_ID(generations, user_leaves_are_broken_before_a_split, "PT3")
{
	int bbm = pt_bbm;
	struct page *block = alloc_pages(ORDER_2M, 0);
	struct tlb_batch b;
	struct pt_change c = { .op = PT_OP_MAP, .va = range_len(GIB, 2 * MIB), .pa = page_to_phys(block), .set = PTE_P | PTE_U | PTE_W };
	u64 before;
	page_set_class(page_to_pfn(block), PT_ENTRIES, PAGE_USER);
	CHECK_EQ(pt_space_init(&space, "user", PT_SPACE_USER, phys(0), gens), 0);
	tlb_batch_init(&b, &space);
	CHECK_EQ(pt_change(&space, &c, &b), 0);
	pt_bbm = 1;
	before = host.rendezvous;
	c = (struct pt_change){ .op = PT_OP_PROTECT, .va = range_len(GIB, PAGE_SIZE), .clear = PTE_W };
	CHECK_EQ(pt_change(&space, &c, &b), 0);
	CHECK_EQ(space.stats[PT_OTHER].splits[PT_2M], 1);
	CHECK_EQ(host.rendezvous, before + 1);
	pt_bbm = bbm;
	tlb_batch_finish(&b);
	pt_space_destroy(&space);
	page_set_class(page_to_pfn(block), PT_ENTRIES, PAGE_KERNEL);
	free_pages(block, ORDER_2M);
}

/*
 * All of a gigabyte but what is being split out of it is taken, so that the tables come from the very leaf that is broken
 * next, unless they are kept out of it.
 */
TEST_FLAGS(generations, tables_are_not_in_the_leaf_that_is_broken, "PT3", TEST_KEEPS_MAP)
{
	int bbm = pt_bbm;
	enum pt_collapse_policy policy;
	struct page *big, *p, *taken = NULL;
	struct pt_slot two;
	int rc;

	if (arch_mm.max_leaf < PT_1G)
		SKIP("no 1G leaves");
	policy = fixture_policy(PT_COLLAPSE_OFF);
	big = alloc_pages(ORDER_1G, 0);
	while (big && (p = alloc_page(0))) {
		p->private = taken ? page_to_pfn(taken) + 1 : 0;
		taken = p;
	}
	if (big)
		free_pages(big, ORDER_1G);
	p = alloc_page(0);
	pt_bbm = 1;
	rc = p ? set_direct_map_invalid(page_to_pfn(p), 1) : -ENOMEM;
	pt_bbm = bbm;
	if (big && CHECK_EQ(rc, 0)) {
		spin_lock(&kernel_space.lock);
		two = pt_walk(&kernel_space, phys_to_va(page_to_phys(p)), PT_2M);
		spin_unlock(&kernel_space.lock);
		CHECK(page_to_pfn(virt_to_page(two.pte)) >> BLOCK_ORDER != page_to_pfn(p) >> BLOCK_ORDER);
		CHECK_EQ(set_direct_map_default(page_to_pfn(p), 1), 0);
	}
	free_page(p);
	while (taken) {
		struct page *next = taken->private ? pfn_to_page(taken->private - 1) : NULL;

		taken->private = 0;
		free_page(taken);
		taken = next;
	}
	pt_set_policy(&kernel_space, PT_COLLAPSE_EAGER);
	pt_settle(&kernel_space);
	fixture_policy(policy);
}

/* What is pinned is not broken, and so not collapsed; as soon as it is not pinned any more, it is. */
TEST_ID(generations, a_collapse_put_off_is_tried_again, "PT3 PT4")
{
	int bbm = pt_bbm;
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	struct fixture_area a;
	if (fixture_area_get(&a, 2 * MIB, 2 * MIB)) {
		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, a.size), fixture_nowhere(), fixture_attrs(), 0), 0);
		CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(a.va, PAGE_SIZE), 0, 0, PTE_W), 0);
		CHECK_EQ(fixture_leaf(a.va).level, PT_4K);
		pt_bbm = 1;
		u32 np = host.nr_pinned;
		host.pinned[host.nr_pinned++] = range_len(a.va, 2 * MIB);
		CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(a.va, PAGE_SIZE), 0, PTE_W, 0), 0);
		host.nr_pinned = np;
		pt_settle(&kernel_space);
		CHECK_EQ(fixture_leaf(a.va).level, PT_2M);
		pt_bbm = bbm;
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

/* ---- Rights that are not granted ---- */

/* Constants have no W in the direct map, by default or by wish. */
TEST_ID(generations, constants_stay_so_in_the_direct_map, "PT2 PT5")
{
	struct page *p = alloc_page(0);
	page_set_class(page_to_pfn(p), 1, PAGE_KERNEL_RODATA);
	CHECK_EQ(set_direct_map_default(page_to_pfn(p), 1), 0);
	CHECK(!(fixture_leaf(phys_to_va(page_to_phys(p))).value.raw & PTE_W));
	CHECK_EQ(set_memory_rw(phys_to_va(page_to_phys(p)), 1), -EPERM);
	page_set_class(page_to_pfn(p), 1, PAGE_KERNEL);
	CHECK_EQ(set_direct_map_default(page_to_pfn(p), 1), 0);
	free_page(p);
	pt_settle(&kernel_space);
}

/* Where a frame is executed, and where the direct map writes to it; how often a CPU could do the one while another did the other. */
static u64 x_va, d_va;
static unsigned seen;

static void try_both(void *arg)
{
	(void)arg;
	if (sim_access(1, x_va, SIM_EXEC).fault == SIM_OK && sim_access(2 % host.nr_cpus, d_va, SIM_WRITE).fault == SIM_OK)
		seen++;
}

/*
 * X is taken from text and W given to its frame, in one batch: by set_memory, or by unmapping the text and giving the frame back to the
 * direct map. W waits until all CPUs have forgotten X.
 */
static void x_then_w(bool by_set_memory)
{
	struct fixture_area a;
	struct page *p;
	struct tlb_batch b;

	if (host.nr_cpus < 3)
		SKIP("fewer than 3 CPUs");
	p = alloc_page(0);
	page_set_class(page_to_pfn(p), 1, PAGE_EXECMEM);
	if (fixture_area_get(&a, PAGE_SIZE, PAGE_SIZE)) {
		tlb_batch_init(&b, &kernel_space);
		CHECK_EQ(kernel_map_pages(a.va, &p, 1, fixture_attrs(), PT_4K, &b), 0);
		tlb_batch_finish(&b);
		CHECK_EQ(set_memory_rox(a.va, 1), 0);
		x_va = a.va;
		d_va = phys_to_va(page_to_phys(p));
		seen = 0;
		CHECK_EQ(sim_access(1, x_va, SIM_EXEC).fault, SIM_OK);
		host.meanwhile = try_both;
		tlb_batch_init(&b, &kernel_space);
		if (by_set_memory) {
			CHECK_EQ(set_memory_batch(a.va, 1, MEMORY_NX, &b), 0);
			CHECK_EQ(set_memory_batch(a.va, 1, MEMORY_RW, &b), 0);
		} else {
			CHECK_EQ(kernel_unmap(range_len(a.va, PAGE_SIZE), &b), 0);
			CHECK_EQ(set_direct_map_batch(page_to_pfn(p), 1, true, &b), 0);
		}
		tlb_batch_finish(&b);
		host.meanwhile = NULL;
		CHECK_EQ(seen, 0);
	}
	fixture_area_put(&a);
	page_set_class(page_to_pfn(p), 1, PAGE_KERNEL);
	CHECK_EQ(set_direct_map_default(page_to_pfn(p), 1), 0);
	free_page(p);
	pt_settle(&kernel_space);
}

TEST_ID(generations, w_waits_for_nx_in_one_batch, "PT2 PT5 TL1")
{
	x_then_w(true);
}

TEST_ID(generations, w_waits_for_the_unmapping_in_one_batch, "PT2 PT5 TL1")
{
	x_then_w(false);
}

/*
 * The other way round: another CPU has taken a frame out of the direct map and not flushed yet. Its text is executable only when
 * the CPUs have forgotten that they could write to it.
 */
TEST_ID(generations, executable_only_when_writers_forgot, "PT2 PT5 TL1")
{
	struct fixture_area a;
	struct page *p;
	struct tlb_batch b, c;

	if (host.nr_cpus < 3)
		SKIP("fewer than 3 CPUs");
	p = alloc_page(0);
	page_set_class(page_to_pfn(p), 1, PAGE_EXECMEM);
	if (fixture_area_get(&a, PAGE_SIZE, PAGE_SIZE)) {
		tlb_batch_init(&b, &kernel_space);
		tlb_batch_init(&c, &kernel_space);
		CHECK_EQ(kernel_map_pages(a.va, &p, 1, fixture_attrs(), PT_4K, &b), 0);
		tlb_batch_finish(&b);
		CHECK_EQ(kernel_unmap(range_len(a.va, PAGE_SIZE), &b), 0);
		tlb_batch_finish(&b);
		d_va = phys_to_va(page_to_phys(p));
		x_va = a.va;
		CHECK_EQ(sim_access(2, d_va, SIM_WRITE).fault, SIM_OK);
		host_cpu_set(1);
		CHECK_EQ(set_direct_map_batch(page_to_pfn(p), 1, false, &c), 0);
		host_cpu_set(0);
		CHECK_EQ(kernel_map_pages(a.va, &p, 1, fixture_attrs() & ~(PTE_W | PTE_NX), PT_4K, &b), 0);
		tlb_batch_finish(&b);
		CHECK(!(sim_access(1, x_va, SIM_EXEC).fault == SIM_OK && sim_access(2, d_va, SIM_WRITE).fault == SIM_OK));
		host_cpu_set(1);
		tlb_batch_finish(&c);
		host_cpu_set(0);
	}
	fixture_area_put(&a);
	page_set_class(page_to_pfn(p), 1, PAGE_KERNEL);
	CHECK_EQ(set_direct_map_default(page_to_pfn(p), 1), 0);
	free_page(p);
	pt_settle(&kernel_space);
}

/* Frames given back to the direct map, by one who was not the one to take them out: he waits for the flush that is still open. */
TEST_ID(generations, giving_back_waits_for_the_taking, "PT2 PT5 TL1")
{
	struct page *p;
	struct tlb_batch c;
	u64 g;

	if (host.nr_cpus < 3)
		SKIP("fewer than 3 CPUs");
	p = alloc_pages(3, 0);
	host_cpu_set(1);
	tlb_batch_init(&c, &kernel_space);
	CHECK_EQ(set_direct_map_batch(page_to_pfn(p), 8, false, &c), 0);
	g = kernel_space.gen;
	host_cpu_set(0);
	CHECK_EQ(set_direct_map_default(page_to_pfn(p), 8), 0);
	CHECK(tlb_flushed(&kernel_space, g));
	host_cpu_set(1);
	tlb_batch_finish(&c);
	host_cpu_set(0);
	free_pages(p, 3);
	pt_settle(&kernel_space);
}
