/* SPDX-License-Identifier: MIT */
/*
 * The unmapped cache: frames with no mapping in the direct map (SPEC UM1..UM5; seed 003_30c52a98873c95a4.txt).
 *
 * A buddy of its own behind each node of the page allocator. It starts empty. A miss takes one whole block (2 MiB, or 1 GiB with um=1g) and
 * clears the one leaf that maps it: nothing is split, one flush batch is spent, and every page of the block then comes and
 * goes without touching a page table. Frees coalesce; whole free blocks above the high-water mark go back, are mapped
 * again by one leaf, and the gigabyte collapses. If no whole block is to be had, the highest order there is is taken, by
 * splitting; such a piece goes back as soon as all of it is free. Pages come and go by node: what is of one is refilled
 * from it, kept there, and goes back to it.
 *
 * Invariants: no frame of class PAGE_UNMAPPED has a leaf in the direct map; a frame in the cache has no mapping at
 * all; refills and returns hold no lock of the cache while they allocate, change mappings and flush.
 *
 * In struct page of a frame that comes from here, `private` is the cache's from then until it goes back, and `account`
 * that of whoever is charged; next, prev and the alias counts are the owner's for as long as it has the frame.
 */
#ifndef MM_UNMAPPED_H
#define MM_UNMAPPED_H

#include "kernel/base/types.h"
#include "mm/buddy.h"
#include "mm/page.h"

struct account;

#define UNMAPPED_ORDER_MAX 9u

#define UNMAPPED_ZERO 0x1u		/* the pages are zero; without it the kernel never touches the content */
#define UNMAPPED_NOSCRUB 0x2u		/* the owner scrubs, or does not care: free leaves the content alone */
#define UNMAPPED_MAY_RECLAIM 0x4u	/* the caller holds no mm lock: shrinkers may run for it */
#define UNMAPPED_THIS_NODE 0x8u		/* of this node or not at all */

enum unmapped_mode {
	UNMAPPED_OFF,	/* no cache: each allocation takes its frames out of the direct map, each free puts them back */
	UNMAPPED_2M,
	UNMAPPED_1G,
};

/* Boot: the mode, and the shrinker is registered with the page allocator. Temporary mappings work already. */
void unmapped_init(enum unmapped_mode mode);

/*
 * 2^order frames, naturally aligned, of class PAGE_UNMAPPED (the owner may set another class, and need not set it back);
 * NULL: order too large, unknown flag, no such node, a limit of the account's (NULL: nobody is charged) or of one above it, or no memory; with
 * break-before-make, also if the only frames there are lie in a leaf that cannot be split (set_direct_map_invalid(): -EBUSY). Task
 * context, no spinlock held, interrupts on (asserted).
 *
 * nid as for alloc_pages_node(): NODE_ANY (this CPU's own first), or the node that is tried first; then the others by their number, unless
 * UNMAPPED_THIS_NODE. A node is asked for all it has, a smaller piece that splits a leaf included, before the next one is.
 */
struct page *unmapped_pages_alloc(unsigned order, unsigned flags, int nid, struct account *account);

/*
 * Give back what unmapped_pages_alloc() gave, with the same order; nothing maps it any more, and that has been flushed. Scrubbed (zeroed) before
 * this returns unless it was allocated with NOSCRUB. A double free, a foreign page, another order, a frame with an alias left are counted, named in
 * the log and change nothing. Task context, no spinlock held, interrupts on (asserted). What was charged for it is charged no longer.
 */
void unmapped_pages_free(struct page *page, unsigned order);

/*
 * The same from any context, as alloc_pages_nolock(): NMI and machine check, with any lock held by whom was interrupted, this cache's too. Never
 * waits, and never refills, as that flushes: of what lies ready, by this CPU's magazine, then by the node's lists if their lock is
 * to be had at once, then by other nodes'. Orders 0..9; not UNMAPPED_MAY_RECLAIM. Zeroing goes by the temporary mapping of the
 * context's level, and takes its time. Failures are counted by cause; NOLOCK_ORDER is any argument that is refused. um=off:
 * nothing lies ready.
 */
struct page *unmapped_pages_alloc_nolock(unsigned order, unsigned flags, int nid, struct account *account);

/*
 * unmapped_pages_free() from any context, for what either of the two gave. Never waits. Scrubbed before this returns, too. What becomes free beyond
 * the mark goes back with the next free of a task that looks at it, or by unmapped_shrink().
 */
void unmapped_pages_free_nolock(struct page *page, unsigned order);

/* `reserve`: the magazines. */
void unmapped_read_nolock_stats(struct nolock_stats *out);
/* Frees that wait for a lock's holder to take them in. None once no CPU is inside. Any context; takes no lock. */
u64 unmapped_deferred_now(void);

/* Give whole free blocks back, at most so many frames (UNMAPPED_ALL: every one; what is on magazines comes first), those of this CPU's
 * node first. Returns the frames given back. Task context, no spinlock held. */
#define UNMAPPED_ALL UINT64_MAX
u64 unmapped_shrink(u64 frames);

/* Free whole blocks kept of each node: above `high` they go back down to `low`. Blocks of the mode's size. low > high counts as high. */
void unmapped_set_watermarks(u64 low, u64 high);
void unmapped_watermarks(u64 *low, u64 *high);

/*
 * Change the mode at a quiescent point: everything free goes back first, and the water marks become the mode's own. -EBUSY: pages are
 * in use. -EINVAL: no such mode.
 */
int unmapped_set_mode(enum unmapped_mode mode) __must_check;
enum unmapped_mode unmapped_mode(void);

struct unmapped_node_stats {
	u64 bytes;			/* unmapped now, in use or not */
	u64 bytes_in_use;
	u64 free_blocks[19];		/* by order; those of single pages on magazines are among order 0 */
	u64 refills[19];		/* by the order that was taken */
	u64 returns[19];		/* by the order that was given back */
	u64 deferred, deferred_most;	/* frees that found the lock held; most that were taken in at once */
};
/* A snapshot; exact as long as no other CPU is inside. Task context. */
void unmapped_read_node_stats(unsigned nid, struct unmapped_node_stats *out);

/* Of all nodes. */
struct unmapped_stats {
	u64 bytes;			/* unmapped now, in use or not */
	u64 bytes_in_use;
	u64 free_blocks[19];
	u64 allocs, frees, hits, bad_frees;
	u64 fails;			/* of unmapped_pages_alloc() */
	u64 refills[19];
	u64 returns[19];
	u64 flush_batches;		/* spent by refills and returns */
	u64 zeroed, scrubbed;		/* pages: before they were handed out, and when they were given back */
	u64 reclaim_runs;		/* shrinker calls, frames they brought, the most one call worked on */
	u64 reclaim_frames;
	u64 reclaim_most;
};
/* Like the one of a node. */
void unmapped_read_stats(struct unmapped_stats *out);

/* The table of UM5 as diagnostics: a row per node, a column per order, as /proc/pagetypeinfo has it. */
void unmapped_print(void);

/*
 * Lists, counts, states and classes compared, the direct map looked at frame by frame (no leaf), and every leaf of every
 * root (none reaches a frame in the cache): number of faults. Quiescent points.
 */
unsigned unmapped_check(void);

/* Forget everything (hosted tests). */
void unmapped_reset(void);

#endif
