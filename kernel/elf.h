/* SPDX-License-Identifier: MIT */
/* ELF64 files: the parts that the kernel reads (System V gABI 4.1, chapters 4 and 5), in its own words. */
#ifndef KERNEL_ELF_H
#define KERNEL_ELF_H

#include "kernel/base/types.h"

#define ELF_MAGIC 0x464c457fu	/* 7f 'E' 'L' 'F', as a little-endian word */
#define ELF_CLASS_64 2u

struct elf_header {
	u32 magic;
	u8 class;
	u8 data;
	u8 version;
	u8 padding[9];
	u16 type;
	u16 machine;
	u32 version2;
	u64 entry;
	u64 phoff;
	u64 shoff;		/* section headers: offset in the file */
	u32 flags;
	u16 ehsize;
	u16 phentsize;
	u16 phnum;
	u16 shentsize;
	u16 shnum;
	u16 shstrndx;
};

#define ELF_SECTION_SYMTAB 2u

struct elf_section {
	u32 name;
	u32 type;
	u64 flags;
	u64 addr;
	u64 offset;		/* in the file */
	u64 size;
	u32 link;		/* symbol table: section of its strings */
	u32 info;
	u64 addralign;
	u64 entsize;
};

#define ELF_SYMBOL_NOTYPE 0u	/* types: low four bits of info */
#define ELF_SYMBOL_FUNC 2u
#define ELF_INDEX_UNDEFINED 0u
#define ELF_INDEX_RESERVED 0xff00u	/* from here on: not a section */

struct elf_symbol {
	u32 name;		/* offset in the strings */
	u8 info;
	u8 other;
	u16 section;
	u64 value;
	u64 size;
};

_Static_assert(sizeof(struct elf_header) == 64 && sizeof(struct elf_section) == 64 && sizeof(struct elf_symbol) == 24,
	       "gABI 4.1");

#endif
