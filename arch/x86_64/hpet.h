/* SPDX-License-Identifier: MIT */
/*
 * The High Precision Event Timer: a counter of known frequency, and one of its timers as a source of edges for the IOAPIC
 * (IA-PC HPET specification 1.0a, chapter 2).
 */
#ifndef ARCH_X86_64_HPET_H
#define ARCH_X86_64_HPET_H

#include "kernel/base/types.h"

#define HPET_SIZE 0x400u	/* bytes of registers */

/* Start the counter, all timers silent. False: what is there is no HPET. Boot CPU, once. */
bool hpet_init(volatile void *registers);
bool hpet_present(void);
u64 hpet_frequency(void);	/* ticks per second */
u32 hpet_read(void);		/* the low half of the counter */

/*
 * Whether some timer can repeat and reach one of these interrupt lines (a bit mask of global numbers): *line is the one it
 * will use. It is remembered for hpet_repeat().
 */
bool hpet_can_repeat(u64 lines, u32 *line);
/* An edge on that line every `ticks`, until it is stopped. */
void hpet_repeat(u32 ticks);
void hpet_repeat_stop(void);

#endif
