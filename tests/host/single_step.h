/* SPDX-License-Identifier: MIT */
/*
 * An NMI behind each instruction: the CPU's single-step flag raises SIGTRAP there, and a handler of that plays the NMI. The flag is off
 * while the handler runs, and back when it returns (SDM volume 3, 18.3.1.4).
 */
#ifndef TESTS_HOST_SINGLE_STEP_H
#define TESTS_HOST_SINGLE_STEP_H

#include <signal.h>

#include "kernel/base/types.h"

#define FLAG_TF 0x100ull

static inline void single_step_on(void)
{
	__asm__ volatile("pushfq\n\torq %0, (%%rsp)\n\tpopfq" : : "i"((i32)FLAG_TF) : "cc", "memory");
}

static inline void single_step_off(void)
{
	__asm__ volatile("pushfq\n\tandq %0, (%%rsp)\n\tpopfq" : : "i"((i32)~FLAG_TF) : "cc", "memory");
}

/* *old: what to give back to sigaction() afterwards. */
static inline void single_step_catch(void (*handler)(int, siginfo_t *, void *), struct sigaction *old)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };

	sigaction(SIGTRAP, &action, old);
}

#endif
