/* SPDX-License-Identifier: MIT */
/* The order in which the kernel comes up, and what it then runs. */
#ifndef KERNEL_MAIN_H
#define KERNEL_MAIN_H

#include "boot/boot_info.h"

/* Called by entry.asm, on the first stack, interrupts off. */
__noreturn void kernel_main(const struct boot_info *bi);

/* The step of the start that runs, or "payload": for the panic message. Any context. */
const char *kernel_step(void);

/*
 * What the kernel is there for: tests and reports. Defined by tests/, which the kernel itself knows nothing of. On the task
 * stack, interrupts on. bi is a copy: its physical pointers are good, too. 0: pass.
 */
int kernel_payload(const struct boot_info *bi);

#endif
