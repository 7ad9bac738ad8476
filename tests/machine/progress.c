/* SPDX-License-Identifier: MIT */
/*
 * The time left is the mean time of the tests so far times how many are to come: tests differ, so it is "about", and for the first
 * seconds nothing is said. Nothing is measured here that a test or a cost would see: all of it happens between tests.
 */
#include "tests/machine/progress.h"

#include "arch/x86_64/timer.h"
#include "kernel/base/fmt.h"
#include "kernel/fbcon.h"
#include "mm/arch.h"
#include "tests/runner.h"

#define LINE_SIZE 256u
#define SURE_SECONDS 5u	/* before that nothing is said of the time left */
#define SURE_TESTS 5u

static u64 began;	/* arch_cycles() at the first test of a run */

/* As it was at the end of the last run. */
static struct {
	struct test_totals totals;
	char failed[TEST_NAME_MAX];
	char reason[TEST_REASON_MAX];
} last;

static u64 seconds_so_far(void)
{
	return (arch_cycles() - began) / timer_frequency();
}

static const char *say_time(u64 seconds, char *buf, size_t size)
{
	if (seconds < 60)
		fmt_print(buf, size, "%lu s", seconds);
	else if (seconds < 3600)
		fmt_print(buf, size, "%lu min %lu s", seconds / 60, seconds % 60);
	else
		fmt_print(buf, size, "%lu h %lu min", seconds / 3600, seconds / 60 % 60);
	return buf;
}

/* Tens of seconds, then minutes: no more is known. */
static const char *say_left(u64 seconds, char *buf, size_t size)
{
	if (seconds < 60)
		fmt_print(buf, size, "%lu s", (seconds / 10 + 1) * 10);
	else
		fmt_print(buf, size, "%lu min", (seconds + 59) / 60);
	return buf;
}

static void say_progress(const struct test_run *run, const char *next)
{
	char line[LINE_SIZE], text[32];
	u64 now = seconds_so_far();
	u64 done = run->totals.run;
	size_t n;

	n = fmt_print(line, sizeof(line), " test %lu of %u, %u failed, %s gone", done + 1, run->planned, run->totals.failed,
		      say_time(now, text, sizeof(text)));
	if (now >= SURE_SECONDS && done >= SURE_TESTS)
		n += fmt_print(line + n, sizeof(line) - n, ", about %s left",
			       say_left(now * (run->planned - done) / done, text, sizeof(text)));
	fmt_print(line + n, sizeof(line) - n, " | %s", next);
	fbcon_status(line);
}

static void on_progress(const struct test_run *run, const char *next)
{
	char line[LINE_SIZE];

	if (next) {
		if (!run->totals.run)
			began = arch_cycles();
		say_progress(run, next);
		return;
	}
	last.totals = run->totals;
	fmt_print(last.failed, sizeof(last.failed), "%s", run->first_failed);
	fmt_print(last.reason, sizeof(last.reason), "%s", run->first_reason);
	fmt_print(line, sizeof(line), " %u tests done, %u failed", run->totals.run, run->totals.failed);
	fbcon_status(line);
}

void progress_begin(void)
{
	began = arch_cycles();
	test_progress = on_progress;
}

void progress_end(bool pass)
{
	static const char *const words[] = { " the run has passed", " the run has failed", " nothing was tested: all was skipped" };
	enum verdict verdict = !pass ? VERDICT_FAIL : last.totals.passed ? VERDICT_PASS : VERDICT_SKIP;
	char line[LINE_SIZE], failure[LINE_SIZE] = "", text[32];

	if (!last.totals.run)
		return;		/* none was asked for: there is no result */
	fmt_print(line, sizeof(line), "%u tests: %u passed, %u failed, %u skipped, in %s", last.totals.run,
		  last.totals.passed, last.totals.failed, last.totals.skipped,
		  say_time(seconds_so_far(), text, sizeof(text)));
	if (last.failed[0])
		fmt_print(failure, sizeof(failure), "first failure: %s: %s", last.failed, last.reason);
	fbcon_verdict(verdict, line, failure);
	fbcon_status(words[verdict]);
}
