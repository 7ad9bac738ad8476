/* SPDX-License-Identifier: MIT */
/*
 * What the firmware's ACPI tables say of the machine (SPEC BT4): processors, interrupt controllers, timers, nodes,
 * the configuration space of PCI, serial ports. Tables only, no AML.
 *
 * Nothing in a table is believed before it has been checked. A table whose shape is wrong (address, length, checksum,
 * an entry that does not fit) is skipped as a whole, an entry with an impossible value alone; each by a line that
 * says which table, what is wrong and where. What is left is what a caller may rely on: see the members.
 *
 * Sources: ACPI 6.5, 5.2.5 (RSDP), 5.2.6 (header), 5.2.7 (RSDT), 5.2.8 (XSDT), 5.2.9 (FADT), 5.2.12 (MADT),
 * 5.2.16 (SRAT), 5.2.3.2 (generic addresses); PCI Firmware Specification 3.3, 4.1.2 (MCFG); IA-PC HPET
 * Specification 1.0a, 3.2.4; Serial Port Console Redirection Table and Debug Port Table 2 (Microsoft).
 */
#ifndef KERNEL_ACPI_H
#define KERNEL_ACPI_H

#include "kernel/base/arch_cpu.h"
#include "kernel/base/range.h"

#define ACPI_TABLES_MAX 128u
#define ACPI_TABLE_SIZE_MAX (4u * (u32)MIB)	/* a longer one is taken for a mistake */
#define ACPI_IOAPICS_MAX 64u
#define ACPI_NMIS_MAX 64u
#define ACPI_SEGMENTS_MAX 32u
#define ACPI_MEMORY_MAX 256u
#define ACPI_NODES_MAX 64u
#define ACPI_ISA_IRQS 16u
#define ACPI_COMPLAINTS_MAX 32u	/* lines of complaint per reading; the rest is counted */

#define ACPI_ALL_CPUS 0xffffffffu	/* uid of a local NMI: of every CPU */

/* Generic address, 5.2.3.2. address 0: there is none. */
enum acpi_space { ACPI_SPACE_MEMORY = 0, ACPI_SPACE_IO = 1 };

struct acpi_register {
	u64 address;	/* physical, or a port */
	u8 space;	/* enum acpi_space; others never get here */
	u8 bit_width;
	u8 bit_offset;
	u8 access_size;	/* 0 undefined, 1..4: 1, 2, 4, 8 bytes */
};

/* A table that was found and whose checksum is right. */
struct acpi_table {
	char signature[5];	/* printable, with a NUL */
	u8 revision;
	u32 length;
	u64 pa;
};

/*
 * A processor. No two have the same apic_id, which is never the broadcast id (0xff of an xAPIC entry,
 * 0xffffffff). The usable ones come first, each kind in the order of the MADT.
 */
struct acpi_cpu {
	u32 apic_id;
	u32 uid;	/* ACPI processor UID: what local NMIs name */
	u32 node;	/* below nr_nodes */
	bool usable;	/* enabled by the firmware; one that is not must not be started */
};

/* No two have the same address or gsi_base. */
struct acpi_ioapic {
	u64 pa;		/* not 0 */
	u32 gsi_base;	/* global system interrupt of its first input */
	u8 id;
};

/* Where and how an interrupt arrives. What the table leaves to the bus is filled in as ISA has it: high, edge. */
struct acpi_irq {
	u32 gsi;
	bool active_low;
	bool level;
};

/* LINT0/LINT1 of a local APIC that carries NMI. */
struct acpi_local_nmi {
	u32 uid;	/* of the CPU, or ACPI_ALL_CPUS */
	u8 lint;	/* 0 or 1 */
	bool active_low;
	bool level;
};

/* Memory-mapped configuration space. Buses [first_bus, last_bus] of segment; no two overlap. */
struct acpi_segment {
	u64 pa;		/* of bus 0, whether it is among them or not; 1 MiB-aligned */
	u16 segment;
	u8 first_bus;
	u8 last_bus;
};

/* Memory of a node, not empty; no two overlap. */
struct acpi_memory {
	struct range pa;
	u32 node;
	bool hotplug;
	bool nonvolatile;
};

/* A 16550-compatible serial port that the firmware uses itself. base.address 0: none. */
struct acpi_serial {
	struct acpi_register base;
	u32 baud;	/* 0: as it is set */
	u32 clock;	/* Hz of its input, 0: not known */
	u16 interface;	/* subtype of a serial port as DBG2 counts them: 0 and 1 on ports, 0x12 as base says */
};

struct acpi {
	bool present;		/* there was an RSDP and a list of tables */
	u8 revision;		/* of the RSDP: 0 is ACPI 1.0 */
	u32 complaints;		/* lines said, or kept back above ACPI_COMPLAINTS_MAX */

	u32 nr_tables;
	struct acpi_table tables[ACPI_TABLES_MAX];

	/* MADT. Without a good one: no CPU, no IOAPIC, lapic_pa 0, isa[] one to one, has_8259 true. */
	bool has_madt;
	bool has_8259;		/* dual 8259s are there and must be masked */
	u64 lapic_pa;		/* page-aligned */
	u32 nr_cpus;		/* usable and not; nr_usable of them come first */
	u32 nr_usable;
	u32 cpus_left_out;	/* usable ones above MAX_CPUS */
	struct acpi_cpu cpus[MAX_CPUS];
	u32 nr_ioapics;
	struct acpi_ioapic ioapics[ACPI_IOAPICS_MAX];
	u16 overridden;		/* bit n: the table names ISA interrupt n; the others arrive one to one */
	struct acpi_irq isa[ACPI_ISA_IRQS];	/* where each ISA interrupt arrives; IRQ 0 is the PIT */
	u32 nr_nmis;
	struct acpi_irq nmis[ACPI_NMIS_MAX];	/* inputs of the IOAPICs that shall be NMIs */
	u32 nr_local_nmis;
	struct acpi_local_nmi local_nmis[ACPI_NMIS_MAX];

	/* SRAT. Without one: one node, proximity domain 0, no memory range. A CPU it does not name is on node 0. */
	u32 nr_nodes;		/* at least 1 */
	u32 domains[ACPI_NODES_MAX];	/* proximity domain of each node */
	u32 nr_memory;
	struct acpi_memory memory[ACPI_MEMORY_MAX];

	u32 nr_segments;	/* MCFG */
	struct acpi_segment segments[ACPI_SEGMENTS_MAX];

	struct acpi_register pm_timer;	/* FADT: counts at 3.579545 MHz; address 0: none */
	u8 pm_timer_bits;		/* 24 or 32; 0: none */
	bool has_fadt;
	bool hardware_reduced;		/* FADT: none of the fixed hardware is there */

	u64 hpet_pa;		/* HPET; 0: none */
	u16 hpet_min_tick;	/* fewest main-counter ticks of a period that loses no interrupt */
	u8 hpet_comparators;	/* 1..32 */
	bool hpet_64bit;

	struct acpi_serial spcr;
	struct acpi_serial dbg2;	/* the first serial port of DBG2 */
};

/* This machine's. Constant after acpi_init() (kernel/acpi_init.h); all "none" before. */
extern struct acpi acpi;

/*
 * How the reader gets at physical memory and where its complaints go. Embedded in what the caller needs besides.
 *
 * map: [pa, pa + size), readable until unmap; size is not 0 and pa + size does not wrap. NULL: it cannot or must not be
 * read, and nothing is left to unmap. At most two are mapped at a time.
 * complain: one line without a newline, printable ASCII.
 */
struct acpi_source {
	const void *(*map)(struct acpi_source *source, u64 pa, u64 size);
	void (*unmap)(struct acpi_source *source, const void *p);
	void (*complain)(struct acpi_source *source, const char *line);
};

/*
 * Fill *out from the tables below the RSDP at physical address rsdp (0: none). Allocates nothing; bounded by the
 * sizes above whatever the tables say. Returns 0; -ENODEV without an RSDP or a list of tables, after a complaint: then
 * *out says "none" everywhere, as documented at its members.
 */
int acpi_read(struct acpi *out, u64 rsdp, struct acpi_source *source);

#endif
