/* SPDX-License-Identifier: MIT */
/*
 * The stack depot: call stacks, each kept once, under a number of 32 bits (SPEC PA6).
 *
 * Anybody may put one in from any context, in the middle of another who does: the hash table is one of lists that only grow at
 * their heads, by compare-exchange, and the storage behind it is given out by compare-exchange, too. It is of pools of pages that are
 * taken as needed by alloc_pages_nolock(), and never given back until depot_reset(). Nothing in it moves or changes.
 *
 * With each stack go DEPOT_NOTES words that the depot's user counts in.
 */
#ifndef MM_DEPOT_H
#define MM_DEPOT_H

#include "kernel/base/types.h"

#define DEPOT_DEPTH_MAX 16u	/* addresses of a stack */
#define DEPOT_NOTES 4u
#define DEPOT_BUCKETS 1024u
#define DEPOT_POOL_ORDER 2u	/* 16 KiB */
#define DEPOT_POOLS 256u	/* 4 MiB: some 30,000 stacks */

struct depot {
	u32 buckets[DEPOT_BUCKETS];	/* number of the newest stack of each, or 0 */
	void *pools[DEPOT_POOLS];
	u64 tail;			/* what is not given out: pool << 32 | offset */
	u64 frames;			/* of all pools */
	u64 stacks;			/* different ones */
	u64 lost;			/* not taken in: no memory, or it is full */
	u64 spoilt;			/* storage given out twice for one stack that two put in at once */
};

/*
 * The number of a stack, which is put in if it is new; 0: there is no room, counted, or nr is 0. Deeper ones are cut at DEPOT_DEPTH_MAX.
 * Any context.
 */
u32 depot_put(struct depot *depot, const u64 *addresses, unsigned nr);

/*
 * Have memory for `pools` more pools ahead, so that what is put in next takes none. false: not all of it is there. Any context.
 */
bool depot_reserve(struct depot *depot, u32 pools);

/* The stack of a number: how deep it is, 0 if there is none of that number. Any context. */
unsigned depot_get(const struct depot *depot, u32 number, const u64 **addresses);

/* The words of a stack that is there; zero at first. */
u64 *depot_notes(struct depot *depot, u32 number);

/* The numbers of all stacks: from 0 on, the next one; 0: no more. Those put in meanwhile may come or not. */
u32 depot_next(const struct depot *depot, u32 number);

/* Forget all, and give the memory back. Task context; nobody uses it meanwhile. */
void depot_reset(struct depot *depot);

#endif
