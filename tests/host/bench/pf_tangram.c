/* SPDX-License-Identifier: MIT */
/*
 * The page allocator (mm/buddy.h) behind the harness's interface pf_if.h.
 */
#include "tests/host/bench/pf_if.h"

#include "mm/buddy.h"
#include "tests/host/bench/arch_bench.h"

const char *const pf_name = "tangram";
/*
 * A core of the harness is a CPU. Without -DPF_THREADS there is one, and an operation does not pay for finding out
 * which it is: a kernel's CPU knows.
 */
#ifdef PF_THREADS
const int pf_mt = 1;

static inline void act_as(unsigned core)
{
	arch_bench_use_cpu(core);
}
#else
const int pf_mt = 0;

static inline void act_as(unsigned core)
{
	(void)core;
}
#endif

static uint64_t nr_frames;
static unsigned nr_cores;
static struct page_cache caches[BENCH_CPUS];

void pf_init(uint64_t frames, unsigned cores)
{
	nr_frames = frames;
	nr_cores = cores;
	arch_bench_memory(frames, 0);
	for (unsigned cpu = 1; cpu < cores; cpu++) {
		arch_bench_use_cpu(cpu);
		buddy_add_cpu(&caches[cpu], 0);
	}
	arch_bench_use_cpu(0);
	buddy_add(0, frames);
}

uint64_t pf_alloc(unsigned core, unsigned order)
{
	struct page *page;

	act_as(core);
	page = alloc_pages(order, 0);
	return page ? page_to_pfn(page) : PF_FAIL;
}

void pf_free(unsigned core, uint64_t pfn, unsigned order)
{
	act_as(core);
	free_pages(pfn_to_page(pfn), order);
}

void pf_drain(void)
{
	buddy_drain();
}

uint64_t pf_free_frames(void)
{
	return buddy_free_frames();
}

uint64_t pf_free_order9(void)
{
	struct buddy_stats stats;
	uint64_t n = 0;

	buddy_read_stats(&stats);
	for (unsigned order = ORDER_2M; order <= ORDER_MAX; order++)
		n += stats.blocks[order] << (order - ORDER_2M);
	return n;
}

uint64_t pf_meta_bytes(void)
{
	return nr_frames * sizeof(struct page) + (nr_frames >> BLOCK_ORDER) * sizeof(struct block) +
	       nr_cores * sizeof(struct page_cache);
}
