/* SPDX-License-Identifier: MIT */
/*
 * Memory of any size, from any context (SPEC PA4): objects of a dozen sizes from slabs (mm/slab.h), and whole pages above them.
 *
 * Each CPU has a list of free objects of each size, entered by local_trylock, from which kmalloc() and kfree() are served as a rule. A
 * task fills it up when it runs low, so that an NMI finds something there even if it hits the lock of a cache. What is freed is the freer's
 * CPU's.
 *
 * Slabs are shared by all who allocate, so they are charged to nobody.
 */
#ifndef MM_KMALLOC_H
#define MM_KMALLOC_H

#include "kernel/base/types.h"

#define KMALLOC_SLAB_MAX 2048u			/* bytes; more is whole pages */
#define KMALLOC_NOLOCK_MAX (8u * 4096u)		/* bytes that kmalloc_nolock() gives at most */
#define KMALLOC_CLASSES 11u

/*
 * `size` bytes, 16-byte aligned (a power of two: to itself, up to a page); flags are those of alloc_pages() (mm/buddy.h): ALLOC_ZERO,
 * ALLOC_MAY_RECLAIM, which only pages heed. NULL: size 0 or beyond the largest block, or no memory. Task context.
 */
void *kmalloc(size_t size, unsigned flags);

/*
 * Give back what any of these gave. NULL is fine. All else that is not in use is named in the log, counted (kmalloc_stats.bad_frees), and
 * changes nothing; of two frees at the same time one counts. Task context.
 */
void kfree(void *p);

/* The same from any context, up to KMALLOC_NOLOCK_MAX. Never waits. */
void *kmalloc_nolock(size_t size, unsigned flags);
void kfree_nolock(void *p);

/* Bytes that may be used of what kmalloc() gave; 0: it is not in use. Any context. */
size_t kmalloc_usable(const void *p);

/* Give what is on the lists of all CPUs back to the slabs. Quiescent points (no CPU allocates meanwhile). */
void kmalloc_drain(void);

struct kmalloc_stats {
	u64 slabs;		/* frames */
	u64 objects;		/* out of their slabs, those on lists of CPUs included */
	u64 cached;		/* those on lists of CPUs */
	u64 refills, spills;	/* batches from and to slabs */
	u64 nolock_fails;
	u64 deferrals;		/* frees that had to leave objects to whoever held a cache's lock */
	u64 bad_frees;
};
void kmalloc_read_stats(struct kmalloc_stats *out);

/* slab_check() of all sizes, and the lists of CPUs: number of faults. Quiescent points. */
unsigned kmalloc_check(void);

/* Whether this CPU holds the lock of a cache: what an NMI hit. Any context. */
bool kmalloc_lock_held_here(void);
/* A CPU that holds one now; MAX_CPUS: none does. For tests. */
u32 kmalloc_lock_holder(void);

#endif
