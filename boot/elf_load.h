/* SPDX-License-Identifier: MIT */
/*
 * The kernel image: is this file one, and how does it go into memory?
 *
 * Nothing here knows the firmware, so the same object is tested and fuzzed as a Linux program. Everything
 * in the file is untrusted: it is read with bounds, copied out field by field and never changed.
 *
 * Sources: System V ABI, chapters 4 and 5 (object files, program loading); AMD64 supplement (e_machine,
 * GNU property notes).
 */
#ifndef BOOT_ELF_LOAD_H
#define BOOT_ELF_LOAD_H

#include "boot/boot_info.h"
#include "kernel/base/types.h"

#define ELF_PF_X 1u
#define ELF_PF_W 2u
#define ELF_PF_R 4u

/* Rights differ by segment and the boot root maps it by 2 MiB leaves: no two segments share a block. */
#define ELF_SEGMENT_ALIGN (2 * MIB)

struct elf_segment {
	u64 va;		/* 2 MiB-aligned, KERNEL_BASE or higher */
	u64 offset;	/* in the file */
	u64 filesz;	/* bytes in the file, at most memsz */
	u64 memsz;	/* bytes in memory, not 0 */
	u32 flags;	/* ELF_PF_*; never W together with X */
};

struct elf_image {
	u64 entry;		/* inside the bytes of an executable segment */
	u64 size;		/* bytes of physical memory for all segments, each rounded up to 2 MiB */
	u32 count;
	struct elf_segment segments[BOOT_SEGMENTS_MAX];	/* sorted by address, none overlapping */
};

/*
 * Check a whole file. 0 and *out filled; or -ENOEXEC, and a sentence without a final point in why that
 * names what is wrong, with the figures. *out is meaningless then.
 */
int elf_check(const void *file, u64 size, struct elf_image *out, char *why, size_t why_size) __must_check;

/*
 * Where the segments go if the image stands at pa (2 MiB-aligned, image->size bytes): one behind the
 * other in the order of their addresses. Fills out[image->count].
 */
void elf_place(const struct elf_image *image, u64 pa, struct boot_segment *out);

/*
 * Copy one segment to its memory, ELF_SEGMENT_ALIGN-rounded. What the file does not give is zero up to memsz;
 * behind it comes zero, or INT3 when the segment is executable.
 */
void elf_copy(const void *file, const struct elf_segment *segment, void *memory);

#endif
