/* SPDX-License-Identifier: MIT */
/* How a run ends (SPEC BT7). */
#ifndef KERNEL_EXIT_H
#define KERNEL_EXIT_H

#include "kernel/base/types.h"

/*
 * End the run as `end=` says: exit (debug-exit device, or halt), halt, reboot, poweroff; monitor: as is asked for
 * there. pass decides what QEMU's exit status is. Task context.
 */
__noreturn void kernel_exit(bool pass);

/* The end after a panic: debug-exit device with failure, or halt, so that what is on the screen stays. Any context. */
__noreturn void kernel_exit_panic(void);

#endif
