/* SPDX-License-Identifier: MIT */
/*
 * Execmem: statistics by type, the table, and the check that compares what is known with what is mapped
 * and what memory holds.
 */
#include "kernel/base/log.h"
#include "mm/directmap.h"
#include "mm/execmem_internal.h"

/* ---- Statistics ---- */

/* Bytes that allocations of the tail take. Locked. */
static u64 tail_used(void)
{
	return execmem.tail.used;
}

/* Bytes of a type's regions, without what is in use by types that are folded into it. Locked. */
static u64 held_by(enum execmem_type type)
{
	u64 held = execmem.counters[type].region_bytes;

	if (execmem_row(type)->folded != type)
		return execmem.counters[type].used;
	if (type == EXECMEM_TEXT)
		held += tail_used();
	for (unsigned t = 0; t < EXECMEM_TYPES; t++)
		if (t != type && execmem_row(t)->folded == type)
			held -= execmem.counters[t].used;
	return held;
}

static void add_type(enum execmem_type type, struct execmem_stats *out)
{
	const struct execmem_counters *c = &execmem.counters[type];
	u64 held = held_by(type);

	out->allocs += c->allocs;
	out->frees += c->frees;
	out->fails += c->fails;
	out->fills += c->fills;
	out->bytes_filled += c->bytes_filled;
	out->asked += c->asked;
	out->used += c->used;
	out->held += held;
	out->wasted += held - c->asked;
	out->regions += c->regions;
	out->leaves_4k += c->leaves_4k;
	out->leaves_2m += c->leaves_2m;
	out->blocks_taken += c->blocks_taken;
	out->blocks_returned += c->blocks_returned;
	out->fallbacks_4k += c->fallbacks_4k;
	out->tail_bytes += type == EXECMEM_TEXT ? tail_used() : 0;
	out->serialisations += c->serialisations;
}

void execmem_read_stats(enum execmem_type type, struct execmem_stats *out)
{
	*out = (struct execmem_stats){ 0 };
	spin_lock(&execmem.lock);
	for (unsigned t = 0; t < EXECMEM_TYPES; t++)
		if (type == t || type == EXECMEM_TYPES)
			add_type(t, out);
	spin_unlock(&execmem.lock);
}

static void print_row(enum execmem_type type)
{
	struct execmem_stats s;

	execmem_read_stats(type, &s);
	log_info("execmem policy=%s type=%s allocs=%llu frees=%llu fails=%llu asked=%llu used=%llu held=%llu wasted=%llu "
		 "regions=%llu leaves_4k=%llu leaves_2m=%llu tail=%llu",
		 execmem_policy_name(execmem.policy), execmem_type_name(type), (unsigned long long)s.allocs,
		 (unsigned long long)s.frees, (unsigned long long)s.fails, (unsigned long long)s.asked,
		 (unsigned long long)s.used, (unsigned long long)s.held, (unsigned long long)s.wasted,
		 (unsigned long long)s.regions, (unsigned long long)s.leaves_4k, (unsigned long long)s.leaves_2m,
		 (unsigned long long)s.tail_bytes);
}

void execmem_print(void)
{
	for (unsigned type = 0; type <= EXECMEM_TYPES; type++)
		print_row(type);
}

/* ---- The check ---- */

/* What one pass over everything adds up. */
struct tally {
	u64 regions, region_bytes, leaves_4k, leaves_2m;
	u64 covered;	/* bytes of regions that spans of memory cover */
	u64 spans;	/* bytes of all spans of memory, without the tail's */
	u64 live, asked, used;
	bool recent;	/* the one that is remembered is one of them */
	unsigned faults;
};

static void fault(struct tally *t, const char *what, u64 va)
{
	if (!t->faults++)
		log_warn("execmem: %s at 0x%llx", what, (unsigned long long)va);
}

static void expect(struct tally *t, bool ok, const char *what, u64 va)
{
	if (!ok)
		fault(t, what, va);
}

/* What the leaf of a page should say, given the span of memory that it begins in. */
static u64 expected_attrs(const struct execmem_params *row, const struct span *s)
{
	bool writable = row->flags & EXECMEM_REPROTECT && !(s && s->state == SPAN_USED && s->flags & SPAN_SEALED);

	return (writable ? DIRECT_ATTRS : row->prot) & arch_mm.pte_mask;
}

static struct pt_slot leaf_at(u64 va)
{
	return pt_walk_lockless(kernel_space.root, kernel_space.levels, va);
}

static void check_alias(struct tally *t, const struct region *r, u64 va, pfn_t pfn)
{
	const struct execmem_params *row = execmem_row(r->type);
	struct pt_slot s = leaf_at(phys_to_va(phys(pfn << PAGE_SHIFT)));
	const struct span *a = span_find(&execmem.memory[r->type], va);
	bool sealed = a && a->state == SPAN_USED && a->flags & SPAN_SEALED;

	if (r->unmapped)
		expect(t, pte_none(s.value), "a direct-map alias of a frame of the unmapped cache", va);
	else
		expect(t, pte_is_leaf(s.value, s.level) && !(s.value.raw & PTE_W) == sealed,
		       "the wrong direct-map alias", va);
	expect(t, !execmem_is_executable(row) || pfn_to_page(pfn)->class == PAGE_EXECMEM,
	       "a frame of the wrong class", va);
}

static void check_mapping(struct tally *t, const struct region *r)
{
	const struct execmem_params *row = execmem_row(r->type);

	for (u64 i = 0; i < BIT(r->order); i++) {
		u64 va = r->va->start + (i << PAGE_SHIFT);
		struct pt_slot s = leaf_at(va);
		u64 offset = va & (pt_span(s.level) - 1);
		pfn_t pfn = phys_to_pfn(pte_leaf_pa(s.value, s.level)) + (offset >> PAGE_SHIFT);
		u64 want = expected_attrs(row, span_find(&execmem.memory[r->type], va));

		expect(t, pte_is_leaf(s.value, s.level) && s.level == r->leaf, "a leaf of the wrong size", va);
		expect(t, pfn == r->pfn + i, "another frame", va);
		expect(t, ((pte_attrs(s.value, s.level) ^ want) & ~(PTE_KEEP | PTE_AD)) == 0,
		       "the wrong rights", va);
		check_alias(t, r, va, pfn);
	}
}

/* What of a span holds no code: all of it if it is free, else what lies behind the size that was asked for. */
static struct range codeless(const struct span *s)
{
	return range(s->start + (s->state == SPAN_FREE ? 0 : s->asked), s->end);
}

/* Bytes of a region by state; what holds no code of executable regions is INT3. */
static bool all_int3(u64 start, u64 end)
{
	for (u64 n; start < end; start += n) {
		const u8 *p = arch_va_ptr(start, false);

		n = MIN(end - start, PAGE_SIZE - (start & (PAGE_SIZE - 1)));
		for (u64 i = 0; i < n; i++)
			if (p[i] != EXECMEM_INT3)
				return false;
	}
	return true;
}

static void check_content(struct tally *t, const struct region *r)
{
	bool exec = execmem_is_executable(execmem_row(r->type));
	struct range all = region_range(r);
	const struct span *s = span_find(&execmem.memory[r->type], all.start);
	u64 used = 0;

	for (; s && s->start < all.end; s = s->next) {
		struct range part = range_intersect(range(s->start, s->end), all), rest = range_intersect(codeless(s), all);

		t->covered += r->fixed ? 0 : range_size(part);
		if (s->state != SPAN_FREE)
			used += range_size(part);
		if (exec && s->state != SPAN_BUSY)
			expect(t, all_int3(rest.start, rest.end), "text that holds no code and is not INT3", rest.start);
	}
	expect(t, used == r->used, "a region with a wrong count of bytes in use", all.start);
	expect(t, used || r->fixed, "an empty region that was not given back", all.start);
}

static void check_regions(struct tally *t)
{
	for (unsigned i = 0; i < ARRAY_SIZE(execmem.ranges); i++)
		for (const struct span *s = execmem.addresses[i].first; s; s = s->next) {
			const struct region *r = s->owner;

			if (s->state == SPAN_FREE)
				continue;
			expect(t, r && r->va == s && span_size(s) == PAGE_SIZE << r->order,
			       "addresses of no region", s->start);
			t->regions++;
			t->region_bytes += span_size(s);
			t->leaves_4k += r->leaf == PT_4K ? BIT(r->order) : 0;
			t->leaves_2m += r->leaf == PT_2M;
			if (r->detached)
				continue;	/* waits for a table to be given back */
			check_mapping(t, r);
			check_content(t, r);
		}
	if (span_find(&execmem.memory[EXECMEM_TEXT], execmem.tail_range.start))
		check_content(t, &execmem.tail);
}

static void check_memory(struct tally *t, enum execmem_type type)
{
	for (const struct span *s = execmem.memory[type].first; s; s = s->next) {
		if (!range_has(execmem.tail_range, s->start))
			t->spans += span_size(s);
		if (s->state == SPAN_FREE)
			continue;
		t->live++;
		t->recent |= s == execmem.recent;
		t->used += span_size(s);
		t->asked += s->asked;
		expect(t, s->asked <= span_size(s) && span_size(s) - s->asked < execmem_row(s->tag)->align &&
			  is_aligned(s->start, execmem_row(s->tag)->align) && execmem_row(s->tag)->folded == type,
		       "an allocation of the wrong size, alignment or type", s->start);
	}
}

unsigned execmem_check(void)
{
	struct execmem_counters sum = { 0 };
	struct tally t = { 0 };

	spin_lock(&execmem.lock);
	for (unsigned i = 0; i < ARRAY_SIZE(execmem.addresses); i++)
		t.faults += span_check(&execmem.addresses[i]);
	for (unsigned type = 0; type < EXECMEM_TYPES; type++) {
		const struct execmem_counters *c = &execmem.counters[type];

		t.faults += span_check(&execmem.memory[type]);
		check_memory(&t, type);
		sum.regions += c->regions;
		sum.region_bytes += c->region_bytes;
		sum.leaves_4k += c->leaves_4k;
		sum.leaves_2m += c->leaves_2m;
		sum.asked += c->asked;
		sum.used += c->used;
	}
	check_regions(&t);
	expect(&t, t.covered == t.spans, "memory that is in no region, or regions without memory", 0);
	expect(&t, t.regions == sum.regions && t.region_bytes == sum.region_bytes && t.leaves_4k == sum.leaves_4k &&
		   t.leaves_2m == sum.leaves_2m, "regions counted wrongly", 0);
	expect(&t, t.recent || !execmem.recent, "an allocation is remembered that is none", 0);
	expect(&t, t.live == execmem.live && t.asked == sum.asked && t.used == sum.used,
	       "allocations counted wrongly", 0);
	spin_unlock(&execmem.lock);
	return t.faults;
}
