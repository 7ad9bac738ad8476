/* SPDX-License-Identifier: MIT */
/* The state of the CPU (BT3) and what arch promises mm/ (mm/arch.h). */
#include "arch/x86_64/cpu.h"

#include "arch/x86_64/idt.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/percpu.h"
#include "boot/boot_info.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "mm/pgtable.h"
#include "tests/test.h"

extern const u8 _text_start[], _text_end[], _rodata_start[], _rodata_end[], _data_start[], _bss_end[];

TEST_ID(cpu, control_bits_follow_features, "BT3")
{
	static const struct {
		enum cpu_feature feature;
		u64 cr4;
	} rows[] = {
		{ CPU_PGE, CR4_PGE },	{ CPU_SMEP, CR4_SMEP }, { CPU_SMAP, CR4_SMAP },
		{ CPU_UMIP, CR4_UMIP }, { CPU_PCID, CR4_PCIDE }, { CPU_MCE, CR4_MCE },
	};
	u64 cr4 = insn_read_cr4();

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		CHECK_EQ(!!(cr4 & rows[i].cr4), cpu_has(rows[i].feature));
	CHECK(insn_read_cr0() & CR0_WP);
	CHECK_EQ(!!(insn_rdmsr(MSR_EFER) & EFER_NXE), cpu_has(CPU_NX));
}

TEST_ID(cpu, what_mm_is_told, "BT3 PT1")
{
	CHECK_EQ(!!(arch_mm.pte_mask & PTE_NX), cpu_has(CPU_NX));
	CHECK_EQ(!!(arch_mm.pte_mask & PTE_G), cpu_has(CPU_PGE));
	CHECK_EQ(arch_mm.max_leaf, cpu_has(CPU_1G_LEAVES) ? PT_1G : PT_2M);
	CHECK_EQ(arch_mm.levels, insn_read_cr4() & CR4_LA57 ? 5 : 4);
	CHECK(arch_mm.phys_bits >= 36 && arch_mm.phys_bits <= 52);
	if (cpu_has(CPU_HYPERVISOR))
		CHECK_EQ(arch_mm.bbm, ARCH_BBM_NONE);
}

TEST_ID(cpu, pat, "VA1")
{
	if (!cpu_has(CPU_PAT))
		SKIP("no PAT");
	CHECK_EQ(insn_rdmsr(MSR_PAT), CPU_PAT_VALUE);
	CHECK(!(insn_read_cr0() & (CR0_CD | CR0_NW)));
}

/* Every page of [start, end): present, and writable and executable as wanted. */
static void check_rights(const u8 *start, const u8 *end, bool writable, bool executable)
{
	unsigned wrong = 0, small = 0;
	u64 va = (u64)start;

	while (va < (u64)end) {
		struct pt_slot slot = pt_walk(&kernel_space, va, PT_4K);
		u64 attrs = pte_attrs(slot.value, slot.level);

		wrong += !(attrs & PTE_P) || !!(attrs & PTE_W) != writable || (attrs & PTE_U);
		if (cpu_has(CPU_NX))
			wrong += !(attrs & PTE_NX) != executable;
		small += slot.level != PT_2M;
		va = align_down(va, pt_span(slot.level)) + pt_span(slot.level);
	}
	CHECK_EQ(wrong, 0);
	CHECK_EQ(small, 0);
	CHECK(is_aligned((u64)start, pt_span(PT_2M)));
}

TEST_ID(cpu, image_rights, "BT3")
{
	check_rights(_text_start, _text_end, false, true);
	check_rights(_rodata_start, _rodata_end, false, false);
	check_rights(_data_start, _bss_end, true, false);
}

/* What the text's last block has left is reserved and filled with INT3: nothing to run into. */
TEST_ID(cpu, text_tail_is_int3, "BT3")
{
	const u8 *end = (const u8 *)align_up((u64)_text_end, pt_span(PT_2M));
	u64 other = 0;

	for (const u8 *p = _text_end; p < end; p++)
		other += *p != 0xcc;
	CHECK_EQ(other, 0);
}

TEST_ID(cpu, descriptor_tables_are_ours, "BT3")
{
	struct cpu_local *cpu = cpu_local();
	struct descriptor_pointer p;

	insn_sidt(&p);
	CHECK_EQ(p.base, idt_range().start);
	CHECK_EQ(p.limit + 1u, 256 * 16);
	insn_sgdt(&p);
	CHECK_EQ(p.base, (u64)&cpu->gdt);
	CHECK_EQ(insn_str(), GDT_TSS);
	CHECK_EQ(cpu->tss.rsp[0], cpu->stacks[CPU_STACK_TASK].end);
	for (unsigned i = IST_NMI; i <= IST_COUNT; i++)
		CHECK_EQ(cpu->tss.ist[i - 1], cpu->stacks[i].end);
}

TEST_ID(cpu, stacks_lie_in_areas, "BT3 VA1")
{
	for (unsigned i = 0; i < CPU_STACKS; i++) {
		struct range s = cpu_local()->stacks[i];

		CHECK(s.start >= VM_AREA_BASE && s.end <= VM_AREA_END && range_size(s) >= 2 * PAGE_SIZE);
		CHECK(pte_none(pt_walk(&kernel_space, s.start - PAGE_SIZE, PT_4K).value));
		CHECK(pte_none(pt_walk(&kernel_space, s.end, PT_4K).value));
	}
	CHECK(range_has(cpu_local()->stacks[CPU_STACK_TASK], (u64)__builtin_frame_address(0)));
}

TEST(cpu, per_cpu_data)
{
	CHECK(arch_this_cpu() == &cpu_local()->state);
	CHECK(cpu_locals[arch_this_cpu()->id] == cpu_local());
	CHECK(cpumask_has(arch_cpus_online(), arch_this_cpu()->id));
	CHECK_EQ(arch_this_cpu()->locks_held, 0);
}

TEST(cpu, clock_goes_forward)
{
	u64 last = arch_cycles();
	unsigned back = 0;

	for (unsigned i = 0; i < 1000; i++) {
		u64 now = arch_cycles();

		back += now < last;
		last = now;
	}
	CHECK_EQ(back, 0);
}

/* ---- mm/arch.h ---- */

TEST_ID(cpu, pinned_ranges, "PT3")
{
	struct page *page = alloc_page(0);
	u64 va;

	REQUIRE(page);
	va = (u64)page_to_virt(page);
	CHECK(!arch_range_pinned(range_len(va, PAGE_SIZE)));
	CHECK(arch_range_pinned(range_len((u64)check_rights, 1)));
	CHECK(arch_range_pinned(range_len(align_down((u64)_text_start, GIB), GIB)));
	CHECK(arch_range_pinned(idt_range()));
	CHECK(arch_range_pinned(range_len((u64)cpu_local(), 8)));
	for (unsigned i = 0; i < CPU_STACKS; i++) {
		struct range s = cpu_local()->stacks[i];

		CHECK(arch_range_pinned(range(s.end - 1, s.end + PAGE_SIZE)));
		CHECK(!arch_range_pinned(range_len(s.end, PAGE_SIZE)));
	}
	free_page(page);
}

/* Every count around the unrolled part, from an odd slot, with a step and without. */
TEST_ID(cpu, pte_fill, "PT3")
{
	static const unsigned counts[] = { 0, 1, 2, 31, 32, 33, 63, 64, 65, 96, 509, 510 };
	struct page *page = alloc_page(ALLOC_ZERO);
	pte_t *table;

	REQUIRE(page);
	table = page_to_virt(page);
	for (unsigned i = 0; i < ARRAY_SIZE(counts) * 2; i++) {
		u64 step = i % 2 ? 0x200000 : 0;
		unsigned nr = counts[i / 2], wrong = 0;

		memset(table, 0x77, PAGE_SIZE);
		arch_pte_fill(table + 1, nr, (pte_t){ 0x8000000000000083 }, step, PT_2M);
		for (unsigned k = 0; k < PT_ENTRIES; k++) {
			u64 want = k >= 1 && k < 1 + nr ? 0x8000000000000083 + (k - 1) * step : 0x7777777777777777;

			wrong += table[k].raw != want;
		}
		CHECK_EQ(wrong, 0);
	}
	free_page(page);
}

TEST_ID(cpu, pte_replace, "PT4")
{
	pte_t slot = { 0x1063 };

	CHECK(!arch_pte_replace(&slot, (pte_t){ 0x1003 }, (pte_t){ 0 }, PT_4K));
	CHECK_EQ(slot.raw, 0x1063);
	CHECK(arch_pte_replace(&slot, (pte_t){ 0x1063 }, (pte_t){ 0x2063 }, PT_4K));
	CHECK_EQ(slot.raw, 0x2063);
	arch_pte_store(&slot, (pte_t){ 0 }, PT_4K);
	CHECK_EQ(slot.raw, 0);
}

static void note_irqs(void *arg)
{
	*(bool *)arg = arch_irqs_enabled();
	arch_rendezvous_flush();
}

TEST_ID(cpu, rendezvous_runs_with_interrupts_off, "PT3")
{
	bool enabled = true;

	arch_rendezvous(note_irqs, &enabled);
	CHECK(!enabled);
	CHECK(arch_irqs_enabled());
	arch_core_serialise();
}

/* The flush of everything, in whichever of its three ways, leaves CR4 and CR3 as they were. */
TEST_ID(cpu, flush_all_changes_nothing_else, "TL1")
{
	u64 cr3 = insn_read_cr3(), cr4 = insn_read_cr4();

	arch_tlb_flush_all();
	arch_tlb_flush_page((u64)_text_start);
	CHECK_EQ(insn_read_cr3(), cr3);
	CHECK_EQ(insn_read_cr4(), cr4);
	CHECK_EQ(cr3 & PTE_ADDR, kernel_space.root.raw);
}
