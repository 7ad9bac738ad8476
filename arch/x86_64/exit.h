/* SPDX-License-Identifier: MIT */
/* How the machine itself can end a run. */
#ifndef ARCH_X86_64_EXIT_H
#define ARCH_X86_64_EXIT_H

#include "kernel/base/types.h"

/* Written to QEMU's isa-debug-exit device: QEMU leaves with status (value << 1) | 1, so 33 and 35. */
#define DEBUG_EXIT_PASS 0x10
#define DEBUG_EXIT_FAIL 0x11

/*
 * Leave by the debug-exit device, if there is one: asked for only under a hypervisor, as port 0xF4 belongs to
 * something else on a real machine; the device reads 0, an empty port all ones. Returns if there is none.
 */
void exit_debug(u8 value);

/* Stop this CPU for good. */
__noreturn void exit_halt(void);

/*
 * Reset by the keyboard controller, and if it does not listen by a triple fault. For a machine whose firmware
 * does not do it.
 */
__noreturn void exit_reset(void);

#endif
