/* SPDX-License-Identifier: MIT */
/*
 * Which CPU this is, what it can do, and the control registers that follow from it (SPEC BT3).
 *
 * Everything here is a table: features by CPUID bit, control bits by feature, errata by family and model.
 */
#ifndef ARCH_X86_64_CPU_H
#define ARCH_X86_64_CPU_H

#include "kernel/base/types.h"

enum cpu_feature {
	CPU_APIC,
	CPU_MCE,
	CPU_MTRR,
	CPU_PAT,
	CPU_PGE,
	CPU_PCID,
	CPU_X2APIC,
	CPU_TSC_DEADLINE,
	CPU_HYPERVISOR,		/* runs under one (leaf 1, ECX 31) */
	CPU_SMEP,
	CPU_SMAP,
	CPU_INVPCID,
	CPU_UMIP,
	CPU_PKS,
	CPU_LA57,
	CPU_SERIALIZE,
	CPU_ARCH_CAPABILITIES,
	CPU_NX,
	CPU_1G_LEAVES,
	CPU_INVARIANT_TSC,
	CPU_FEATURES,
};

struct cpu_info {
	char vendor[13];
	char brand[49];		/* "" if the CPU has no name */
	u32 family;		/* with the extended family added */
	u32 model;		/* with the extended model before it */
	u32 stepping;
	u64 features;		/* by enum cpu_feature */
	u8 phys_bits;
	u8 virt_bits;
};

/* The boot CPU's; constant after cpu_init(). */
extern struct cpu_info cpu_info;

static inline bool cpu_has(enum cpu_feature feature)
{
	return cpu_info.features >> feature & 1;
}

/*
 * Read CPUID into cpu_info, set EFER, CR0, CR4 and the PAT of this CPU, and fill in arch_mm. Before anything in
 * mm/ runs; IDT loaded.
 */
void cpu_init(void);

/*
 * The same registers on CPU number cpu, which runs this: they get what the first has. False, and a line in the log: it lacks
 * something that the first has.
 */
bool cpu_init_other(u32 cpu) __must_check;

/* Say in the log which CPU this is, and what it lacks. */
void cpu_log(void);

/* The PAT as it is programmed: WB WT UC- UC WC WT UC- UC. mm/vmalloc.h counts on it. */
#define CPU_PAT_VALUE 0x0007040100070406ull

#endif
