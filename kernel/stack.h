/* SPDX-License-Identifier: MIT */
/* Kernel stacks in areas of their own, with guard pages on both sides (SPEC BT3). */
#ifndef KERNEL_STACK_H
#define KERNEL_STACK_H

#include "kernel/base/range.h"
#include "kernel/base/types.h"

#define TASK_STACK_SIZE (64 * KIB)
#define IST_STACK_SIZE (16 * KIB)

/*
 * Give this CPU its stacks: those of NMI, double fault and machine check are in use from here on; the caller switches to the
 * task stack (arch/x86_64/stack.h). Returns the task stack's end. Once per CPU. There is no going on without: no memory is a
 * panic.
 */
void *stack_init(void);

/* The stacks of another CPU. False: no memory, and none is left over. */
bool stack_alloc(struct range *stacks) __must_check;
void stack_free(const struct range *stacks);

/* Which of this CPU's stacks an address belongs to, its guards included: "task", "NMI", …; NULL: none. Any context. */
const char *stack_name(u64 va);

/* The guard pages count as overflow below and overrun above. */
bool stack_is_overflow(u64 va);

#endif
