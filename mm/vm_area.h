/* SPDX-License-Identifier: MIT */
/*
 * Kernel virtual areas: who has which addresses between VM_AREA_BASE and VM_AREA_END (SPEC VA1).
 *
 * An augmented tree by address: each node knows the largest gap between the areas of its subtree, so first fit is one
 * descent; with a larger alignment it goes on only past gaps that are long enough but hold no aligned address. Every
 * area has a guard page of its own before and behind it that is never mapped: two guards lie between neighbours.
 * This file hands out addresses; vmalloc.h maps things there.
 */
#ifndef MM_VM_AREA_H
#define MM_VM_AREA_H

#include "kernel/base/range.h"
#include "kernel/base/types.h"

struct page;

enum vm_area_kind {
	VM_AREA_ALLOC,		/* vmalloc(): has frames of its own */
	VM_AREA_MAP,		/* vmap(): other people's frames */
	VM_AREA_IOREMAP,	/* device registers, tables of the firmware */
	VM_AREA_SPARSE,		/* filled page by page */
	VM_AREA_KINDS,
};

struct vm_area {
	u64 start;		/* first usable address */
	u64 size;		/* usable bytes, a multiple of 4 KiB; the guards are outside */
	enum vm_area_kind kind;
	const char *caller;	/* who asked, for the table */
	u64 nr_pages;		/* frames mapped; the owner's to write, shown to others at any time */
	u32 frames;		/* ALLOC: what to free, the last got first: a list through struct page */
	bool claimed;		/* somebody is about to free it */
	u64 pa;			/* IOREMAP: physical address asked for */
	/* The tree. */
	struct vm_area *left, *right;
	int height;
	struct range span;	/* from the first guard of the subtree to its last */
	u64 max_gap;		/* largest free range between areas of the subtree */
};

/* The range that areas are handed out from; once, at boot. Forgets everything (hosted tests). */
void vm_area_init(struct range va);

/*
 * Addresses for size bytes (rounded up to 4 KiB), aligned to align (a power of two >= 4 KiB), the lowest
 * there are. NULL: -ENOMEM for the node, or no gap. Task context.
 */
struct vm_area *get_vm_area(u64 size, u64 align, enum vm_area_kind kind, const char *caller);

/* Give the addresses back. Nothing is mapped there any more. Task context. */
void free_vm_area(struct vm_area *area);

/*
 * The area of that kind whose first address va is, for the caller to unmap and free: of several who ask for the same one
 * only the first gets it. NULL: *why says why not. Task context.
 */
struct vm_area *claim_vm_area(u64 va, enum vm_area_kind kind, const char **why);
/* It could not be unmapped after all. */
void unclaim_vm_area(struct vm_area *area);

/* The area that va lies in (guards do not count), or NULL. Task context. */
struct vm_area *find_vm_area(u64 va);

/* The area whose guard page va lies in, or NULL: names the victim of an overrun. Any context (best effort). */
struct vm_area *find_vm_area_guard(u64 va);

/* Visit all in order of address. Return false to stop. */
void vm_area_for_each(bool (*visit)(void *arg, const struct vm_area *area), void *arg);

/* The table that Linux calls vmallocinfo, as diagnostics to the log. */
void vm_area_print(void);

/* Check order, balance, gaps and spans of the tree: number of faults found. */
unsigned vm_area_check(void);

const char *vm_area_kind_name(enum vm_area_kind kind);

#endif
