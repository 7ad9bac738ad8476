/* SPDX-License-Identifier: MIT */
/*
 * Silences 8259 and local APIC (SDM 3A chapter 11; Intel 8259A data sheet).
 *
 * NMIs (LINT1) are left as the firmware routed them: they report broken hardware.
 */
#include "arch/x86_64/interrupts.h"

#include "arch/x86_64/cpu.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/percpu.h"
#include "kernel/base/bits.h"

#define PIC_MASTER 0x20
#define PIC_SLAVE 0xa0
#define PIC_VECTORS 0xe0	/* 16 of them: a spurious IRQ 7 or 15 must not look like an exception */
#define PIC_INIT 0x11		/* ICW1: ICW4 follows, edge, cascade */
#define PIC_8086 0x01		/* ICW4 */

#define APIC_BASE_ENABLED (1u << 11)
#define APIC_BASE_X2APIC (1u << 10)

#define LAPIC_VERSION 0x030u
#define LAPIC_TPR 0x080u
#define LAPIC_EOI 0x0b0u
#define LAPIC_SVR 0x0f0u
#define LAPIC_ISR 0x100u	/* eight registers, 0x10 apart */
#define LAPIC_LVT_CMCI 0x2f0u
#define LAPIC_LVT_TIMER 0x320u
#define LAPIC_LVT_THERMAL 0x330u
#define LAPIC_LVT_PMC 0x340u
#define LAPIC_LVT_LINT0 0x350u
#define LAPIC_LVT_ERROR 0x370u
#define LVT_MASKED (1u << 16)
#define SVR_ENABLED (1u << 8)
#define SPURIOUS_VECTOR 0xffu
#define TPR_ALL 0xf0u

/* Entries of the local vector table, and the highest entry number the version register must name. */
static const struct {
	u16 reg;
	u8 min_entry;
} lvt[] = {
	{ LAPIC_LVT_TIMER, 0 },	  { LAPIC_LVT_LINT0, 1 }, { LAPIC_LVT_ERROR, 3 },
	{ LAPIC_LVT_PMC, 4 },	  { LAPIC_LVT_THERMAL, 5 }, { LAPIC_LVT_CMCI, 6 },
};

static volatile u8 *lapic;	/* the same address on every CPU */
static bool x2apic;

static u32 lapic_read(u32 reg)
{
	if (x2apic)
		return (u32)insn_rdmsr(MSR_X2APIC(reg));
	return *(volatile u32 *)(lapic + reg);
}

static void lapic_write(u32 reg, u32 value)
{
	if (x2apic)
		insn_wrmsr(MSR_X2APIC(reg), value);
	else
		*(volatile u32 *)(lapic + reg) = value;
}

static u64 apic_base(void)
{
	return cpu_has(CPU_APIC) ? insn_rdmsr(MSR_APIC_BASE) : 0;
}

u64 interrupts_lapic_pa(void)
{
	u64 base = apic_base();

	if ((base & APIC_BASE_ENABLED) && !(base & APIC_BASE_X2APIC))
		return base & (BIT(cpu_info.phys_bits) - 1) & ~(PAGE_SIZE - 1);
	return 0;
}

/* Both are initialised again, with vectors that are no exceptions, and all their lines masked. */
static void pic_silence(void)
{
	insn_outb(PIC_MASTER, PIC_INIT);
	insn_outb(PIC_SLAVE, PIC_INIT);
	insn_outb(PIC_MASTER + 1, PIC_VECTORS);
	insn_outb(PIC_SLAVE + 1, PIC_VECTORS + 8);
	insn_outb(PIC_MASTER + 1, 1 << 2);	/* ICW3: the slave is on line 2 */
	insn_outb(PIC_SLAVE + 1, 2);
	insn_outb(PIC_MASTER + 1, PIC_8086);
	insn_outb(PIC_SLAVE + 1, PIC_8086);
	insn_outb(PIC_MASTER + 1, 0xff);
	insn_outb(PIC_SLAVE + 1, 0xff);
}

void interrupts_silence(volatile void *registers)
{
	u32 max_entry;

	pic_silence();
	x2apic = (apic_base() & (APIC_BASE_ENABLED | APIC_BASE_X2APIC)) == (APIC_BASE_ENABLED | APIC_BASE_X2APIC);
	lapic = registers;
	if (!lapic && !x2apic)
		return;
	max_entry = lapic_read(LAPIC_VERSION) >> 16 & 0xff;
	for (unsigned i = 0; i < ARRAY_SIZE(lvt); i++)
		if (max_entry >= lvt[i].min_entry)
			lapic_write(lvt[i].reg, lapic_read(lvt[i].reg) | LVT_MASKED);
	lapic_write(LAPIC_SVR, SVR_ENABLED | SPURIOUS_VECTOR);
	lapic_write(LAPIC_TPR, TPR_ALL);
}

/* Only an interrupt in service is acknowledged: a spurious one is not, and an EOI too many would end another. */
void interrupts_stray(u8 vector)
{
	cpu_local()->stray_interrupts++;
	if (!lapic && !x2apic)
		return;
	if (lapic_read(LAPIC_ISR + vector / 32 * 0x10) >> (vector % 32) & 1)
		lapic_write(LAPIC_EOI, 0);
}
