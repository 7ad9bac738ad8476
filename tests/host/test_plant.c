/* SPDX-License-Identifier: MIT */
/*
 * Negative controls: each bug of mm/plant.h is planted, in a process of its own, under a workload that is
 * clean without it; the check that is there for it must speak up.
 */
#include "mm/plant.h"

#include <string.h>

#include "kernel/base/errno.h"
#include "kernel/base/fmt.h"
#include "mm/account.h"
#include "mm/depot.h"
#include "mm/directmap.h"
#include "mm/buddy.h"
#include "mm/buddy_internal.h"
#include "mm/execmem.h"
#include "mm/kmalloc.h"
#include "mm/pt_audit.h"
#include "mm/slab.h"
#include "mm/temp_map.h"
#include "mm/unmapped_internal.h"
#include "tests/fixture.h"
#include "tests/host/acpi_sample.h"
#include "tests/host/apart.h"
#include "tests/host/arch_host.h"
#include "tests/host/sim_tlb.h"
#include "tests/host/store_log.h"
#include "tests/test.h"

#define BLOCK (2 * MIB)

/* What a row looks for. */
enum finder {
	BY_FAULT,	/* a fault of the simulation, of one kind */
	BY_CHECK,	/* pt_check() or unmapped_check() */
	BY_RESULT,	/* something is not as it was asked for */
	BY_EXECMEM,	/* execmem_check() */
	BY_BOUNDS,	/* a fill one byte outside is not refused */
	BY_WINDOW,	/* the audit finds a window at rest */
	BY_SERIALISE,	/* a CPU may still have the old instructions of memory that is used again */
	BY_ACPI,	/* a damaged table is not skipped */
	BY_SUMS,	/* what is counted does not add up */
	BY_ACCOUNT,	/* account_check() */
	BY_BUDDY,	/* what an interrupter leaves of the page allocator */
	FINDERS,
};

static const struct plant {
	enum mm_plant plant;
	const char *name;
	enum finder finder;
	enum host_fault kind;
} plants[] = {
	{ PLANT_NO_FLUSH, "flush_left_out", BY_FAULT, HOST_STALE },
	{ PLANT_FREE_EARLY, "table_freed_before_the_flush", BY_FAULT, HOST_EARLY_REUSE },
	{ PLANT_FLUSH_FIRST_ONLY, "only_the_first_page_flushed", BY_FAULT, HOST_STALE },
	{ PLANT_PAT_NOT_MOVED, "pat_bit_not_moved", BY_FAULT, HOST_SIZE_RULE },
	{ PLANT_BREAKS_OFF_BY_ONE, "break_count_off_by_one", BY_CHECK, 0 },
	{ PLANT_SPLIT_BY_UNMAP, "split_by_way_of_absent", BY_FAULT, HOST_VIA_ABSENT },
	{ PLANT_COLLAPSE_UNFLUSHED, "collapsed_before_the_flush", BY_FAULT, HOST_SIZE_RULE },
	{ PLANT_TEMP_NO_FLUSH, "temporary_slot_not_forgotten", BY_FAULT, HOST_STALE },
	{ PLANT_UM_STAYS_MAPPED, "unmapped_frames_stay_mapped", BY_CHECK, 0 },
	{ PLANT_UM_NO_SCRUB, "freed_secret_not_scrubbed", BY_RESULT, 0 },
	{ PLANT_UM_BUDDY_STAYS, "merged_block_stays_on_its_list", BY_CHECK, 0 },
	{ PLANT_UM_DEFERRED_LOST, "deferred_unmapped_page_forgotten", BY_CHECK, 0 },
	{ PLANT_UM_DEFERRED_TWICE, "deferred_unmapped_page_freed_twice", BY_CHECK, 0 },
	{ PLANT_TEMP_LEFT_MAPPED, "poke_window_left_mapped", BY_WINDOW, 0 },
	{ PLANT_EXECMEM_NO_INT3, "freed_text_not_int3", BY_EXECMEM, 0 },
	{ PLANT_EXECMEM_MAP_UNFILLED, "text_mapped_before_int3", BY_EXECMEM, 0 },
	{ PLANT_EXECMEM_BOUNDS, "fill_bound_off_by_one", BY_BOUNDS, 0 },
	{ PLANT_NO_SERIALISE, "freed_text_not_forgotten", BY_SERIALISE, 0 },
	{ PLANT_EXECMEM_ONE_RETURN, "one_block_of_several_returned", BY_EXECMEM, 0 },
	{ PLANT_DEFERRED_LOST, "deferred_frees_forgotten", BY_BUDDY, 0 },
	{ PLANT_NMI_IN_RESERVE, "reserve_taken_from_twice", BY_BUDDY, 0 },
	{ PLANT_ACPI_CHECKSUM, "acpi_checksum_not_looked_at", BY_ACPI, 0 },
	{ PLANT_ACPI_SHAPE, "acpi_table_read_half", BY_ACPI, 0 },
	{ PLANT_ACCOUNT_LEAKS, "failed_allocation_stays_charged", BY_ACCOUNT, 0 },
	{ PLANT_ACCOUNT_KEEPS_REFUSED, "refused_charge_stays_below", BY_ACCOUNT, 0 },
	{ PLANT_DEPOT_TWICE, "stack_put_in_twice", BY_SUMS, 0 },
	{ PLANT_SLAB_DOUBLE_FREE, "object_freed_twice", BY_SUMS, 0 },
	{ PLANT_SLAB_DEFERRED_LOST, "deferred_object_forgotten", BY_SUMS, 0 },
};

_Static_assert(ARRAY_SIZE(plants) == PLANTS - 1, "every planted bug has a row");

/* What the process found. */
struct findings {
	bool finished;
	u64 faults[HOST_FAULTS];
	u64 check;
	u64 wrong;	/* results that are not what was asked for */
	u64 found[FINDERS];	/* by the finders of execmem */
};

static struct fixture_area area;
static struct findings *found;
static struct apart apart;

static void prime_all(struct range va)
{
	for (u32 cpu = 0; cpu < host.nr_cpus; cpu++)
		sim_prime(cpu, va, PAGE_SIZE);
}

static void look(struct range va)
{
	for (u64 at = va.start; at < va.end; at += PAGE_SIZE)
		sim_probe(at);
	sim_check(false);
	found->check += pt_check(&kernel_space);
}

static void protect(struct range va, u64 set, u64 clear)
{
	prime_all(range_len(area.va, BLOCK));
	found->wrong += fixture_change(PT_OP_PROTECT, va, 0, set, clear) != 0;
	look(range(va.start - PAGE_SIZE, va.end + PAGE_SIZE));
}

/* Pages of a large leaf, one and several at a time, at its ends and inside, and back. */
static void change_pages(void)
{
	static const struct {
		u32 first, n;
	} rows[] = { { 7, 1 }, { 1, 3 }, { 100, 20 }, { 508, 4 }, { 255, 2 } };

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct range va = range_len(area.va + rows[i].first * PAGE_SIZE, rows[i].n * PAGE_SIZE);

		protect(va, 0, PTE_W);
		protect(va, PTE_W, 0);
	}
}

/*
 * Two batches: one has changed a whole block page by page, and not flushed it, when the other comes to
 * collapse.
 */
static void overtake(void)
{
	struct tlb_batch open;

	tlb_batch_init(&open, &kernel_space);
	for (unsigned i = 0; i < 2; i++) {
		struct pt_change c = {
			.op = PT_OP_PROTECT,
			.va = range_len(area.va + i * (BLOCK / 2), BLOCK / 2),
			.clear = PTE_W,
		};

		prime_all(range_len(area.va, BLOCK));
		found->wrong += pt_change(&kernel_space, &c, &open) != 0;
	}
	/* Mapping flushes nothing, but looks for tables to collapse. */
	found->wrong += fixture_change(PT_OP_MAP, range_len(area.va + 2 * BLOCK, PAGE_SIZE), fixture_nowhere(),
				       fixture_attrs(), 0) != 0;
	tlb_batch_finish(&open);
	look(range_len(area.va, BLOCK));
	protect(range_len(area.va, BLOCK), PTE_W, 0);
}

/* Pages of the direct map, out and back. */
static void toggle_pages(void)
{
	struct page *page = alloc_pages(ORDER_2M, 0);
	pfn_t pfn = page ? page_to_pfn(page) : 0;
	struct range va = range_len(phys_to_va(phys(pfn << PAGE_SHIFT)), 64 * PAGE_SIZE);

	found->wrong += !page;
	for (unsigned i = 0; page && i < 8; i++) {
		prime_all(va);
		found->wrong += set_direct_map_invalid(pfn + 5 * i, 3) != 0;
		look(va);
		found->wrong += set_direct_map_default(pfn + 5 * i, 3) != 0;
		look(va);
	}
	if (page)
		free_pages(page, ORDER_2M);
}

/*
 * In the middle of one temporary mapping, interrupts that make others: their slot shows one frame after
 * another.
 */
static void borrow_frames(void)
{
	struct page *page = alloc_pages(3, 0);
	pfn_t pfn = page ? page_to_pfn(page) : 0;
	struct temp_map t;

	found->wrong += !page;
	if (!page)
		return;
	temp_map_begin(&t, &pfn, 1, true);
	arch_this_cpu()->nesting = CPU_IRQ;
	for (u8 i = 1; i < 8; i++) {
		u8 byte;

		temp_write(pfn + i, 0, &i, 1);
		sim_check(false);
		temp_read(pfn + i, 0, &byte, 1);
		found->wrong += byte != i || *(u8 *)page_to_virt(page + i) != i;
	}
	arch_this_cpu()->nesting = CPU_TASK;
	temp_map_end(&t);
	free_pages(page, 3);
}

/* Pages of the unmapped cache, with something to hide, come and go. */
static void keep_secrets(void)
{
	enum unmapped_mode mode = unmapped_mode();
	struct page *pages[24];
	static const char secret[] = "nobody is to see this";

	found->wrong += unmapped_set_mode(UNMAPPED_2M) != 0;
	for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
		pages[i] = unmapped_pages_alloc(i % 3, 0, 0, NULL);
		found->wrong += !pages[i];
		if (pages[i])
			temp_write(page_to_pfn(pages[i]), 99, secret, sizeof(secret));
	}
	found->check += unmapped_check();
	for (unsigned i = 0; i < ARRAY_SIZE(pages); i++)
		if (pages[i]) {
			unmapped_pages_free(pages[i], i % 3);
			found->wrong += !memcmp((char *)page_to_virt(pages[i]) + 99, secret, sizeof(secret));
		}
	found->check += unmapped_check();
	if (found->check)
		return;		/* what is broken is not to be walked over */
	unmapped_shrink(UNMAPPED_ALL);
	found->check += unmapped_check();
	found->wrong += unmapped_set_mode(mode) != 0;
}

/* Memory is used again of text that was freed just now: CPUs that were not made to forget it. */
static unsigned cpus_not_serialised(void)
{
	u64 before[HOST_CPUS_MAX];
	unsigned n = 0;
	void *again;

	if (host.nr_cpus == 1)
		return 0;	/* alone, a CPU forgets when it overwrites */
	memcpy(before, host.serialisations, sizeof(before));
	again = execmem_alloc(EXECMEM_TEXT, EXECMEM_CHUNK, 0);
	for (u32 cpu = 0; cpu < host.nr_cpus; cpu++)
		n += host.serialisations[cpu] == before[cpu];
	execmem_free(again);
	return n;
}

/* Text of several blocks and a small object behind it; filled, tried one byte too far, freed in two steps. */
static void use_execmem(void)
{
	static const u8 code[200];
	void *large = execmem_alloc(EXECMEM_TEXT, 2 * BLOCK + PAGE_SIZE, 0);
	u8 *small = execmem_alloc(EXECMEM_TEXT, sizeof(code), 0);
	u8 *last = execmem_alloc(EXECMEM_TEXT, sizeof(code), 0);
	struct pt_audit audit;

	if (!large || !small || !last) {
		found->wrong++;
		return;
	}
	found->found[BY_EXECMEM] += execmem_check();
	found->wrong += execmem_fill(small, code, sizeof(code)) != 0;
	found->found[BY_BOUNDS] += execmem_fill(small + 1, code, sizeof(code)) != -EINVAL;
	pt_audit(&audit);
	found->found[BY_WINDOW] += audit.windows;
	execmem_free(small);
	found->found[BY_EXECMEM] += execmem_check();
	found->found[BY_SERIALISE] += cpus_not_serialised();
	execmem_free(large);
	found->found[BY_EXECMEM] += execmem_check();
	execmem_free(last);
	found->found[BY_EXECMEM] += execmem_check();
}

/* A table with a wrong checksum, and one whose last entry ends too late. */
static void read_acpi(void)
{
	static struct sample s;
	static struct acpi a;

	sample_make(&s);
	s.pieces[S_MADT].data[MADT_AT_LAPIC + 2] ^= 1;
	found->wrong += sample_read(&s, &a) != 0;
	found->found[BY_ACPI] += a.has_madt;
	sample_put(&s, S_MADT, MADT_AT_UNKNOWN + 1, 1, 6);
	sample_mend(&s, S_MADT);
	found->wrong += sample_read(&s, &a) != 0;
	found->found[BY_ACPI] += a.has_madt;
	sample_free(&s);
}

/* A charge that the upper limit refuses, and one whose frames are not to be had. */
static void charge_in_vain(void)
{
	struct account top, below, *last = account_next(NULL);

	found->wrong += account_open(&top, "top", NULL, 100) != 0;
	found->wrong += account_open(&below, "below", &top, 1000) != 0;
	found->wrong += account_charge(&below, 200) != -ENOMEM;
	found->wrong += account_charged(&below) != 0;
	found->found[BY_ACCOUNT] += account_check();
	alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 1 };
	found->wrong += alloc_pages_account(4, 0, &top) != NULL;
	alloc_inject.armed = 0;
	found->wrong += account_charged(&top) != 0;
	found->found[BY_ACCOUNT] += account_check();
	account_forget_since(last);
}

/* An interrupter frees while the lock of the node is held, and allocates while the reserve is being worked on. */
static void interrupt_allocator(void)
{
	struct page *page = alloc_page(0), *first = alloc_pages(9, 0), *other;
	struct page_reserve *r = arch_this_cpu()->pages->reserve;
	u32 had = r->nr;

	found->wrong += !page || !first || !local_trylock(&r->lock);
	other = alloc_pages_nolock(NODE_ANY, 0);
	found->found[BY_BUDDY] += r->nr != had;
	local_unlock(&r->lock);
	if (other)
		free_page(other);
	node_lock(&nodes[0]);
	free_pages_nolock(first, 9);
	node_unlock(&nodes[0]);
	found->found[BY_BUDDY] += buddy_deferred_now();
	free_page(page);
}

/* The same with the lock of a node's unmapped pages; two at a time, that are each other's buddies. */
static void interrupt_cache(void)
{
	struct page *pages[2];
	struct um_node *n;

	for (unsigned i = 0; i < 2; i++) {
		pages[i] = unmapped_pages_alloc(3, UNMAPPED_NOSCRUB, 0, NULL);
		found->wrong += !pages[i];
	}
	if (!pages[0] || !pages[1])
		return;
	n = um_node_of(pages[0]);
	um_lock(n);
	for (unsigned i = 0; i < 2; i++)
		unmapped_pages_free_nolock(pages[i], 3);
	um_unlock(n);
	found->check += unmapped_check();
}

static struct depot stacks;

static void put_stack(void *arg)
{
	static const u64 stack[] = { 0x1000, 0x2000 };

	(void)arg;
	depot_put(&stacks, stack, ARRAY_SIZE(stack));
}

/* Another CPU puts the same stack in while this one takes storage for it. */
static void put_stack_twice(void)
{
	host.race = put_stack;
	host.race_cpu = 0;
	host.race_as = host.nr_cpus - 1;
	host.race_points = 0;
	host.race_at = 1;
	put_stack(NULL);
	host.race = NULL;
	found->wrong += host.race_points == 0;
	found->found[BY_SUMS] += stacks.stacks != 1;
	depot_reset(&stacks);
}

static void let_go(void *arg)
{
	store_relaxed((u32 *)arg, 0);
}

/* Twice the same object; and one whose cache's lock is let go between the two tries for it. */
static void free_objects(void)
{
	static struct slab_cache cache = { .name = "plant", .size = 64, .partial = PFN_NONE };
	u64 bad = slab_bad_frees;
	void *p = kmalloc(100, 0), *object = slab_alloc(&cache);

	found->wrong += !p || !object;
	kfree(p);
	kfree(p);
	found->found[BY_SUMS] += slab_bad_frees != bad + 1;
	if (PLANTED(PLANT_SLAB_DOUBLE_FREE))
		return;		/* what is broken is not to be walked over */
	store_relaxed(&cache.lock.holder, MAX_CPUS);
	host.race = let_go;
	host.race_arg = &cache.lock.holder;
	host.race_cpu = 0;
	host.race_as = host.nr_cpus - 1;
	host.race_points = 0;
	host.race_at = 2;
	slab_free_nolock(&cache, object);
	host.race = NULL;
	store_relaxed(&cache.lock.holder, 0);
	found->wrong += cache.deferrals != 1;
	found->found[BY_SUMS] += cache.slabs != 0 || cache.deferred != NULL;
	kmalloc_drain();
	found->found[BY_SUMS] += kmalloc_check() != 0;
}

static void workload(void)
{
	read_acpi();
	free_objects();
	put_stack_twice();
	charge_in_vain();
	fixture_policy(PT_COLLAPSE_EAGER);
	found->wrong += fixture_change(PT_OP_MAP, range_len(area.va, 2 * BLOCK), fixture_nowhere(),
				       fixture_attrs() | PTE_PAT, 0) != 0;
	change_pages();
	overtake();
	toggle_pages();
	borrow_frames();
	keep_secrets();
	/* And where the TLBs have 4K translations. */
	fixture_policy(PT_COLLAPSE_OFF);
	change_pages();
	prime_all(range_len(area.va, 2 * BLOCK));
	found->wrong += fixture_change(PT_OP_UNMAP, range_len(area.va, area.size), 0, 0, 0) != 0;
	look(range_len(area.va, area.size));
	store_log_check();
	/* Not on page tables with a planted bug: it would end by an assertion, and that proves nothing. */
	if (PLANTED(PLANT_NONE) || mm_plant >= PLANT_TEMP_LEFT_MAPPED)
		use_execmem();
	interrupt_allocator();
	interrupt_cache();
}

static int work_with(void *plant)
{
	pt_checks = false;	/* the simulation is to find it, not the code's own assertions */
	mm_plant = *(enum mm_plant *)plant;
	workload();
	for (unsigned i = 0; i < HOST_FAULTS; i++)
		found->faults[i] = host.faults[i];
	found->finished = true;
	return 0;
}

/* The same workload with one bug planted, in a process that takes it to its grave. */
static bool run_planted(enum mm_plant plant)
{
	*found = (struct findings){ 0 };
	return apart_run(&apart, work_with, &plant);
}

static bool begin(void)
{
	found = apart_shared(sizeof(*found));
	return found && fixture_area_get(&area, 3 * BLOCK, BLOCK);
}

static void end(void)
{
	fixture_area_put(&area);
	apart_unshare(found, sizeof(*found));
}

static unsigned count_plants(void)
{
	return ARRAY_SIZE(plants);
}

static void name_plant(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "%s", plants[row].name);
}

TEST_ROWS(plant, is_caught, "PT3 PT4 TL1 TL5 BT4", 0, count_plants, name_plant)
{
	const struct plant *p = &plants[test_row()];

	if (p->finder == BY_SERIALISE && host.nr_cpus == 1)
		SKIP("no other CPU");
	if (begin() && run_planted(p->plant)) {
		static const char *const finders[] = {
			[BY_FAULT] = "simulation", [BY_CHECK] = "check", [BY_RESULT] = "result",
			[BY_EXECMEM] = "execmem_check", [BY_BOUNDS] = "bounds", [BY_WINDOW] = "audit",
			[BY_ACPI] = "acpi_read", [BY_SUMS] = "sums", [BY_ACCOUNT] = "account_check", [BY_BUDDY] = "buddy",
			[BY_SERIALISE] = "serialisations",
		};
		const u64 by_finder[FINDERS] = {
			[BY_FAULT] = found->faults[p->kind], [BY_CHECK] = found->check, [BY_RESULT] = found->wrong,
			[BY_EXECMEM] = found->found[BY_EXECMEM], [BY_BOUNDS] = found->found[BY_BOUNDS],
			[BY_WINDOW] = found->found[BY_WINDOW], [BY_ACPI] = found->found[BY_ACPI],
			[BY_SUMS] = found->found[BY_SUMS],
			[BY_ACCOUNT] = found->found[BY_ACCOUNT],
			[BY_BUDDY] = found->found[BY_BUDDY],
			[BY_SERIALISE] = found->found[BY_SERIALISE],
		};
		u64 n = by_finder[p->finder];

		test_note("caught_by=%s times=%llu", finders[p->finder], (unsigned long long)n);
		if (!CHECK(found->finished))
			apart_show(&apart);
		CHECK(n > 0);
	}
	end();
}

/* Nothing planted: nothing found. */
TEST_ID(plant, control_is_clean, "TL5")
{
	if (begin() && run_planted(PLANT_NONE)) {
		if (!CHECK(found->finished))
			apart_show(&apart);
		CHECK_EQ(found->check, 0);
		CHECK_EQ(found->wrong, 0);
		for (unsigned i = 0; i < FINDERS; i++)
			CHECK_EQ(found->found[i], 0);
		for (unsigned i = 0; i < HOST_FAULTS; i++)
			CHECK_EQ(found->faults[i], 0);
	}
	end();
}
