/* SPDX-License-Identifier: MIT */
/*
 * The lab on several CPUs (cpus.c): what a change of the direct map costs all of them. Rows give flushes, pages, CPUs asked
 * and frames that wait, never instructions: the CPUs share the clock, and who waits spins.
 */
#ifndef TESTS_LAB_CPUS_H
#define TESTS_LAB_CPUS_H

#include "kernel/base/types.h"

/*
 * The machine's part. Between start and stop, run fn(arg) on each CPU that is online, this one too, and return when all are
 * through: all at the same time, or, in a hosted build, one after the other. -ENOMEM: nothing was started.
 */
int lab_cpus_start(void) __must_check;
void lab_on_cpus(void (*fn)(void *arg), void *arg);
void lab_cpus_stop(void);
/* Interrupts that CPUs online now have sent to others since boot, to flush TLBs or for other calls: fewer than the CPUs asked, where requests were merged. */
u64 lab_interrupts_sent(void);

/* The table of all rows that have run (RP2). */
void lab_cpus_summary(void);

#endif
