/* SPDX-License-Identifier: MIT */
/*
 * Contexts: what of the CPU's own data follows them. The switch of the stack itself is switch.asm.
 *
 * The list of all stacks is for break-before-make: a stack nobody runs on now may be switched to by another CPU before
 * the rendezvous has stopped that one, so all count as in use.
 */
#include "arch/x86_64/context.h"

#include "arch/x86_64/percpu.h"
#include "kernel/base/bits.h"
#include "kernel/base/panic.h"
#include "kernel/base/spinlock.h"

/* switch.asm: what context_swap_stacks() leaves on a stack, lowest address first. */
struct switch_frame {
	u64 r15, r14, r13, r12, rbx, rbp;
	u64 rip;
};

void context_swap_stacks(u64 *save_rsp, u64 rsp);
extern const char context_entry[];

static spinlock_t pins_lock = SPINLOCK_INIT;
static struct list pins = LIST_INIT(pins);

static void pin(struct context *context)
{
	spin_lock(&pins_lock);
	list_add_tail(&context->pin, &pins);
	spin_unlock(&pins_lock);
}

void context_init(struct context *context, struct range stack, void (*fn)(void *arg), void *arg)
{
	struct switch_frame *frame = (struct switch_frame *)align_down(stack.end, 16) - 1;

	*frame = (struct switch_frame){ .rbx = (u64)fn, .r12 = (u64)arg, .rip = (u64)context_entry };
	context->rsp = (u64)frame;
	context->stack = stack;
	context->catch = NULL;
	pin(context);
}

void context_adopt(struct context *context)
{
	context->stack = cpu_local()->stacks[CPU_STACK_TASK];
	pin(context);
}

void context_destroy(struct context *context)
{
	spin_lock(&pins_lock);
	list_del(&context->pin);
	spin_unlock(&pins_lock);
}

void context_switch(struct context *from, struct context *to)
{
	struct cpu_local *cpu = cpu_local();

	assert(cpu->irq_depth == 0 && !arch_irqs_enabled());
	from->catch = cpu->catch;
	cpu->catch = to->catch;
	cpu->stacks[CPU_STACK_TASK] = to->stack;
	cpu->tss.rsp[0] = to->stack.end;
	context_swap_stacks(&from->rsp, to->rsp);
}

bool context_uses(struct range va)
{
	bool found = false;

	spin_lock(&pins_lock);
	list_for_each(node, &pins)
		found = found || range_overlaps(va, list_entry(node, struct context, pin)->stack);
	spin_unlock(&pins_lock);
	return found;
}

u64 context_frame(const struct context *context)
{
	return ((const struct switch_frame *)context->rsp)->rbp;
}
