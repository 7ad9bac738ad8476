/* SPDX-License-Identifier: MIT */
/*
 * ACPI's tables of this machine.
 *
 * They lie in memory that is ACPI's, reserved or the firmware's own, hardly ever in the direct map; so all are
 * mapped for as long as they are read. An address in a table is a number that the firmware has made up: it is mapped only
 * if the memory map says that there is memory.
 */
#include "kernel/acpi_init.h"

#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "mm/arch.h"
#include "mm/vmalloc.h"

static const struct boot_mem *memory_map;
static u32 nr_memory;

static bool type_is_readable(u32 type)
{
	return type != BOOT_MEM_MMIO && type != BOOT_MEM_MMIO_PORT && type != BOOT_MEM_UNUSABLE &&
	       type != BOOT_MEM_UNACCEPTED;
}

/* Whether the memory map, which is sorted, lists every byte as readable. */
static bool all_readable(struct range r)
{
	for (u32 i = 0; i < nr_memory && !range_empty(r); i++)
		if (type_is_readable(memory_map[i].type) && range_has(range(memory_map[i].start, memory_map[i].end), r.start))
			r.start = memory_map[i].end;
	return range_empty(r);
}

const void *acpi_init_map(struct acpi_source *source, u64 pa, u64 size)
{
	(void)source;
	return all_readable(range_len(pa, size)) ? ioremap(pa, size, IOREMAP_WB | IOREMAP_RO) : NULL;
}

void acpi_init_unmap(struct acpi_source *source, const void *p)
{
	(void)source;
	iounmap((void *)(u64)p);
}

static void complain(struct acpi_source *source, const char *line)
{
	(void)source;
	log_warn("acpi: %s", line);
}

static const char *register_text(const struct acpi_register *reg, char *buf, size_t size)
{
	if (reg->address)
		fmt_print(buf, size, "%s 0x%llx", reg->space == ACPI_SPACE_IO ? "port" : "address",
			  (unsigned long long)reg->address);
	else
		fmt_print(buf, size, "none");
	return buf;
}

static void log_found(const struct acpi *a)
{
	char hpet[32], timer[32], spcr[32], dbg2[32];
	struct acpi_register hpet_registers = { .address = a->hpet_pa };

	if (a->complaints > ACPI_COMPLAINTS_MAX)
		log_warn("acpi: %u more complaints are not shown", a->complaints - ACPI_COMPLAINTS_MAX);
	log_info("acpi: tables %u, CPUs %u usable of %u, IOAPICs %u, nodes %u, PCI segments %u, HPET %s, PM timer %s (%u bits), "
		 "SPCR %s, DBG2 %s",
		 a->nr_tables, a->nr_usable, a->nr_cpus, a->nr_ioapics, a->nr_nodes, a->nr_segments,
		 register_text(&hpet_registers, hpet, sizeof(hpet)), register_text(&a->pm_timer, timer, sizeof(timer)),
		 a->pm_timer_bits, register_text(&a->spcr.base, spcr, sizeof(spcr)),
		 register_text(&a->dbg2.base, dbg2, sizeof(dbg2)));
}

void acpi_init(const struct boot_info *bi)
{
	struct acpi_source source = { acpi_init_map, acpi_init_unmap, complain };

	memory_map = phys_to_virt(phys(bi->mem));
	nr_memory = bi->mem_count;
	if (acpi_read(&acpi, bi->rsdp, &source))
		log_warn("acpi: nothing can be read: one CPU, no IOAPIC, no HPET, no PM timer");
	else
		log_found(&acpi);
}
