/* SPDX-License-Identifier: MIT */
/* The trace on the machine: page faults, and NMIs that record in the middle of what they interrupt (RP4). */
#include "arch/x86_64/apic.h"
#include "arch/x86_64/ipi.h"
#include "arch/x86_64/trap.h"
#include "kernel/base/string.h"
#include "kernel/base/trace.h"
#include "kernel/trace.h"
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
