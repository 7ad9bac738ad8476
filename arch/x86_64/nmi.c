/* SPDX-License-Identifier: MIT */
/*
 * NMIs: sent by other CPUs (ipi.c), by a storm, or by nobody we know, which means broken hardware.
 *
 * NMIs have no vector: during a storm each one that its CPU takes counts as one of it.
 */
#include "arch/x86_64/nmi.h"

#include "arch/x86_64/hpet.h"
#include "arch/x86_64/ioapic.h"
#include "arch/x86_64/ipi.h"
#include "arch/x86_64/percpu.h"
#include "arch/x86_64/pit.h"
#include "arch/x86_64/timer.h"
#include "kernel/base/atomic.h"
#include "kernel/base/bits.h"
#include "kernel/base/errno.h"

#define HZ_MAX 20000u
#define MESSAGE_US 10u	/* for a message of an IOAPIC to arrive: a multiple of what the slowest bus takes */

static nmi_handler_fn handler;

static struct {
	u32 cpu;	/* + 1; 0: no storm */
	u32 line;
	bool pit;
} storm;

static struct nmi_isa_line pit_line;
static u64 storm_counts[MAX_CPUS];

nmi_handler_fn nmi_set_handler(nmi_handler_fn fn)
{
	return __atomic_exchange_n(&handler, fn, __ATOMIC_ACQ_REL);
}

void nmi_handle(const struct trap_frame *frame)
{
	struct cpu_local *local = cpu_local();
	nmi_handler_fn fn = load_acquire(&handler);
	bool ours = ipi_nmi_taken(frame);

	if (load_acquire(&storm.cpu) == local->state.id + 1) {
		store_relaxed(&storm_counts[local->state.id], storm_counts[local->state.id] + 1);
		ours = true;
	}
	local->nmis += !ours;
	if (fn)
		fn(frame);
}

/* ---- Storms ---- */

void nmi_init(struct nmi_isa_line line)
{
	pit_line = line;
}

static bool pit_reaches(void)
{
	return pit_line.line < 64 && ioapic_lines() & BIT(pit_line.line);
}

const char *nmi_storm_source(void)
{
	u32 line;

	if (!ioapic_lines())
		return NULL;
	if (hpet_can_repeat(ioapic_lines(), &line))
		return "HPET";
	return pit_reaches() ? "PIT" : NULL;
}

/* The line that the edges will come on, and whether the PIT makes them; -ENODEV. */
static int choose_line(u32 hz)
{
	storm.pit = !hpet_can_repeat(ioapic_lines(), &storm.line);
	if (!storm.pit)
		return 0;
	if (!pit_reaches())
		return -ENODEV;
	storm.line = pit_line.line;
	return PIT_HZ / hz > 65535 ? -EINVAL : 0;
}

int nmi_storm_start(u32 hz, u32 cpu)
{
	struct cpu_local *local = cpu < MAX_CPUS ? cpu_locals[cpu] : NULL;
	int rc;

	if (!local || !hz || hz > HZ_MAX)
		return -EINVAL;
	if (storm.cpu)
		return -EBUSY;
	rc = choose_line(hz);
	if (rc)
		return rc;
	store_release(&storm.cpu, cpu + 1);
	if (!ioapic_set_nmi(storm.line, local->apic_id, storm.pit && pit_line.active_low)) {
		store_release(&storm.cpu, 0);
		return -ENODEV;
	}
	if (storm.pit)
		pit_start(PIT_HZ / hz);
	else
		hpet_repeat((u32)(hpet_frequency() / hz));
	return 0;
}

static void nothing(void *arg)
{
	(void)arg;
}

/*
 * One that was sent before the line was masked may still be on its way: to the CPU for a moment, and there until it runs, which on a
 * virtual machine may take long. A CPU takes an NMI before anything else it does, so who answers a call has come to the end of it. An
 * NMI of our own would not do: the storm's last may be taken for it, and itself come later.
 */
static void flush_nmis(u32 cpu)
{
	cpumask_t one = { { 0 } };

	cpumask_set(&one, cpu);
	timer_spin_us(MESSAGE_US);
	ipi_call(&one, nothing, NULL, NULL);
}

void nmi_storm_stop(void)
{
	if (!storm.cpu)
		return;
	ioapic_mask(storm.line);
	if (storm.pit)
		pit_stop();
	else
		hpet_repeat_stop();
	flush_nmis(storm.cpu - 1);
	store_release(&storm.cpu, 0);
}

u64 nmi_storm_count(u32 cpu)
{
	return cpu < MAX_CPUS ? load_relaxed(&storm_counts[cpu]) : 0;
}
