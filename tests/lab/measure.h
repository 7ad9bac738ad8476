/* SPDX-License-Identifier: MIT */
/*
 * Measuring: ticks of arch_cycles(), their median, and the `# cost` lines (SPEC RP1, Costs).
 *
 * The ticks are called instructions only if the clock proves, at the first use, to count them: 1,000 extra NOPs
 * cost exactly 1,000 ticks, each time. Every sample has the cost of reading the clock taken off (the median
 * of back-to-back reads). With more than one CPU online the clock is shared, and cost lines carry no ticks at all.
 */
#ifndef TESTS_LAB_MEASURE_H
#define TESTS_LAB_MEASURE_H

#include "kernel/base/arch_cpu.h"
#include "kernel/base/types.h"
#include "mm/tlb_batch.h"

#define SAMPLES_MAX 20000u

struct samples {
	u32 *ticks;	/* room for SAMPLES_MAX */
	u32 nr;
};

struct cost {
	u32 nr;			/* samples */
	u32 median, min, max;	/* ticks; median: of an even number, the upper one of the two in the middle */
	u32 mean;		/* rounded down: what is rare and dear shows here, not in the median */
	/* Besides, what INVLPG and CR3 writes count as one: of all samples together. */
	u64 flushes;		/* invalidations by this CPU: single pages and full ones */
	u64 ipis;		/* shootdowns sent */
	u64 pages;		/* pages invalidated */
};

/* "insns", "cycles", or in a hosted build "ns". */
const char *measure_unit(void);
/* Whether ticks are instructions. */
bool measure_exact(void);
/* What is taken off each sample. */
u32 measure_overhead(void);
/* CPUs online. */
u32 measure_cpus(void);

/* Note end - start, both of arch_cycles(). Samples beyond SAMPLES_MAX are dropped. */
void samples_add(struct samples *s, u64 start, u64 end);

/* The k-th smallest of n values, k from 0; reorders them (Hoare's selection). */
u32 select_kth(u32 *values, u32 n, u32 k);

/* Median, least and greatest; `before` and `after` surround the samples. Reorders them. No sample: all zero. */
struct cost cost_of(struct samples *s, const struct tlb_stats *before, const struct tlb_stats *after);

/* `# cost op=… <more> n=… insns=… min=… max=… flushes=… mean=…`; more: further words, policy=… first. */
void cost_write(const char *op, const char *more, const struct cost *cost);

#endif
