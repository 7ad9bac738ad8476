/* SPDX-License-Identifier: MIT */
/*
 * The hand-over from the loader to the kernel, and the virtual addresses both must agree on.
 *
 * The loader enters the kernel's ELF entry point in 64-bit mode with: RDI = direct-map address of
 * struct boot_info, interrupts off, CR3 = the boot root, RSP undefined (the kernel has a first stack
 * of its own in .bss), direction flag clear, UEFI boot services gone. CR0.WP is set, EFER.NXE when the CPU has NX;
 * CR4.PGE, PCIDE and CET are clear. The GDT and the IDT are still the firmware's, and not mapped any more: no
 * segment register may be loaded before LGDT. What the loader itself put together (this structure, mem, modules,
 * kernel_file, efi_memory_attributes, log, the segments) lies in memory of an EFI loader type: it stays untouched until
 * the kernel gives it back. rsdp and efi_* point to where the firmware has them.
 *
 * The boot root maps, all supervisor:
 *   - every range of the memory map that is RAM (any usable, ACPI or runtime type), rounded out to
 *     2 MiB, read-write, at BOOT_DIRECT_BASE + physical address. NX when the CPU has it. No MMIO.
 *   - the kernel's segments at their linked addresses (KERNEL_BASE and up), by 2 MiB leaves, with the
 *     rights of their program headers
 *   - the loader's own pages one to one, which the jump needs; the kernel never uses them
 * Its tables are EfiLoaderData, listed nowhere: they come back with the rest of the loader's memory
 * once the kernel has left the boot root.
 *
 * Sources: UEFI 2.10 sections 4.6 (configuration tables), 7.2 (memory map), 12.9 (GOP).
 */
#ifndef BOOT_BOOT_INFO_H
#define BOOT_BOOT_INFO_H

#include "kernel/base/types.h"

/* "TANGRAM1" read as a little-endian word. */
#define BOOT_INFO_MAGIC 0x314d4152474e4154ull
/* Grows by one with every change of this file; a kernel refuses any other version by a message. */
#define BOOT_INFO_VERSION 3u

/* The kernel half, the same with 4 and with 5 levels of tables (all in the last 256 TiB). */
#define BOOT_DIRECT_BASE 0xffff800000000000ull	/* direct map: 64 TiB */
#define VMEMMAP_BASE 0xffffc00000000000ull	/* struct page array: 2 TiB */
#define VM_AREA_BASE 0xffffd00000000000ull	/* VA1 areas: 16 TiB */
#define VM_AREA_END 0xffffe00000000000ull
#define KERNEL_BASE 0xffffffff80000000ull	/* the linked image: the last 2 GiB */

#define BOOT_CMDLINE_MAX 4096u	/* bytes, the NUL among them */
#define BOOT_MODULES_MAX 64u
#define BOOT_NOTES_MAX 2048u

/* UEFI memory types (UEFI 2.10, table 7.6), under the names the specification gives them. */
enum boot_mem_type {
	BOOT_MEM_RESERVED = 0,
	BOOT_MEM_LOADER_CODE = 1,
	BOOT_MEM_LOADER_DATA = 2,
	BOOT_MEM_BOOT_SERVICES_CODE = 3,
	BOOT_MEM_BOOT_SERVICES_DATA = 4,
	BOOT_MEM_RUNTIME_CODE = 5,
	BOOT_MEM_RUNTIME_DATA = 6,
	BOOT_MEM_CONVENTIONAL = 7,
	BOOT_MEM_UNUSABLE = 8,
	BOOT_MEM_ACPI_RECLAIM = 9,
	BOOT_MEM_ACPI_NVS = 10,
	BOOT_MEM_MMIO = 11,
	BOOT_MEM_MMIO_PORT = 12,
	BOOT_MEM_PAL = 13,
	BOOT_MEM_PERSISTENT = 14,
	BOOT_MEM_UNACCEPTED = 15,
};

/*
 * One range of the memory map, sorted by start, none overlapping; neighbours of one kind are merged. A frame that
 * the firmware lists twice has the type that allows less; a type that the specification does not know is
 * RESERVED; what lies beyond the 64 TiB of the direct map is left out.
 */
struct boot_mem {
	u64 start;	/* physical, 4 KiB-aligned */
	u64 end;	/* first byte behind it */
	u32 type;	/* enum boot_mem_type */
	u32 reserved;
	u64 attributes;	/* EFI_MEMORY_* of the descriptor */
};

/*
 * One loaded segment of the kernel image, in the order of their addresses, which is also that of their frames: the
 * image is one piece of physical memory. Behind `used` come INT3 (PF_X) or zeroes.
 */
struct boot_segment {
	u64 va;		/* linked address, 2 MiB-aligned */
	u64 pa;		/* where it was placed, 2 MiB-aligned */
	u64 size;	/* bytes in memory, a multiple of 2 MiB: bytes behind p_memsz are reserved too */
	u64 used;	/* bytes that the program header asks for (p_memsz) */
	u32 flags;	/* PF_X = 1, PF_W = 2, PF_R = 4 (ELF) */
	u32 reserved;
};
#define BOOT_SEGMENTS_MAX 8u

struct boot_framebuffer {
	u64 pa;		/* 0: no GOP, or one without a linear framebuffer */
	u64 size;	/* bytes */
	u32 width;	/* pixels */
	u32 height;
	u32 stride;	/* pixels per scan line */
	u32 format;	/* 0 RGBX, 1 BGRX (8 bits each); anything else is not used */
};

/* In the order of their names (bytes); the names are plain ASCII. */
struct boot_module {
	u64 pa;		/* page-aligned; a page even if size is 0 */
	u64 size;	/* bytes */
	char name[64];	/* file name without its folder, NUL-terminated */
};

/* Memory for a log that outlives a reset: an empty ring (kernel/base/log_ring.h). */
struct boot_log {
	u64 pa;		/* LOG_RING_ALIGN-aligned; 0: logs=off, or no place for one */
	u64 size;	/* LOG_RING_SIZE */
};

/* The loader's own memory and image under the firmware's page tables, when it left them (boot/rights.h). */
struct boot_rights {
	u32 protocol;	/* the firmware has EFI_MEMORY_ATTRIBUTE_PROTOCOL */
	u32 changed;	/* ranges whose rights were changed by it */
	u64 bytes;
	u64 writable_executable;	/* bytes of them that were both all the same */
};

struct boot_info {
	u64 magic;		/* BOOT_INFO_MAGIC */
	u32 version;		/* BOOT_INFO_VERSION */
	u32 size;		/* sizeof(struct boot_info) */

	u64 mem;		/* physical address of struct boot_mem[mem_count] */
	u32 mem_count;
	u32 module_count;
	struct boot_module modules[BOOT_MODULES_MAX];

	u32 segment_count;
	u32 pt_levels;		/* levels of the boot root: 4 or 5 */
	struct boot_segment segments[BOOT_SEGMENTS_MAX];

	u64 kernel_file;	/* physical address of the whole kernel.elf, for symbols */
	u64 kernel_file_size;

	u64 boot_root;		/* physical address of the top table in CR3 */
	u64 rsdp;		/* physical address of the ACPI RSDP (2.0 preferred), 0: none */
	u64 efi_system_table;	/* physical address */
	u64 efi_runtime;	/* physical address of EFI_RUNTIME_SERVICES */
	u64 efi_memory_attributes; /* physical address of a copy of EFI_MEMORY_ATTRIBUTES_TABLE, 0: none */
	struct boot_framebuffer framebuffer;
	struct boot_log log;
	struct boot_rights rights;

	u8 entropy[32];		/* from EFI_RNG_PROTOCOL, else from the TSC */
	u32 entropy_bytes;	/* how many of them came from EFI_RNG_PROTOCOL */

	u32 cmdline_length;	/* bytes, without the NUL */
	char cmdline[BOOT_CMDLINE_MAX];	/* UTF-8, one line, words parted by single spaces */

	/*
	 * What the loader wants the log to name, lines parted by '\n': a cmdline.txt that was binary or too
	 * large, a module that did not fit. Empty if all went well.
	 */
	char notes[BOOT_NOTES_MAX];
};

#endif
