/* SPDX-License-Identifier: MIT */
/*
 * What the suites of the page-table code share: addresses to map at, frames that are no RAM, a look at one
 * leaf, and a picture of all page tables to compare with.
 */
#ifndef TESTS_FIXTURE_H
#define TESTS_FIXTURE_H

#include "mm/pgtable.h"
#include "mm/vm_area.h"

/* A kernel leaf as vmap() makes them, with what the machine has. */
u64 fixture_attrs(void);

/* Kernel addresses of the test's own. false: there are none, noted as a failure. */
struct fixture_area {
	struct vm_area *area;
	u64 va;
	u64 size;
};
bool fixture_area_get(struct fixture_area *a, u64 size, u64 align);
/* Unmaps what is still mapped there. */
void fixture_area_put(struct fixture_area *a);

/*
 * A physical range of 2 GiB, 1 GiB-aligned, where there is no RAM. Nobody reads or writes it: it is there to
 * be mapped with any attributes.
 */
u64 fixture_nowhere(void);

/* The leaf or absent entry that decides about a kernel address. */
struct pt_slot fixture_leaf(u64 va);

/* Physical address of what is mapped at a kernel address. */
u64 fixture_pa(u64 va);

/* 2 MiB of memory in that gigabyte (its number): others are held until one comes that is. NULL: none is free. */
struct page *fixture_block_in(u64 gigabyte);

/* One change of kernel_space, finished. */
int fixture_change(enum pt_op op, struct range va, u64 pa, u64 set, u64 clear);

/* Split by the test hook, finished. */
int fixture_split(struct range va, unsigned level);

/* Events since a snapshot, both parts of the kernel space. */
struct fixture_events {
	u64 splits[PT_1G + 1];
	u64 collapses[PT_1G + 1];
};
void fixture_events(struct fixture_events *out);

/* Every leaf of the kernel space, the statistics and the free frames. */
struct fixture_picture {
	u64 digest;
	u64 leaves;
	u64 free;
	struct pt_stats stats[PT_PARTS];
};
void fixture_take(struct fixture_picture *out);
/* CHECKs that nothing has changed since. */
void fixture_same(const struct fixture_picture *before);

/* Set the policy; returns the one before. */
enum pt_collapse_policy fixture_policy(enum pt_collapse_policy policy);

#endif
