/* SPDX-License-Identifier: MIT */
/*
 * The runner behind test_run_all(): a run is a struct, so that the runner can be tested by itself, on planted
 * cases, with its output caught (suite_runner.c). Test authors need tests/test.h only.
 */
#ifndef TESTS_RUNNER_H
#define TESTS_RUNNER_H

#include "tests/test.h"

#define TEST_NAME_MAX 80u	/* of suite.name, the NUL among them */
#define TEST_REASON_MAX 160u
#define TEST_CASES_MAX 2048u	/* of one run */

#define TEST_NONE "none"	/* suite=none */

/* One run. The caller fills the first part; the rest is the runner's. */
struct test_run {
	const struct test_case *const *cases;
	unsigned nr;
	u16 *order;			/* room for nr: the cases in the order they run in */
	const char *globs;		/* NULL or "": all; TEST_NONE: none */
	void (*emit)(const char *line);	/* one line of output, without a newline */
	/* Called before each test with its name, and with NULL at the end; NULL: nobody wants to know. */
	void (*progress)(const struct test_run *run, const char *next);

	unsigned planned;		/* tests */
	char first_failed[TEST_NAME_MAX]; /* suite.name; "": none */
	char first_reason[TEST_REASON_MAX];
	struct test_totals totals;
	unsigned top;			/* results written at the top level so far */
};

/* How many tests the globs choose. */
unsigned test_count(struct test_run *run);

/* Run. Returns the number of failures. Task context; one run inside a test of another one is fine. */
unsigned test_run(struct test_run *run);

/* Whether the first `length` characters of a glob match the whole text. * stands for anything, ? for one
 * character. */
bool test_glob(const char *glob, size_t length, const char *text);

/* Whether the text may be a test's name: [a-z0-9_.-]+, and short enough. */
bool test_name_ok(const char *name);

/* The `progress` of every run that test_run_init() makes. */
extern void (*test_progress)(const struct test_run *run, const char *next);

/* All cases of this program, and a run of those that the globs choose, with results in the log. */
const struct test_case *const *test_case_list(unsigned *nr);
void test_run_init(struct test_run *run, const char *globs);

#endif
