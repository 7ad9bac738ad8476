/* SPDX-License-Identifier: MIT */
/*
 * The runner, tested by itself: planted cases run in a run of their own, whose output is caught and
 * compared. A test that should fail and is reported as passed would make every other result worthless.
 */
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/account.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/execmem_internal.h"
#include "mm/pgtable.h"
#include "mm/pt_audit.h"
#include "tests/fixture.h"
#include "tests/runner.h"
#include "tests/test.h"

#define OUTPUT_SIZE 4096u
#define CASES_MAX 16u

static char output[OUTPUT_SIZE];	/* lines of the planted run, each ended by a newline */
static size_t output_length;
static struct page *leaked;
static unsigned order_seen[4];
static unsigned nr_order_seen;

static void catch_line(const char *line)
{
	output_length += fmt_print(output + output_length, sizeof(output) - output_length, "%s\n", line);
	output_length = MIN(output_length, sizeof(output) - 1);
}

/* ---- planted cases ---- */

static void planted_pass(void)
{
	CHECK(true);
}

static void planted_fail(void)
{
	test_check(false, "x > y", "planted.c", 7);
	test_check_eq(3, 4, "x", "y", "planted.c", 8);
}

static void planted_stop(void)
{
	REQUIRE(false);
	order_seen[0] = 99;
}

static void planted_skip(void)
{
	SKIP("no %s here", "unicorn");
}

static void planted_fail_then_skip(void)
{
	CHECK(false);
	SKIP("too late");
}

static void planted_nothing(void)
{
}

static void planted_leak(void)
{
	leaked = alloc_page(0);
	CHECK(leaked != NULL);
}

static void planted_unmap(void)
{
	leaked = alloc_page(0);
	if (CHECK(leaked != NULL))
		CHECK_EQ(set_direct_map_invalid(page_to_pfn(leaked), 1), 0);
}

static void planted_many(void)
{
	for (unsigned i = 0; i < 100; i++)
		CHECK(false);
}

static void planted_order(void)
{
	CHECK(nr_order_seen < ARRAY_SIZE(order_seen));
	order_seen[nr_order_seen++] = test_row();
}

static unsigned three_rows(void)
{
	return 3;
}

static void name_rows(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "row-%u", row);
}

#define PLANTED_CASE(suite, name, line, run) { suite, name, "", "planted.c", line, run, 0, NULL, NULL }

/* What a run told of itself: "done of planned: next" each time, and at the end its first failure. */
static char progress[512];
static size_t progress_length;

static void catch_progress(const struct test_run *run, const char *next)
{
	char *at = progress + progress_length;
	size_t room = sizeof(progress) - progress_length;

	if (next)
		progress_length += fmt_print(at, room, "%u of %u: %s\n", run->totals.run, run->planned, next);
	else
		progress_length += fmt_print(at, room, "%u failed: %s: %s\n", run->totals.failed, run->first_failed,
					     run->first_reason);
}

/* Run planted cases. The output is in output[]. */
static unsigned run_planted(const struct test_case *planted, unsigned nr, const char *globs, struct test_totals *totals)
{
	static const struct test_case *pointers[CASES_MAX];
	static u16 order[CASES_MAX];
	struct test_run run = { .cases = pointers, .nr = nr, .order = order, .globs = globs, .emit = catch_line,
				.progress = catch_progress };
	unsigned failed;

	for (unsigned i = 0; i < nr; i++)
		pointers[i] = &planted[i];
	memset(output, 0, sizeof(output));
	output_length = progress_length = 0;
	nr_order_seen = 0;
	failed = test_run(&run);
	if (totals)
		*totals = run.totals;
	return failed;
}

/* The runner compares leaves only where they come back: under another policy than collapse=off. */
static enum pt_collapse_policy collapse_eagerly(void)
{
	enum pt_collapse_policy policy = kernel_space.policy;

	pt_set_policy(&kernel_space, PT_COLLAPSE_EAGER);
	return policy;
}

/* Whether the output has this text. */
static bool said(const char *text)
{
	size_t length = strlen(text);

	for (const char *at = output; *at; at++)
		if (!strncmp(at, text, length))
			return true;
	return false;
}

/* ---- tests ---- */

TEST_ID(runner, output_is_the_expected_ktap, "RP1")
{
	static const struct test_case planted[] = {
		PLANTED_CASE("b", "fails", 40, planted_fail),
		PLANTED_CASE("a", "passes", 30, planted_pass),
		PLANTED_CASE("b", "is_skipped", 20, planted_skip),
		PLANTED_CASE("c", "is_skipped", 50, planted_skip),
	};
	static const char want[] =
		"1..3\n"
		"  KTAP version 1\n  # Subtest: b\n  1..2\n"
		"  # running b.is_skipped\n  ok 1 is_skipped # SKIP no unicorn here\n"
		"  # running b.fails\n"
		"  # b.fails: not true: x > y (planted.c:7)\n"
		"  # b.fails: x is 3 (0x3), not y = 4 (0x4) (planted.c:8)\n"
		"  not ok 2 fails\nnot ok 1 b\n"
		"  KTAP version 1\n  # Subtest: a\n  1..1\n  # running a.passes\n  ok 1 passes\nok 2 a\n"
		"  KTAP version 1\n  # Subtest: c\n  1..1\n  # running c.is_skipped\n"
		"  ok 1 is_skipped # SKIP no unicorn here\nok 3 c # SKIP every test of it was skipped\n";
	struct test_totals totals;
	size_t at = 0;

	CHECK_EQ(run_planted(planted, ARRAY_SIZE(planted), NULL, &totals), 1);
	while (want[at] && want[at] == output[at])
		at++;
	CHECK_EQ(output[at], want[at]);		/* where they part: see the text */
	if (want[at])
		test_note("expected from there: %.60s", want + at);
	CHECK_EQ(totals.run, 4);
	CHECK_EQ(totals.passed, 1);
	CHECK_EQ(totals.failed, 1);
	CHECK_EQ(totals.skipped, 2);
}

TEST_ID(runner, progress_is_told, "BT6")
{
	static const struct test_case planted[] = {
		PLANTED_CASE("a", "passes", 10, planted_pass),
		PLANTED_CASE("a", "fails", 20, planted_fail),
		PLANTED_CASE("b", "skips", 30, planted_fail_then_skip),
	};
	static const char reason_stays[] = "0 of 1: b.skips\n1 failed: b.skips: not true: false (";

	CHECK_EQ(run_planted(planted, ARRAY_SIZE(planted), NULL, NULL), 2);
	CHECK(!strcmp(progress, "0 of 3: a.passes\n1 of 3: a.fails\n2 of 3: b.skips\n"
				"2 failed: a.fails: not true: x > y (planted.c:7)\n"));
	CHECK_EQ(run_planted(planted, ARRAY_SIZE(planted), "b", NULL), 1);
	CHECK(!strncmp(progress, reason_stays, strlen(reason_stays)));
	CHECK_EQ(run_planted(planted, ARRAY_SIZE(planted), "a.passes,nix", NULL), 1);
	CHECK(!strcmp(progress, "0 of 1: a.passes\n1 failed: selection: suite=nix matches no test\n"));
	CHECK_EQ(run_planted(planted, 1, NULL, NULL), 0);
	CHECK(!strcmp(progress, "0 of 1: a.passes\n0 failed: : \n"));
}

TEST_ID(runner, require_ends_the_test, "RP1")
{
	static const struct test_case planted[] = { PLANTED_CASE("a", "stops", 1, planted_stop) };

	order_seen[0] = 0;
	CHECK_EQ(run_planted(planted, 1, NULL, NULL), 1);
	CHECK_EQ(order_seen[0], 0);
	CHECK(said("not ok 1 stops"));
}

TEST_ID(runner, skip_does_not_hide_a_failure, "RP1")
{
	static const struct test_case planted[] = { PLANTED_CASE("a", "skips", 1, planted_fail_then_skip) };

	CHECK_EQ(run_planted(planted, 1, NULL, NULL), 1);
	CHECK(said("  not ok 1 skips\n"));
}

TEST_ID(runner, test_without_checks_fails, "RP1")
{
	static const struct test_case planted[] = { PLANTED_CASE("a", "idle", 1, planted_nothing) };

	CHECK_EQ(run_planted(planted, 1, NULL, NULL), 1);
	CHECK(said("a.idle: it has checked nothing"));
}

TEST_ID(runner, bad_name_fails, "RP1")
{
	static const struct test_case planted[] = { PLANTED_CASE("a", "Upper", 1, planted_pass) };

	CHECK_EQ(run_planted(planted, 1, NULL, NULL), 1);
	CHECK(said("its name is not of"));
	CHECK(test_name_ok("suite_x.a-b.9"));
	CHECK(!test_name_ok(""));
	CHECK(!test_name_ok("a b"));
	CHECK(!test_name_ok("a/b"));
}

TEST(runner, leak_fails_the_test_that_leaks)
{
	static const struct test_case planted[] = {
		PLANTED_CASE("a", "leaks", 1, planted_leak),
		PLANTED_CASE("a", "behind", 2, planted_pass),
	};
	enum pt_collapse_policy policy = collapse_eagerly();

	CHECK_EQ(run_planted(planted, 2, NULL, NULL), 1);
	CHECK(said("a.leaks: free frames:"));
	CHECK(said(": 1 less\n"));
	CHECK(said("  not ok 1 leaks\n"));
	CHECK(said("  ok 2 behind\n"));
	free_page(leaked);
	pt_set_policy(&kernel_space, policy);
}

TEST_ID(runner, changed_direct_map_fails_the_test, "PT6")
{
	static const struct test_case planted[] = { PLANTED_CASE("a", "unmaps", 1, planted_unmap) };
	enum pt_collapse_policy policy = collapse_eagerly();

	CHECK_EQ(run_planted(planted, 1, NULL, NULL), 1);
	CHECK(said("a.unmaps: direct map, bytes in 4K leaves:"));
	CHECK_EQ(set_direct_map_default(page_to_pfn(leaked), 1), 0);
	free_page(leaked);
	pt_set_policy(&kernel_space, policy);
}

/* A table that says of itself what is not true: pt_check() sees it, and the runner asks pt_check(). */
TEST_ID(runner, damaged_table_fails_the_test, "PT6")
{
	static const struct test_case planted[] = { PLANTED_CASE("a", "passes", 1, planted_pass) };
	struct page *root = phys_to_page(kernel_space.root);

	root->breaks++;
	CHECK_EQ(run_planted(planted, 1, NULL, NULL), 1);
	root->breaks--;
	CHECK(said("a.passes: pt_check:"));
	CHECK_EQ(run_planted(planted, 1, NULL, NULL), 0);
}

static void planted_open_account(void)
{
	static struct account left;

	CHECK_EQ(account_open(&left, "left", NULL, 10), 0);
}

/* A charge that no frame stands for, made before the case runs; and an account that a case does not close, which is then forgotten. */
TEST_ID(runner, accounts_that_do_not_add_up_fail_the_test, "PA5")
{
	static const struct test_case passes[] = { PLANTED_CASE("a", "passes", 1, planted_pass) };
	static const struct test_case leaves[] = { PLANTED_CASE("a", "leaves", 1, planted_open_account) };
	u64 warnings = log_warnings;
	struct account a;

	CHECK_EQ(account_open(&a, "runner", NULL, 100), 0);
	CHECK_EQ(account_charge(&a, 3), 0);
	CHECK_EQ(run_planted(passes, 1, NULL, NULL), 1);
	CHECK(said("a.passes: account_check: 1 differences"));
	account_uncharge(&a, 3);
	CHECK_EQ(run_planted(passes, 1, NULL, NULL), 0);
	account_drain();
	CHECK_EQ(run_planted(leaves, 1, NULL, NULL), 1);
	CHECK(said("a.leaves: accounts were left open"));
	CHECK(account_next(NULL) == &a);
	CHECK_EQ(account_close(&a), 0);
	log_warnings = warnings;
}

/* A window that stays open is no violation to the audit; the runner wants as many as there were at the start. */
TEST_ID(runner, window_left_open_fails_the_test, "PT5 XM2")
{
	static const struct test_case planted[] = { PLANTED_CASE("a", "passes", 1, planted_pass) };
	struct fixture_area area;
	struct range page;

	if (!(arch_mm.pte_mask & PTE_NX))
		SKIP("no NX");
	REQUIRE(fixture_area_get(&area, PAGE_SIZE, PAGE_SIZE));
	page = range_len(area.va, PAGE_SIZE);
	CHECK_EQ(fixture_change(PT_OP_MAP, page, fixture_nowhere(), fixture_attrs(), 0), 0);
	CHECK_EQ(pt_audit_window_add(&kernel_space, page), 0);
	CHECK_EQ(run_planted(planted, 1, NULL, NULL), 1);
	CHECK(said("a.passes: pt_audit: "));
	CHECK(said(" mapped in registered windows, "));
	pt_audit_window_remove(&kernel_space, page);
	CHECK_EQ(run_planted(planted, 1, NULL, NULL), 0);
	fixture_area_put(&area);
}

/* Executable memory that says of itself what is not true. */
TEST_ID(runner, damaged_execmem_fails_the_test, "XM1")
{
	static const struct test_case planted[] = { PLANTED_CASE("a", "passes", 1, planted_pass) };
	u64 warnings = log_warnings;

	execmem.live++;
	CHECK_EQ(run_planted(planted, 1, NULL, NULL), 1);
	execmem.live--;
	CHECK(said("a.passes: execmem_check: 1 faults"));
	CHECK_EQ(run_planted(planted, 1, NULL, NULL), 0);
	log_warnings = warnings;
}

TEST(runner, failures_are_written_out_up_to_a_bound)
{
	static const struct test_case planted[] = { PLANTED_CASE("a", "many", 1, planted_many) };
	unsigned lines = 0;

	CHECK_EQ(run_planted(planted, 1, NULL, NULL), 1);
	for (const char *c = output; *c; c++)
		lines += *c == '\n';
	CHECK(lines < 24);
	CHECK(said("a.many: more checks failed"));
}

TEST(runner, cases_run_by_line_and_rows_in_order)
{
	static const struct test_case planted[] = {
		{ "a", "rows", "", "planted.c", 9, planted_order, 0, three_rows, name_rows },
		PLANTED_CASE("a", "passes", 3, planted_pass),
		{ "z", "late", "", "early.c", 1, planted_pass, TEST_FIGURES, NULL, NULL },
	};

	CHECK_EQ(run_planted(planted, 3, NULL, NULL), 0);
	CHECK(said("  1..4\n  # running a.passes\n  ok 1 passes\n  # running a.row-0\n  ok 2 row-0\n"));
	CHECK_EQ(nr_order_seen, 3);
	for (unsigned i = 0; i < 3; i++)
		CHECK_EQ(order_seen[i], i);
	CHECK(said("ok 1 a\n  KTAP version 1\n  # Subtest: z\n"));
}

TEST_ID(runner, globs_select_suites_tests_and_rows, "RP1")
{
	static const struct test_case planted[] = {
		PLANTED_CASE("alpha", "one", 1, planted_pass),
		PLANTED_CASE("alpha", "two", 2, planted_pass),
		PLANTED_CASE("beta", "one", 3, planted_pass),
		{ "beta", "rows", "", "planted.c", 4, planted_order, 0, three_rows, name_rows },
	};
	static const struct {
		const char *globs;
		unsigned tests;
	} rows[] = {
		{ "", 6 }, { ",", 6 }, { "alpha", 2 }, { "al*", 2 }, { "*.one", 2 }, { "alpha.two", 1 },
		{ "alpha.two,beta.row-1", 2 }, { "beta.row-?", 3 }, { "*", 6 }, { "alpha,,alpha.one", 2 },
	};
	struct test_totals totals;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		CHECK_EQ(run_planted(planted, ARRAY_SIZE(planted), rows[i].globs, &totals), 0);
		CHECK_EQ(totals.run, rows[i].tests);
	}
}

TEST_ID(runner, glob_without_a_match_fails_and_is_named, "RP1")
{
	static const struct test_case planted[] = { PLANTED_CASE("a", "passes", 1, planted_pass) };
	struct test_totals totals;

	CHECK_EQ(run_planted(planted, 1, "a,nosuch*,a.passe", &totals), 2);
	CHECK(said("1..3\n"));
	CHECK(said("ok 1 a\n# suite=nosuch* matches no test\nnot ok 2 selection\n# suite=a.passe matches"));
	CHECK_EQ(totals.run, 3);
	CHECK_EQ(totals.passed, 1);
	CHECK_EQ(totals.failed, 2);
}

/* suite=none is no glob without a match, and passes; among others it is a glob like any. */
TEST_ID(runner, none_runs_nothing, "RP1")
{
	static const struct test_case planted[] = { PLANTED_CASE("a", "fails", 1, planted_fail) };
	struct test_totals totals;

	CHECK_EQ(run_planted(planted, 1, TEST_NONE, &totals), 0);
	CHECK(strcmp(output, "1..0 # SKIP no test was asked for\n") == 0);
	CHECK_EQ(totals.run, 0);
	CHECK_EQ(run_planted(planted, 1, "none,a", &totals), 2);
	CHECK(said("# suite=none matches no test"));
}

TEST(runner, glob_matching)
{
	static const struct {
		const char *glob, *text;
		bool match;
	} rows[] = {
		{ "abc", "abc", true }, { "abc", "abcd", false }, { "abcd", "abc", false }, { "", "", true },
		{ "", "a", false }, { "*", "", true }, { "*", "abc", true }, { "a*c", "abc", true },
		{ "a*c", "ac", true }, { "a*c", "abcb", false }, { "a?c", "abc", true }, { "a?c", "ac", false },
		{ "*b*", "abc", true }, { "*b*", "ac", false }, { "a*b*c", "axxbyyc", true },
		{ "*ab", "aab", true }, { "**", "x", true }, { "?", "", false }, { "a*a", "a", false },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		CHECK_EQ(test_glob(rows[i].glob, strlen(rows[i].glob), rows[i].text), rows[i].match);
	CHECK(test_glob("abc,def", 3, "abc"));
}

TEST_ID(runner, every_name_is_well_formed_and_unique, "RP1")
{
	unsigned nr;
	const struct test_case *const *cases = test_case_list(&nr);

	REQUIRE(nr > 0 && nr <= TEST_CASES_MAX);
	for (unsigned i = 0; i < nr; i++) {
		if (!CHECK(test_name_ok(cases[i]->suite) && test_name_ok(cases[i]->name)))
			test_note("file=%s line=%d", cases[i]->file, cases[i]->line);
		for (unsigned k = 0; k < i; k++)
			if (!CHECK(strcmp(cases[i]->suite, cases[k]->suite) || strcmp(cases[i]->name, cases[k]->name)))
				test_note("twice=%s.%s", cases[i]->suite, cases[i]->name);
	}
}

TEST(runner, sequences_are_seeded_by_name)
{
	struct rng a = test_rng(), b = test_rng();
	u64 seed = test_seed;
	struct rng other;

	CHECK_EQ(rng_next(&a), rng_next(&b));
	test_seed = seed + 1;
	other = test_rng();
	test_seed = seed;
	CHECK(other.state != a.state && rng_next(&other) != rng_next(&a));
}
