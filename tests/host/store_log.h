/* SPDX-License-Identifier: MIT */
/*
 * Every store into a page table, and the rules about them (SPEC PT3), always checked:
 *
 *  - a leaf becomes a table only when 512 stores into that table have made it map the same frames with the
 *    same attributes, PAT, G, A and D included: the split is that one store;
 *  - a table becomes a leaf only when its entries are that leaf's pieces (A and D aside);
 *  - neither goes by way of an absent entry, unless break-before-make is on (or, for a collapse, the space is
 *    a user's, whose A and D bits ask for it);
 *  - a table is unhooked otherwise only when it is all absent;
 *  - entries that point to tables are permissive.
 *
 * Splits and collapses are counted from the stores alone, by level, and compared with pt_stats.
 */
#ifndef TESTS_HOST_STORE_LOG_H
#define TESTS_HOST_STORE_LOG_H

#include "arch/x86_64/pte.h"
#include "kernel/base/types.h"

struct pt_space;

struct store_record {
	const pte_t *slot;
	u64 va;			/* first address the slot translates */
	pte_t old, new;
	u8 level;
	u64 seq;		/* from 1 */
};

/* Forget everything, tables included. */
void store_log_reset(void);

/* While CPUs are threads: around a store and the call that checks it. Nothing else is done in between. */
void store_log_begin(void);
void store_log_end(void);

/* Check and record one store; called before it is made. */
void store_log_store(const pte_t *slot, pte_t value, unsigned level);

/* First address that the slot translates, from its table's struct page. */
u64 store_log_va(const pte_t *slot, unsigned level);

/* Stores so far. The last STORE_LOG_SIZE of them can be read by number. */
#define STORE_LOG_SIZE 8192u	/* and of each CPU by itself, while they are threads */
u64 store_log_seq(void);
const struct store_record *store_log_at(u64 seq);

/* Splits of and collapses into leaves of a level that the stores were seen to make, in the kernel's space. */
u64 store_log_splits(unsigned level);
u64 store_log_collapses(unsigned level);

/* Compare with pt_stats, for as long as the log runs: a HOST_COUNTERS fault for each difference. */
void store_log_check(void);

#endif
