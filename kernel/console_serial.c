/* SPDX-License-Identifier: MIT */
/*
 * Candidates are a table, in order; each is probed before it is used, one that is not there is named and the next is tried. What was
 * mapped or switched on for one that failed is taken back.
 */
#include "kernel/console_serial.h"

#include "arch/x86_64/insn.h"
#include "kernel/acpi.h"
#include "kernel/base/fmt.h"
#include "kernel/base/list.h"
#include "kernel/base/log.h"
#include "kernel/base/range.h"
#include "kernel/console.h"
#include "kernel/console_choice.h"
#include "kernel/serial.h"
#include "mm/arch.h"
#include "mm/vmalloc.h"

#define USUAL_PORT 0x3f8

struct uart {
	struct console console;
	struct serial serial;
	struct serial_place place;
};

static struct console_choice choice = { true, true, { 0 } };
static bool settled;		/* nothing is left to be found */
static struct uart early, found;
static const struct boot_mem *memory_map;
static u32 nr_memory;

/* ---- A UART as a console ---- */

static u32 port_read(u64 address, unsigned bytes)
{
	u16 port = (u16)address;

	return bytes == 4 ? insn_inl(port) : bytes == 2 ? insn_inw(port) : insn_inb(port);
}

static void port_write(u64 address, unsigned bytes, u32 value)
{
	u16 port = (u16)address;

	if (bytes == 4)
		insn_outl(port, value);
	else if (bytes == 2)
		insn_outw(port, (u16)value);
	else
		insn_outb(port, (u8)value);
}

/* A read of an I/O port takes about a microsecond, or more under a hypervisor. */
static const struct serial_bus serial_ports = { port_read, port_write, .wait_reads = 200000 };

static size_t uart_write(struct console *console, const char *text, size_t len)
{
	return serial_write(&container_of(console, struct uart, console)->serial, text, len);
}

static int uart_getc(struct console *console)
{
	struct serial *serial = &container_of(console, struct uart, console)->serial;
	int c = serial_getc(serial);

	console->lost = serial->lost;
	return c;
}

static void start_console(struct uart *u)
{
	u->console.name = "serial";
	u->console.write = uart_write;
	u->console.getc = uart_getc;
	console_register(&u->console);
}

/* ---- Trying a place ---- */

/* Memory that is memory is no UART, whatever a table says: writing there would spoil what is in it. */
static bool is_memory(struct range pa)
{
	for (u32 i = 0; i < nr_memory; i++)
		if (range_overlaps(range(memory_map[i].start, memory_map[i].end), pa) &&
		    memory_map[i].type != BOOT_MEM_RESERVED && memory_map[i].type != BOOT_MEM_MMIO)
			return true;
	return false;
}

static void *map_registers(const struct serial_place *place)
{
	struct range pa = range_len(place->address, (u64)SERIAL_REGISTERS * place->stride);

	return is_memory(pa) ? NULL : ioremap(pa.start, range_size(pa), IOREMAP_UC);
}

/* Without its clock the rate stays what the firmware set. */
static u32 divisor_of(const struct serial_place *place)
{
	return place->clock ? serial_divisor(place->clock, place->baud) : 0;
}

/* On an error *u is as it was: it may be the console. */
static const char *try_registers(struct uart *u, const struct serial_place *place)
{
	struct serial serial = { .bus = &serial_ports, .base = place->address, .stride = place->stride, .width = place->width };
	void *registers = NULL;
	const char *why;

	if (place->kind == SERIAL_MEMORY) {
		registers = map_registers(place);
		if (!registers)
			return "no place for registers: memory, or out of reach";
		serial.bus = &serial_memory;
		serial.base = (u64)registers;
	}
	why = serial_init(&serial, divisor_of(place));
	if (!why) {
		u->serial = serial;
		u->place = *place;
	} else if (registers) {
		iounmap(registers);
	}
	return why;
}

/* The console so far goes on if this is the one it is on. */
static struct uart *uart_for(const struct serial_place *place)
{
	bool same = place->kind == SERIAL_PORT && early.console.write && early.place.address == place->address;

	return same ? &early : &found;
}

/* Whether the place has a UART, which is the console then. who: what names it. */
static bool try_place(const struct serial_place *place, const char *who)
{
	struct uart *u = uart_for(place);
	char where[SERIAL_PLACE_TEXT], rate[32] = "baud rate as it was set";
	const char *why = try_registers(u, place);

	serial_place_text(place, where, sizeof(where));
	if (why) {
		log_warn("console: %s (%s): %s", where, who, why);
		return false;
	}
	if (divisor_of(place))
		fmt_print(rate, sizeof(rate), "%u baud", place->baud);
	log_info("console: serial at %s (%s), %s", where, who, rate);
	if (u == &found) {
		early.console.gone = true;
		start_console(u);
	}
	return true;
}

/* A function whose registers are not decoded is told to. */
static bool try_bar(const struct serial_place *by, struct pci_bar bar, const char *who)
{
	u32 old = pci_read(by->pci, PCI_COMMAND) & 0xffff;
	u32 needed = bar.io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
	struct serial_place place = *by;

	place.kind = bar.io ? SERIAL_PORT : SERIAL_MEMORY;
	place.address = bar.address;
	if (!(old & needed))
		pci_write(by->pci, PCI_COMMAND, old | needed);
	if (try_place(&place, who))
		return true;
	if (!(old & needed))
		pci_write(by->pci, PCI_COMMAND, old);
	return false;
}

/* A PCI function's base address registers, ports first. */
static bool try_pci(const struct serial_place *by, const char *who)
{
	struct pci_bar bar;
	bool any = false;

	for (unsigned io = 2; io-- > 0;) {
		for (unsigned n = 0; n < PCI_BARS; n++) {
			if (!pci_bar(by->pci, n, &bar) || bar.io != io)
				continue;
			any = true;
			if (try_bar(by, bar, who))
				return true;
		}
	}
	if (!any)
		log_warn("console: %s: no such function, or without registers", who);
	return false;
}

/* ---- The candidates ---- */

static bool try_command_line(void)
{
	char where[SERIAL_PLACE_TEXT], who[SERIAL_PLACE_TEXT + 16];

	if (choice.place.kind == SERIAL_MEMORY)
		return try_place(&choice.place, "command line");
	if (choice.place.kind != SERIAL_PCI)
		return false;
	fmt_print(who, sizeof(who), "command line, %s", serial_place_text(&choice.place, where, sizeof(where)));
	return try_pci(&choice.place, who);
}

static bool try_table(const struct acpi_serial *s, const char *table)
{
	struct serial_place place;
	const char *why;

	if (!s->base.address)
		return false;
	why = serial_place_from_acpi(s, &place);
	if (!why)
		return try_place(&place, table);
	log_warn("console: %s names %s", table, why);
	return false;
}

static bool try_spcr(void)
{
	return try_table(&acpi.spcr, "SPCR");
}

static bool try_dbg2(void)
{
	return try_table(&acpi.dbg2, "DBG2");
}

static bool try_pci_class(void)
{
	struct serial_place place = serial_place_port(0);
	char name[PCI_NAME_MAX], who[48];
	u32 cursor = 0;

	while (pci_next(&cursor, &place.pci)) {
		if (pci_class(place.pci) != PCI_CLASS_SERIAL)
			continue;
		fmt_print(who, sizeof(who), "PCI %s, class 07/00", pci_name(place.pci, name, sizeof(name)));
		if (try_pci(&place, who))
			return true;
	}
	return false;
}

static bool try_usual_port(void)
{
	struct serial_place place = serial_place_port(USUAL_PORT);

	return try_place(&place, "the usual place, nothing names another");
}

static bool (*const candidates[])(void) = { try_command_line, try_spcr, try_dbg2, try_pci_class, try_usual_port };

void console_serial_early(const char *which)
{
	const char *why = console_choice_parse(which, &choice);
	struct serial_place usual = serial_place_port(USUAL_PORT);

	if (why)
		log_warn("command line: bad value in console=%s, ignored: %s", which, why);
	settled = !choice.serial || (choice.place.kind == SERIAL_PORT && try_place(&choice.place, "command line"));
	if (!settled && !try_registers(&early, &usual))
		start_console(&early);
}

void console_serial_find(const struct boot_info *bi)
{
	memory_map = phys_to_virt(phys(bi->mem));
	nr_memory = bi->mem_count;
	for (unsigned i = 0; !settled && i < ARRAY_SIZE(candidates); i++)
		settled = candidates[i]();
	if (!settled)
		log_info("console: no serial port");
	settled = true;
	pci_release();
}

bool console_wants_screen(void)
{
	return choice.screen;
}
