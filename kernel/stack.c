/* SPDX-License-Identifier: MIT */
/*
 * Allocates stacks. An overflow runs into the unmapped guard below: a page fault that cannot be delivered on the same
 * stack, so a double fault, on a stack that is fresh.
 */
#include "kernel/stack.h"

#include "arch/x86_64/percpu.h"
#include "kernel/base/panic.h"
#include "mm/vmalloc.h"

static const struct {
	const char *name;
	u64 size;
} kinds[CPU_STACKS] = {
	[CPU_STACK_TASK] = { "task", TASK_STACK_SIZE },
	[IST_NMI] = { "NMI", IST_STACK_SIZE },
	[IST_DOUBLE_FAULT] = { "double-fault", IST_STACK_SIZE },
	[IST_MACHINE_CHECK] = { "machine-check", IST_STACK_SIZE },
};

bool stack_alloc(struct range *stacks)
{
	for (unsigned i = 0; i < CPU_STACKS; i++)
		stacks[i] = range(0, 0);
	for (unsigned i = 0; i < CPU_STACKS; i++) {
		void *p = vmalloc(kinds[i].size);

		if (!p) {
			stack_free(stacks);
			return false;
		}
		stacks[i] = range_len((u64)p, kinds[i].size);
	}
	return true;
}

void stack_free(const struct range *stacks)
{
	for (unsigned i = 0; i < CPU_STACKS; i++)
		vfree((void *)stacks[i].start);
}

void *stack_init(void)
{
	struct range stacks[CPU_STACKS];

	if (!stack_alloc(stacks))
		panic("no memory for the boot CPU's stacks");
	percpu_set_stacks(stacks);
	return (void *)stacks[CPU_STACK_TASK].end;
}

/* The stack's number, or CPU_STACKS. */
static unsigned which(u64 va)
{
	const struct range *stacks = cpu_local()->stacks;

	for (unsigned i = 0; i < CPU_STACKS; i++)
		if (range_has(range(stacks[i].start - PAGE_SIZE, stacks[i].end + PAGE_SIZE), va))
			return i;
	return CPU_STACKS;
}

const char *stack_name(u64 va)
{
	unsigned i = which(va);

	return i < CPU_STACKS ? kinds[i].name : NULL;
}

bool stack_is_overflow(u64 va)
{
	unsigned i = which(va);

	return i < CPU_STACKS && va < cpu_local()->stacks[i].start;
}
