/* SPDX-License-Identifier: MIT */
/*
 * Configuration space, by memory or by ports.
 *
 * A segment's memory is mapped when it is first asked for, and whole: large leaves make it cheap. All its buses are looked at, one by
 * one: a machine may have buses that no bridge leads to.
 */
#include "kernel/pci.h"

#include "arch/x86_64/insn.h"
#include "kernel/acpi.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "mm/vmalloc.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA 0xcfc
#define CONFIG_ENABLE BIT(31)

#define BUS_SPACE MIB		/* bytes of a bus in memory: 32 devices, 8 functions, 4 KiB each */
#define NOTHING 0xffffffffu

#define HEADER_TYPE(word) ((word) >> 16 & 0x7f)
#define HEADER_SEVERAL BIT(23)

#define BAR_IO 0x1u
#define BAR_TYPE 0x6u
#define BAR_64BIT 0x4u
#define BAR_IO_MASK 0xfffcu
#define BAR_MEMORY_MASK 0xfffffff0u

bool pci_ports_only;

/* Where each segment of ACPI's list is mapped; NULL: not yet, or it cannot be. */
static struct {
	volatile u8 *memory;
	bool refused;
} segments[ACPI_SEGMENTS_MAX];

const char *pci_name(struct pci_function f, char *buf, size_t size)
{
	size_t n = f.segment ? fmt_print(buf, size, "%x:", f.segment) : 0;

	fmt_print(buf + n, size - n, "%02x:%02x.%x", f.bus, f.device, f.number);
	return buf;
}

/* ---- By ports: segment 0 only ---- */

static u32 port_address(struct pci_function f, unsigned offset)
{
	return (u32)(CONFIG_ENABLE | (u32)f.bus << 16 | (u32)f.device << 11 | (u32)f.number << 8 | offset);
}

static bool ports_there(void)
{
	insn_outl(CONFIG_ADDRESS, (u32)CONFIG_ENABLE);
	return insn_inl(CONFIG_ADDRESS) == (u32)CONFIG_ENABLE;
}

static u32 port_read(struct pci_function f, unsigned offset)
{
	if (f.segment || !ports_there())
		return NOTHING;
	insn_outl(CONFIG_ADDRESS, port_address(f, offset));
	return insn_inl(CONFIG_DATA);
}

static void port_write(struct pci_function f, unsigned offset, u32 value)
{
	if (f.segment || !ports_there())
		return;
	insn_outl(CONFIG_ADDRESS, port_address(f, offset));
	insn_outl(CONFIG_DATA, value);
}

/* ---- By memory ---- */

static bool use_memory(void)
{
	return acpi.nr_segments && !pci_ports_only;
}

static volatile u8 *map_segment(u32 i)
{
	const struct acpi_segment *s = &acpi.segments[i];

	if (!segments[i].memory && !segments[i].refused) {
		segments[i].memory = ioremap(s->pa + s->first_bus * BUS_SPACE, (s->last_bus - s->first_bus + 1ull) * BUS_SPACE,
					     IOREMAP_UC);
		segments[i].refused = !segments[i].memory;
	}
	return segments[i].memory;
}

/* The word's address; NULL: no segment has the bus. */
static volatile u32 *memory_word(struct pci_function f, unsigned offset)
{
	for (u32 i = 0; i < acpi.nr_segments; i++) {
		const struct acpi_segment *s = &acpi.segments[i];
		volatile u8 *memory;

		if (s->segment != f.segment || f.bus < s->first_bus || f.bus > s->last_bus)
			continue;
		memory = map_segment(i);
		return memory ? (volatile u32 *)(memory + (u64)(f.bus - s->first_bus) * BUS_SPACE +
						 ((u32)f.device << 15 | (u32)f.number << 12 | offset)) :
				NULL;
	}
	return NULL;
}

void pci_release(void)
{
	for (u32 i = 0; i < ACPI_SEGMENTS_MAX; i++) {
		if (segments[i].memory)
			iounmap((void *)segments[i].memory);
		segments[i].memory = NULL;
	}
}

/* ---- Either ---- */

u32 pci_read(struct pci_function f, unsigned offset)
{
	volatile u32 *word;

	if (!use_memory())
		return port_read(f, offset);
	word = memory_word(f, offset);
	return word ? *word : NOTHING;
}

void pci_write(struct pci_function f, unsigned offset, u32 value)
{
	volatile u32 *word;

	if (!use_memory()) {
		port_write(f, offset, value);
		return;
	}
	word = memory_word(f, offset);
	if (word)
		*word = value;
}

/* ---- What there is ---- */

/* All buses that might be: 0 for the first of them. False: no more. */
static bool nth_bus(u32 n, struct pci_function *out)
{
	if (!use_memory()) {
		*out = (struct pci_function){ .bus = (u8)n };
		return n < 256;
	}
	for (u32 i = 0; i < acpi.nr_segments; i++) {
		const struct acpi_segment *s = &acpi.segments[i];
		u32 buses = s->last_bus - s->first_bus + 1u;

		if (n < buses) {
			*out = (struct pci_function){ .segment = s->segment, .bus = (u8)(s->first_bus + n) };
			return true;
		}
		n -= buses;
	}
	return false;
}

static bool is_there(struct pci_function f)
{
	/* Vendor 0xffff: nobody answered. */
	return (u16)pci_read(f, PCI_ID) != 0xffff;
}

/* The cursor counts functions, 256 a bus. Others than the first one exist where the first says that there are several. */
bool pci_next(u32 *cursor, struct pci_function *out)
{
	struct pci_function f;

	while (nth_bus(*cursor >> 8, &f)) {
		f.device = *cursor >> 3 & 31;
		f.number = *cursor & 7;
		*cursor += 1;
		if (is_there(f)) {
			if (!f.number && !(pci_read(f, PCI_HEADER) & HEADER_SEVERAL))
				*cursor += 7;
			*out = f;
			return true;
		}
		if (!f.number)
			*cursor += 7;
	}
	return false;
}

u16 pci_class(struct pci_function f)
{
	return (u16)(pci_read(f, PCI_CLASS) >> 16);
}

/* Whether register n is the upper half of the one before. */
static bool is_upper_half(struct pci_function f, unsigned n)
{
	bool upper = false;

	for (unsigned i = 0; i < n; i++) {
		u32 word = pci_read(f, PCI_BAR0 + 4 * i);

		upper = !upper && !(word & BAR_IO) && (word & BAR_TYPE) == BAR_64BIT;
	}
	return upper;
}

bool pci_bar(struct pci_function f, unsigned n, struct pci_bar *out)
{
	u32 word = pci_read(f, PCI_BAR0 + 4 * n);

	if (HEADER_TYPE(pci_read(f, PCI_HEADER)) || word == NOTHING || is_upper_half(f, n))
		return false;
	*out = (struct pci_bar){ .io = word & BAR_IO, .address = word & (word & BAR_IO ? BAR_IO_MASK : BAR_MEMORY_MASK) };
	if (!out->io && (word & BAR_TYPE) == BAR_64BIT && n + 1 < PCI_BARS)
		out->address |= (u64)pci_read(f, PCI_BAR0 + 4 * (n + 1)) << 32;
	return out->address;
}
