/* SPDX-License-Identifier: MIT */
/*
 * Interrupt controllers, kept silent: nothing is routed to the kernel yet, so interrupts can be on and none
 * arrives. One that does is counted per CPU (cpu_local()->stray_interrupts) and acknowledged.
 */
#ifndef ARCH_X86_64_INTERRUPTS_H
#define ARCH_X86_64_INTERRUPTS_H

#include "kernel/base/types.h"

#define LAPIC_SIZE 0x400u	/* bytes of registers that are used */

/* Physical address of this CPU's local APIC registers; 0: it is reached by MSRs (x2APIC), or there is none. */
u64 interrupts_lapic_pa(void);

/*
 * Mask the two 8259s, this CPU's local vector table and, by its task priority, every interrupt a device may
 * still send. registers: where the local APIC is mapped, NULL if interrupts_lapic_pa() is 0.
 */
void interrupts_silence(volatile void *registers);

/* Called for every vector from 32 up. */
void interrupts_stray(u8 vector);

#endif
