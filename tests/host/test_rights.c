/* SPDX-License-Identifier: MIT */
/*
 * boot/rights.c against firmware that is made up: a protocol over an array of pages which records every moment in which a page
 * is writable and executable that was not before, and which refuses, at will, any of its calls.
 */
#include "boot/rights.h"

#include <stdlib.h>
#include <string.h>

#include "arch/x86_64/pte.h"
#include "tests/test.h"

#define PAGES 64u
#define BASE ((u64)memory)
#define ALL range_len(BASE, PAGES * PAGE_SIZE)
#define MASK (RIGHTS_XP | RIGHTS_RO)
#define REFUSED 0x8000000000000003ull
#define NO_MAPPING 0x8000000000000011ull

static u8 memory[PAGES * PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

static struct {
	u64 before[PAGES], now[PAGES];
	u64 extra;		/* another attribute that the firmware tells of */
	bool weak[PAGES];	/* was writable and executable before */
	unsigned calls, fail_at, opened, bad;
} fw;

static u64 *pages_of(u64 base, u64 length, u64 *nr)
{
	if (base < BASE || length == 0 || base % PAGE_SIZE || length % PAGE_SIZE || base + length > ALL.end) {
		fw.bad++;
		*nr = 0;
	} else {
		*nr = length / PAGE_SIZE;
	}
	return &fw.now[(base - BASE) / PAGE_SIZE];
}

static bool refuses(void)
{
	return ++fw.calls == fw.fail_at;
}

static u64 __attribute__((ms_abi)) fw_get(struct rights_protocol *self, u64 base, u64 length, u64 *attributes)
{
	u64 nr, *pages = pages_of(base, length, &nr);

	(void)self;
	for (u64 i = 1; i < nr; i++)
		if (pages[i] != pages[0])
			return NO_MAPPING;
	if (!nr || refuses())
		return REFUSED;
	*attributes = pages[0] | fw.extra;
	return 0;
}

static u64 apply(u64 base, u64 length, u64 set, u64 clear)
{
	u64 nr, *pages = pages_of(base, length, &nr);

	fw.bad += !((set | clear) & MASK) || ((set | clear) & ~MASK);
	if (!nr || refuses())
		return REFUSED;
	for (u64 i = 0; i < nr; i++) {
		pages[i] = (pages[i] | set) & ~clear;
		fw.opened += !(pages[i] & MASK) && !fw.weak[pages + i - fw.now];
	}
	return 0;
}

static u64 __attribute__((ms_abi)) fw_set(struct rights_protocol *self, u64 base, u64 length, u64 attributes)
{
	(void)self;
	return apply(base, length, attributes, 0);
}

static u64 __attribute__((ms_abi)) fw_clear(struct rights_protocol *self, u64 base, u64 length, u64 attributes)
{
	(void)self;
	return apply(base, length, 0, attributes);
}

static struct rights_protocol fake = { fw_get, fw_set, fw_clear };

/* Firmware with these rights in its pages, by a function of the page. */
static void start(u64 (*rights)(unsigned page))
{
	memset(&fw, 0, sizeof(fw));
	for (unsigned i = 0; i < PAGES; i++) {
		fw.before[i] = fw.now[i] = rights(i);
		fw.weak[i] = !fw.before[i];
	}
	rights_init(&fake);
}

static u64 everything(unsigned page)
{
	(void)page;
	return 0;
}

static u64 strict(unsigned page)
{
	(void)page;
	return RIGHTS_XP;
}

static u64 mixed(unsigned page)
{
	static const u64 kinds[] = { 0, RIGHTS_XP, RIGHTS_RO, MASK };

	return kinds[page * 7 / 3 % 4];
}

static u64 (*const firmwares[])(unsigned page) = { everything, strict, mixed };

static bool all_are(struct range pa, u64 rights)
{
	for (u64 p = pa.start; p < pa.end; p += PAGE_SIZE)
		if (fw.now[(p - BASE) / PAGE_SIZE] != rights)
			return false;
	return true;
}

static bool as_before(void)
{
	return memcmp(fw.now, fw.before, sizeof(fw.now)) == 0;
}

/* Any rights over any others, and back again; nothing beside them changes, and no moment allows more. */
TEST_ID(rights, are_set_and_restored, "BT1")
{
	static const u64 wanted[] = { RIGHTS_CODE, RIGHTS_DATA, RIGHTS_CONSTANTS };
	const struct range inner = range(BASE + 3 * PAGE_SIZE, BASE + 40 * PAGE_SIZE + 17);
	const struct range whole = range(inner.start, BASE + 41 * PAGE_SIZE);

	for (unsigned f = 0; f < ARRAY_SIZE(firmwares); f++) {
		for (unsigned w = 0; w < ARRAY_SIZE(wanted); w++) {
			start(firmwares[f]);
			fw.extra = 0x2000;
			rights_set(inner, wanted[w]);
			CHECK(all_are(whole, wanted[w]));
			CHECK(memcmp(fw.now, fw.before, 3 * sizeof(u64)) == 0);
			CHECK(memcmp(&fw.now[41], &fw.before[41], (PAGES - 41) * sizeof(u64)) == 0);
			rights_restore(whole);
			CHECK(as_before());
			CHECK_EQ(rights_changed(), 0);
			CHECK_EQ(fw.opened, 0);
			CHECK_EQ(fw.bad, 0);
		}
	}
}

/* Where the firmware enforces rights there is nothing to change, and so nothing to restore. */
TEST_ID(rights, strict_firmware_is_only_asked, "BT1")
{
	start(strict);
	rights_set(ALL, RIGHTS_DATA);
	CHECK_EQ(fw.calls, 1);
	CHECK_EQ(rights_changed(), 0);
}

TEST_ID(rights, without_the_protocol, "BT1")
{
	start(everything);
	rights_init(NULL);
	rights_set(ALL, RIGHTS_DATA);
	rights_restore(ALL);
	CHECK_EQ(fw.calls, 0);
	CHECK_EQ(rights_changed(), 0);
}

/* Whichever call fails: no page is left with more than it had, and all of it can be restored. */
TEST_ID(rights, any_call_may_fail, "BT1")
{
	for (unsigned f = 0; f < ARRAY_SIZE(firmwares); f++) {
		for (unsigned at = 1, calls = at; at <= calls; at++) {
			start(firmwares[f]);
			fw.fail_at = at;
			rights_set(ALL, RIGHTS_CODE);
			rights_set(range_len(BASE, PAGE_SIZE), RIGHTS_DATA);
			calls = fw.calls;
			fw.fail_at = 0;
			rights_restore(ALL);
			CHECK(as_before());
			CHECK_EQ(fw.opened, 0);
			CHECK_EQ(fw.bad, 0);
		}
	}
}

/* One range goes back, the other keeps its rights. */
TEST_ID(rights, ranges_are_restored_one_by_one, "BT1")
{
	const struct range a = range_len(BASE, 4 * PAGE_SIZE), b = range_len(BASE + 8 * PAGE_SIZE, 4 * PAGE_SIZE);

	start(everything);
	rights_set(a, RIGHTS_DATA);
	rights_set(b, RIGHTS_DATA);
	rights_restore(a);
	CHECK(all_are(a, 0));
	CHECK(all_are(b, RIGHTS_DATA));
	rights_restore(b);
	CHECK(as_before());
}

/* ---- The image ---- */

#define IMAGE_PAGES 8u

static void put(u8 *image, u64 offset, u32 value, unsigned size)
{
	memcpy(image + offset, &value, size);
}

/* Header, then .text (2 pages), .rodata, .data (3 pages but for a byte), and a page behind. */
static struct range make_image(void)
{
	static const struct {
		u32 at, bytes, flags;
	} sections[] = { { 0x1000, 0x1801, 0x60000020 }, { 0x3000, 0x10, 0x40000040 }, { 0x4000, 0x2fff, 0xc0000040 } };
	u8 *image = memory;

	memset(image, 0, IMAGE_PAGES * PAGE_SIZE);
	put(image, 0, 0x5a4d, 2);
	put(image, 0x3c, 0x80, 4);
	put(image, 0x80, 0x4550, 4);
	put(image, 0x86, ARRAY_SIZE(sections), 2);
	put(image, 0x94, 0xf0, 2);
	for (unsigned i = 0; i < ARRAY_SIZE(sections); i++) {
		put(image, 0x188 + 40 * i + 8, sections[i].bytes, 4);
		put(image, 0x188 + 40 * i + 12, sections[i].at, 4);
		put(image, 0x188 + 40 * i + 36, sections[i].flags, 4);
	}
	return range_len(BASE, IMAGE_PAGES * PAGE_SIZE);
}

TEST_ID(rights, of_an_image_by_its_sections, "BT1")
{
	static const u64 want[IMAGE_PAGES + 1] = { RIGHTS_CONSTANTS, RIGHTS_CODE, RIGHTS_CODE, RIGHTS_CONSTANTS,
						   RIGHTS_DATA,	     RIGHTS_DATA, RIGHTS_DATA, 0, 0 };
	struct range image = make_image();

	start(everything);
	CHECK(rights_set_image(image));
	CHECK(memcmp(fw.now, want, sizeof(want)) == 0);
	rights_restore(image);
	CHECK(as_before());
}

/* A section that is writable and executable is left as it is, not made so. */
TEST_ID(rights, of_a_bad_section, "BT1")
{
	struct range image = make_image();

	put(memory, 0x188 + 40 + 36, 0xe0000020, 4);
	start(strict);
	CHECK(rights_set_image(image));
	CHECK_EQ(fw.now[3], RIGHTS_XP);
	CHECK_EQ(fw.opened, 0);
}

TEST_ID(rights, of_what_is_no_image, "BT1")
{
	struct range image = make_image();

	start(everything);
	memory[0] = 0;
	CHECK(!rights_set_image(image));
	make_image();
	put(memory, 0x3c, 0xfffffff0, 4);
	CHECK(!rights_set_image(image));
	CHECK(!rights_set_image(range_len(BASE, 1)));
	CHECK_EQ(fw.calls, 0);
}

/* Headers of noise: nothing beside the image is read (the sanitizer sees it) or given rights. */
TEST_ID(rights, of_damaged_headers, "BT1")
{
	struct rng rng = { test_seed };

	for (unsigned round = 0; round < 2000; round++) {
		struct range image = make_image();

		start(everything);
		for (unsigned i = 0; i < 4; i++)
			memory[0x80 + rng_next(&rng) % 0x190] = (u8)rng_next(&rng);
		rights_set_image(image);
		for (unsigned page = IMAGE_PAGES; page < PAGES; page++)
			CHECK_EQ(fw.now[page], 0);
		CHECK_EQ(fw.bad, 0);
		rights_restore(image);
		CHECK(as_before());
	}
}

/* ---- Tables ---- */

static pte_t *new_table(void)
{
	static u8 pool[16 * PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
	static unsigned used;

	memset(pool + used % 16 * PAGE_SIZE, 0, PAGE_SIZE);
	return (pte_t *)(pool + used++ % 16 * PAGE_SIZE);
}

/*
 * With 4 and 5 levels: a gigabyte with all rights; one of 2M leaves, the first all rights, the second NX, the third of pages that
 * are in turn everything, NX, read-only, absent; one below an entry that is read-only; the rest absent.
 */
TEST_ID(rights, counted_in_tables, "BT1")
{
	for (unsigned levels = 4; levels <= 5; levels++) {
		pte_t *top = new_table(), *third = new_table(), *second = new_table(), *first = new_table(), *forbidden = new_table();
		struct rights_tables t = { (u64)top, levels, true };
		const u64 quarter = 128 * PAGE_SIZE;

		if (levels == 5) {
			pte_t *fourth = new_table();

			top[0] = pte_table(phys((u64)fourth), false);
			top = fourth;
		}
		top[0] = pte_table(phys((u64)third), false);
		third[0] = pte_leaf(phys(0), PTE_P | PTE_W, PT_1G);
		third[1] = pte_table(phys((u64)second), false);
		third[2] = (pte_t){ (u64)forbidden | PTE_P };
		forbidden[0] = pte_leaf(phys(2 * GIB), PTE_P | PTE_W, PT_2M);
		second[0] = pte_leaf(phys(GIB), PTE_P | PTE_W, PT_2M);
		second[1] = pte_leaf(phys(GIB + 2 * MIB), PTE_P | PTE_W | PTE_NX, PT_2M);
		second[2] = pte_table(phys((u64)first), false);
		for (unsigned i = 0; i < PT_ENTRIES; i++) {
			static const u64 rights[] = { PTE_P | PTE_W, PTE_P | PTE_W | PTE_NX, PTE_P, 0 };

			first[i] = (pte_t){ (GIB + 4 * MIB + i * PAGE_SIZE) | rights[i % 4] };
		}
		CHECK_EQ(rights_writable_executable(&t, range(0, 4 * GIB)), GIB + 2 * MIB + quarter);
		CHECK_EQ(rights_writable_executable(&t, range(GIB - PAGE_SIZE, GIB + 1)), 2 * PAGE_SIZE);
		CHECK_EQ(rights_writable_executable(&t, range(GIB + 2 * MIB, GIB + 4 * MIB + 5 * PAGE_SIZE)), 2 * PAGE_SIZE);
		CHECK_EQ(rights_writable_executable(&t, range(2 * GIB, 3 * GIB)), 0);
		CHECK_EQ(rights_writable_executable(&t, range(5, 5)), 0);
		t.nx = false;
		CHECK_EQ(rights_writable_executable(&t, range(0, 4 * GIB)), GIB + 4 * MIB + 2 * quarter);
	}
}
