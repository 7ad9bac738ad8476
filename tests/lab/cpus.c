/* SPDX-License-Identifier: MIT */
/*
 * The workloads of the lab with 1, 2, 4 and 8 CPUs taking part, under the policies that differ in what they flush. Every CPU takes its share
 * of the pages, all at once; then each gives and takes single pages of its share (churn); then all give back. CPUs that are
 * up and take no part idle, and are asked to flush as the others are: they run in the same kernel half.
 */
#include "tests/lab/cpus.h"

#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "mm/unmapped.h"
#include "tests/lab/aging.h"
#include "tests/lab/lab.h"
#include "tests/test.h"

#define ULL(x) ((unsigned long long)(x))

#define PAGES 256u		/* of all CPUs together: each takes its share of the same work */
#define PAIRS 512u
#define WORKERS_MAX 8u
#define CACHED_FRAMES 1024u	/* that a CPU's page cache may keep from the others */

static const u32 worker_counts[] = { 1, 2, 4, WORKERS_MAX };

static const struct workload {
	const char *name;
	const char *about;
	u32 pairs;		/* given and taken in between, by all CPUs together */
} workloads[] = {
	{ "pages-all", "the CPUs take the pages, a share each; all are given back", 0 },
	{ "churn-all", "the same, and meanwhile 512 times one is given back and another taken", PAIRS },
};

static const struct setting {
	enum lab_memory memory;
	enum lab_policy_row policy;
	enum pt_collapse_policy collapse;
	const char *memory_name, *collapse_name;
} settings[] = {
	{ LAB_AGED, LAB_SCATTERED, PT_COLLAPSE_EAGER, "aged", "eager" },
	{ LAB_AGED, LAB_SCATTERED, PT_COLLAPSE_DEFERRED, "aged", "deferred" },
	{ LAB_FRESH, LAB_SCATTERED, PT_COLLAPSE_EAGER, "fresh", "eager" },
	{ LAB_FRESH, LAB_UNMAPPED_2M, PT_COLLAPSE_EAGER, "fresh", "eager" },
};

#define ROWS (ARRAY_SIZE(workloads) * ARRAY_SIZE(settings) * ARRAY_SIZE(worker_counts))

/* Figures at one time. */
struct figures {
	struct report_state state;
	struct unmapped_stats cache;
	u64 interrupts;
};

/* What is left of a row when it has ended. */
static struct result {
	const struct workload *workload;
	const struct setting *setting;
	u32 cpus, workers;
	struct figures at[LAB_PHASES];
	u64 waiting;		/* frames, at most */
} results[ROWS];
static unsigned nr_results;

/* The row that runs. */
static struct {
	const struct workload *workload;
	const struct setting *setting;
	const struct lab_policy *policy;
	u32 cpus, workers;
	u64 seed;
	struct figures at[LAB_PHASES];
	struct figures taken;	/* behind the first takes, before the churn */
	u64 waiting;
	u32 held[WORKERS_MAX];	/* pages that a worker has: pfns[w][0 .. held) */
	u32 pfns[WORKERS_MAX][PAGES];
} row;

/* ---- What each CPU does ---- */

/* This CPU's number among those that are online; those from row.workers on take no part. */
static u32 worker(void)
{
	u32 me = arch_this_cpu()->id, n = 0;

	for_each_cpu(cpu, arch_cpus_online())
		n += cpu < me;
	return n;
}

static void take_share(void *arg)
{
	u32 w = worker();

	(void)arg;
	if (w >= row.workers)
		return;
	while (row.held[w] < PAGES / row.workers) {
		struct page *page = row.policy->take();

		if (!CHECK(page != NULL))
			return;
		row.pfns[w][row.held[w]++] = (u32)page_to_pfn(page);
	}
}

static void churn_share(void *arg)
{
	u32 w = worker();
	struct rng rng = { row.seed + w };

	(void)arg;
	if (w >= row.workers)
		return;
	for (u32 i = 0; row.held[w] && i < row.workload->pairs / row.workers; i++) {
		u32 *slot = &row.pfns[w][rng_below(&rng, row.held[w])];
		struct page *page;

		CHECK_EQ(row.policy->give(pfn_to_page(*slot)), 0);
		page = row.policy->take();
		*slot = page ? (u32)page_to_pfn(page) : row.pfns[w][--row.held[w]];
		CHECK(page != NULL);
	}
}

static void give_share(void *arg)
{
	u32 w = worker();

	(void)arg;
	while (w < row.workers && row.held[w])
		CHECK_EQ(row.policy->give(pfn_to_page(row.pfns[w][--row.held[w]])), 0);
}

/* ---- Figures ---- */

static void read_figures(struct figures *f)
{
	report_read(&f->state);
	unmapped_read_stats(&f->cache);
	f->interrupts = lab_interrupts_sent();
}

static u64 splits_of(const struct figures *f)
{
	return f->state.map.direct_map_level2_splits + f->state.map.direct_map_level3_splits;
}

static u64 collapses_of(const struct figures *f)
{
	return f->state.map.direct_map_level2_collapses + f->state.map.direct_map_level3_collapses;
}

static u64 refills_of(const struct figures *f)
{
	u64 sum = 0;

	for (unsigned o = 0; o < ARRAY_SIZE(f->cache.refills); o++)
		sum += f->cache.refills[o];
	return sum;
}

static void phase(enum lab_phase which, const char *name)
{
	const struct figures *b = &row.at[LAB_BEFORE], *f = &row.at[which];
	char words[LAB_WORDS];

	read_figures(&row.at[which]);
	report_sample();
	log_info("lab workload=%s policy=%s memory=%s collapse=%s cpus=%u workers=%u n=%u phase=%s %s interrupts=%llu frames_waiting=%llu "
		 "cache_refills=%llu",
		 row.workload->name, row.policy->name, row.setting->memory_name, row.setting->collapse_name, row.cpus, row.workers,
		 PAGES, name, lab_map_words(words, &f->state, &b->state), ULL(f->interrupts - b->interrupts), ULL(row.waiting),
		 ULL(refills_of(f) - refills_of(b)));
}

/* ---- What must be true of a row ---- */

static void check_peak(void)
{
	for (u32 w = 0; w < row.workers; w++) {
		CHECK_EQ(row.held[w], PAGES / row.workers);
		for (u32 i = 0; i < row.held[w]; i++) {
			u64 va = phys_to_va(page_to_phys(pfn_to_page(row.pfns[w][i])));

			if (!CHECK(!pte_present(pt_walk(&kernel_space, va, PT_4K).value)))
				return;
		}
	}
}

/* Every CPU that was asked has answered, nobody was asked who need not be, and none waits for anything. */
static void check_flushes(void)
{
	const struct tlb_stats *b = &row.at[LAB_BEFORE].state.tlb, *a = &row.at[LAB_AFTER].state.tlb;
	u64 asked = a->nr_tlb_remote_flush - b->nr_tlb_remote_flush;

	CHECK_EQ(a->nr_tlb_remote_flush_received - b->nr_tlb_remote_flush_received, asked);
	CHECK(row.at[LAB_AFTER].interrupts - row.at[LAB_BEFORE].interrupts <= asked);
	CHECK(asked <= (a->batches - b->batches) * (row.cpus - 1));
	CHECK_EQ(asked > 0, row.cpus > 1);
	CHECK_EQ(a->frames_waiting, 0);
	CHECK_EQ(a->frames_quarantined, b->frames_quarantined);
}

/* A block is taken whole, so pages come and go without a flush, on any number of CPUs. */
static void check_cache(void)
{
	const struct figures *b = &row.at[LAB_BEFORE], *p = &row.at[LAB_PEAK];

	CHECK_EQ(p->state.map.direct_map_level2_splits, b->state.map.direct_map_level2_splits);
	CHECK(refills_of(p) - refills_of(b) >= 1 && refills_of(p) - refills_of(b) <= row.workers);
	CHECK_EQ(p->state.tlb.nr_tlb_remote_flush, row.taken.state.tlb.nr_tlb_remote_flush);
	CHECK_EQ(p->state.tlb.batches, row.taken.state.tlb.batches);
}

static void check_row(const struct figures *start)
{
	const struct figures *b = &row.at[LAB_BEFORE], *a = &row.at[LAB_AFTER];

	CHECK_EQ(splits_of(a) - splits_of(b), collapses_of(a) - collapses_of(b));
	CHECK_EQ(a->state.map.leaves, start->state.map.leaves);
	CHECK_EQ(a->state.direct_tables, start->state.direct_tables);
	check_flushes();
	if (row.policy->cache != UNMAPPED_OFF)
		check_cache();
	else if (row.setting->memory == LAB_AGED)
		CHECK(splits_of(a) > splits_of(b) && row.waiting > 0);
}

/* ---- Rows ---- */

static void find_row(unsigned number)
{
	memset(&row, 0, sizeof(row));
	row.workers = worker_counts[number % ARRAY_SIZE(worker_counts)];
	number /= ARRAY_SIZE(worker_counts);
	row.setting = &settings[number % ARRAY_SIZE(settings)];
	row.workload = &workloads[number / ARRAY_SIZE(settings)];
	row.policy = &lab_policies[row.setting->policy];
	row.cpus = measure_cpus();
}

static unsigned count_rows(void)
{
	return ROWS;
}

static void name_row(unsigned number, char *buf, size_t size)
{
	find_row(number);
	fmt_print(buf, size, "%s.%s.%s.%s.workers%u", row.workload->name, row.setting->memory_name, row.policy->name,
		  row.setting->collapse_name, row.workers);
}

static void run_row(void)
{
	u64 giving;

	lab_on_cpus(take_share, NULL);
	read_figures(&row.taken);
	if (row.workload->pairs)
		lab_on_cpus(churn_share, NULL);
	row.waiting = tlb_frames_waiting_most();
	phase(LAB_PEAK, "peak");
	check_peak();
	lab_on_cpus(give_share, NULL);
	unmapped_shrink(UNMAPPED_ALL);
	pt_settle(&kernel_space);
	giving = tlb_frames_waiting_most();
	row.waiting = MAX(row.waiting, giving);
	phase(LAB_AFTER, "after");
}

TEST_ROWS(lab_cpus, row, "TL2 RP1", TEST_FIGURES, count_rows, name_row)
{
	enum pt_collapse_policy policy = kernel_space.policy;
	enum unmapped_mode mode = unmapped_mode();
	struct rng rng = test_rng();
	struct figures start;
	u64 mark, frames;

	find_row(test_row());
	if (lab_mode == LAB_RUN_OFF)
		SKIP("lab=off");
	if (row.workers > row.cpus)
		SKIP("%u CPUs are up", row.cpus);
	if (lab_mode == LAB_RUN_SHORT && row.workers > 1 && row.workers * 2 <= row.cpus)
		SKIP("lab=short leaves out workers=%u of %u", row.workers, row.cpus);
	if (pt_bbm > 0 || (pt_bbm < 0 && arch_mm.bbm == ARCH_BBM_ALL))
		SKIP("break-before-make refuses frames beside what it runs on: not every frame can be taken");
	frames = PAGES + aging_table_frames() + row.cpus * CACHED_FRAMES;

	pt_set_policy(&kernel_space, PT_COLLAPSE_EAGER);
	pt_settle(&kernel_space);
	read_figures(&start);
	REQUIRE(lab_cpus_start() == 0);
	if (row.policy->cache != UNMAPPED_OFF)
		CHECK_EQ(unmapped_set_mode(row.policy->cache), 0);
	pt_set_policy(&kernel_space, row.setting->collapse);
	mark = rng_next(&rng) | 1;
	row.seed = rng_next(&rng);
	if (row.setting->memory == LAB_AGED && CHECK(aging_hold_all(mark) >= frames))
		aging_free_some(&rng, mark, frames);
	tlb_frames_waiting_most();
	phase(LAB_BEFORE, "before");
	run_row();
	aging_free_all(mark);
	lab_cpus_stop();
	check_row(&start);
	results[nr_results++ % ROWS] = (struct result){ row.workload, row.setting, row.cpus, row.workers,
						       { row.at[0], row.at[1], row.at[2] }, row.waiting };
	CHECK_EQ(unmapped_set_mode(mode), 0);
	pt_set_policy(&kernel_space, policy);
}

/* ---- The summary ---- */

static void write_result(const struct result *r)
{
	const struct figures *b = &r->at[LAB_BEFORE], *a = &r->at[LAB_AFTER];
	const struct tlb_stats *was = &b->state.tlb, *now = &a->state.tlb;
	struct report_line line = { .length = 0 };
	const u64 cells[] = {
		r->workers,
		splits_of(a) - splits_of(b),
		now->batches - was->batches,
		now->nr_tlb_local_flush_all - was->nr_tlb_local_flush_all,
		now->pages_invalidated - was->pages_invalidated,
		now->nr_tlb_remote_flush - was->nr_tlb_remote_flush,
		a->interrupts - b->interrupts,
		r->waiting,
	};

	line_add(&line, "  %-11s %-9s %-5s", lab_policies[r->setting->policy].name, r->setting->collapse_name, r->setting->memory_name);
	for (unsigned i = 0; i < ARRAY_SIZE(cells); i++) {
		line_add(&line, " ");
		line_number(&line, 10, cells[i]);
	}
	line_write(&line);
}

void lab_cpus_summary(void)
{
	struct report_line line = { .length = 0 };
	const struct workload *last = NULL;

	for (unsigned i = 0; i < MIN(nr_results, ROWS); i++) {
		const struct result *r = &results[i];

		if (!last)
			log_info("the lab with %u CPUs up, %u pages in all: workers take part, all are asked to flush. Flushes of all CPUs;",
				 r->cpus, PAGES);
		if (!last)
			log_info("frames that waited for one, at the most (docs/report.md)");
		if (r->workload != last) {
			log_info("%s: %s", r->workload->name, r->workload->about);
			line_add(&line, "  %-11s %-9s %-5s %10s %10s %10s %10s %10s %10s %10s %10s", "policy", "collapse", "memory",
				 "workers", "splits", "batches", "full", "pages", "asked", "IPIs", "waiting");
			line_write(&line);
		}
		last = r->workload;
		write_result(r);
	}
	if (last)
		log_info("%s", "");
}
