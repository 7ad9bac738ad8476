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

/*
 * Start every other CPU that ACPI lists as usable, up to the command line's cpus=. Each comes up with its own stacks, per-CPU data,
 * page cache and temporary root, in the kernel's root and in the state of the first, and then runs threads. One that does not
 * answer, or cannot do what the first can, is named in the log and left out. Boot CPU, once, after smp_init_boot_cpu().
 */
void smp_start_others(void);

/* CPUs that were to be started and did not come up. */
u32 smp_left_out(void);

#endif
