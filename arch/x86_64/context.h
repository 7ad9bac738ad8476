/* SPDX-License-Identifier: MIT */
/*
 * What a CPU switches between: a stack, the registers that a call keeps, and the faults that are expected there.
 *
 * A context belongs to one CPU. The switch is a call that returns in another context: made in task context with interrupts
 * off, so that what the CPU knows of its current stack (cpu_local()->stacks, the stack that ring 3 would enter on) and the
 * innermost trap_try() change in one step. Nothing else is saved: the kernel uses general registers only.
 */
#ifndef ARCH_X86_64_CONTEXT_H
#define ARCH_X86_64_CONTEXT_H

#include "kernel/base/list.h"
#include "kernel/base/range.h"
#include "kernel/base/types.h"

struct trap_catch;

struct context {
	u64 rsp;			/* while it does not run: where context_switch() left its registers */
	struct range stack;
	struct trap_catch *catch;	/* while it does not run */
	struct list pin;		/* every context there is */
};

/*
 * A context that calls fn(arg) when it is first switched to, interrupts off; fn never returns. The stack is pinned
 * (arch_range_pinned) until context_destroy(). Task context.
 */
void context_init(struct context *context, struct range stack, void (*fn)(void *arg), void *arg);

/* Make what runs now on this CPU's task stack a context. Task context. */
void context_adopt(struct context *context);

/* It is never switched to again, and does not run. Task context. */
void context_destroy(struct context *context);

/* Go on in `to`; returns when somebody switches back. Task context, interrupts off. */
void context_switch(struct context *from, struct context *to);

/* Whether the range holds part of a stack of any context. Task context. */
bool context_uses(struct range va);

/* The stack on which a context would go on, as the frame pointer of its innermost function: for backtraces. It does not run. */
u64 context_frame(const struct context *context);

#endif
