/* SPDX-License-Identifier: MIT */
/*
 * Rings for the CPUs, `trace=` of the command line, `# trace` lines.
 */
#include "kernel/trace.h"

#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "kernel/cmdline.h"
#include "mm/buddy.h"

#define RING_ORDER 5u		/* 128 KiB: the last 2730 records */

static struct trace_merge merge;	/* one reader at a time: the end of the tests, or a panic */

static void give_ring(u32 cpu)
{
	struct page *page = alloc_pages(RING_ORDER, 0);

	if (!page) {
		log_warn("trace: no memory for the records of CPU %u", cpu);
		return;
	}
	trace_ring_init(page_to_virt(page), PAGE_SIZE << RING_ORDER);
	trace_set_ring(cpu, page_to_virt(page));
}

void trace_start(u32 mask)
{
	if (mask)
		for_each_cpu(cpu, arch_cpus_online())
			if (!trace_ring_of(cpu))
				give_ring(cpu);
	trace_mask = mask;
}

void trace_init(void)
{
	trace_start(cmdline.trace.mask);
}

static void say(const char *indent, const struct trace_record *r)
{
	char text[256];

	trace_format(r, text, sizeof(text));
	log_info("%strace %s", indent, text);
}

static void say_ring(u32 cpu)
{
	const struct trace_ring *ring = trace_ring_of(cpu);
	u64 next = ring ? load_acquire(&ring->next) : 0;

	if (ring)
		log_info("trace ring=%u records=%llu overwritten=%llu lost=%llu", cpu, (unsigned long long)next,
			 (unsigned long long)(next - MIN(next, ring->slots)), (unsigned long long)load_relaxed(&ring->lost));
}

void trace_dump(void)
{
	struct trace_record r;

	if (!cmdline.trace.dump)
		return;
	trace_mask = 0;
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		say_ring(cpu);
	trace_merge_init(&merge, UINT64_MAX);
	while (trace_merge_next(&merge, &r))
		say("", &r);
}

void trace_say_last(u64 last)
{
	struct trace_record r;
	bool any = false;

	trace_merge_init(&merge, last);
	while (trace_merge_next(&merge, &r)) {
		if (!any)
			log_info("  the last records of the trace:");
		any = true;
		say("  ", &r);
	}
	if (!any)
		log_info("  no records of the trace%s", trace_mask ? "" : ": it is off (trace=on)");
}
