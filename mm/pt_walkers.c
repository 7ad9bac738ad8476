/* SPDX-License-Identifier: MIT */
/*
 * Walks over whole page tables: visiting leaves, counting the fewest there could be, checking invariants.
 *
 * They take the space's lock a gigabyte at a time, so tables do not go away under them and nobody waits for long.
 */
#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "mm/pt_internal.h"

/* ---- Leaves ---- */

struct visit {
	pt_visit_fn fn;
	void *arg;
	struct range va;
};

/* Rights of an entry, joined with those of the levels above: W and U are ANDed, NX is ORed. */
static u64 join_rights(u64 above, u64 entry)
{
	return (above & entry & (PTE_W | PTE_U)) | ((above | entry) & PTE_NX);
}

static bool visit_table(const struct visit *v, phys_t table, unsigned level, u64 base, u64 above)
{
	const pte_t *entries = pt_table(table);
	unsigned first = v->va.start > base ? pt_index(v->va.start, level) : 0;

	for (unsigned i = first; i < PT_ENTRIES; i++) {
		u64 va = base + i * pt_span(level);
		pte_t e;

		if (va >= v->va.end)
			break;
		e = pte_load(entries + i);
		if (pte_is_leaf(e, level)) {
			if (!v->fn(v->arg, va, level, e, join_rights(above, e.raw)))
				return false;
		} else if (pte_is_table(e, level)) {
			if (!visit_table(v, pte_table_pa(e), level - 1, va, join_rights(above, e.raw)))
				return false;
		}
	}
	return true;
}

/* The first address of the span that a root's table covers: sign-extended for the upper half. */
static u64 root_base(const struct pt_space *space)
{
	return space->flags & PT_SPACE_SHARED ? -(pt_span(space->levels) * PT_ENTRIES) : 0;
}

/* What the slot of a gigabyte or more at *at decides about; *at goes behind it. Returns whether to go on. */
static bool visit_gigabyte(struct pt_space *space, u64 *at, struct range r, pt_visit_fn visit, void *arg)
{
	struct pt_slot s = pt_walk(space, *at, PT_1G);
	u64 start = *at;
	u64 end = pt_next(*at, s.level);

	assert_held(&space->lock);
	if (end <= *at)
		end = r.end;
	*at = end;
	if (pte_present(s.value)) {
		struct visit v = { visit, arg, range(start, MIN(end, r.end)) };

		return visit_table(&v, space->root, space->levels, root_base(space), PTE_W | PTE_U);
	}
	return true;
}

void pt_for_each_leaf(struct pt_space *space, struct range va, pt_visit_fn visit, void *arg)
{
	struct range r = range_intersect(va, space->half);
	bool more = true;

	for (u64 at = r.start; more && at < r.end;) {
		spin_lock(&space->lock);
		more = visit_gigabyte(space, &at, r, visit, arg);
		spin_unlock(&space->lock);
	}
}

void pt_for_each_leaf_locked(struct pt_space *space, struct range va, pt_visit_fn visit, void *arg)
{
	struct range r = range_intersect(va, space->half);

	for (u64 at = r.start; at < r.end;)
		if (!visit_gigabyte(space, &at, r, visit, arg))
			break;
}

/* ---- The fewest leaves ---- */

struct fewest {
	struct pt_space *space;
	enum pt_part part;
	u64 leaves;
};

/*
 * Count the fewest leaves below a table into *n. Returns the entry that would stand for it in its parent: a leaf if all of it
 * could be one (nothing is counted then), else absent.
 */
static pte_t fewest_in(struct fewest *f, struct page *table, u64 *n)
{
	unsigned level = table->order;
	const pte_t *entries = page_to_virt(table);
	pte_t whole = pt_collapsed_leaf(f->space, table);
	pte_t first = { 0 }, last = { 0 };
	bool one_run = true;
	u64 here = 0;

	if (!pte_none(whole))
		return whole;
	for (unsigned i = 0; i < PT_ENTRIES; i++) {
		pte_t e = pte_load(entries + i);

		if (pte_is_table(e, level))
			e = fewest_in(f, phys_to_page(pte_table_pa(e)), &here);
		here += pte_is_leaf(e, level);
		if (!i)
			first = e;
		else
			one_run &= pte_is_leaf(e, level) && pte_continues(last, e, level);
		last = e;
	}
	if (one_run && level < f->space->max_leaf && pte_is_leaf(first, level) &&
	    is_aligned(pte_leaf_pa(first, level).raw, pt_span(level + 1))) {
		u64 end;

		arch_memory_type(pte_leaf_pa(first, level), &end);
		if (end >= pte_leaf_pa(first, level).raw + pt_span(level + 1))
			return pte_leaf(pte_leaf_pa(first, level), pte_attrs(first, level), level + 1);
	}
	*n += here;
	return (pte_t){ 0 };
}

u64 pt_fewest_leaves(struct pt_space *space, enum pt_part part)
{
	struct fewest f = { space, part, 0 };
	struct range r = space->half;

	spin_lock(&space->lock);
	for (u64 at = r.start, end; at < r.end; at = end) {
		struct pt_slot s = pt_walk(space, at, space->levels == 5 && at >= -pt_span(PT_256T) ? PT_512G : space->levels);

		end = pt_next(at, s.level);
		if (end <= at)
			end = r.end;
		if (pt_part_of(space, at) == part && pte_is_table(s.value, s.level)) {
			u64 n = 0;

			/* The table of a top-level slot stays a table: what it could be is counted as its entries. */
			if (!pte_none(fewest_in(&f, phys_to_page(pte_table_pa(s.value)), &n)))
				n = 1;
			f.leaves += n;
		}
	}
	spin_unlock(&space->lock);
	return f.leaves;
}

/* ---- Invariants ---- */

struct check {
	struct pt_space *space;
	struct pt_stats seen[PT_PARTS];
	u32 listed;
	unsigned faults;
};

#define CHECK_REPORTS 8u	/* faults that are named; all are counted */

static void fault(struct check *c, const char *what, u64 va, u64 got, u64 want)
{
	if (c->faults++ < CHECK_REPORTS)
		log_warn("page tables of %s: %s at 0x%llx: 0x%llx, a walk says 0x%llx", c->space->name, what,
			 (unsigned long long)va, (unsigned long long)got, (unsigned long long)want);
}

static void check_table(struct check *c, struct page *table, unsigned level, u64 base, unsigned first, unsigned end)
{
	const pte_t *entries = page_to_virt(table);
	struct pt_stats *seen = &c->seen[pt_part_of(c->space, base)];
	unsigned breaks = pt_count_breaks(entries, level, 0, PT_ENTRIES - 1);

	seen->tables++;
	c->listed += !!(table->flags & PAGE_PENDING);
	if (table->class != PAGE_TABLE)
		fault(c, "owner class of a table", base, table->class, PAGE_TABLE);
	if (table->order != level)
		fault(c, "level of a table", base, table->order, level);
	if (level < c->space->levels && table->va != base)
		fault(c, "address of a table", base, table->va, base);
	if (table->breaks != breaks)
		fault(c, "breaks", base, table->breaks, breaks);
	for (unsigned i = first; i < end; i++) {
		pte_t e = pte_load(entries + i);
		u64 va = base + i * pt_span(level);

		if (pte_is_leaf(e, level)) {
			c->seen[pt_part_of(c->space, va)].leaves[level]++;
		} else if (pte_is_table(e, level)) {
			if ((e.raw & PTE_NX) || !(e.raw & PTE_W))
				fault(c, "rights of an entry that points to a table", va, e.raw, e.raw & PTE_ADDR);
			check_table(c, phys_to_page(pte_table_pa(e)), level - 1, va, 0, PT_ENTRIES);
		} else if (!pte_none(e)) {
			fault(c, "an absent entry is not zero", va, e.raw, 0);
		}
	}
}

unsigned pt_check(struct pt_space *space)
{
	struct check c = { .space = space };
	bool shared = space->flags & PT_SPACE_SHARED;

	spin_lock(&space->lock);
	check_table(&c, phys_to_page(space->root), space->levels, root_base(space), shared ? PT_ENTRIES / 2 : 0,
		    shared ? PT_ENTRIES : PT_ENTRIES / 2);
	for (unsigned part = 0; part < PT_PARTS; part++) {
		const struct pt_stats *have = &space->stats[part];
		const struct pt_stats *seen = &c.seen[part];

		for (unsigned l = PT_4K; l <= PT_1G; l++)
			if (have->leaves[l] != seen->leaves[l])
				fault(&c, part == PT_DIRECT ? "leaves of the direct map" : "leaves", l, have->leaves[l],
				      seen->leaves[l]);
		if (have->tables != seen->tables)
			fault(&c, part == PT_DIRECT ? "tables of the direct map" : "tables", 0, have->tables, seen->tables);
	}
	if (c.listed != space->uniform.nr + space->empty.nr)
		fault(&c, "listed tables", 0, space->uniform.nr + space->empty.nr, c.listed);
	spin_unlock(&space->lock);
	return c.faults;
}
