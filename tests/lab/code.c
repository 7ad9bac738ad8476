/* SPDX-License-Identifier: MIT */
/*
 * The code workload: objects of real x86 code are loaded, churned and unloaded under each policy of execmem. Sizes: half
 * below 500 bytes, a quarter 500 to 2000, a quarter 2 to 16 KiB. Each object loads a value of its own into EAX, runs
 * through padding that leaves EAX alone, and returns; it is called after every fill.
 *
 * `# lab workload=code …` at the phases before, loaded, churned and after; `# cost op=code_load`, `op=code_unload`.
 */
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/directmap.h"
#include "mm/execmem.h"
#include "mm/unmapped.h"
#include "tests/fixture.h"
#include "tests/lab/lab.h"
#include "tests/test.h"

#define ULL(x) ((unsigned long long)(x))
#define OBJECT_MIN 64u
#define OBJECT_MAX (16u * 1024)

/* A hosted machine is simulated: it loads fewer, and cannot run them at the kernel's addresses. */
#if __STDC_HOSTED__
#define OBJECTS 100u
#define CHURN 250u

static u32 call_object(const void *object, u32 expected)
{
	(void)object;
	return expected;
}
#else
#define OBJECTS 2000u
#define CHURN 5000u

static u32 call_object(const void *object, u32 expected)
{
	u32 (*fn)(void) = (u32 (*)(void))(u64)object;

	(void)expected;
	return fn();
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

/* Instructions that leave EAX as it is: the SDM's long NOPs, and moves and tests of registers that a caller does not keep. */
static const struct {
	u8 length;
	u8 bytes[5];
} padding[] = {
	{ 1, { 0x90 } },			/* nop */
	{ 2, { 0x66, 0x90 } },			/* xchg ax, ax */
	{ 2, { 0x89, 0xc9 } },			/* mov ecx, ecx */
	{ 2, { 0x85, 0xc0 } },			/* test eax, eax */
	{ 3, { 0x48, 0x89, 0xd2 } },		/* mov rdx, rdx */
	{ 3, { 0x0f, 0x1f, 0x00 } },		/* nop dword [rax] */
	{ 5, { 0x0f, 0x1f, 0x44, 0x00, 0x00 } },/* nop dword [rax + rax + 0] */
	{ 5, { 0xb9, 0x78, 0x56, 0x34, 0x12 } },/* mov ecx, imm32 */
};

static u8 image[OBJECT_MAX];
static void *objects[OBJECTS];
static u32 ticks[2][SAMPLES_MAX];
static struct report_state states[CODE_PHASES];

static u32 object_size(struct rng *rng)
{
	u64 kind = rng_below(rng, 4);

	if (kind < 2)
		return (u32)(OBJECT_MIN + rng_below(rng, 500 - OBJECT_MIN));
	return (u32)(kind == 2 ? 500 + rng_below(rng, 1500) : 2048 + rng_below(rng, OBJECT_MAX - 2048 + 1));
}

/* Code of this size that returns the value, into image[]. */
static void generate(struct rng *rng, u32 size, u32 value)
{
	u32 at = 5;

	image[0] = 0xb8;			/* mov eax, imm32 */
	memcpy(image + 1, &value, sizeof(value));
	while (at < size - 1) {
		u64 i = rng_below(rng, ARRAY_SIZE(padding));

		if (padding[i].length > size - 1 - at)
			i = 0;
		memcpy(image + at, padding[i].bytes, padding[i].length);
		at += padding[i].length;
	}
	image[at] = 0xc3;			/* ret */
}

static bool load(struct rng *rng, unsigned slot, struct samples *s)
{
	u32 size = object_size(rng), value = (u32)rng_next(rng);
	int filled = -1, sealed = -1;
	u64 start;

	generate(rng, size, value);
	start = arch_cycles();
	objects[slot] = execmem_alloc(EXECMEM_TEXT, size, 0);
	if (objects[slot]) {
		filled = execmem_fill(objects[slot], image, size);
		sealed = execmem_seal(objects[slot]);
	}
	samples_add(s, start, arch_cycles());
	if (!CHECK(objects[slot] != NULL) || !CHECK_EQ(filled, 0) || !CHECK_EQ(sealed, 0))
		return false;
	return CHECK_EQ(call_object(objects[slot], value), value);
}

static void unload(unsigned slot, struct samples *s)
{
	u64 start = arch_cycles();

	execmem_free(objects[slot]);
	samples_add(s, start, arch_cycles());
	objects[slot] = NULL;
}

static void write_phase(enum execmem_policy policy, enum code_phase phase)
{
	struct report_state *r = &states[phase], *b = &states[CODE_BEFORE];
	struct execmem_stats e;

	report_read(r);
	report_sample();
	execmem_read_stats(EXECMEM_TYPES, &e);
	log_info("lab workload=code policy=%s memory=fresh collapse=eager cpus=%u n=%u phase=%s leaves_4k=%llu leaves_2m=%llu "
		 "leaves_1g=%llu fewest=%llu level2_splits=%llu level3_splits=%llu level2_collapses=%llu "
		 "level3_collapses=%llu tables=%llu flush_all=%llu flush_one=%llu remote_flush=%llu "
		 "pages_invalidated=%llu asked=%llu used=%llu wasted=%llu exec_leaves_4k=%llu exec_leaves_2m=%llu",
		 execmem_policy_name(policy), measure_cpus(), OBJECTS, phase_names[phase],
		 ULL(r->map.direct_map_4k / (4 * KIB)), ULL(r->map.direct_map_2m / (2 * MIB)),
		 ULL(r->map.direct_map_1g / GIB), ULL(r->map.fewest_leaves),
		 ULL(r->map.direct_map_level2_splits - b->map.direct_map_level2_splits),
		 ULL(r->map.direct_map_level3_splits - b->map.direct_map_level3_splits),
		 ULL(r->map.direct_map_level2_collapses - b->map.direct_map_level2_collapses),
		 ULL(r->map.direct_map_level3_collapses - b->map.direct_map_level3_collapses), ULL(r->direct_tables),
		 ULL(r->tlb.nr_tlb_local_flush_all - b->tlb.nr_tlb_local_flush_all),
		 ULL(r->tlb.nr_tlb_local_flush_one - b->tlb.nr_tlb_local_flush_one),
		 ULL(r->tlb.nr_tlb_remote_flush - b->tlb.nr_tlb_remote_flush),
		 ULL(r->tlb.pages_invalidated - b->tlb.pages_invalidated), ULL(e.asked), ULL(e.used), ULL(e.wasted),
		 ULL(e.leaves_4k), ULL(e.leaves_2m));
}

static void run_code(enum execmem_policy policy, struct samples *in, struct samples *out)
{
	struct rng rng = { test_seed ^ OBJECTS };
	bool ok = true;

	write_phase(policy, CODE_BEFORE);
	for (unsigned i = 0; i < OBJECTS && ok; i++)
		ok = load(&rng, i, in);
	write_phase(policy, CODE_LOADED);
	/* Freed and allocated at random: an odd draw takes an object away, the next one on the slot brings another. */
	for (unsigned i = 0; i < CHURN && ok; i++) {
		unsigned slot = (unsigned)rng_below(&rng, OBJECTS);

		if (objects[slot])
			unload(slot, out);
		else
			ok = load(&rng, slot, in);
	}
	write_phase(policy, CODE_CHURNED);
	CHECK_EQ(execmem_check(), 0);
	for (unsigned i = 0; i < OBJECTS; i++)
		if (objects[i])
			unload(i, out);
	unmapped_shrink(UNMAPPED_ALL);
	pt_settle(&kernel_space);
	write_phase(policy, CODE_AFTER);
}

static void write_cost(const char *op, enum execmem_policy policy, struct samples *s)
{
	static const struct tlb_stats none;
	struct cost cost = cost_of(s, &none, &none);
	char more[80];

	fmt_print(more, sizeof(more), "policy=%s workload=code memory=fresh collapse=eager pages=%u",
		  execmem_policy_name(policy), OBJECTS);
	cost_write(op, more, &cost);
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
	enum execmem_policy policy = (enum execmem_policy)test_row(), old = execmem_policy();
	enum pt_collapse_policy collapse;
	struct samples in = { ticks[0], 0 }, out = { ticks[1], 0 };
	const struct report_state *b = &states[CODE_BEFORE], *c = &states[CODE_CHURNED], *a = &states[CODE_AFTER];
	struct execmem_stats e;

	if (lab_mode == LAB_RUN_OFF)
		SKIP("lab=off");
	/* Not before: this puts together what an earlier run under collapse=off left in pieces. */
	collapse = fixture_policy(PT_COLLAPSE_EAGER);
	REQUIRE(execmem_set_policy(policy) == 0);
	run_code(policy, &in, &out);
	execmem_read_stats(EXECMEM_TYPES, &e);
	CHECK_EQ(e.asked, 0);
	CHECK_EQ(a->map.direct_map_4k, b->map.direct_map_4k);
	CHECK_EQ(a->map.direct_map_2m, b->map.direct_map_2m);
	CHECK_EQ(a->map.direct_map_1g, b->map.direct_map_1g);
	CHECK_EQ(a->direct_tables, b->direct_tables);
	if (policy == EXECMEM_HUGE || policy == EXECMEM_HUGE_TAIL)
		CHECK_EQ(c->map.direct_map_level2_splits, b->map.direct_map_level2_splits);
	write_cost("code_load", policy, &in);
	write_cost("code_unload", policy, &out);
	CHECK_EQ(execmem_set_policy(old), 0);
	fixture_policy(collapse);
}
