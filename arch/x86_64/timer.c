/* SPDX-License-Identifier: MIT */
/*
 * Measures the TSC and the APIC's counter, and drives the alarm: see timer.h.
 *
 * A measurement is the distance of two samples, and a sample the tightest of several reads of both clocks, so that a
 * virtual CPU that loses its host for a while in between does not count. Two measurements in a row have to agree.
 */
#include "arch/x86_64/timer.h"

#include "arch/x86_64/apic.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/hpet.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/percpu.h"
#include "arch/x86_64/pit.h"
#include "kernel/base/log.h"

#define GUESS_HZ 5000000000ull	/* too high: what is waited for takes longer, and no less than it should */
#define PM_HZ 3579545u		/* ACPI 6.5, 4.8.3.3 */

#define PARTS_OF_SECOND 100u	/* a measurement takes 10 ms: less than half of what the PIT needs to come round */
#define SAMPLE_READS 8u
#define MEASUREMENTS_MAX 8u
#define AGREE 1000u		/* to one part in so many */
#define STUCK_READS 10000000u	/* without the clock having moved far enough: it stands still */

#define LVT_DEADLINE (2u << 17)
#define DIVIDE_BY_1 0xbu
#define COUNT_MAX 0x7fffffffu

static u64 tsc_hz = GUESS_HZ;
static u64 apic_per_tsc;	/* ticks of the APIC's counter per TSC cycle, times 2^32; 0: no counter */
static bool by_deadline;
static u16 pm_port;

/* A clock that counts up and wraps at `mask`. */
struct source {
	const char *name;
	u32 (*read)(void);
	u64 hz;		/* 0: it is not there */
	u32 mask;
};

struct sample {
	u64 tsc;
	u32 ticks;
};

static struct sample take_sample(const struct source *s)
{
	u64 tightest = UINT64_MAX;
	struct sample best = { 0, 0 };

	for (unsigned i = 0; i < SAMPLE_READS; i++) {
		u64 before = arch_cycles();
		u32 ticks = s->read();
		u64 after = arch_cycles();

		if (after - before >= tightest)
			continue;
		tightest = after - before;
		best = (struct sample){ before + tightest / 2, ticks };
	}
	return best;
}

/* TSC cycles and ticks of the source that passed in the same time; false: the source stands still. */
static bool measure_once(const struct source *s, u64 wait_ticks, u64 *cycles, u64 *ticks)
{
	struct sample a = take_sample(s), b;

	for (u32 reads = 0; ((s->read() - a.ticks) & s->mask) < wait_ticks; reads++)
		if (reads == STUCK_READS)
			return false;
	b = take_sample(s);
	*cycles = b.tsc - a.tsc;
	*ticks = (b.ticks - a.ticks) & s->mask;
	return *ticks;
}

static bool agree(u64 a, u64 b)
{
	return (a > b ? a - b : b - a) <= MAX(a, b) / AGREE;
}

/* TSC cycles per second by this clock; 0: it cannot be told. */
static u64 measure_tsc(const struct source *s)
{
	u64 last = 0;

	for (unsigned i = 0; i < MEASUREMENTS_MAX; i++) {
		u64 cycles, ticks, hz;

		if (!measure_once(s, s->hz / PARTS_OF_SECOND, &cycles, &ticks))
			return 0;
		hz = cycles * s->hz / ticks;
		if (hz && agree(hz, last))
			return (hz + last) / 2;
		last = hz;
	}
	return 0;
}

static u32 read_pm(void)
{
	return insn_inl(pm_port);
}

static void init_tsc(const struct timer_sources *sources)
{
	const struct source clocks[] = {
		{ "HPET", hpet_read, hpet_init(sources->hpet) ? hpet_frequency() : 0, UINT32_MAX },
		{ "PM timer", read_pm, sources->pm_port ? PM_HZ : 0, sources->pm_bits == 32 ? UINT32_MAX : 0xffffff },
		{ "PIT", pit_read, PIT_HZ, 0xffff },
	};

	pm_port = sources->pm_port;
	pit_start(65536);
	for (unsigned i = 0; i < ARRAY_SIZE(clocks); i++) {
		u64 hz = clocks[i].hz ? measure_tsc(&clocks[i]) : 0;

		if (hz) {
			tsc_hz = hz;
			log_info("timer: TSC at %llu kHz, by the %s", (unsigned long long)(hz / 1000), clocks[i].name);
			break;
		}
		if (i == ARRAY_SIZE(clocks) - 1)
			log_warn("timer: no clock to measure the TSC by: %llu kHz is a guess",
				 (unsigned long long)(tsc_hz / 1000));
		else
			log_info("timer: no %s", clocks[i].hz ? "steady clock" : clocks[i].name);
	}
	pit_stop();
}

/* ---- The alarm ---- */

static u32 read_apic_counter(void)
{
	return -apic_read(APIC_TIMER_CURRENT);	/* it counts down */
}

/* The APIC's counter against the TSC: how many ticks it makes per cycle. */
static void init_apic_counter(void)
{
	const struct source counter = { "APIC", read_apic_counter, 1, UINT32_MAX };
	u64 last = 0;

	apic_write(APIC_TIMER_DIVIDE, DIVIDE_BY_1);
	apic_write(APIC_LVT_TIMER, APIC_LVT_MASKED | VECTOR_TIMER);
	for (unsigned i = 0; i < MEASUREMENTS_MAX && !apic_per_tsc; i++) {
		u64 cycles, ticks, ratio;
		struct sample a, b;

		apic_write(APIC_TIMER_INITIAL, UINT32_MAX);
		a = take_sample(&counter);
		timer_spin_us(1000000 / PARTS_OF_SECOND);
		b = take_sample(&counter);
		cycles = b.tsc - a.tsc;
		ticks = b.ticks - a.ticks;
		ratio = (ticks << 32) / cycles;
		if (ratio && agree(ratio, last))
			apic_per_tsc = (ratio + last) / 2;
		last = ratio;
	}
	apic_write(APIC_TIMER_INITIAL, 0);
	if (!apic_per_tsc)
		log_warn("timer: the local APIC's counter cannot be measured: there are no alarms");
	else
		log_info("timer: alarms by the local APIC's counter, at %llu kHz",
			 (unsigned long long)((tsc_hz / 1000 * (apic_per_tsc >> 16)) >> 16));
}

void timer_init_cpu(void)
{
	if (by_deadline) {
		apic_write(APIC_LVT_TIMER, LVT_DEADLINE | VECTOR_TIMER);
		insn_mfence();	/* this store before the first to the MSR (SDM 3A 11.5.4.1) */
	} else if (apic_per_tsc) {
		apic_write(APIC_TIMER_DIVIDE, DIVIDE_BY_1);
		apic_write(APIC_LVT_TIMER, VECTOR_TIMER);
	}
}

void timer_init(const struct timer_sources *sources)
{
	init_tsc(sources);
	if (!apic_present())
		return;
	by_deadline = cpu_has(CPU_TSC_DEADLINE);
	if (by_deadline)
		log_info("timer: alarms by TSC deadline");
	else
		init_apic_counter();
	timer_init_cpu();
}

u64 timer_frequency(void)
{
	return tsc_hz;
}

bool timer_works(void)
{
	return by_deadline || apic_per_tsc;
}

/* Start whatever brings this CPU an interrupt at its deadline, or on the way to it. Interrupts off. */
static void start(u64 deadline)
{
	u64 now, cycles, max;

	if (by_deadline) {
		insn_wrmsr(MSR_TSC_DEADLINE, deadline);
		return;
	}
	now = arch_cycles();
	cycles = deadline > now ? deadline - now : 0;
	max = ((u64)COUNT_MAX << 32) / apic_per_tsc;
	apic_write(APIC_TIMER_INITIAL, (u32)((MIN(cycles, max) * apic_per_tsc >> 32) + 1));
}

void timer_arm(u64 tsc)
{
	u64 flags;

	if (!timer_works())
		return;
	flags = arch_irq_save();
	cpu_local()->timer_deadline = MAX(tsc, 1);
	start(cpu_local()->timer_deadline);
	arch_irq_restore(flags);
}

void timer_disarm(void)
{
	u64 flags = arch_irq_save();

	cpu_local()->timer_deadline = 0;
	if (by_deadline)
		insn_wrmsr(MSR_TSC_DEADLINE, 0);
	else if (timer_works())
		apic_write(APIC_TIMER_INITIAL, 0);
	arch_irq_restore(flags);
}

void timer_interrupt(void)
{
	struct cpu_local *local = cpu_local();

	local->timer_interrupts++;
	if (!local->timer_deadline)
		return;
	if (arch_cycles() < local->timer_deadline) {
		start(local->timer_deadline);
		return;
	}
	local->timer_deadline = 0;
	kernel_timer();
}

void timer_spin_us(u64 us)
{
	u64 end = arch_cycles() + tsc_hz / 1000 * us / 1000;

	while (arch_cycles() < end)
		arch_relax();
}
