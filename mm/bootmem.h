/* SPDX-License-Identifier: MIT */
/*
 * Memory before there is an allocator: a sorted list of free physical ranges, taken from the top.
 *
 * Order of use: bootmem_add() every usable range of the firmware's map, bootmem_reserve() what is in
 * use, bootmem_alloc() tables and the struct page array, and then, once, bootmem_release() hands what
 * is left to the buddy.
 */
#ifndef MM_BOOTMEM_H
#define MM_BOOTMEM_H

#include "kernel/base/range.h"
#include "kernel/base/types.h"

/* Add RAM the kernel may use. Ranges may touch; one that overlaps an earlier one is -EINVAL, a list
 * that is full -ENOSPC. Frames, not bytes, count: partial ones at the edges are dropped. */
int bootmem_add(struct range phys) __must_check;

/*
 * Take [start, end) out of the free ranges (rounded out to frames). What is not in them is ignored. -ENOSPC: it lies inside a
 * range and there is no room in the list for the two that would be left; nothing is taken then.
 */
int bootmem_reserve(struct range phys) __must_check;

/*
 * size bytes (rounded up to frames) aligned to align, from the highest range that has them, below
 * limit (0: no limit). Sets *out; the memory is not zeroed. -ENOMEM.
 */
int bootmem_alloc(u64 size, u64 align, u64 limit, phys_t *out) __attribute__((warn_unused_result));

/* Walk the free ranges: i from 0 until it returns false. */
bool bootmem_range(unsigned i, struct range *out);

u64 bootmem_free_bytes(void);

/* Hand every free frame to the buddy. bootmem is empty afterwards, and bootmem_alloc() fails. */
void bootmem_release(void);

/* Forget everything (hosted tests). */
void bootmem_reset(void);

#endif
