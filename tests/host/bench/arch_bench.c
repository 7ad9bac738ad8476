/* SPDX-License-Identifier: MIT */
/*
 * The smallest port there is: what mm/ needs to be linked alone, costing as little as it would on the machine,
 * so that the benchmarks count mm/ and not its surroundings.
 *
 * A thread is a CPU. Entries of page tables are plain stores. Flush functions count and do nothing: nobody
 * translates by these tables. CPUs that are asked to flush do it in the thread that asks.
 */
#include "tests/host/bench/arch_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "mm/arch.h"
#include "mm/buddy.h"
#include "mm/page.h"

struct arch_mm arch_mm = {
	.pte_mask = ~0ull,
	.levels = 4,
	.max_leaf = PT_1G,
	.phys_bits = 46,
	.bbm = ARCH_BBM_NONE,
};

u64 arch_bench_flushes;
u64 log_warnings;

static struct cpu_state bench_cpus[BENCH_CPUS] = {
	[0 ... BENCH_CPUS - 1] = { .pages = &page_cache_none },
};
static __thread struct cpu_state *this_cpu = &bench_cpus[0];
static const cpumask_t online = { { 1 } };	/* a shootdown has nobody else to wait for */

void arch_bench_use_cpu(u32 cpu)
{
	assert(cpu < BENCH_CPUS);
	this_cpu = &bench_cpus[cpu];
	this_cpu->id = cpu;
}

static void *room(u64 bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		panic("no room for %llu bytes of metadata", (unsigned long long)bytes);
	return p;
}

void arch_bench_memory(u64 frames, u64 direct_base)
{
	static u64 room_for;
	u64 sections = (frames + SECTION_FRAMES - 1) / SECTION_FRAMES;

	if (sections > room_for) {
		page_array = room(sections * SECTION_FRAMES * sizeof(struct page));
		block_array = room((sections * SECTION_FRAMES >> BLOCK_ORDER) * sizeof(struct block));
		room_for = sections;
	}
	arch_mm.direct_base = direct_base;
	arch_mm.direct_ptr = direct_base;
	page_sections_reset();
	for (u64 i = 0; i < sections; i++)
		page_section_add(i);
	buddy_reset();
}

/* kernel/base/arch_cpu.h */

struct cpu_state *arch_this_cpu(void)
{
	return this_cpu;
}

const cpumask_t *arch_cpus_online(void)
{
	return &online;
}

u64 arch_irq_save(void)
{
	return 1;
}

void arch_irq_restore(u64 flags)
{
	(void)flags;
}

bool arch_irqs_enabled(void)
{
	return true;
}

void arch_relax(void)
{
	__builtin_ia32_pause();
}

u64 arch_cycles(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}

/* mm/arch.h */

void arch_pte_store(pte_t *slot, pte_t value, unsigned level)
{
	(void)level;
	__atomic_store_n(&slot->raw, value.raw, __ATOMIC_RELEASE);
}

void arch_pte_fill(pte_t *slot, unsigned nr, pte_t first, u64 step, unsigned level)
{
	(void)level;
	for (unsigned i = 0; i < nr; i++, first.raw += step)
		__atomic_store_n(&slot[i].raw, first.raw, __ATOMIC_RELEASE);
}

bool arch_pte_replace(pte_t *slot, pte_t old, pte_t value, unsigned level)
{
	(void)level;
	return __atomic_compare_exchange_n(&slot->raw, &old.raw, value.raw, false, __ATOMIC_ACQ_REL,
					   __ATOMIC_ACQUIRE);
}

u8 arch_memory_type(phys_t pa, u64 *end)
{
	(void)pa;
	*end = 1ull << arch_mm.phys_bits;
	return 6;	/* write-back */
}

void arch_tlb_flush_page(u64 va)
{
	(void)va;
	arch_bench_flushes++;
}

void arch_tlb_flush_all(void)
{
	arch_bench_flushes++;
}

void arch_tlb_shootdown(const cpumask_t *targets, struct tlb_flush *flush, cpumask_t *dead)
{
	(void)targets;
	(void)flush;
	(void)dead;
	panic("a benchmark asked for a shootdown: there is one CPU with page tables");
}

void arch_rendezvous(void (*fn)(void *arg), void *arg)
{
	fn(arg);
}

void arch_rendezvous_flush(void)
{
	arch_bench_flushes++;
}

bool arch_range_pinned(struct range va)
{
	(void)va;
	return false;
}

void arch_switch_root(phys_t root)
{
	(void)root;
}

phys_t arch_current_root(void)
{
	return phys(0);
}

void *arch_va_ptr(u64 va, bool write)
{
	(void)va;
	(void)write;
	panic("a benchmark asked for a temporary mapping: nobody translates here");
}

void arch_zero_page(void *page)
{
	memset(page, 0, PAGE_SIZE);
}

/* Nobody asks who allocated what. */
unsigned arch_backtrace(u64 frame, u64 *addresses, unsigned max)
{
	(void)frame, (void)addresses, (void)max;
	return 0;
}

void arch_core_serialise(void)
{
}

void arch_core_serialise_all(const cpumask_t *others, cpumask_t *dead)
{
	(void)others;
	(void)dead;
}

/* kernel/base/log.h, panic.h: standard error */

static void __printf(2, 0) say(const char *lead, const char *fmt, va_list args)
{
	char line[512];

	fmt_vprint(line, sizeof(line), fmt, args);
	fprintf(stderr, "%s%s\n", lead, line);
}

void log_vraw(const char *fmt, va_list args)
{
	say("", fmt, args);
}

void log_raw(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("", fmt, args);
	va_end(args);
}

void log_info(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("# ", fmt, args);
	va_end(args);
}

void log_warn(const char *fmt, ...)
{
	va_list args;

	log_warnings++;
	va_start(args, fmt);
	say("# warning: ", fmt, args);
	va_end(args);
}

void panic(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("panic: ", fmt, args);
	va_end(args);
	abort();
}
