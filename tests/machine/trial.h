/* SPDX-License-Identifier: MIT */
/*
 * Real accesses, tried: what the tables say is one thing, what the CPU does with it another. Each answers with the page
 * fault's error code, or TRIAL_OK.
 */
#ifndef TESTS_MACHINE_TRIAL_H
#define TESTS_MACHINE_TRIAL_H

#include "arch/x86_64/trap.h"
#include "kernel/base/types.h"

#define TRIAL_OK 0x10000u		/* no fault */
#define TRIAL_OTHER(vector) (0x20000u | (vector))	/* another exception than a page fault, or a fault elsewhere */

/* Read, or write the address itself to, the 8 bytes at va. */
u32 trial_read(u64 va);
u32 trial_write(u64 va);
/* Call what is at va: it must return at once (TRIAL_OK) or trap. */
u32 trial_call(u64 va);

/* QEMU's own translation: its TLB keeps what it is not told to forget. On other machines it may have lost it meanwhile. */
bool trial_translated_by_qemu(void);

/* Where the last exception was: a fault at the instruction, a breakpoint behind it. */
extern u64 trial_rip;

#endif
