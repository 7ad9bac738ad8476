/* SPDX-License-Identifier: MIT */
/*
 * What executable memory costs, in instructions and in bytes (issue 3, Must show).
 *
 *	# cost op=execmem_alloc_fill_free policy=… n=… insns=…	an object of 400 bytes, beside so many others
 *	# execmem policy=… objects=… asked=… used=… held=… wasted=…
 */
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "mm/directmap.h"
#include "mm/execmem.h"
#include "mm/temp_map.h"
#include "mm/text_poke.h"
#include "mm/unmapped.h"
#include "tests/lab/measure.h"
#include "tests/test.h"

#define REPEATS 64u
#define OBJECT 400u
#define COST_GOAL 2500u		/* instructions, under huge and huge+tail */
#define COST_GOAL_BESIDE 3000u	/* beside 2,000 others, where a tree by chance is some 20 deep; under pack too */
#define OBJECTS_MAX 2000u

static void *objects[OBJECTS_MAX];
static u32 ticks[SAMPLES_MAX];
static u8 bytes[OBJECT];

/* ---- Sizes ---- */

/*
 * The debate's: half below 500 bytes, three quarters below 2 KiB, the rest up to `largest`. With 4 KiB,
 * 140 objects are the 140 pages (560 kB) that were measured on a server there.
 */
static u64 object_size(struct rng *rng, u64 largest)
{
	u64 kind = rng_below(rng, 4);

	if (kind < 2)
		return 64 + rng_below(rng, 436);
	return kind == 2 ? 500 + rng_below(rng, 1500) : 2000 + rng_below(rng, largest - 2000);
}

static unsigned load(unsigned nr, u64 largest)
{
	struct rng rng = { 1 };
	unsigned n = 0;

	for (; n < nr; n++) {
		objects[n] = execmem_alloc(EXECMEM_TEXT, object_size(&rng, largest), 0);
		if (!CHECK(objects[n] != NULL))
			break;
		CHECK_EQ(execmem_seal(objects[n]), 0);
	}
	return n;
}

static void unload(unsigned nr)
{
	while (nr--)
		execmem_free(objects[nr]);
	unmapped_shrink(UNMAPPED_ALL);
}

/* ---- Instructions ---- */

static const struct cost_row {
	enum execmem_policy policy;
	unsigned others;
} cost_rows[] = {
	{ EXECMEM_PAGES, 1 },	  { EXECMEM_PACK, 1 },	     { EXECMEM_HUGE, 1 },	    { EXECMEM_HUGE_TAIL, 1 },
	{ EXECMEM_PAGES, 2000 }, { EXECMEM_PACK, 2000 }, { EXECMEM_HUGE, 2000 }, { EXECMEM_HUGE_TAIL, 2000 },
};

static unsigned count_costs(void)
{
	return ARRAY_SIZE(cost_rows);
}

static void name_cost(unsigned row, char *buf, size_t size)
{
	enum execmem_policy policy = cost_rows[row].policy;

	fmt_print(buf, size, "execmem_alloc_fill_free.%s.%u",
		  policy == EXECMEM_HUGE_TAIL ? "huge_tail" : execmem_policy_name(policy), cost_rows[row].others);
}

struct sums {
	struct tlb_stats tlb;
	struct temp_map_stats temp;
	struct directmap_stats map;
};

static void read_sums(struct sums *s)
{
	tlb_read_stats(&s->tlb);
	temp_map_read_stats(&s->temp);
	directmap_read_stats(&s->map);
}

/* One object's life: allocate, fill, make it final where the policy asks for that, free. */
static void live(struct samples *samples)
{
	bool seal = execmem_params(execmem_policy(), EXECMEM_TEXT)->flags & EXECMEM_REPROTECT;
	u64 start = arch_cycles(), end;
	void *object = execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
	int rc = object ? execmem_fill(object, bytes, OBJECT) : -1;

	if (!rc && seal)
		rc = execmem_seal(object);
	execmem_free(object);
	end = arch_cycles();
	samples_add(samples, start, end);
	CHECK_EQ(rc, 0);
}

TEST_ROWS(costs, execmem, "XM2 RP1", TEST_FIGURES, count_costs, name_cost)
{
	const struct cost_row *row = &cost_rows[test_row()];
	enum execmem_policy before_policy = execmem_policy();
	struct samples samples = { .ticks = ticks };
	struct sums before, after;
	struct cost cost;
	u64 windows;
	char words[128];
	unsigned others;

	REQUIRE(CHECK_EQ(execmem_set_policy(row->policy), 0));
	others = load(row->others, 16 * KIB);
	live(&samples);
	samples.nr = 0;
	read_sums(&before);
	for (unsigned i = 0; i < REPEATS; i++)
		live(&samples);
	read_sums(&after);
	unload(others);
	CHECK_EQ(execmem_set_policy(before_policy), 0);
	cost = cost_of(&samples, &before.tlb, &after.tlb);
	fmt_print(words, sizeof(words), "policy=%s others=%u size=%u local_temp_flushes=%llu level2_splits=%llu",
		  execmem_policy_name(row->policy), row->others, OBJECT,
		  (unsigned long long)(after.temp.local_flushes - before.temp.local_flushes),
		  (unsigned long long)(after.map.direct_map_level2_splits - before.map.direct_map_level2_splits));
	cost_write("execmem_alloc_fill_free", words, &cost);
	if (row->policy == EXECMEM_PAGES)
		return;
	CHECK_EQ(cost.flushes, 0);
	CHECK_EQ(after.map.direct_map_level2_splits, before.map.direct_map_level2_splits);
	CHECK_EQ(after.map.direct_map_level3_splits, before.map.direct_map_level3_splits);
	/* A block is taken and given back with others in it: nothing is flushed but the window, once to fill and once to free. */
	windows = after.temp.local_flushes - before.temp.local_flushes;
	CHECK(windows == 2 * REPEATS || windows == 4 * REPEATS);	/* of one page, or of two */
	if (!measure_exact() || measure_cpus() > 1 || CONFIG_DEBUG)
		return;
	CHECK(cost.median <= COST_GOAL_BESIDE);
	if (row->policy >= EXECMEM_HUGE && row->others == 1)
		CHECK(cost.median <= COST_GOAL);
}

/* ---- Bytes ---- */

static const struct waste_row {
	unsigned objects;
	u64 largest;
} waste_rows[] = { { 140, 4 * KIB }, { 2000, 16 * KIB } };

static void write_waste(enum execmem_policy policy, const struct waste_row *row, struct execmem_stats *s)
{
	struct directmap_stats before, after;
	unsigned nr;

	directmap_read_stats(&before);
	nr = load(row->objects, row->largest);
	directmap_read_stats(&after);
	execmem_read_stats(EXECMEM_TYPES, s);
	log_info("execmem policy=%s objects=%u asked=%llu used=%llu held=%llu wasted=%llu tail=%llu leaves_4k=%llu leaves_2m=%llu "
		 "level2_splits=%llu level3_splits=%llu",
		 execmem_policy_name(policy), nr, (unsigned long long)s->asked, (unsigned long long)s->used,
		 (unsigned long long)s->held, (unsigned long long)s->wasted, (unsigned long long)s->tail_bytes,
		 (unsigned long long)s->leaves_4k, (unsigned long long)s->leaves_2m,
		 (unsigned long long)(after.direct_map_level2_splits - before.direct_map_level2_splits),
		 (unsigned long long)(after.direct_map_level3_splits - before.direct_map_level3_splits));
	unload(nr);
}

/*
 * 140 objects in 140 pages are the seed's 560 kB; packed they take what it estimates, 200 kB, of a block
 * or of the text tail.
 */
TEST_FLAGS(costs, execmem_bytes_wasted, "XM5 XM9", TEST_FIGURES)
{
	enum execmem_policy before = execmem_policy();
	struct execmem_stats s, pages = { 0 }, packed = { 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(waste_rows); i++)
		for (unsigned policy = 0; policy < EXECMEM_POLICIES; policy++) {
			if (!CHECK_EQ(execmem_set_policy(policy), 0))
				continue;
			write_waste(policy, &waste_rows[i], &s);
			CHECK_EQ(s.wasted, s.held - s.asked);
			if (!i)
				*(policy == EXECMEM_PAGES ? &pages : &packed) = s;
			if (policy == EXECMEM_PAGES && waste_rows[i].largest == 4 * KIB)
				CHECK_EQ(s.held, 140 * PAGE_SIZE);
			if (waste_rows[i].largest == 4 * KIB)
				CHECK(s.used < 200 * 1000 || policy == EXECMEM_PAGES);
		}
	log_info("execmem objects=%u pages_held=%llu packed_used=%llu debate_pages_held=560000 debate_packed_used=200000",
		 waste_rows[0].objects, (unsigned long long)pages.held, (unsigned long long)packed.used);
	CHECK_EQ(execmem_set_policy(before), 0);
}
