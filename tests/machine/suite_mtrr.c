/* SPDX-License-Identifier: MIT */
/*
 * arch/x86_64/mtrr.c: the type of every byte, and where it may change. On registers made up here, against a reading
 * of SDM 3A 12.11 that looks at one address at a time; and on those of this machine.
 */
#include "arch/x86_64/mtrr.h"

#include "kernel/base/bits.h"
#include "mm/arch.h"
#include "tests/test.h"

#define VALID BIT(11)
#define BITS 40u

static struct mtrr_state s;

static void reset(u8 default_type)
{
	s = (struct mtrr_state){ .present = true, .enabled = true, .default_type = default_type, .phys_bits = BITS };
}

static void add(u64 base, u64 size, u8 type)
{
	s.variable[s.nr_variable].base = base | type;
	s.variable[s.nr_variable].mask = (~(size - 1) & (BIT(BITS) - 1)) | VALID;
	s.nr_variable++;
}

static u8 type_at(u64 pa)
{
	u64 end;

	return mtrr_type(&s, pa, &end);
}

static u64 end_at(u64 pa)
{
	u64 end;

	mtrr_type(&s, pa, &end);
	return end;
}

TEST_ID(mtrr, disabled_or_absent, "PT1")
{
	reset(MTRR_WB);
	s.enabled = false;
	CHECK_EQ(type_at(GIB), MTRR_UC);
	CHECK_EQ(end_at(GIB), BIT(BITS));
	s.present = false;
	CHECK_EQ(type_at(GIB), MTRR_WB);
}

/* As OVMF and PCs do it: memory is write-back by default, a hole below 4 GiB is uncached. */
TEST_ID(mtrr, hole_below_4g, "PT1")
{
	reset(MTRR_WB);
	add(2 * GIB, 2 * GIB, MTRR_UC);
	CHECK_EQ(type_at(2 * GIB - 1), MTRR_WB);
	CHECK_EQ(end_at(0), 2 * GIB);
	CHECK_EQ(end_at(2 * GIB - 1), 2 * GIB);
	CHECK_EQ(type_at(2 * GIB), MTRR_UC);
	CHECK_EQ(end_at(2 * GIB), 4 * GIB);
	CHECK_EQ(type_at(4 * GIB - 1), MTRR_UC);
	CHECK_EQ(type_at(4 * GIB), MTRR_WB);
	CHECK_EQ(end_at(4 * GIB), BIT(BITS));
}

TEST_ID(mtrr, overlaps, "PT1")
{
	reset(MTRR_UC);
	add(0, 4 * GIB, MTRR_WB);
	add(GIB, GIB, MTRR_UC);
	add(3 * GIB, GIB, MTRR_WT);
	CHECK_EQ(type_at(0), MTRR_WB);
	CHECK_EQ(end_at(0), GIB);
	CHECK_EQ(type_at(GIB), MTRR_UC);
	CHECK_EQ(end_at(GIB), 2 * GIB);
	CHECK_EQ(type_at(2 * GIB), MTRR_WB);
	CHECK_EQ(type_at(3 * GIB), MTRR_WT);
	CHECK_EQ(type_at(4 * GIB), MTRR_UC);
	add(3 * GIB, GIB, MTRR_WC);
	CHECK_EQ(type_at(3 * GIB), MTRR_UC);	/* WT and WC: undefined, so the safe one */
}

TEST_ID(mtrr, fixed_ranges, "PT1")
{
	static const struct {
		u64 pa, end;
		u8 index;
	} rows[] = {
		{ 0, 64 * KIB, 0 },	       { 64 * KIB - 1, 64 * KIB, 0 },	{ 64 * KIB, 128 * KIB, 1 },
		{ 512 * KIB - 1, 512 * KIB, 7 }, { 512 * KIB, 528 * KIB, 8 },	{ 768 * KIB - 1, 768 * KIB, 23 },
		{ 768 * KIB, 772 * KIB, 24 },  { MIB - 1, MIB, 87 },
	};

	reset(MTRR_WB);
	s.fixed_enabled = true;
	for (unsigned i = 0; i < MTRR_FIXED; i++)
		s.fixed[i] = (u8)(100 + i);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		CHECK_EQ(type_at(rows[i].pa), 100 + rows[i].index);
		CHECK_EQ(end_at(rows[i].pa), rows[i].end);
	}
	CHECK_EQ(type_at(MIB), MTRR_WB);
}

TEST_ID(mtrr, amd_memory_above_4g, "PT1")
{
	reset(MTRR_UC);
	s.force_wb_end = 6 * GIB;
	CHECK_EQ(type_at(4 * GIB - 1), MTRR_UC);
	CHECK_EQ(end_at(0), 4 * GIB);
	CHECK_EQ(type_at(4 * GIB), MTRR_WB);
	CHECK_EQ(end_at(5 * GIB), 6 * GIB);
	CHECK_EQ(type_at(6 * GIB), MTRR_UC);
}

/* The rules once more, without any idea of ranges. */
static u8 slow_type(u64 pa)
{
	bool wb = false, wt = false, hit = false, other = false;
	u8 last = 0;

	for (unsigned i = 0; i < s.nr_variable; i++) {
		u64 mask = s.variable[i].mask & (BIT(BITS) - PAGE_SIZE);

		if (!(s.variable[i].mask & VALID) || (pa & mask) != (s.variable[i].base & mask))
			continue;
		last = (u8)s.variable[i].base;
		hit = true;
		wb |= last == MTRR_WB;
		wt |= last == MTRR_WT;
		other |= last != MTRR_WB && last != MTRR_WT;
	}
	if (!hit)
		return s.default_type;
	if (other)
		return MTRR_UC;
	return wt ? MTRR_WT : wb ? MTRR_WB : last;
}

/* Random ranges, masks with holes among them: no page of [pa, end) may have another type than pa, nor a wrong one. */
TEST_ID(mtrr, random_registers, "PT1")
{
	static const u8 types[] = { MTRR_UC, MTRR_WT, MTRR_WB };
	struct rng rng = test_rng();
	unsigned wrong = 0, stuck = 0;

	for (unsigned round = 0; round < 300; round++) {
		reset(types[rng_below(&rng, 3)]);
		for (unsigned i = 0; i < 5; i++) {
			u64 size = PAGE_SIZE << rng_below(&rng, 5);

			add(align_down(rng_below(&rng, 64 * PAGE_SIZE), size), size, types[rng_below(&rng, 3)]);
			if (rng_below(&rng, 4) == 0)
				s.variable[i].mask &= ~(PAGE_SIZE << rng_below(&rng, 6));
		}
		for (u64 pa = 0; pa < 70 * PAGE_SIZE;) {
			u64 end = end_at(pa);

			stuck += end <= pa;
			for (u64 at = pa; at < MIN(end, 70 * PAGE_SIZE); at += PAGE_SIZE)
				wrong += type_at(pa) != slow_type(at);
			pa = MAX(end, pa + PAGE_SIZE);
		}
	}
	CHECK_EQ(wrong, 0);
	CHECK_EQ(stuck, 0);
}

/* This machine's: ranges follow each other up to the top, and the image lies in write-back memory. */
TEST_ID(mtrr, this_machine, "PT1")
{
	u64 top = BIT(arch_mm.phys_bits);
	unsigned ranges = 0;
	u64 end;

	for (u64 pa = 0; pa < top; pa = end) {
		u8 type = arch_memory_type(phys(pa), &end);
		u64 same_end;

		REQUIRE(end > pa && end <= top);
		CHECK_EQ(arch_memory_type(phys(end - 1), &same_end), type);
		CHECK_EQ(same_end, end);
		ranges++;
	}
	test_note("ranges=%u", ranges);
	CHECK(ranges > 0);
}
