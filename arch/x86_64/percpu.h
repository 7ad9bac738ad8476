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
#include "arch/x86_64/ipi.h"
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

/* The call that a CPU waits for (ipi.c). */
struct ipi_slot {
	void (*fn)(void *arg);
	void *arg;
	cpumask_t pending;	/* asked, and not begun: whoever clears a bit, the CPU or the one that gives it up, has it */
	u32 left;		/* asked, and not done */
	bool busy;
};

/* What others want of a CPU: written by them. */
struct ipi_inbox {
	cpumask_t senders;	/* their slots wait for this CPU */
	u32 stop;		/* a rendezvous does */
	u32 nmi;		/* an NMI of ipi_nmi() is on its way */
} __aligned(64);

struct cpu_local {
	struct cpu_local *self;
	struct cpu_state state;
	struct trap_catch *catch;	/* innermost expected fault, or NULL */
	u32 irq_depth;			/* interrupts and NMIs being handled, one inside another */
	u32 apic_id;			/* constant once the CPU is up */
	u64 nmis;			/* nobody asked for these */
	u64 stray_interrupts;		/* nor for these */
	u64 timer_deadline;		/* of the alarm that is armed, in TSC cycles; 0: none */
	u64 timer_interrupts;
	struct range stacks[CPU_STACKS];
	struct range data;		/* the pages that this struct lies in; empty if it is part of the image */
	struct gdt gdt;
	struct tss tss;

	struct ipi_slot slot;
	struct ipi_stats ipi_stats;
	u32 serving;			/* CPU id + 1 whose call is being run, 0: none */
	u8 planted;			/* enum ipi_plant + 1 */
	u8 given_up;			/* written by others: this CPU did not answer in time, and must not go on */
	u32 halted;			/* for good */
	u64 halted_rip;			/* where */
	struct ipi_inbox inbox;
};

/* By CPU id; NULL: there is none of that number. cpu_locals_end is behind the last one. */
extern struct cpu_local *cpu_locals[MAX_CPUS];
extern u32 cpu_locals_end;

static inline struct cpu_local *cpu_local(void)
{
	struct cpu_local *self;

	__asm__("movq %%gs:0, %0" : "=r"(self));
	return self;
}

/*
 * Prepare a CPU's data, which is zeroed: its number, GDT, TSS and stacks. On any CPU, before it is started. From here on it
 * is in cpu_locals.
 */
void percpu_prepare(struct cpu_local *local, u32 id, const struct range stacks[CPU_STACKS]);

/* Take back a preparation: the CPU did not come up, and never will. */
void percpu_forget(struct cpu_local *local);

/* Load GDT, TSS and GS on the CPU that the data is of. */
void percpu_load(struct cpu_local *local);

/* From here on the CPU is one of arch_cpus_online(), takes part in shootdowns, and has to answer. */
void percpu_set_online(u32 id);
/* It is given up. */
void percpu_set_offline(u32 id);

/*
 * From now on traps with an interrupt stack use these; stacks[CPU_STACK_TASK] is where the caller is going to
 * switch to. On that CPU itself.
 */
void percpu_set_stacks(const struct range stacks[CPU_STACKS]);

#endif
