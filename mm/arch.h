/* SPDX-License-Identifier: MIT */
/*
 * The second half of the port: memory as mm/ sees the machine. (The first: kernel/base/arch_cpu.h.)
 *
 * mm/ contains no instruction: every effect on the machine goes through these functions. On x86-64
 * arch/x86_64/mm_arch.c and tlb.c implement them; in a hosted build tests/host/arch_host.c does,
 * with virtual CPUs whose TLBs remember everything they were allowed to remember.
 */
#ifndef MM_ARCH_H
#define MM_ARCH_H

#include "arch/x86_64/pte.h"
#include "kernel/base/arch_cpu.h"
#include "kernel/base/range.h"
#include "kernel/base/types.h"

struct tlb_flush;

/* What the machine can do. Filled in before anything in mm/ runs, constant from then on. */
struct arch_mm {
	u64 direct_base;	/* virtual address of physical 0 in the direct map */
	u64 direct_ptr;		/* pointer to physical 0: direct_base on a machine that runs on its own tables; in a
				   hosted build, where the process has its RAM */
	u64 pte_mask;		/* bits a leaf may have: no PTE_NX without NX, no PTE_G with KPTI or without PGE,
				   no PTE_PKEY without PKS */
	u8 levels;		/* of a root: 4 or 5 */
	u8 max_leaf;		/* PT_2M, or PT_1G where the CPU has 1 GiB leaves */
	u8 phys_bits;		/* width of a physical address */
	u8 bbm;			/* the CPU's errata ask for break-before-make (enum arch_bbm) */
};

enum arch_bbm {
	ARCH_BBM_NONE,
	ARCH_BBM_EXECUTABLE,	/* for executable leaves only (instruction-TLB errata) */
	ARCH_BBM_ALL,
};

extern struct arch_mm arch_mm;

/*
 * The direct map, as pointers to read and write through. The frame need not be mapped there for the arithmetic
 * to hold.
 */
static inline void *phys_to_virt(phys_t pa)
{
	return (void *)(arch_mm.direct_ptr + pa.raw);
}

static inline phys_t virt_to_phys(const void *p)
{
	return phys((u64)p - arch_mm.direct_ptr);
}

/* The same, as addresses that page tables translate: what mappings are changed by. */
static inline u64 phys_to_va(phys_t pa)
{
	return arch_mm.direct_base + pa.raw;
}

static inline phys_t va_to_phys(u64 va)
{
	return phys(va - arch_mm.direct_base);
}

/*
 * The only way an entry is changed once its table can be reached: one 8-byte store with release order.
 * level is that of the table the slot stands in (hosted builds log and check it).
 */
void arch_pte_store(pte_t *slot, pte_t value, unsigned level);

/*
 * Fill nr entries from slot on: the i-th becomes first + i * step (raw arithmetic; step 0 fills them
 * all alike). Each is one 8-byte store, in ascending order.
 */
void arch_pte_fill(pte_t *slot, unsigned nr, pte_t first, u64 step, unsigned level);

/*
 * The same as one atomic compare-and-exchange, for leaves whose A and D bits the CPU sets by itself (user
 * spaces): false, and nothing stored, if the entry is no longer `old`.
 */
bool arch_pte_replace(pte_t *slot, pte_t old, pte_t value, unsigned level);

/*
 * Memory type of physical memory: returns the type (MTRR encoding, SDM 3A table 12-8) of the byte at pa
 * and sets *end to the first byte above it that may have another one (at most 2^phys_bits).
 */
u8 arch_memory_type(phys_t pa, u64 *end);

/* Invalidate on this CPU only. Any context. */
void arch_tlb_flush_page(u64 va);	/* every leaf that translates va, global ones too, and the
					   paging-structure caches of this context (SDM 3A 4.10.4.1) */
void arch_tlb_flush_all(void);		/* everything: global, every PCID, paging-structure caches */

/*
 * Run tlb_flush_run(flush) on every CPU of `cpus` and wait until each has acknowledged. This CPU is
 * not among them. Interrupts on, no spinlock held (asserted by the caller). CPUs that do not
 * acknowledge in time are taken out of the online mask and added to *dead.
 */
void arch_tlb_shootdown(const cpumask_t *cpus, struct tlb_flush *flush, cpumask_t *dead);
void tlb_flush_run(const struct tlb_flush *flush);	/* mm/tlb_batch.c */

/*
 * Stop all other CPUs (their interrupts off, spinning in code outside any range mm/ would change), run
 * fn(arg) here with interrupts off, let them go on. For break-before-make. May be called with the
 * page-table lock held: the others are interrupted, not asked. From inside fn, arch_rendezvous_flush()
 * makes every CPU, this one too, forget every translation, and returns when all have.
 */
void arch_rendezvous(void (*fn)(void *arg), void *arg);
void arch_rendezvous_flush(void);

/*
 * Whether [va.start, va.end) holds anything this or another CPU touches by itself while an entry that
 * maps it is briefly absent: running code, current stacks, descriptor tables, per-CPU data.
 */
bool arch_range_pinned(struct range va);

/* Load a root on this CPU (CR3). Non-global translations of the old root are gone afterwards. */
void arch_switch_root(phys_t root);
/* The root that this CPU has loaded. Any context. */
phys_t arch_current_root(void);

/*
 * A pointer to what va is mapped to in the root that this CPU has loaded, to read (or write) through; it is good up to the end of
 * va's page. On the machine that is va itself. In a hosted build addresses of page tables are none of the process:
 * there this is where the CPU translates, by its TLB, and a translation that does not allow the access is a fault.
 */
void *arch_va_ptr(u64 va, bool write);

/* Zero a page of 4 KiB by the fastest means the CPU has. Any context. */
void arch_zero_page(void *page);

/*
 * Who called whom, from the frame of that frame pointer outward: return addresses, innermost first, at most max. Returns how many. Any
 * context; never faults.
 */
unsigned arch_backtrace(u64 frame, u64 *addresses, unsigned max);

/* Makes this CPU forget instructions fetched before (CPUID or the like; SDM 3A 9.1.3). */
void arch_core_serialise(void);

/*
 * The same on every CPU of `cpus` but this one; returns when all have. Task context, interrupts on, no spinlock held (asserted).
 * CPUs that do not answer in time are taken out of the online mask and added to *dead.
 */
void arch_core_serialise_all(const cpumask_t *cpus, cpumask_t *dead);

#endif
