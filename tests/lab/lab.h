/* SPDX-License-Identifier: MIT */
/*
 * The lab: workloads times policies, each from the same start, so that what they do to the direct map can be put
 * side by side. A workload is a row of lab_workloads[] (workloads.c), a mechanism a row of lab_policies[]
 * (policies.c); lab.c says in which memory and under which collapse policy each of them runs (settings[]), makes each
 * crossing a test, and prints `# lab` and `# cost` lines and the table of the summary.
 *
 * A row of the lab:
 *	settled (the leaves of the start, asserted) → memory aged → phase "before" → the workload takes pages, phase
 *	"peak", gives them back → the cache of the mechanism emptied, settle, phase "after" → memory released → leaves
 *	and tables compared
 */
#ifndef TESTS_LAB_LAB_H
#define TESTS_LAB_LAB_H

#include "kernel/base/rng.h"
#include "mm/page.h"
#include "mm/pgtable.h"
#include "mm/unmapped.h"
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

/* What free memory looks like when a row begins. */
enum lab_memory {
	LAB_FRESH,	/* as it is */
	LAB_AGED,	/* single frames at random, just enough of them: no block is free */
	LAB_UNMOVABLE,	/* one frame in eight at random, the others held: plenty, and rarely two that are neighbours */
	LAB_MEMORIES,
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
	enum unmapped_mode cache;		/* of the unmapped cache meanwhile; UNMAPPED_OFF: not used */
};

struct lab_workload {
	const char *name;
	const char *about;
	const u32 *sizes;			/* the n of its rows */
	u32 nr_sizes;
	u32 memories;				/* bit m: it runs in memory m */
	void (*run)(struct lab_run *run);	/* everything given back at its end */
};

enum lab_policy_row {
	LAB_SCATTERED,
	LAB_UNMAPPED_2M,
	LAB_UNMAPPED_1G,
};
extern const struct lab_policy lab_policies[];
extern const struct lab_workload lab_workloads[];
extern const unsigned lab_nr_workloads;

/* One row, while it runs. */
struct lab_run {
	const struct lab_workload *workload;
	const struct lab_policy *policy;
	enum lab_memory memory;
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
 * from the direct map after take; after give it is writable there, or a cache has it). run->pfns[] lists what is held, from slot 0 on.
 */
u32 lab_take(struct lab_run *run, u32 n);		/* returns how many were to be had; less than n is a failure */
bool lab_alias(struct lab_run *run, u32 n);		/* each of the first n */
u32 lab_pairs(struct lab_run *run, u32 n, u32 pairs);	/* random ones of n; returns how many are held afterwards */
void lab_give(struct lab_run *run, u32 n);
/*
 * The words that `# lab` lines of all kinds share: what the direct map is now, and what has happened to it, and to the TLBs, since
 * `before`. Into words, which are returned.
 */
#define LAB_WORDS 480u
const char *lab_map_words(char words[LAB_WORDS], const struct report_state *now, const struct report_state *before);

/* The height of the workload: everything is taken. */
void lab_peak(struct lab_run *run);

/* The table of all rows that have run (RP2). */
void lab_summary(void);

#endif
