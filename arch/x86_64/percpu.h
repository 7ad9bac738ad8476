/* SPDX-License-Identifier: MIT */
/*
 * What each CPU keeps for itself, reached by GS.
 *
 * GS_BASE of a CPU holds the address of its struct cpu_local from arch_early_init() on; the first word is
 * that address again, so that one load gives a pointer. Only the CPU itself writes here, except where a
 * field says otherwise. The portable part (kernel/base/arch_cpu.h) is embedded.
 */
#ifndef ARCH_X86_64_PERCPU_H
#define ARCH_X86_64_PERCPU_H

#include "arch/x86_64/gdt.h"
#include "kernel/base/arch_cpu.h"
#include "kernel/base/range.h"

struct trap_catch;

/* Interrupt stacks: index in the table of the TSS, from 1 (SDM 3A 6.14.5). */
enum ist {
	IST_NONE = 0,
	IST_NMI,
	IST_DOUBLE_FAULT,
	IST_MACHINE_CHECK,
	IST_COUNT = IST_MACHINE_CHECK,
};

enum cpu_stack {
	CPU_STACK_TASK = 0,	/* 1..IST_COUNT: that interrupt stack */
	CPU_STACKS = IST_COUNT + 1,
};

struct cpu_local {
	struct cpu_local *self;
	struct cpu_state state;
	struct trap_catch *catch;	/* innermost expected fault, or NULL */
	u32 irq_depth;			/* interrupts and NMIs being handled, one inside another */
	u64 nmis;
	u64 stray_interrupts;		/* nobody asked for these */
	struct range stacks[CPU_STACKS];
	struct gdt gdt;
	struct tss tss;
};

extern struct cpu_local *cpu_locals[MAX_CPUS];

static inline struct cpu_local *cpu_local(void)
{
	struct cpu_local *self;

	__asm__("movq %%gs:0, %0" : "=r"(self));
	return self;
}

/* Number a CPU, fill its GDT and TSS, and load them and GS. On that CPU itself. */
void percpu_init(struct cpu_local *local, u32 id);

/*
 * From now on traps with an interrupt stack use these; stacks[CPU_STACK_TASK] is where the caller is going to
 * switch to. On that CPU itself.
 */
void percpu_set_stacks(const struct range stacks[CPU_STACKS]);

#endif
