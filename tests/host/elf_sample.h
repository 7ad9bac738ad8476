/* SPDX-License-Identifier: MIT */
/*
 * A small, good kernel image, field by field, for those who test or fuzz boot/elf_load.c by damaging it; and
 * what must be true of every image that is accepted.
 */
#ifndef TESTS_HOST_ELF_SAMPLE_H
#define TESTS_HOST_ELF_SAMPLE_H

#include <stdlib.h>
#include <string.h>

#include "boot/elf_load.h"
#include "kernel/base/bits.h"

/* Offsets in an ELF64 header, and in the program header with this number. */
#define EH_CLASS 4
#define EH_DATA 5
#define EH_IDENT_VERSION 6
#define EH_TYPE 16
#define EH_MACHINE 18
#define EH_VERSION 20
#define EH_ENTRY 24
#define EH_PHOFF 32
#define EH_SHOFF 40
#define EH_PHENTSIZE 54
#define EH_PHNUM 56
#define EH_SHENTSIZE 58
#define EH_SHNUM 60
#define PH(nr, field) (64 + 56 * (nr) + (field))
#define P_TYPE 0
#define P_FLAGS 4
#define P_OFFSET 8
#define P_VADDR 16
#define P_FILESZ 32
#define P_MEMSZ 40

#define PHDRS 12	/* room for more than can be loaded; the good file uses three */
#define PROPERTY_AT 0x800
#define TEXT_AT 0x1000
#define RODATA_AT 0x2000
#define DATA_AT 0x3000
#define SECTIONS_AT 0x3400
#define ELF_SAMPLE_SIZE (SECTIONS_AT + 2 * 64)

#define TEXT_VA KERNEL_BASE
#define RODATA_VA (KERNEL_BASE + 4 * MIB)
#define DATA_VA (KERNEL_BASE + 16 * MIB)
#define TEXT_SIZE 0x321ull
#define DATA_FILE_SIZE 0x100ull
#define DATA_SIZE (2 * MIB + 5)

static inline void elf_put(u8 *file, u64 at, unsigned width, u64 value)
{
	memcpy(file + at, &value, width);
}

static inline void elf_put_segment(u8 *file, unsigned nr, u32 flags, u64 offset, u64 va, u64 filesz, u64 memsz)
{
	elf_put(file, PH(nr, P_TYPE), 4, 1);
	elf_put(file, PH(nr, P_FLAGS), 4, flags);
	elf_put(file, PH(nr, P_OFFSET), 8, offset);
	elf_put(file, PH(nr, P_VADDR), 8, va);
	elf_put(file, PH(nr, P_FILESZ), 8, filesz);
	elf_put(file, PH(nr, P_MEMSZ), 8, memsz);
}

/* A good image; the data segment comes first in the file's table and last in memory. */
static inline u8 *elf_sample(void)
{
	static const u8 start[] = { 0x7f, 'E', 'L', 'F', 2, 1, 1 };
	u8 *file = calloc(1, ELF_SAMPLE_SIZE);

	memcpy(file, start, sizeof(start));
	elf_put(file, EH_TYPE, 2, 2);
	elf_put(file, EH_MACHINE, 2, 62);
	elf_put(file, EH_VERSION, 4, 1);
	elf_put(file, EH_ENTRY, 8, TEXT_VA + 0x20);
	elf_put(file, EH_PHOFF, 8, 64);
	elf_put(file, EH_SHOFF, 8, SECTIONS_AT);
	elf_put(file, EH_PHENTSIZE, 2, 56);
	elf_put(file, EH_PHNUM, 2, 3);
	elf_put(file, EH_SHENTSIZE, 2, 64);
	elf_put(file, EH_SHNUM, 2, 2);
	elf_put_segment(file, 0, ELF_PF_R | ELF_PF_W, DATA_AT, DATA_VA, DATA_FILE_SIZE, DATA_SIZE);
	elf_put_segment(file, 1, ELF_PF_R | ELF_PF_X, TEXT_AT, TEXT_VA, TEXT_SIZE, TEXT_SIZE);
	elf_put_segment(file, 2, ELF_PF_R, RODATA_AT, RODATA_VA, 0x40, 0x40);
	memset(file + TEXT_AT, 0x90, TEXT_SIZE);
	memset(file + RODATA_AT, 'r', 0x40);
	memset(file + DATA_AT, 'd', DATA_FILE_SIZE);
	return file;
}

/* Whatever is accepted must be safe to load: the promises of elf_load.h. */
static inline bool elf_image_sound(const struct elf_image *image, u64 file_size)
{
	bool entry = false;
	u64 end = KERNEL_BASE;
	u64 size = 0;

	if (image->count == 0 || image->count > BOOT_SEGMENTS_MAX)
		return false;
	for (u32 i = 0; i < image->count; i++) {
		const struct elf_segment *s = &image->segments[i];
		u64 rounded = align_up(s->memsz, ELF_SEGMENT_ALIGN);

		if (s->va < end || !is_aligned(s->va, ELF_SEGMENT_ALIGN) || s->va + rounded <= s->va)
			return false;
		if (s->filesz > s->memsz || s->offset > file_size || s->filesz > file_size - s->offset)
			return false;
		if ((s->flags & ELF_PF_W) && (s->flags & ELF_PF_X))
			return false;
		entry |= (s->flags & ELF_PF_X) && image->entry - s->va < s->filesz;
		end = s->va + rounded;
		size += rounded;
	}
	return entry && size == image->size;
}

#endif
