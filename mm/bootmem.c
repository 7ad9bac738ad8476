/* SPDX-License-Identifier: MIT */
/*
 * Memory before there is an allocator. See bootmem.h.
 *
 * One array of free ranges, sorted by address, none touching another. Boot only, one CPU: no lock.
 */
#include "mm/bootmem.h"

#include "kernel/base/bits.h"
#include "kernel/base/errno.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"

#define RANGES_MAX 512u

static struct range free_ranges[RANGES_MAX];
static unsigned nr_ranges;

static void remove_at(unsigned i)
{
	memmove(&free_ranges[i], &free_ranges[i + 1], (nr_ranges - i - 1) * sizeof(free_ranges[0]));
	nr_ranges--;
}

static int insert_at(unsigned i, struct range r)
{
	if (nr_ranges == RANGES_MAX)
		return -ENOSPC;
	memmove(&free_ranges[i + 1], &free_ranges[i], (nr_ranges - i) * sizeof(free_ranges[0]));
	free_ranges[i] = r;
	nr_ranges++;
	return 0;
}

int bootmem_add(struct range r)
{
	unsigned i = 0;
	bool joins_before, joins_behind;

	r = range(align_up(r.start, PAGE_SIZE), align_down(r.end, PAGE_SIZE));
	if (range_empty(r))
		return 0;
	while (i < nr_ranges && free_ranges[i].end <= r.start)
		i++;
	if (i < nr_ranges && range_overlaps(free_ranges[i], r))
		return -EINVAL;
	joins_before = i > 0 && free_ranges[i - 1].end == r.start;
	joins_behind = i < nr_ranges && free_ranges[i].start == r.end;
	if (joins_before && joins_behind) {
		free_ranges[i - 1].end = free_ranges[i].end;
		remove_at(i);
	} else if (joins_before) {
		free_ranges[i - 1].end = r.end;
	} else if (joins_behind) {
		free_ranges[i].start = r.start;
	} else {
		return insert_at(i, r);
	}
	return 0;
}

int bootmem_reserve(struct range r)
{
	r = range(align_down(r.start, PAGE_SIZE), align_up(r.end, PAGE_SIZE));
	if (range_empty(r))
		return 0;
	for (unsigned i = 0; i < nr_ranges; i++) {
		struct range have = free_ranges[i];

		if (!range_overlaps(have, r))
			continue;
		if (have.start < r.start && have.end > r.end) {
			/* Out of the middle: the part behind becomes a range of its own, and is there first. */
			int rc = insert_at(i + 1, range(r.end, have.end));

			if (rc)
				return rc;
			free_ranges[i].end = r.start;
			return 0;
		}
		if (have.start < r.start)
			free_ranges[i].end = r.start;
		else if (have.end > r.end)
			free_ranges[i].start = r.end;
		else
			remove_at(i--);
	}
	return 0;
}

int bootmem_alloc(u64 size, u64 align, u64 limit, phys_t *out)
{
	size = align_up(size, PAGE_SIZE);
	align = MAX(align, PAGE_SIZE);
	if (!size)
		return -ENOMEM;
	for (unsigned i = nr_ranges; i-- > 0;) {
		u64 end = limit ? MIN(free_ranges[i].end, limit) : free_ranges[i].end;
		u64 at;

		if (end < size)
			continue;
		at = align_down(end - size, align);
		if (at < free_ranges[i].start || at + size > end)
			continue;
		if (bootmem_reserve(range_len(at, size)))
			continue;	/* no room to note what is left behind it: try where none is */
		*out = phys(at);
		return 0;
	}
	return -ENOMEM;
}

bool bootmem_range(unsigned i, struct range *out)
{
	if (i >= nr_ranges)
		return false;
	*out = free_ranges[i];
	return true;
}

u64 bootmem_free_bytes(void)
{
	u64 sum = 0;

	for (unsigned i = 0; i < nr_ranges; i++)
		sum += range_size(free_ranges[i]);
	return sum;
}

void bootmem_release(void)
{
	for (unsigned i = 0; i < nr_ranges; i++)
		buddy_add(free_ranges[i].start >> PAGE_SHIFT, range_size(free_ranges[i]) >> PAGE_SHIFT);
	nr_ranges = 0;
}

void bootmem_reset(void)
{
	nr_ranges = 0;
}
