/* SPDX-License-Identifier: MIT */
/*
 * Per-CPU data, and the CPU's half of the port (kernel/base/arch_cpu.h).
 *
 * The boot CPU's data is static, so that there is one before there is memory.
 */
#include "arch/x86_64/percpu.h"

#include "arch/x86_64/cpu.h"
#include "arch/x86_64/idt.h"
#include "arch/x86_64/insn.h"
#include "kernel/base/atomic.h"
#include "kernel/base/panic.h"

#define FIRST_IST_SIZE (8 * KIB)

_Static_assert(offsetof(struct cpu_local, self) == 0, "cpu_local() reads GS:0");

struct cpu_local *cpu_locals[MAX_CPUS];
u32 cpu_locals_end;

static struct cpu_local boot_cpu_local;
static cpumask_t online;

/* Stacks of the traps that bring their own, until percpu_set_stacks() moves them into guarded areas. */
static u8 first_ist[IST_COUNT][FIRST_IST_SIZE] __aligned(16);

static void set_stacks(struct cpu_local *local, const struct range stacks[CPU_STACKS])
{
	local->stacks[CPU_STACK_TASK] = stacks[CPU_STACK_TASK];
	local->tss.rsp[0] = stacks[CPU_STACK_TASK].end;
	for (unsigned i = IST_NMI; i <= IST_COUNT; i++) {
		local->stacks[i] = stacks[i];
		local->tss.ist[i - 1] = stacks[i].end;
	}
}

void percpu_prepare(struct cpu_local *local, u32 id, const struct range stacks[CPU_STACKS])
{
	assert(id < MAX_CPUS && !cpu_locals[id]);
	local->self = local;
	local->state.id = id;
	local->state.pages = &page_cache_none;
	gdt_init(&local->gdt, &local->tss);
	set_stacks(local, stacks);
	store_release(&cpu_locals[id], local);
	store_release(&cpu_locals_end, MAX(cpu_locals_end, id + 1));
}

void percpu_forget(struct cpu_local *local)
{
	assert(!cpumask_has(&online, local->state.id));
	store_release(&cpu_locals[local->state.id], NULL);
}

void percpu_load(struct cpu_local *local)
{
	gdt_load(&local->gdt);
	insn_wrmsr(MSR_GS_BASE, (u64)local);
}

void percpu_set_online(u32 id)
{
	cpumask_set(&online, id);
}

void percpu_set_offline(u32 id)
{
	cpumask_clear(&online, id);
}

void percpu_set_stacks(const struct range stacks[CPU_STACKS])
{
	set_stacks(cpu_local(), stacks);
}

/* Called by entry.asm on the first stack, before anything else. A trap is decoded from the end of it on. */
void arch_early_init(u64 stack_bottom, u64 stack_top);

void arch_early_init(u64 stack_bottom, u64 stack_top)
{
	struct range stacks[CPU_STACKS] = { [CPU_STACK_TASK] = { stack_bottom, stack_top } };

	for (unsigned i = IST_NMI; i <= IST_COUNT; i++)
		stacks[i] = range_len((u64)first_ist[i - 1], FIRST_IST_SIZE);
	percpu_prepare(&boot_cpu_local, 0, stacks);
	percpu_load(&boot_cpu_local);
	percpu_set_online(0);
	idt_init();
	idt_load();
}

struct cpu_state *arch_this_cpu(void)
{
	return &cpu_local()->state;
}

const cpumask_t *arch_cpus_online(void)
{
	return &online;
}

u64 arch_irq_save(void)
{
	u64 flags = insn_read_flags();

	insn_cli();
	return flags;
}

void arch_irq_restore(u64 flags)
{
	if (flags & RFLAGS_IF)
		insn_sti();
}

bool arch_irqs_enabled(void)
{
	return insn_read_flags() & RFLAGS_IF;
}

void arch_relax(void)
{
	insn_pause();
}

u64 arch_cycles(void)
{
	return insn_rdtsc_ordered();
}
