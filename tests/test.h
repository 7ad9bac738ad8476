/* SPDX-License-Identifier: MIT */
/*
 * How a test is written.
 *
 *	TEST(directmap, split_keeps_pat)	one behaviour, named suite.name
 *	{
 *		CHECK(x == y);			failure is noted, the test goes on
 *		CHECK_EQ(got, want);		the same, and both values are in the log
 *		REQUIRE(p != NULL);		failure is noted, and the test ends here
 *		SKIP("no 1G leaves");		not possible on this machine, with the reason
 *	}
 *
 * TEST_ID(pgtable, x, "PT3 PT4") names the requirements of SPEC it proves. The same suite_*.c run in QEMU and, where they touch
 * nothing but mm/, hosted. After each test the runner checks: free frames as before (with per-CPU lists drained),
 * the direct map's leaves and tables as before, pt_check() and pt_audit() clean, accounts charged what is in use of them and closed, no free frame found that somebody wrote to. A test
 * that looks at what free frames hold switches BUDDY_POISON off; the runner sees to it that the next one finds it as before.
 * A test that ends without a single check fails: it proves nothing.
 *
 * A test's name is [a-z0-9_.-]+. Cases are pointers in the section `test_cases`, sorted by file and line.
 *
 * TEST_ROWS(lab, rows, "PT4", 0, count, name) is a test that runs once per row of a table, each under a name of its
 * own: suite.<what name() writes>. Inside, test_row() is the number of the row.
 */
#ifndef TESTS_TEST_H
#define TESTS_TEST_H

#include "kernel/base/rng.h"
#include "kernel/base/types.h"

struct test_case {
	const char *suite;
	const char *name;
	const char *ids;	/* requirements of SPEC, parted by spaces; may be "" */
	const char *file;
	int line;
	void (*run)(void);
	unsigned flags;
	/* A test of many rows: how many, and the name of each (rows from 0). Both NULL: a plain test. */
	unsigned (*rows)(void);
	void (*row_name)(unsigned row, char *buf, size_t size);
};

#define TEST_KEEPS_MAP 0x1u	/* flags: leaves of the direct map may differ afterwards (lab rows under collapse=off
				   restore it themselves) */
#define TEST_FIGURES 0x2u	/* flags: measures. Runs behind all others, with the checks of each store (pt_checks) off,
				   which are on in every other test */

#define TEST_CASE(suite_, name_, ids_, flags_, rows_, row_name_)                                             \
	static void test_##suite_##_##name_(void);                                                           \
	static const struct test_case case_##suite_##_##name_ = {                                            \
		#suite_, #name_, ids_, __FILE__, __LINE__, test_##suite_##_##name_, flags_, rows_, row_name_ \
	};                                                                                                   \
	static const struct test_case *const case_p_##suite_##_##name_ __used __section("test_cases") =     \
		&case_##suite_##_##name_;                                                                    \
	static void test_##suite_##_##name_(void)

#define TEST_FLAGS(suite_, name_, ids_, flags_) TEST_CASE(suite_, name_, ids_, flags_, NULL, NULL)
#define TEST_ROWS(suite_, name_, ids_, flags_, rows_, row_name_) \
	TEST_CASE(suite_, name_, ids_, flags_, rows_, row_name_)
#define TEST_ID(suite_, name_, ids_) TEST_FLAGS(suite_, name_, ids_, 0)
#define TEST(suite_, name_) TEST_ID(suite_, name_, "")

#define CHECK(cond) test_check((cond), #cond, __FILE__, __LINE__)
#define CHECK_EQ(got, want) test_check_eq((u64)(got), (u64)(want), #got, #want, __FILE__, __LINE__)
#define REQUIRE(cond)                                                     \
	do {                                                              \
		if (!test_check((cond), #cond, __FILE__, __LINE__))       \
			return;                                           \
	} while (0)
#define SKIP(...)                      \
	do {                           \
		test_skip(__VA_ARGS__); \
		return;                \
	} while (0)

bool test_check(bool ok, const char *what, const char *file, int line);
bool test_check_eq(u64 got, u64 want, const char *got_text, const char *want_text, const char *file, int line);
void test_skip(const char *why, ...) __printf(1, 2);
/* One diagnostic line below the test that runs: key=value words (RP1). */
void test_note(const char *fmt, ...) __printf(1, 2);

/* Called at the end of each test, if set: checks of the machine that the tests run on (hosted). It may CHECK(). */
extern void (*test_after)(void);

/* The row that runs, of a TEST_ROWS. */
unsigned test_row(void);

/* Seeded from `seed=` and the test's name: the same on every run with the same seed. */
struct rng test_rng(void);

/*
 * tests/runner.c. Run the tests whose suite, or suite.name, matches one of the globs (comma-separated, with
 * * and ?; NULL or "": all). The counts are of tests; passed + failed + skipped = run.
 */
struct test_totals {
	unsigned run, passed, failed, skipped;
};
extern struct test_totals test_totals;
extern u64 test_seed;
/* Returns the number of failures; a glob that matches no test is one. */
unsigned test_run_all(const char *globs);

#endif
