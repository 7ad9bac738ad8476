/* SPDX-License-Identifier: MIT */
/*
 * Random operations on execmem against a shadow that knows nothing of trees and regions: who owns each 64
 * bytes of the address ranges, and what each object was filled with (XM1..XM5). Allocations fail at
 * random. Also the tree of spans alone against a map of bytes, and first fit beside best fit under the
 * workload of the debate.
 */
#include "mm/execmem.h"

#include <stdlib.h>
#include <string.h>

#include "kernel/base/errno.h"
#include "kernel/base/log.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/pt_audit.h"
#include "mm/span_tree.h"
#include "mm/unmapped.h"
#include "tests/fixture.h"
#include "tests/host/arch_host.h"
#include "tests/host/log_host.h"
#include "tests/host/machine.h"
#include "tests/test.h"

/* ---- The tree of spans ---- */

#define UNITS 4096u	/* of addresses that the tree is about */
#define SPAN_STEPS 20000u

static u8 units[UNITS];		/* 0: not in the tree, 1: free, 2 and up: used, by whom */

static u64 model_first_fit(u64 low, u64 high, u64 size, u64 align)
{
	for (u64 at = align_up(low, align); at + size <= high; at += align) {
		u64 n = 0;

		while (n < size && units[at + n] == 1)
			n++;
		if (n == size)
			return at;
	}
	return UNITS;
}

static void span_step(struct span_tree *tree, struct rng *rng, struct span_pool *pool)
{
	u64 size = 1 + rng_below(rng, rng_below(rng, 8) ? 12 : 200), align = 1ull << rng_below(rng, 4), start = UNITS;
	u64 at = rng_below(rng, UNITS), low = rng_below(rng, UNITS);
	struct span *s = span_find(tree, at), *t;

	CHECK_EQ(span_pool_reserve(pool, 4), 0);
	CHECK_EQ(s != NULL, units[at] != 0);
	if (s && s->state == SPAN_USED && rng_below(rng, 8) == 0 && span_size(s) > 1) {
		u64 cut = s->start + 1 + rng_below(rng, span_size(s) - 1);

		t = span_split(tree, s, cut, pool);
		CHECK(t->start == cut && s->end == cut && t->state == SPAN_USED);
	} else if (s && s->state == SPAN_USED) {
		memset(units + s->start, 1, span_size(s));
		t = span_give(tree, s, pool);
		CHECK(t->state == SPAN_FREE && range_has(range(t->start, t->end), at));
	} else if (!s) {
		u64 end = at;

		while (end < UNITS && !units[end] && end < at + 50)
			end++;
		memset(units + at, 1, end - at);
		span_add(tree, range(at, end), pool);
	} else if (rng_below(rng, 16) == 0) {
		u64 end = MIN(s->end, at + size);

		memset(units + at, 0, end - at);
		span_remove(tree, s, range(at, end), pool);
	}
	t = span_first_fit_in(tree, range(low, low + at), size, align, &start);
	CHECK_EQ(t ? start : UNITS, model_first_fit(low, MIN(low + at, UNITS), size, align));
	t = span_first_fit(tree, size, align, &start);
	CHECK_EQ(t ? start : UNITS, model_first_fit(0, UNITS, size, align));
	if (t) {
		t = span_take(tree, t, start, size, pool);
		CHECK(t->start == start && span_size(t) == size && t->state == SPAN_USED);
		memset(units + start, 2, size);
	}
}

static void span_run(u64 limit)
{
	struct rng rng = test_rng();
	struct span_pool pool = { 0 };
	struct span_tree tree;

	span_tree_init(&tree, limit);
	memset(units, 0, sizeof(units));
	for (unsigned i = 0; i < SPAN_STEPS; i++) {
		span_step(&tree, &rng, &pool);
		if (i % 64 == 0 && !CHECK_EQ(span_check(&tree), 0))
			break;
	}
	for (struct span *s = tree.first; s; s = tree.first) {
		if (s->state != SPAN_FREE)
			s = span_give(&tree, s, &pool);
		span_remove(&tree, s, range(s->start, s->end), &pool);
	}
	CHECK_EQ(tree.spans, 0);
	span_pool_release(&pool);
}

TEST_ID(span_tree, random_operations_against_a_map, "XM1")
{
	span_run(UINT64_MAX);
	/* Most spans are alike to this one. */
	span_run(8);
}

/* How far a search goes: the depth of a tree of many spans stays a small multiple of the logarithm. */
TEST_ID(span_tree, depth_is_logarithmic, "XM1")
{
	struct span_pool pool = { 0 };
	struct span_tree tree;
	u64 start, depth = 0, sum = 0;
	const u64 nr = 20000;

	span_tree_init(&tree, 256 * KIB);
	CHECK_EQ(span_pool_reserve(&pool, 1), 0);
	span_add(&tree, range(0, nr * 64), &pool);
	/* In order of address, as first fit hands out: the worst order for a tree that does not balance. */
	for (u64 i = 0; i < nr; i++) {
		CHECK_EQ(span_pool_reserve(&pool, SPAN_TAKE_NODES), 0);
		span_take(&tree, span_first_fit(&tree, 64, 64, &start), start, 64, &pool);
	}
	for (struct span *s = tree.first; s; s = s->next) {
		u64 d = 0;

		for (struct span *at = s; at; at = at->up)
			d++;
		depth = MAX(depth, d);
		sum += d;
	}
	test_note("spans=%llu deepest=%llu average=%llu", (unsigned long long)tree.spans, (unsigned long long)depth,
		  (unsigned long long)(sum / tree.spans));
	CHECK(depth < 4 * 15);		/* log2(20000) is 14.3; a treap's expected average is 1.39 times that */
	CHECK(sum / tree.spans < 2 * 15);
	while (tree.first)
		span_remove(&tree, tree.first->state == SPAN_FREE ? tree.first : span_give(&tree, tree.first, &pool),
			    range(tree.first->start, tree.first->end), &pool);
	span_pool_release(&pool);
}

/* ---- First fit or best fit ---- */

#define CHURN_OBJECTS 2000u
#define CHURN_STEPS 50000u
#define BLOCK (2 * MIB)

/* The sizes of the debate: half below 500 bytes, a quarter up to 2000, a quarter from 2 to 16 KiB. */
static u64 object_size(struct rng *rng)
{
	u64 kind = rng_below(rng, 4);

	if (kind < 2)
		return 64 + rng_below(rng, 436);
	return kind == 2 ? 500 + rng_below(rng, 1500) : 2048 + rng_below(rng, 14 * KIB);
}

/*
 * The smallest span that fits; the lowest of these. By looking at all: this is about what is left over,
 * not about speed.
 */
static struct span *best_fit(const struct span_tree *tree, u64 size)
{
	struct span *best = NULL;

	for (struct span *s = tree->first; s; s = s->next)
		if (s->state == SPAN_FREE && span_size(s) >= size && (!best || span_size(s) < span_size(best)))
			best = s;
	return best;
}

/* Blocks that have anything in them. */
static u64 blocks_in_use(const struct span_tree *tree)
{
	u64 blocks = 0, last = UINT64_MAX;

	for (const struct span *s = tree->first; s; s = s->next) {
		if (s->state == SPAN_FREE)
			continue;
		blocks += (s->end - 1) / BLOCK - s->start / BLOCK + (s->start / BLOCK != last);
		last = (s->end - 1) / BLOCK;
	}
	return blocks;
}

struct churn {
	u64 used;		/* bytes, at the end */
	u64 top;		/* highest address ever in use */
	u64 blocks_sum;		/* of 100 looks */
	u64 holes;		/* free spans below the highest address, at the end */
	u64 thinned;		/* blocks in use when three quarters of the objects are gone */
};

static struct churn churn(bool best, u64 seed)
{
	static struct span *objects[CHURN_OBJECTS];
	struct rng rng = { seed };
	struct span_pool pool = { 0 };
	struct churn c = { 0 };
	struct span_tree tree;

	span_tree_init(&tree, 256 * KIB);
	CHECK_EQ(span_pool_reserve(&pool, 4), 0);
	span_add(&tree, range(0, 64 * BLOCK), &pool);
	memset(objects, 0, sizeof(objects));
	for (unsigned i = 0; i < CHURN_OBJECTS + CHURN_STEPS; i++) {
		struct span **o = i < CHURN_OBJECTS ? &objects[i] : &objects[rng_below(&rng, CHURN_OBJECTS)];
		u64 size = align_up(object_size(&rng), EXECMEM_CHUNK), start;
		struct span *s;

		CHECK_EQ(span_pool_reserve(&pool, 4), 0);
		if (*o)
			span_give(&tree, *o, &pool);
		s = best ? best_fit(&tree, size) : span_first_fit(&tree, size, EXECMEM_CHUNK, &start);
		*o = span_take(&tree, s, s->start, size, &pool);
		c.top = MAX(c.top, (*o)->end);
		if (i >= CHURN_OBJECTS && i % (CHURN_STEPS / 100) == 0)
			c.blocks_sum += blocks_in_use(&tree);
	}
	for (struct span *s = tree.first; s->next; s = s->next) {
		c.used += s->state == SPAN_FREE ? 0 : span_size(s);
		c.holes += s->state == SPAN_FREE;
	}
	for (unsigned i = 0; i < CHURN_OBJECTS; i++)
		if (i % 4)
			span_give(&tree, objects[i], &pool);
	c.thinned = blocks_in_use(&tree);
	for (unsigned i = 0; i < CHURN_OBJECTS; i += 4)
		span_give(&tree, objects[i], &pool);
	span_remove(&tree, tree.first, range(0, 64 * BLOCK), &pool);
	span_pool_release(&pool);
	return c;
}

/* Figures for docs/execmem.md. What is checked is what the choice rests on. */
TEST_ID(execmem_model, first_fit_beside_best_fit, "XM1")
{
	u64 sums[2] = { 0 }, tops[2] = { 0 };

	for (u64 seed = 1; seed <= 3; seed++)
		for (unsigned best = 0; best < 2; best++) {
			struct churn c = churn(best, seed);

			test_note("fit=%s seed=%llu used=%llu top=%llu blocks_x100=%llu holes=%llu blocks_when_thinned=%llu",
				  best ? "best" : "first", (unsigned long long)seed, (unsigned long long)c.used,
				  (unsigned long long)c.top, (unsigned long long)c.blocks_sum, (unsigned long long)c.holes,
				  (unsigned long long)c.thinned);
			sums[best] += c.blocks_sum;
			tops[best] += c.top;
		}
	CHECK(sums[0] <= sums[1] + sums[1] / 20);
	CHECK(tops[0] <= tops[1] + tops[1] / 20);
}

/* ---- Random operations ---- */

#define OPS_SAMPLE 6000u
#define OPS_FULL 1000000u
#define SEEDS_FULL 10u			/* all machines together */
#define OBJECTS 600u
#define RANGE_SIZE (96 * MIB)		/* of each of the two ranges here: small enough to run out of */
#define CHUNKS (RANGE_SIZE / EXECMEM_CHUNK)
#define LOOK_EVERY 500u			/* in a full run: 5,000 */

struct object {
	u64 va;
	u64 size;
	enum execmem_type type;
	u8 seed;
	bool filled;
};

static struct {
	struct range ranges[2], tail;
	u32 *owner[3];			/* by range, then the tail: object + 1, or 0 */
	struct object objects[OBJECTS];
	u64 allocs, fails, fills, refused, frees;
	struct rng rng;
} m;

static u32 *owner_of(u64 va)
{
	for (unsigned i = 0; i < 2; i++)
		if (range_has(m.ranges[i], va))
			return m.owner[i] + (va - m.ranges[i].start) / EXECMEM_CHUNK;
	return range_has(m.tail, va) ? m.owner[2] + (va - m.tail.start) / EXECMEM_CHUNK : NULL;
}

static u8 byte_of(const struct object *o, u64 i)
{
	if (o->filled)
		return (u8)(o->seed + i * 13 + i / 256);
	return execmem_params(execmem_policy(), o->type)->prot & PTE_NX ? 0 : EXECMEM_INT3;
}

static void own(const struct object *o, u32 before, u32 after)
{
	for (u64 at = 0; at < o->size; at += EXECMEM_CHUNK) {
		u32 *owner = owner_of(o->va + at);

		if (!CHECK(owner != NULL) || !CHECK_EQ(*owner, before))
			return;
		*owner = after;
	}
}

/* Every byte of a small object; of a large one the pages at both ends, and some between. */
static void check_bytes(const struct object *o)
{
	for (u64 at = 0; at < o->size; at += PAGE_SIZE) {
		u64 n = MIN(PAGE_SIZE, o->size - at);

		if (o->size > 16 * PAGE_SIZE && at && at + n < o->size && rng_below(&m.rng, 16))
			continue;
		for (u64 i = at; i < at + n;) {
			u64 stop = MIN(at + n, align_down(o->va + i, PAGE_SIZE) + PAGE_SIZE - o->va);
			const u8 *p = arch_va_ptr(o->va + i, false);

			for (; i < stop; i++)
				if (*p++ != byte_of(o, i)) {
					CHECK_EQ(p[-1], byte_of(o, i));
					return;
				}
		}
	}
}

static u64 random_size(void)
{
	u64 kind = rng_below(&m.rng, 1000);

	if (kind < 980)
		return object_size(&m.rng);
	if (kind < 997)
		return 1 + rng_below(&m.rng, 200 * KIB);
	return 1 + rng_below(&m.rng, 7 * MIB);
}

static void op_alloc(struct object *o)
{
	u64 align = rng_below(&m.rng, 5) ? 0 : 1ull << rng_below(&m.rng, 15);

	*o = (struct object){ .size = random_size(), .type = (enum execmem_type)rng_below(&m.rng, EXECMEM_TYPES) };
	/* Now and then memory ends on the way. */
	if (rng_below(&m.rng, 4) == 0)
		alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 1 + rng_below(&m.rng, 30) };
	o->va = (u64)execmem_alloc(o->type, o->size, align);
	alloc_inject.armed = 0;
	m.allocs += o->va != 0;
	m.fails += o->va == 0;
	if (!o->va)
		return;
	CHECK(is_aligned(o->va, MAX(align, (u64)execmem_params(execmem_policy(), o->type)->align)));
	own(o, 0, (u32)(o - m.objects) + 1);
	check_bytes(o);
}

static void op_fill(struct object *o)
{
	static u8 buffer[9 * MIB];

	o->seed = (u8)rng_next(&m.rng);
	o->filled = true;
	for (u64 i = 0; i < o->size; i++)
		buffer[i] = byte_of(o, i);
	CHECK_EQ(execmem_fill((void *)o->va, buffer, o->size), 0);
	m.fills++;
}

/*
 * A range that is not within the object: refused. What it might have changed is looked at when its owner
 * is.
 */
static void op_fill_outside(const struct object *o)
{
	static const u8 buffer[64 * KIB];
	u64 len = 1 + rng_below(&m.rng, sizeof(buffer) - 1), offset = rng_below(&m.rng, o->size);

	if (offset + len <= o->size)
		len = o->size - offset + 1;
	if (len > sizeof(buffer))
		return;
	CHECK_EQ(execmem_fill((void *)(o->va + offset), buffer, len), -EINVAL);
	m.refused++;
}

static void op_seal(const struct object *o)
{
	int rc;

	if (rng_below(&m.rng, 2))
		alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 1 };
	rc = execmem_seal((void *)o->va);
	alloc_inject.armed = 0;
	CHECK(rc == 0 || (rc == -ENOMEM && alloc_inject.failed));
}

static void op_free(struct object *o)
{
	check_bytes(o);
	own(o, (u32)(o - m.objects) + 1, 0);
	if (rng_below(&m.rng, 4) == 0)
		alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 1 };
	execmem_free((void *)o->va);
	alloc_inject.armed = 0;
	o->va = 0;
	m.frees++;
}

static void step(u64 live_max)
{
	struct object *o = &m.objects[rng_below(&m.rng, live_max)];
	u64 kind = rng_below(&m.rng, 16);

	if (!o->va)
		op_alloc(o);
	else if (kind < 6)
		op_fill(o);
	else if (kind < 9)
		op_fill_outside(o);
	else if (kind < 11)
		op_seal(o);
	else
		op_free(o);
}

static void look(void)
{
	struct pt_audit audit;

	CHECK_EQ(execmem_check(), 0);
	CHECK_EQ(pt_audit(&audit), 0);
	CHECK_EQ(audit.windows, 0);
}

static void set_ranges(struct range first, struct range second, struct range tail, enum execmem_policy policy)
{
	REQUIRE(CHECK_EQ(execmem_init(first, second, tail, 0, policy), 0));
	m.ranges[0] = first;
	m.ranges[1] = second;
	m.tail = tail;
}

/* A phase per policy: grow, work, shrink; everything back in the end. */
static void run_policy(u64 ops)
{
	struct execmem_stats s;

	for (u64 i = 0; i < ops; i++) {
		step(i < ops / 2 ? OBJECTS : 1 + OBJECTS * (ops - i) / ops);
		if (i % (machine_full ? 10 * LOOK_EVERY : LOOK_EVERY) == 0)
			look();
	}
	look();
	for (unsigned i = 0; i < OBJECTS; i++)
		if (m.objects[i].va)
			op_free(&m.objects[i]);
	/* What waited for a table has one now. */
	CHECK_EQ(execmem_set_policy(execmem_policy()), 0);
	look();
	execmem_read_stats(EXECMEM_TYPES, &s);
	CHECK_EQ(s.asked + s.used + s.held + s.regions + s.leaves_4k + s.leaves_2m + s.tail_bytes, 0);
	CHECK_EQ(s.blocks_taken, s.blocks_returned);
}

static void run_seed(u64 seed, u64 ops)
{
	struct range was[2], tail = execmem_text_tail();
	enum execmem_policy policy = execmem_policy();
	struct fixture_picture before, after;

	was[0] = execmem_params(policy, EXECMEM_TEXT)->ranges[0];
	was[1] = execmem_params(policy, EXECMEM_TEXT)->ranges[1];
	memset(m.objects, 0, sizeof(m.objects));
	m.rng.state = seed;
	unmapped_shrink(UNMAPPED_ALL);
	pt_settle(&kernel_space);
	fixture_take(&before);
	for (unsigned p = 0; p < EXECMEM_POLICIES; p++) {
		set_ranges(range_len(was[0].start, RANGE_SIZE), range_len(was[1].start, RANGE_SIZE), tail, p);
		run_policy(ops / EXECMEM_POLICIES);
	}
	unmapped_shrink(UNMAPPED_ALL);
	pt_settle(&kernel_space);
	buddy_drain();
	fixture_take(&after);
	CHECK_EQ(after.digest, before.digest);	/* both aliases of every frame, leaf by leaf */
	CHECK_EQ(after.free, before.free);
	CHECK_EQ(execmem_init(was[0], was[1], tail, 0, policy), 0);
}

TEST_ID(execmem_model, random_operations, "XM1 XM2 XM3 XM4 XM5 PT5")
{
	enum pt_collapse_policy collapse = fixture_policy(PT_COLLAPSE_EAGER);
	u64 ops = machine_full ? OPS_FULL : OPS_SAMPLE, warnings = log_warnings;
	unsigned first = machine_full ? (unsigned)(machine - machines) : 0;
	unsigned last = machine_full ? SEEDS_FULL : 1, seeds = 0;
	struct rng rng = test_rng();
	bool silent = log_silent;

	for (unsigned i = 0; i < 3; i++)
		m.owner[i] = calloc(CHUNKS, sizeof(u32));
	log_silent = true;	/* regions that wait for a table are named, a thousand times */
	for (unsigned i = first; i < last; i += nr_machines, seeds++)
		run_seed(rng_next(&rng) + i, ops);
	log_silent = silent;
	log_warnings = warnings;
	for (unsigned i = 0; i < 3; i++)
		free(m.owner[i]);
	test_note("operations=%llu seeds=%u allocs=%llu failed=%llu fills=%llu refused=%llu frees=%llu",
		  (unsigned long long)ops, seeds, (unsigned long long)m.allocs, (unsigned long long)m.fails,
		  (unsigned long long)m.fills, (unsigned long long)m.refused, (unsigned long long)m.frees);
	CHECK(m.allocs > 0 && m.fails > 0 && m.fills > 0 && m.refused > 0);
	CHECK_EQ(m.allocs, m.frees);
	fixture_policy(collapse);
}
