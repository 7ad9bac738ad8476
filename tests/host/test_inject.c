/* SPDX-License-Identifier: MIT */
/*
 * Failing allocations (SPEC PA8, issue "Must show"): for each public operation that may allocate, the first
 * allocation fails, then the second, and so on until it needs no more. A failure is -ENOMEM (or NULL) and
 * leaves every leaf, table, counter and free frame as it was; an operation that can do with less may succeed
 * instead, and is undone. Every place in mm/ that allocates must have been failed at least once.
 */
#include <string.h>

#include "boot/boot_info.h"
#include "kernel/base/errno.h"
#include "kernel/base/fmt.h"
#include "mm/account.h"
#include "mm/buddy.h"
#include "mm/depot.h"
#include "mm/directmap.h"
#include "mm/execmem.h"
#include "mm/kernel_map.h"
#include "mm/kmalloc.h"
#include "mm/page_owner.h"
#include "mm/set_memory.h"
#include "mm/temp_map.h"
#include "mm/unmapped.h"
#include "mm/vmalloc.h"
#include "tests/fixture.h"
#include "tests/host/arch_host.h"
#include "tests/host/sim_tlb.h"
#include "tests/test.h"

#define BLOCK (2 * MIB)
#define AREAS 256u

/* What the operations work on. */
static struct {
	struct page *block;		/* 2 MiB of frames, executable class */
	pfn_t pfn;
	struct page *pages[PT_ENTRIES];
	struct fixture_area a, fresh;	/* the block by one 2M leaf, read-only; addresses never mapped */
	struct pt_space space;
	u64 gens[MAX_CPUS];
	struct vm_area *areas[AREAS];
	u32 held;			/* blocks of 2 MiB: a list through struct page */
	void *p;
} s;

static u64 block_va(void)
{
	return phys_to_va(phys(s.pfn << PAGE_SHIFT));
}

static u64 ro_attrs(void)
{
	return fixture_attrs() & ~PTE_W;
}

/* ---- The operations: run() and, if it succeeded, undo() ---- */

static int alias_ro(void)
{
	return set_memory_ro(s.a.va + 5 * PAGE_SIZE, 3);
}

static int alias_rw(void)
{
	return set_memory_rw(s.a.va + 5 * PAGE_SIZE, 3);
}

static int alias_rox(void)
{
	return set_memory_rox(s.a.va + PAGE_SIZE, 1);
}

static int alias_x(void)
{
	return set_memory_x(s.a.va + PAGE_SIZE, 1);
}

static int alias_nx(void)
{
	return set_memory_nx(s.a.va + PAGE_SIZE, 1);
}

/* rox, then nx of one page in the middle: that one splits. */
static int whole_rox(void)
{
	return set_memory_rox(s.a.va, PT_ENTRIES);
}

static int part_nx(void)
{
	return set_memory_nx(s.a.va + 9 * PAGE_SIZE, 2);
}

static void undo_rights(void)
{
	CHECK_EQ(set_memory_nx(s.a.va, PT_ENTRIES), 0);
	CHECK_EQ(set_memory_rw(s.a.va, PT_ENTRIES), 0);
	CHECK_EQ(set_memory_ro(s.a.va, PT_ENTRIES), 0);
	CHECK_EQ(set_memory_rw(block_va(), PT_ENTRIES), 0);
}

static void seal_direct(void)
{
	CHECK_EQ(set_memory_ro(block_va(), PT_ENTRIES), 0);
}

static void whole_x_first(void)
{
	CHECK_EQ(whole_rox(), 0);
}

static int direct_ro(void)
{
	return set_memory_ro(block_va() + PAGE_SIZE, 1);
}

static int direct_invalid(void)
{
	return set_direct_map_invalid(s.pfn + 7, 1);
}

static int direct_default(void)
{
	return set_direct_map_default(s.pfn + 7, 1);
}

static void block_out(void)
{
	CHECK_EQ(set_direct_map_invalid(s.pfn, PT_ENTRIES), 0);
}

static void undo_direct(void)
{
	CHECK_EQ(set_direct_map_default(s.pfn, PT_ENTRIES), 0);
}

static int map_pages(void)
{
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &kernel_space);
	/* Over the edge of a block: two tables of the lowest level. */
	rc = kernel_map_pages(s.fresh.va + BLOCK - 3 * PAGE_SIZE, s.pages, 6, ro_attrs(), PT_4K, &batch);
	tlb_batch_finish(&batch);
	return rc;
}

static int map_range(void)
{
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &kernel_space);
	rc = kernel_map_range(s.fresh.va + PAGE_SIZE, range_len(s.pfn << PAGE_SHIFT, BLOCK), ro_attrs(),
			      PT_2M, &batch);
	tlb_batch_finish(&batch);
	return rc;
}

static void undo_map(void)
{
	struct tlb_batch batch;

	tlb_batch_init(&batch, &kernel_space);
	CHECK_EQ(kernel_unmap(range_len(s.fresh.va, s.fresh.size), &batch), 0);
	tlb_batch_finish(&batch);
}

static int unmap_part(void)
{
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &kernel_space);
	rc = kernel_unmap(range_len(s.a.va + PAGE_SIZE, 4 * PAGE_SIZE), &batch);
	tlb_batch_finish(&batch);
	return rc;
}

static void undo_unmap(void)
{
	struct tlb_batch batch;

	tlb_batch_init(&batch, &kernel_space);
	CHECK_EQ(kernel_map_pages(s.a.va + PAGE_SIZE, s.pages + 1, 4, ro_attrs(), PT_2M, &batch), 0);
	tlb_batch_finish(&batch);
}

static int split_alias(void)
{
	return fixture_split(range_len(s.a.va, PAGE_SIZE), PT_4K);
}

static int split_direct(void)
{
	return fixture_split(range_len(block_va(), BLOCK), PT_4K);
}

static int change_map(void)
{
	return fixture_change(PT_OP_MAP, range_len(s.fresh.va + PAGE_SIZE, BLOCK), fixture_nowhere(),
			      fixture_attrs(), 0);
}

static int fill_top(void)
{
	return pt_fill_top(&s.space, range(0, PAGE_SIZE));
}

static int space_init(void)
{
	return pt_space_init(&s.space, "test", PT_SPACE_USER, phys(0), s.gens);
}

static void space_first(void)
{
	CHECK_EQ(space_init(), 0);
}

static void undo_space(void)
{
	pt_space_destroy(&s.space);
}

static int get_areas(void)
{
	for (unsigned i = 0; i < AREAS; i++) {
		s.areas[i] = get_vm_area(PAGE_SIZE, PAGE_SIZE, VM_AREA_SPARSE, "inject");
		if (!s.areas[i]) {
			while (i--)
				free_vm_area(s.areas[i]);
			return -ENOMEM;
		}
	}
	return 0;
}

static void put_areas(void)
{
	for (unsigned i = 0; i < AREAS; i++)
		free_vm_area(s.areas[i]);
}

static int pointer(void *p)
{
	s.p = p;
	return p ? 0 : -ENOMEM;
}

static int vmalloc_small(void)
{
	return pointer(vmalloc(5 * PAGE_SIZE));
}

static int vmalloc_large(void)
{
	return pointer(vmalloc(BLOCK + 3 * PAGE_SIZE));
}

static void undo_vmalloc(void)
{
	vfree(s.p);
}

static int vmap_pages(void)
{
	return pointer(vmap(s.pages + 1, 300, VMAP_RO));
}

static void undo_vmap(void)
{
	vunmap(s.p);
}

static int ioremap_some(void)
{
	return pointer(ioremap(fixture_nowhere() + 0x123, 5 * PAGE_SIZE, IOREMAP_UC));
}

static void undo_ioremap(void)
{
	iounmap(s.p);
}

static int roots_made(void)
{
	return temp_map_init(host.nr_cpus);
}

static void roots_back(void)
{
	if (!temp_map_space(0))
		CHECK_EQ(temp_map_init(host.nr_cpus), 0);
}

static int page_taken(void)
{
	s.p = unmapped_pages_alloc(0, 0, 0, NULL);
	return s.p ? 0 : -ENOMEM;
}

static void cache_off(void)
{
	s.p = NULL;
	CHECK_EQ(unmapped_set_mode(UNMAPPED_OFF), 0);
}

static void page_given_back(void)
{
	if (s.p)
		unmapped_pages_free(s.p, 0);
	s.p = NULL;
	CHECK_EQ(unmapped_set_mode(UNMAPPED_2M), 0);
	CHECK_EQ(unmapped_check(), 0);
}

/* Nothing of 2 MiB is free: then a refill asks for less. */
static void blocks_gone(void)
{
	struct page *page;

	s.p = NULL;
	s.held = PFN_NONE;
	unmapped_shrink(UNMAPPED_ALL);
	while ((page = alloc_pages(ORDER_2M, 0))) {
		page->next = s.held;
		s.held = (u32)page_to_pfn(page);
	}
}

static void blocks_back(void)
{
	page_given_back();
	while (s.held != PFN_NONE) {
		struct page *page = pfn_to_page(s.held);

		s.held = page->next;
		free_pages(page, ORDER_2M);
	}
}

static void execmem_pages_first(void)
{
	CHECK_EQ(execmem_set_policy(EXECMEM_PAGES), 0);
}

static int execmem_pages(void)
{
	return pointer(execmem_alloc(EXECMEM_TEXT, 5 * PAGE_SIZE, 0));
}

static void undo_execmem(void)
{
	execmem_free(s.p);
	CHECK_EQ(execmem_set_policy(EXECMEM_HUGE), 0);
}

/* Several sizes, one after the other, until one fails. */
static int objects(void *(*allocate)(size_t size, unsigned flags))
{
	static const size_t sizes[] = { 16, 200, 1000, 4096 };
	void *got[ARRAY_SIZE(sizes)];
	unsigned n = 0;

	while (n < ARRAY_SIZE(sizes) && (got[n] = allocate(sizes[n], 0)))
		n++;
	for (unsigned i = 0; i < n; i++)
		kfree(got[i]);
	kmalloc_drain();
	return n < ARRAY_SIZE(sizes) ? -ENOMEM : 0;
}

static int objects_taken(void)
{
	return objects(kmalloc);
}

static int objects_taken_nolock(void)
{
	return objects(kmalloc_nolock);
}

static struct account account;

static void account_first(void)
{
	s.p = NULL;
	CHECK_EQ(account_open(&account, "test", NULL, 100), 0);
}

static int page_charged(void)
{
	s.p = unmapped_pages_alloc(3, 0, 0, &account);
	if (!s.p)
		CHECK_EQ(account_charged(&account), 0);
	CHECK_EQ(account_check(), 0);
	return s.p ? 0 : -ENOMEM;
}

static void charge_back(void)
{
	if (s.p)
		unmapped_pages_free(s.p, 3);
	s.p = NULL;
	unmapped_shrink(UNMAPPED_ALL);
	CHECK_EQ(account_close(&account), 0);
}

static struct depot depot;

/* Nothing is kept of a stack that there was no room for. */
static int stack_put(void)
{
	static const u64 stack[] = { 1, 2, 3 };

	if (depot_put(&depot, stack, ARRAY_SIZE(stack)))
		return 0;
	CHECK_EQ(depot.stacks, 0);
	return -ENOMEM;
}

static void stack_forgotten(void)
{
	depot_reset(&depot);
}

static const struct operation {
	const char *name;
	void (*first)(void);	/* may be NULL; undone by undo too, which runs either way then */
	int (*run)(void);
	void (*undo)(void);
	u64 at_least;		/* allocations that it is known to take */
} operations[] = {
	{ "set_memory_ro", NULL, alias_ro, undo_rights, 1 },
	{ "set_memory_rw", seal_direct, alias_rw, undo_rights, 2 },
	{ "set_memory_rox", NULL, alias_rox, undo_rights, 2 },
	{ "set_memory_x", seal_direct, alias_x, undo_rights, 1 },
	{ "set_memory_nx", whole_x_first, alias_nx, undo_rights, 1 },
	{ "set_memory_rox.whole", NULL, whole_rox, undo_rights, 0 },
	{ "set_memory_nx.part", whole_x_first, part_nx, undo_rights, 1 },
	{ "set_memory_ro.direct", NULL, direct_ro, undo_rights, 1 },
	{ "set_direct_map_invalid", NULL, direct_invalid, undo_direct, 1 },
	{ "set_direct_map_default", block_out, direct_default, undo_direct, 1 },
	{ "kernel_map_pages", NULL, map_pages, undo_map, 2 },
	{ "kernel_map_range", NULL, map_range, undo_map, 2 },
	{ "kernel_unmap", NULL, unmap_part, undo_unmap, 1 },
	{ "pt_split_range.alias", NULL, split_alias, NULL, 1 },
	{ "pt_split_range.direct", NULL, split_direct, NULL, 1 },
	{ "pt_change.map", NULL, change_map, undo_map, 2 },
	{ "pt_space_init", NULL, space_init, undo_space, 1 },
	{ "pt_fill_top", space_first, fill_top, undo_space, 1 },
	{ "get_vm_area", NULL, get_areas, put_areas, 2 },
	{ "vmalloc.small", NULL, vmalloc_small, undo_vmalloc, 6 },
	{ "vmalloc.large", NULL, vmalloc_large, undo_vmalloc, 4 },
	{ "vmap", NULL, vmap_pages, undo_vmap, 1 },
	{ "ioremap", NULL, ioremap_some, undo_ioremap, 0 },
	{ "execmem_alloc.pages", execmem_pages_first, execmem_pages, undo_execmem, 5 },
	{ "kmalloc", NULL, objects_taken, NULL, 4 },
	{ "kmalloc_nolock", NULL, objects_taken_nolock, NULL, 4 },
	{ "temp_map_init", temp_map_reset, roots_made, roots_back, 5 },
	{ "unmapped_pages_alloc", NULL, page_taken, page_given_back, 1 },
	{ "unmapped_pages_alloc.no_block", blocks_gone, page_taken, blocks_back, 2 },
	{ "unmapped_pages_alloc.account", account_first, page_charged, charge_back, 1 },
	{ "depot_put", NULL, stack_put, stack_forgotten, 1 },
	{ "page_owner_start", NULL, page_owner_start, page_owner_stop, 2 },
	{ "unmapped_pages_alloc.single", cache_off, page_taken, page_given_back, 1 },
};

/* ---- Before and after ---- */

static bool set_up(void)
{
	struct tlb_batch batch;
	int rc;

	s.block = alloc_pages(ORDER_2M, 0);
	if (!CHECK(s.block != NULL))
		return false;
	s.pfn = page_to_pfn(s.block);
	page_set_class(s.pfn, PT_ENTRIES, PAGE_EXECMEM);
	for (unsigned i = 0; i < PT_ENTRIES; i++)
		s.pages[i] = s.block + i;
	if (!fixture_area_get(&s.a, BLOCK, BLOCK) || !fixture_area_get(&s.fresh, 2 * GIB, GIB))
		return false;
	tlb_batch_init(&batch, &kernel_space);
	rc = kernel_map_pages(s.a.va, s.pages, PT_ENTRIES, ro_attrs(), PT_2M, &batch);
	tlb_batch_finish(&batch);
	return CHECK_EQ(rc, 0);
}

static void tear_down(void)
{
	alloc_inject.armed = 0;
	fixture_area_put(&s.a);
	fixture_area_put(&s.fresh);
	if (!s.block)
		return;
	CHECK_EQ(set_direct_map_default(s.pfn, PT_ENTRIES), 0);
	page_set_class(s.pfn, PT_ENTRIES, PAGE_KERNEL);
	free_pages(s.block, ORDER_2M);
	s.block = NULL;
}

/* Leaves and free frames, without the counts of events. */
static void same_shape(const struct fixture_picture *before)
{
	struct fixture_picture now;

	pt_settle(&kernel_space);
	fixture_take(&now);
	CHECK_EQ(now.leaves, before->leaves);
	CHECK_EQ(now.digest, before->digest);
	CHECK_EQ(now.free, before->free);
	for (unsigned part = 0; part < PT_PARTS; part++)
		CHECK_EQ(now.stats[part].tables, before->stats[part].tables);
}

/* The operation with its n-th allocation failing. Returns whether there was an n-th one. */
static bool fail_nth(const struct operation *op, u64 n)
{
	struct fixture_picture base, before;
	u32 refused;
	int rc;

	pt_settle(&kernel_space);
	fixture_take(&base);
	if (op->first)
		op->first();
	pt_settle(&kernel_space);
	fixture_take(&before);
	alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = n };
	rc = op->run();
	alloc_inject.armed = 0;
	refused = alloc_inject.failed != 0;
	CHECK(alloc_inject.failed <= 1);
	if (rc) {
		CHECK_EQ(rc, -ENOMEM);
		CHECK(refused);
		fixture_same(&before);
		if (!refused)
			return false;
	}
	CHECK_EQ(sim_check(true), 0);
	CHECK_EQ(pt_check(&kernel_space), 0);
	if (op->undo && (!rc || op->first))
		op->undo();
	same_shape(&base);
	return refused;
}

/* Returns how many allocations it takes. */
static u64 fail_each(const struct operation *op)
{
	u64 n = 1;

	while (n < 10000 && fail_nth(op, n))
		n++;
	CHECK(n - 1 >= op->at_least);
	return n - 1;
}

static unsigned count_operations(void)
{
	return ARRAY_SIZE(operations);
}

static void name_operation(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "%s", operations[row].name);
}

TEST_ROWS(inject, nth_allocation_fails, "PT2 PT3 PA8", 0, count_operations, name_operation)
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);

	if (set_up())
		test_note("allocations=%llu", (unsigned long long)fail_each(&operations[test_row()]));
	tear_down();
	fixture_policy(policy);
}

static bool is_of_mm(const struct alloc_site *site)
{
	return strstr(site->file, "mm/") != NULL && !strstr(site->file, "tests/");
}

/* All operations again; then each place in mm/ that allocates has been failed. */
TEST_ID(inject, every_site_was_failed, "PA8")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	unsigned hit = 0, total = 0;

	for (struct alloc_site *const *p = __start_alloc_sites; p < __stop_alloc_sites; p++)
		(*p)->failed = 0;
	if (set_up())
		for (unsigned i = 0; i < ARRAY_SIZE(operations); i++)
			fail_each(&operations[i]);
	tear_down();
	fixture_policy(policy);
	for (struct alloc_site *const *p = __start_alloc_sites; p < __stop_alloc_sites; p++) {
		if (!is_of_mm(*p))
			continue;
		total++;
		hit += (*p)->failed > 0;
		if (!(*p)->failed)
			test_note("never failed: %s:%d", (*p)->file, (*p)->line);
	}
	test_note("sites=%u hit=%u", total, hit);
	CHECK(total > 0);
	CHECK_EQ(hit, total);
}
