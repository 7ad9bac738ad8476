/* SPDX-License-Identifier: MIT */
/*
 * The CPUs of the machine: interrupts and timer of the boot CPU, and then all others (SPEC BT5).
 */
#ifndef KERNEL_SMP_H
#define KERNEL_SMP_H

#include "kernel/base/arch_cpu.h"
#include "kernel/base/types.h"

/*
 * Interrupt controllers and clocks that ACPI names, interrupts on: from here on shootdowns insist on them. What is missing is named in
 * the log, and the machine goes on without it. Boot CPU, once, on its task stack, after acpi_init().
 */
void smp_init_boot_cpu(void);

#endif
