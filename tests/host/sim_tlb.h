/* SPDX-License-Identifier: MIT */
/*
 * What the virtual CPUs remember of the page tables.
 *
 * Each CPU keeps every translation (leaf) and every entry that points to a table (paging-structure caches)
 * that it ever used, until an invalidation covers it: no capacity, no replacement. Several translations of
 * one address may be kept side by side. Walks start at the root or at any cached table entry, as a processor
 * may (SDM 3A, 4.10.3.2), and set A (and D on writes) in the tables.
 *
 * Invalidation (SDM 3A, 4.10.4.1): INVLPG drops every leaf of any size that translates the address, global
 * ones and those of the current root, and all table entries cached for the current root. Loading CR3 drops
 * what is not global. The full flush drops all.
 *
 * While CPUs are threads each works on its own cache, in steps that are one whole: a walk sees the tables as they are while
 * it lasts, and no flush is lost between its reading and its remembering. The functions that look at all CPUs' caches
 * may then be called for addresses that nobody else changes, by a CPU, which has not answered a shootdown meanwhile: so
 * no table that it walks through is freed under it. sim_check(), sim_probe() and sim_prime() of others: not then.
 */
#ifndef TESTS_HOST_SIM_TLB_H
#define TESTS_HOST_SIM_TLB_H

#include "kernel/base/range.h"
#include "kernel/base/types.h"

enum sim_kind {
	SIM_READ = 0,
	SIM_WRITE = 1,
	SIM_EXEC = 2,
	SIM_USER = 4,	/* flag: from ring 3 */
};

enum sim_fault {
	SIM_OK,
	SIM_ABSENT,	/* #PF, P = 0 */
	SIM_RIGHTS,	/* #PF, P = 1: W, U or NX */
};

struct sim_result {
	enum sim_fault fault;
	u64 pa;		/* SIM_OK */
};

void sim_reset(u32 nr_cpus);

/*
 * One access, as the CPU would make it: through a translation it has (one of them, chosen at random) or a
 * fresh walk. A cached translation that does not allow the access is dropped and walked anew, as a page fault
 * does.
 */
struct sim_result sim_access(u32 cpu, u64 va, unsigned kind);

/* What the tables say now, without any cache. */
struct sim_result sim_expect(u32 cpu, u64 va, unsigned kind);

/*
 * Access va in every kind from every CPU that may, through every translation cached, and compare each with
 * the tables. Returns the number of differences (each also is a HOST_STALE fault).
 */
unsigned sim_probe(u64 va);

/* Have a CPU load the translations of a range, one access per step. */
void sim_prime(u32 cpu, struct range va, u64 step);

void sim_flush_page(u32 cpu, u64 va);
void sim_flush_all(u32 cpu);
void sim_load_root(u32 cpu, u64 old_root);

/* A CPU fills something by itself; va is an address of interest. */
void sim_speculate(u64 va);

/* Whatever the CPU may still reach must not be free: tables by cached entries, frames by leaves. */
void sim_check_reuse(u32 cpu);

/*
 * After a batch: every cached translation of every CPU must say what the tables say. changed: only those that
 * overlap what was stored since the last check. Returns the number of stale ones.
 */
unsigned sim_check(bool changed);

/* A range was stored to (for sim_check(true)). */
void sim_note_change(struct range va);

/* Whether any CPU has a translation of an address in the range. */
bool sim_holds(struct range va);

/*
 * Cached translations of addresses in the range, of all CPUs, that differ from the tables as they are now. No
 * fault.
 */
unsigned sim_stale_in(struct range va);

/* The same, and each is a HOST_STALE fault. For addresses that only the caller changes, all flushed. */
unsigned sim_check_range(struct range va);

/* Translations that a CPU holds now. */
u64 sim_entries(u32 cpu);

#endif
