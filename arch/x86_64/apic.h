/* SPDX-License-Identifier: MIT */
/*
 * The local APIC of each CPU: reached by memory (xAPIC) or by MSRs (x2APIC), the same way on all of them.
 *
 * The task priority lets vectors of the highest class through, which are the kernel's own, and no others: a device that the
 * firmware left talking is not heard.
 *
 * Sources: SDM 3A chapter 11.
 */
#ifndef ARCH_X86_64_APIC_H
#define ARCH_X86_64_APIC_H

#include "kernel/base/types.h"

#define APIC_SIZE 0x400u	/* bytes of registers that are used */
#define APIC_ID_NONE UINT32_MAX

/* The kernel's own vectors: class 15. */
enum apic_vector {
	VECTOR_CALL = 0xf1,	/* look into the inbox (ipi.h) */
	VECTOR_TIMER = 0xf2,
	VECTOR_SPURIOUS = 0xff,
};

/* Registers, as offsets in memory; in x2APIC mode each is an MSR. */
#define APIC_LVT_TIMER 0x320u
#define APIC_LVT_LINT0 0x350u
#define APIC_LVT_LINT1 0x360u
#define APIC_TIMER_INITIAL 0x380u
#define APIC_TIMER_CURRENT 0x390u
#define APIC_TIMER_DIVIDE 0x3e0u
#define APIC_LVT_NMI (4u << 8)
#define APIC_LVT_ACTIVE_LOW (1u << 13)
#define APIC_LVT_MASKED (1u << 16)

/* Physical address of this CPU's registers; 0: it is reached by MSRs (x2APIC), or there is none that is switched on. */
u64 apic_pa(void);

/*
 * Take over the boot CPU's: registers is where apic_pa() is mapped (uncached), NULL if that is 0. wide: CPUs with ids above 254
 * are to be reached, which takes x2APIC mode; it is switched on if the CPU has it.
 */
void apic_init(volatile void *registers, bool wide);

/* The same for another CPU, in the same mode. False: it cannot be had in that mode. On that CPU, interrupts off. */
bool apic_init_cpu(void);

/* On this CPU: what arrives at pin LINT0 or LINT1 is an NMI, with that polarity. */
void apic_wire_nmi(unsigned pin, bool active_low);

/* Whether there is one. Without it there are no IPIs and no timer, and one CPU. */
bool apic_present(void);
bool apic_is_x2apic(void);

/* This CPU's id; APIC_ID_NONE without an APIC. */
u32 apic_id(void);

u32 apic_read(u32 reg);
void apic_write(u32 reg, u32 value);

/* The interrupt in service is done with. */
void apic_eoi(void);
/* Whether this vector is in service: a spurious one, or one by INT, is not, and must not be acknowledged. */
bool apic_in_service(u8 vector);

/* Commands to other CPUs, by APIC id. Stores before it are seen by whoever takes the interrupt. Any context. */
void apic_send_vector(u32 id, u8 vector);
void apic_send_nmi(u32 id);
void apic_send_init(u32 id);
void apic_send_startup(u32 id, u8 page);	/* starts at physical page << 12 */

#endif
