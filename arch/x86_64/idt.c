/* SPDX-License-Identifier: MIT */
/*
 * Fills and loads the IDT (SDM 3A 6.14.1). Every gate is an interrupt gate: interrupts are off until the
 * handler says otherwise. NMI, double fault and machine check switch to stacks of their own, because they
 * can come when the current one is not to be trusted.
 */
#include "arch/x86_64/idt.h"

#include "arch/x86_64/gdt.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/percpu.h"
#include "arch/x86_64/trap.h"

#define GATE_INTERRUPT 0xe
#define GATE_PRESENT 0x80

struct gate {
	u16 offset_low;
	u16 selector;
	u8 ist;
	u8 type;
	u16 offset_middle;
	u32 offset_high;
	u32 reserved;
};

_Static_assert(sizeof(struct gate) == 16, "SDM 3A figure 6-8");

static struct gate idt[TRAP_VECTORS] __aligned(4096);

static const struct {
	u8 vector, ist;
} own_stack[] = {
	{ TRAP_NMI, IST_NMI },
	{ TRAP_DOUBLE_FAULT, IST_DOUBLE_FAULT },
	{ TRAP_MACHINE_CHECK, IST_MACHINE_CHECK },
};

void idt_init(void)
{
	for (unsigned i = 0; i < TRAP_VECTORS; i++) {
		u64 entry = trap_stubs[i];

		idt[i] = (struct gate){
			.offset_low = (u16)entry,
			.selector = GDT_KERNEL_CODE,
			.type = GATE_PRESENT | GATE_INTERRUPT,
			.offset_middle = (u16)(entry >> 16),
			.offset_high = (u32)(entry >> 32),
		};
	}
	for (unsigned i = 0; i < ARRAY_SIZE(own_stack); i++)
		idt[own_stack[i].vector].ist = own_stack[i].ist;
}

void idt_load(void)
{
	struct descriptor_pointer p = { sizeof(idt) - 1, (u64)idt };

	insn_lidt(&p);
}

struct range idt_range(void)
{
	return range_len((u64)idt, sizeof(idt));
}
