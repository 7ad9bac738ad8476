/* SPDX-License-Identifier: MIT */
/*
 * From the firmware's memory map to a kernel that owns its memory (DESIGN: The way of the data).
 */
#ifndef KERNEL_MEMORY_H
#define KERNEL_MEMORY_H

#include "boot/boot_info.h"
#include "kernel/base/range.h"

/*
 * Build bootmem, struct page, the page allocator and the kernel's own root with the direct map, the image and
 * the memory map; load that root; start the areas; take back what the loader used. Once, on the boot CPU, on the boot
 * root, after cpu_init() and cmdline_parse(). Panics, with a reason, if there is too little memory.
 */
void memory_init(const struct boot_info *bi);

/*
 * Hand each node of acpi its memory. Once, after smp_init_boot_cpu(), on the boot CPU alone.
 */
void memory_init_nodes(void);

/*
 * Three frames below 1 MiB, one behind the other, that the firmware's map offers and nobody has got: where other CPUs start.
 * False: there are none. They are PAGE_BOOT, in the direct map, and go to the page allocator by memory_ap_start_release().
 */
bool memory_ap_start(struct range *out);
void memory_ap_start_release(void);

/* RAM that the kernel may use, in bytes: what the direct map holds. */
u64 memory_usable(void);

/* Usable ranges as the firmware told them, merged: i from 0 until it returns false. */
bool memory_usable_range(const struct boot_info *bi, unsigned *cursor, struct range *out);

#endif
