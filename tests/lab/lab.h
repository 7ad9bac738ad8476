/* SPDX-License-Identifier: MIT */
/*
 * The lab: workloads times policies, each from the same start, so that what they do to the direct map can be put
 * side by side. A workload is a row of lab_workloads[] (workloads.c), a mechanism a row of lab_policies[]
 * (policies.c); lab.c crosses them with collapse=off, deferred and eager, makes each crossing a test, and prints
 * `# lab` and `# cost` lines and the table of the summary.
 *
 * A row of the lab:
 *	settled (the leaves of the start, asserted) → memory aged → phase "before" → the workload takes pages, phase
 *	"peak", gives them back → settle, phase "after" → memory released → leaves and tables compared
 */
#ifndef TESTS_LAB_LAB_H
#define TESTS_LAB_LAB_H

#include "kernel/base/rng.h"
#include "mm/page.h"
#include "mm/pgtable.h"
#include "tests/lab/measure.h"
#include "tests/report.h"

enum lab_mode {
	LAB_RUN_OFF,	/* no rows */
	LAB_RUN_SHORT,	/* n up to LAB_SHORT_MAX */
	LAB_RUN_FULL,
	LAB_RUN_MODES,
};
#define LAB_SHORT_MAX 4096u
#define LAB_PAGES_MAX 16384u	/* taken at a time, at most */

/* Set before the tests run. Default: LAB_RUN_FULL. */
extern enum lab_mode lab_mode;
/* From the words off, short, full. False: another word, and nothing is changed. */
bool lab_mode_set(const char *word);
/* Rows with more pages are skipped ; default: LAB_PAGES_MAX, hosted less. */
extern u32 lab_pages_limit;

enum lab_op {
	LAB_TAKE,	/* allocate a frame and take it out of the direct map */
	LAB_ALIAS,	/* vmap, write, vunmap */
	LAB_GIVE,	/* put it back into the direct map and free it */
	LAB_PAIR,	/* give and take */
	LAB_OPS,
};

enum lab_phase {
	LAB_BEFORE,
	LAB_PEAK,
	LAB_AFTER,
	LAB_PHASES,
};

struct lab_run;

/* A mechanism that hands out pages without a mapping in the direct map. */
struct lab_policy {
	const char *name;
	const char *about;			/* one line for the summary */
	struct page *(*take)(void);		/* NULL: no memory */
	int (*give)(struct page *page);		/* 0, or a negative errno: the page is lost */
};

struct lab_workload {
	const char *name;
	const char *about;
	const u32 *sizes;			/* the n of its rows */
	u32 nr_sizes;
	void (*run)(struct lab_run *run);	/* in aged memory; everything given back at its end */
};

extern const struct lab_policy lab_policies[];
extern const unsigned lab_nr_policies;
extern const struct lab_workload lab_workloads[];
extern const unsigned lab_nr_workloads;

/* One row, while it runs. */
struct lab_run {
	const struct lab_workload *workload;
	const struct lab_policy *policy;
	enum pt_collapse_policy collapse;
	u32 n;
	struct rng rng;
	u32 *pfns;		/* room for LAB_PAGES_MAX: the workload's list of what it holds */
	struct samples samples[LAB_OPS];
	struct tlb_stats tlb[LAB_OPS][2];	/* before the first operation and behind the last one */
	struct report_state states[LAB_PHASES];
};

/*
 * For workloads: many operations of one kind, each measured, and checked outside the measured part (a page is absent
 * from the direct map after take, present and writable after give). run->pfns[] lists what is held, from slot 0 on.
 */
u32 lab_take(struct lab_run *run, u32 n);		/* returns how many were to be had; less than n is a failure */
bool lab_alias(struct lab_run *run, u32 n);		/* each of the first n */
u32 lab_pairs(struct lab_run *run, u32 n, u32 pairs);	/* random ones of n; returns how many are held afterwards */
void lab_give(struct lab_run *run, u32 n);
/* The height of the workload: everything is taken. */
void lab_peak(struct lab_run *run);

/* The table of all rows that have run (RP2). */
void lab_summary(void);

#endif
