/* SPDX-License-Identifier: MIT */
/*
 * The configuration space of PCI: which functions there are, of what class, and where their registers lie.
 *
 * It is memory where ACPI's MCFG says so, else what is behind two ports. Task context, one caller at a time; nothing is known
 * before acpi_init().
 *
 * Sources: PCI Local Bus Specification 3.0, 3.2.2.3.2 (the ports), 6.1, 6.2; PCI Express Base Specification 5.0, 7.2.2 (memory).
 */
#ifndef KERNEL_PCI_H
#define KERNEL_PCI_H

#include "kernel/base/types.h"

struct pci_function {
	u16 segment;
	u8 bus;
	u8 device;	/* below 32 */
	u8 number;	/* below 8 */
};

/* "00:1f.2", with "1:" before it in segment 1: as console= has it. */
#define PCI_NAME_MAX 16u
const char *pci_name(struct pci_function f, char *buf, size_t size);

/* Offsets in configuration space, of 32-bit words. */
enum pci_offset {
	PCI_ID = 0x00,		/* device << 16 | vendor */
	PCI_COMMAND = 0x04,	/* status << 16 | command; in the status zeroes change nothing when written */
	PCI_CLASS = 0x08,	/* class << 24 | subclass << 16 | programming interface << 8 | revision */
	PCI_HEADER = 0x0c,	/* bits 22..16 type, bit 23 more than one function */
	PCI_BAR0 = 0x10,
};

#define PCI_COMMAND_IO 0x1u
#define PCI_COMMAND_MEMORY 0x2u
#define PCI_CLASS_SERIAL 0x0700u	/* class << 8 | subclass */
#define PCI_BARS 6u

/* A word at a 4-byte aligned offset below 256. All ones: there is no such function. A write to one is ignored. */
u32 pci_read(struct pci_function f, unsigned offset);
void pci_write(struct pci_function f, unsigned offset, u32 value);

/*
 * The functions that there are, in ascending order, those of segments that cannot be reached left out. Begin with
 * *cursor 0; false: no more.
 */
bool pci_next(u32 *cursor, struct pci_function *out);

/* class << 8 | subclass */
u16 pci_class(struct pci_function f);

/* A range of registers, as a base address register says. */
struct pci_bar {
	bool io;
	u64 address;	/* a port, or physical */
};

/*
 * Base address register n of an ordinary function (header type 0), below PCI_BARS. False: the firmware left it empty, it is the
 * upper half of the one before, or the function has none.
 */
bool pci_bar(struct pci_function f, unsigned n, struct pci_bar *out);

/* Unmap configuration space. The next access maps it again. */
void pci_release(void);

/* Tests: as if there were no MCFG. */
extern bool pci_ports_only;

#endif
