/* SPDX-License-Identifier: MIT */
/*
 * What the files of execmem share: its state, its regions, its rows.
 *
 *	execmem.c		allocations: the interface
 *	execmem_types.c		what a type means: four tables, and the functions that their rows name
 *	execmem_region.c	memory: frames, addresses and mappings, taken and given back
 *	execmem_report.c	statistics, the table, the check
 *
 * Two kinds of tree, both of spans (span_tree.h): `addresses`, one per range, where every used span is
 * one region; and `memory`, one per type that is not folded, where every used span is one allocation and
 * every free one is mapped and waiting. A free span of memory may reach over several regions.
 */
#ifndef MM_EXECMEM_INTERNAL_H
#define MM_EXECMEM_INTERNAL_H

#include "kernel/base/spinlock.h"
#include "mm/execmem.h"
#include "mm/page.h"
#include "mm/span_tree.h"

/* Frames that are mapped in one piece: a block, or one frame. Every whole one that is empty goes back. */
struct region {
	struct span *va;	/* its addresses; va->owner is the region */
	pfn_t pfn;		/* the first frame */
	struct region *next;	/* list of those that come or go */
	struct span_pool spare;	/* one node: the free span that it is taken out of may need it */
	u64 used;		/* bytes of it that are not free */
	u64 gen;		/* if it is detached: flushed everywhere up to there, no CPU reaches it */
	u8 order;
	u8 leaf;		/* of its mapping */
	u8 type;		/* whose memory it is (not folded) */
	bool fixed;		/* the text tail: never given back */
	bool unmapped;		/* frames of the unmapped cache */
	bool sealable;		/* mapped writable at first: rights differ from allocation to allocation */
	bool detached;		/* its mapping is gone from the tables (a return that could not be finished) */
	bool named;		/* it has been said that it could not */
};

/* The frame that an address of a region lies in. */
static inline pfn_t region_pfn(const struct region *r, u64 va)
{
	return r->pfn + (va >> PAGE_SHIFT) - (r->va->start >> PAGE_SHIFT);
}

static inline struct range region_range(const struct region *r)
{
	return range(r->va->start, r->va->end);
}

/* Counters of a type. The first half is of callers' types, the second of types that have regions. */
struct execmem_counters {
	u64 allocs, frees, fails, fills, bytes_filled, asked, used, serialisations;
	u64 regions, region_bytes, leaves_4k, leaves_2m, blocks_taken, blocks_returned, fallbacks_4k;
};

#define SPAN_SEALED 0x1u	/* flags of an allocation's span; tag: its type; asked: the size asked for */

struct execmem {
	spinlock_t lock;	/* guards everything but the policy, which changes at quiescent points only */
	enum execmem_policy policy;
	struct range ranges[2];
	struct range tail_range;	/* as told at boot; used if the policy says so */
	struct span_tree addresses[2];
	struct span_tree memory[EXECMEM_TYPES];
	struct execmem_counters counters[EXECMEM_TYPES];
	u64 live;			/* allocations */
	struct span *recent;		/* the one that was looked at last, or NULL: a loader's calls come in rows */
	struct span_pool spares;	/* nodes for the next allocations: none when nothing is allocated */
	struct region tail;
	struct span tail_va;
	struct region *stuck;		/* could not be given back for want of memory: tried again */
	u64 nr_stuck;
};

extern struct execmem execmem;

/* The row of a type under the policy there is now. */
const struct execmem_params *execmem_row(enum execmem_type type);
void execmem_types_set_ranges(enum execmem_type type, struct range preferred, struct range fallback);
/* Which of the ranges told at boot this one is part of, or -1. */
int execmem_range_of(struct range part);

bool execmem_is_executable(const struct execmem_params *row);

/* The region that an address lies in, or NULL. Locked. */
struct region *region_of(u64 va);

/*
 * Map enough new regions for size bytes aligned so: their list in order of address, in *list; they are
 * not in `memory` yet. -ENOMEM (frames, tables, nodes), -ENOSPC (addresses). Not locked.
 */
int regions_make(enum execmem_type type, u64 size, u64 align, struct region **list) __must_check;

/* Unmap and give back: nothing refers to them any more. Not locked. */
void regions_release(struct region *list);

/* Try again what could not be given back. Not locked. */
void regions_retry(void);

#endif
