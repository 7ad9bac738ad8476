/* SPDX-License-Identifier: MIT */
/*
 * The direct map, and changes of rights by virtual address (SPEC PT1, PT2, PT5).
 *
 * The direct map holds every frame the kernel may use, at arch_mm.direct_base + physical address: NX,
 * global, write-back, in the largest leaves that fit. A frame is taken out of it and put back by
 * set_direct_map_invalid() and _default(); its writability follows what set_memory_ro() and _rw() say of
 * another alias of the frame, in the same batch.
 *
 * W^X (PT5): a frame is never executable while any alias of it in a shared root is writable. A request that
 * would break this, or make a frame executable whose owner class does not allow it, is -EPERM.
 *
 * All functions: task context, no spinlock held, interrupts on. 0 or a negative errno; on error nothing
 * has changed, in tables, counters or the TLB.
 *   -EINVAL  not 4 KiB-aligned, empty, wrapping round, not canonical
 *   -EFAULT  (set_memory) part of the range is not mapped
 *   -ERANGE  (set_direct_map) part of the range is not RAM the kernel may use
 *   -EPERM   W^X or owner class; a page table, the memory map or the image taken out of the direct map
 *   -ENOMEM  no frame for a table
 *   -EBUSY   (bbm) the leaf to split holds what the split itself runs on
 */
#ifndef MM_DIRECTMAP_H
#define MM_DIRECTMAP_H

#include "mm/pgtable.h"

/* Attributes of a direct-map leaf: writable, NX, global, write-back, A and D set from the start. */
#define DIRECT_ATTRS (PTE_P | PTE_W | PTE_A | PTE_D | PTE_G | PTE_NX)

/*
 * Map [start, end) of physical memory that the kernel may use. Boot: before the root is loaded, from a pool
 * filled by hand. Leaves never span two memory types.
 */
int directmap_add(struct range pa, struct pt_pool *pool) __must_check;
/* How many tables directmap_add() needs for this range at most. */
u64 directmap_tables_needed(struct range pa);

/* Change [va, va + nr * 4 KiB), in any mapping of the kernel half. */
int set_memory_ro(u64 va, u64 nr) __must_check;
int set_memory_rw(u64 va, u64 nr) __must_check;
int set_memory_x(u64 va, u64 nr) __must_check;
int set_memory_nx(u64 va, u64 nr) __must_check;
int set_memory_rox(u64 va, u64 nr) __must_check;

/* Take frames out of the direct map, put them back with the rights their state calls for. */
int set_direct_map_invalid(pfn_t pfn, u64 nr) __must_check;
int set_direct_map_default(pfn_t pfn, u64 nr) __must_check;

/*
 * The same, as parts of one batch: many changes, one shootdown. The caller finishes the batch, also after an
 * error (which leaves what earlier calls did).
 */
enum memory_rights {
	MEMORY_RO,
	MEMORY_RW,
	MEMORY_X,
	MEMORY_NX,
	MEMORY_ROX,
};
int set_memory_batch(u64 va, u64 nr, enum memory_rights rights, struct tlb_batch *batch) __must_check;
int set_direct_map_batch(pfn_t pfn, u64 nr, bool valid, struct tlb_batch *batch) __must_check;

/*
 * Map frames at a kernel address outside the direct map, and unmap them: keeps the counts of writable and
 * executable aliases. attrs in normal form; W together with executable is -EPERM. pages[i] for every
 * 4 KiB; runs of consecutive frames get large leaves where alignment allows and `max_leaf` says so.
 * -EBUSY: something is mapped there. All or nothing.
 */
int kernel_map_pages(u64 va, struct page *const *pages, u64 nr, u64 attrs, unsigned max_leaf,
		     struct tlb_batch *batch) __must_check;
/* The same for a contiguous physical range, RAM or not (ioremap, the image, the memory map). */
int kernel_map_range(u64 va, struct range pa, u64 attrs, unsigned max_leaf, struct tlb_batch *batch) __must_check;
/* Unmap whatever is mapped in the range. Splits large leaves at its edges: -ENOMEM. */
int kernel_unmap(struct range va, struct tlb_batch *batch) __must_check;

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
