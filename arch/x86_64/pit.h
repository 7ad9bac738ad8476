/* SPDX-License-Identifier: MIT */
/* The programmable interval timer, channel 0: a 16-bit counter, and edges on ISA line 0 (Intel 8254 data sheet). */
#ifndef ARCH_X86_64_PIT_H
#define ARCH_X86_64_PIT_H

#include "kernel/base/types.h"

#define PIT_HZ 1193182u

/* Count from `ticks` (2..65536) down to 1, again and again, with an edge each time. */
void pit_start(u32 ticks);
/* Stop: no further edge. */
void pit_stop(void);
/* Ticks, counting up, of a PIT that was started with 65536: 16 bits of them. */
u32 pit_read(void);

#endif
