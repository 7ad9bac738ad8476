/* SPDX-License-Identifier: MIT */
/*
 * boot/memmap.c: the normal form of the firmware's map against a model with one cell per page, and the image's
 * place against a search through all places there are.
 */
#include <stdlib.h>
#include <string.h>

#include "boot/memmap.h"
#include "kernel/base/bits.h"
#include "kernel/base/range.h"
#include "tests/test.h"

#define STEP 48		/* real firmware's descriptors are longer than the structure */
#define DESCRIPTORS 40
#define PAGES 256

struct raw_map {
	u8 bytes[DESCRIPTORS * STEP];
	u64 size;
};

static void add(struct raw_map *raw, u32 type, u64 start, u64 pages, u64 attributes)
{
	struct memmap_descriptor d = {
		.type = type, .physical_start = start, .pages = pages, .attributes = attributes,
	};

	memcpy(raw->bytes + raw->size, &d, sizeof(d));
	memset(raw->bytes + raw->size + sizeof(d), 0xee, STEP - sizeof(d));
	raw->size += STEP;
}

static u32 normalise(const struct raw_map *raw, struct boot_mem *out, u64 *lost)
{
	static u64 scratch[2 * DESCRIPTORS + 1];

	return memmap_normalise(raw->bytes, raw->size, STEP, out, scratch, lost);
}

/* Order of the promises in boot_info.h: sorted, disjoint, aligned, merged. */
static bool normal(const struct boot_mem *map, u32 count)
{
	for (u32 i = 0; i < count; i++) {
		if (map[i].start >= map[i].end || !is_aligned(map[i].start | map[i].end, PAGE_SIZE))
			return false;
		if (map[i].type > BOOT_MEM_UNACCEPTED)
			return false;
		if (i && map[i - 1].end > map[i].start)
			return false;
		if (i && map[i - 1].end == map[i].start && map[i - 1].type == map[i].type &&
		    map[i - 1].attributes == map[i].attributes)
			return false;
	}
	return true;
}

TEST_ID(memmap, sorts_and_merges, "BT1")
{
	struct boot_mem out[2 * DESCRIPTORS + 1];
	struct raw_map raw = { .size = 0 };
	u64 lost;

	add(&raw, BOOT_MEM_LOADER_DATA, 0x8000, 2, 0xf);
	add(&raw, BOOT_MEM_CONVENTIONAL, 0x1000, 3, 0xf);
	add(&raw, BOOT_MEM_CONVENTIONAL, 0x4000, 4, 0xf);
	add(&raw, BOOT_MEM_LOADER_DATA, 0xa000, 1, 0x1);
	add(&raw, BOOT_MEM_RESERVED, 0x20000, 0, 0);
	REQUIRE(normalise(&raw, out, &lost) == 3);
	CHECK(normal(out, 3));
	CHECK_EQ(out[0].start, 0x1000);
	CHECK_EQ(out[0].end, 0x8000);
	CHECK_EQ(out[1].end, 0xa000);
	CHECK_EQ(out[2].attributes, 0x1);
	CHECK_EQ(lost, 0);
}

TEST_ID(memmap, keeps_the_more_restricted_type, "BT1")
{
	struct boot_mem out[2 * DESCRIPTORS + 1];
	struct raw_map raw = { .size = 0 };
	u64 lost;

	add(&raw, BOOT_MEM_CONVENTIONAL, 0, 16, 0);
	add(&raw, BOOT_MEM_RUNTIME_DATA, 0x4000, 2, 0);
	add(&raw, BOOT_MEM_UNUSABLE, 0xf000, 2, 0);
	REQUIRE(normalise(&raw, out, &lost) == 4);
	CHECK_EQ(out[1].type, BOOT_MEM_RUNTIME_DATA);
	CHECK_EQ(out[1].start, 0x4000);
	CHECK_EQ(out[1].end, 0x6000);
	CHECK_EQ(out[2].type, BOOT_MEM_CONVENTIONAL);
	CHECK_EQ(out[2].end, 0xf000);
	CHECK_EQ(out[3].type, BOOT_MEM_UNUSABLE);
}

TEST_ID(memmap, survives_strange_descriptors, "BT1")
{
	struct boot_mem out[2 * DESCRIPTORS + 1];
	struct raw_map raw = { .size = 0 };
	u64 lost;
	u32 count;

	add(&raw, 0x80000001, 0x1000, 1, 0);			/* a type of the firmware's own */
	add(&raw, BOOT_MEM_CONVENTIONAL, 0x10000, ~0ull, 0);	/* wraps round */
	add(&raw, BOOT_MEM_MMIO, ~0ull - 0xfff, 4, 0);
	add(&raw, BOOT_MEM_CONVENTIONAL, MEMMAP_LIMIT, 16, 0);
	count = normalise(&raw, out, &lost);
	REQUIRE(count == 2);
	CHECK(normal(out, count));
	CHECK_EQ(out[0].type, BOOT_MEM_RESERVED);
	CHECK_EQ(out[1].end, MEMMAP_LIMIT);
	CHECK(lost >= 16 * PAGE_SIZE);
	CHECK_EQ(normalise(&(struct raw_map){ .size = 0 }, out, &lost), 0);
	CHECK_EQ(memmap_normalise(raw.bytes, raw.size, 8, out, NULL, &lost), 0);
}

/* Who wins, written down once more: the list in memmap.h's words, least restricted first. */
static unsigned model_rank(u32 type)
{
	static const u8 order[] = {
		BOOT_MEM_CONVENTIONAL, BOOT_MEM_BOOT_SERVICES_DATA, BOOT_MEM_BOOT_SERVICES_CODE,
		BOOT_MEM_LOADER_DATA, BOOT_MEM_LOADER_CODE, BOOT_MEM_ACPI_RECLAIM, BOOT_MEM_ACPI_NVS,
		BOOT_MEM_RUNTIME_DATA, BOOT_MEM_RUNTIME_CODE, BOOT_MEM_PERSISTENT, BOOT_MEM_UNACCEPTED, BOOT_MEM_PAL,
		BOOT_MEM_RESERVED, BOOT_MEM_MMIO_PORT, BOOT_MEM_MMIO, BOOT_MEM_UNUSABLE,
	};
	unsigned rank = 0;

	while (order[rank] != type)
		rank++;
	return rank;
}

struct cell {
	bool there;
	u32 type;
};

static void model_add(struct cell *cells, u32 type, u64 first, u64 pages)
{
	for (u64 i = first; i < MIN(first + pages, PAGES); i++)
		if (!cells[i].there || model_rank(type) > model_rank(cells[i].type))
			cells[i] = (struct cell){ true, type };
}

/* Pages where the map and the model differ. */
static u64 model_compare(const struct cell *cells, const struct boot_mem *map, u32 count)
{
	u64 wrong = 0;

	for (u64 page = 0; page < PAGES; page++) {
		const struct boot_mem *found = NULL;

		for (u32 i = 0; i < count; i++)
			if (range_has(range(map[i].start, map[i].end), page * PAGE_SIZE))
				found = &map[i];
		wrong += cells[page].there != !!found || (found && found->type != cells[page].type);
	}
	return wrong;
}

TEST_ID(memmap, agrees_with_a_page_model, "BT1")
{
	struct rng rng = test_rng();
	u64 wrong = 0, abnormal = 0, lost;

	for (unsigned round = 0; round < 2000; round++) {
		struct boot_mem out[2 * DESCRIPTORS + 1];
		struct cell cells[PAGES] = { { 0 } };
		struct raw_map raw = { .size = 0 };
		u64 n = rng_below(&rng, DESCRIPTORS + 1);
		u32 count;

		while (n--) {
			u32 type = (u32)rng_below(&rng, 16);
			u64 first = rng_below(&rng, PAGES), pages = rng_below(&rng, 40);

			pages = MIN(pages, PAGES - first);
			add(&raw, type, first * PAGE_SIZE, pages, 0);
			model_add(cells, type, first, pages);
		}
		count = normalise(&raw, out, &lost);
		abnormal += !normal(out, count);
		wrong += model_compare(cells, out, count);
	}
	CHECK_EQ(abnormal, 0);
	CHECK_EQ(wrong, 0);
}

/* ---- the image's place ---- */

static bool model_whole(const struct boot_mem *map, u32 count, u64 gigabyte)
{
	for (u64 block = gigabyte; block < gigabyte + GIB; block += 2 * MIB) {
		bool usable = false;

		for (u32 i = 0; i < count; i++)
			usable |= memmap_usable(map[i].type) &&
				  range_covers(range(map[i].start, map[i].end), range_len(block, 2 * MIB));
		if (!usable)
			return false;
	}
	return true;
}

static bool model_free(const struct boot_mem *map, u32 count, u64 pa, u64 size)
{
	for (u32 i = 0; i < count; i++)
		if (map[i].type == BOOT_MEM_CONVENTIONAL &&
		    range_covers(range(map[i].start, map[i].end), range_len(pa, size)))
			return true;
	return false;
}

#define PLACE_GIB 6

/* The lowest place of the better kind there is: what memmap_place() promises. */
static u64 model_place(const struct boot_mem *map, u32 count, u64 size, bool *ragged)
{
	bool whole[PLACE_GIB + 1];
	u64 any = 0;

	for (unsigned g = 0; g <= PLACE_GIB; g++)
		whole[g] = model_whole(map, count, g * GIB);
	for (u64 pa = 2 * MIB; pa + size <= PLACE_GIB * GIB; pa += 2 * MIB) {
		bool costs = false;

		if (!model_free(map, count, pa, size))
			continue;
		for (u64 g = pa / GIB; g <= (pa + size - 1) / GIB; g++)
			costs |= whole[g];
		if (!costs) {
			*ragged = true;
			return pa;
		}
		any = any ? any : pa;
	}
	*ragged = false;
	return any;
}

/* A map of blocks of 2 MiB: long runs of free memory with a few holes and other types. */
static void random_map(struct rng *rng, struct raw_map *raw)
{
	static const u32 types[] = {
		BOOT_MEM_CONVENTIONAL, BOOT_MEM_CONVENTIONAL, BOOT_MEM_BOOT_SERVICES_DATA, BOOT_MEM_RESERVED,
		BOOT_MEM_RUNTIME_DATA,
	};
	u64 block = 0, end = PLACE_GIB * GIB / (2 * MIB);

	raw->size = 0;
	while (block < end && raw->size < sizeof(raw->bytes)) {
		bool small = rng_below(rng, 2);
		u64 blocks = 1 + rng_below(rng, small ? 8 : 1200);
		u32 type = types[rng_below(rng, small ? ARRAY_SIZE(types) : 3)];

		blocks = MIN(blocks, end - block);
		add(raw, type, block * 2 * MIB, blocks * 512, 0);
		block += blocks;
	}
}

TEST_ID(memmap, places_the_image_where_it_costs_least, "BT1")
{
	struct rng rng = test_rng();
	u64 wrong = 0, kinds[3] = { 0 }, lost;

	for (unsigned round = 0; round < 200; round++) {
		struct boot_mem out[2 * DESCRIPTORS + 1];
		u64 size = (1 + rng_below(&rng, 16)) * 2 * MIB;
		struct raw_map raw;
		bool ragged, want_ragged;
		u64 pa, want;
		u32 count;

		random_map(&rng, &raw);
		count = normalise(&raw, out, &lost);
		pa = memmap_place(out, count, size, 0, &ragged);
		want = model_place(out, count, size, &want_ragged);
		wrong += pa != want || ragged != want_ragged;
		kinds[pa ? 1 + ragged : 0]++;
	}
	CHECK_EQ(wrong, 0);
	CHECK(kinds[2] > 0);
	test_note("none=%lu whole=%lu ragged=%lu", kinds[0], kinds[1], kinds[2]);
}

TEST_ID(memmap, place_prefers_a_ragged_gigabyte, "BT1")
{
	struct boot_mem out[2 * DESCRIPTORS + 1];
	struct raw_map raw = { .size = 0 };
	bool ragged;
	u64 lost;
	u32 count;

	/* Gigabytes 0 and 1 are whole, 2 has a hole at its end, 3 is whole. */
	add(&raw, BOOT_MEM_CONVENTIONAL, 0, (2 * GIB + 900 * MIB) / PAGE_SIZE, 0);
	add(&raw, BOOT_MEM_CONVENTIONAL, 3 * GIB, GIB / PAGE_SIZE, 0);
	count = normalise(&raw, out, &lost);
	CHECK_EQ(memmap_place(out, count, 6 * MIB, 0, &ragged), 2 * GIB);
	CHECK(ragged);
	CHECK_EQ(memmap_place(out, count, 6 * MIB, 2 * GIB + 1, &ragged), 2 * GIB + 2 * MIB);
	CHECK(ragged);
	/* Too large for the ragged one alone. */
	CHECK_EQ(memmap_place(out, count, 901 * MIB, 0, &ragged), 2 * MIB);
	CHECK(!ragged);
	CHECK_EQ(memmap_place(out, count, 3 * GIB, 0, &ragged), 0);
	CHECK_EQ(memmap_place(out, count, 0, 0, &ragged), 0);
	CHECK_EQ(memmap_place(out, count, ~0ull, 0, &ragged), 0);
	CHECK_EQ(memmap_largest(out, count), 2 * GIB + 900 * MIB - 2 * MIB);
}
