/* SPDX-License-Identifier: MIT */
/*
 * The table of docs/contexts.md, tried: every function that allocates, in every context where it may be called. In each it has to give
 * what it is asked for and take it back; beside a CPU that stopped for good with the allocators' locks held (as after a panic) it
 * has to come back at all.
 */
#include "arch/x86_64/apic.h"
#include "arch/x86_64/ipi.h"
#include "arch/x86_64/nmi.h"
#include "kernel/base/atomic.h"
#include "kernel/base/bits.h"
#include "kernel/base/string.h"
#include "kernel/thread.h"
#include "mm/account.h"
#include "mm/buddy.h"
#include "mm/buddy_internal.h"
#include "mm/depot.h"
#include "mm/dma_buffer.h"
#include "mm/execmem.h"
#include "mm/guest_memory.h"
#include "mm/kmalloc.h"
#include "mm/slab.h"
#include "mm/unmapped_internal.h"
#include "mm/vm_area.h"
#include "mm/vmalloc.h"
#include "tests/machine/crew.h"
#include "tests/test.h"

#define IN_TASK 1u
#define IN_IRQS_OFF 2u
#define IN_LOCKED 4u	/* a spinlock of the caller's own held */
#define IN_IRQ 8u
#define IN_NMI 16u
#define IN_PANIC 32u	/* other CPUs stand still, and hold whatever they held */
#define LOCKS_ONLY (IN_TASK | IN_IRQS_OFF | IN_LOCKED)
#define ANYWHERE (LOCKS_ONLY | IN_IRQ | IN_NMI | IN_PANIC)

static struct slab_cache cache = { .name = "contexts", .size = 80, .partial = UINT32_MAX };
static struct account account;
static struct depot depot;

/* ---- Each allocates and frees once; false: it was not given any ---- */

static bool pages_freed(struct page *page, unsigned order)
{
	if (page)
		free_pages(page, order);
	return page != NULL;
}

static bool try_alloc_pages(void)
{
	return pages_freed(alloc_pages(0, ALLOC_ZERO), 0) && pages_freed(alloc_pages(7, 0), 7);
}

static bool try_alloc_page(void)
{
	struct page *page = alloc_page(0);

	if (page)
		free_page(page);
	return page != NULL;
}

static bool try_alloc_pages_reclaim(void)
{
	return pages_freed(alloc_pages(2, ALLOC_MAY_RECLAIM), 2);
}

static bool try_alloc_pages_node(void)
{
	return pages_freed(alloc_pages_node(0, 1, 0), 1);
}

static bool try_alloc_pages_upto(void)
{
	unsigned order;
	struct page *page = alloc_pages_upto(0, 3, 0, &order);

	return pages_freed(page, page ? order : 0);
}

static bool try_alloc_pages_upto_node(void)
{
	unsigned order;
	struct page *page = alloc_pages_upto_node(buddy_this_node(), 0, 3, 0, &order);

	return pages_freed(page, page ? order : 0);
}

static bool try_alloc_pages_bulk(void)
{
	struct page *pages[20];
	u64 got = alloc_pages_bulk(NODE_ANY, ARRAY_SIZE(pages), pages);

	for (u64 i = 0; i < got; i++)
		free_page(pages[i]);
	return got == ARRAY_SIZE(pages);
}

static bool try_alloc_pages_account(void)
{
	return pages_freed(alloc_pages_account(1, 0, &account), 1);
}

static bool try_alloc_pages_nolock(void)
{
	struct page *page = alloc_pages_nolock(NODE_ANY, 0);

	if (page)
		free_pages_nolock(page, 0);
	return page != NULL;
}

static bool try_alloc_pages_nolock_account(void)
{
	struct page *page = alloc_pages_nolock_account(NODE_ANY, 1, &account);

	if (page)
		free_pages_nolock(page, 1);
	return page != NULL;
}

static bool try_kmalloc(void)
{
	void *small = kmalloc(100, ALLOC_ZERO), *large = kmalloc(9000, 0);
	bool ok = small && large;

	kfree(small);
	kfree(large);
	return ok;
}

static bool try_kmalloc_nolock(void)
{
	void *small = kmalloc_nolock(100, ALLOC_ZERO), *large = kmalloc_nolock(9000, 0);
	bool ok = small && large;

	kfree_nolock(small);
	kfree_nolock(large);
	return ok;
}

static bool try_slab_alloc(void)
{
	void *object = slab_alloc(&cache);

	slab_free(&cache, object);
	return object != NULL;
}

static bool try_slab_alloc_nolock(void)
{
	void *object = slab_alloc_nolock(&cache);

	slab_free_nolock(&cache, object);
	return object != NULL;
}

static bool try_account_charge(void)
{
	if (account_charge(&account, 3))
		return false;
	account_uncharge(&account, 3);
	return true;
}

static bool try_account_charge_nolock(void)
{
	if (account_charge_nolock(&account, 3))
		return false;
	account_uncharge(&account, 3);
	return true;
}

static bool try_account_open(void)
{
	struct account below;

	return !account_open(&below, "below", &account, 10) && !account_set_limit(&below, 5) && !account_close(&below);
}

static bool try_depot_reserve(void)
{
	return depot_reserve(&depot, 1);
}

/* Mostly a look-up; the first times storage. */
static bool try_depot_put(void)
{
	static u64 next;
	u64 stack[3] = { 1, 2, fetch_add(&next, 1) % 300 };

	return depot_put(&depot, stack, ARRAY_SIZE(stack)) != 0;
}

static bool try_unmapped(void)
{
	struct page *page = unmapped_pages_alloc(0, UNMAPPED_ZERO, -1, &account);

	if (page)
		unmapped_pages_free(page, 0);
	return page != NULL;
}

static bool try_unmapped_nolock(void)
{
	struct page *page = unmapped_pages_alloc_nolock(0, UNMAPPED_ZERO, -1, &account);

	if (page)
		unmapped_pages_free_nolock(page, 0);
	return page != NULL;
}

static bool try_get_vm_area(void)
{
	struct vm_area *area = get_vm_area(PAGE_SIZE, PAGE_SIZE, VM_AREA_SPARSE, "contexts");

	if (area)
		free_vm_area(area);
	return area != NULL;
}

static bool try_vmalloc(void)
{
	void *p = vmalloc(3 * PAGE_SIZE);

	vfree(p);
	return p != NULL;
}

static bool try_vmap(void)
{
	struct page *page = alloc_page(0);
	void *p = page ? vmap(&page, 1, 0) : NULL;
	bool gone = p && !vunmap(p);

	return pages_freed(page, 0) && gone;
}

static bool try_ioremap(void)
{
	struct page *page = alloc_page(0);
	void *p = page ? ioremap(page_to_phys(page).raw, PAGE_SIZE, IOREMAP_WB | IOREMAP_RO) : NULL;

	if (p)
		iounmap(p);
	return pages_freed(page, 0) && p;
}

static bool try_execmem(void)
{
	void *p = execmem_alloc(EXECMEM_TEXT, 100, 0);

	if (p)
		execmem_free(p);
	return p != NULL;
}

static bool try_dma_buffer(void)
{
	struct dma_buffer b;

	if (dma_buffer_alloc(&b, 3 * PAGE_SIZE))
		return false;
	dma_buffer_free(&b);
	return true;
}

static bool try_guest_memory(void)
{
	static struct guest_memory g;

	if (guest_memory_take(&g, 2 * MIB, 0))
		return false;
	guest_memory_give(&g);
	return true;
}

static void nothing(void *arg)
{
	(void)arg;
}

static bool try_thread_start(void)
{
	struct thread *t = thread_start(arch_this_cpu()->id, "contexts", nothing, NULL);

	return t && !thread_join(t);
}

static const struct function {
	const char *name;
	bool (*run)(void);
	unsigned where;
} functions[] = {
	{ "alloc_pages", try_alloc_pages, LOCKS_ONLY },
	{ "alloc_page", try_alloc_page, LOCKS_ONLY },
	{ "alloc_pages(ALLOC_MAY_RECLAIM)", try_alloc_pages_reclaim, IN_TASK },
	{ "alloc_pages_node", try_alloc_pages_node, LOCKS_ONLY },
	{ "alloc_pages_upto", try_alloc_pages_upto, LOCKS_ONLY },
	{ "alloc_pages_upto_node", try_alloc_pages_upto_node, LOCKS_ONLY },
	{ "alloc_pages_bulk", try_alloc_pages_bulk, LOCKS_ONLY },
	{ "alloc_pages_account", try_alloc_pages_account, LOCKS_ONLY },
	{ "alloc_pages_nolock", try_alloc_pages_nolock, ANYWHERE },
	{ "alloc_pages_nolock_account", try_alloc_pages_nolock_account, ANYWHERE },
	{ "kmalloc", try_kmalloc, LOCKS_ONLY },
	{ "kmalloc_nolock", try_kmalloc_nolock, ANYWHERE },
	{ "slab_alloc", try_slab_alloc, LOCKS_ONLY },
	{ "slab_alloc_nolock", try_slab_alloc_nolock, ANYWHERE },
	{ "account_charge", try_account_charge, ANYWHERE },
	{ "account_charge_nolock", try_account_charge_nolock, ANYWHERE },
	{ "account_open", try_account_open, IN_TASK },
	{ "depot_reserve", try_depot_reserve, ANYWHERE },
	{ "depot_put", try_depot_put, ANYWHERE },
	{ "unmapped_pages_alloc", try_unmapped, IN_TASK },
	{ "unmapped_pages_alloc_nolock", try_unmapped_nolock, ANYWHERE },
	{ "get_vm_area", try_get_vm_area, LOCKS_ONLY },
	{ "vmalloc", try_vmalloc, IN_TASK },
	{ "vmap", try_vmap, IN_TASK },
	{ "ioremap", try_ioremap, IN_TASK },
	{ "execmem_alloc", try_execmem, IN_TASK },
	{ "dma_buffer_alloc", try_dma_buffer, IN_TASK },
	{ "guest_memory_take", try_guest_memory, IN_TASK },
	{ "thread_start", try_thread_start, IN_TASK },
};

/* ---- Contexts ---- */

#define TIMES 40u	/* that each function is tried in each context */

static u64 tried[ARRAY_SIZE(functions)], given[ARRAY_SIZE(functions)];
static enum unmapped_mode mode_before;

/* All that may be called here. Of many CPUs at once. */
static void try_all(unsigned where)
{
	for (unsigned i = 0; i < ARRAY_SIZE(functions); i++) {
		if (!(functions[i].where & where))
			continue;
		fetch_add(&tried[i], 1);
		fetch_add(&given[i], functions[i].run());
	}
}

static void begin(void)
{
	memset(tried, 0, sizeof(tried));
	memset(given, 0, sizeof(given));
	CHECK_EQ(account_open(&account, "contexts", NULL, 10000), 0);
	/* Something lies ready in the unmapped cache, under um=off too. */
	mode_before = unmapped_mode();
	CHECK_EQ(unmapped_set_mode(UNMAPPED_2M), 0);
	CHECK(try_unmapped());
}

static void end(unsigned where, u64 times)
{
	for (unsigned i = 0; i < ARRAY_SIZE(functions); i++) {
		u64 want = functions[i].where & where ? times : 0;

		if (tried[i] != want || given[i] != want)
			test_note("%s: tried %llu times, given %llu times", functions[i].name,
				  (unsigned long long)tried[i], (unsigned long long)given[i]);
		CHECK_EQ(tried[i], want);
		CHECK_EQ(given[i], want);
	}
	CHECK_EQ(account_close(&account), 0);
	CHECK_EQ(cache.objects, 0);
	CHECK_EQ(slab_check(&cache), 0);
	depot_reset(&depot);
	CHECK_EQ(unmapped_set_mode(mode_before), 0);
}

TEST_ID(contexts, in_a_task, "PA2")
{
	begin();
	for (unsigned i = 0; i < TIMES; i++)
		try_all(IN_TASK);
	end(IN_TASK, TIMES);
}

TEST_ID(contexts, with_interrupts_off, "PA2")
{
	begin();
	for (unsigned i = 0; i < TIMES; i++) {
		u64 flags = arch_irq_save();

		try_all(IN_IRQS_OFF);
		arch_irq_restore(flags);
	}
	end(IN_IRQS_OFF, TIMES);
}

TEST_ID(contexts, with_a_lock_held, "PA2")
{
	static spinlock_t lock = SPINLOCK_INIT;

	begin();
	for (unsigned i = 0; i < TIMES; i++) {
		spin_lock(&lock);
		try_all(IN_LOCKED);
		spin_unlock(&lock);
	}
	end(IN_LOCKED, TIMES);
}

static void in_irq(void *arg)
{
	fetch_add((u64 *)arg, arch_this_cpu()->nesting == CPU_IRQ);
	try_all(IN_IRQ);
}

TEST_ID(contexts, in_an_interrupt, "PA2")
{
	u32 ids[CREW_MAX];
	unsigned nr = crew_cpus(ids);
	u64 interrupts = 0;

	if (nr < 2)
		SKIP("one CPU: nobody to interrupt");
	begin();
	/* One after the other: two at a time may find the node's lock held, and then NULL is an answer, too. */
	for (unsigned i = 0; i < TIMES * (nr - 1); i++) {
		cpumask_t one = { { 0 } };

		cpumask_set(&one, ids[1 + i % (nr - 1)]);
		ipi_call(&one, in_irq, &interrupts, NULL);
	}
	CHECK_EQ(interrupts, TIMES * (nr - 1));
	end(IN_IRQ, TIMES * (nr - 1));
}

static u64 nmis;

static void in_nmi(const struct trap_frame *frame)
{
	(void)frame;
	try_all(IN_NMI);
	fetch_add(&nmis, arch_this_cpu()->nesting == CPU_NMI);
}

TEST_ID(contexts, in_an_nmi, "PA2")
{
	nmi_handler_fn old;

	if (!apic_present())
		SKIP("no local APIC to send NMIs");
	begin();
	nmis = 0;
	old = nmi_set_handler(in_nmi);
	for (unsigned i = 0; i < TIMES; i++) {
		u64 before = load_relaxed(&nmis);

		ipi_nmi(arch_this_cpu()->id);
		while (load_relaxed(&nmis) == before)
			arch_relax();
	}
	nmi_set_handler(old);
	end(IN_NMI, TIMES);
}

/* ---- Beside CPUs that stand still ---- */

static u64 held, let_go;

/* Takes the locks of all nodes, of their unmapped pages and of a cache, and stands still with them. */
static void hold_locks(void *arg)
{
	u64 flags = arch_irq_save();

	(void)arg;
	for (unsigned i = 0; i < nr_nodes; i++)
		while (!spin_trylock(&nodes[i].lock))
			arch_relax();
	for (unsigned i = 0; i < nr_nodes; i++)
		while (!spin_trylock(&um_nodes[i].lock))
			arch_relax();
	while (!spin_trylock(&cache.lock))
		arch_relax();
	store_release(&held, 1);
	while (!load_acquire(&let_go))
		arch_relax();
	spin_unlock(&cache.lock);
	for (unsigned i = nr_nodes; i-- > 0;)
		um_unlock(&um_nodes[i]);
	for (unsigned i = nr_nodes; i-- > 0;)
		node_unlock(&nodes[i]);
	arch_irq_restore(flags);
}

TEST_ID(contexts, beside_cpus_that_stopped_with_locks_held, "PA2")
{
	struct thread *thread;
	u32 ids[CREW_MAX];
	u64 given_pages, given_unmapped;

	if (crew_cpus(ids) < 2)
		SKIP("one CPU: nobody to stop");
	begin();
	held = let_go = 0;
	thread = crew_start(ids[1], "holds locks", hold_locks, NULL);
	while (!load_acquire(&held))
		arch_relax();
	for (unsigned i = 0; i < TIMES; i++)
		try_all(IN_PANIC);
	store_release(&let_go, 1);
	crew_join(&thread, 1);
	/* Each came back every time; pages there were, as this CPU has some in reserve. */
	given_pages = given_unmapped = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(functions); i++) {
		CHECK_EQ(tried[i], functions[i].where & IN_PANIC ? TIMES : 0);
		if (functions[i].run == try_alloc_pages_nolock)
			given_pages = given[i];
		if (functions[i].run == try_unmapped_nolock)
			given_unmapped = given[i];
	}
	test_note("pages given=%llu, unmapped given=%llu, of %u", (unsigned long long)given_pages,
		  (unsigned long long)given_unmapped, TIMES);
	CHECK(given_pages > 0);
	CHECK(given_unmapped > 0);
	CHECK_EQ(buddy_deferred_now(), 0);
	CHECK_EQ(unmapped_deferred_now(), 0);
	/* What was deferred meanwhile is taken in by the next one. */
	slab_free(&cache, slab_alloc(&cache));
	CHECK_EQ(cache.objects, 0);
	CHECK_EQ(slab_check(&cache), 0);
	CHECK_EQ(account_close(&account), 0);
	depot_reset(&depot);
	CHECK_EQ(unmapped_set_mode(mode_before), 0);
}
