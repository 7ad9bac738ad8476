/* SPDX-License-Identifier: MIT */
/*
 * A CPU that stops answering, on purpose (plant=deaf-cpu, plant=dead-cpu): named within its time-out, its frames kept back,
 * and the others go on. The runner fails the test in which a CPU is lost, so runs of these suites end with "fail"
 * (tests/qemu/boot_smp.py); all that is checked here holds nevertheless.
 */
#include "arch/x86_64/ipi.h"
#include "arch/x86_64/percpu.h"
#include "arch/x86_64/timer.h"
#include "kernel/base/atomic.h"
#include "kernel/base/spinlock.h"
#include "kernel/cmdline.h"
#include "mm/buddy.h"
#include "mm/set_memory.h"
#include "mm/vmalloc.h"
#include "tests/fixture.h"
#include "tests/test.h"

#define TIMEOUT_MS 1500u	/* less than the default, and more than a busy host keeps a healthy CPU waiting */

static bool planted(void)
{
	return cmdline.plant == PLANT_DEAF_CPU || cmdline.plant == PLANT_DEAD_CPU;
}

/* The number of the last CPU; 0: there is one. */
static u32 last_cpu(void)
{
	u32 last = 0;

	for_each_cpu(cpu, arch_cpus_online())
		last = cpu;
	return last;
}

/* The last CPU stops answering. Returns its number; 0: it may not. */
static u32 plant(void)
{
	u32 victim = last_cpu();

	if (victim)
		ipi_plant(victim, cmdline.plant == PLANT_DEAF_CPU ? IPI_DEAF : IPI_DEAD);
	return victim;
}

static void check_given_up(u32 victim)
{
	CHECK(!cpumask_has(arch_cpus_online(), victim));
	CHECK(cpumask_has(ipi_dead(), victim));
	CHECK_EQ(load_acquire(&cpu_locals[victim]->halted), cmdline.plant == PLANT_DEAF_CPU);
}

static void note_ms(u64 since)
{
	test_note("timeout_ms=%u passed_ms=%llu", ipi_timeout_ms,
		  (unsigned long long)((arch_cycles() - since) / (timer_frequency() / 1000)));
}

static void nothing(void *arg)
{
	fetch_add((u32 *)arg, 1);
}

/* A change of rights, and a frame that goes with it. */
TEST_ID(deaf, shootdown_names_the_cpu_and_keeps_its_frames, "TL1")
{
	struct tlb_stats before, after;
	struct page *page;
	struct tlb_batch batch;
	u32 victim, answers = 0, others = 0;
	struct fixture_area a;
	u64 since;

	if (!planted())
		SKIP("plant=deaf-cpu or plant=dead-cpu asks for it");
	ipi_timeout_ms = TIMEOUT_MS;
	page = alloc_page(0);
	REQUIRE(page && fixture_area_get(&a, PAGE_SIZE, PAGE_SIZE));
	CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, PAGE_SIZE), page_to_phys(page).raw, fixture_attrs(), 0), 0);
	victim = plant();
	if (!victim)
		SKIP("one CPU: there is nobody to ask");
	since = arch_cycles();
	tlb_read_stats(&before);
	tlb_batch_init(&batch, &kernel_space);
	struct pt_change c = { .op = PT_OP_UNMAP, .va = range_len(a.va, PAGE_SIZE) };

	CHECK_EQ(pt_change(&kernel_space, &c, &batch), 0);
	spin_lock(&kernel_space.lock);
	tlb_batch_free(&batch, page, 0);
	spin_unlock(&kernel_space.lock);
	tlb_batch_finish(&batch);
	tlb_read_stats(&after);
	note_ms(since);
	check_given_up(victim);
	CHECK(after.frames_quarantined > before.frames_quarantined);
	CHECK(page->flags & PAGE_QUARANTINE);
	CHECK(!tlb_flushed(&kernel_space, kernel_space.gen));
	/* The others are asked as ever. */
	for_each_cpu(cpu, arch_cpus_online())
		others += cpu < MAX_CPUS;
	ipi_call_others(nothing, &answers, NULL);
	CHECK_EQ(answers, others - 1);
	fixture_area_put(&a);
}

TEST_ID(deaf, rendezvous_goes_on_without_the_cpu, "PT3 TL1")
{
	u32 victim, calls = 0;
	u64 since;

	if (!planted())
		SKIP("plant=deaf-cpu or plant=dead-cpu asks for it");
	ipi_timeout_ms = TIMEOUT_MS;
	victim = plant();
	if (!victim)
		SKIP("one CPU: there is nobody to ask");
	since = arch_cycles();
	arch_rendezvous(nothing, &calls);
	note_ms(since);
	check_given_up(victim);
	CHECK_EQ(calls, 1);
	arch_rendezvous(nothing, &calls);
	CHECK_EQ(calls, 2);
}

/* It has begun to run what it was asked for, and does not come to the end. */
static u32 entered;

static void never_ends(void *arg)
{
	(void)arg;
	store_release(&entered, 1);
	for (;;)
		arch_relax();
}

/* Ask the last CPU for what does not return. Returns its number; 0: it may not be asked, and the test is skipped. */
static u32 call_without_return(void (*fn)(void *arg), cpumask_t *dead)
{
	cpumask_t one = { { 0 } };
	u32 victim = last_cpu();

	if (cmdline.plant != PLANT_DEAF_CPU || !victim) {
		test_skip("plant=deaf-cpu asks for it, and more than one CPU");
		return 0;
	}
	ipi_timeout_ms = TIMEOUT_MS;
	cpumask_set(&one, victim);
	ipi_call(&one, fn, NULL, dead);
	return victim;
}

TEST_ID(deaf, a_call_that_does_not_end, "TL1")
{
	cpumask_t dead = { { 0 } };
	u64 since = arch_cycles();
	u32 victim = call_without_return(never_ends, &dead);

	if (!victim)
		return;
	note_ms(since);
	CHECK_EQ(entered, 1);
	CHECK(cpumask_has(&dead, victim));
	check_given_up(victim);
}

static spinlock_t kept = SPINLOCK_INIT;

static void never_unlocks(void *arg)
{
	spin_trylock(&kept);
	never_ends(arg);
}

/* What it holds it keeps, so nobody can go on: the run ends in a panic that names it, and does not hang. */
TEST_ID(deaf, a_call_that_ends_holding_a_lock, "TL1 RP4")
{
	cpumask_t dead = { { 0 } };

	if (call_without_return(never_unlocks, &dead))
		CHECK(false);		/* not reached */
}
