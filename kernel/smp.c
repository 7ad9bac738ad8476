/* SPDX-License-Identifier: MIT */
/*
 * The CPUs of the machine. What ACPI says is handed to arch as arguments from here.
 */
#include "kernel/smp.h"

#include "arch/x86_64/apic.h"
#include "arch/x86_64/hpet.h"
#include "arch/x86_64/interrupts.h"
#include "arch/x86_64/ioapic.h"
#include "arch/x86_64/nmi.h"
#include "arch/x86_64/percpu.h"
#include "arch/x86_64/timer.h"
#include "kernel/acpi.h"
#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "mm/tlb_batch.h"
#include "mm/vmalloc.h"

#define XAPIC_ID_MAX 254u

/* ---- The boot CPU ---- */

static volatile void *map_registers(u64 pa, u64 size, const char *what)
{
	void *p = pa ? ioremap(pa, size, IOREMAP_UC) : NULL;

	if (pa && !p)
		log_warn("%s at 0x%llx: cannot be mapped, not used", what, (unsigned long long)pa);
	return p;
}

static bool ids_need_x2apic(void)
{
	for (u32 i = 0; i < acpi.nr_usable; i++)
		if (acpi.cpus[i].apic_id > XAPIC_ID_MAX)
			return true;
	return false;
}

static void init_apic(void)
{
	u64 pa = apic_pa();
	volatile void *registers = map_registers(pa, APIC_SIZE, "local APIC");

	if (pa && !registers)
		panic("the local APIC at 0x%llx cannot be mapped", (unsigned long long)pa);
	if (pa && acpi.lapic_pa && acpi.lapic_pa != pa)
		log_warn("local APIC at 0x%llx, not at 0x%llx as ACPI has it", (unsigned long long)pa,
			 (unsigned long long)acpi.lapic_pa);
	apic_init(registers, ids_need_x2apic());
	cpu_local()->apic_id = apic_id();
	if (!apic_present())
		log_warn("no local APIC: one CPU, no timer, no NMIs to be sent");
}

static void init_ioapics(void)
{
	for (u32 i = 0; i < acpi.nr_ioapics; i++) {
		const struct acpi_ioapic *io = &acpi.ioapics[i];
		volatile void *registers = map_registers(io->pa, IOAPIC_SIZE, "IOAPIC");

		if (registers && !ioapic_add(registers, io->gsi_base)) {
			log_warn("IOAPIC at 0x%llx: does not answer, or one too many", (unsigned long long)io->pa);
			iounmap((void *)registers);
		}
	}
	nmi_init((struct nmi_isa_line){ acpi.isa[0].gsi, acpi.isa[0].active_low });
}

static void init_clocks(void)
{
	struct timer_sources sources = {
		.hpet = map_registers(acpi.hpet_pa, HPET_SIZE, "HPET"),
		.pm_port = acpi.pm_timer.space == ACPI_SPACE_IO ? (u16)acpi.pm_timer.address : 0,
		.pm_bits = acpi.pm_timer_bits,
	};
	const char *storms;

	timer_init(&sources);
	storms = nmi_storm_source();
	log_info("interrupts: %s, id %u; NMIs by timer: %s", !apic_present() ? "no APIC" : apic_is_x2apic() ? "x2APIC" : "xAPIC",
		 cpu_local()->apic_id, storms ? storms : "none");
}

void smp_init_boot_cpu(void)
{
	interrupts_silence();
	init_apic();
	init_ioapics();
	init_clocks();
	arch_irq_restore(~0ull);
	assert(arch_irqs_enabled());
	tlb_started = true;
}

/* Until there are threads, which bring their own. */
void kernel_timer(void)
{
}
