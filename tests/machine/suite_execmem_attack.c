/* SPDX-License-Identifier: MIT */
/*
 * Executable memory before a real CPU: code that was filled runs and returns its value, under every
 * policy; and an attack set: writes by every mapping there is, and jumps to everything that is no code.
 * Each raises the exception it should, and the kernel goes on (XM2, PT5).
 */
#include "kernel/base/fmt.h"
#include "kernel/base/string.h"
#include "kernel/cmdline.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/execmem.h"
#include "mm/temp_map.h"
#include "mm/unmapped.h"
#include "mm/vmalloc.h"
#include "tests/codegen.h"
#include "tests/fixture.h"
#include "tests/machine/trial.h"
#include "tests/suite_execmem.h"
#include "tests/test.h"

#define CODE_MAX (16 * KIB)
#define OBJECTS 64u

/* linker.ld */
extern const char _text_start[], _rodata_start[];

static bool have_nx(void)
{
	return arch_mm.pte_mask & PTE_NX;
}

static u64 direct_of(u64 va)
{
	struct pt_slot s = fixture_leaf(va);

	return phys_to_va(phys(pte_leaf_pa(s.value, s.level).raw + (va & (pt_span(s.level) - 1))));
}

/* ---- Code ---- */

static u8 code[CODE_MAX];

/* The kernel, called back by code that was placed anywhere within reach. */
static u32 callbacks;

static u32 called_back(u32 value)
{
	callbacks++;
	return value * 3;
}

struct function {
	u64 va;
	u32 value;
};

static bool make_function(struct function *f, struct rng *rng, u64 size)
{
	f->va = (u64)execmem_alloc(EXECMEM_TEXT, size, 0);
	if (!CHECK(f->va != 0))
		return false;
	codegen_function(rng, code, size, f->va, called_back, &f->value);
	f->value *= 3;
	return CHECK_EQ(execmem_fill((void *)f->va, code, size), 0) && CHECK_EQ(execmem_seal((void *)f->va), 0);
}

static void call_function(const struct function *f)
{
	u32 before = callbacks;

	CHECK_EQ(((u32 (*)(void))f->va)(), f->value);
	CHECK_EQ(callbacks, before + 1);
}

static unsigned count_policies(void)
{
	return EXECMEM_POLICIES;
}

static void name_calls(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "filled_code_runs.%s", row == EXECMEM_HUGE_TAIL ? "huge_tail" : execmem_policy_name(row));
}

TEST_ROWS(execmem_cpu, filled_code_runs, "XM2 XM5 XM6", 0, count_policies, name_calls)
{
	enum execmem_policy before = execmem_policy();
	static struct function functions[OBJECTS];
	struct rng rng = test_rng();

	REQUIRE(CHECK_EQ(execmem_set_policy(test_row()), 0));
	for (unsigned i = 0; i < OBJECTS; i++)
		if (!make_function(&functions[i], &rng, i % 8 ? CODEGEN_MIN + rng_below(&rng, 1500) : 2000 + rng_below(&rng, 14000)))
			return;
	for (unsigned i = 0; i < OBJECTS; i++)
		call_function(&functions[i]);
	/* Places are used again, for other code, which is what runs there then. */
	for (unsigned round = 0; round < 4 * OBJECTS; round++) {
		struct function *f = &functions[rng_below(&rng, OBJECTS)];

		execmem_free((void *)f->va);
		if (!make_function(f, &rng, CODEGEN_MIN + rng_below(&rng, 1500)))
			return;
		call_function(f);
	}
	for (unsigned i = 0; i < OBJECTS; i++) {
		call_function(&functions[i]);
		execmem_free((void *)functions[i].va);
	}
	CHECK_EQ(execmem_check(), 0);
	CHECK_EQ(execmem_set_policy(before), 0);
	unmapped_shrink(UNMAPPED_ALL);
}

/* ---- The attack set ---- */

enum target {
	AT_TEXT,		/* packed, in a block of the unmapped cache */
	AT_TEXT_ALIAS,		/* where the direct map would have it */
	AT_FREED,		/* freed text in a block that stays, as another one is in use */
	AT_FREED_ALIAS,
	AT_GONE,		/* freed text whose block went back */
	AT_TAIL,		/* text in the tail of the image's */
	AT_TAIL_ALIAS,
	AT_TAIL_FREED,		/* freed text in the tail */
	AT_TAIL_FREED_ALIAS,
	AT_PAGES,		/* text under policy pages, sealed */
	AT_PAGES_ALIAS,
	AT_PAGES_RODATA,	/* read-only data under policy pages, sealed */
	AT_PAGES_RODATA_ALIAS,
	AT_PAGES_FREED,		/* freed text under policy pages */
	AT_RODATA,
	AT_RODATA_ALIAS,
	AT_SEALED,		/* ro-after-init, sealed */
	AT_SEALED_ALIAS,
	AT_DATA,
	AT_DATA_ALIAS,
	AT_WINDOW,		/* where the poke window was, in the low half */
	AT_IMAGE_TEXT,
	AT_IMAGE_TEXT_ALIAS,
	AT_IMAGE_RODATA,
	AT_IMAGE_RODATA_ALIAS,
	AT_STACK,
	AT_HEAP,		/* vmalloc() */
	AT_FRAME,		/* a frame by the direct map */
	AT_UNMAPPED,		/* a frame of the unmapped cache by the direct map */
	AT_NOTHING,		/* addresses of execmem that nobody has */
	AT_NULL,
	TARGETS,
};

#define NOT_TRIED UINT32_MAX
#define BREAKPOINT TRIAL_OTHER(TRAP_BREAKPOINT)
#define W_DENIED (PF_PRESENT | PF_WRITE)
#define W_ABSENT PF_WRITE
#define X_DENIED (PF_PRESENT | PF_FETCH)
#define X_ABSENT PF_FETCH

/* What a write and a call do there. */
static const struct attack {
	const char *name;
	u32 write, call;
} attacks[TARGETS] = {
	[AT_TEXT] = { "text", W_DENIED, TRIAL_OK },
	[AT_TEXT_ALIAS] = { "text.alias", W_ABSENT, X_ABSENT },
	[AT_FREED] = { "freed_text", W_DENIED, BREAKPOINT },
	[AT_FREED_ALIAS] = { "freed_text.alias", W_ABSENT, X_ABSENT },
	[AT_GONE] = { "freed_block", W_ABSENT, X_ABSENT },
	[AT_TAIL] = { "tail", W_DENIED, TRIAL_OK },
	[AT_TAIL_ALIAS] = { "tail.alias", W_DENIED, X_DENIED },
	[AT_TAIL_FREED] = { "freed_tail", W_DENIED, BREAKPOINT },
	[AT_TAIL_FREED_ALIAS] = { "freed_tail.alias", W_DENIED, X_DENIED },
	[AT_PAGES] = { "sealed_page", W_DENIED, TRIAL_OK },
	[AT_PAGES_ALIAS] = { "sealed_page.alias", W_DENIED, X_DENIED },
	[AT_PAGES_RODATA] = { "sealed_rodata", W_DENIED, X_DENIED },
	[AT_PAGES_RODATA_ALIAS] = { "sealed_rodata.alias", W_DENIED, X_DENIED },
	[AT_PAGES_FREED] = { "freed_page", W_ABSENT, X_ABSENT },
	[AT_RODATA] = { "rodata", W_DENIED, X_DENIED },
	[AT_RODATA_ALIAS] = { "rodata.alias", W_ABSENT, X_ABSENT },
	[AT_SEALED] = { "sealed_data", W_DENIED, X_DENIED },
	[AT_SEALED_ALIAS] = { "sealed_data.alias", W_ABSENT, X_ABSENT },
	[AT_DATA] = { "data", TRIAL_OK, X_DENIED },
	[AT_DATA_ALIAS] = { "data.alias", TRIAL_OK, X_DENIED },
	[AT_WINDOW] = { "window", W_ABSENT, X_ABSENT },
	[AT_IMAGE_TEXT] = { "image_text", W_DENIED, NOT_TRIED },
	[AT_IMAGE_TEXT_ALIAS] = { "image_text.alias", W_DENIED, X_DENIED },
	[AT_IMAGE_RODATA] = { "image_rodata", W_DENIED, X_DENIED },
	[AT_IMAGE_RODATA_ALIAS] = { "image_rodata.alias", W_DENIED, X_DENIED },
	[AT_STACK] = { "stack", TRIAL_OK, X_DENIED },
	[AT_HEAP] = { "heap", TRIAL_OK, X_DENIED },
	[AT_FRAME] = { "frame", TRIAL_OK, X_DENIED },
	[AT_UNMAPPED] = { "unmapped_frame", W_ABSENT, X_ABSENT },
	[AT_NOTHING] = { "nothing", W_ABSENT, X_ABSENT },
	[AT_NULL] = { "null", W_ABSENT, X_ABSENT },
};

/* A field of targets; what must be given back. */
struct field {
	u64 at[TARGETS];
	void *objects[8];
	unsigned nr_objects;
	void *heap;
	struct page *frame, *unmapped;
};

static const u8 ret = 0xc3;

/* An object that begins with RET: where it may be executed, a call returns at once. */
static u64 plant_object(struct field *f, enum execmem_type type)
{
	void *object = execmem_alloc(type, 400, 0);

	if (CHECK(object != NULL)) {
		CHECK_EQ(execmem_fill(object, &ret, 1), 0);
		CHECK_EQ(execmem_seal(object), 0);
		f->objects[f->nr_objects++] = object;
	}
	return (u64)object;
}

/* Free one of them, which was called and returned until then. */
static void unplant_object(struct field *f, u64 va)
{
	CHECK_EQ(trial_call(va), TRIAL_OK);
	for (unsigned i = 0; i < f->nr_objects; i++)
		if (f->objects[i] == (void *)va)
			f->objects[i] = NULL;
	execmem_free((void *)va);
}

static void field_close(struct field *f)
{
	while (f->nr_objects)
		execmem_free(f->objects[--f->nr_objects]);
	vfree(f->heap);
	if (f->frame)
		free_page(f->frame);
	if (f->unmapped)
		unmapped_pages_free(f->unmapped, 0);
	CHECK_EQ(execmem_check(), 0);
	unmapped_shrink(UNMAPPED_ALL);
}

static void field_open_common(struct field *f)
{
	f->heap = vmalloc(PAGE_SIZE);
	f->frame = alloc_page(0);
	f->unmapped = unmapped_pages_alloc(0, 0, -1, NULL);
	if (!CHECK(f->heap && f->frame && f->unmapped))
		return;
	f->at[AT_HEAP] = (u64)f->heap;
	f->at[AT_FRAME] = (u64)page_to_virt(f->frame);
	f->at[AT_UNMAPPED] = (u64)page_to_virt(f->unmapped);
	*(u8 *)f->at[AT_HEAP] = ret;
	*(u8 *)f->at[AT_FRAME] = ret;
	f->at[AT_IMAGE_TEXT] = (u64)_text_start;
	f->at[AT_IMAGE_TEXT_ALIAS] = direct_of((u64)_text_start);
	f->at[AT_IMAGE_RODATA] = (u64)_rodata_start;
	f->at[AT_IMAGE_RODATA_ALIAS] = direct_of((u64)_rodata_start);
	f->at[AT_WINDOW] = TEMP_MAP_BASE;
	f->at[AT_NOTHING] = execmem_params(EXECMEM_HUGE, EXECMEM_TEXT)->ranges[0].end - PAGE_SIZE;
}

static void field_open_packed(struct field *f)
{
	void *gone;

	CHECK_EQ(execmem_set_policy(EXECMEM_HUGE), 0);
	f->at[AT_TEXT] = plant_object(f, EXECMEM_TEXT);
	f->at[AT_FREED] = plant_object(f, EXECMEM_TEXT);
	f->at[AT_RODATA] = plant_object(f, EXECMEM_RODATA);
	f->at[AT_SEALED] = plant_object(f, EXECMEM_RO_AFTER_INIT);
	f->at[AT_DATA] = plant_object(f, EXECMEM_DATA);
	gone = execmem_alloc(EXECMEM_TEXT, 4 * MIB, 0);
	if (!CHECK(gone != NULL) || f->nr_objects != 5)
		return;
	f->at[AT_TEXT_ALIAS] = direct_of(f->at[AT_TEXT]);
	f->at[AT_FREED_ALIAS] = direct_of(f->at[AT_FREED]);
	f->at[AT_RODATA_ALIAS] = direct_of(f->at[AT_RODATA]);
	f->at[AT_SEALED_ALIAS] = direct_of(f->at[AT_SEALED]);
	f->at[AT_DATA_ALIAS] = direct_of(f->at[AT_DATA]);
	/* One object, but not the block; and, of the large one, a block with nothing else in it. */
	unplant_object(f, f->at[AT_FREED]);
	CHECK_EQ(execmem_fill((u8 *)gone + 2 * MIB, &ret, 1), 0);
	f->at[AT_GONE] = (u64)gone + 2 * MIB;
	CHECK_EQ(trial_call(f->at[AT_GONE]), TRIAL_OK);
	execmem_free(gone);
}

static void field_open_pages(struct field *f)
{
	CHECK_EQ(execmem_set_policy(EXECMEM_PAGES), 0);
	f->at[AT_PAGES] = plant_object(f, EXECMEM_TEXT);
	f->at[AT_PAGES_RODATA] = plant_object(f, EXECMEM_RODATA);
	f->at[AT_PAGES_FREED] = plant_object(f, EXECMEM_TEXT);
	if (f->nr_objects != 3)
		return;
	f->at[AT_PAGES_ALIAS] = direct_of(f->at[AT_PAGES]);
	f->at[AT_PAGES_RODATA_ALIAS] = direct_of(f->at[AT_PAGES_RODATA]);
	unplant_object(f, f->at[AT_PAGES_FREED]);
}

static void field_open_tail(struct field *f)
{
	CHECK_EQ(execmem_set_policy(EXECMEM_HUGE_TAIL), 0);
	if (range_empty(execmem_text_tail()))
		return;
	f->at[AT_TAIL] = plant_object(f, EXECMEM_TEXT);
	f->at[AT_TAIL_FREED] = plant_object(f, EXECMEM_TEXT);
	if (f->nr_objects != 2)
		return;
	f->at[AT_TAIL_ALIAS] = direct_of(f->at[AT_TAIL]);
	f->at[AT_TAIL_FREED_ALIAS] = direct_of(f->at[AT_TAIL_FREED]);
	CHECK(range_has(execmem_text_tail(), f->at[AT_TAIL]) && range_has(execmem_text_tail(), f->at[AT_TAIL_FREED]));
	unplant_object(f, f->at[AT_TAIL_FREED]);
}

/* Attack all of a field's targets. Returns how many exceptions there were. */
static unsigned attack(struct field *f)
{
	u64 stack[2] = { ret, 0 };
	unsigned exceptions = 0;

	f->at[AT_STACK] = (u64)stack;
	for (unsigned i = 0; i < TARGETS; i++) {
		const struct attack *a = &attacks[i];
		u32 got;

		if (!f->at[i] && i != AT_NULL)
			continue;
		if (a->write != TRIAL_OK) {
			got = trial_write(f->at[i]);
			exceptions++;
			if (!CHECK_EQ(got, a->write))
				test_note("write target=%s", a->name);
		}
		if (a->call != NOT_TRIED) {
			got = trial_call(f->at[i]);
			exceptions += a->call != TRIAL_OK;
			if (!CHECK_EQ(got, a->call))
				test_note("call target=%s", a->name);
			/* It was the first byte that stopped it. */
			if (got == BREAKPOINT)
				CHECK_EQ(trial_rip, f->at[i] + 1);
		}
	}
	return exceptions;
}

static void attack_under(void (*open)(struct field *f))
{
	enum execmem_policy before = execmem_policy();
	struct field f = { 0 };

	field_open_common(&f);
	open(&f);
	test_note("exceptions=%u", attack(&f));
	field_close(&f);
	CHECK_EQ(execmem_set_policy(before), 0);
}

TEST_ID(execmem_cpu, attack_set_on_packed_memory, "XM2 PT5")
{
	if (!have_nx())
		SKIP("no NX: everything may be executed");
	attack_under(field_open_packed);
}

TEST_ID(execmem_cpu, attack_set_on_pages, "XM5 PT5")
{
	if (!have_nx())
		SKIP("no NX: everything may be executed");
	attack_under(field_open_pages);
}

TEST_ID(execmem_cpu, attack_set_on_the_text_tail, "XM5 PT5 BT3")
{
	if (!have_nx())
		SKIP("no NX: everything may be executed");
	attack_under(field_open_tail);
}

/*
 * A thousand in a soak run and with execmem=huge+tail (a row of tests/qemu/matrix.py); each is an audit
 * of every leaf.
 */
TEST_ID(execmem_cpu, audit_in_the_middle_of_many_fills, "XM2 PT5")
{
	suite_execmem_audit_fills(cmdline.soak || execmem_policy() == EXECMEM_HUGE_TAIL ? 1000 : 60);
}

/* An object's padding, and the chunk that nobody has yet, are INT3: running past the end stops at once. */
TEST_ID(execmem_cpu, running_past_the_end_is_int3, "XM2")
{
	static const u8 nops[60] = { [0 ... 59] = 0x90 };
	enum execmem_policy before = execmem_policy();
	void *object;

	REQUIRE(CHECK_EQ(execmem_set_policy(EXECMEM_HUGE), 0));
	object = execmem_alloc(EXECMEM_TEXT, sizeof(nops), 0);
	if (CHECK(object != NULL)) {
		CHECK_EQ(execmem_fill(object, nops, sizeof(nops)), 0);
		CHECK_EQ(trial_call((u64)object), BREAKPOINT);
		CHECK_EQ(trial_rip, (u64)object + sizeof(nops) + 1);
		CHECK_EQ(trial_call((u64)object + 64), BREAKPOINT);
		CHECK_EQ(trial_call((u64)object + MIB), BREAKPOINT);
	}
	execmem_free(object);
	CHECK_EQ(execmem_set_policy(before), 0);
	unmapped_shrink(UNMAPPED_ALL);
}
