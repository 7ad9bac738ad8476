/* SPDX-License-Identifier: MIT */
/*
 * The machines that the hosted tests run on: a table of configurations, and how one is set up. The order is
 * that of kernel/memory.c on a real machine: free ranges, struct page array, page allocator, kernel space,
 * direct map, image, areas.
 */
#ifndef TESTS_HOST_MACHINE_H
#define TESTS_HOST_MACHINE_H

#include "kernel/base/range.h"
#include "kernel/base/types.h"
#include "mm/buddy.h"
#include "tests/host/arch_host.h"

#define MACHINE_RANGES 8u

struct machine {
	const char *name;
	u8 levels;
	u8 max_leaf;
	u8 cpus;
	struct range ram[MACHINE_RANGES];	/* usable, in bytes; an empty one ends the list */
	struct host_type_range types[HOST_TYPES_MAX];
	u32 nr_nodes;		/* 0: no nodes */
	struct node_range nodes[4];	/* RAM in none of them is node 0's; CPU n is of node n modulo nr_nodes */
};

/* The simulated image: text, rodata and data, each in blocks of its own. */
struct machine_image {
	struct range text, rodata, data;	/* physical */
	u64 va;					/* of text; the others follow */
};

extern const struct machine machines[];
extern const unsigned nr_machines;

/* The one that is set up, and its image. */
extern const struct machine *machine;
extern struct machine_image machine_image;

/* Set it up, once in the life of a process. */
void machine_build(const struct machine *m, u64 seed);

/* The node that a frame is of, by the machine's own word. */
unsigned machine_node(pfn_t pfn);

/* Bytes of RAM of a machine. */
u64 machine_memory(const struct machine *m);

/* What the runner asks for after each test: every cache checked, the log compared with the counters. */
void machine_check(void);

/* The full number of random operations was asked for. */
extern bool machine_full;

#endif
