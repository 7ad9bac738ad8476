/* SPDX-License-Identifier: MIT */
/*
 * Samples, medians and cost lines. See measure.h for what makes a tick an instruction.
 */
#include "tests/lab/measure.h"

#include "kernel/base/log.h"

#if __STDC_HOSTED__
#define UNIT_OTHERWISE "ns"
#else
#define UNIT_OTHERWISE "cycles"
#endif

#define CALIBRATIONS 32u
#define NOPS 1000u

static struct {
	bool done;
	bool exact;
	u32 overhead;
} meter;

/* Ticks between two reads of the clock with nothing between, and with 1,000 NOPs. */
static __noinline u64 ticks_of_nothing(void)
{
	u64 start = arch_cycles();

	return arch_cycles() - start;
}

static __noinline u64 ticks_of_nops(void)
{
	u64 start = arch_cycles();

	__asm__ volatile(".rept 1000\n\tnop\n\t.endr");
	return arch_cycles() - start;
}

static void calibrate(void)
{
	u32 ticks[CALIBRATIONS];

	meter.done = true;
	meter.exact = true;
	for (u32 i = 0; i < CALIBRATIONS; i++) {
		u64 nothing = ticks_of_nothing();
		u64 nops = ticks_of_nops();

		ticks[i] = (u32)nothing;
		if (nops - nothing != NOPS)
			meter.exact = false;
	}
	meter.overhead = select_kth(ticks, CALIBRATIONS, CALIBRATIONS / 2);
}

const char *measure_unit(void)
{
	return measure_exact() ? "insns" : UNIT_OTHERWISE;
}

bool measure_exact(void)
{
	if (!meter.done)
		calibrate();
	return meter.exact;
}

u32 measure_overhead(void)
{
	if (!meter.done)
		calibrate();
	return meter.overhead;
}

u32 measure_cpus(void)
{
	u32 n = 0;

	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		n += cpumask_has(arch_cpus_online(), cpu);
	return n;
}

void samples_add(struct samples *s, u64 start, u64 end)
{
	u64 ticks = end - start;
	u64 overhead = measure_overhead();

	if (s->nr == SAMPLES_MAX)
		return;
	ticks -= MIN(ticks, overhead);
	s->ticks[s->nr++] = (u32)MIN(ticks, (u64)UINT32_MAX);
}

u32 select_kth(u32 *v, u32 n, u32 k)
{
	u32 lo = 0, hi = n - 1;

	while (lo < hi) {
		u32 pivot = v[lo + (hi - lo) / 2];
		i64 i = (i64)lo - 1, j = (i64)hi + 1;

		for (;;) {
			u32 swap;

			while (v[++i] < pivot)
				;
			while (v[--j] > pivot)
				;
			if (i >= j)
				break;
			swap = v[i];
			v[i] = v[j];
			v[j] = swap;
		}
		/* Now v[lo..j] <= pivot <= v[j+1..hi]. */
		if (k <= (u32)j)
			hi = (u32)j;
		else
			lo = (u32)j + 1;
	}
	return v[lo];
}

struct cost cost_of(struct samples *s, const struct tlb_stats *before, const struct tlb_stats *after)
{
	struct cost c = { .nr = s->nr };
	u64 sum = 0;

	c.flushes = after->nr_tlb_local_flush_all - before->nr_tlb_local_flush_all + after->nr_tlb_local_flush_one -
		    before->nr_tlb_local_flush_one;
	c.ipis = after->nr_tlb_remote_flush - before->nr_tlb_remote_flush;
	c.pages = after->pages_invalidated - before->pages_invalidated;
	if (!s->nr)
		return c;
	c.min = UINT32_MAX;
	for (u32 i = 0; i < s->nr; i++) {
		c.min = MIN(c.min, s->ticks[i]);
		c.max = MAX(c.max, s->ticks[i]);
		sum += s->ticks[i];
	}
	c.mean = (u32)(sum / s->nr);
	c.median = select_kth(s->ticks, s->nr, s->nr / 2);
	return c;
}

void cost_write(const char *op, const char *more, const struct cost *c)
{
	if (measure_cpus() > 1) {
		log_info("cost op=%s %s n=%u flushes=%llu ipis=%llu pages_invalidated=%llu", op, more, c->nr,
			 (unsigned long long)c->flushes, (unsigned long long)c->ipis, (unsigned long long)c->pages);
		return;
	}
	log_info("cost op=%s %s n=%u %s=%u min=%u max=%u flushes=%llu mean=%u", op, more, c->nr, measure_unit(),
		 c->median, c->min, c->max, (unsigned long long)c->flushes, c->mean);
}
