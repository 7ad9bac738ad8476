/* SPDX-License-Identifier: MIT */
/*
 * Memory for a guest: frames that the kernel has no mapping of and does not touch (SPEC UM6).
 *
 * Taken in the largest extents there are, in ascending guest addresses from 0 on. A guest that brings its own content asks for
 * no zeroing, and one whose owner wipes it (or has encrypted it) for no scrubbing: then no byte of it passes through this kernel,
 * from the page allocator and back.
 *
 * Task context, no spinlock held, interrupts on.
 */
#ifndef MM_GUEST_MEMORY_H
#define MM_GUEST_MEMORY_H

#include "kernel/base/types.h"
#include "mm/page.h"

#define GUEST_MEMORY_ZERO 0x1u		/* zero when the guest gets it */
#define GUEST_MEMORY_NOSCRUB 0x2u	/* left alone when it is given back */

struct guest_memory {
	u64 size;	/* bytes */
	u64 extents;
	u32 first;	/* extents: a list through struct page */
	u32 last;
};

/* -EINVAL: size is 0 or no multiple of 4 KiB, unknown flag. -ENOMEM. On an error *g is empty, and nothing is kept. */
int guest_memory_take(struct guest_memory *g, u64 size, unsigned flags) __must_check;
/* Nothing maps it any more, and that has been flushed. An empty one is fine. */
void guest_memory_give(struct guest_memory *g);

/* The frame behind a guest frame number; PFN_NONE beyond the end. */
pfn_t guest_memory_frame(const struct guest_memory *g, u64 guest_frame);

/* One extent after another: what nested page tables are built from. 2^order frames at guest address gpa. */
typedef void (*guest_extent_fn)(void *arg, u64 gpa, pfn_t pfn, unsigned order);
void guest_memory_each(const struct guest_memory *g, guest_extent_fn visit, void *arg);

#endif
