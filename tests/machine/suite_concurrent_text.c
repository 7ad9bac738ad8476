/* SPDX-License-Identifier: MIT */
/*
 * Executable memory beside changes of the same gigabyte (PT3, PT4, XM2): two threads load code, call it and free it; two take single frames
 * out of the direct map and put them back, and make the unmapped cache take blocks and give them back, so that leaves are split and put
 * together; one audits. With fewer CPUs they take turns on them. What code returns depends on each of its bytes.
 *
 * One object stays for the whole time, and the frames that are changed lie in its gigabyte: there other objects are packed beside it.
 */
#include "arch/x86_64/trap.h"
#include "kernel/base/atomic.h"
#include "kernel/base/fmt.h"
#include "kernel/base/string.h"
#include "kernel/cmdline.h"
#include "mm/arch.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/execmem.h"
#include "mm/pt_audit.h"
#include "mm/unmapped.h"
#include "tests/codegen.h"
#include "tests/fixture.h"
#include "tests/machine/crew.h"
#include "tests/machine/trial.h"
#include "tests/test.h"

#define FILLERS 2u
#define CHANGERS 2u
#define CHANGES 4u		/* of frames, for each object */
#define OBJECTS_SAMPLED 24u	/* of each filler */
#define OBJECTS_SOAK 20000u
#define CODE_MAX 6000u
#define PAUSE_NS 500000u
#define PROTECTED 3u		/* page fault: present, a write (SDM 3A 4.7) */

static struct {
	u64 seed;
	u32 objects;		/* that a filler makes */
	struct page *block;	/* 2 MiB: frames that are changed, every other one by each changer */
	u64 gigabyte;		/* number of the one it lies in */
	u32 fillers_done;
	u32 failed_calls;
	u32 wrong_code, wrong_rights, wrong_frames;
	u32 loaded, in_gigabyte, changed;
	u32 audits, violations;
} text;

static u8 images[FILLERS + 1][CODE_MAX];

static void count_unless(bool ok, u32 *counter)
{
	if (!ok)
		fetch_add(counter, 1);
}

/* ---- Who fills ---- */

/* One object: n bytes of code, and what is behind it. */
struct object {
	u8 *p;
	u64 size, n;
	u32 value;		/* that the code returns */
};

struct call {
	u32 (*fn)(void);
	u32 value;
};

static void call_it(void *arg)
{
	struct call *c = arg;

	c->value = c->fn();
}

static void check_object(const struct object *o)
{
	struct call c = { (u32 (*)(void))(u64)o->p, ~o->value };
	u64 last = (u64)o->p + o->size - sizeof(u64), pa = fixture_pa((u64)o->p);

	count_unless(trap_try(call_it, &c, NULL) && c.value == o->value, &text.wrong_code);
	count_unless(o->n == o->size || o->p[o->n] == EXECMEM_INT3, &text.wrong_code);
	count_unless(trial_write((u64)o->p) == PROTECTED && trial_write(last) == PROTECTED, &text.wrong_rights);
	count_unless(trial_write(phys_to_va(phys(pa))) != TRIAL_OK, &text.wrong_rights);
	fetch_add(&text.in_gigabyte, pa / GIB == text.gigabyte);
	fetch_add(&text.loaded, 1);
}

static bool load_object(struct object *o, struct rng *rng, u8 *image, u64 n, u64 size)
{
	*o = (struct object){ execmem_alloc(EXECMEM_TEXT, size, 0), size, n, 0 };
	if (!o->p)
		return false;
	codegen_function(rng, image, n, (u64)o->p, NULL, &o->value);
	count_unless(!execmem_fill(o->p, image, n) && !execmem_seal(o->p), &text.failed_calls);
	return true;
}

/* Now and then one that takes a block of its own, and gives it back. */
static void fill(void *arg)
{
	u32 me = (u32)(u64)arg;
	struct rng rng = { text.seed + me };

	for (u32 i = 0; i < text.objects; i++) {
		u64 n = CODEGEN_MIN + rng_below(&rng, CODE_MAX - CODEGEN_MIN + 1);
		struct object o;

		if (load_object(&o, &rng, images[me], n, rng_below(&rng, 8) ? n : 2 * MIB)) {
			check_object(&o);
			execmem_free(o.p);
		}
		thread_yield();
	}
	fetch_add(&text.fillers_done, 1);
}

/* ---- Who changes what lies beside ---- */

static void change_frame(pfn_t pfn, u64 name)
{
	u64 va = phys_to_va(phys(pfn << PAGE_SHIFT)), seen = 0;

	*(volatile u64 *)va = name;
	count_unless(!set_direct_map_invalid(pfn, 1), &text.failed_calls);
	count_unless(trial_write(va) != TRIAL_OK, &text.wrong_frames);
	count_unless(!set_direct_map_default(pfn, 1), &text.failed_calls);
	count_unless(trap_read_u64(va, &seen) && seen == name && trial_write(va) == TRIAL_OK, &text.wrong_frames);
	fetch_add(&text.changed, 1);
}

static void refill_and_return(void)
{
	struct page *page = unmapped_pages_alloc(0, 0, 0, NULL);

	if (!page)
		return;
	count_unless(trial_write(phys_to_va(page_to_phys(page))) != TRIAL_OK, &text.wrong_frames);
	unmapped_pages_free(page, 0);
	unmapped_shrink(UNMAPPED_ALL);
}

/* Some work beside each object: else they would do nothing but keep the fillers waiting. */
static bool goes_on(u32 *seen)
{
	while (load_relaxed(&text.loaded) == *seen && load_acquire(&text.fillers_done) < FILLERS)
		thread_sleep(PAUSE_NS);
	*seen = load_relaxed(&text.loaded);
	return load_acquire(&text.fillers_done) < FILLERS;
}

static void change(void *arg)
{
	u32 me = (u32)(u64)arg, seen = 0;
	struct rng rng = { text.seed - 1 - me };

	do {
		for (u32 i = 0; i < CHANGES; i++) {
			u64 page = rng_below(&rng, BIT(ORDER_2M) / CHANGERS) * CHANGERS + me;

			change_frame(page_to_pfn(text.block) + page, rng_next(&rng));
		}
		if (!rng_below(&rng, 4))
			refill_and_return();
	} while (goes_on(&seen));
}

static void audit_on(void *arg)
{
	u32 seen = 0;

	(void)arg;
	do {
		struct pt_audit audit;

		count_unless(!pt_audit(&audit), &text.violations);
		fetch_add(&text.audits, 1);
	} while (goes_on(&seen));
}

/* ---- The tests ---- */

static bool make_world(struct object *stays, enum execmem_policy policy)
{
	struct rng rng = test_rng();

	memset(&text, 0, sizeof(text));
	text.seed = rng_next(&rng);
	text.objects = cmdline.soak ? OBJECTS_SOAK : OBJECTS_SAMPLED;
	if (!CHECK_EQ(execmem_set_policy(policy), 0) ||
	    !CHECK(load_object(stays, &rng, images[FILLERS], CODEGEN_MIN, CODEGEN_MIN)))
		return false;
	text.gigabyte = fixture_pa((u64)stays->p) / GIB;
	text.block = fixture_block_in(text.gigabyte);
	return CHECK(text.block != NULL);
}

static void unmake_world(struct object *stays, enum execmem_policy policy)
{
	if (text.block)
		free_pages(text.block, ORDER_2M);
	execmem_free(stays->p);
	unmapped_shrink(UNMAPPED_ALL);
	CHECK_EQ(execmem_set_policy(policy), 0);
}

static bool refuses_single_frames(void)
{
	return pt_bbm > 0 || (pt_bbm < 0 && arch_mm.bbm == ARCH_BBM_ALL);
}

static const enum execmem_policy policies[] = { EXECMEM_PAGES, EXECMEM_HUGE };

static unsigned count_policies(void)
{
	return ARRAY_SIZE(policies);
}

static void name_policy(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "text_beside_collapse.%s", execmem_policy_name(policies[row]));
}

TEST_ROWS(concurrent, text_beside_collapse, "PT3 PT4 PT5 XM2 XM3", 0, count_policies, name_policy)
{
	static const struct crew_role roles[] = { { "filler", fill, 0 },	{ "changer", change, 0 }, { "filler", fill, 1 },
						  { "changer", change, 1 }, { "auditor", audit_on, 0 } };
	enum execmem_policy before = execmem_policy();
	struct fixture_events was, now;
	struct object stays = { 0 };

	if (refuses_single_frames())
		SKIP("break-before-make refuses frames beside what it runs on");
	if (make_world(&stays, policies[test_row()])) {
		fixture_events(&was);
		crew_play(roles, ARRAY_SIZE(roles));
		fixture_events(&now);
		check_object(&stays);
		CHECK_EQ(execmem_check(), 0);
		CHECK_EQ(text.failed_calls, 0);
		CHECK_EQ(text.wrong_code, 0);
		CHECK_EQ(text.wrong_rights, 0);
		CHECK_EQ(text.wrong_frames, 0);
		CHECK_EQ(text.violations, 0);
		CHECK(text.loaded > FILLERS && text.in_gigabyte > 0 && text.changed > 0 && text.audits > 0);
		CHECK(kernel_space.policy != PT_COLLAPSE_EAGER || now.collapses[PT_2M] > was.collapses[PT_2M]);
		test_note("loaded=%u in_the_gigabyte=%u changed=%u audits=%u splits=%llu collapses=%llu", text.loaded,
			  text.in_gigabyte, text.changed, text.audits, (unsigned long long)(now.splits[PT_2M] - was.splits[PT_2M]),
			  (unsigned long long)(now.collapses[PT_2M] - was.collapses[PT_2M]));
	}
	unmake_world(&stays, before);
}

/* The control: an object that is not what was filled in, and one that can be written by another address. */
TEST_ID(concurrent, text_that_is_wrong_is_noticed, "XM2")
{
	static const u8 trap = EXECMEM_INT3;
	enum execmem_policy before = execmem_policy();
	struct object stays = { 0 };
	struct fixture_area a;

	if (make_world(&stays, EXECMEM_HUGE) && fixture_area_get(&a, PAGE_SIZE, PAGE_SIZE)) {
		check_object(&stays);
		CHECK_EQ(text.wrong_code + text.wrong_rights, 0);
		CHECK_EQ(execmem_fill(stays.p, &trap, 1), 0);
		check_object(&stays);
		CHECK_EQ(text.wrong_code, 1);
		CHECK_EQ(execmem_fill(stays.p, images[FILLERS], stays.n), 0);
		check_object(&stays);
		CHECK_EQ(text.wrong_code, 1);
		stays.value++;
		check_object(&stays);
		CHECK_EQ(text.wrong_code, 2);
		/* Memory that can be written is no text. */
		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, PAGE_SIZE), page_to_phys(text.block).raw, fixture_attrs(), 0), 0);
		stays.value--;
		check_object(&(struct object){ (u8 *)a.va, stays.n, stays.n, stays.value });
		CHECK_EQ(text.wrong_rights, 2);
		/* By the same way as it came: its alias was counted by neither. */
		CHECK_EQ(fixture_change(PT_OP_UNMAP, range_len(a.va, PAGE_SIZE), 0, 0, 0), 0);
		fixture_area_put(&a);
	}
	unmake_world(&stays, before);
}
