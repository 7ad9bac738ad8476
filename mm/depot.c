/* SPDX-License-Identifier: MIT */
/*
 * The stack depot. See depot.h.
 *
 * A record is filled before the compare-exchange that makes it the head of its list, and changes no more (but for the notes). Its number
 * says where it is: pool and offset, in units of 16 bytes, plus one.
 */
#include "mm/depot.h"

#include "kernel/base/atomic.h"
#include "kernel/base/bits.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "mm/plant.h"

#define UNIT 16u
#define POOL_BYTES ((u32)PAGE_SIZE << DEPOT_POOL_ORDER)
#define POOL_UNITS (POOL_BYTES / UNIT)

struct record {
	u32 next;	/* number, or 0 */
	u32 hash;
	u32 depth;
	u32 listed;	/* 0: storage that was given out in vain */
	u64 notes[DEPOT_NOTES];
	u64 addresses[];
};

_Static_assert(sizeof(struct record) % UNIT == 0, "records are of whole units");

static u32 record_bytes(unsigned nr)
{
	return (u32)align_up(sizeof(struct record) + nr * sizeof(u64), UNIT);
}

static struct record *record_of(const struct depot *d, u32 number)
{
	u32 unit = number - 1;
	char *pool = load_acquire(&d->pools[unit / POOL_UNITS]);

	return (struct record *)(pool + unit % POOL_UNITS * UNIT);
}

/* FNV-1a, a word at a time, folded. */
static u32 hash_of(const u64 *addresses, unsigned nr)
{
	u64 hash = 0xcbf29ce484222325ull;

	for (unsigned i = 0; i < nr; i++)
		hash = (hash ^ addresses[i]) * 0x100000001b3ull;
	return (u32)(hash ^ hash >> 32);
}

/* Look from number `from` on, up to, not including, `end`. */
static u32 find(const struct depot *d, u32 from, u32 end, u32 hash, const u64 *addresses, unsigned nr)
{
	while (from != end) {
		const struct record *r = record_of(d, from);

		if (r->hash == hash && r->depth == nr && !memcmp(r->addresses, addresses, nr * sizeof(u64)))
			return from;
		from = r->next;
	}
	return 0;
}

/* See to it that there is this pool. */
static bool pool_ready(struct depot *d, u32 nr)
{
	struct page *page;
	void *none = NULL;

	if (load_acquire(&d->pools[nr]))
		return true;
	page = alloc_pages_nolock(NODE_ANY, DEPOT_POOL_ORDER);
	if (!page)
		return false;
	memset(page_to_virt(page), 0, POOL_BYTES);
	if (compare_exchange(&d->pools[nr], &none, page_to_virt(page)))
		fetch_add(&d->frames, 1u << DEPOT_POOL_ORDER);
	else
		free_pages_nolock(page, DEPOT_POOL_ORDER);
	return true;
}

bool depot_reserve(struct depot *d, u32 pools)
{
	u32 first = (u32)(load_acquire(&d->tail) >> 32);
	bool all = true;

	for (u32 nr = first; nr <= first + pools && nr < DEPOT_POOLS; nr++)
		all &= pool_ready(d, nr);
	return all;
}

/* Storage for a record; 0: none. */
static u32 take_storage(struct depot *d, u32 bytes)
{
	u64 tail = load_acquire(&d->tail);

	for (;;) {
		u32 pool = (u32)(tail >> 32), offset = (u32)tail;

		if (pool >= DEPOT_POOLS)
			return 0;
		if (offset + bytes > POOL_BYTES) {
			if (compare_exchange(&d->tail, &tail, (u64)(pool + 1) << 32))
				tail = (u64)(pool + 1) << 32;
			continue;
		}
		if (!pool_ready(d, pool))
			return 0;
		if (compare_exchange(&d->tail, &tail, tail + bytes))
			return pool * POOL_UNITS + offset / UNIT + 1;
	}
}

u32 depot_put(struct depot *d, const u64 *addresses, unsigned nr)
{
	u32 hash, *bucket, head, seen = 0, number, found;
	struct record *r;

	if (!nr)
		return 0;
	nr = MIN(nr, DEPOT_DEPTH_MAX);
	hash = hash_of(addresses, nr);
	bucket = &d->buckets[hash % DEPOT_BUCKETS];
	head = load_acquire(bucket);
	found = find(d, head, 0, hash, addresses, nr);
	if (found)
		return found;
	number = take_storage(d, record_bytes(nr));
	if (!number) {
		fetch_add(&d->lost, 1);
		return 0;
	}
	r = record_of(d, number);
	r->hash = hash;
	r->depth = nr;
	memcpy(r->addresses, addresses, nr * sizeof(u64));
	do {
		/* Those that came since the last look may be the same stack. */
		found = PLANTED(PLANT_DEPOT_TWICE) ? 0 : find(d, head, seen, hash, addresses, nr);
		if (found) {
			fetch_add(&d->spoilt, 1);
			return found;
		}
		r->next = head;
		seen = head;
	} while (!compare_exchange(bucket, &head, number));
	store_release(&r->listed, 1);
	fetch_add(&d->stacks, 1);
	return number;
}

/* Whether a record's beginning is there. */
static bool in_range(const struct depot *d, u32 number)
{
	u64 tail = load_acquire(&d->tail);
	u32 unit = number - 1;

	return number && unit / POOL_UNITS < DEPOT_POOLS && load_acquire(&d->pools[unit / POOL_UNITS]) &&
	       ((u64)(unit / POOL_UNITS) << 32 | unit % POOL_UNITS * UNIT) < tail;
}

unsigned depot_get(const struct depot *d, u32 number, const u64 **addresses)
{
	if (!in_range(d, number))
		return 0;
	*addresses = record_of(d, number)->addresses;
	return record_of(d, number)->depth;
}

u64 *depot_notes(struct depot *d, u32 number)
{
	return record_of(d, number)->notes;
}

u32 depot_next(const struct depot *d, u32 number)
{
	for (;;) {
		const struct record *r;

		if (!number)
			number = 1;
		else if (record_of(d, number)->depth)
			number += record_bytes(record_of(d, number)->depth) / UNIT;
		else	/* the unused end of a pool; what is being filled counts as such */
			number = (number - 1) / POOL_UNITS * POOL_UNITS + POOL_UNITS + 1;
		if (!in_range(d, number))
			return 0;
		r = record_of(d, number);
		if (r->depth && load_acquire(&r->listed))
			return number;
	}
}

void depot_reset(struct depot *d)
{
	for (unsigned i = 0; i < DEPOT_POOLS; i++)
		if (d->pools[i])
			free_pages_nolock(virt_to_page(d->pools[i]), DEPOT_POOL_ORDER);
	memset(d, 0, sizeof(*d));
}
