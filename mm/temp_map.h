/* SPDX-License-Identifier: MIT */
/*
 * Temporary mappings: the one way in which the kernel touches memory that it has no mapping for (SPEC UM4).
 *
 * Every CPU has a root of its own: the shared kernel half, and a private low half with one slot of two pages per nesting
 * level (task, IRQ, NMI, #MC). To use a slot a CPU turns interrupts off, loads its root, stores the entries, works, clears
 * the entries, forgets them locally and loads the root it came from. No other CPU ever loads that root, so none can have
 * cached the entry, not even speculatively, and no other CPU need be asked to forget it. Never a shared fixmap.
 *
 * The entries are NX, not global, write-back. The tables of these roots are made once and stay (PAGE_PINNED). The
 * roots are listed for the audit, and each root's slots are one registered window there (PT5).
 */
#ifndef MM_TEMP_MAP_H
#define MM_TEMP_MAP_H

#include "mm/pgtable.h"

#define TEMP_MAP_PAGES 2u			/* of a slot */
#define TEMP_MAP_LEVELS CPU_NESTING_LEVELS	/* slots: enum cpu_nesting */
#define TEMP_MAP_STRIDE (4 * PAGE_SIZE)		/* from slot to slot: nothing is mapped behind the two pages */
#define TEMP_MAP_BASE 0x1000000000ull		/* first slot, in the low half */
#define TEMP_MAP_SLOTS range_len(TEMP_MAP_BASE, TEMP_MAP_LEVELS * TEMP_MAP_STRIDE)

/*
 * Make the roots of CPUs [0, nr). Boot, once; kernel_space is loaded, its top level is filled. -ENOMEM, -ENOSPC (windows of
 * the audit), -EINVAL (nr is 0 or too large), -EBUSY (they are there already); nothing is left of a failure.
 */
int temp_map_init(u32 nr) __must_check;
/*
 * Make, or free, the root of one more CPU. It does not run yet, or is not going to; kernel_space's top level is filled. -ENOMEM,
 * -ENOSPC, -EINVAL (no such CPU), -EBUSY (it has one).
 */
int temp_map_add_cpu(u32 cpu) __must_check;
void temp_map_remove_cpu(u32 cpu);
/* Forget the roots and free their tables. No CPU is inside one (hosted tests). */
void temp_map_reset(void);
/* The space of a CPU's root, for audits and tests. NULL: it has none. */
struct pt_space *temp_map_space(u32 cpu);

struct temp_root;
struct temp_map {
	struct temp_root *root;	/* of the CPU that made it */
	u64 va;			/* of the first page: the address that page tables translate */
	u64 irq_flags;
	phys_t old_root;
	u8 level;
	u8 nr;
};

/*
 * Map nr (1 or 2) frames side by side, at t->va; from here to temp_map_end() interrupts are off, so work on
 * 4 KiB at most in between. Any context, NMI included; a level has one mapping at a time (asserted).
 */
void temp_map_begin(struct temp_map *t, const pfn_t *pfns, unsigned nr, bool writable);
void temp_map_end(struct temp_map *t);

/*
 * Between the two: a pointer to byte `offset` of what is mapped, good up to the end of its page (in a hosted build the two
 * pages do not lie side by side in the process); and copies that may cross from one page to the other.
 */
static inline void *temp_map_ptr(const struct temp_map *t, u64 offset, bool write)
{
	return arch_va_ptr(t->va + offset, write);
}
void temp_map_copy_in(const struct temp_map *t, u64 offset, const void *src, u64 len);
void temp_map_copy_out(const struct temp_map *t, u64 offset, void *dst, u64 len);

/* Work on whole frames, one at a time with interrupts let in between. Any context but where interrupts must stay off. */
void temp_zero(pfn_t pfn, u64 nr);
void temp_fill(pfn_t pfn, u64 nr, u8 byte);
/* len bytes from offset on in the frames that begin with pfn (physically consecutive). */
void temp_write(pfn_t pfn, u64 offset, const void *src, u64 len);
void temp_read(pfn_t pfn, u64 offset, void *dst, u64 len);

struct temp_map_stats {
	u64 mappings;
	u64 pages;
	u64 local_flushes;	/* pages, counted apart from those of the kernel space */
};
void temp_map_read_stats(struct temp_map_stats *out);

#endif
