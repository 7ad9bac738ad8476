/* SPDX-License-Identifier: MIT */
/*
 * Reads the symbol table of an ELF64 file (System V gABI, chapter 4). Every offset is checked against the file before
 * it is followed, once; look-ups then trust it.
 */
#include "kernel/symbols.h"

#include "kernel/base/errno.h"
#include "kernel/elf.h"
#include "mm/arch.h"

static struct {
	const struct elf_symbol *table;
	u64 count;
	const char *strings;
	u64 strings_size;
} symbols;

static bool inside(u64 offset, u64 size, u64 file_size)
{
	return offset <= file_size && size <= file_size - offset;
}

static const struct elf_section *section_headers(const u8 *file, u64 size, u64 *count)
{
	const struct elf_header *header = (const void *)file;

	if (size < sizeof(*header) || header->magic != ELF_MAGIC ||
	    header->class != ELF_CLASS_64 || header->shentsize != sizeof(struct elf_section) ||
	    header->shoff % 8 || !inside(header->shoff, (u64)header->shnum * sizeof(struct elf_section), size))
		return NULL;
	*count = header->shnum;
	return (const void *)(file + header->shoff);
}

/* The symbol table's section, with its strings: -ENOENT if this is none. */
static int use_section(const u8 *file, u64 size, const struct elf_section *sections, u64 count, const struct elf_section *s)
{
	const struct elf_section *strings = sections + s->link;

	if (s->type != ELF_SECTION_SYMTAB)
		return -ENOENT;
	if (s->link >= count || s->offset % 8 || !inside(s->offset, s->size, size) ||
	    !inside(strings->offset, strings->size, size) || !strings->size ||
	    file[strings->offset + strings->size - 1] != 0)
		return -ENOEXEC;
	symbols.strings = (const char *)file + strings->offset;
	symbols.strings_size = strings->size;
	symbols.table = (const void *)(file + s->offset);
	symbols.count = s->size / sizeof(struct elf_symbol);
	return 0;
}

int symbols_init(const struct boot_info *bi)
{
	const u8 *file = phys_to_virt(phys(bi->kernel_file));
	const struct elf_section *sections;
	u64 count;

	symbols.count = 0;
	if (!bi->kernel_file)
		return -ENOENT;
	sections = section_headers(file, bi->kernel_file_size, &count);
	if (!sections)
		return -ENOEXEC;
	for (u64 i = 0; i < count; i++) {
		int rc = use_section(file, bi->kernel_file_size, sections, count, sections + i);

		if (rc != -ENOENT)
			return rc;
	}
	return -ENOENT;
}

/* Labels of assembly have no size: they reach up to the next function. */
bool symbol_find(u64 address, struct symbol *out)
{
	const struct elf_symbol *best = NULL;
	u64 next = UINT64_MAX;

	for (u64 i = 0; i < symbols.count; i++) {
		const struct elf_symbol *s = symbols.table + i;
		unsigned type = s->info & 0xf;

		if ((type != ELF_SYMBOL_FUNC && type != ELF_SYMBOL_NOTYPE) || s->section == ELF_INDEX_UNDEFINED || s->section >= ELF_INDEX_RESERVED ||
		    s->name >= symbols.strings_size)
			continue;
		if (s->value > address)
			next = MIN(next, s->value);
		else if (!best || s->value > best->value ||
			 (s->value == best->value && s->size > best->size))
			best = s;
	}
	if (!best || (best->size && address >= best->value + best->size))
		return false;
	*out = (struct symbol){ symbols.strings + best->name, best->value, best->size };
	if (!out->size)
		out->size = next == UINT64_MAX ? 0 : next - best->value;
	return out->size;
}
