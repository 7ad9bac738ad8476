/* SPDX-License-Identifier: MIT */
/* All CPUs: their state, their alarms, calls and NMIs between them (SPEC BT5, TL1). */
#include "arch/x86_64/apic.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/ipi.h"
#include "arch/x86_64/nmi.h"
#include "arch/x86_64/percpu.h"
#include "arch/x86_64/timer.h"
#include "kernel/base/atomic.h"
#include "kernel/base/errno.h"
#include "tests/test.h"

#define PATIENCE_S 30u	/* for what must happen: only a failure takes that long */

/* ---- Waiting for what must happen ---- */

static bool reaches(const u64 *word, u64 value)
{
	u64 end = arch_cycles() + PATIENCE_S * timer_frequency();

	while (load_relaxed(word) < value && arch_cycles() < end)
		arch_relax();
	return load_relaxed(word) >= value;
}

/* ---- Alarms ---- */

TEST_ID(smp, alarm_goes_off_when_it_is_time, "BT5")
{
	struct cpu_local *local = cpu_local();
	u64 before = local->timer_interrupts, at;

	if (!timer_works())
		SKIP("no local APIC timer");
	at = arch_cycles() + timer_frequency() / 200;
	timer_arm(at);
	CHECK_EQ(local->timer_deadline, at);
	REQUIRE(reaches(&local->timer_interrupts, before + 1));
	while (load_relaxed(&local->timer_deadline))
		;
	CHECK(arch_cycles() >= at);
}

/* More than the counter holds in one go. */
TEST_ID(smp, alarm_far_away_is_started_again, "BT5")
{
	struct cpu_local *local = cpu_local();
	u64 at;

	if (!timer_works())
		SKIP("no local APIC timer");
	at = arch_cycles() + timer_frequency() * 3600;
	timer_arm(at);
	CHECK_EQ(local->timer_deadline, at);
	timer_interrupt();
	CHECK_EQ(local->timer_deadline, at);	/* too early: it is armed still */
	timer_disarm();
	CHECK_EQ(local->timer_deadline, 0);
	timer_interrupt();			/* a late one is ignored */
	CHECK_EQ(local->timer_deadline, 0);
}

TEST_ID(smp, alarm_in_the_past_goes_off_at_once, "BT5")
{
	struct cpu_local *local = cpu_local();
	u64 before = local->timer_interrupts;

	if (!timer_works())
		SKIP("no local APIC timer");
	timer_arm(1);
	CHECK(reaches(&local->timer_interrupts, before + 1));
	timer_arm(0);
	CHECK(reaches(&local->timer_interrupts, before + 2));
}

/* ---- NMIs ---- */

static u64 handled;
static bool handled_in_nmi;

static void note_nmi(const struct trap_frame *frame)
{
	(void)frame;
	handled_in_nmi = arch_this_cpu()->nesting == CPU_NMI && !arch_irqs_enabled();
	fetch_add(&handled, 1);
}

TEST_ID(smp, nmi_sent_to_itself_with_interrupts_off, "BT5")
{
	u32 me = arch_this_cpu()->id;
	struct ipi_stats before, after;
	nmi_handler_fn old;
	u64 flags;

	if (!apic_present())
		SKIP("no local APIC");
	handled = 0;
	handled_in_nmi = false;
	ipi_read_stats(me, &before);
	old = nmi_set_handler(note_nmi);
	flags = arch_irq_save();
	ipi_nmi(me);
	CHECK(reaches(&handled, 1));
	arch_irq_restore(flags);
	CHECK(nmi_set_handler(old) == note_nmi);
	ipi_read_stats(me, &after);
	CHECK(handled_in_nmi);
	CHECK_EQ(handled, 1);
	CHECK_EQ(after.nmis_received - before.nmis_received, 1);
	CHECK_EQ(cpu_local()->nmis, 0);
}

#define STORM_HZ 1000u
#define STORM_NMIS 200u

static void wait_for_storm(u32 cpu, u64 nr)
{
	u64 end = arch_cycles() + PATIENCE_S * timer_frequency();
	u64 start = nmi_storm_count(cpu);

	while (nmi_storm_count(cpu) - start < nr && arch_cycles() < end)
		arch_relax();
	CHECK(nmi_storm_count(cpu) - start >= nr);
}

TEST_ID(smp, nmi_storm_by_a_timer_of_the_machine, "BT5")
{
	nmi_handler_fn old;
	u64 before, after;

	if (!nmi_storm_source())
		SKIP("no IOAPIC that a HPET or PIT reaches");
	CHECK_EQ(nmi_storm_start(0, 0), -EINVAL);
	CHECK_EQ(nmi_storm_start(STORM_HZ, MAX_CPUS), -EINVAL);
	for_each_cpu(cpu, arch_cpus_online()) {
		handled = 0;
		old = nmi_set_handler(note_nmi);
		before = nmi_storm_count(cpu);
		REQUIRE(nmi_storm_start(STORM_HZ, cpu) == 0);
		CHECK_EQ(nmi_storm_start(STORM_HZ, cpu), -EBUSY);
		wait_for_storm(cpu, STORM_NMIS);
		nmi_storm_stop();
		after = nmi_storm_count(cpu);
		nmi_set_handler(old);
		CHECK(handled >= after - before && handled <= after - before + 1);
		timer_spin_us(3 * 1000000 / STORM_HZ);
		CHECK_EQ(nmi_storm_count(cpu), after);
		CHECK_EQ(cpu_locals[cpu]->nmis, 0);
	}
	test_note("source=%s hz=%u", nmi_storm_source(), STORM_HZ);
}
