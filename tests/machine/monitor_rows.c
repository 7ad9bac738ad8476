/* SPDX-License-Identifier: MIT */
/* Monitor commands (kernel/monitor.h) that list and run tests, and show the tables of the report. */
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "kernel/monitor.h"
#include "tests/lab/lab.h"
#include "tests/report.h"
#include "tests/runner.h"

#define SUITES_MAX 256u

/* ---- suites ---- */

static const char *suites[SUITES_MAX];	/* by name */
static unsigned nr_suites;

static void add_suite(const char *name)
{
	unsigned at = nr_suites;

	for (unsigned i = 0; i < nr_suites; i++)
		if (strcmp(suites[i], name) == 0)
			return;
	if (nr_suites == SUITES_MAX)
		return;
	for (nr_suites++; at && strcmp(suites[at - 1], name) > 0; at--)
		suites[at] = suites[at - 1];
	suites[at] = name;
}

static void find_suites(void)
{
	const struct test_case *const *cases;
	unsigned nr;

	if (nr_suites)
		return;
	cases = test_case_list(&nr);
	for (unsigned i = 0; i < nr; i++)
		add_suite(cases[i]->suite);
}

static void show_suites(void)
{
	struct report_line line = { .length = 0 };
	struct test_run run;
	unsigned tests = 0;

	find_suites();
	for (unsigned i = 0; i < nr_suites; i++) {
		unsigned n;

		test_run_init(&run, suites[i]);
		n = test_count(&run);
		tests += n;
		line_add(&line, "%-20s%5u   ", suites[i], n);
		if (i % 3 == 2 || i + 1 == nr_suites)
			line_write(&line);
	}
	log_info("%u suites, %u tests", nr_suites, tests);
}

MONITOR_COMMAND(suites) = { "suites", "", "suites, and how many tests are in each", .show = show_suites };

/* ---- run ---- */

static const struct {
	const char *word;
	enum lab_mode mode;
} lab_words[] = { { "lab=off", LAB_RUN_OFF }, { "lab=short", LAB_RUN_SHORT }, { "lab=full", LAB_RUN_FULL } };

/* seed=N, lab=WORD: for this run. */
static bool take_option(const char *text)
{
	if (strncmp(text, "seed=", 5) == 0) {
		if (cmdline_number(text + 5, &test_seed))
			return true;
		monitor_error("run: \"%.64s\" is no seed: a number, decimal or 0x and hexadecimal", text + 5);
		return false;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(lab_words); i++) {
		if (strcmp(text, lab_words[i].word) == 0) {
			lab_mode = lab_words[i].mode;
			return true;
		}
	}
	monitor_error("run: \"%.64s\" is neither seed=N nor lab=off, lab=short or lab=full", text);
	return false;
}

static void run_globs(const char *globs)
{
	struct test_run run;

	test_run_init(&run, globs);
	if (!test_count(&run)) {
		monitor_error("run: \"%.64s\" matches no test (suites lists them)", globs);
		return;
	}
	test_run(&run);
	log_info("run of %s, seed=%lu: %s, %u passed, %u failed, %u skipped", globs, test_seed, run.totals.failed ? "FAIL" : "pass",
		 run.totals.passed, run.totals.failed, run.totals.skipped);
}

static void run_run(unsigned nr, char **args)
{
	u64 seed = test_seed;
	enum lab_mode mode = lab_mode;
	bool good = true;

	for (unsigned i = 1; good && i < nr; i++)
		good = take_option(args[i]);
	if (good)
		run_globs(args[0]);
	test_seed = seed;
	lab_mode = mode;
}

static const char *run_word(unsigned arg, unsigned i)
{
	find_suites();
	if (!arg)
		return i < nr_suites ? suites[i] : NULL;
	if (!i)
		return "seed=";
	return i <= ARRAY_SIZE(lab_words) ? lab_words[i - 1].word : NULL;
}

MONITOR_COMMAND(run) = { "run", "GLOB [seed=N] [lab=WORD]", "run tests",
			 .more = "GLOB: suites or tests, like fmt or tlb*,fmt.integers. lab=off, short or full.\n"
				 "Results are KTAP, as in the log of the run, whose verdict and counts stay.",
			 .min = 1, .max = 3, .run = run_run, .word = run_word };

/* ---- The report's tables ---- */

MONITOR_COMMAND(stats) = { "stats", "", "the counters of the report (docs/report.md)", .show = report_counters };

MONITOR_COMMAND(report) = { "report", "", "the report's tables; at the end means now", .show = report_summary };
