/* SPDX-License-Identifier: MIT */
/*
 * The code workload: objects of real x86 code (tests/codegen.h) are loaded, churned and unloaded under each policy of
 * execmem. Sizes: half below 500 bytes, a quarter 500 to 2000, a quarter 2 to 16 KiB. Each object is called after it was
 * filled and must return its value.
 *
 * `# lab workload=code …` at the phases before, loaded, churned and after; `# cost op=code_load`, `op=code_churn`,
 * `op=code_unload`; a table in the summary.
 */
#include "tests/lab/code.h"

#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "mm/directmap.h"
#include "mm/execmem.h"
#include "mm/temp_map.h"
#include "mm/unmapped.h"
#include "tests/codegen.h"
#include "tests/fixture.h"
#include "tests/lab/lab.h"
#include "tests/test.h"

#define ULL(x) ((unsigned long long)(x))
#define OBJECT_MIN 64u
#define OBJECT_MAX (16u * 1024)

static u8 image[OBJECT_MAX];

/*
 * A hosted machine is simulated: it loads fewer, and cannot run them at the kernel's addresses. There, what memory holds is
 * compared with what was made.
 */
#if __STDC_HOSTED__
#define OBJECTS 100u
#define CHURN 250u

static u32 call_object(const void *object, u32 size, u32 value)
{
	for (u32 i = 0; i < size; i++)
		if (*(const u8 *)arch_va_ptr((u64)object + i, false) != image[i])
			return ~value;
	return value;
}
#else
#define OBJECTS 2000u
#define CHURN 5000u

static u32 call_object(const void *object, u32 size, u32 value)
{
	(void)size;
	(void)value;
	return ((u32 (*)(void))(u64)object)();
}
#endif

enum code_phase {
	CODE_BEFORE,
	CODE_LOADED,
	CODE_CHURNED,
	CODE_AFTER,
	CODE_PHASES,
};

static const char *const phase_names[] = {
	[CODE_BEFORE] = "before",
	[CODE_LOADED] = "loaded",
	[CODE_CHURNED] = "churned",
	[CODE_AFTER] = "after",
};

enum code_op {
	CODE_LOAD,	/* allocate, fill, seal */
	CODE_CHURN,	/* free, and load another one */
	CODE_UNLOAD,	/* free */
	CODE_OPS,
};

static const char *const op_names[] = {
	[CODE_LOAD] = "code_load",
	[CODE_CHURN] = "code_churn",
	[CODE_UNLOAD] = "code_unload",
};

/* Between which marks the operations of a kind lie. */
enum mark {
	MARK_BEFORE,
	MARK_LOADED,
	MARK_CHURNED,
	MARK_UNLOADED,
	MARKS,
};

/* What the summary shows of a policy. */
struct code_result {
	bool done;
	struct report_state states[CODE_PHASES];
	struct execmem_stats execmem[CODE_PHASES];
	struct cost cost[CODE_OPS];
};

static void *objects[OBJECTS];
static u32 ticks[CODE_OPS][SAMPLES_MAX];
static struct code_result results[EXECMEM_POLICIES];

struct code_run {
	enum execmem_policy policy;
	struct code_result *result;
	struct rng rng;
	struct samples samples[CODE_OPS];
	struct tlb_stats tlb[MARKS];
	struct temp_map_stats temp[MARKS];
};

static u32 object_size(struct rng *rng)
{
	u64 kind = rng_below(rng, 4);

	if (kind < 2)
		return (u32)(OBJECT_MIN + rng_below(rng, 500 - OBJECT_MIN));
	return (u32)(kind == 2 ? 500 + rng_below(rng, 1500) : 2048 + rng_below(rng, OBJECT_MAX - 2048 + 1));
}

/* Ticks spent on it, in *spent. */
static bool load(struct code_run *run, unsigned slot, u64 *spent)
{
	u32 size = object_size(&run->rng), value;
	int filled = -1, sealed = -1;
	u64 start;

	codegen_function(&run->rng, image, size, 0, NULL, &value);
	start = arch_cycles();
	objects[slot] = execmem_alloc(EXECMEM_TEXT, size, 0);
	if (objects[slot]) {
		filled = execmem_fill(objects[slot], image, size);
		sealed = execmem_seal(objects[slot]);
	}
	*spent = arch_cycles() - start;
	if (!CHECK(objects[slot] != NULL) || !CHECK_EQ(filled, 0) || !CHECK_EQ(sealed, 0))
		return false;
	return CHECK_EQ(call_object(objects[slot], size, value), value);
}

static u64 unload(unsigned slot)
{
	u64 start = arch_cycles();

	execmem_free(objects[slot]);
	objects[slot] = NULL;
	return arch_cycles() - start;
}

static void write_phase(struct code_run *run, enum code_phase phase)
{
	struct report_state *r = &run->result->states[phase], *b = &run->result->states[CODE_BEFORE];
	struct execmem_stats *e = &run->result->execmem[phase];
	char words[LAB_WORDS];

	report_read(r);
	report_sample();
	execmem_read_stats(EXECMEM_TYPES, e);
	log_info("lab workload=code policy=%s memory=fresh collapse=eager cpus=%u n=%u phase=%s %s asked=%llu used=%llu wasted=%llu "
		 "exec_leaves_4k=%llu exec_leaves_2m=%llu",
		 execmem_policy_name(run->policy), measure_cpus(), OBJECTS, phase_names[phase], lab_map_words(words, r, b), ULL(e->asked),
		 ULL(e->used), ULL(e->wasted), ULL(e->leaves_4k), ULL(e->leaves_2m));
}

static void mark(struct code_run *run, enum mark at)
{
	tlb_read_stats(&run->tlb[at]);
	temp_map_read_stats(&run->temp[at]);
}

static bool load_all(struct code_run *run)
{
	u64 spent;

	for (unsigned i = 0; i < OBJECTS; i++) {
		if (!load(run, i, &spent))
			return false;
		samples_add(&run->samples[CODE_LOAD], 0, spent);
	}
	return true;
}

/* One object at random is freed, and another one takes its place. */
static bool churn(struct code_run *run)
{
	for (unsigned i = 0; i < CHURN; i++) {
		unsigned slot = (unsigned)rng_below(&run->rng, OBJECTS);
		u64 freed = unload(slot), loaded;

		if (!load(run, slot, &loaded))
			return false;
		samples_add(&run->samples[CODE_CHURN], 0, freed + loaded - MIN(measure_overhead(), freed));
	}
	return true;
}

static void run_code(struct code_run *run)
{
	bool ok;

	write_phase(run, CODE_BEFORE);
	mark(run, MARK_BEFORE);
	ok = load_all(run);
	mark(run, MARK_LOADED);
	write_phase(run, CODE_LOADED);
	ok = ok && churn(run);
	mark(run, MARK_CHURNED);
	write_phase(run, CODE_CHURNED);
	CHECK_EQ(execmem_check(), 0);
	for (unsigned i = 0; i < OBJECTS; i++)
		if (objects[i])
			samples_add(&run->samples[CODE_UNLOAD], 0, unload(i));
	mark(run, MARK_UNLOADED);
	unmapped_shrink(UNMAPPED_ALL);
	pt_settle(&kernel_space);
	write_phase(run, CODE_AFTER);
	CHECK(ok);
}

static void write_costs(struct code_run *run)
{
	char more[128];

	for (unsigned op = 0; op < CODE_OPS; op++) {
		struct cost *cost = &run->result->cost[op];

		*cost = cost_of(&run->samples[op], &run->tlb[op], &run->tlb[op + 1]);
		fmt_print(more, sizeof(more), "policy=%s workload=code memory=fresh collapse=eager pages=%u local_temp_flushes=%llu",
			  execmem_policy_name(run->policy), OBJECTS,
			  ULL(run->temp[op + 1].local_flushes - run->temp[op].local_flushes));
		cost_write(op_names[op], more, cost);
	}
}

/* ---- What must be true of a row ---- */

/* Blocks in use, by their leaves: one of 2 MiB, or a table of 4 KiB ones. */
static u64 blocks_of(const struct execmem_stats *e)
{
	return e->leaves_2m + e->leaves_4k / PT_ENTRIES;
}

static void check_run(const struct code_run *run)
{
	const struct code_result *r = run->result;
	const struct report_state *b = &r->states[CODE_BEFORE], *c = &r->states[CODE_CHURNED], *a = &r->states[CODE_AFTER];
	const struct execmem_stats *e = &r->execmem[CODE_AFTER];

	CHECK_EQ(e->asked + e->used + e->held + e->regions, 0);
	CHECK_EQ(a->map.direct_map_4k, b->map.direct_map_4k);
	CHECK_EQ(a->map.direct_map_2m, b->map.direct_map_2m);
	CHECK_EQ(a->map.direct_map_1g, b->map.direct_map_1g);
	CHECK_EQ(a->direct_tables, b->direct_tables);
	/* The churn leaves as many objects as there were. */
	CHECK_EQ(r->execmem[CODE_CHURNED].allocs - r->execmem[CODE_CHURNED].frees, OBJECTS + e->allocs - e->frees);
	CHECK_EQ(r->cost[CODE_LOAD].nr, OBJECTS);
	CHECK_EQ(r->cost[CODE_CHURN].nr, CHURN);
	CHECK_EQ(r->cost[CODE_UNLOAD].nr, OBJECTS);
	if (run->policy == EXECMEM_PAGES)
		return;
	/* No object splits anything; and the holes of the churn are filled, not walked away from. */
	CHECK_EQ(c->map.direct_map_level2_splits, b->map.direct_map_level2_splits);
	CHECK(blocks_of(&r->execmem[CODE_CHURNED]) <= blocks_of(&r->execmem[CODE_LOADED]) + 2);
}

static unsigned count_policies(void)
{
	return EXECMEM_POLICIES;
}

static void name_policy(unsigned row, char *buf, size_t size)
{
	static const char *const names[] = { "pages", "pack", "huge", "huge_tail" };

	fmt_print(buf, size, "%s", names[row]);
}

TEST_ROWS(lab_code, row, "XM1 XM2 XM5 RP1", TEST_FIGURES, count_policies, name_policy)
{
	struct code_run run = { .policy = (enum execmem_policy)test_row(), .rng = { test_seed ^ OBJECTS } };
	enum execmem_policy old = execmem_policy();
	enum pt_collapse_policy collapse;

	if (lab_mode == LAB_RUN_OFF)
		SKIP("lab=off");
	if (run.policy == EXECMEM_PAGES && (pt_bbm > 0 || (pt_bbm < 0 && arch_mm.bbm == ARCH_BBM_ALL)))
		SKIP("break-before-make refuses frames beside what it runs on: not every page can be re-protected");
	run.result = &results[run.policy];
	for (unsigned op = 0; op < CODE_OPS; op++)
		run.samples[op].ticks = ticks[op];
	/* Not before: this puts together what an earlier run under collapse=off left in pieces. */
	collapse = fixture_policy(PT_COLLAPSE_EAGER);
	REQUIRE(execmem_set_policy(run.policy) == 0);
	run_code(&run);
	write_costs(&run);
	check_run(&run);
	run.result->done = true;
	CHECK_EQ(execmem_set_policy(old), 0);
	fixture_policy(collapse);
}

/* ---- The summary ---- */

static u64 splits_of(const struct report_state *s)
{
	return s->map.direct_map_level2_splits + s->map.direct_map_level3_splits;
}

static u64 flushes_of(const struct report_state *s)
{
	return s->tlb.nr_tlb_local_flush_all + s->tlb.nr_tlb_local_flush_one;
}

static void write_result(enum execmem_policy policy)
{
	const struct code_result *r = &results[policy];
	const struct report_state *b = &r->states[CODE_BEFORE], *c = &r->states[CODE_CHURNED], *a = &r->states[CODE_AFTER];
	const struct execmem_stats *e = &r->execmem[CODE_CHURNED];
	struct report_line line = { .length = 0 };

	line_add(&line, "  %-10s", execmem_policy_name(policy));
	line_number(&line, 8, b->map.leaves);
	line_number(&line, 10, c->map.leaves);
	line_number(&line, 10, a->map.leaves);
	line_number(&line, 10, splits_of(a) - splits_of(b));
	line_number(&line, 10, flushes_of(a) - flushes_of(b));
	line_number(&line, 10, e->leaves_4k);
	line_number(&line, 8, e->leaves_2m);
	line_number(&line, 12, e->asked);
	line_number(&line, 12, e->wasted);
	for (unsigned op = 0; op < CODE_OPS; op++)
		if (measure_cpus() == 1)
			line_number(&line, 10, r->cost[op].mean);
	line_write(&line);
}

static unsigned results_there(void)
{
	unsigned nr = 0;

	for (unsigned policy = 0; policy < EXECMEM_POLICIES; policy++)
		nr += results[policy].done;
	return nr;
}

void lab_code_summary(void)
{
	if (!results_there())
		return;
	log_info("code: %u objects are loaded, %u times one is freed and another loaded, all are unloaded. Leaves of the", OBJECTS,
		 CHURN);
	log_info("direct map before, with all of them there, and when all are gone; leaves and bytes of executable memory");
	log_info("with all there; what one load, one change, one unload costs on average, in %s",
		 measure_exact() ? "instructions" : measure_unit());
	log_info("  %-10s%8s%10s%10s%10s%10s%10s%8s%12s%12s%s", "policy", "before", "loaded", "after", "splits", "flushes",
		 "4K", "2M", "asked", "wasted", measure_cpus() == 1 ? "      load    change    unload" : "");
	for (unsigned policy = 0; policy < EXECMEM_POLICIES; policy++)
		if (results[policy].done)
			write_result(policy);
	log_info("%s", "");
}
