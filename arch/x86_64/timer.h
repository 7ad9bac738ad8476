/* SPDX-License-Identifier: MIT */
/*
 * Time: the TSC, measured once, and a one-shot alarm per CPU (SPEC BT5).
 *
 * The TSC's frequency is measured at boot against the HPET, the ACPI PM timer or the PIT, whichever is there, in this
 * order. The alarm is the local APIC's: by TSC deadline where the CPU has it, else by its counter, whose frequency is
 * measured, too. A counter that is too short for a late alarm is started again until its time has come.
 *
 * Sources: SDM 3A 11.5.4, 18.17; IA-PC HPET specification 1.0a; ACPI 6.5, 4.8.3.3; Intel 8254 data sheet.
 */
#ifndef ARCH_X86_64_TIMER_H
#define ARCH_X86_64_TIMER_H

#include "kernel/base/types.h"

/* What the TSC can be measured against; 0 or NULL: it is not there. The PIT is taken for granted. */
struct timer_sources {
	volatile void *hpet;	/* its registers, mapped uncached */
	u16 pm_port;		/* I/O port of the PM timer */
	u8 pm_bits;		/* 24 or 32 */
};

/* Measure, and set up this CPU's timer. Boot CPU, once, after apic_init(). */
void timer_init(const struct timer_sources *sources);
/* The same for another CPU: nothing is measured again. On that CPU, interrupts off. */
void timer_init_cpu(void);

/* TSC cycles (arch_cycles()) per second. Constant from timer_init() on; before it a guess that is too high. Any context. */
u64 timer_frequency(void);

/* Whether there is an alarm: without a local APIC there is none, and timer_arm() does nothing. */
bool timer_works(void);

/*
 * kernel_timer() (kernel/base/arch_cpu.h) is called in an interrupt of this CPU as soon as arch_cycles() >= tsc; at once if it
 * is so already. Replaces what was armed before. Task or IRQ context, on the CPU that wants it.
 */
void timer_arm(u64 tsc);
/* No alarm. One that has gone off already may still be delivered. */
void timer_disarm(void);

/* The alarm's interrupt. */
void timer_interrupt(void);

/* Wait, spinning. Any context. */
void timer_spin_us(u64 us);

#endif
