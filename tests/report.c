/* SPDX-License-Identifier: MIT */
/*
 * The report. Figures are read from the same counters that the tests compare with fresh walks (PT6); nothing
 * is computed here but differences and percentages.
 */
#include "tests/report.h"

#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/pgtable.h"
#include "tests/lab/code.h"
#include "tests/lab/cpus.h"
#include "tests/lab/lab.h"
#include "tests/test.h"

static struct report_state before, peak, after;
static struct report_state last;	/* of which a map line was written */
static struct buddy_stats buddy_before;
static u64 most_leaves;		/* since then */
static unsigned tests_done, peak_tests;
static bool begun;
struct report_steering report_steering;

#define ULL(x) ((unsigned long long)(x))

/* ---- lines ---- */

void line_add(struct report_line *line, const char *fmt, ...)
{
	size_t room = sizeof(line->text) - line->length;
	size_t length;
	va_list args;

	va_start(args, fmt);
	length = fmt_vprint(line->text + line->length, room, fmt, args);
	va_end(args);
	line->length += MIN(length, room - 1);
}

void line_number(struct report_line *line, unsigned width, u64 value)
{
	char digits[32], text[32];
	size_t n = fmt_print(digits, sizeof(digits), "%llu", ULL(value));
	size_t out = 0;

	for (size_t i = 0; i < n; i++) {
		if (i && (n - i) % 3 == 0)
			text[out++] = ',';
		text[out++] = digits[i];
	}
	text[out] = 0;
	line_add(line, "%*s", (int)width, text);
}

void line_write(struct report_line *line)
{
	while (line->length && line->text[line->length - 1] == ' ')
		line->length--;
	line->text[line->length] = 0;
	log_info("%s", line->text);
	line->length = 0;
}

/* ---- state ---- */

void report_read(struct report_state *out)
{
	directmap_read_stats(&out->map);
	tlb_read_stats(&out->tlb);
	out->direct_tables = kernel_space.stats[PT_DIRECT].tables;
	out->other_tables = kernel_space.stats[PT_OTHER].tables;
	out->free = buddy_free_frames();
}

const struct report_state *report_before(void)
{
	return &before;
}

void report_sample(void)
{
	const u64 *n = kernel_space.stats[PT_DIRECT].leaves;
	u64 leaves = n[PT_4K] + n[PT_2M] + n[PT_1G];

	most_leaves = MAX(most_leaves, leaves);
	if (!begun || leaves <= peak.map.leaves)
		return;
	report_read(&peak);
	peak_tests = tests_done;
}

/* ---- the direct map over the run: lines for programs ---- */

static void write_map(const char *phase, unsigned tests, const struct report_state *s)
{
	const struct directmap_stats *m = &s->map;

	log_info("map phase=%s tests=%u leaves_4k=%llu leaves_2m=%llu leaves_1g=%llu fewest=%llu most=%llu tables=%llu "
		 "level2_splits=%llu level3_splits=%llu level2_collapses=%llu level3_collapses=%llu", phase, tests,
		 ULL(m->direct_map_4k / (4 * KIB)), ULL(m->direct_map_2m / (2 * MIB)), ULL(m->direct_map_1g / GIB),
		 ULL(m->fewest_leaves), ULL(MAX(most_leaves, m->leaves)), ULL(s->direct_tables),
		 ULL(m->direct_map_level2_splits), ULL(m->direct_map_level3_splits),
		 ULL(m->direct_map_level2_collapses), ULL(m->direct_map_level3_collapses));
	last = *s;
	most_leaves = 0;
}

static bool same_events(const struct pt_stats *now, const struct directmap_stats *then)
{
	return now->splits[PT_2M] == then->direct_map_level2_splits &&
	       now->splits[PT_1G] == then->direct_map_level3_splits &&
	       now->collapses[PT_2M] == then->direct_map_level2_collapses &&
	       now->collapses[PT_1G] == then->direct_map_level3_collapses;
}

void report_test_done(void)
{
	struct report_state now;

	if (!begun)
		return;
	tests_done++;
	report_sample();
	if (same_events(&kernel_space.stats[PT_DIRECT], &last.map))
		return;
	report_read(&now);
	write_map("test", tests_done, &now);
}

/* ---- counters: lines for programs ---- */

static void buddy_counters(void)
{
	struct report_line line = { .length = 0 };
	struct nolock_stats nolock;
	struct buddy_stats b;

	buddy_read_stats(&b);
	log_info("counter buddy_frames=%llu buddy_free=%llu buddy_cached=%llu buddy_allocs=%llu buddy_frees=%llu "
		 "buddy_fails=%llu buddy_bad_frees=%llu", ULL(b.frames), ULL(b.free), ULL(b.cached), ULL(b.allocs),
		 ULL(b.frees), ULL(b.fails), ULL(b.bad_frees));
	buddy_read_nolock_stats(&nolock);
	log_info("counter nodes=%u buddy_deferred=%llu buddy_deferred_now=%llu nolock_requests=%llu nolock_served=%llu "
		 "nolock_failed_lock=%llu nolock_failed_empty=%llu nolock_failed_order=%llu nolock_failed_limit=%llu",
		 buddy_nodes(), ULL(b.deferred), ULL(b.deferred_now), ULL(nolock.requests), ULL(nolock.served),
		 ULL(nolock.failed[NOLOCK_LOCK]), ULL(nolock.failed[NOLOCK_EMPTY]), ULL(nolock.failed[NOLOCK_ORDER]),
		 ULL(nolock.failed[NOLOCK_LIMIT]));
	line_add(&line, "counter");
	for (unsigned order = 0; order <= ORDER_MAX; order++)
		line_add(&line, " free_order%u=%llu", order, ULL(b.blocks[order]));
	line_write(&line);
}

static void steering_counters(void)
{
	const struct report_steering *s = &report_steering;

	if (s->operations)
		log_info("counter steering_operations=%llu steering_unmapped=%llu steering_off_blocks=%llu "
			 "steering_on_blocks=%llu steering_off_gigabytes=%llu steering_on_gigabytes=%llu", ULL(s->operations),
			 ULL(s->unmapped), ULL(s->blocks[0]), ULL(s->blocks[1]), ULL(s->gigabytes[0]), ULL(s->gigabytes[1]));
}

static void space_counters(void)
{
	const struct directmap_stats *m = &after.map;
	const struct pt_stats *other = &kernel_space.stats[PT_OTHER];

	log_info("counter direct_map_4k=%llu direct_map_2m=%llu direct_map_1g=%llu", ULL(m->direct_map_4k),
		 ULL(m->direct_map_2m), ULL(m->direct_map_1g));
	log_info("counter direct_map_level2_splits=%llu direct_map_level3_splits=%llu "
		 "direct_map_level2_collapses=%llu direct_map_level3_collapses=%llu",
		 ULL(m->direct_map_level2_splits), ULL(m->direct_map_level3_splits),
		 ULL(m->direct_map_level2_collapses), ULL(m->direct_map_level3_collapses));
	log_info("counter direct_map_leaves=%llu direct_map_fewest_leaves=%llu direct_map_tables=%llu",
		 ULL(m->leaves), ULL(m->fewest_leaves), ULL(after.direct_tables));
	log_info("counter kernel_map_4k=%llu kernel_map_2m=%llu kernel_map_1g=%llu", ULL(other->leaves[PT_4K] * 4 * KIB),
		 ULL(other->leaves[PT_2M] * 2 * MIB), ULL(other->leaves[PT_1G] * GIB));
	log_info("counter kernel_map_level2_splits=%llu kernel_map_level3_splits=%llu "
		 "kernel_map_level2_collapses=%llu kernel_map_level3_collapses=%llu", ULL(other->splits[PT_2M]),
		 ULL(other->splits[PT_1G]), ULL(other->collapses[PT_2M]), ULL(other->collapses[PT_1G]));
	log_info("counter kernel_map_fewest_leaves=%llu kernel_map_tables=%llu",
		 ULL(pt_fewest_leaves(&kernel_space, PT_OTHER)), ULL(after.other_tables));
}

static void tlb_counters(void)
{
	const struct tlb_stats *t = &after.tlb;

	log_info("counter nr_tlb_local_flush_all=%llu nr_tlb_local_flush_one=%llu nr_tlb_remote_flush=%llu "
		 "nr_tlb_remote_flush_received=%llu", ULL(t->nr_tlb_local_flush_all),
		 ULL(t->nr_tlb_local_flush_one), ULL(t->nr_tlb_remote_flush), ULL(t->nr_tlb_remote_flush_received));
	log_info("counter tlb_pages_invalidated=%llu tlb_batches=%llu tlb_frames_freed=%llu "
		 "tlb_frames_quarantined=%llu tlb_shootdown_cycles=%llu", ULL(t->pages_invalidated),
		 ULL(t->batches), ULL(t->frames_freed), ULL(t->frames_quarantined), ULL(t->shootdown_cycles));
}

/* ---- the summary: tables for people ---- */

/* A row of the table before/peak/after. */
struct row {
	const char *name;
	u64 (*value)(const struct report_state *s);
};

#define ROW_VALUE(name, expression)                                  \
	static u64 row_##name(const struct report_state *s)          \
	{                                                            \
		return (expression);                                 \
	}

ROW_VALUE(leaves_1g, s->map.direct_map_1g / GIB)
ROW_VALUE(leaves_2m, s->map.direct_map_2m / (2 * MIB))
ROW_VALUE(leaves_4k, s->map.direct_map_4k / (4 * KIB))
ROW_VALUE(mib_1g, s->map.direct_map_1g / MIB)
ROW_VALUE(mib_2m, s->map.direct_map_2m / MIB)
ROW_VALUE(kib_4k, s->map.direct_map_4k / KIB)
ROW_VALUE(leaves, s->map.leaves)
ROW_VALUE(fewest, s->map.fewest_leaves)
ROW_VALUE(direct_tables, s->direct_tables * 4)
ROW_VALUE(other_tables, s->other_tables * 4)
ROW_VALUE(splits_1g, s->map.direct_map_level3_splits)
ROW_VALUE(splits_2m, s->map.direct_map_level2_splits)
ROW_VALUE(collapses_1g, s->map.direct_map_level3_collapses)
ROW_VALUE(collapses_2m, s->map.direct_map_level2_collapses)
ROW_VALUE(flush_all, s->tlb.nr_tlb_local_flush_all)
ROW_VALUE(flush_one, s->tlb.nr_tlb_local_flush_one)
ROW_VALUE(remote, s->tlb.nr_tlb_remote_flush)
ROW_VALUE(received, s->tlb.nr_tlb_remote_flush_received)
ROW_VALUE(freed, s->tlb.frames_freed)

static const struct row rows[] = {
	{ "direct map, 1G leaves", row_leaves_1g },
	{ "  2M leaves", row_leaves_2m },
	{ "  4K leaves", row_leaves_4k },
	{ "  MiB in 1G leaves", row_mib_1g },
	{ "  MiB in 2M leaves", row_mib_2m },
	{ "  KiB in 4K leaves", row_kib_4k },
	{ "  leaves in all", row_leaves },
	{ "  fewest leaves possible", row_fewest },
	{ "page tables, KiB: direct map", row_direct_tables },
	{ "  rest of the kernel half", row_other_tables },
	{ "splits of 1G leaves", row_splits_1g },
	{ "  of 2M leaves", row_splits_2m },
	{ "collapses into 1G leaves", row_collapses_1g },
	{ "  into 2M leaves", row_collapses_2m },
	{ "TLB: flushes of everything", row_flush_all },
	{ "  of single pages", row_flush_one },
	{ "  shootdowns sent", row_remote },
	{ "  shootdowns received", row_received },
	{ "  frames freed behind a flush", row_freed },
};

static void summary_states(void)
{
	struct report_line line = { .length = 0 };

	line_add(&line, "%-32s%14s%14s%14s", "the kernel's mappings", "at the start", "at the peak", "at the end");
	line_write(&line);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		line_add(&line, "%-32s", rows[i].name);
		line_number(&line, 14, rows[i].value(&before));
		line_number(&line, 14, rows[i].value(&peak));
		line_number(&line, 14, rows[i].value(&after));
		line_write(&line);
	}
	log_info("%s", "");
}

/* Frames in free blocks of at least this order, per mille of the free ones. */
static u64 usable(const struct buddy_stats *b, unsigned order)
{
	u64 frames = 0;

	for (; order <= ORDER_MAX; order++)
		frames += b->blocks[order] << order;
	return b->free ? frames * 1000 / b->free : 0;
}

static void summary_buddy(void)
{
	struct report_line line = { .length = 0 };
	struct buddy_stats now;

	buddy_drain();
	buddy_read_stats(&now);
	line_add(&line, "%-32s%14s%14s%14s%14s", "free memory, blocks by order", "at the start", "at the end",
		 "start, in >= ", "end, in >= ");
	line_write(&line);
	for (unsigned order = 0; order <= ORDER_MAX; order++) {
		u64 start = usable(&buddy_before, order), end = usable(&now, order);

		line_add(&line, "  order %2u, %7llu KiB           ", order, 4ull << order);
		line_number(&line, 14, buddy_before.blocks[order]);
		line_number(&line, 14, now.blocks[order]);
		line_add(&line, "%11llu.%llu%%%11llu.%llu%%", ULL(start / 10), ULL(start % 10), ULL(end / 10),
			 ULL(end % 10));
		line_write(&line);
	}
	line_add(&line, "%-32s", "  frames free");
	line_number(&line, 14, buddy_before.free);
	line_number(&line, 14, now.free);
	line_write(&line);
	log_info("%s", "");
}

static void summary_steering(void)
{
	static const char *const names[] = { "  anywhere", "  steered to split blocks" };
	const struct report_steering *s = &report_steering;
	struct report_line line = { .length = 0 };

	if (!s->operations)
		return;
	line_add(&line, "churn of ");
	line_number(&line, 0, s->operations);
	line_add(&line, " operations, ");
	line_number(&line, 0, s->unmapped);
	line_add(&line, " requests took their pages out of the direct map; ever split by it:");
	line_write(&line);
	line_add(&line, "%-32s%14s%14s", "", "2 MiB blocks", "gigabytes");
	line_write(&line);
	for (unsigned on = 0; on < 2; on++) {
		line_add(&line, "%-32s", names[on]);
		line_number(&line, 14, s->blocks[on]);
		line_number(&line, 14, s->gigabytes[on]);
		line_write(&line);
	}
	log_info("%s", "");
}

void report_counters(void)
{
	report_read(&after);
	space_counters();
	tlb_counters();
	buddy_counters();
	steering_counters();
}

void report_summary(void)
{
	report_read(&after);
	log_info("%s", "");
	log_info("==== SUMMARY ====");
	log_info("%s", "");
	summary_states();
	summary_buddy();
	summary_steering();
	lab_summary();
	lab_code_summary();
	lab_cpus_summary();
	if (log_warnings)
		log_info("%llu warnings above", ULL(log_warnings));
	log_info("%u tests: %u passed, %u failed, %u skipped", test_totals.run, test_totals.passed,
		 test_totals.failed, test_totals.skipped);
}

/* ---- the frame ---- */

void report_begin(const struct report_setup *setup)
{
	log_raw("KTAP version 1");
	log_info("TANGRAM BEGIN build=%s cpus=%u memory=%llu seed=%llu", setup->build ? setup->build : BUILD_VERSION,
		 setup->cpus, ULL(setup->memory), ULL(setup->seed));
	pt_settle(&kernel_space);
	buddy_drain();
	buddy_read_stats(&buddy_before);
	report_read(&before);
	peak = before;
	tests_done = peak_tests = 0;
	begun = true;
	write_map("before", 0, &before);
}

bool report_end(void)
{
	bool pass = test_totals.failed == 0;

	pt_settle(&kernel_space);
	report_sample();
	report_read(&after);
	write_map("peak", peak_tests, &peak);
	write_map("after", tests_done, &after);
	report_counters();
	report_summary();
	log_info("TANGRAM END verdict=%s passed=%u failed=%u skipped=%u", pass ? "pass" : "fail", test_totals.passed,
		 test_totals.failed, test_totals.skipped);
	return pass;
}
