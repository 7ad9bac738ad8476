/* SPDX-License-Identifier: MIT */
/*
 * mm/execmem.c as tables and memory show it: rights from the first mapping on, bounds of a fill, INT3
 * wherever there is no code, whole blocks that go back, and no trace of what failed. What a CPU does with
 * such memory is in tests/machine/suite_execmem_attack.c, random operations against a model are in
 * tests/host/test_execmem_model.c.
 */
#include "tests/suite_execmem.h"

#include "boot/boot_info.h"
#include "kernel/base/errno.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/execmem.h"
#include "mm/pt_audit.h"
#include "mm/temp_map.h"
#include "mm/text_poke.h"
#include "mm/unmapped.h"
#include "tests/fixture.h"
#include "tests/test.h"

#define OBJECT 400u
#define BLOCK (2 * MIB)
#define FILLS_SAMPLE 100u	/* fills that are looked at half-way */

/* ---- Rows by policy ---- */

static unsigned count_policies(void)
{
	return EXECMEM_POLICIES;
}

/* A test's name has no '+'. */
static void write_policy(const char *test, unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "%s.%s", test, row == EXECMEM_HUGE_TAIL ? "huge_tail" : execmem_policy_name(row));
}

#define POLICY_ROWS(name_, ids_)                                             \
	static void name_##name_(unsigned row, char *buf, size_t size)       \
	{                                                                    \
		write_policy(#name_, row, buf, size);                        \
	}                                                                    \
	TEST_ROWS(execmem, name_, ids_, 0, count_policies, name_##name_)

static enum execmem_policy policy_before;

static bool open_policy(enum execmem_policy policy)
{
	policy_before = execmem_policy();
	return CHECK_EQ(execmem_set_policy(policy), 0);
}

/* Everything is back: no region, nothing in the cache, and what is known agrees with what is there. */
static void close_policy(void)
{
	struct execmem_stats s;

	execmem_read_stats(EXECMEM_TYPES, &s);
	CHECK_EQ(s.asked, 0);
	CHECK_EQ(s.used, 0);
	CHECK_EQ(s.held, 0);
	CHECK_EQ(s.regions + s.leaves_4k + s.leaves_2m, 0);
	CHECK_EQ(s.tail_bytes, 0);
	CHECK_EQ(s.allocs, s.frees);
	CHECK_EQ(s.blocks_taken, s.blocks_returned);
	CHECK_EQ(execmem_check(), 0);
	CHECK_EQ(execmem_set_policy(policy_before), 0);
	unmapped_shrink(UNMAPPED_ALL);
}

/* ---- Memory by its address ---- */

static u8 byte_at(u64 va)
{
	return *(const u8 *)arch_va_ptr(va, false);
}

static bool holds_byte(u64 va, u64 len, u8 byte)
{
	for (u64 i = 0; i < len; i++)
		if (byte_at(va + i) != byte)
			return false;
	return true;
}

static bool holds(u64 va, const u8 *bytes, u64 len)
{
	for (u64 i = 0; i < len; i++)
		if (byte_at(va + i) != bytes[i])
			return false;
	return true;
}

static u8 pattern[8 * KIB];

static const u8 *make_pattern(u8 seed)
{
	for (unsigned i = 0; i < sizeof(pattern); i++)
		pattern[i] = (u8)(i * 7 + i / 251 + seed);
	return pattern;
}

static u64 attrs_of(u64 va)
{
	struct pt_slot s = fixture_leaf(va);

	return pte_is_leaf(s.value, s.level) ? pte_attrs(s.value, s.level) & (PTE_P | PTE_W | PTE_NX) : 0;
}

static pfn_t frame_of(u64 va)
{
	struct pt_slot s = fixture_leaf(va);

	return phys_to_pfn(pte_leaf_pa(s.value, s.level)) + ((va & (pt_span(s.level) - 1)) >> PAGE_SHIFT);
}

static u64 alias_attrs_of(u64 va)
{
	return attrs_of(phys_to_va(phys(frame_of(va) << PAGE_SHIFT)));
}

#define RX (PTE_P)
#define R (PTE_P | (PTE_NX & arch_mm.pte_mask))
#define RW (R | PTE_W)

static bool have_nx(void)
{
	return arch_mm.pte_mask & PTE_NX;
}

/* ---- What memory is like ---- */

/* What a type's memory may do: as soon as it is there, and once it is sealed. */
static u64 rights_of(enum execmem_policy policy, enum execmem_type type, bool sealed)
{
	const struct execmem_params *p = execmem_params(policy, type);

	return !sealed && p->flags & EXECMEM_REPROTECT ? RW : p->prot & (PTE_P | PTE_W | (PTE_NX & arch_mm.pte_mask));
}

/*
 * The direct map's alias: none for frames of the unmapped cache; read-only for what was sealed, and for
 * the kernel's text.
 */
static u64 alias_rights_of(enum execmem_policy policy, enum execmem_type type, u64 va, bool sealed)
{
	const struct execmem_params *p = execmem_params(policy, type);

	if (range_has(execmem_text_tail(), va))
		return R;
	if (p->flags & EXECMEM_UNMAPPED)
		return 0;
	return sealed && p->flags & EXECMEM_REPROTECT ? R : RW;
}

static void check_object(enum execmem_policy policy, enum execmem_type type, u64 va, bool sealed)
{
	CHECK_EQ(attrs_of(va), rights_of(policy, type, sealed));
	CHECK_EQ(alias_attrs_of(va), alias_rights_of(policy, type, va, sealed));
}

/* One object of each type, of a size that is not round: from its first rights to its last. */
POLICY_ROWS(each_type, "XM1 XM2 XM5 PT5")
{
	enum execmem_policy policy = test_row();

	REQUIRE(open_policy(policy));
	for (unsigned type = 0; type < EXECMEM_TYPES; type++) {
		const struct execmem_params *p = execmem_params(policy, type);
		u64 va = (u64)execmem_alloc(type, OBJECT + 1, 0);
		u8 first = p->prot & PTE_NX ? 0 : EXECMEM_INT3;

		if (!CHECK(va != 0))
			continue;
		CHECK(is_aligned(va, p->align));
		CHECK(holds_byte(va, OBJECT + 1, first));
		check_object(policy, type, va, false);
		CHECK_EQ(execmem_fill((void *)va, make_pattern((u8)type), OBJECT + 1), 0);
		CHECK_EQ(execmem_seal((void *)va), 0);
		CHECK_EQ(execmem_seal((void *)va), 0);
		check_object(policy, type, va, true);
		CHECK(holds(va, pattern, OBJECT + 1));
		/* What is sealed can still be filled: that is what fill is for. */
		CHECK_EQ(execmem_fill((void *)(va + 3), make_pattern(99), 5), 0);
		CHECK(holds(va + 3, pattern, 5));
		CHECK_EQ(execmem_check(), 0);
		execmem_free((void *)va);
		CHECK_EQ(execmem_check(), 0);
	}
	close_policy();
}

/* A table of it is what a policy is: leaves per object, and who shares them. */
POLICY_ROWS(leaves, "XM1 XM2 XM5")
{
	static const struct {
		u64 leaves_4k, leaves_2m, regions;
	} expected[EXECMEM_POLICIES] = {
		[EXECMEM_PAGES] = { 12, 0, 12 },
		[EXECMEM_PACK] = { 512, 0, 1 },
		[EXECMEM_HUGE] = { 0, 1, 1 },
		[EXECMEM_HUGE_TAIL] = { 0, 0, 0 },
	};
	enum execmem_policy policy = test_row();
	struct execmem_stats s;
	void *objects[8];

	REQUIRE(open_policy(policy));
	for (unsigned i = 0; i < 8; i++) {
		objects[i] = execmem_alloc(i % 2 ? EXECMEM_INIT_TEXT : EXECMEM_TEXT, i < 4 ? OBJECT : PAGE_SIZE + 1, 0);
		CHECK(objects[i] != NULL);
	}
	execmem_read_stats(EXECMEM_TYPES, &s);
	CHECK_EQ(s.leaves_4k, expected[policy].leaves_4k);
	CHECK_EQ(s.leaves_2m, expected[policy].leaves_2m);
	CHECK_EQ(s.regions, expected[policy].regions);
	CHECK_EQ(s.asked, 4 * OBJECT + 4 * (PAGE_SIZE + 1));
	CHECK_EQ(s.wasted, s.held - s.asked);
	CHECK_EQ(s.tail_bytes, policy == EXECMEM_HUGE_TAIL ? s.used : 0);
	CHECK_EQ(execmem_check(), 0);
	for (unsigned i = 0; i < 8; i++)
		execmem_free(objects[i]);
	close_policy();
}

/* Held and wasted add up, folded types among them. */
TEST_ID(execmem, statistics_by_type, "XM1")
{
	struct execmem_stats text, init, all;
	void *a, *b;

	REQUIRE(open_policy(EXECMEM_HUGE));
	a = execmem_alloc(EXECMEM_TEXT, 100, 0);
	b = execmem_alloc(EXECMEM_INIT_TEXT, 1000, 0);
	CHECK(a && b);
	execmem_read_stats(EXECMEM_TEXT, &text);
	execmem_read_stats(EXECMEM_INIT_TEXT, &init);
	execmem_read_stats(EXECMEM_TYPES, &all);
	CHECK_EQ(text.asked, 100);
	CHECK_EQ(text.used, 128);
	CHECK_EQ(init.asked, 1000);
	CHECK_EQ(init.held, 1024);
	CHECK_EQ(init.wasted, 24);
	CHECK_EQ(text.held, BLOCK - 1024);
	CHECK_EQ(all.held, BLOCK);
	CHECK_EQ(all.wasted, BLOCK - 1100);
	execmem_free(a);
	execmem_free(b);
	close_policy();
}

TEST_ID(execmem, alignments_are_kept, "XM1 XM2")
{
	static const u64 aligns[] = { 0, 1, 16, 64, 128, 4096, 65536, 2 * MIB };
	void *objects[2 * ARRAY_SIZE(aligns)];

	REQUIRE(open_policy(EXECMEM_HUGE));
	for (unsigned i = 0; i < ARRAY_SIZE(objects); i++) {
		u64 align = aligns[i / 2];

		objects[i] = execmem_alloc(EXECMEM_TEXT, 65, align);
		CHECK(objects[i] && is_aligned((u64)objects[i], MAX(align, 64ull)));
	}
	CHECK_EQ(execmem_check(), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(objects); i++)
		execmem_free(objects[i]);
	close_policy();
}

/* ---- Where it is ---- */

struct setting {
	struct range ranges[2];
	struct range tail;
	enum execmem_policy policy;
};

static void setting_read(struct setting *s)
{
	const struct execmem_params *p = execmem_params(execmem_policy(), EXECMEM_TEXT);

	*s = (struct setting){ { p->ranges[0], p->ranges[1] }, execmem_text_tail(), execmem_policy() };
}

static int setting_init(const struct setting *s, u64 random)
{
	return execmem_init(s->ranges[0], s->ranges[1], s->tail, random, s->policy);
}

TEST_ID(execmem, is_within_reach_of_the_image, "XM6")
{
	const struct execmem_params *p = execmem_params(execmem_policy(), EXECMEM_TEXT);

	for (unsigned i = 0; i < 2; i++) {
		/* The image begins at KERNEL_BASE and is not larger than a gigabyte. */
		CHECK(p->ranges[i].start >= KERNEL_BASE + GIB - 2 * GIB);
		CHECK(p->ranges[i].end - 1 - KERNEL_BASE <= 2 * GIB || p->ranges[i].end <= KERNEL_BASE);
		CHECK(!range_empty(p->ranges[i]));
	}
}

/* In a range of its own: how much room the base of this boot left is by chance. */
TEST_ID(execmem, base_is_random_or_pinned, "XM6")
{
	struct setting was, wide, now;
	u64 bases[8];
	unsigned same = 0;

	setting_read(&was);
	wide = was;
	wide.ranges[0].start = wide.ranges[0].end - GIB;
	for (unsigned i = 0; i < ARRAY_SIZE(bases); i++) {
		struct rng rng = { 1000 + i };

		CHECK_EQ(setting_init(&wide, rng_next(&rng) | 1), 0);
		setting_read(&now);
		bases[i] = now.ranges[0].start;
		CHECK(is_aligned(bases[i], BLOCK) && range_covers(wide.ranges[0], now.ranges[0]));
		CHECK_EQ(now.ranges[0].end, wide.ranges[0].end);
		for (unsigned k = 0; k < i; k++)
			same += bases[k] == bases[i];
	}
	CHECK(same < 2);
	CHECK_EQ(setting_init(&was, 0), 0);
	setting_read(&now);
	CHECK_EQ(now.ranges[0].start, was.ranges[0].start);
}

TEST_ID(execmem, bad_ranges_are_refused, "XM6")
{
	struct setting was, now;
	const struct range bad[] = {
		{ KERNEL_BASE + 32 * MIB + PAGE_SIZE, KERNEL_BASE + 64 * MIB },
		{ KERNEL_BASE - GIB - BLOCK, KERNEL_BASE - GIB },
		{ VM_AREA_BASE, VM_AREA_BASE + GIB },
		{ KERNEL_BASE + 64 * MIB, KERNEL_BASE + 32 * MIB },
		{ KERNEL_BASE + GIB, UINT64_MAX },
		{ 0, 0 },
	};

	setting_read(&was);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		CHECK_EQ(execmem_init(bad[i], was.ranges[1], was.tail, 0, was.policy), -EINVAL);
	CHECK_EQ(execmem_init(was.ranges[0], was.ranges[0], was.tail, 0, was.policy), -EINVAL);
	/* A tail that is not aligned, and one that is no text. */
	CHECK_EQ(execmem_init(was.ranges[0], was.ranges[1], range(was.tail.start + 1, was.tail.end), 0, was.policy),
		 -EINVAL);
	CHECK_EQ(execmem_init(was.ranges[0], was.ranges[1], range_len(arch_mm.direct_base, PAGE_SIZE), 0,
			      was.policy), -EINVAL);
	CHECK_EQ(execmem_init(was.ranges[0], was.ranges[1], was.tail, 0, EXECMEM_POLICIES), -EINVAL);
	setting_read(&now);
	CHECK_EQ(now.ranges[0].start, was.ranges[0].start);
	CHECK_EQ(now.ranges[1].start, was.ranges[1].start);
	CHECK_EQ(now.tail.start, was.tail.start);
	CHECK_EQ(now.policy, was.policy);
}

/* Two blocks preferred, three needed: the third is in the fallback, and with that full there is no more. */
TEST_ID(execmem, fallback_range_is_used_and_ends, "XM1 XM6")
{
	struct setting was, small;
	void *objects[5];

	setting_read(&was);
	small = was;
	small.policy = EXECMEM_PACK;
	small.ranges[0].end = small.ranges[0].start + 2 * BLOCK;
	small.ranges[1].end = small.ranges[1].start + 2 * BLOCK;
	REQUIRE(CHECK_EQ(setting_init(&small, 0), 0));
	for (unsigned i = 0; i < ARRAY_SIZE(objects); i++) {
		objects[i] = execmem_alloc(EXECMEM_TEXT, BLOCK, 0);
		if (i == 4)
			CHECK(!objects[i]);
		else
			CHECK(range_has(small.ranges[i / 2], (u64)objects[i]));
	}
	CHECK_EQ(execmem_check(), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(objects); i++)
		execmem_free(objects[i]);
	CHECK_EQ(execmem_check(), 0);
	CHECK_EQ(setting_init(&was, 0), 0);
	unmapped_shrink(UNMAPPED_ALL);
}

/*
 * Rows may differ in where they lie: text in the last block of the preferred range, then nowhere; data in the
 * fallback first, then behind it; what is folded follows.
 */
TEST_ID(execmem, each_type_lies_where_its_row_says, "XM1 XM6")
{
	static const enum execmem_type texts[] = { EXECMEM_TEXT, EXECMEM_INIT_TEXT };
	struct setting was;
	struct range last, far;
	void *objects[5];

	setting_read(&was);
	REQUIRE(open_policy(EXECMEM_HUGE));
	last = range(was.ranges[0].end - BLOCK, was.ranges[0].end);
	far = range_len(was.ranges[1].start + 2 * BLOCK, BLOCK);
	CHECK_EQ(execmem_set_ranges(EXECMEM_TEXT, last, range(0, 0)), 0);
	CHECK_EQ(execmem_set_ranges(EXECMEM_DATA, far, was.ranges[0]), 0);
	for (unsigned i = 0; i < 2; i++) {
		objects[i] = execmem_alloc(texts[i], BLOCK / 2, 0);
		CHECK_EQ((u64)objects[i], last.start + i * BLOCK / 2);
	}
	CHECK(!execmem_alloc(EXECMEM_TEXT, 1, 0));
	objects[2] = execmem_alloc(EXECMEM_INIT_DATA, BLOCK, 0);
	CHECK_EQ((u64)objects[2], far.start);
	objects[3] = execmem_alloc(EXECMEM_DATA, 1, 0);
	CHECK_EQ((u64)objects[3], was.ranges[0].start);
	/* Those of another type are as they were. */
	objects[4] = execmem_alloc(EXECMEM_RODATA, 1, 0);
	CHECK_EQ((u64)objects[4], was.ranges[0].start + BLOCK);
	CHECK_EQ(execmem_check(), 0);
	CHECK_EQ(execmem_set_ranges(EXECMEM_TEXT, was.ranges[0], was.ranges[1]), -EBUSY);
	for (unsigned i = 0; i < ARRAY_SIZE(objects); i++)
		execmem_free(objects[i]);
	close_policy();
	CHECK_EQ(execmem_set_ranges(EXECMEM_TYPES, was.ranges[0], was.ranges[1]), -EINVAL);
	CHECK_EQ(execmem_set_ranges(EXECMEM_TEXT, range(0, 0), range(0, 0)), -EINVAL);
	CHECK_EQ(execmem_set_ranges(EXECMEM_TEXT, range(last.start, last.end + BLOCK), last), -EINVAL);
	CHECK_EQ(execmem_set_ranges(EXECMEM_TEXT, range(last.start + PAGE_SIZE, last.end), last), -EINVAL);
	CHECK_EQ(execmem_set_ranges(EXECMEM_TEXT, last, range(last.end, last.start)), -EINVAL);
	/* Boot's are everybody's again. */
	CHECK_EQ(setting_init(&(struct setting){ { was.ranges[0], was.ranges[1] }, was.tail, was.policy }, 0), 0);
	for (unsigned type = 0; type < EXECMEM_TYPES; type++)
		for (unsigned i = 0; i < 2; i++)
			CHECK(range_covers(was.ranges[i], execmem_params(was.policy, type)->ranges[i]) &&
			      range_covers(execmem_params(was.policy, type)->ranges[i], was.ranges[i]));
}

/* What is folded is its owner's memory: the two rows agree in everything but who they are of. */
TEST_ID(execmem, folded_rows_are_like_their_owners, "XM1")
{
	for (unsigned policy = 0; policy < EXECMEM_POLICIES; policy++)
		for (unsigned type = 0; type < EXECMEM_TYPES; type++) {
			const struct execmem_params *row = execmem_params(policy, type);
			const struct execmem_params *owner = execmem_params(policy, row->folded);

			CHECK_EQ(owner->folded, row->folded);
			CHECK_EQ(row->flags, owner->flags);
			CHECK_EQ(row->leaf, owner->leaf);
			CHECK_EQ(row->align, owner->align);
			CHECK_EQ(row->prot, owner->prot);
			CHECK(row->fill == owner->fill && row->invalidate == owner->invalidate);
		}
}

TEST_ID(execmem, policy_changes_at_quiescent_points_only, "XM5")
{
	struct setting was;
	void *object;

	setting_read(&was);
	object = execmem_alloc(EXECMEM_DATA, 1, 0);
	CHECK(object != NULL);
	CHECK_EQ(execmem_set_policy(EXECMEM_PAGES), -EBUSY);
	CHECK_EQ(setting_init(&was, 0), -EBUSY);
	CHECK_EQ(execmem_policy(), was.policy);
	execmem_free(object);
	CHECK_EQ(execmem_set_policy(EXECMEM_POLICIES), -EINVAL);
	for (unsigned policy = 0; policy < EXECMEM_POLICIES; policy++) {
		CHECK_EQ(execmem_set_policy(policy), 0);
		CHECK_EQ(execmem_policy(), policy);
		CHECK_EQ(execmem_check(), 0);
	}
	CHECK_EQ(execmem_set_policy(was.policy), 0);
}

/* ---- Bounds ---- */

static u64 sum_of(u64 va, u64 len)
{
	u64 hash = 0xcbf29ce484222325ull;

	for (u64 i = 0; i < len; i++)
		hash = (hash ^ byte_at(va + i)) * 0x100000001b3ull;
	return hash;
}

/*
 * Three neighbours; the one in the middle is freed later. Every range that is not within one of them is
 * refused, and nothing changes.
 */
POLICY_ROWS(fill_outside_changes_nothing, "XM2")
{
	enum execmem_policy policy = test_row();
	const struct {
		unsigned object;
		i64 offset;
		u64 len;
	} rows[] = {
		{ 0, 0, OBJECT + 1 }, { 0, OBJECT, 1 }, { 0, OBJECT - 1, 2 }, { 0, 1, OBJECT }, { 0, -1, 1 },
		{ 0, -1, 2 }, { 0, 0, 0 }, { 0, 5, 0 }, { 0, 0, 4096 }, { 0, 0, 3 * MIB }, { 0, 0, UINT64_MAX },
		{ 0, 8, UINT64_MAX - 7 },
		{ 1, -1, OBJECT }, { 1, -(i64)PAGE_SIZE, 2 * PAGE_SIZE }, { 2, -64, 128 }, { 2, OBJECT, 64 },
	};
	u64 before, start, len;
	u8 *object[3];

	REQUIRE(open_policy(policy));
	for (unsigned i = 0; i < 3; i++) {
		object[i] = execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
		CHECK(object[i] && execmem_fill(object[i], make_pattern((u8)i), OBJECT) == 0);
	}
	start = align_down((u64)object[0], PAGE_SIZE);
	len = align_up((u64)object[2] + OBJECT, PAGE_SIZE) - start;
	before = sum_of(start, len);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		if (!CHECK_EQ(execmem_fill(object[rows[i].object] + rows[i].offset, pattern, rows[i].len), -EINVAL))
			test_note("row=%u", i);
	CHECK_EQ(execmem_fill(NULL, pattern, 1), -EINVAL);
	CHECK_EQ(execmem_fill((void *)KERNEL_BASE, pattern, 1), -EINVAL);
	CHECK_EQ(execmem_fill((void *)arch_mm.direct_base, pattern, 1), -EINVAL);
	CHECK_EQ(execmem_fill((void *)-1ull, pattern, 1), -EINVAL);
	CHECK_EQ(sum_of(start, len), before);
	CHECK(holds((u64)object[2], pattern, OBJECT));
	/* All of one is fine, up to the last byte. */
	CHECK_EQ(execmem_fill(object[0] + OBJECT - 1, make_pattern(7), 1), 0);
	execmem_free(object[1]);
	CHECK_EQ(execmem_fill(object[1], pattern, 1), -EINVAL);
	execmem_free(object[0]);
	execmem_free(object[2]);
	close_policy();
}

/* A fill over page and block boundaries, and of every length around a page. */
TEST_ID(execmem, fill_over_boundaries, "XM2")
{
	static const u64 lens[] = { 1, 7, 64, 4095, 4096, 4097, 8000 };
	u64 va;

	REQUIRE(open_policy(EXECMEM_HUGE));
	va = (u64)execmem_alloc(EXECMEM_TEXT, 2 * BLOCK, 0);
	if (CHECK(va != 0))
		for (unsigned i = 0; i < ARRAY_SIZE(lens); i++)
			for (u64 at = BLOCK - 2 * PAGE_SIZE - 3; at < BLOCK + PAGE_SIZE; at += PAGE_SIZE + 1) {
				CHECK_EQ(execmem_fill((void *)(va + at), make_pattern((u8)(at + i)), lens[i]), 0);
				CHECK(holds(va + at, pattern, lens[i]));
			}
	execmem_free((void *)va);
	close_policy();
}

/* ---- INT3 ---- */

TEST_ID(execmem, freed_text_is_int3, "XM2")
{
	u64 kept, gone;

	REQUIRE(open_policy(EXECMEM_HUGE));
	kept = (u64)execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
	gone = (u64)execmem_alloc(EXECMEM_TEXT, 3 * PAGE_SIZE, 0);
	CHECK(kept && gone);
	CHECK_EQ(execmem_fill((void *)gone, make_pattern(1), 2 * PAGE_SIZE), 0);
	CHECK(!holds_byte(gone, 2 * PAGE_SIZE, EXECMEM_INT3));
	execmem_free((void *)gone);
	CHECK(holds_byte(gone, 3 * PAGE_SIZE, EXECMEM_INT3));
	CHECK_EQ(attrs_of(gone), RX);
	/* The next one who gets it finds nothing of it either. */
	CHECK_EQ((u64)execmem_alloc(EXECMEM_TEXT, PAGE_SIZE, 0), gone);
	CHECK(holds_byte(gone, PAGE_SIZE, EXECMEM_INT3));
	execmem_free((void *)gone);
	execmem_free((void *)kept);
	close_policy();
}

/* The check looks at every byte that holds no code: behind an object's end, and where nobody is. */
POLICY_ROWS(code_where_there_is_none_is_found, "XM2")
{
	u64 warnings = log_warnings, va, places[2];
	u8 nop = 0x90, int3 = EXECMEM_INT3;

	REQUIRE(open_policy(test_row()));
	va = (u64)execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
	REQUIRE(va != 0);
	places[0] = va + OBJECT;
	places[1] = va + align_up(OBJECT, EXECMEM_CHUNK) + 1000;
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		CHECK_EQ(execmem_check(), 0);
		CHECK_EQ(text_poke(places[i], frame_of(places[i]), &nop, 1), 0);
		CHECK_EQ(execmem_check(), 1);
		CHECK_EQ(text_poke(places[i], frame_of(places[i]), &int3, 1), 0);
	}
	execmem_free((void *)va);
	log_warnings = warnings;
	close_policy();
}

/* The tail is given out first, and is INT3 again in the end; what does not fit goes elsewhere. */
TEST_ID(execmem, text_tail_comes_first, "XM5 BT3")
{
	struct range tail = execmem_text_tail();
	struct execmem_stats s;
	u64 small, large;

	if (range_empty(tail))
		SKIP("the text fills its last block");
	REQUIRE(open_policy(EXECMEM_HUGE_TAIL));
	CHECK(holds_byte(tail.start, range_size(tail), EXECMEM_INT3));
	small = (u64)execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
	large = (u64)execmem_alloc(EXECMEM_TEXT, range_size(tail), 0);
	CHECK_EQ(small, tail.start);
	CHECK(large && !range_has(tail, large));
	CHECK_EQ(execmem_fill((void *)small, make_pattern(5), OBJECT), 0);
	CHECK(holds(small, pattern, OBJECT));
	CHECK_EQ(attrs_of(small), RX);
	CHECK_EQ(alias_attrs_of(small), R);
	execmem_read_stats(EXECMEM_TYPES, &s);
	CHECK_EQ(s.tail_bytes, align_up(OBJECT, EXECMEM_CHUNK));
	CHECK_EQ(s.held, s.tail_bytes + align_up(range_size(tail), BLOCK));
	execmem_free((void *)large);
	execmem_free((void *)small);
	CHECK(holds_byte(tail.start, range_size(tail), EXECMEM_INT3));
	/* Under another policy nobody gets it. */
	CHECK_EQ(execmem_set_policy(EXECMEM_HUGE), 0);
	small = (u64)execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
	CHECK(small && !range_has(tail, small));
	execmem_free((void *)small);
	close_policy();
}

/* ---- Whole blocks ---- */

/* One free empties three blocks at once and shares a fourth: three go back, the fourth with its last user. */
static void free_large(enum execmem_type type)
{
	struct execmem_stats s;
	void *large = execmem_alloc(type, 3 * BLOCK + 4 * PAGE_SIZE, 0);
	void *small = execmem_alloc(type, PAGE_SIZE, 0);

	if (!CHECK(large && small))
		return;
	CHECK_EQ((u64)small, (u64)large + 3 * BLOCK + 4 * PAGE_SIZE);
	execmem_read_stats(type, &s);
	CHECK_EQ(s.regions, 4);
	CHECK_EQ(execmem_check(), 0);
	execmem_free(large);
	execmem_read_stats(type, &s);
	CHECK_EQ(s.regions, 1);
	CHECK_EQ(attrs_of((u64)large), 0);
	CHECK_EQ(attrs_of((u64)large + 2 * BLOCK), 0);
	CHECK(attrs_of((u64)small) != 0);
	CHECK_EQ(execmem_check(), 0);
	execmem_free(small);
	CHECK_EQ(attrs_of((u64)small), 0);
}

TEST_ID(execmem, all_blocks_that_a_free_empties_go_back, "XM3")
{
	static const enum execmem_policy policies[] = { EXECMEM_HUGE, EXECMEM_PACK };
	struct directmap_stats before, after;

	pt_settle(&kernel_space);
	directmap_read_stats(&before);
	for (unsigned i = 0; i < ARRAY_SIZE(policies); i++) {
		if (!open_policy(policies[i]))
			return;
		free_large(EXECMEM_TEXT);
		free_large(EXECMEM_DATA);
		free_large(EXECMEM_RODATA);
		free_large(EXECMEM_RO_AFTER_INIT);
		close_policy();
	}
	pt_settle(&kernel_space);
	directmap_read_stats(&after);
	CHECK_EQ(after.direct_map_4k, before.direct_map_4k);
	CHECK_EQ(after.direct_map_2m, before.direct_map_2m);
	CHECK_EQ(after.direct_map_1g, before.direct_map_1g);
}

/*
 * Objects over several blocks, freed in a scattered order: blocks go back as they become empty, none
 * waits for its neighbour.
 */
TEST_ID(execmem, blocks_go_back_one_by_one, "XM3")
{
	void *objects[64];
	struct execmem_stats s;

	REQUIRE(open_policy(EXECMEM_HUGE));
	for (unsigned i = 0; i < 64; i++)
		CHECK((objects[i] = execmem_alloc(EXECMEM_TEXT, BLOCK / 16, 0)) != NULL);
	execmem_read_stats(EXECMEM_TEXT, &s);
	CHECK_EQ(s.regions, 4);
	for (unsigned i = 0; i < 64; i++) {
		execmem_free(objects[i * 5 % 16 + 16 * ((i / 16 * 3 + 1) % 4)]);
		execmem_read_stats(EXECMEM_TEXT, &s);
		CHECK_EQ(s.regions, 4 - (i + 1) / 16);
		CHECK_EQ(execmem_check(), 0);
	}
	close_policy();
}

/* ---- No blocks ---- */

/*
 * Take all memory there is; of single frames, those of a whole block among them, give every other one
 * back. By lists through struct page: the blocks, and the single frames that stay taken.
 */
static u32 take_all_blocks(u32 *singles)
{
	u32 head = PFN_NONE, nr = 0;
	struct page *page;

	for (unsigned order = ORDER_MAX; order >= ORDER_2M; order--)
		while ((page = alloc_pages(order, 0))) {
			page->private = order;
			page->next = head;
			head = (u32)page_to_pfn(page);
		}
	if (head != PFN_NONE) {
		page = pfn_to_page(head);
		head = page->next;
		free_pages(page, (unsigned)page->private);
	}
	*singles = PFN_NONE;
	while ((page = alloc_page(0))) {
		page->next = *singles;
		*singles = (u32)page_to_pfn(page);
	}
	for (u32 at = *singles; at != PFN_NONE && pfn_to_page(at)->next != PFN_NONE && nr < 256; nr++) {
		struct page *gone = pfn_to_page(pfn_to_page(at)->next);

		at = pfn_to_page(at)->next = gone->next;
		free_page(gone);
	}
	return head;
}

static void free_list(u32 head)
{
	while (head != PFN_NONE) {
		struct page *page = pfn_to_page(head);
		unsigned order = (unsigned)page->private;

		head = page->next;
		page->private = 0;
		free_pages(page, order);
	}
}

static void free_singles(u32 head)
{
	while (head != PFN_NONE) {
		struct page *page = pfn_to_page(head);

		head = page->next;
		free_page(page);
	}
}

TEST_ID(execmem, no_block_to_be_had, "XM4")
{
	struct execmem_stats before, s;
	void *objects[3] = { 0 };
	u32 blocks, singles;

	REQUIRE(open_policy(EXECMEM_HUGE));
	execmem_read_stats(EXECMEM_TYPES, &before);
	blocks = take_all_blocks(&singles);
	for (unsigned i = 0; i < 3; i++) {
		static const u64 sizes[] = { OBJECT, 5 * PAGE_SIZE - 64, OBJECT };
		static const enum execmem_type types[] = { EXECMEM_TEXT, EXECMEM_TEXT, EXECMEM_RODATA };

		objects[i] = execmem_alloc(types[i], sizes[i], 0);
		if (!CHECK(objects[i] != NULL))
			continue;
		CHECK(range_has(execmem_params(EXECMEM_HUGE, types[i])->ranges[0], (u64)objects[i]));
		CHECK_EQ(fixture_leaf((u64)objects[i]).level, PT_4K);
		check_object(EXECMEM_HUGE, types[i], (u64)objects[i], false);
		CHECK_EQ(execmem_fill(objects[i], make_pattern((u8)i), OBJECT), 0);
		CHECK(holds((u64)objects[i], pattern, OBJECT));
	}
	execmem_read_stats(EXECMEM_TYPES, &s);
	CHECK_EQ(s.fallbacks_4k - before.fallbacks_4k, s.regions);
	CHECK_EQ(s.leaves_4k, s.regions);
	CHECK_EQ(s.leaves_2m, 0);
	CHECK_EQ(s.blocks_taken, before.blocks_taken);
	/* Wasted is less than a page per type, whatever they share. */
	CHECK(s.wasted < 2 * PAGE_SIZE);
	CHECK_EQ(execmem_check(), 0);
	for (unsigned i = 0; i < 3; i++)
		execmem_free(objects[i]);
	unmapped_shrink(UNMAPPED_ALL);
	free_singles(singles);
	free_list(blocks);
	close_policy();
}

/* ---- Sealing ---- */

/* The rights of one object change, and no other's; afterwards the memory is as good as new. */
POLICY_ROWS(ro_after_init, "XM1")
{
	enum execmem_policy policy = test_row();
	u64 a, b;

	REQUIRE(open_policy(policy));
	a = (u64)execmem_alloc(EXECMEM_RO_AFTER_INIT, PAGE_SIZE + 8, 0);
	b = (u64)execmem_alloc(EXECMEM_RO_AFTER_INIT, 8, 0);
	if (CHECK(a && b)) {
		*(u64 *)arch_va_ptr(a + PAGE_SIZE, true) = 1;
		CHECK_EQ(execmem_seal((void *)a), 0);
		CHECK_EQ(attrs_of(a), R);
		CHECK_EQ(attrs_of(a + PAGE_SIZE), R);
		CHECK_EQ(attrs_of(b), RW);
		CHECK_EQ(byte_at(a + PAGE_SIZE), 1);
		CHECK_EQ(execmem_seal((void *)(a + 64)), -EINVAL);
		CHECK_EQ(execmem_seal((void *)(b + 1)), -EINVAL);
		CHECK_EQ(execmem_check(), 0);
		execmem_free((void *)a);
		a = (u64)execmem_alloc(EXECMEM_RO_AFTER_INIT, 2 * PAGE_SIZE, 0);
		CHECK_EQ(attrs_of(a), RW);
		CHECK(holds_byte(a, 2 * PAGE_SIZE, 0));
		CHECK_EQ(execmem_check(), 0);
	}
	execmem_free((void *)a);
	execmem_free((void *)b);
	close_policy();
}

/* The baseline: each object re-protects its own frames in both places, and undoes it. */
TEST_ID(execmem, pages_are_reprotected_and_undone, "XM5 PT2")
{
	pfn_t pfn;
	u64 va;

	if (!have_nx())
		SKIP("no NX");
	REQUIRE(open_policy(EXECMEM_PAGES));
	va = (u64)execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
	if (CHECK(va != 0)) {
		pfn = frame_of(va);
		CHECK_EQ(attrs_of(va), RW);
		CHECK_EQ(execmem_seal((void *)va), 0);
		CHECK_EQ(attrs_of(va), RX);
		CHECK_EQ(attrs_of(phys_to_va(phys(pfn << PAGE_SHIFT))), R);
		execmem_free((void *)va);
		CHECK_EQ(attrs_of(va), 0);
		CHECK_EQ(attrs_of(phys_to_va(phys(pfn << PAGE_SHIFT))), RW);
	}
	close_policy();
}

/* ---- Splits ---- */

/*
 * Packed text splits no 2M leaf, ever: what it takes of the direct map are whole ones. Under `pages` each
 * object's frames are re-protected, which splits the leaf they lie in; how many depends on where the
 * frames lie, so there it is a note.
 */
POLICY_ROWS(splits_per_object, "XM2 XM9")
{
	enum pt_collapse_policy collapse = fixture_policy(PT_COLLAPSE_EAGER);
	enum execmem_policy policy = test_row();
	struct directmap_stats before, after;
	void *objects[100];

	pt_settle(&kernel_space);
	directmap_read_stats(&before);
	if (open_policy(policy)) {
		for (unsigned i = 0; i < 100; i++) {
			objects[i] = execmem_alloc(EXECMEM_TEXT, 64 + 37 * i, 0);
			CHECK(objects[i] && execmem_fill(objects[i], make_pattern((u8)i), 64) == 0 &&
			      execmem_seal(objects[i]) == 0);
		}
		directmap_read_stats(&after);
		for (unsigned i = 0; i < 100; i++)
			execmem_free(objects[i]);
		close_policy();
		test_note("objects=100 level2_splits=%llu level3_splits=%llu",
			  (unsigned long long)(after.direct_map_level2_splits - before.direct_map_level2_splits),
			  (unsigned long long)(after.direct_map_level3_splits - before.direct_map_level3_splits));
		if (policy != EXECMEM_PAGES) {
			CHECK_EQ(after.direct_map_level2_splits, before.direct_map_level2_splits);
			CHECK(after.direct_map_level3_splits <= before.direct_map_level3_splits + 1);
		}
	}
	fixture_policy(collapse);
}

/* ---- Half-way through a fill ---- */

static struct {
	u64 always;	/* pages of windows that are mapped all the time (EFI's) */
	u64 calls, pages, violations, wrong_windows;
} midway;

static void audit_midway(u64 va, u64 len)
{
	u64 pages = ((va & (PAGE_SIZE - 1)) + len + PAGE_SIZE - 1) >> PAGE_SHIFT;
	struct pt_audit audit;

	midway.calls++;
	midway.pages += pages;
	midway.violations += pt_audit(&audit);
	midway.wrong_windows += audit.windows != midway.always + pages;
}

/* In the middle of each fill the window is there, and nothing else is; after it, nothing at all. */
void suite_execmem_audit_fills(u64 fills)
{
	struct rng rng = test_rng();
	struct pt_audit audit;
	u8 *object;

	if (!have_nx())
		SKIP("no NX: there is nothing to audit");
	REQUIRE(open_policy(EXECMEM_HUGE_TAIL));
	object = execmem_alloc(EXECMEM_TEXT, 4 * PAGE_SIZE, 0);
	memset(&midway, 0, sizeof(midway));
	make_pattern(3);
	if (CHECK(object != NULL)) {
		CHECK_EQ(pt_audit(&audit), 0);
		midway.always = audit.windows;
		text_poke_midway = audit_midway;
		for (u64 i = 0; i < fills; i++)
			CHECK_EQ(execmem_fill(object + rng_below(&rng, 3 * PAGE_SIZE), pattern,
					      1 + rng_below(&rng, PAGE_SIZE)), 0);
		text_poke_midway = NULL;
	}
	CHECK_EQ(midway.calls, fills);
	CHECK(midway.pages > fills && midway.pages < 2 * fills);	/* windows of one page and of two */
	CHECK_EQ(midway.violations, 0);
	CHECK_EQ(midway.wrong_windows, 0);
	CHECK_EQ(pt_audit(&audit), 0);
	CHECK_EQ(audit.windows, midway.always);
	test_note("fills=%llu pages_in_windows=%llu", (unsigned long long)fills, (unsigned long long)midway.pages);
	execmem_free(object);
	close_policy();
}

/* A sample: tests/machine/suite_execmem_attack.c has a thousand. */
TEST_ID(execmem, audit_in_the_middle_of_fills, "XM2 PT5")
{
	suite_execmem_audit_fills(FILLS_SAMPLE);
}

/* Where the window is while it is open: in the slot of a task, with the offset in its page. */
static void spoil_midway(u64 va, u64 len)
{
	u8 *p = arch_va_ptr(TEMP_MAP_BASE + (va & (PAGE_SIZE - 1)) + len / 2, true);

	*p ^= 1;
}

TEST_ID(execmem, what_does_not_read_back_is_eio, "XM2")
{
	void *object;

	REQUIRE(open_policy(EXECMEM_HUGE));
	object = execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
	text_poke_midway = spoil_midway;
	CHECK_EQ(execmem_fill(object, make_pattern(1), OBJECT), -EIO);
	text_poke_midway = NULL;
	CHECK_EQ(execmem_fill(object, pattern, OBJECT), 0);
	execmem_free(object);
	close_policy();
}

/* ---- Half-way through a free ---- */

static struct {
	u8 *object;		/* on its way */
	u8 *other;		/* what an allocation gave meanwhile */
	unsigned calls, wrong;
} going;

static void use_midway(u64 va, u64 len)
{
	static const u8 ret = 0xc3;

	if (going.calls++)
		return;
	text_poke_midway = NULL;
	going.wrong += va != (u64)going.object || len < OBJECT;
	going.other = execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
	going.wrong += execmem_fill(going.object, &ret, 1) != -EINVAL;
	going.wrong += execmem_seal(going.object) != -EINVAL;
	execmem_free(going.object);
}

/*
 * What is being freed is nobody's already and free not yet: it cannot be filled, sealed or freed again, and no
 * allocation gets it until it is INT3 and the CPUs were told.
 */
TEST_ID(execmem, what_is_being_freed_is_nobodys, "XM2")
{
	u64 warnings = log_warnings;
	struct text_poke_stats pokes, after;
	u8 *behind, *again;

	REQUIRE(open_policy(EXECMEM_HUGE));
	memset(&going, 0, sizeof(going));
	going.object = execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
	behind = execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
	CHECK(going.object && behind && going.object < behind);
	text_poke_read_stats(&pokes);
	text_poke_midway = use_midway;
	execmem_free(going.object);
	text_poke_midway = NULL;
	text_poke_read_stats(&after);
	CHECK_EQ(going.calls, 1);
	CHECK_EQ(going.wrong, 0);
	CHECK(going.other > behind);
	CHECK_EQ(log_warnings - warnings, 2);	/* the seal and the free were named */
	CHECK_EQ(after.syncs - pokes.syncs, 1);
	CHECK_EQ(execmem_check(), 0);
	again = execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
	CHECK(again == going.object);
	CHECK(holds_byte((u64)again, OBJECT, EXECMEM_INT3));
	execmem_free(again);
	execmem_free(behind);
	execmem_free(going.other);
	log_warnings = warnings;
	close_policy();
}

/* No fill and no free asks another CPU to flush, or flushes a translation of the kernel space here. */
TEST_ID(execmem, packed_objects_flush_nothing, "XM2 TL2")
{
	struct tlb_stats before, after;
	struct text_poke_stats pokes, pokes_after;
	void *kept, *object;

	REQUIRE(open_policy(EXECMEM_HUGE));
	kept = execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
	tlb_read_stats(&before);
	text_poke_read_stats(&pokes);
	for (unsigned i = 0; i < 50; i++) {
		object = execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
		CHECK(object && execmem_fill(object, make_pattern((u8)i), OBJECT) == 0);
		execmem_free(object);
	}
	tlb_read_stats(&after);
	text_poke_read_stats(&pokes_after);
	CHECK_EQ(after.batches, before.batches);
	CHECK_EQ(after.nr_tlb_local_flush_all + after.nr_tlb_local_flush_one,
		 before.nr_tlb_local_flush_all + before.nr_tlb_local_flush_one);
	CHECK_EQ(after.nr_tlb_remote_flush, before.nr_tlb_remote_flush);
	CHECK_EQ(pokes_after.windows - pokes.windows, 100);
	CHECK_EQ(pokes_after.syncs - pokes.syncs, 100);
	execmem_free(kept);
	close_policy();
}

/* Many objects freed cost one round of all CPUs, when the first of their memory is used again; nothing freed, none. */
TEST_ID(execmem, freed_text_is_forgotten_before_reuse, "XM2")
{
	struct text_poke_stats stats;
	void *kept, *objects[20];
	u64 rounds;

	REQUIRE(open_policy(EXECMEM_HUGE));
	kept = execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
	text_poke_read_stats(&stats);
	rounds = stats.rounds;
	for (unsigned i = 0; i < ARRAY_SIZE(objects); i++)
		objects[i] = execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
	text_poke_read_stats(&stats);
	CHECK_EQ(stats.rounds, rounds);
	for (unsigned i = 0; i < ARRAY_SIZE(objects); i++)
		execmem_free(objects[i]);
	text_poke_read_stats(&stats);
	CHECK_EQ(stats.rounds, rounds);
	for (unsigned i = 0; i < ARRAY_SIZE(objects); i++) {
		objects[i] = execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
		CHECK(objects[i] != NULL);
	}
	text_poke_read_stats(&stats);
	CHECK_EQ(stats.rounds, rounds + 1);
	for (unsigned i = 0; i < ARRAY_SIZE(objects); i++)
		execmem_free(objects[i]);
	execmem_free(kept);
	close_policy();
}

/* ---- Bad requests ---- */

TEST_ID(execmem, bad_requests_are_named_and_change_nothing, "XM2")
{
	u64 warnings = log_warnings, sum;
	void *object;

	REQUIRE(open_policy(EXECMEM_HUGE));
	object = execmem_alloc(EXECMEM_TEXT, OBJECT, 0);
	REQUIRE(object != NULL);
	sum = sum_of((u64)object, OBJECT);
	CHECK(!execmem_alloc(EXECMEM_TYPES, 1, 0));
	CHECK(!execmem_alloc((enum execmem_type)-1, 1, 0));
	CHECK(!execmem_alloc(EXECMEM_TEXT, 0, 0));
	CHECK(!execmem_alloc(EXECMEM_TEXT, EXECMEM_SIZE_MAX + 1, 0));
	CHECK(!execmem_alloc(EXECMEM_TEXT, UINT64_MAX, 0));
	CHECK(!execmem_alloc(EXECMEM_TEXT, 1, 3));
	CHECK(!execmem_alloc(EXECMEM_TEXT, 1, 2 * EXECMEM_ALIGN_MAX));
	CHECK_EQ(log_warnings - warnings, 7);
	execmem_free((u8 *)object + 64);
	execmem_free((u8 *)object + 1);
	execmem_free((u8 *)object - 64);
	execmem_free((void *)KERNEL_BASE);
	execmem_free((void *)0x1234);
	execmem_free((void *)arch_mm.direct_base);
	CHECK_EQ(log_warnings - warnings, 13);
	execmem_free(NULL);
	CHECK_EQ(log_warnings - warnings, 13);
	CHECK_EQ(sum_of((u64)object, OBJECT), sum);
	CHECK_EQ(execmem_check(), 0);
	execmem_free(object);
	execmem_free(object);		/* the second time it is nobody's */
	CHECK_EQ(log_warnings - warnings, 14);
	CHECK_EQ(execmem_seal(object), -EINVAL);
	log_warnings = warnings;	/* they were meant */
	close_policy();
}

/* ---- Failures ---- */

/* Everything that a failed call might have left behind. */
struct trace {
	struct fixture_picture picture;
	struct execmem_stats stats;
};

static void trace_take(struct trace *t)
{
	unmapped_shrink(UNMAPPED_ALL);
	pt_settle(&kernel_space);
	buddy_drain();
	fixture_take(&t->picture);
	execmem_read_stats(EXECMEM_TYPES, &t->stats);
}

static bool trace_same(const struct trace *before)
{
	struct trace now;
	bool ok;

	trace_take(&now);
	ok = CHECK_EQ(now.picture.digest, before->picture.digest);
	ok &= CHECK_EQ(now.picture.free, before->picture.free);
	ok &= CHECK_EQ(now.stats.held, before->stats.held);
	ok &= CHECK_EQ(now.stats.asked, before->stats.asked);
	ok &= CHECK_EQ(now.stats.regions, before->stats.regions);
	return ok & CHECK_EQ(execmem_check(), 0);
}

/*
 * An object's life with the n-th allocation failing, whichever step that is in. Returns whether there
 * were that many.
 */
static bool life_with_failure(enum execmem_type type, u64 size, u64 n)
{
	bool failed;
	void *object;

	alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = n };
	object = execmem_alloc(type, size, 128);
	if (object) {
		CHECK_EQ(execmem_fill(object, make_pattern(1), MIN(size, sizeof(pattern))), 0);
		(void)!execmem_seal(object);	/* may fail: then nothing has changed, and freeing works */
		execmem_free(object);
	}
	alloc_inject.armed = 0;
	failed = alloc_inject.failed;
	/* What could not be given back for want of memory is tried again here. */
	CHECK_EQ(execmem_set_policy(execmem_policy()), 0);
	return failed;
}

POLICY_ROWS(failures_leave_no_trace, "XM2 PA8")
{
	static const u64 sizes[] = { OBJECT, 3 * PAGE_SIZE, BLOCK + PAGE_SIZE };
	enum pt_collapse_policy collapse = fixture_policy(PT_COLLAPSE_EAGER);
	u64 warnings = log_warnings, points = 0;
	struct trace before;

	if (open_policy(test_row())) {
		for (unsigned type = 0; type < EXECMEM_TYPES; type++) {
			/*
			 * Init types are the same rows; the large size takes a thousand tries under
			 * `pages`.
			 */
			for (unsigned i = 0; i < (test_row() == EXECMEM_PAGES ? 2 : ARRAY_SIZE(sizes)); i++) {
				u64 n = 1;

				if (type >= EXECMEM_INIT_TEXT)
					continue;
				trace_take(&before);
				/*
				 * A block's worth of single frames is tried in steps: one after the other
				 * is alike.
				 */
				while (life_with_failure(type, sizes[i], n) && trace_same(&before))
					n += n < 40 ? 1 : 97;
				points += n;
			}
		}
		test_note("failed_allocations=%llu", (unsigned long long)points);
		CHECK(points > 20);
		log_warnings = warnings;
		close_policy();
	}
	fixture_policy(collapse);
}
