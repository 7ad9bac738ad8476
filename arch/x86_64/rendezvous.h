/* SPDX-License-Identifier: MIT */
/* All CPUs stand still but one: arch_rendezvous() of mm/arch.h. */
#ifndef ARCH_X86_64_RENDEZVOUS_H
#define ARCH_X86_64_RENDEZVOUS_H

/* The part of a CPU that is stopped: called with interrupts off, when its inbox says so; returns when it may go on. */
void rendezvous_stand_still(void);

#endif
