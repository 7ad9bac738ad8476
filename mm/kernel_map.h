/* SPDX-License-Identifier: MIT */
/*
 * Mapping frames at kernel addresses outside the direct map: what vmalloc, vmap, ioremap, the image and the memory map
 * are made of. Keeps the alias counts (alias.h), and with them W^X.
 *
 * Task context, no spinlock held, interrupts on. 0 or a negative errno; on error nothing has changed.
 *   -EINVAL  not 4 KiB-aligned, empty, wraps, not in the kernel half, or in the direct map; attrs without PTE_P
 *   -EPERM   W^X or owner class (writable and executable; a page table)
 *   -EBUSY   something else is mapped there
 *   -ENOMEM  no frame for a table
 */
#ifndef MM_KERNEL_MAP_H
#define MM_KERNEL_MAP_H

#include "mm/pgtable.h"

/*
 * Map pages[i] at va + i * 4 KiB. Runs of consecutive frames get large leaves where alignment allows it, up to max_leaf
 * (PT_4K, PT_2M, PT_1G; a leaf asked for smaller than the machine's largest is never collapsed to more than max_leaf
 * if that is PT_4K). attrs in the normal form of pte.h. All or nothing.
 */
int kernel_map_pages(u64 va, struct page *const *pages, u64 nr, u64 attrs, unsigned max_leaf,
		     struct tlb_batch *batch) __must_check;

/* The same for a physically contiguous range, RAM or not. */
int kernel_map_range(u64 va, struct range pa, u64 attrs, unsigned max_leaf, struct tlb_batch *batch) __must_check;

/* Unmap whatever is mapped in the range. Splits large leaves at its edges: -ENOMEM, -EBUSY (break-before-make). */
int kernel_unmap(struct range va, struct tlb_batch *batch) __must_check;

#endif
