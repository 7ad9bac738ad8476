/* SPDX-License-Identifier: MIT */
/*
 * The firmware's memory map: normal form, and the image's place.
 *
 * Invariants of the normal form: ascending, disjoint, page-aligned, none empty, no two touching neighbours
 * of one type and attributes. A frame that two descriptors claim gets the type that allows less.
 */
#include "boot/memmap.h"

#include "kernel/base/bits.h"
#include "kernel/base/range.h"
#include "kernel/base/string.h"

#define BLOCK (2 * MIB)

enum {
	USABLE = 1,	/* the kernel's, once boot services are gone */
	RAM = 2,	/* in the boot root's direct map */
};

/* By UEFI type. Rank: who wins a frame that two descriptors claim; higher allows less. */
static const struct {
	u8 rank;
	u8 flags;
} mem_types[] = {
	[BOOT_MEM_CONVENTIONAL] = { 0, USABLE | RAM },
	[BOOT_MEM_BOOT_SERVICES_DATA] = { 1, USABLE | RAM },
	[BOOT_MEM_BOOT_SERVICES_CODE] = { 2, USABLE | RAM },
	[BOOT_MEM_LOADER_DATA] = { 3, USABLE | RAM },
	[BOOT_MEM_LOADER_CODE] = { 4, USABLE | RAM },
	[BOOT_MEM_ACPI_RECLAIM] = { 5, RAM },
	[BOOT_MEM_ACPI_NVS] = { 6, RAM },
	[BOOT_MEM_RUNTIME_DATA] = { 7, RAM },
	[BOOT_MEM_RUNTIME_CODE] = { 8, RAM },
	[BOOT_MEM_PERSISTENT] = { 9, 0 },
	[BOOT_MEM_UNACCEPTED] = { 10, 0 },
	[BOOT_MEM_PAL] = { 11, 0 },
	[BOOT_MEM_RESERVED] = { 12, 0 },
	[BOOT_MEM_MMIO_PORT] = { 13, 0 },
	[BOOT_MEM_MMIO] = { 14, 0 },
	[BOOT_MEM_UNUSABLE] = { 15, 0 },
};

bool memmap_usable(u32 type)
{
	return type < ARRAY_SIZE(mem_types) && (mem_types[type].flags & USABLE);
}

bool memmap_is_ram(u32 type)
{
	return type < ARRAY_SIZE(mem_types) && (mem_types[type].flags & RAM);
}

/* One descriptor as a range, not clipped yet; false: it covers nothing. */
static bool read_descriptor(const void *raw, struct boot_mem *out)
{
	struct memmap_descriptor d;
	u64 pages_above;

	memcpy(&d, raw, sizeof(d));
	out->start = align_down(d.physical_start, PAGE_SIZE);
	pages_above = (0 - PAGE_SIZE - out->start) / PAGE_SIZE;
	out->end = out->start + MIN(d.pages, pages_above) * PAGE_SIZE;
	out->type = d.type < ARRAY_SIZE(mem_types) ? d.type : BOOT_MEM_RESERVED;
	out->reserved = 0;
	out->attributes = d.attributes;
	return out->start < out->end;
}

/* The same below MEMMAP_LIMIT only. */
static bool read_clipped(const void *raw, struct boot_mem *out)
{
	if (!read_descriptor(raw, out))
		return false;
	out->end = MIN(out->end, MEMMAP_LIMIT);
	return out->start < out->end;
}

/* Insertion: firmware sorts its map, or nearly so. Equal points are kept once. */
static u64 add_point(u64 *points, u64 n, u64 value)
{
	u64 at = n;

	while (at > 0 && points[at - 1] > value)
		at--;
	if (at > 0 && points[at - 1] == value)
		return n;
	memmove(points + at + 1, points + at, (n - at) * sizeof(*points));
	points[at] = value;
	return n + 1;
}

/* Who owns [start, end), between two neighbouring points: wholly in a descriptor or wholly out of it. */
static bool owner_of(const u8 *raw, u64 raw_size, u64 step, u64 start, u64 end, struct boot_mem *out)
{
	bool found = false;

	for (u64 at = 0; at + step <= raw_size; at += step) {
		struct boot_mem m;

		if (!read_clipped(raw + at, &m) || m.start > start || m.end < end)
			continue;
		if (!found || mem_types[m.type].rank > mem_types[out->type].rank)
			*out = m;
		found = true;
	}
	out->start = start;
	out->end = end;
	return found;
}

static u32 append(struct boot_mem *out, u32 count, const struct boot_mem *m)
{
	struct boot_mem *last = &out[count - 1];

	if (count && last->end == m->start && last->type == m->type && last->attributes == m->attributes) {
		last->end = m->end;
		return count;
	}
	out[count] = *m;
	return count + 1;
}

u32 memmap_normalise(const void *raw, u64 raw_size, u64 step, struct boot_mem *out, u64 *scratch, u64 *lost)
{
	u64 points = 0;
	u32 count = 0;

	*lost = 0;
	if (step < sizeof(struct memmap_descriptor))
		return 0;
	for (u64 at = 0; at + step <= raw_size; at += step) {
		struct boot_mem m;

		if (!read_descriptor((const u8 *)raw + at, &m))
			continue;
		if (m.end > MEMMAP_LIMIT && memmap_is_ram(m.type))
			*lost += m.end - MAX(m.start, MEMMAP_LIMIT);
		if (m.start >= MEMMAP_LIMIT)
			continue;
		points = add_point(scratch, points, m.start);
		points = add_point(scratch, points, MIN(m.end, MEMMAP_LIMIT));
	}
	for (u64 i = 0; i + 1 < points; i++) {
		struct boot_mem m = { 0 };

		if (owner_of(raw, raw_size, step, scratch[i], scratch[i + 1], &m))
			count = append(out, count, &m);
	}
	return count;
}

/* Whether the gigabyte at start is usable RAM from end to end: a 1 GiB leaf of the kernel's direct map. */
static bool gigabyte_whole(const struct boot_mem *map, u32 count, u64 start)
{
	struct range gigabyte = range_len(start, GIB);
	u64 usable = 0;

	for (u32 i = 0; i < count; i++) {
		struct range part = range_intersect(gigabyte, range(map[i].start, map[i].end));

		if (memmap_usable(map[i].type) && !range_empty(part))
			usable += range_size(part);
	}
	return usable == GIB;
}

static bool touches_whole_gigabyte(const struct boot_mem *map, u32 count, u64 start, u64 size)
{
	for (u64 g = align_down(start, GIB); g < start + size; g += GIB)
		if (gigabyte_whole(map, count, g))
			return true;
	return false;
}

u64 memmap_place(const struct boot_mem *map, u32 count, u64 size, u64 from, bool *ragged)
{
	u64 second_best = 0;

	*ragged = false;
	if (size == 0 || size > MEMMAP_LIMIT)
		return 0;
	/* The first 2 MiB are for what has to be low (AP start code); 0 is the answer "none". */
	from = align_up(MAX(from, BLOCK), BLOCK);
	for (u32 i = 0; i < count; i++) {
		u64 pa = align_up(MAX(map[i].start, from), BLOCK);

		if (map[i].type != BOOT_MEM_CONVENTIONAL)
			continue;
		/* Within one gigabyte every address is as good as the first: try that, then the next one's. */
		for (; pa < map[i].end && size <= map[i].end - pa; pa = align_down(pa, GIB) + GIB) {
			if (!touches_whole_gigabyte(map, count, pa, size)) {
				*ragged = true;
				return pa;
			}
			if (!second_best)
				second_best = pa;
		}
	}
	return second_best;
}

u64 memmap_largest(const struct boot_mem *map, u32 count)
{
	u64 largest = 0;

	for (u32 i = 0; i < count; i++) {
		u64 start = align_up(MAX(map[i].start, BLOCK), BLOCK);

		if (map[i].type == BOOT_MEM_CONVENTIONAL && start < map[i].end)
			largest = MAX(largest, map[i].end - start);
	}
	return largest;
}
