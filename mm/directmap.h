/* SPDX-License-Identifier: MIT */
/*
 * The direct map (SPEC PT1, PT2): every frame the kernel may use, at arch_mm.direct_base + physical address, NX,
 * global, write-back, in the largest leaves that fit.
 *
 * Frames are taken out of it and put back by set_direct_map_invalid() and _default(). Its writability follows what
 * set_memory_ro() and _rw() say of another alias of the frame, in the same batch (set_memory.h).
 *
 * Task context, no spinlock held, interrupts on. 0 or a negative errno; on error nothing has changed, in tables,
 * counters or the TLB.
 */
#ifndef MM_DIRECTMAP_H
#define MM_DIRECTMAP_H

#include "mm/kernel_map.h"
#include "mm/pgtable.h"
#include "mm/set_memory.h"

/* Attributes of a direct-map leaf: writable, NX, global, write-back, A and D set from the start. */
#define DIRECT_ATTRS (PTE_P | PTE_W | PTE_A | PTE_D | PTE_G | PTE_NX)

/* Whether the frame is one that the direct map holds (mapped at the moment or not). Any context. */
bool directmap_has(pfn_t pfn);
/* How many of nr frames from pfn on answer as the first one does, and what that is. Any context. */
u64 directmap_span(pfn_t pfn, u64 nr, bool *has);

/*
 * Whether the gigabyte that a frame is in is mapped by anything smaller than one leaf: to split more of it costs no 1G leaf. False
 * before there is a direct map. Any context, no lock; it may change at once.
 */
bool directmap_is_split(pfn_t pfn);

/*
 * Whether the owners of frames let their direct-map alias be made writable, or read-only: -EPERM for the image's constants,
 * and for what the kernel writes through the direct map (tables, slabs, the memory map).
 */
int directmap_allows(pfn_t pfn, u64 nr, bool writable) __must_check;

/*
 * Map [start, end) of physical memory that the kernel may use, in the largest leaves that fit and do not span two
 * memory types. Boot, after the page allocator is up: -ENOMEM, -EINVAL, -EBUSY (something is mapped there).
 */
int directmap_add(struct range pa) __must_check;

/*
 * Make the direct-map alias of frames read-only (the image's text and rodata), before they are mapped executable. Boot.
 */
int directmap_seal(struct range pa) __must_check;

/*
 * Take frames out of the direct map, or put them back: writable, or read-only if the frame is executable through
 * another alias or belongs to the image's text or rodata.
 *   -EINVAL  nr is 0, or pfn + nr wraps
 *   -ERANGE  part of the range is not memory of the direct map
 *   -EPERM   (invalid) a page table, the memory map, a slab or the image
 *   -ENOMEM  no frame for a table
 *   -EBUSY   (break-before-make) the leaf to split holds what the split itself runs on
 *   -EIO     a CPU that was given up still reaches them (invalid), or might run them (default). They are as they were; those
 *            that cannot be, because it died meanwhile, are quarantined, and free_pages() refuses them
 */
int set_direct_map_invalid(pfn_t pfn, u64 nr) __must_check;
int set_direct_map_default(pfn_t pfn, u64 nr) __must_check;

/* The same as part of a batch: many changes, one shootdown. The caller finishes the batch, also after an error. */
int set_direct_map_batch(pfn_t pfn, u64 nr, bool valid, struct tlb_batch *batch) __must_check;

/* Bytes by leaf size and the events, with Linux's names. */
struct directmap_stats {
	u64 direct_map_4k, direct_map_2m, direct_map_1g;	/* bytes */
	u64 direct_map_level2_splits, direct_map_level3_splits;
	u64 direct_map_level2_collapses, direct_map_level3_collapses;
	u64 leaves, fewest_leaves;
	u64 tables;	/* of the direct map */
};
void directmap_read_stats(struct directmap_stats *out);

#endif
