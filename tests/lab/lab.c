/* SPDX-License-Identifier: MIT */
/*
 * The lab: runs each row from the same start, asserts what its collapse policy promises, and remembers the
 * figures for the summary.
 */
#include "tests/lab/lab.h"

#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/unmapped.h"
#include "mm/vmalloc.h"
#include "tests/lab/aging.h"
#include "tests/test.h"

#define ULL(x) ((unsigned long long)(x))

/* What is left of a row when it has ended. */
struct result {
	const struct lab_workload *workload;
	const struct lab_policy *policy;
	enum lab_memory memory;
	enum pt_collapse_policy collapse;
	u32 n;
	struct report_state states[LAB_PHASES];
	struct cost cost[LAB_OPS];
};
#define RESULTS_MAX 64u
#define FALLBACK_PAGES 64u	/* with as many, splits are compared between policies, and what a page costs is looked at */
#define FALLBACK_INSTRUCTIONS 8000u	/* to take one, on average */
#define UNMOVABLE_SHARE 8u	/* LAB_UNMOVABLE: one frame in so many is free */

/*
 * What runs in which memory, in the order of the table: the damage first, then what repairs it, then what avoids it. The
 * collapse policies are compared where there is something to collapse.
 */
static const struct setting {
	enum lab_memory memory;
	enum lab_policy_row policy;
	enum pt_collapse_policy collapse;
} settings[] = {
	{ LAB_AGED, LAB_SCATTERED, PT_COLLAPSE_OFF },
	{ LAB_AGED, LAB_SCATTERED, PT_COLLAPSE_DEFERRED },
	{ LAB_AGED, LAB_SCATTERED, PT_COLLAPSE_EAGER },
	{ LAB_AGED, LAB_UNMAPPED_2M, PT_COLLAPSE_EAGER },
	{ LAB_AGED, LAB_UNMAPPED_1G, PT_COLLAPSE_EAGER },
	{ LAB_FRESH, LAB_SCATTERED, PT_COLLAPSE_EAGER },
	{ LAB_FRESH, LAB_UNMAPPED_2M, PT_COLLAPSE_EAGER },
	{ LAB_FRESH, LAB_UNMAPPED_1G, PT_COLLAPSE_EAGER },
	{ LAB_UNMOVABLE, LAB_SCATTERED, PT_COLLAPSE_OFF },
	{ LAB_UNMOVABLE, LAB_SCATTERED, PT_COLLAPSE_EAGER },
	{ LAB_UNMOVABLE, LAB_UNMAPPED_2M, PT_COLLAPSE_EAGER },
	{ LAB_UNMOVABLE, LAB_UNMAPPED_1G, PT_COLLAPSE_EAGER },
};

static const char *const memory_names[] = {
	[LAB_FRESH] = "fresh",
	[LAB_AGED] = "aged",
	[LAB_UNMOVABLE] = "unmovable",
};

static const char *const collapse_names[] = {
	[PT_COLLAPSE_OFF] = "off",
	[PT_COLLAPSE_DEFERRED] = "deferred",
	[PT_COLLAPSE_EAGER] = "eager",
};

static const char *const op_names[] = {
	[LAB_TAKE] = "take",
	[LAB_ALIAS] = "alias",
	[LAB_GIVE] = "give",
	[LAB_PAIR] = "pair",
};

static const char *const phase_names[] = {
	[LAB_BEFORE] = "before",
	[LAB_PEAK] = "peak",
	[LAB_AFTER] = "after",
};

static const char *const mode_names[] = {
	[LAB_RUN_OFF] = "off",
	[LAB_RUN_SHORT] = "short",
	[LAB_RUN_FULL] = "full",
};

/* A hosted machine is simulated, and watched at every step: it runs the small rows. */
#if __STDC_HOSTED__
#define PAGES_LIMIT 512u
#else
#define PAGES_LIMIT LAB_PAGES_MAX
#endif

enum lab_mode lab_mode = LAB_RUN_FULL;
u32 lab_pages_limit = PAGES_LIMIT;

static u32 pfns[LAB_PAGES_MAX];
static u32 ticks[LAB_OPS][SAMPLES_MAX];
static struct result results[RESULTS_MAX];
static unsigned nr_results;

/* Of the row that runs. */
static struct unmapped_stats cache_states[LAB_PHASES];
#define GIGABYTES 4096u
static u64 whole_gigabytes[GIGABYTES / 64];	/* bit g: it was one leaf of the direct map, before */
static u64 entered_at_peak;			/* of these: pages were taken in it */
static u64 blocks_before[2];			/* free blocks of 2 MiB and of 1 GiB, before */

bool lab_mode_set(const char *word)
{
	for (unsigned i = 0; i < LAB_RUN_MODES; i++)
		if (!strcmp(word, mode_names[i])) {
			lab_mode = (enum lab_mode)i;
			return true;
		}
	return false;
}

/* ---- operations ---- */

/* Whether the direct map has a writable leaf for the frame; -1: it has a read-only one. */
static int direct_mapping(const struct page *page)
{
	pte_t e = pt_walk(&kernel_space, phys_to_va(page_to_phys(page)), PT_4K).value;

	if (!pte_present(e))
		return 0;
	return e.raw & PTE_W ? 1 : -1;
}

static struct page *held_page(const struct lab_run *run, u32 slot)
{
	return pfn_to_page(run->pfns[slot]);
}

u32 lab_take(struct lab_run *run, u32 n)
{
	u32 taken = 0;

	tlb_read_stats(&run->tlb[LAB_TAKE][0]);
	while (taken < n) {
		u64 start = arch_cycles();
		struct page *page = run->policy->take();

		samples_add(&run->samples[LAB_TAKE], start, arch_cycles());
		if (!CHECK(page != NULL))
			break;
		run->pfns[taken++] = (u32)page_to_pfn(page);
		if (!CHECK_EQ(direct_mapping(page), 0))
			break;
	}
	tlb_read_stats(&run->tlb[LAB_TAKE][1]);
	return taken;
}

void lab_give(struct lab_run *run, u32 n)
{
	tlb_read_stats(&run->tlb[LAB_GIVE][0]);
	for (u32 slot = 0; slot < n; slot++) {
		struct page *page = held_page(run, slot);
		u64 start = arch_cycles();
		int rc = run->policy->give(page);

		samples_add(&run->samples[LAB_GIVE], start, arch_cycles());
		CHECK_EQ(rc, 0);
		if (run->policy->cache == UNMAPPED_OFF || page->class != PAGE_UNMAPPED)
			CHECK_EQ(direct_mapping(page), 1);
		else
			CHECK_EQ(direct_mapping(page), 0);
	}
	tlb_read_stats(&run->tlb[LAB_GIVE][1]);
}

u32 lab_pairs(struct lab_run *run, u32 n, u32 pairs)
{
	tlb_read_stats(&run->tlb[LAB_PAIR][0]);
	for (u32 i = 0; n && i < pairs; i++) {
		u32 slot = (u32)rng_below(&run->rng, n);
		struct page *page = held_page(run, slot);
		u64 start = arch_cycles();
		int rc = run->policy->give(page);

		page = run->policy->take();
		samples_add(&run->samples[LAB_PAIR], start, arch_cycles());
		if (CHECK_EQ(rc, 0) && CHECK(page != NULL)) {
			run->pfns[slot] = (u32)page_to_pfn(page);
			CHECK_EQ(direct_mapping(page), 0);
		} else {
			run->pfns[slot] = run->pfns[--n];	/* nothing is held there now */
		}
	}
	tlb_read_stats(&run->tlb[LAB_PAIR][1]);
	return n;
}

/*
 * Where the program can write what is mapped at a kernel address: there, on the machine. A hosted process has no
 * such address and goes by what the tables say.
 */
#if __STDC_HOSTED__
static u64 *alias_words(void *alias)
{
	struct pt_slot s = pt_walk(&kernel_space, (u64)alias, PT_4K);

	return pte_present(s.value) ? phys_to_virt(pte_leaf_pa(s.value, s.level)) : NULL;
}
#else
static u64 *alias_words(void *alias)
{
	return alias;
}
#endif

static bool write_through_alias(struct page *page)
{
	void *alias = vmap(&page, 1, 0);
	u64 *words = alias ? alias_words(alias) : NULL;

	for (u64 i = 0; words && i < PAGE_SIZE / sizeof(u64); i += 8)
		words[i] = i;		/* one word of each cache line */
	return words && !vunmap(alias);
}

bool lab_alias(struct lab_run *run, u32 n)
{
	bool ok = true;

	tlb_read_stats(&run->tlb[LAB_ALIAS][0]);
	for (u32 slot = 0; slot < n && ok; slot++) {
		struct page *page = held_page(run, slot);
		u64 start = arch_cycles();
		bool written = write_through_alias(page);

		samples_add(&run->samples[LAB_ALIAS], start, arch_cycles());
		ok = CHECK(written);
	}
	tlb_read_stats(&run->tlb[LAB_ALIAS][1]);
	return ok;
}

/* ---- phases ---- */

static u64 sum_orders(const u64 *v)
{
	u64 sum = 0;

	for (unsigned o = 0; o <= ORDER_MAX; o++)
		sum += v[o];
	return sum;
}

/* What the unmapped cache took from the page allocator since `before`: pieces of all orders. */
static u64 refills_at(enum lab_phase phase)
{
	return sum_orders(cache_states[phase].refills) - sum_orders(cache_states[LAB_BEFORE].refills);
}

static u64 refill_batches_at(enum lab_phase phase)
{
	return cache_states[phase].flush_batches - cache_states[LAB_BEFORE].flush_batches;
}

const char *lab_map_words(char words[LAB_WORDS], const struct report_state *now, const struct report_state *before)
{
	const struct directmap_stats *m = &now->map, *was = &before->map;
	const struct tlb_stats *t = &now->tlb, *then = &before->tlb;

	fmt_print(words, LAB_WORDS,
		  "leaves_4k=%llu leaves_2m=%llu leaves_1g=%llu fewest=%llu level2_splits=%llu level3_splits=%llu level2_collapses=%llu "
		  "level3_collapses=%llu tables=%llu flush_all=%llu flush_one=%llu remote_flush=%llu pages_invalidated=%llu",
		  ULL(m->direct_map_4k / (4 * KIB)), ULL(m->direct_map_2m / (2 * MIB)), ULL(m->direct_map_1g / GIB),
		  ULL(m->fewest_leaves), ULL(m->direct_map_level2_splits - was->direct_map_level2_splits),
		  ULL(m->direct_map_level3_splits - was->direct_map_level3_splits),
		  ULL(m->direct_map_level2_collapses - was->direct_map_level2_collapses),
		  ULL(m->direct_map_level3_collapses - was->direct_map_level3_collapses), ULL(now->direct_tables),
		  ULL(t->nr_tlb_local_flush_all - then->nr_tlb_local_flush_all),
		  ULL(t->nr_tlb_local_flush_one - then->nr_tlb_local_flush_one),
		  ULL(t->nr_tlb_remote_flush - then->nr_tlb_remote_flush), ULL(t->pages_invalidated - then->pages_invalidated));
	return words;
}

static void write_phase(const struct lab_run *run, enum lab_phase phase)
{
	char words[LAB_WORDS];

	log_info("lab workload=%s policy=%s memory=%s collapse=%s cpus=%u n=%u phase=%s %s cache_refills=%llu cache_batches=%llu",
		 run->workload->name, run->policy->name, memory_names[run->memory], collapse_names[run->collapse], measure_cpus(), run->n,
		 phase_names[phase], lab_map_words(words, &run->states[phase], &run->states[LAB_BEFORE]), ULL(refills_at(phase)),
		 ULL(refill_batches_at(phase)));
}

static void phase(struct lab_run *run, enum lab_phase which)
{
	report_read(&run->states[which]);
	unmapped_read_stats(&cache_states[which]);
	report_sample();
	write_phase(run, which);
}

/* Gigabytes that were one leaf before, and that a page held now lies in. */
static u64 gigabytes_entered(const struct lab_run *run)
{
	u64 seen[GIGABYTES / 64] = { 0 };
	u64 n = 0;

	for (u32 slot = 0; slot < run->n; slot++) {
		u64 g = (u64)run->pfns[slot] >> ORDER_1G;

		if (g >= GIGABYTES || seen[g / 64] >> g % 64 & 1)
			continue;
		seen[g / 64] |= BIT(g % 64);
		n += whole_gigabytes[g / 64] >> g % 64 & 1;
	}
	return n;
}

void lab_peak(struct lab_run *run)
{
	phase(run, LAB_PEAK);
	entered_at_peak = gigabytes_entered(run);
}

static void write_costs(struct lab_run *run, struct result *result)
{
	char more[120];

	fmt_print(more, sizeof(more), "policy=%s workload=%s memory=%s collapse=%s pages=%u", run->policy->name,
		  run->workload->name, memory_names[run->memory], collapse_names[run->collapse], run->n);
	for (unsigned op = 0; op < LAB_OPS; op++) {
		if (!run->samples[op].nr)
			continue;
		result->cost[op] = cost_of(&run->samples[op], &run->tlb[op][0], &run->tlb[op][1]);
		cost_write(op_names[op], more, &result->cost[op]);
	}
}

/* ---- what must be true of a row ---- */

static void same_map(const struct report_state *got, const struct report_state *want)
{
	CHECK_EQ(got->map.direct_map_4k, want->map.direct_map_4k);
	CHECK_EQ(got->map.direct_map_2m, want->map.direct_map_2m);
	CHECK_EQ(got->map.direct_map_1g, want->map.direct_map_1g);
	CHECK_EQ(got->direct_tables, want->direct_tables);
}

static u64 splits_of(const struct directmap_stats *m)
{
	return m->direct_map_level2_splits + m->direct_map_level3_splits;
}

/* Each split makes 512 leaves of one and takes a table, each collapse undoes that. */
static void leaves_add_up(const struct report_state *before, const struct report_state *s, u64 splits, u64 collapses_)
{
	CHECK_EQ(s->map.leaves, before->map.leaves + (splits - collapses_) * (PT_ENTRIES - 1));
	CHECK_EQ(s->direct_tables, before->direct_tables + splits - collapses_);
}

static u64 blocks_of(u64 pages, unsigned order)
{
	return (pages + BIT(order) - 1) >> order;
}

/* Blocks of this order that could be had, before. */
static bool enough_blocks(unsigned order, u64 need)
{
	/* One more of 2 MiB: the page tables have to come from somewhere. */
	return blocks_before[order == ORDER_1G] >= need + (order == ORDER_2M);
}

/*
 * The order of the blocks that the row can be served with alone; 0: there are not enough of them, and the cache has to
 * fall back.
 */
static unsigned blocks_for(const struct lab_run *run)
{
	if (run->policy->cache == UNMAPPED_1G && enough_blocks(ORDER_1G, blocks_of(run->n, ORDER_1G)))
		return ORDER_1G;
	return enough_blocks(ORDER_2M, blocks_of(run->n, ORDER_2M)) ? ORDER_2M : 0;
}

static const struct result *find_result(const struct lab_run *run, const struct lab_policy *policy)
{
	for (unsigned i = 0; i < nr_results; i++) {
		const struct result *r = &results[i];

		if (r->workload == run->workload && r->n == run->n && r->memory == run->memory &&
		    r->collapse == run->collapse && r->policy == policy)
			return r;
	}
	return NULL;
}

/*
 * With enough free blocks: none of them is split, one leaf and one flush is spent on each, and a gigabyte is split only to
 * get at its blocks. All the flushes of taking pages are counted, not those only that the cache knows of.
 */
static void check_whole_blocks(const struct lab_run *run, unsigned order)
{
	const struct report_state *b = &run->states[LAB_BEFORE], *p = &run->states[LAB_PEAK];
	u64 need = blocks_of(run->n, order);
	u64 splits3 = p->map.direct_map_level3_splits - b->map.direct_map_level3_splits;

	CHECK_EQ(p->map.direct_map_level2_splits, b->map.direct_map_level2_splits);
	CHECK_EQ(refills_at(LAB_PEAK), need);
	CHECK_EQ(cache_states[LAB_PEAK].refills[order] - cache_states[LAB_BEFORE].refills[order], need);
	CHECK_EQ(refill_batches_at(LAB_PEAK), need);
	CHECK_EQ(run->tlb[LAB_TAKE][1].batches - run->tlb[LAB_TAKE][0].batches, need);
	CHECK_EQ(run->tlb[LAB_PAIR][1].batches, run->tlb[LAB_PAIR][0].batches);
	CHECK_EQ(splits3, order == ORDER_1G ? 0 : entered_at_peak);
}

/*
 * No block is free: what there is has to be split, and never more of it than by taking frames one by one. Of a few pages
 * chance decides (whether the first one lies in a gigabyte that is split already): there, no piece splits more than
 * the leaf it lies in and the gigabyte around.
 */
static void check_fallback(struct lab_run *run)
{
	const struct result *r = find_result(run, &lab_policies[LAB_SCATTERED]);
	const struct report_state *b = &run->states[LAB_BEFORE], *p = &run->states[LAB_PEAK];
	struct cost take = cost_of(&run->samples[LAB_TAKE], &run->tlb[LAB_TAKE][0], &run->tlb[LAB_TAKE][1]);

	CHECK(p->map.direct_map_level2_splits - b->map.direct_map_level2_splits <= refills_at(LAB_PEAK));
	CHECK(p->map.direct_map_level3_splits - b->map.direct_map_level3_splits <= refills_at(LAB_PEAK));
	if (run->n < FALLBACK_PAGES)
		return;
	if (measure_exact() && !CONFIG_DEBUG)
		CHECK(take.mean <= FALLBACK_INSTRUCTIONS);
	if (!r) {
		test_note("the row of scattered has not run: nothing to compare with");
		return;
	}
	CHECK(splits_of(&p->map) - splits_of(&b->map) <=
	      splits_of(&r->states[LAB_PEAK].map) - splits_of(&r->states[LAB_BEFORE].map));
}

static void check_cache(struct lab_run *run)
{
	unsigned order = blocks_for(run);

	if (run->policy->cache == UNMAPPED_OFF) {
		CHECK_EQ(refills_at(LAB_AFTER), 0);
		return;
	}
	CHECK_EQ(cache_states[LAB_AFTER].bytes, 0);
	CHECK_EQ(cache_states[LAB_AFTER].bad_frees, cache_states[LAB_BEFORE].bad_frees);
	if (order)
		check_whole_blocks(run, order);
	else
		check_fallback(run);
}

static void check_row(struct lab_run *run)
{
	const struct report_state *b = &run->states[LAB_BEFORE], *a = &run->states[LAB_AFTER];
	u64 splits2 = a->map.direct_map_level2_splits - b->map.direct_map_level2_splits;
	u64 splits3 = a->map.direct_map_level3_splits - b->map.direct_map_level3_splits;
	u64 collapses2 = a->map.direct_map_level2_collapses - b->map.direct_map_level2_collapses;
	u64 collapses3 = a->map.direct_map_level3_collapses - b->map.direct_map_level3_collapses;

	leaves_add_up(b, a, splits2 + splits3, collapses2 + collapses3);
	if (run->n >= 64 && run->memory != LAB_FRESH)
		CHECK(splits2 > 0);	/* frames drawn at random cannot all lie at ragged edges */
	check_cache(run);
	if (run->collapse == PT_COLLAPSE_OFF) {
		CHECK_EQ(collapses2 + collapses3, 0);
		return;
	}
	CHECK_EQ(collapses2, splits2);
	CHECK_EQ(collapses3, splits3);
	same_map(a, b);
}

/* ---- rows ---- */

static unsigned settings_of(const struct lab_workload *w)
{
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(settings); i++)
		n += w->memories >> settings[i].memory & 1;
	return n;
}

static void find_row(unsigned row, struct lab_run *run)
{
	const struct lab_workload *w = lab_workloads;
	const struct setting *s = settings;
	unsigned nr;

	for (; row >= w->nr_sizes * (nr = settings_of(w)); w++)
		row -= w->nr_sizes * nr;
	run->workload = w;
	run->n = w->sizes[row / nr];
	for (unsigned i = row % nr; i || !(w->memories >> s->memory & 1); s++)
		i -= w->memories >> s->memory & 1;
	run->memory = s->memory;
	run->policy = &lab_policies[s->policy];
	run->collapse = s->collapse;
}

static unsigned count_rows(void)
{
	unsigned rows = 0;

	for (unsigned i = 0; i < lab_nr_workloads; i++)
		rows += lab_workloads[i].nr_sizes * settings_of(&lab_workloads[i]);
	return rows;
}

static void name_row(unsigned row, char *buf, size_t size)
{
	struct lab_run run;

	find_row(row, &run);
	fmt_print(buf, size, "%s.%s.%s.%s.n%u", run.workload->name, memory_names[run.memory], run.policy->name,
		  collapse_names[run.collapse], run.n);
}

/* Everything collapsed that can be, whatever the policy is. */
static void repair(void)
{
	pt_set_policy(&kernel_space, PT_COLLAPSE_EAGER);
	pt_settle(&kernel_space);
}

/*
 * The same sequence for every policy of a row, and the same mark: frames are drawn by the workload's name and n.
 */
static void seed_row(struct lab_run *run)
{
	u64 hash = run->n;

	for (const char *c = run->workload->name; *c; c++)
		hash = hash * 0x100000001b3ull + (u8)*c;
	run->rng = (struct rng){ test_seed ^ hash };
}

static bool note_leaf(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective)
{
	u64 g = phys_to_pfn(pte_leaf_pa(leaf, level)) >> ORDER_1G;

	(void)arg;
	(void)va;
	(void)effective;
	if (level == PT_1G && g < GIGABYTES)
		whole_gigabytes[g / 64] |= BIT(g % 64);
	return true;
}

/* What whole blocks there are, free ones and leaves. */
static void note_blocks(void)
{
	struct buddy_stats b;

	buddy_drain();
	buddy_read_stats(&b);
	blocks_before[0] = 0;
	for (unsigned o = ORDER_2M; o <= ORDER_MAX; o++)
		blocks_before[0] += b.blocks[o] << (o - ORDER_2M);
	blocks_before[1] = b.blocks[ORDER_1G];
	memset(whole_gigabytes, 0, sizeof(whole_gigabytes));
	pt_for_each_leaf(&kernel_space, kernel_space.direct, note_leaf, NULL);
	entered_at_peak = 0;
}

static void run_row(struct lab_run *run, u64 free_frames)
{
	struct result *result = &results[MIN(nr_results, RESULTS_MAX - 1)];
	u64 mark, held;

	seed_row(run);
	mark = rng_next(&run->rng) | 1;
	pt_set_policy(&kernel_space, run->collapse);
	if (run->memory != LAB_FRESH) {
		held = aging_hold_all(mark);
		if (CHECK(held >= free_frames))
			aging_free_some(&run->rng, mark, free_frames);
	}
	note_blocks();
	phase(run, LAB_BEFORE);
	run->workload->run(run);
	unmapped_shrink(UNMAPPED_ALL);
	pt_settle(&kernel_space);
	phase(run, LAB_AFTER);
	aging_free_all(mark);
	write_costs(run, result);
	check_row(run);
	*result = (struct result){ run->workload, run->policy, run->memory, run->collapse, run->n,
				   { run->states[0], run->states[1], run->states[2] },
				   { result->cost[0], result->cost[1], result->cost[2], result->cost[3] } };
	nr_results = MIN(nr_results + 1, RESULTS_MAX);
}

TEST_ROWS(lab, row, "PT2 PT4 RP1", TEST_FIGURES, count_rows, name_row)
{
	struct lab_run run = { .pfns = pfns };
	enum pt_collapse_policy policy = kernel_space.policy;
	enum unmapped_mode mode = unmapped_mode();
	struct report_state start;
	struct buddy_stats b;
	u64 free_frames;

	find_row(test_row(), &run);
	for (unsigned op = 0; op < LAB_OPS; op++)
		run.samples[op].ticks = ticks[op];
	if (lab_mode == LAB_RUN_OFF || (lab_mode == LAB_RUN_SHORT && run.n > LAB_SHORT_MAX))
		SKIP("lab=%s leaves out n=%u", mode_names[lab_mode], run.n);
	if (run.n > lab_pages_limit)
		SKIP("n=%u, the limit here is %u", run.n, lab_pages_limit);
	if (pt_bbm > 0 || (pt_bbm < 0 && arch_mm.bbm == ARCH_BBM_ALL))
		SKIP("break-before-make refuses frames beside what it runs on: not every frame can be taken");
	buddy_read_stats(&b);
	free_frames = run.n + aging_table_frames();
	if (run.memory == LAB_UNMOVABLE)
		free_frames = MAX(free_frames, b.free / UNMOVABLE_SHARE);
	if (free_frames > b.free / 4)
		SKIP("n=%u takes %llu scattered free frames, that is more than a quarter of %llu", run.n,
		     ULL(free_frames), ULL(b.free));

	repair();
	report_read(&start);
	same_map(&start, report_before());
	if (run.policy->cache != UNMAPPED_OFF)
		REQUIRE(unmapped_set_mode(run.policy->cache) == 0);
	run_row(&run, free_frames);
	CHECK_EQ(unmapped_set_mode(mode), 0);
	repair();
	report_read(&start);
	same_map(&start, report_before());
	pt_set_policy(&kernel_space, policy);
}

TEST_FLAGS(lab, every_row_has_room_for_its_result, "", TEST_FIGURES)
{
	CHECK(count_rows() <= RESULTS_MAX);
}

/* ---- the summary ---- */

static bool same_group(const struct result *a, const struct result *b)
{
	return a->workload == b->workload && a->n == b->n && a->memory == b->memory;
}

static void write_heading(const struct result *r)
{
	struct report_line line = { .length = 0 };

	line_add(&line, "%s, n = %u, %s memory: %s", r->workload->name, r->n, memory_names[r->memory],
		 r->workload->about);
	line_write(&line);
	line_add(&line, "  %-20s%8s%10s%10s%10s %8s%10s%8s%9s", "policy", "before", "peak", "fewest", "after", "splits",
		 "collapses", "tables", "flushes");
	for (unsigned op = 0; op < LAB_OPS; op++)
		if (r->cost[op].nr && measure_cpus() == 1)
			line_add(&line, "%10s", op_names[op]);
	line_write(&line);
}

static u64 collapses_of(const struct directmap_stats *m)
{
	return m->direct_map_level2_collapses + m->direct_map_level3_collapses;
}

static u64 flushes_of(const struct tlb_stats *t)
{
	return t->nr_tlb_local_flush_all + t->nr_tlb_local_flush_one;
}

static void write_result(const struct result *r)
{
	const struct report_state *b = &r->states[LAB_BEFORE], *a = &r->states[LAB_AFTER];
	struct report_line line = { .length = 0 };
	char name[40];

	fmt_print(name, sizeof(name), "%s, %s", r->policy->name, collapse_names[r->collapse]);
	line_add(&line, "  %-20s", name);
	line_number(&line, 8, b->map.leaves);
	line_number(&line, 10, r->states[LAB_PEAK].map.leaves);
	line_number(&line, 10, r->states[LAB_PEAK].map.fewest_leaves);
	line_number(&line, 10, a->map.leaves);
	line_add(&line, " ");
	line_number(&line, 8, splits_of(&a->map) - splits_of(&b->map));
	line_number(&line, 10, collapses_of(&a->map) - collapses_of(&b->map));
	line_number(&line, 8, a->direct_tables - b->direct_tables);
	line_number(&line, 9, flushes_of(&a->tlb) - flushes_of(&b->tlb));
	for (unsigned op = 0; op < LAB_OPS; op++)
		if (r->cost[op].nr && measure_cpus() == 1)
			line_number(&line, 10, r->cost[op].mean);
	line_write(&line);
}

/* What stays in 4K leaves when everything has been given back: the figure that the project is about. */
static void write_damage(const struct result *r)
{
	u64 before = r->states[LAB_BEFORE].map.direct_map_4k, after = r->states[LAB_AFTER].map.direct_map_4k;
	struct report_line line = { .length = 0 };

	line_add(&line, "  %s, %s leaves ", r->policy->name, collapse_names[r->collapse]);
	line_number(&line, 0, (after - before) / MIB);
	line_add(&line, " MiB in 4K leaves, for ");
	line_number(&line, 0, r->n * 4);
	line_add(&line, " KiB of pages");
	line_write(&line);
}

void lab_summary(void)
{
	if (!nr_results)
		return;
	log_info("the lab: what taking pages out of the direct map does to it. Leaves of the direct map before, at the peak,");
	log_info("fewest possible there, and when all is given back; tables: left over then. What one take, alias, give, pair");
	log_info("costs on average, splits and collapses included, in %s (docs/report.md)",
		 measure_exact() ? "instructions" : measure_unit());
	for (unsigned i = 0; i < nr_results; i++) {
		if (!i || !same_group(&results[i], &results[i - 1]))
			write_heading(&results[i]);
		write_result(&results[i]);
		if (results[i].states[LAB_AFTER].map.direct_map_4k != results[i].states[LAB_BEFORE].map.direct_map_4k)
			write_damage(&results[i]);
	}
	log_info("%s", "");
}
