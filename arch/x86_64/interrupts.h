/* SPDX-License-Identifier: MIT */
/*
 * Interrupts of a CPU, vectors from 32 up: the kernel's own few lead to who wants them. All others are counted per CPU
 * (cpu_local()->stray_interrupts) and acknowledged. No device is routed to the kernel; the two 8259s are masked.
 */
#ifndef ARCH_X86_64_INTERRUPTS_H
#define ARCH_X86_64_INTERRUPTS_H

#include "kernel/base/types.h"

/* Mask the two 8259s, as if there were any. */
void interrupts_silence(void);

/* Called for every vector from 32 up, in IRQ context. */
void interrupts_handle(u8 vector);

#endif
