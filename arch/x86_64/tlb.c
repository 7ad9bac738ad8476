/* SPDX-License-Identifier: MIT */
/*
 * Invalidation on this CPU, and asking others for it (SDM 3A 4.10.4, 4.10.5).
 *
 * The kernel loads every root with PCID 0, so one context is current at a time and INVLPG reaches all of it.
 */
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/ipi.h"
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

static void flush_here(void *flush)
{
	tlb_flush_run(flush);
}

void arch_tlb_shootdown(const cpumask_t *cpus, struct tlb_flush *flush, cpumask_t *dead)
{
	ipi_call(cpus, flush_here, flush, dead);
}

static void serialise_here(void *arg)
{
	(void)arg;
	arch_core_serialise();
}

void arch_core_serialise_all(const cpumask_t *cpus, cpumask_t *dead)
{
	cpumask_t others = *cpus;

	cpumask_clear(&others, arch_this_cpu()->id);
	ipi_call(&others, serialise_here, NULL, dead);
}
