/* SPDX-License-Identifier: MIT */
/*
 * What happens between trap.asm and whoever the trap concerns.
 *
 * An expected fault (trap_try) is unwound by rewriting the frame and returning from the trap in the normal way,
 * by IRETQ: so the state of the CPU that only IRETQ restores (NMIs blocked, an interrupt stack in use) is right
 * again. Anything else that is an exception goes to kernel_trap(), which does not return.
 */
#include "arch/x86_64/trap.h"

#include "arch/x86_64/cpu.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/interrupts.h"
#include "arch/x86_64/nmi.h"
#include "arch/x86_64/percpu.h"
#include "kernel/base/fmt.h"
#include "kernel/base/trace.h"

/* One trap_try() in progress. It lives on the stack of that function. */
struct trap_catch {
	u64 rsp;		/* where the landing finds the saved registers: written by trap_try_call */
	u64 rflags;
	u32 irq_depth;
	struct trap_catch *outer;
	struct trap_record record;
};

_Static_assert(offsetof(struct trap_catch, rsp) == 0, "trap.asm writes it");
_Static_assert(sizeof(struct trap_frame) == 176, "trap.asm builds it, and relies on the alignment");
_Static_assert(offsetof(struct trap_frame, vector) == 15 * 8, "trap.asm builds it");

/* trap.asm */
bool trap_try_call(struct trap_catch *catch, void (*fn)(void *arg), void *arg);
extern const char trap_try_landing[];
void trap_handler(struct trap_frame *frame);


bool trap_clears_ac;

static const char *const names[TRAP_EXCEPTIONS] = {
	[TRAP_DIVIDE] = "divide error",
	[TRAP_DEBUG] = "debug exception",
	[TRAP_NMI] = "non-maskable interrupt",
	[TRAP_BREAKPOINT] = "breakpoint",
	[TRAP_OVERFLOW] = "overflow",
	[TRAP_BOUND] = "bound range exceeded",
	[TRAP_INVALID_OPCODE] = "invalid opcode",
	[TRAP_NO_FPU] = "device not available",
	[TRAP_DOUBLE_FAULT] = "double fault",
	[TRAP_INVALID_TSS] = "invalid TSS",
	[TRAP_SEGMENT] = "segment not present",
	[TRAP_STACK] = "stack-segment fault",
	[TRAP_GENERAL_PROTECTION] = "general protection",
	[TRAP_PAGE_FAULT] = "page fault",
	[TRAP_FPU] = "x87 floating-point error",
	[TRAP_ALIGNMENT] = "alignment check",
	[TRAP_MACHINE_CHECK] = "machine check",
	[TRAP_SIMD] = "SIMD floating-point exception",
	[TRAP_VIRTUALIZATION] = "virtualization exception",
	[TRAP_CONTROL_PROTECTION] = "control protection",
};

const char *trap_name(u64 vector)
{
	if (vector >= TRAP_EXCEPTIONS)
		return "interrupt";
	return names[vector] ? names[vector] : "reserved exception";
}

const char *trap_describe_page_fault(u64 error, char *buf, size_t size)
{
	static const struct {
		u32 bit;
		const char *text;
	} extra[] = {
		{ PF_RESERVED, ", reserved bit set in an entry" },
		{ PF_PKEY, ", protection key" },
		{ PF_SHADOW_STACK, ", shadow stack" },
		{ PF_HLAT, ", HLAT paging" },
		{ PF_SGX, ", SGX access control" },
		{ PF_RMP, ", reverse map table" },
	};
	const char *what = error & PF_FETCH ? "fetch from" : error & PF_WRITE ? "write to" : "read from";
	size_t len = fmt_print(buf, size, "%s %s %s page", error & PF_USER ? "user" : "supervisor", what,
			       error & PF_PRESENT ? "a present" : "an absent");

	for (unsigned i = 0; i < ARRAY_SIZE(extra); i++)
		if ((error & extra[i].bit) && len < size)
			len += fmt_print(buf + len, size - len, "%s", extra[i].text);
	return buf;
}

bool trap_try(void (*fn)(void *arg), void *arg, struct trap_record *out)
{
	struct cpu_local *cpu = cpu_local();
	struct trap_catch catch = {
		.rflags = insn_read_flags(),
		.irq_depth = cpu->irq_depth,
		.outer = cpu->catch,
	};
	bool returned;

	__atomic_store_n(&cpu->catch, &catch, __ATOMIC_RELEASE);
	returned = trap_try_call(&catch, fn, arg);
	__atomic_store_n(&cpu->catch, catch.outer, __ATOMIC_RELEASE);
	if (!returned && out)
		*out = catch.record;
	return returned;
}

static void read_u64(void *arg)
{
	u64 *io = arg;

	*io = *(const volatile u64 *)*io;
}

bool trap_read_u64(u64 va, u64 *out)
{
	u64 io = va;

	if (!trap_try(read_u64, &io, NULL))
		return false;
	*out = io;
	return true;
}

static void read_msr(void *arg)
{
	u64 *io = arg;

	*io = insn_rdmsr((u32)*io);
}

bool trap_rdmsr(u32 msr, u64 *out)
{
	u64 io = msr;

	if (!trap_try(read_msr, &io, NULL))
		return false;
	*out = io;
	return true;
}

/* The exception was expected: make the return from it lead to the landing of the innermost trap_try(). */
static bool unwind(struct cpu_local *cpu, struct trap_frame *frame, u64 cr2)
{
	struct trap_catch *catch = cpu->catch;

	if (!catch || catch->irq_depth != cpu->irq_depth || frame->vector == TRAP_MACHINE_CHECK)
		return false;
	catch->record = (struct trap_record){ (u32)frame->vector, (u32)frame->error, cr2, frame->rip };
	frame->rip = (u64)trap_try_landing;
	frame->rsp = catch->rsp;
	frame->rflags = catch->rflags;
	return true;
}

static bool is_exception(u64 vector)
{
	return vector < TRAP_EXCEPTIONS && vector != TRAP_NMI;
}

void trap_handler(struct trap_frame *frame)
{
	struct cpu_local *cpu = cpu_local();

	u8 nesting = cpu->state.nesting;

	if (is_exception(frame->vector)) {
		/* A double fault on a stack overflow follows a page fault: CR2 still says where. */
		bool has_cr2 = frame->vector == TRAP_PAGE_FAULT || frame->vector == TRAP_DOUBLE_FAULT;
		u64 cr2 = has_cr2 ? insn_read_cr2() : 0;

		if (frame->vector == TRAP_MACHINE_CHECK)
			cpu->state.nesting = CPU_MACHINE_CHECK;
		if (frame->vector == TRAP_PAGE_FAULT)
			trace_event(TRACE_FAULT, cr2, frame->error, frame->rip);
		if (!unwind(cpu, frame, cr2))
			kernel_trap(frame, cr2);
		return;
	}
	cpu->state.nesting = MAX(nesting, frame->vector == TRAP_NMI ? CPU_NMI : CPU_IRQ);
	cpu->irq_depth++;
	if (frame->vector == TRAP_NMI)
		nmi_handle(frame);
	else
		interrupts_handle((u8)frame->vector);
	cpu->irq_depth--;
	cpu->state.nesting = nesting;
}
