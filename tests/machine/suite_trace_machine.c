/* SPDX-License-Identifier: MIT */
/* The trace on the machine: page faults, shootdowns on both sides, and NMIs that record in the middle of what they interrupt (RP4). */
#include "arch/x86_64/apic.h"
#include "arch/x86_64/ipi.h"
#include "arch/x86_64/trap.h"
#include "kernel/base/string.h"
#include "kernel/base/trace.h"
#include "kernel/trace.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/pgtable.h"
#include "tests/test.h"

#define SLOTS 16u
#define NMIS 200u
#define WRITES_MAX 20000000u

static union {
	struct trace_ring ring;
	u8 bytes[TRACE_RING_BYTES(SLOTS)];
} ring;

static struct {
	u32 cpu, mask;
	struct trace_ring *ring;
} kept;

static void record_begin(u32 mask)
{
	kept.cpu = arch_this_cpu()->id;
	kept.mask = trace_mask;
	trace_ring_init(&ring.ring, sizeof(ring));
	kept.ring = trace_set_ring(kept.cpu, &ring.ring);
	trace_mask = mask;
}

static void record_end(void)
{
	trace_mask = kept.mask;
	trace_set_ring(kept.cpu, kept.ring);
}

static void touch(void *arg)
{
	*(volatile u64 *)arg;
}

TEST_ID(trace, page_faults_are_recorded, "RP4")
{
	u64 va = 0x123456789000;	/* the user half of the kernel's root: nothing is there */
	struct trap_record fault;
	struct trace_record r;
	bool returned;

	record_begin(1u << TRACE_FAULT);
	returned = trap_try(touch, (void *)va, &fault);
	record_end();
	REQUIRE(!returned);
	CHECK_EQ(ring.ring.next, 1);
	REQUIRE(trace_ring_read(&ring.ring, 0, &r));
	CHECK_EQ(r.event, TRACE_FAULT);
	CHECK_EQ(r.args[0], va);
	CHECK_EQ(r.args[1], fault.error);
	CHECK_EQ(r.args[2], fault.rip);
	CHECK_EQ(r.cpu, arch_this_cpu()->id);
	CHECK_EQ(r.context, CPU_TASK);
}

/* ---- Shootdowns ---- */

#define CPUS 8u
#define RECORDS 64u

static union {
	struct trace_ring ring;
	u8 bytes[TRACE_RING_BYTES(RECORDS)];
} rings[CPUS];
static struct trace_ring *rings_before[CPUS];

static void record_on_all(u32 mask)
{
	for (u32 cpu = 0; cpu < CPUS; cpu++) {
		trace_ring_init(&rings[cpu].ring, sizeof(rings[cpu]));
		rings_before[cpu] = trace_set_ring(cpu, &rings[cpu].ring);
	}
	kept.mask = trace_mask;
	trace_mask = mask;
}

static void record_on_all_end(void)
{
	trace_mask = kept.mask;
	for (u32 cpu = 0; cpu < CPUS; cpu++)
		trace_set_ring(cpu, rings_before[cpu]);
}

/* Records of one event and context on a CPU; arguments 0 and 1 of all of them summed up. */
static u64 sum_records(u32 cpu, enum trace_id event, enum cpu_nesting context, u64 *gens, u64 *cpus)
{
	struct trace_record r;
	u64 n = 0;

	CHECK(rings[cpu].ring.next <= RECORDS);
	for (u64 i = 0; i < rings[cpu].ring.next; i++) {
		if (!CHECK(trace_ring_read(&rings[cpu].ring, i, &r)) || r.event != event)
			continue;
		CHECK_EQ(r.cpu, cpu);
		CHECK_EQ(r.context, context);
		*gens += r.args[0];
		*cpus += r.args[1];
		n++;
	}
	return n;
}

TEST_ID(trace, shootdowns_are_recorded_on_both_sides, "TL1 RP4")
{
	u64 sent = 0, sent_gens = 0, asked = 0, pages = 0;
	u32 me = arch_this_cpu()->id, others = 0;
	struct page *block;

	for_each_cpu(cpu, arch_cpus_online()) {
		if (cpu >= CPUS)
			SKIP("more than %u CPUs", CPUS);
		others += cpu != me;
	}
	if (!others)
		SKIP("one CPU");
	block = alloc_pages(ORDER_2M, 0);
	REQUIRE(block != NULL);
	record_on_all(1u << TRACE_SEND | 1u << TRACE_RECEIVE);
	CHECK_EQ(set_direct_map_invalid(page_to_pfn(block) + 3, 1), 0);
	CHECK_EQ(set_direct_map_default(page_to_pfn(block) + 3, 1), 0);
	pt_settle(&kernel_space);
	record_on_all_end();
	free_pages(block, ORDER_2M);

	sent = sum_records(me, TRACE_SEND, CPU_TASK, &sent_gens, &asked);
	CHECK(sent > 0);
	CHECK_EQ(asked, sent * others);
	for_each_cpu(cpu, arch_cpus_online()) {
		u64 gens = 0;

		if (cpu == me)
			continue;
		CHECK_EQ(sum_records(cpu, TRACE_RECEIVE, CPU_IRQ, &gens, &pages), sent);
		CHECK_EQ(gens, sent_gens);
	}
}

/* ---- NMIs ---- */

static u64 nmis, nmi_torn;

/* Every word follows from one. */
static void write_one(u64 x)
{
	trace_event(TRACE_FILL, x, ~x, x * 5);
}

static u64 count_torn(u64 *whole)
{
	u64 end = load_acquire(&ring.ring.next);
	struct trace_record r;
	u64 torn = 0;

	for (u64 i = end - MIN(end, SLOTS); i < end; i++) {
		if (!trace_ring_read(&ring.ring, i, &r))
			continue;
		if (r.event != TRACE_FILL || r.args[1] != ~r.args[0] || r.args[2] != r.args[0] * 5 ||
		    r.context != (r.args[0] >> 63 ? CPU_NMI : CPU_TASK))
			torn++;
		else
			(*whole)++;
	}
	return torn;
}

/* More than the ring holds, so that the place of what was interrupted is met, too. */
static void on_nmi(const struct trap_frame *frame)
{
	u64 whole = 0;

	(void)frame;
	nmi_torn += count_torn(&whole);
	for (u64 i = 0; i < SLOTS + 1; i++)
		write_one(1ull << 63 | nmis << 8 | i);
	nmi_torn += count_torn(&whole);
	fetch_add(&nmis, 1);
}

TEST_ID(trace, nmis_record_in_the_middle_of_a_record, "RP4")
{
	u64 whole = 0, torn = 0, wanted = 0, writes = 0;
	nmi_handler_fn old;

	if (!apic_present())
		SKIP("no local APIC to send NMIs");
	nmis = 0;
	nmi_torn = 0;
	record_begin(1u << TRACE_FILL);
	old = nmi_set_handler(on_nmi);
	for (; writes < WRITES_MAX && load_relaxed(&nmis) < NMIS; writes++) {
		if (load_relaxed(&nmis) == wanted) {
			ipi_nmi(kept.cpu);
			wanted++;
		}
		write_one(writes);
		torn += count_torn(&whole);
	}
	nmi_set_handler(old);
	record_end();
	CHECK_EQ(load_relaxed(&nmis), NMIS);
	CHECK_EQ(nmi_torn, 0);
	CHECK_EQ(torn, 0);
	CHECK(whole > 0);
	CHECK_EQ(ring.ring.next, writes + NMIS * (SLOTS + 1));
}
