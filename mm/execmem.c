/* SPDX-License-Identifier: MIT */
/*
 * Executable memory: allocations. See execmem.h, and execmem_internal.h for who does what.
 *
 * First fit by address: it was measured against best fit (docs/execmem.md). An allocation that ends goes
 * three ways under the lock: it is nobody's (so a second free finds nothing), then its bytes are
 * overwritten and the CPUs told, and only then it is free; so nobody gets memory that somebody may still
 * execute. Regions that are empty by then leave the tree in the same step, before anyone can be given
 * part of them.
 */
#include "mm/execmem.h"

#include "boot/boot_info.h"
#include "kernel/base/bits.h"
#include "kernel/base/errno.h"
#include "kernel/base/log.h"
#include "kernel/base/trace.h"
#include "mm/execmem_internal.h"
#include "mm/plant.h"
#include "mm/set_memory.h"
#include "mm/text_poke.h"

#define REACH (1ull << 30)	/* below KERNEL_BASE: the image is at most as large (linker.ld) */

#define SPARES 8u		/* nodes kept for the next allocations */
#define LIKE_ANY (256 * KIB)	/* free memory above that is told apart only by who asks for more */

struct execmem execmem;

/* ---- Boot and policies ---- */

static bool range_ok(struct range r)
{
	return (r.start == 0 && r.end == 0) || (r.start < r.end && is_aligned(r.start | r.end, 2 * MIB) &&
						r.start >= KERNEL_BASE - REACH && r.end <= -(2 * MIB));
}

/* The frame that a kernel address is mapped to, or PFN_NONE. */
static pfn_t frame_at(u64 va)
{
	struct pt_slot s = pt_walk_lockless(kernel_space.root, kernel_space.levels, va);

	if (!pte_is_leaf(s.value, s.level))
		return PFN_NONE;
	return phys_to_pfn(pte_leaf_pa(s.value, s.level)) + ((va & (pt_span(s.level) - 1)) >> PAGE_SHIFT);
}

/* Text of the image, in consecutive frames. */
static bool tail_ok(struct range tail)
{
	pfn_t pfn = frame_at(tail.start);

	if (range_empty(tail))
		return true;
	if (!is_aligned(tail.start, EXECMEM_CHUNK) || !is_aligned(tail.end, PAGE_SIZE))
		return false;
	for (u64 va = align_down(tail.start, PAGE_SIZE); va < tail.end; va += PAGE_SIZE, pfn++)
		if (frame_at(va) != pfn || !pfn_valid(pfn) || pfn_to_page(pfn)->class != PAGE_KERNEL_TEXT)
			return false;
	return true;
}

static bool uses_tail(enum execmem_policy policy)
{
	return execmem_params(policy, EXECMEM_TEXT)->flags & EXECMEM_TAIL && !range_empty(execmem.tail_range);
}

/* Free memory from the start, or none. Nothing is allocated. */
static void show_tail(bool shown, struct span_pool *pool)
{
	struct span_tree *tree = &execmem.memory[EXECMEM_TEXT];
	struct span *s = span_find(tree, execmem.tail_range.start);

	if (shown && !s)
		span_add(tree, execmem.tail_range, pool);
	else if (!shown && s)
		span_remove(tree, s, execmem.tail_range, pool);
}

static void addresses_reset(struct range ranges[2], struct span_pool *pool)
{
	for (unsigned i = 0; i < 2; i++) {
		struct span_tree *tree = &execmem.addresses[i];

		if (tree->first)
			span_remove(tree, tree->first, execmem.ranges[i], pool);
		span_tree_init(tree, UINT64_MAX);
		execmem.ranges[i] = ranges[i];
		if (!range_empty(ranges[i]))
			span_add(tree, ranges[i], pool);
	}
}

static bool all_given_back(void)
{
	if (execmem.nr_stuck)
		regions_retry();
	return !execmem.live && !execmem.nr_stuck;
}

int execmem_init(struct range preferred, struct range fallback, struct range tail, u64 random,
		 enum execmem_policy policy)
{
	u64 places = range_size(preferred) / 2 / (2 * MIB);
	struct range ranges[2] = { preferred, fallback };
	struct span_pool pool = { 0 };

	if (!range_ok(preferred) || !range_ok(fallback) || range_empty(preferred) ||
	    range_overlaps(preferred, fallback) || !tail_ok(tail) || (unsigned)policy >= EXECMEM_POLICIES)
		return -EINVAL;
	if (!all_given_back())
		return -EBUSY;
	if (span_pool_reserve(&pool, 3)) {
		span_pool_release(&pool);
		return -ENOMEM;
	}
	if (random && places)
		ranges[0].start += random % places * (2 * MIB);
	show_tail(false, &pool);
	for (unsigned i = 0; i < EXECMEM_TYPES; i++)
		span_tree_init(&execmem.memory[i], LIKE_ANY);
	execmem.tail_range = tail;
	execmem.tail_va = (struct span){ .start = tail.start, .end = tail.end, .state = SPAN_USED };
	execmem.tail = (struct region){
		.va = &execmem.tail_va,
		.pfn = frame_at(tail.start),
		.type = EXECMEM_TEXT,
		.fixed = true,
	};
	addresses_reset(ranges, &pool);
	for (unsigned type = 0; type < EXECMEM_TYPES; type++)
		execmem_types_set_ranges(type, ranges[0], ranges[1]);
	execmem.policy = policy;
	show_tail(uses_tail(policy), &pool);
	span_pool_release(&pool);
	return 0;
}

int execmem_range_of(struct range part)
{
	for (unsigned i = 0; i < ARRAY_SIZE(execmem.ranges); i++)
		if (!range_empty(part) && range_covers(execmem.ranges[i], part))
			return (int)i;
	return -1;
}

static bool part_ok(struct range part)
{
	return range_ok(part) && (range_empty(part) || execmem_range_of(part) >= 0);
}

int execmem_set_ranges(enum execmem_type type, struct range preferred, struct range fallback)
{
	if ((unsigned)type >= EXECMEM_TYPES || !part_ok(preferred) || !part_ok(fallback) ||
	    (range_empty(preferred) && range_empty(fallback)))
		return -EINVAL;
	if (!all_given_back())
		return -EBUSY;
	execmem_types_set_ranges(type, preferred, fallback);
	return 0;
}

int execmem_set_policy(enum execmem_policy policy)
{
	struct span_pool pool = { 0 };

	if ((unsigned)policy >= EXECMEM_POLICIES)
		return -EINVAL;
	if (!all_given_back())
		return -EBUSY;
	if (span_pool_reserve(&pool, 1))
		return -ENOMEM;
	execmem.policy = policy;
	show_tail(uses_tail(policy), &pool);
	span_pool_release(&pool);
	return 0;
}

enum execmem_policy execmem_policy(void)
{
	return execmem.policy;
}

struct range execmem_text_tail(void)
{
	return execmem.tail_range;
}

/* ---- Looking ---- */

/* The allocation that an address lies in, and the region; or NULL. Locked. */
static struct span *allocation_at(u64 va, struct region **region)
{
	struct span *s = execmem.recent;
	struct region *r = region_of(va);

	*region = r;
	if (s && va >= s->start && va < s->end)
		return s->state == SPAN_USED ? s : NULL;
	s = r ? span_find(&execmem.memory[r->type], va) : NULL;
	if (!s || s->state != SPAN_USED)
		return NULL;
	execmem.recent = s;
	return s;
}

/* The allocation that begins at ptr, or NULL and a line in the log. Locked. */
static struct span *allocation_of(const void *ptr, struct region **region, const char *what)
{
	struct span *s = allocation_at((u64)ptr, region);

	if (s && s->start == (u64)ptr)
		return s;
	log_warn("%s of %p: %s", what, ptr, s ? "not the beginning of the allocation" : "no allocation");
	return NULL;
}

/* ---- Taking ---- */

/*
 * Bytes of regions, from the first one on, come into use, or go out of it: returns those that are empty
 * now, by next. Locked.
 */
static struct region *count_use(struct region *region, struct range r, bool use)
{
	struct region *empty = NULL;

	for (u64 at = r.start;; region = region_of(at)) {
		u64 end = MIN(region->va->end, r.end);

		region->used += use ? end - at : at - end;
		if (!region->used && !region->fixed) {
			region->next = empty;
			empty = region;
		}
		at = end;
		if (at == r.end)
			return empty;
	}
}

/* Take memory that is there. Locked. */
static void *take(enum execmem_type type, u64 asked, u64 size, u64 align, struct span_pool *pool)
{
	struct span_tree *tree = &execmem.memory[execmem_row(type)->folded];
	struct execmem_counters *c = &execmem.counters[type];
	struct span *s;
	u64 start;

	s = span_first_fit(tree, size, align, &start);
	if (!s)
		return NULL;
	s = span_take(tree, s, start, size, pool);
	s->tag = (u8)type;
	s->flags = 0;
	s->asked = asked;
	count_use(region_of(start), range_len(start, size), true);
	c->allocs++;
	c->asked += asked;
	c->used += size;
	execmem.live++;
	execmem.recent = s;
	return (void *)start;
}

/* ---- Nodes ---- */

/*
 * An allocation takes a node, and the end of one mostly leaves one: a few are kept, as long as anything
 * is allocated. What was brought along in *pool and is not needed stays there. Locked.
 */
static void spares_settle(struct span_pool *pool)
{
	u32 keep = execmem.live ? SPARES : 0;

	while (pool->nr && execmem.spares.nr < keep)
		span_pool_put(&execmem.spares, span_pool_get(pool));
	while (execmem.spares.nr > keep)
		span_pool_put(pool, span_pool_get(&execmem.spares));
}

/* ---- Memory that is mapped already, and more of it ---- */

static void *take_mapped(enum execmem_type type, u64 asked, u64 size, u64 align)
{
	struct span_pool pool = { 0 };
	void *ptr = NULL;
	int rc = 0;

	spin_lock(&execmem.lock);
	if (execmem.spares.nr < SPAN_TAKE_NODES) {
		spin_unlock(&execmem.lock);
		rc = span_pool_reserve(&pool, SPARES);
		spin_lock(&execmem.lock);
	}
	if (!rc)
		ptr = take(type, asked, size, align, pool.nr ? &pool : &execmem.spares);
	spares_settle(&pool);
	spin_unlock(&execmem.lock);
	span_pool_release(&pool);
	return ptr;
}

/*
 * Take regions out of memory that are free from end to end, by next. Each brings the node that this may
 * cost. Locked.
 */
static void drop(struct span_tree *tree, struct region *empty, struct span_pool *pool)
{
	for (; empty; empty = empty->next) {
		span_pool_put(pool, span_pool_get(&empty->spare));
		span_remove(tree, span_find(tree, empty->va->start), region_range(empty), pool);
	}
}

/* Those of a list that nothing was taken of. */
static struct region *unused_of(struct region *list)
{
	struct region *unused = NULL;

	for (struct region *next; list; list = next) {
		next = list->next;
		if (!list->used) {
			list->next = unused;
			unused = list;
		}
	}
	return unused;
}

/*
 * Map more, and take of it. What is new may lie behind free memory that is then used first, or somebody
 * has freed some meanwhile: new regions that are not needed after all go back at once.
 */
static void *grow(enum execmem_type type, u64 asked, u64 size, u64 align)
{
	struct span_tree *tree = &execmem.memory[execmem_row(type)->folded];
	struct region *list, *last, *unused = NULL;
	struct span_pool pool = { 0 };
	void *ptr = NULL;

	if (!span_pool_reserve(&pool, 1 + SPAN_TAKE_NODES) && !regions_make(type, size, align, &list)) {
		for (last = list; last->next; last = last->next)
			;
		spin_lock(&execmem.lock);
		span_add(tree, range(list->va->start, last->va->end), &pool);
		ptr = take(type, asked, size, align, &pool);
		unused = unused_of(list);
		drop(tree, unused, &pool);
		spares_settle(&pool);
		spin_unlock(&execmem.lock);
	}
	regions_release(unused);
	span_pool_release(&pool);
	return ptr;
}

static const char *refused(enum execmem_type type, u64 size, u64 align)
{
	if ((unsigned)type >= EXECMEM_TYPES)
		return "no such type";
	if (!size || size > EXECMEM_SIZE_MAX)
		return "its size";
	if (align && (!is_power_of_two(align) || align > EXECMEM_ALIGN_MAX))
		return "its alignment";
	return NULL;
}

void *execmem_alloc(enum execmem_type type, u64 size, u64 align)
{
	const char *why = refused(type, size, align);
	const struct execmem_params *row;
	void *ptr = NULL;
	u64 rounded;

	if (why) {
		log_warn("execmem: allocation of type %u, %llu bytes, alignment %llu refused for %s", (unsigned)type,
			 (unsigned long long)size, (unsigned long long)align, why);
		return NULL;
	}
	row = execmem_row(type);
	rounded = align_up(size, row->align);
	align = MAX(align, (u64)row->align);
	ptr = take_mapped(type, size, rounded, align);
	if (!ptr)
		ptr = grow(type, size, rounded, align);
	if (likely(ptr)) {
		if (execmem_is_executable(row))
			text_poke_reuse();
	} else {
		spin_lock(&execmem.lock);
		execmem.counters[type].fails++;
		spin_unlock(&execmem.lock);
	}
	return ptr;
}

/* ---- Writing ---- */

/* One region after the other: each has consecutive frames. Locked. */
static int write_regions(struct region *region, struct range r, const u8 *src,
			 int (*fill)(u64 dst, pfn_t pfn, const void *src, u64 len))
{
	for (u64 at = r.start;; region = region_of(at)) {
		u64 end = MIN(region->va->end, r.end);
		int rc = fill(at, region_pfn(region, at), src, end - at);

		src += end - at;
		at = end;
		if (rc || at == r.end)
			return rc;
	}
}

/* The lock is kept: what is checked here and written below is one allocation until it is written. */
int execmem_fill(void *dst, const void *src, u64 len)
{
	u64 start = (u64)dst, end = start + len;
	struct region *region;
	bool exec = false;
	struct span *s;
	int rc = -EINVAL;

	spin_lock(&execmem.lock);
	s = allocation_at(start, &region);
	/* The planted bug stays inside the region: behind it there may be none. */
	if (s && end > start && end - s->start <= s->asked + (PLANTED(PLANT_EXECMEM_BOUNDS) && end <= region->va->end)) {
		const struct execmem_params *row = execmem_row(s->tag);
		struct execmem_counters *c = &execmem.counters[s->tag];

		exec = execmem_is_executable(row);
		rc = write_regions(region, range(start, end), src, s->flags & SPAN_SEALED ? text_poke : row->fill);
		c->fills++;
		trace_event(TRACE_FILL, start, len, s->flags & SPAN_SEALED);
		c->bytes_filled += len;
		c->serialisations += exec;
	}
	spin_unlock(&execmem.lock);
	if (exec)
		text_poke_sync();
	return rc;
}

int execmem_seal(void *ptr)
{
	const struct execmem_params *row = NULL;
	struct tlb_batch batch;
	struct region *region;
	struct span *s;
	int rc = 0;

	spin_lock(&execmem.lock);
	s = allocation_of(ptr, &region, "execmem_seal");
	if (s)
		row = execmem_row(s->tag);
	spin_unlock(&execmem.lock);
	if (!row)
		return -EINVAL;
	if (!(row->flags & EXECMEM_REPROTECT) || s->flags & SPAN_SEALED)
		return 0;
	tlb_batch_init(&batch, &kernel_space);
	rc = set_memory_batch(s->start, span_size(s) >> PAGE_SHIFT,
			      execmem_is_executable(row) ? MEMORY_ROX : MEMORY_RO, &batch);
	if (!rc)
		s->flags |= SPAN_SEALED;	/* in the tables it is, whoever may not know */
	return tlb_batch_finish(&batch) && !rc ? -EIO : rc;
}

/* ---- Freeing ---- */

/* The regions stay, as long as their bytes count as used. */
static int invalidate_regions(struct region *region, struct range r, const struct execmem_params *row)
{
	for (u64 at = r.start;;) {
		u64 end = MIN(region->va->end, r.end);
		int rc = row->invalidate(at, region_pfn(region, at), end - at);

		at = end;
		if (rc || at == r.end)
			return rc;
		spin_lock(&execmem.lock);
		region = region_of(at);
		spin_unlock(&execmem.lock);
	}
}

/*
 * What nobody may execute or read any more is overwritten, and memory that was sealed gets back the
 * rights of memory that is not. Where every allocation has frames of its own, they go back instead. 0, or
 * why it cannot be used again.
 */
static int make_reusable(struct span *s, struct region *region, const struct execmem_params *row)
{
	int rc;

	if (!row->invalidate)
		return 0;
	rc = invalidate_regions(region, range(s->start, s->end), row);
	if (!rc && s->flags & SPAN_SEALED)
		rc = set_memory_rw(s->start, span_size(s) >> PAGE_SHIFT);
	return rc;
}

/* Merge, and take out of the tree what is empty: the regions, for the caller to give back. */
static struct region *give(struct span *s, struct region *region, const struct execmem_params *row,
			   struct span_pool *pool)
{
	struct span_tree *tree = &execmem.memory[row->folded];
	struct execmem_counters *c = &execmem.counters[s->tag];
	struct range r = range(s->start, s->end);
	struct region *empty;

	spin_lock(&execmem.lock);
	c->frees++;
	c->asked -= s->asked;
	c->used -= range_size(r);
	c->serialisations += execmem_is_executable(row);
	execmem.live--;
	if (execmem.recent == s)
		execmem.recent = NULL;
	empty = count_use(region, r, false);
	span_give(tree, s, pool);
	if (PLANTED(PLANT_EXECMEM_ONE_RETURN) && empty)
		empty->next = NULL;
	drop(tree, empty, pool);
	spares_settle(pool);
	spin_unlock(&execmem.lock);
	return empty;
}

void execmem_free(void *ptr)
{
	const struct execmem_params *row = NULL;
	struct span_pool pool = { 0 };
	struct region *region;
	struct span *s;
	int rc;

	if (!ptr)
		return;
	spin_lock(&execmem.lock);
	s = allocation_of(ptr, &region, "execmem_free");
	if (s) {
		row = execmem_row(s->tag);
		s->state = SPAN_BUSY;
	}
	spin_unlock(&execmem.lock);
	if (!s)
		return;
	rc = make_reusable(s, region, row);
	if (rc) {
		log_warn("execmem: %p cannot be made free memory (%d): kept", ptr, rc);
		return;
	}
	if (execmem_is_executable(row)) {
		text_poke_sync();
		text_poke_retire();
	}
	regions_release(give(s, region, row, &pool));
	span_pool_release(&pool);
}
