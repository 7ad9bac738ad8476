/* SPDX-License-Identifier: MIT */
/*
 * Starting another CPU (SDM 3A 8.4.4, ap_start.asm), and bringing it into the state of the first.
 */
#ifndef ARCH_X86_64_SMP_H
#define ARCH_X86_64_SMP_H

#include "arch/x86_64/percpu.h"

/*
 * Fill the start pages: code is to be copied to physical address pa (page-aligned, below 1 MiB), data to the page behind it; root is
 * a top table below 4 GiB in which both are mapped at their physical addresses (code: read and execute; data: read and
 * write) beside the kernel half. The data page stays written to by smp_start(). Once, on the boot CPU.
 */
void smp_fill_start_pages(void *code, void *data, u64 pa, u64 root);

/*
 * Start one CPU on that stack in entry(arg), interrupts off, on the start root, with neither GDT nor IDT of its own. 0: it has
 * entered; -ETIMEDOUT: it has not, and never will. On the boot CPU.
 */
int smp_start(u32 apic_id, u64 stack_top, void (*entry)(void *arg), void *arg) __must_check;

/*
 * On the new CPU, from entry(): descriptor tables, control registers, PAT, local APIC, timer, as the first CPU has them.
 * Differences of its MTRRs are named in the log and counted. False: this CPU cannot do what the first one can, or cannot
 * be reached; the log says why. It must not go on then.
 */
bool smp_init_cpu(struct cpu_local *local) __must_check;

/* This CPU is not used: halt for good. */
__noreturn void smp_park(void);

#endif
