/* SPDX-License-Identifier: MIT */
/*
 * mm/arch.h on the machine: entries, roots, and what must not be unmapped. Invalidation is in tlb.c, memory types
 * are in mtrr.c.
 */
#include "mm/arch.h"

#include "arch/x86_64/context.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/percpu.h"
#include "boot/boot_info.h"
#include "kernel/base/atomic.h"

struct arch_mm arch_mm = { .direct_base = BOOT_DIRECT_BASE, .direct_ptr = BOOT_DIRECT_BASE };

/* linker.ld: the image, first to last. */
extern const char _text_start[], _bss_end[];

void arch_pte_store(pte_t *slot, pte_t value, unsigned level)
{
	(void)level;
	store_release(&slot->raw, value.raw);
}

bool arch_pte_replace(pte_t *slot, pte_t old, pte_t value, unsigned level)
{
	(void)level;
	return compare_exchange(&slot->raw, &old.raw, value.raw);
}

/* Two instructions per entry, a store and an addition: this is most of what a split costs. */
#define FILL_1(i)                          \
	store_release(&slot[i].raw, value); \
	value += step
#define FILL_4(i)  \
	FILL_1(i);     \
	FILL_1(i + 1); \
	FILL_1(i + 2); \
	FILL_1(i + 3)
#define FILL_16(i)  \
	FILL_4(i);      \
	FILL_4(i + 4);  \
	FILL_4(i + 8);  \
	FILL_4(i + 12)

void arch_pte_fill(pte_t *slot, unsigned nr, pte_t first, u64 step, unsigned level)
{
	u64 value = first.raw;
	pte_t *end = slot + nr;

	(void)level;
	for (; nr >= 32; nr -= 32) {
		FILL_16(0);
		FILL_16(16);
		slot += 32;
	}
	while (slot < end) {
		FILL_1(0);
		slot++;
	}
}

void arch_switch_root(phys_t root)
{
	insn_write_cr3(root.raw);
}

phys_t arch_current_root(void)
{
	return phys(insn_read_cr3() & PTE_ADDR);
}

void *arch_va_ptr(u64 va, bool write)
{
	(void)write;
	return (void *)va;
}

void arch_zero_page(void *page)
{
	insn_stosq(page, 0, PAGE_SIZE / sizeof(u64));
}

void arch_core_serialise(void)
{
	if (cpu_has(CPU_SERIALIZE))
		insn_serialize();
	else
		insn_cpuid(0, 0);
}

/* One CPU's own addresses: its stacks and, if it is not part of the image, its per-CPU data. */
static bool cpu_uses(const struct cpu_local *local, struct range va)
{
	if (range_overlaps(va, range_len((u64)local, sizeof(*local))) || range_overlaps(va, local->data))
		return true;
	for (unsigned i = 0; i < CPU_STACKS; i++)
		if (range_overlaps(va, local->stacks[i]))
			return true;
	return false;
}

/*
 * All of the image counts: its text runs, an NMI may come at any time and take the IDT, its handler and its tables of
 * strings and jumps. The image and the stacks are used at these addresses only, never through the direct map.
 */
bool arch_range_pinned(struct range va)
{
	if (range_overlaps(va, range((u64)_text_start, (u64)_bss_end)) || context_uses(va))
		return true;
	/* A CPU that is not online may be about to be, or have been given up and still run. */
	for (u32 cpu = 0; cpu < load_acquire(&cpu_locals_end); cpu++) {
		const struct cpu_local *local = load_acquire(&cpu_locals[cpu]);

		if (local && cpu_uses(local, va))
			return true;
	}
	return false;
}
