/* SPDX-License-Identifier: MIT */
/*
 * Invalidation on this CPU, and the places where other CPUs would have to be asked (SDM 3A 4.10.4).
 *
 * The kernel loads every root with PCID 0, so one context is current at a time and INVLPG reaches all of it.
 */
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/insn.h"
#include "kernel/base/panic.h"
#include "mm/arch.h"

void arch_tlb_flush_page(u64 va)
{
	insn_invlpg(va);
}

/*
 * INVPCID type 2, a change of CR4.PGE, or, on a CPU that has no global pages, a load of CR3: each forgets every
 * translation, global ones too, and all paging-structure caches. An NMI between the two writes of CR4 finds a
 * CPU without global pages, which is correct, only slower.
 */
void arch_tlb_flush_all(void)
{
	u64 cr4;

	if (cpu_has(CPU_INVPCID)) {
		insn_invpcid(INVPCID_ALL_GLOBAL, 0, 0);
		return;
	}
	cr4 = insn_read_cr4();
	if (cr4 & CR4_PGE) {
		insn_write_cr4(cr4 & ~CR4_PGE);
		insn_write_cr4(cr4);
	} else {
		insn_write_cr3(insn_read_cr3());
	}
}

/*
 * No CPU but the first is ever started, so none can be asked. A set that is not empty would be a translation that
 * nobody invalidates: that must not go on.
 */
void arch_tlb_shootdown(const cpumask_t *cpus, struct tlb_flush *flush, cpumask_t *dead)
{
	(void)flush;
	(void)dead;
	for_each_cpu(cpu, cpus)
		panic("shootdown asked of CPU %u, which was never started", cpu);
}

/* With one CPU there is nobody to stop. */
void arch_rendezvous(void (*fn)(void *arg), void *arg)
{
	u64 flags = arch_irq_save();

	for_each_cpu(cpu, arch_cpus_online())
		if (cpu != arch_this_cpu()->id)
			panic("rendezvous with CPU %u, which was never started", cpu);
	fn(arg);
	arch_irq_restore(flags);
}

void arch_rendezvous_flush(void)
{
	arch_tlb_flush_all();
}

void arch_core_serialise_all(const cpumask_t *cpus, cpumask_t *dead)
{
	(void)dead;
	for_each_cpu(cpu, cpus)
		if (cpu != arch_this_cpu()->id)
			panic("CPU %u, which was never started, is asked to serialise", cpu);
}
