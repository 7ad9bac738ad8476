/* SPDX-License-Identifier: MIT */
/*
 * IOAPICs: all entries masked, but for those that somebody asked for (Intel 82093AA data sheet; ACPI 6.5, 5.2.12.3).
 *
 * Lines have global numbers: IOAPIC i serves those from its base on.
 */
#ifndef ARCH_X86_64_IOAPIC_H
#define ARCH_X86_64_IOAPIC_H

#include "kernel/base/types.h"

#define IOAPIC_SIZE 0x20u	/* bytes of registers */
#define IOAPICS_MAX 16u

/* Take one over, masking all its lines. Boot. False: there are too many, or what is there is none. */
bool ioapic_add(volatile void *registers, u32 base);

/* Lines below 64 that some IOAPIC serves, as a bit mask. */
u64 ioapic_lines(void);

/*
 * Edges on this line send an NMI to the CPU of that APIC id from now on. active_low: the line's polarity. False: nobody serves the
 * line, or the id is not to be reached from an IOAPIC (above 254).
 */
bool ioapic_set_nmi(u32 line, u32 apic_id, bool active_low);
void ioapic_mask(u32 line);

#endif
