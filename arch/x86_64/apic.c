/* SPDX-License-Identifier: MIT */
/*
 * The local APIC (SDM 3A chapter 11). LINT1, which reports broken hardware, is left as the firmware routed it until its tables have been
 * read (apic_wire_nmi()).
 */
#include "arch/x86_64/apic.h"

#include "arch/x86_64/cpu.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/percpu.h"
#include "kernel/base/bits.h"
#include "mm/arch.h"

#define BASE_X2APIC (1u << 10)
#define BASE_ENABLED (1u << 11)

#define ID 0x020u
#define VERSION 0x030u
#define TPR 0x080u
#define EOI 0x0b0u
#define SVR 0x0f0u
#define ISR 0x100u	/* eight registers, 0x10 apart */
#define ICR_LOW 0x300u
#define ICR_HIGH 0x310u
#define LVT_CMCI 0x2f0u
#define LVT_THERMAL 0x330u
#define LVT_PMC 0x340u
#define LVT_ERROR 0x370u

#define SVR_ENABLED (1u << 8)
#define TPR_OURS_ONLY 0xe0u	/* lets class 15 through */

#define ICR_NMI (4u << 8)
#define ICR_INIT (5u << 8)
#define ICR_STARTUP (6u << 8)
#define ICR_PENDING (1u << 12)
#define ICR_ASSERT (1u << 14)

/* Reads until the former command must have left: it takes microseconds, and an IPI lost is found by who waits for it. */
#define ICR_WAIT_READS 1000000u

/* Entries of the local vector table, and the highest entry number the version register must name. */
static const struct {
	u16 reg;
	u8 min_entry;
} lvt[] = {
	{ APIC_LVT_TIMER, 0 }, { APIC_LVT_LINT0, 1 }, { LVT_ERROR, 3 },
	{ LVT_PMC, 4 },	       { LVT_THERMAL, 5 },    { LVT_CMCI, 6 },
};

static volatile u8 *lapic;	/* the same address on every CPU */
static bool x2apic;

u32 apic_read(u32 reg)
{
	if (x2apic)
		return (u32)insn_rdmsr(MSR_X2APIC(reg));
	return *(volatile u32 *)(lapic + reg);
}

void apic_write(u32 reg, u32 value)
{
	if (x2apic)
		insn_wrmsr(MSR_X2APIC(reg), value);
	else
		*(volatile u32 *)(lapic + reg) = value;
}

static u64 base_msr(void)
{
	return cpu_has(CPU_APIC) ? insn_rdmsr(MSR_APIC_BASE) : 0;
}

u64 apic_pa(void)
{
	u64 base = base_msr();

	if ((base & BASE_ENABLED) && !(base & BASE_X2APIC))
		return base & PTE_ADDR & (BIT(cpu_info.phys_bits) - 1);
	return 0;
}

bool apic_present(void)
{
	return lapic || x2apic;
}

bool apic_is_x2apic(void)
{
	return x2apic;
}

u32 apic_id(void)
{
	if (!apic_present())
		return APIC_ID_NONE;
	return x2apic ? apic_read(ID) : apic_read(ID) >> 24;
}

void apic_eoi(void)
{
	apic_write(EOI, 0);
}

bool apic_in_service(u8 vector)
{
	return apic_present() && (apic_read(ISR + vector / 32 * 0x10u) >> (vector % 32) & 1);
}

static bool any_in_service(void)
{
	for (u32 i = 0; i < 8; i++)
		if (apic_read(ISR + i * 0x10u))
			return true;
	return false;
}

/* Masked, no interrupt of the firmware's time left in service, ours let through. */
static void take_over(void)
{
	u32 max_entry = apic_read(VERSION) >> 16 & 0xff;

	for (unsigned i = 0; i < ARRAY_SIZE(lvt); i++)
		if (max_entry >= lvt[i].min_entry)
			apic_write(lvt[i].reg, apic_read(lvt[i].reg) | APIC_LVT_MASKED);
	apic_write(SVR, SVR_ENABLED | VECTOR_SPURIOUS);
	for (unsigned i = 0; i < 256 && any_in_service(); i++)
		apic_eoi();
	apic_write(TPR, TPR_OURS_ONLY);
}

void apic_init(volatile void *registers, bool wide)
{
	u64 base = base_msr();

	if (!(base & BASE_ENABLED))
		return;
	lapic = registers;
	x2apic = base & BASE_X2APIC;
	if (!x2apic && wide && cpu_has(CPU_X2APIC)) {
		insn_wrmsr(MSR_APIC_BASE, base | BASE_X2APIC);
		x2apic = true;
	}
	if (apic_present())
		take_over();
}

/* From x2APIC mode the way back leads through "off" only (SDM 3A 11.12.5). */
bool apic_init_cpu(void)
{
	u64 base = base_msr();
	u64 mode = BASE_ENABLED | (x2apic ? BASE_X2APIC : 0);

	if (!x2apic && (base & BASE_X2APIC)) {
		base &= ~(u64)(BASE_ENABLED | BASE_X2APIC);
		insn_wrmsr(MSR_APIC_BASE, base);
	}
	if (!(base & BASE_ENABLED)) {
		base |= BASE_ENABLED;
		insn_wrmsr(MSR_APIC_BASE, base);
	}
	if (x2apic && !(base & BASE_X2APIC))
		insn_wrmsr(MSR_APIC_BASE, base | BASE_X2APIC);
	if ((base_msr() & (BASE_ENABLED | BASE_X2APIC)) != mode)
		return false;
	take_over();
	return true;
}

/* An edge, whatever the firmware's tables say of levels: the trigger is that of fixed interrupts only, and clear at LINT1 (SDM 3A 11.5.1). */
void apic_wire_nmi(unsigned pin, bool active_low)
{
	apic_write(pin ? APIC_LVT_LINT1 : APIC_LVT_LINT0, APIC_LVT_NMI | (active_low ? APIC_LVT_ACTIVE_LOW : 0));
}

/* ---- Commands ---- */

static void wait_idle(void)
{
	for (u32 i = 0; i < ICR_WAIT_READS && (apic_read(ICR_LOW) & ICR_PENDING); i++)
		insn_pause();
}

/*
 * In memory the command takes two writes: no interrupt may come in between. An NMI may, and sends itself when it panics: it
 * puts the first half back as it was. The MSR takes one write, which later and earlier stores may pass (SDM 3A 11.12.3).
 */
static void send(u32 id, u32 command)
{
	u64 flags;
	u32 high;

	if (x2apic) {
		insn_mfence();
		insn_lfence();
		insn_wrmsr(MSR_X2APIC(ICR_LOW), (u64)id << 32 | command);
		return;
	}
	flags = arch_irq_save();
	wait_idle();
	high = apic_read(ICR_HIGH);
	apic_write(ICR_HIGH, id << 24);
	apic_write(ICR_LOW, command);
	if (cpu_local()->state.nesting >= CPU_NMI) {
		wait_idle();
		apic_write(ICR_HIGH, high);
	}
	arch_irq_restore(flags);
}

void apic_send_vector(u32 id, u8 vector)
{
	send(id, ICR_ASSERT | vector);
}

void apic_send_nmi(u32 id)
{
	send(id, ICR_ASSERT | ICR_NMI);
}

void apic_send_init(u32 id)
{
	send(id, ICR_ASSERT | ICR_INIT);
}

void apic_send_startup(u32 id, u8 page)
{
	send(id, ICR_ASSERT | ICR_STARTUP | page);
}
