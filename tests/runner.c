/* SPDX-License-Identifier: MIT */
/*
 * Runs the test cases and writes the results as KTAP 1 (SPEC RP1; the format is that of the kernel's
 * Documentation/dev-tools/ktap.rst): a plan of suites, each a subtest with a plan of its own, indented by two.
 * The version line at the very top is report_begin()'s.
 *
 * A test is announced before it runs, so that a log that ends in the middle of one names it. After each test the
 * machine is compared with how it was before: a test that leaks a frame or leaves the direct map in another
 * shape fails itself, not the next one. Nothing here allocates memory.
 */
#include "tests/runner.h"

#include "kernel/base/atomic.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/account.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/execmem.h"
#include "mm/kmalloc.h"
#include "mm/page_owner.h"
#include "mm/pgtable.h"
#include "mm/pt_audit.h"
#include "mm/unmapped.h"
#include "tests/report.h"

#define LINE_SIZE 256u
#define LEAKS_NAMED 5u	/* call stacks of a leak, with page owner on */
#define NOTES_MAX 12u	/* failed checks of one test that are written out; the rest are counted */

/* The test that runs now. */
struct running {
	const struct test_run *run;
	const struct test_case *tc;
	unsigned row;
	char name[TEST_NAME_MAX];	/* suite.name */
	unsigned checks;		/* by any thread of the test */
	unsigned failed;
	bool skipped;
	char why[TEST_REASON_MAX];	/* it was skipped, or the first check that failed */
};

/* What a test must leave as it found it. */
struct ground {
	cpumask_t online;		/* CPUs */
	u64 free;			/* frames */
	u64 tables;			/* of the direct map */
	struct directmap_stats map;
};

extern const struct test_case *const __start_test_cases[];
extern const struct test_case *const __stop_test_cases[];

struct test_totals test_totals;
u64 test_seed = 1;
void (*test_after)(void);
void (*test_progress)(const struct test_run *run, const char *next);

static struct running *running;
static u64 windows_at_start;	/* registered windows that are always mapped (EFI's) */
static u16 all_order[TEST_CASES_MAX];

static void __printf(2, 3) emitf(const struct test_run *run, const char *fmt, ...)
{
	char line[LINE_SIZE];
	va_list args;

	va_start(args, fmt);
	fmt_vprint(line, sizeof(line), fmt, args);
	va_end(args);
	run->emit(line);
}

/* ---- names and globs ---- */

bool test_glob(const char *glob, size_t length, const char *text)
{
	const char *end = glob + length;
	const char *star = NULL;	/* behind the last * seen */
	const char *retry = NULL;	/* where its text ends, for now */

	while (*text) {
		if (glob < end && *glob == '*') {
			star = ++glob;
			retry = text;
		} else if (glob < end && (*glob == '?' || *glob == *text)) {
			glob++;
			text++;
		} else if (star) {
			glob = star;
			text = ++retry;
		} else {
			return false;
		}
	}
	while (glob < end && *glob == '*')
		glob++;
	return glob == end;
}

bool test_name_ok(const char *name)
{
	size_t n = 0;

	for (; name[n]; n++) {
		char c = name[n];

		if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-'))
			return false;
	}
	return n > 0 && n < TEST_NAME_MAX;
}

static unsigned rows_of(const struct test_case *tc)
{
	return tc->rows ? tc->rows() : 1;
}

/* The name of one row of a case, without its suite. */
static void row_name(const struct test_case *tc, unsigned row, char *buf, size_t size)
{
	if (tc->row_name)
		tc->row_name(row, buf, size);
	else
		fmt_print(buf, size, "%s", tc->name);
}

static bool glob_hits(const char *glob, size_t length, const struct test_case *tc, unsigned row)
{
	char name[TEST_NAME_MAX];
	int prefix;

	if (test_glob(glob, length, tc->suite))
		return true;
	prefix = (int)fmt_print(name, sizeof(name), "%s.", tc->suite);
	row_name(tc, row, name + prefix, sizeof(name) - (size_t)prefix);
	return test_glob(glob, length, name);
}

/* The next glob of a list, from *at on: its length, 0 at the end. */
static size_t next_glob(const char **at)
{
	size_t length = 0;

	while (**at == ',')
		(*at)++;
	while ((*at)[length] && (*at)[length] != ',')
		length++;
	return length;
}

static bool no_globs(const struct test_run *run)
{
	const char *at = run->globs;

	return !at || !next_glob(&at);
}

/* No test was asked for: that is no glob that matches none. */
static bool none_wanted(const struct test_run *run)
{
	return run->globs && strcmp(run->globs, TEST_NONE) == 0;
}

static bool selected(const struct test_run *run, const struct test_case *tc, unsigned row)
{
	const char *at = run->globs;
	size_t length;

	if (none_wanted(run))
		return false;
	if (no_globs(run))
		return true;
	for (; (length = next_glob(&at)); at += length)
		if (glob_hits(at, length, tc, row))
			return true;
	return false;
}

static bool glob_hits_any(const struct test_run *run, const char *glob, size_t length)
{
	if (none_wanted(run))
		return true;
	for (unsigned i = 0; i < run->nr; i++)
		for (unsigned row = 0; row < rows_of(run->cases[i]); row++)
			if (glob_hits(glob, length, run->cases[i], row))
				return true;
	return false;
}

/* ---- order ---- */

static bool runs_before(const struct test_case *a, const struct test_case *b)
{
	unsigned a_last = a->flags & TEST_FIGURES, b_last = b->flags & TEST_FIGURES;
	int files;

	if (a_last != b_last)
		return a_last < b_last;
	files = strcmp(a->file, b->file);
	return files ? files < 0 : a->line < b->line;
}

/* By file and line (Shell's sort): the linker's order depends on the compiler. */
static void sort_cases(struct test_run *run)
{
	for (unsigned i = 0; i < run->nr; i++)
		run->order[i] = (u16)i;
	for (unsigned gap = run->nr / 2; gap; gap /= 2)
		for (unsigned i = gap; i < run->nr; i++) {
			u16 moving = run->order[i];
			unsigned at = i;

			for (; at >= gap && runs_before(run->cases[moving], run->cases[run->order[at - gap]]); at -= gap)
				run->order[at] = run->order[at - gap];
			run->order[at] = moving;
		}
}

static const struct test_case *case_at(const struct test_run *run, unsigned i)
{
	return run->cases[run->order[i]];
}

/* Whether case i is the first one of its suite: a suite may be spread over files. */
static bool opens_suite(const struct test_run *run, unsigned i)
{
	for (unsigned before = 0; before < i; before++)
		if (!strcmp(case_at(run, before)->suite, case_at(run, i)->suite))
			return false;
	return true;
}

static unsigned tests_in_suite(const struct test_run *run, unsigned first)
{
	unsigned n = 0;

	for (unsigned i = first; i < run->nr; i++) {
		const struct test_case *tc = case_at(run, i);

		if (strcmp(tc->suite, case_at(run, first)->suite))
			continue;
		for (unsigned row = 0; row < rows_of(tc); row++)
			n += selected(run, tc, row);
	}
	return n;
}

/* ---- what a test calls ---- */

static void note_failure(const char *fmt, ...) __printf(1, 2);
static void note_failure(const char *fmt, ...)
{
	unsigned n = fetch_add(&running->failed, 1);
	char text[LINE_SIZE];
	va_list args;

	if (n == NOTES_MAX)
		emitf(running->run, "  # %s: more checks failed", running->name);
	if (n >= NOTES_MAX)
		return;
	va_start(args, fmt);
	fmt_vprint(text, sizeof(text), fmt, args);
	va_end(args);
	if (n == 0)
		fmt_print(running->why, sizeof(running->why), "%s", text);
	emitf(running->run, "  # %s: %s", running->name, text);
}

bool test_check(bool ok, const char *what, const char *file, int line)
{
	fetch_add(&running->checks, 1);
	if (!ok)
		note_failure("not true: %s (%s:%d)", what, file, line);
	return ok;
}

bool test_check_eq(u64 got, u64 want, const char *got_text, const char *want_text, const char *file, int line)
{
	fetch_add(&running->checks, 1);
	if (got != want)
		note_failure("%s is %llu (%#llx), not %s = %llu (%#llx) (%s:%d)", got_text,
			     (unsigned long long)got, (unsigned long long)got, want_text,
			     (unsigned long long)want, (unsigned long long)want, file, line);
	return got == want;
}

void test_skip(const char *why, ...)
{
	va_list args;

	running->skipped = true;
	if (running->failed)
		return;
	va_start(args, why);
	fmt_vprint(running->why, sizeof(running->why), why, args);
	va_end(args);
}

void test_note(const char *fmt, ...)
{
	char text[LINE_SIZE];
	va_list args;

	va_start(args, fmt);
	fmt_vprint(text, sizeof(text), fmt, args);
	va_end(args);
	emitf(running->run, "  # %s: %s", running->name, text);
}

unsigned test_row(void)
{
	return running->row;
}

/* FNV-1a over the name, so that a test's sequence does not depend on which tests ran before it. */
struct rng test_rng(void)
{
	u64 hash = 0xcbf29ce484222325ull;

	for (const char *c = running->name; *c; c++)
		hash = (hash ^ (u8)*c) * 0x100000001b3ull;
	return (struct rng){ hash ^ test_seed };
}

/* ---- the checks after each test ---- */

static void read_ground(struct ground *g)
{
	struct page_owner_stats owner;

	unmapped_shrink(UNMAPPED_ALL);
	pt_settle(&kernel_space);
	kmalloc_drain();
	buddy_drain();
	g->online = *arch_cpus_online();
	/* New stacks of callers take storage, and keep it. */
	page_owner_read_stats(&owner);
	g->free = buddy_free_frames() + owner.frames;
	directmap_read_stats(&g->map);
	g->tables = g->map.tables;
}

static void same(const char *what, u64 before, u64 after)
{
	if (before != after)
		note_failure("%s: %llu before, %llu after: %llu %s", what, (unsigned long long)before,
			     (unsigned long long)after,
			     (unsigned long long)(after > before ? after - before : before - after),
			     after > before ? "more" : "less");
}

/*
 * Under collapse=off what was split stays split, and its tables stay in use: the frames must add up, the leaves
 * need not be the same.
 */
static void compare_ground(const struct ground *before)
{
	bool keeps = kernel_space.policy == PT_COLLAPSE_OFF || (running->tc->flags & TEST_KEEPS_MAP);
	struct ground after;

	read_ground(&after);
	for_each_cpu(cpu, &before->online)
		if (!cpumask_has(&after.online, cpu))
			note_failure("CPU %u did not answer in time and was given up", cpu);
	same("free frames and tables of the direct map", before->free + before->tables, after.free + after.tables);
	if (before->free + before->tables > after.free + after.tables)
		page_owner_log(PAGE_OWNER_LEAKS, LEAKS_NAMED);
	if (keeps)
		return;
	same("free frames", before->free, after.free);
	same("direct map, tables", before->tables, after.tables);
	same("direct map, bytes in 4K leaves", before->map.direct_map_4k, after.map.direct_map_4k);
	same("direct map, bytes in 2M leaves", before->map.direct_map_2m, after.map.direct_map_2m);
	same("direct map, bytes in 1G leaves", before->map.direct_map_1g, after.map.direct_map_1g);
}

static void check_machine(void)
{
	struct pt_audit audit;
	unsigned differences = pt_check(&kernel_space);
	u64 violations = pt_audit(&audit);
	unsigned faults = execmem_check();

	if (faults)
		note_failure("execmem_check: %u faults", faults);
	faults = unmapped_check();
	if (faults)
		note_failure("unmapped_check: %u faults", faults);
	faults = kmalloc_check();
	if (faults)
		note_failure("kmalloc_check: %u faults", faults);
	faults = account_check();
	if (faults)
		note_failure("account_check: %u differences between charges and frames in use", faults);
	if (audit.windows != windows_at_start)
		note_failure("pt_audit: %llu pages mapped in registered windows, %llu at the start",
			     (unsigned long long)audit.windows, (unsigned long long)windows_at_start);
	if (differences)
		note_failure("pt_check: %u differences between the tables and what is known of them", differences);
	if (violations)
		note_failure("pt_audit: %llu violations; the first: kind %d in %s at %#llx, entry %#llx",
			     (unsigned long long)violations, (int)audit.first.kind, audit.first.space,
			     (unsigned long long)audit.first.va, (unsigned long long)audit.first.entry);
}

/* Whoever wrote to a free frame shows when the frame is allocated again: perhaps not in the test that did it. */
static void check_poison(u64 hits_before)
{
	if (buddy_poison_hits != hits_before)
		note_failure("%llu frames were written to while they were free, by this test or one before it; see above",
			     (unsigned long long)(buddy_poison_hits - hits_before));
}

/* ---- running ---- */

static void announce(const struct running *r)
{
	const char *ids = r->tc->ids;

	emitf(r->run, "  # running %s%s%s", r->name, ids[0] ? " proves " : "", ids);
}

/* A test fails too if its name would break the log, or if it has checked nothing. */
static void run_case(struct running *r)
{
	bool checks = pt_checks, poison = buddy_watched() & BUDDY_POISON;
	u64 poison_hits = buddy_poison_hits;
	struct account *last_account = account_next(NULL);
	struct ground before;

	announce(r);
	if (!test_name_ok(r->name))
		note_failure("its name is not of [a-z0-9_.-], or longer than %u", TEST_NAME_MAX - 1);
	read_ground(&before);
	page_owner_mark();
	pt_checks = checks || !(r->tc->flags & TEST_FIGURES);
	r->tc->run();
	pt_checks = checks;
	if (poison != !!(buddy_watched() & BUDDY_POISON))
		buddy_watch(BUDDY_POISON, poison);
	if (!r->checks && !r->skipped)
		note_failure("it has checked nothing");
	if (test_after)
		test_after();
	compare_ground(&before);
	if (account_forget_since(last_account))
		note_failure("accounts were left open");
	check_machine();
	check_poison(poison_hits);
}

static void write_result(const struct running *r, unsigned number)
{
	const char *name = r->name + strlen(r->tc->suite) + 1;

	if (r->failed)
		emitf(r->run, "  not ok %u %s", number, name);
	else if (r->skipped)
		emitf(r->run, "  ok %u %s # SKIP %s", number, name, r->why);
	else
		emitf(r->run, "  ok %u %s", number, name);
}

static void count_failure(struct test_run *run, const char *name, const char *why)
{
	if (!run->totals.failed++) {
		fmt_print(run->first_failed, sizeof(run->first_failed), "%s", name);
		fmt_print(run->first_reason, sizeof(run->first_reason), "%s", why);
	}
}

static void run_test(struct test_run *run, const struct test_case *tc, unsigned row, unsigned number)
{
	struct running r = { .run = run, .tc = tc, .row = row };
	struct running *outer = running;
	size_t prefix = fmt_print(r.name, sizeof(r.name), "%s.", tc->suite);

	if (prefix < sizeof(r.name))
		row_name(tc, row, r.name + prefix, sizeof(r.name) - prefix);
	if (run->progress)
		run->progress(run, r.name);
	running = &r;
	run_case(&r);
	running = outer;
	write_result(&r, number);
	if (!outer)
		report_test_done();

	run->totals.run++;
	if (r.failed)
		count_failure(run, r.name, r.why);
	else if (r.skipped)
		run->totals.skipped++;
	else
		run->totals.passed++;
}

static void run_suite(struct test_run *run, unsigned first, unsigned tests)
{
	const char *suite = case_at(run, first)->suite;
	struct test_totals before = run->totals;
	unsigned number = 0;
	bool all_skipped;

	emitf(run, "  KTAP version 1");
	emitf(run, "  # Subtest: %s", suite);
	emitf(run, "  1..%u", tests);
	for (unsigned i = first; i < run->nr; i++) {
		const struct test_case *tc = case_at(run, i);

		if (strcmp(tc->suite, suite))
			continue;
		for (unsigned row = 0; row < rows_of(tc); row++)
			if (selected(run, tc, row))
				run_test(run, tc, row, ++number);
	}
	all_skipped = run->totals.skipped - before.skipped == tests;
	emitf(run, "%s %u %s%s", run->totals.failed == before.failed ? "ok" : "not ok", ++run->top, suite,
	      all_skipped ? " # SKIP every test of it was skipped" : "");
}

/* Each glob that matches no test is a failure of its own, named. */
static void fail_idle_globs(struct test_run *run)
{
	const char *at = run->globs ? run->globs : "";
	char why[TEST_REASON_MAX];
	size_t length;

	for (; (length = next_glob(&at)); at += length) {
		if (glob_hits_any(run, at, length))
			continue;
		fmt_print(why, sizeof(why), "suite=%.*s matches no test", (int)length, at);
		emitf(run, "# %s", why);
		emitf(run, "not ok %u selection", ++run->top);
		run->totals.run++;
		count_failure(run, "selection", why);
	}
}

static unsigned count_idle_globs(const struct test_run *run)
{
	const char *at = run->globs ? run->globs : "";
	unsigned n = 0;
	size_t length;

	for (; (length = next_glob(&at)); at += length)
		n += !glob_hits_any(run, at, length);
	return n;
}

unsigned test_count(struct test_run *run)
{
	unsigned n = 0;

	for (unsigned i = 0; i < run->nr; i++)
		for (unsigned row = 0; row < rows_of(run->cases[i]); row++)
			n += selected(run, run->cases[i], row);
	return n;
}

static void check_free_frames(struct test_run *run)
{
	u64 hits = buddy_poison_hits;

	buddy_check_poison();
	emitf(run, "%s %u free_frames", buddy_poison_hits == hits ? "ok" : "not ok", ++run->top);
	run->totals.run++;
	if (buddy_poison_hits == hits)
		run->totals.passed++;
	else
		count_failure(run, "free_frames", "somebody wrote to free frames");
}

unsigned test_run(struct test_run *run)
{
	struct pt_audit audit;
	bool free_frames;
	unsigned suites = 0;

	if (!running) {
		pt_audit(&audit);
		windows_at_start = audit.windows;
	}
	sort_cases(run);
	run->totals = (struct test_totals){ 0 };
	run->top = run->planned = 0;
	run->first_failed[0] = 0;
	for (unsigned i = 0; i < run->nr; i++) {
		unsigned tests = opens_suite(run, i) ? tests_in_suite(run, i) : 0;

		suites += tests != 0;
		run->planned += tests;
	}

	/* Where free frames hold a pattern: one more result, behind all tests, is whether all of them still do. */
	free_frames = !running && suites && buddy_watched() & BUDDY_POISON;
	run->planned += free_frames;
	emitf(run, "1..%u%s", suites + count_idle_globs(run) + free_frames, none_wanted(run) ? " # SKIP no test was asked for" : "");
	for (unsigned i = 0; i < run->nr; i++) {
		unsigned tests = opens_suite(run, i) ? tests_in_suite(run, i) : 0;

		if (tests)
			run_suite(run, i, tests);
	}
	fail_idle_globs(run);
	if (free_frames)
		check_free_frames(run);
	if (run->progress)
		run->progress(run, NULL);
	return run->totals.failed;
}

static void emit_to_log(const char *line)
{
	log_raw("%s", line);
}

const struct test_case *const *test_case_list(unsigned *nr)
{
	*nr = (unsigned)(__stop_test_cases - __start_test_cases);
	return __start_test_cases;
}

void test_run_init(struct test_run *run, const char *globs)
{
	*run = (struct test_run){ .order = all_order, .globs = globs, .emit = emit_to_log, .progress = test_progress };
	run->cases = test_case_list(&run->nr);
	assert(run->nr <= TEST_CASES_MAX);
}

unsigned test_run_all(const char *globs)
{
	struct test_run run;

	test_run_init(&run, globs);
	test_run(&run);
	test_totals = run.totals;
	return test_totals.failed;
}
