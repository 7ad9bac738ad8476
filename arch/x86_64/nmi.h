/* SPDX-License-Identifier: MIT */
/*
 * Non-maskable interrupts: who gets them, and a source of as many as a test wants (SPEC BT5).
 *
 * Code that runs in an NMI may only try locks, must not fault, and finds interrupts on or off as they were.
 */
#ifndef ARCH_X86_64_NMI_H
#define ARCH_X86_64_NMI_H

#include "kernel/base/types.h"

struct trap_frame;

/*
 * Called on a CPU for each NMI it takes, whatever its source, on the NMI stack, interrupts and NMIs off. It must not fault: an
 * exception's IRET would let the next NMI onto the same stack. NULL: none. Returns the one before.
 */
typedef void (*nmi_handler_fn)(const struct trap_frame *frame);
nmi_handler_fn nmi_set_handler(nmi_handler_fn fn);

/* Called by trap.c. One that nobody asked for is counted: cpu_local()->nmis. */
void nmi_handle(const struct trap_frame *frame);

/* Where the PIT's edges arrive: ISA line 0, which is global line 0 or wherever the firmware says it leads. Boot. */
struct nmi_isa_line {
	u32 line;
	bool active_low;
};
void nmi_init(struct nmi_isa_line pit);

/*
 * From now on a timer of the machine sends that CPU about hz NMIs a second, through an IOAPIC entry in NMI mode: a timer of the HPET
 * or, without one, the PIT. One storm at a time. Task context.
 *   -ENODEV  no IOAPIC, or no timer that reaches one
 *   -EBUSY   there is a storm already
 *   -EINVAL  no such CPU, or an hz out of reach (1..20,000; the PIT: 19..20,000)
 */
int nmi_storm_start(u32 hz, u32 cpu) __must_check;
/* No more from here on: the last one's handler has returned. Nothing if there is no storm. Task context, interrupts on, no spinlock. */
void nmi_storm_stop(void);
/* NMIs of storms that the CPU has taken since boot. */
u64 nmi_storm_count(u32 cpu);
/* "HPET" or "PIT": what storms are made with; NULL: there are none. */
const char *nmi_storm_source(void);

#endif
