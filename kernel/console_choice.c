/* SPDX-License-Identifier: MIT */
/* A table of words, each with the kind of port it names and the shape of its registers. */
#include "kernel/console_choice.h"

#include "kernel/base/fmt.h"
#include "kernel/base/string.h"
#include "kernel/cmdline.h"
#include "kernel/serial.h"

#define FIELDS_MAX 3u
#define FIELD_MAX 32u
#define IO_PORTS 0x10000u
#define INTERFACE_BY_ADDRESS 0x12u	/* of DBG2: registers are as the generic address says */

struct word {
	const char *word;
	enum serial_place_kind kind;
	u8 width;	/* of a register in memory */
	u16 port;	/* 0: it follows */
};

static const struct word words[] = {
	{ "com1", SERIAL_PORT, 1, 0x3f8 }, { "com2", SERIAL_PORT, 1, 0x2f8 }, { "com3", SERIAL_PORT, 1, 0x3e8 },
	{ "com4", SERIAL_PORT, 1, 0x2e8 }, { "io", SERIAL_PORT, 1, 0 },	      { "mmio", SERIAL_MEMORY, 1, 0 },
	{ "mmio16", SERIAL_MEMORY, 2, 0 }, { "mmio32", SERIAL_MEMORY, 4, 0 }, { "pci", SERIAL_PCI, 1, 0 },
};

static const struct {
	const char *word;
	bool serial;
	bool screen;
} sets[] = { { "", true, true }, { "serial", true, false }, { "screen", false, true }, { "none", false, false } };

struct serial_place serial_place_port(u16 port)
{
	return (struct serial_place){ .kind = SERIAL_PORT, .address = port, .stride = 1, .width = 1, .clock = SERIAL_CLOCK };
}

const char *serial_place_text(const struct serial_place *place, char *buf, size_t size)
{
	char name[PCI_NAME_MAX];

	switch (place->kind) {
	case SERIAL_PORT:
		fmt_print(buf, size, "port 0x%llx", (unsigned long long)place->address);
		break;
	case SERIAL_MEMORY:
		fmt_print(buf, size, "address 0x%llx, %u-byte registers", (unsigned long long)place->address, place->stride);
		break;
	case SERIAL_PCI:
		fmt_print(buf, size, "PCI %s", pci_name(place->pci, name, sizeof(name)));
		break;
	case SERIAL_NOWHERE:
		fmt_print(buf, size, "nowhere");
		break;
	}
	return buf;
}

/* ---- The command line ---- */

/* Part text at its commas. The number of fields, 0: too many, or one is too long. */
static unsigned part(const char *text, char fields[FIELDS_MAX][FIELD_MAX])
{
	for (unsigned nr = 0; nr < FIELDS_MAX; nr++) {
		const char *comma = strchr(text, ',');
		size_t len = comma ? (size_t)(comma - text) : strlen(text);

		if (len >= FIELD_MAX)
			return 0;
		memcpy(fields[nr], text, len);
		fields[nr][len] = 0;
		if (!comma)
			return nr + 1;
		text = comma + 1;
	}
	return 0;
}

/* A hexadecimal number without 0x, up to the character `end`, which is consumed. */
static bool take_hex(const char **text, char end, u32 max, u32 *out)
{
	char digits[8] = "0x";
	u64 number;
	size_t n = 2;

	while (**text && **text != end && n + 1 < sizeof(digits))
		digits[n++] = *(*text)++;
	digits[n] = 0;
	if (**text != end || !cmdline_number(digits, &number) || number > max)
		return false;
	*text += end != 0;
	*out = (u32)number;
	return true;
}

static bool parse_pci(const char *text, struct pci_function *out)
{
	const char *colon = strchr(text, ':');
	u32 segment = 0, bus, device, number;

	if (colon && strchr(colon + 1, ':') && !take_hex(&text, ':', 0xffff, &segment))
		return false;
	if (!take_hex(&text, ':', 0xff, &bus) || !take_hex(&text, '.', 31, &device) || !take_hex(&text, 0, 7, &number))
		return false;
	*out = (struct pci_function){ (u16)segment, (u8)bus, (u8)device, (u8)number };
	return true;
}

/* Where, for a word that something follows. */
static const char *parse_where(const char *text, struct serial_place *place)
{
	u64 number;

	if (place->kind == SERIAL_PCI)
		return parse_pci(text, &place->pci) ? NULL : "a PCI function is BUS:DEVICE.FUNCTION in hexadecimal";
	if (!cmdline_number(text, &number) || !number)
		return place->kind == SERIAL_PORT ? "no port number" : "no address";
	if (place->kind == SERIAL_PORT && number > IO_PORTS - SERIAL_REGISTERS)
		return "no port number";
	if (place->kind == SERIAL_MEMORY && (number % place->width || number + SERIAL_REGISTERS * place->stride < number))
		return "no address of such registers";
	place->address = number;
	return NULL;
}

static const char *parse_baud(const char *text, struct serial_place *place)
{
	u64 baud;

	if (!cmdline_number(text, &baud) || !baud || baud > SERIAL_BAUD_MAX || SERIAL_BAUD_MAX % baud)
		return "a baud rate divides 115200";
	place->baud = (u32)baud;
	return NULL;
}

static const struct word *find_word(const char *text)
{
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		if (strcmp(words[i].word, text) == 0)
			return &words[i];
	return NULL;
}

static const char *parse_place(const char *text, struct serial_place *place)
{
	static const struct word bare_port = { "", SERIAL_PORT, 1, 0 };
	char fields[FIELDS_MAX][FIELD_MAX];
	unsigned nr = part(text, fields), next = 1;
	const struct word *w;
	const char *why = NULL;

	if (!nr)
		return "too many words, or too long";
	w = find_word(fields[0]);
	if (!w && strncmp(fields[0], "0x", 2) == 0) {
		w = &bare_port;
		next = 0;
	}
	if (!w)
		return "no such console";
	*place = (struct serial_place){ w->kind, w->port, w->width, w->width, 0, SERIAL_CLOCK, { 0 } };
	if (!w->port)
		why = next < nr ? parse_where(fields[next++], place) : "where it is, is missing";
	if (!why && next < nr)
		why = parse_baud(fields[next++], place);
	return why || next == nr ? why : "a word too many";
}

const char *console_choice_parse(const char *text, struct console_choice *out)
{
	const char *why;

	*out = (struct console_choice){ true, true, { 0 } };
	for (unsigned i = 0; i < ARRAY_SIZE(sets); i++) {
		if (strcmp(sets[i].word, text) == 0) {
			out->serial = sets[i].serial;
			out->screen = sets[i].screen;
			return NULL;
		}
	}
	why = parse_place(text, &out->place);
	if (why)
		out->place = (struct serial_place){ 0 };
	return why;
}

/* ---- ACPI ---- */

/* The bytes of an access by its code, ACPI 6.5, 5.2.3.2; 0: not one that a UART has. Undefined: as wide as a register. */
static u8 access_width(const struct acpi_register *r, u8 stride)
{
	static const u8 widths[] = { [1] = 1, [2] = 2, [3] = 4 };

	if (!r->access_size)
		return MIN(stride, 4);
	return r->access_size < ARRAY_SIZE(widths) ? widths[r->access_size] : 0;
}

/*
 * The generic address gives the distance of the registers by their width in bits. Ports are bytes side by side unless
 * the table says expressly that the address counts; firmware leaves all sorts of things in it.
 */
const char *serial_place_from_acpi(const struct acpi_serial *s, struct serial_place *out)
{
	const struct acpi_register *r = &s->base;
	u8 stride = r->bit_width == 16 || r->bit_width == 32 || r->bit_width == 64 ? r->bit_width / 8 : 1;
	u8 width = access_width(r, stride);
	bool port = r->space == ACPI_SPACE_IO;

	if (port && s->interface != INTERFACE_BY_ADDRESS)
		stride = width = 1;
	if (!width)
		return "registers that want accesses of 8 bytes";
	if (r->bit_offset)
		return "registers that do not begin at bit 0";
	stride = MAX(stride, width);
	if (r->address % width || r->address + (u64)SERIAL_REGISTERS * stride < r->address ||
	    (port && r->address > IO_PORTS - (u64)SERIAL_REGISTERS * stride))
		return "registers that cannot be there";
	*out = (struct serial_place){
		.kind = port ? SERIAL_PORT : SERIAL_MEMORY,
		.address = r->address,
		.stride = stride,
		.width = width,
		.baud = s->baud,
		.clock = s->clock ? s->clock : port ? SERIAL_CLOCK : 0,
	};
	return NULL;
}
