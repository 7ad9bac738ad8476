/* SPDX-License-Identifier: MIT */
/*
 * The port on virtual CPUs: see arch_host.h.
 *
 * Invariants: exactly one virtual CPU acts; a flush function affects the acting CPU only; everything random
 * is drawn from host.rng, so a seed fixes the whole run.
 */
#include "tests/host/arch_host.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "mm/tlb_batch.h"
#include "tests/host/sim_tlb.h"
#include "tests/host/store_log.h"
#include "tests/test.h"

#define RELAX_MAX 1000000u	/* nobody else runs: a loop this long never ends */
#define FAULTS_PRINTED 20u

struct virtual_cpu {
	struct cpu_state state;
	u64 root;
	bool irqs;
};

struct host host;
struct arch_mm arch_mm;

static struct virtual_cpu cpus[HOST_CPUS_MAX];
static u64 relaxed;
static bool in_rendezvous;

static void map_arena(void)
{
	static bool mapped;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;

	if (mapped)
		return;
	if (mmap((void *)HOST_ARENA, HOST_RAM_MAX, PROT_READ | PROT_WRITE, flags, -1, 0) !=
	    (void *)HOST_ARENA)
		panic("no room for the arena at %#llx", (unsigned long long)HOST_ARENA);
	mapped = true;
}

void host_init(u64 ram_end, u32 nr_cpus, u64 seed)
{
	assert(ram_end <= HOST_RAM_MAX && nr_cpus >= 1 && nr_cpus <= HOST_CPUS_MAX);
	map_arena();
	madvise((void *)HOST_ARENA, HOST_RAM_MAX, MADV_DONTNEED);
	memset(&host, 0, sizeof(host));
	memset(cpus, 0, sizeof(cpus));
	arch_mm.direct_ptr = HOST_ARENA;
	host.ram_end = ram_end;
	host.nr_cpus = nr_cpus;
	host.rng.state = seed;
	for (u32 i = 0; i < nr_cpus; i++) {
		cpus[i].state.id = i;
		cpus[i].state.pages = &page_cache_none;
		cpus[i].irqs = true;
		cpumask_set(&host.online, i);
	}
	sim_reset(nr_cpus);
	store_log_reset();
}

u32 host_cpu_set(u32 cpu)
{
	u32 before = host.cpu;

	assert(cpu < host.nr_cpus);
	host.cpu = cpu;
	return before;
}

u64 host_root(u32 cpu)
{
	return cpus[cpu].root;
}

void host_irqs_set(bool on)
{
	cpus[host.cpu].irqs = on;
}

/* kernel/base/arch_cpu.h */

/* Let the other CPU of a race in, if this is the point for it. */
static void race_point(void)
{
	const struct virtual_cpu *me = &cpus[host.cpu];

	if (host.in_race || host.cpu != host.race_cpu || me->state.locks_held || !me->irqs)
		return;
	if (++host.race_points != host.race_at)
		return;
	host.in_race = true;
	host_cpu_set(host.race_as);
	host.race(host.race_arg);
	host_cpu_set(host.race_cpu);
	host.in_race = false;
}

struct cpu_state *arch_this_cpu(void)
{
	if (unlikely(host.race != NULL))
		race_point();
	return &cpus[host.cpu].state;
}

const cpumask_t *arch_cpus_online(void)
{
	return &host.online;
}

u64 arch_irq_save(void)
{
	u64 before = cpus[host.cpu].irqs;

	cpus[host.cpu].irqs = false;
	return before;
}

void arch_irq_restore(u64 flags)
{
	cpus[host.cpu].irqs = flags;
}

bool arch_irqs_enabled(void)
{
	return cpus[host.cpu].irqs;
}

void arch_relax(void)
{
	if (++relaxed == RELAX_MAX)
		panic("CPU %u spins for something that no other CPU will do", host.cpu);
}

u64 arch_cycles(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}

/* mm/arch.h: stores */

static void store_one(pte_t *slot, pte_t value, unsigned level)
{
	store_log_store(slot, value, level);
	__atomic_store_n(&slot->raw, value.raw, __ATOMIC_RELEASE);
}

void arch_pte_store(pte_t *slot, pte_t value, unsigned level)
{
	u64 va = store_log_va(slot, level);

	host_tick(va);
	store_one(slot, value, level);
	sim_note_change(range_len(va, pt_span(level)));
	host_tick(va);
}

void arch_pte_fill(pte_t *slot, unsigned nr, pte_t first, u64 step, unsigned level)
{
	u64 va = store_log_va(slot, level);

	assert(nr >= 1 && nr <= PT_ENTRIES && ((u64)slot & (PAGE_SIZE - 1)) / sizeof(pte_t) + nr <= PT_ENTRIES);
	host_tick(va);
	for (unsigned i = 0; i < nr; i++) {
		store_one(slot + i, (pte_t){ first.raw + i * step }, level);
		if (i == nr / 2)
			host_tick(va + i * pt_span(level));
	}
	sim_note_change(range_len(va, nr * pt_span(level)));
	host_tick(va);
}

bool arch_pte_replace(pte_t *slot, pte_t old, pte_t value, unsigned level)
{
	u64 va = store_log_va(slot, level);

	host_tick(va);
	if (slot->raw != old.raw)
		return false;
	store_one(slot, value, level);
	sim_note_change(range_len(va, pt_span(level)));
	host_tick(va);
	return true;
}

u8 arch_memory_type(phys_t pa, u64 *end)
{
	u64 stop = 1ull << arch_mm.phys_bits;

	for (u32 i = 0; i < host.nr_types; i++) {
		struct range r = host.types[i].pa;

		if (range_has(r, pa.raw)) {
			*end = r.end;
			return host.types[i].type;
		}
		if (r.start > pa.raw)
			stop = MIN(stop, r.start);
	}
	*end = stop;
	return 6;	/* write-back */
}

/* mm/arch.h: invalidation */

void arch_tlb_flush_page(u64 va)
{
	host_tick(va);
	sim_check_reuse(host.cpu);
	host.flushes++;
	sim_flush_page(host.cpu, va);
}

void arch_tlb_flush_all(void)
{
	host_tick(0);
	sim_check_reuse(host.cpu);
	host.flushes++;
	sim_flush_all(host.cpu);
}

static void run_on(u32 cpu, struct tlb_flush *flush)
{
	u32 before = host_cpu_set(cpu);
	bool irqs = cpus[cpu].irqs;

	cpus[cpu].irqs = false;	/* it is in an interrupt */
	host.shootdowns[cpu]++;
	tlb_flush_run(flush);
	cpus[cpu].irqs = irqs;
	host_cpu_set(before);
}

void arch_tlb_shootdown(const cpumask_t *targets, struct tlb_flush *flush, cpumask_t *dead)
{
	if (!cpus[host.cpu].irqs || cpus[host.cpu].state.locks_held)
		host_fault(HOST_CONTEXT, "shootdown with interrupts %s and %u spinlocks held",
			   cpus[host.cpu].irqs ? "on" : "off", cpus[host.cpu].state.locks_held);
	for_each_cpu(cpu, targets) {
		if (cpu >= host.nr_cpus || cpu == host.cpu || !cpumask_has(&host.online, cpu)) {
			host_fault(HOST_CONTEXT, "shootdown sent to CPU %u by CPU %u", cpu, host.cpu);
			continue;
		}
		host_tick(0);
		if (cpumask_has(&host.deaf, cpu)) {
			cpumask_clear(&host.online, cpu);
			cpumask_set(dead, cpu);
			continue;
		}
		run_on(cpu, flush);
	}
}

void arch_rendezvous(void (*fn)(void *arg), void *arg)
{
	u64 irqs = arch_irq_save();

	assert(!in_rendezvous);
	host.rendezvous++;
	in_rendezvous = true;
	fn(arg);
	in_rendezvous = false;
	arch_irq_restore(irqs);
}

void arch_rendezvous_flush(void)
{
	assert(in_rendezvous);
	for_each_cpu(cpu, &host.online) {
		sim_check_reuse(cpu);
		host.flushes++;
		sim_flush_all(cpu);
	}
}

bool host_in_rendezvous(void)
{
	return in_rendezvous;
}

bool arch_range_pinned(struct range va)
{
	for (u32 i = 0; i < host.nr_pinned; i++)
		if (range_overlaps(host.pinned[i], va))
			return true;
	return false;
}

void arch_switch_root(phys_t root)
{
	u64 old = cpus[host.cpu].root;

	sim_check_reuse(host.cpu);
	cpus[host.cpu].root = root.raw;
	sim_load_root(host.cpu, old);
}

phys_t arch_current_root(void)
{
	return phys(cpus[host.cpu].root);
}

void *arch_va_ptr(u64 va, bool write)
{
	static u8 nowhere[2 * PAGE_SIZE];	/* what a refused access may hit instead */
	struct sim_result r;

	host_tick(va);
	r = sim_access(host.cpu, va, write ? SIM_WRITE : SIM_READ);
	if (r.fault == SIM_OK && host_is_ram(r.pa))
		return (void *)(HOST_ARENA + r.pa);
	host_fault(HOST_ACCESS, "CPU %u %s %#llx: %s", host.cpu, write ? "writes" : "reads",
		   (unsigned long long)va, r.fault == SIM_RIGHTS ? "not allowed" : "nothing is mapped");
	return nowhere + (va & (PAGE_SIZE - 1));
}

void arch_zero_page(void *page)
{
	memset(page, 0, PAGE_SIZE);
}

void arch_core_serialise(void)
{
	host.serialisations++;
}

void arch_core_serialise_all(const cpumask_t *targets, cpumask_t *dead)
{
	u32 me = host.cpu;

	for_each_cpu(cpu, targets) {
		if (cpu == me)
			continue;
		if (cpumask_has(&host.deaf, cpu)) {
			cpumask_clear(&host.online, cpu);
			cpumask_set(dead, cpu);
			continue;
		}
		host_cpu_set(cpu);
		arch_core_serialise();
		host_cpu_set(me);
	}
}

/* The simulation's own points in time, and its findings. */

void host_tick(u64 va)
{
	if (host.in_meanwhile)
		return;
	if (host.speculation)
		sim_speculate(va);
	if (!host.meanwhile)
		return;
	host.in_meanwhile = true;
	host.meanwhile(host.meanwhile_arg);
	host.in_meanwhile = false;
}

static const char *const fault_names[HOST_FAULTS] = {
	[HOST_STALE] = "stale translation",
	[HOST_EARLY_REUSE] = "freed while reachable",
	[HOST_SIZE_RULE] = "page size changed with something else",
	[HOST_SPLIT_RULE] = "split not published by one store after 512",
	[HOST_VIA_ABSENT] = "changed by way of an absent entry",
	[HOST_TABLE_ENTRY] = "wrong table entry",
	[HOST_CONTEXT] = "wrong context",
	[HOST_ACCESS] = "access that the tables refuse",
	[HOST_COUNTERS] = "counters differ from the stores",
};

const char *host_fault_name(enum host_fault kind)
{
	return kind < HOST_FAULTS ? fault_names[kind] : "?";
}

void host_fault(enum host_fault kind, const char *fmt, ...)
{
	char text[256];
	va_list args;

	host.faults[kind]++;
	if (host.quiet || host_faults() > FAULTS_PRINTED)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	log_info("simulation: %s: %s (store %llu)", host_fault_name(kind), text,
		 (unsigned long long)store_log_seq());
	if (host.testing)
		test_check(false, host_fault_name(kind), __FILE__, __LINE__);
}

u64 host_faults(void)
{
	u64 sum = 0;

	for (unsigned i = 0; i < HOST_FAULTS; i++)
		sum += host.faults[i];
	return sum;
}

u64 host_faults_clear(void)
{
	u64 sum = host_faults();

	memset(host.faults, 0, sizeof(host.faults));
	return sum;
}
