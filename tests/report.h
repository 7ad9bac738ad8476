/* SPDX-License-Identifier: MIT */
/*
 * What a run says besides its results: the frame (BEGIN, END), counters for programs, and a summary for people
 * (SPEC RP1, RP2). docs/report.md explains every key.
 *
 *	report_begin(&setup);		"KTAP version 1", BEGIN; the machine's state is kept as "before"
 *	test_run_all(globs);		plan and results
 *	report_end();			counters, summary, END. Nothing may be written behind it
 */
#ifndef TESTS_REPORT_H
#define TESTS_REPORT_H

#include "kernel/base/types.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/tlb_batch.h"

/* Whoever builds without a build id may name the build by -DBUILD_VERSION=\"...\". */
#ifndef BUILD_VERSION
#define BUILD_VERSION "unknown"
#endif

struct report_setup {
	const char *build;	/* which program this is: one word; NULL: BUILD_VERSION */
	u32 cpus;
	u64 memory;		/* bytes of RAM */
	u64 seed;
};

/* The figures that are shown before, at the peak and after. */
struct report_state {
	struct directmap_stats map;
	struct tlb_stats tlb;
	u64 direct_tables;	/* frames that are page tables of the direct map */
	u64 other_tables;	/* of the rest of the kernel half */
	u64 free;		/* frames */
};

void report_begin(const struct report_setup *setup);

/* Returns the verdict. */
bool report_end(void);

/* The parts of the end, of how things are now: `# counter` lines, and the tables for people. */
void report_counters(void);
void report_summary(void);

/* Read the state. The direct map should be settled if it is to be compared. */
void report_read(struct report_state *out);

/* As it was at report_begin(). */
const struct report_state *report_before(void);

/* Look whether the direct map has more leaves than ever seen: the summary's "peak". Called by workloads at their height. */
void report_sample(void);

/* After each test: a sample, and a line if leaves were split or put together since the line before. */
void report_test_done(void);

/*
 * What steering was worth to a churn of so many operations, filled in by whoever ran one: blocks of 2 MiB and gigabytes that were ever
 * split, without steering [0] and with it [1]. No operations: nothing is said about it.
 */
struct report_steering {
	u64 operations;
	u64 unmapped;		/* requests that took their frames out of the direct map, each time */
	u64 blocks[2], gigabytes[2];
};
extern struct report_steering report_steering;

/* ---- text ---- */

/* One line that is put together from cells; what does not fit is cut. */
struct report_line {
	char text[480];
	size_t length;
};

void line_add(struct report_line *line, const char *fmt, ...) __printf(2, 3);
/* Right-aligned in width, thousands parted: 1,234,567. */
void line_number(struct report_line *line, unsigned width, u64 value);
/* Write it as a diagnostic, without spaces at its end, and empty it. */
void line_write(struct report_line *line);

#endif
