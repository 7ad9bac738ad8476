/* SPDX-License-Identifier: MIT */
/*
 * The workloads, a row each. They are seeded, and give back all they took.
 */
#include "kernel/base/bits.h"
#include "tests/lab/lab.h"

#define CHURN_PAGES 2048u
#define CHURN_PAIRS 20000u

/* n pages one by one; each written through an alias; then all back, in the order they were taken. */
static void run_pages(struct lab_run *run)
{
	u32 taken = lab_take(run, run->n);

	lab_alias(run, taken);
	lab_peak(run);
	lab_give(run, taken);
}

/* n pages; then single ones given back and others taken for them, many times; then all back. */
static void run_churn(struct lab_run *run)
{
	u32 taken = lab_take(run, run->n);

	taken = lab_pairs(run, taken, CHURN_PAIRS);
	lab_peak(run);
	lab_give(run, taken);
}

static const u32 pages_sizes[] = { 1, 64, 512, 4096, LAB_PAGES_MAX };
static const u32 churn_sizes[] = { CHURN_PAGES };
static const u32 unmovable_sizes[] = { 1536 };

const struct lab_workload lab_workloads[] = {
	{ "pages", "n pages are taken one by one, each is written through an alias; all are given back", pages_sizes,
	  ARRAY_SIZE(pages_sizes), BIT(LAB_FRESH) | BIT(LAB_AGED), run_pages },
	{ "churn", "n pages are taken; 20000 times one is given back and another taken; all are given back",
	  churn_sizes, ARRAY_SIZE(churn_sizes), BIT(LAB_FRESH) | BIT(LAB_AGED), run_churn },
	{ "unmovable", "n pages are taken among single pages that stay where they are; all are given back",
	  unmovable_sizes, ARRAY_SIZE(unmovable_sizes), BIT(LAB_UNMOVABLE), run_pages },
};
const unsigned lab_nr_workloads = ARRAY_SIZE(lab_workloads);
