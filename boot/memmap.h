/* SPDX-License-Identifier: MIT */
/*
 * The firmware's memory map, brought into the order that boot_info.h promises, and the place of the kernel
 * image in it.
 *
 * Nothing here calls the firmware, so the same object is tested as a Linux program.
 * Source: UEFI 2.10, section 7.2 (GetMemoryMap).
 */
#ifndef BOOT_MEMMAP_H
#define BOOT_MEMMAP_H

#include "boot/boot_info.h"
#include "kernel/base/types.h"

/* EFI_MEMORY_DESCRIPTOR. Firmware's may be longer: step by the descriptor size it reports. */
struct memmap_descriptor {
	u32 type;
	u32 pad;
	u64 physical_start;
	u64 virtual_start;
	u64 pages;
	u64 attributes;
};

/* Physical memory beyond the direct map's size is left out of the map. */
#define MEMMAP_LIMIT (VMEMMAP_BASE - BOOT_DIRECT_BASE)

/* Entries that memmap_normalise() needs at most for n descriptors, in out and in scratch. */
static inline u64 memmap_entries_max(u64 n)
{
	return 2 * n + 1;
}

/*
 * Sort, resolve overlaps (the more restricted type wins), merge neighbours of the same type and attributes,
 * drop empty ranges. Types that the specification does not know become RESERVED. out and scratch have
 * memmap_entries_max(n) entries, n = raw_size / step. Returns the number of entries. *lost: bytes of RAM
 * above MEMMAP_LIMIT, which were left out.
 */
u32 memmap_normalise(const void *raw, u64 raw_size, u64 step, struct boot_mem *out, u64 *scratch, u64 *lost);

/* Memory that the kernel may use once boot services are gone: PT1's list. */
bool memmap_usable(u32 type);

/* What the boot root's direct map holds: usable, ACPI and runtime types. */
bool memmap_is_ram(u32 type);

/*
 * An address, 2 MiB-aligned, of size bytes of free memory at or above `from` for the kernel image. Prefers
 * gigabytes that do not consist of usable RAM alone: there the image costs no 1 GiB leaf (*ragged = true).
 * Lowest address first. 0: there is none.
 */
u64 memmap_place(const struct boot_mem *map, u32 count, u64 size, u64 from, bool *ragged);

/* The largest piece of free memory, in bytes, from its first 2 MiB-aligned address: for a message. */
u64 memmap_largest(const struct boot_mem *map, u32 count);

#endif
