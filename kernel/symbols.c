/* SPDX-License-Identifier: MIT */
/*
 * Reads the symbol table of an ELF64 file (System V gABI, chapter 4). Every offset is checked against the file before
 * it is followed, once; look-ups then trust it.
 */
#include "kernel/symbols.h"

#include <elf.h>

#include "kernel/base/errno.h"
#include "kernel/base/string.h"
#include "mm/arch.h"

static struct {
	const Elf64_Sym *table;
	u64 count;
	const char *strings;
	u64 strings_size;
} symbols;

static bool inside(u64 offset, u64 size, u64 file_size)
{
	return offset <= file_size && size <= file_size - offset;
}

static const Elf64_Shdr *section_headers(const u8 *file, u64 size, u64 *count)
{
	const Elf64_Ehdr *header = (const void *)file;

	if (size < sizeof(*header) || memcmp(header->e_ident, ELFMAG, SELFMAG) ||
	    header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_shentsize != sizeof(Elf64_Shdr) ||
	    header->e_shoff % 8 || !inside(header->e_shoff, (u64)header->e_shnum * sizeof(Elf64_Shdr), size))
		return NULL;
	*count = header->e_shnum;
	return (const void *)(file + header->e_shoff);
}

/* The symbol table's section, with its strings: -ENOENT if this is none. */
static int use_section(const u8 *file, u64 size, const Elf64_Shdr *sections, u64 count, const Elf64_Shdr *s)
{
	const Elf64_Shdr *strings = sections + s->sh_link;

	if (s->sh_type != SHT_SYMTAB)
		return -ENOENT;
	if (s->sh_link >= count || s->sh_offset % 8 || !inside(s->sh_offset, s->sh_size, size) ||
	    !inside(strings->sh_offset, strings->sh_size, size) || !strings->sh_size ||
	    file[strings->sh_offset + strings->sh_size - 1] != 0)
		return -ENOEXEC;
	symbols.strings = (const char *)file + strings->sh_offset;
	symbols.strings_size = strings->sh_size;
	symbols.table = (const void *)(file + s->sh_offset);
	symbols.count = s->sh_size / sizeof(Elf64_Sym);
	return 0;
}

int symbols_init(const struct boot_info *bi)
{
	const u8 *file = phys_to_virt(phys(bi->kernel_file));
	const Elf64_Shdr *sections;
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
	const Elf64_Sym *best = NULL;
	u64 next = UINT64_MAX;

	for (u64 i = 0; i < symbols.count; i++) {
		const Elf64_Sym *s = symbols.table + i;
		unsigned type = ELF64_ST_TYPE(s->st_info);

		if ((type != STT_FUNC && type != STT_NOTYPE) || s->st_shndx == SHN_UNDEF || s->st_shndx >= SHN_LORESERVE ||
		    s->st_name >= symbols.strings_size)
			continue;
		if (s->st_value > address)
			next = MIN(next, s->st_value);
		else if (!best || s->st_value > best->st_value ||
			 (s->st_value == best->st_value && s->st_size > best->st_size))
			best = s;
	}
	if (!best || (best->st_size && address >= best->st_value + best->st_size))
		return false;
	*out = (struct symbol){ symbols.strings + best->st_name, best->st_value, best->st_size };
	if (!out->size)
		out->size = next == UINT64_MAX ? 0 : next - best->st_value;
	return out->size;
}
