/* SPDX-License-Identifier: MIT */
/*
 * What names a serial port: console= of the command line, a table of ACPI. Nothing is touched here.
 *
 *	console=serial		the serial port that is found, no screen
 *	console=screen		the screen, no serial port
 *	console=none		neither
 *	console=com1 ... com4	these ports of a PC: 0x3f8, 0x2f8, 0x3e8, 0x2e8
 *	console=io,0xPORT	(or 0xPORT alone) I/O ports
 *	console=mmio,0xADDRESS	registers in memory, bytes side by side
 *	console=mmio16,...	of 2 bytes each, accessed so
 *	console=mmio32,...	of 4 bytes each, accessed so
 *	console=pci,BUS:DEV.FN	a PCI function, numbers in hexadecimal as lspci shows them; SEGMENT: before them if not 0
 *
 * Behind those that name a port: ,BAUD. It divides 115200, as the clock is taken to be a PC's; left out, the rate stays what the
 * firmware set.
 */
#ifndef KERNEL_CONSOLE_CHOICE_H
#define KERNEL_CONSOLE_CHOICE_H

#include "kernel/acpi.h"
#include "kernel/base/types.h"
#include "kernel/pci.h"

enum serial_place_kind { SERIAL_NOWHERE, SERIAL_PORT, SERIAL_MEMORY, SERIAL_PCI };

/* Where a UART is said to be. */
struct serial_place {
	enum serial_place_kind kind;
	u64 address;			/* a port, or physical */
	u8 stride;			/* bytes from one register to the next */
	u8 width;			/* bytes of an access */
	u32 baud;			/* 0: as it is set */
	u32 clock;			/* Hz; 0: not known, so its rate cannot be set */
	struct pci_function pci;	/* SERIAL_PCI: address and so on are its base address registers' */
};

struct console_choice {
	bool serial;
	bool screen;
	struct serial_place place;	/* SERIAL_NOWHERE: to be found */
};

struct serial_place serial_place_port(u16 port);

/* "port 0x3f8", "address 0xfe000000, 4-byte registers", "PCI 00:02.0" */
#define SERIAL_PLACE_TEXT 48u
const char *serial_place_text(const struct serial_place *place, char *buf, size_t size);

/* text as above; "": the default. NULL, or what is wrong with it: then *out is the default. */
const char *console_choice_parse(const char *text, struct console_choice *out);

/* A serial port of SPCR or DBG2. NULL, or why no UART that could be used is described, as a phrase. */
const char *serial_place_from_acpi(const struct acpi_serial *s, struct serial_place *out);

#endif
