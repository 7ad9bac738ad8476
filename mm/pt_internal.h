/* SPDX-License-Identifier: MIT */
/*
 * What the files of the page-table core share: entries as they stand in tables, breaks, lists of tables.
 * Included by pgtable.c, pt_collapse.c and pt_walkers.c only.
 */
#ifndef MM_PT_INTERNAL_H
#define MM_PT_INTERNAL_H

#include "kernel/base/atomic.h"
#include "mm/pgtable.h"

static inline pte_t pte_load(const pte_t *slot)
{
	return (pte_t){ load_relaxed(&slot->raw) };
}

static inline bool pte_same(pte_t a, pte_t b)
{
	return a.raw == b.raw;
}

static inline pte_t *pt_table(phys_t pa)
{
	return phys_to_virt(pa);
}

static inline struct page *pt_page_of_slot(const pte_t *slot)
{
	return virt_to_page(slot);
}

/* A mask of attributes in normal form, as it stands in a leaf of this level. */
static inline u64 pte_mask_at(u64 attrs, unsigned level)
{
	return pte_leaf(phys(0), attrs, level).raw & ~(level == PT_4K ? 0 : PTE_PS);
}

/*
 * Whether b carries on what a begins: both absent, or both leaves, alike but for A and D, and b maps what
 * lies behind a. Adding the span to a leaf changes nothing but its frame, so one comparison does it.
 */
static inline bool pte_continues(pte_t a, pte_t b, unsigned level)
{
	if (!(a.raw & PTE_P))
		return a.raw == b.raw;
	if (level != PT_4K && !(a.raw & PTE_PS))
		return false;
	return (((a.raw + pt_span(level)) ^ b.raw) & ~PTE_AD) == 0;
}

/* Breaks among the pairs (i, i + 1) with lo <= i < hi. */
static inline unsigned pt_count_breaks(const pte_t *table, unsigned level, unsigned lo, unsigned hi)
{
	unsigned n = 0;
	pte_t a = pte_load(table + lo);

	for (unsigned i = lo; i < hi; i++) {
		pte_t b = pte_load(table + i + 1);

		n += !pte_continues(a, b, level);
		a = b;
	}
	return n;
}

static inline enum pt_part pt_part_of(const struct pt_space *space, u64 va)
{
	return va >= space->direct.start && va < space->direct.end ? PT_DIRECT : PT_OTHER;
}

static inline struct pt_stats *pt_stats_of(struct pt_space *space, u64 va)
{
	return &space->stats[pt_part_of(space, va)];
}

/* Store entries [i, i + n) of a table as arch_pte_fill() does, and keep its breaks and the checks. */
void pt_store_run(pte_t *table, unsigned level, unsigned i, unsigned n, pte_t first, u64 step);

/* The leaf that could take a table's place, or an absent entry: not uniform, or not to be collapsed. */
pte_t pt_collapsed_leaf(struct pt_space *space, const struct page *table);

/* Whether a table has no entry at all. */
static inline bool pt_table_is_empty(const struct page *table)
{
	return table->breaks == 0 && pte_none(pte_load((pte_t *)page_to_virt(table)));
}

/* A table has changed: list it if it became uniform or empty. Space locked. */
void pt_note_uniform(struct pt_space *space, struct page *table);

static inline void pt_note_change(struct pt_space *space, struct page *table)
{
	if (unlikely(!table->breaks) &&
	    (space->policy != PT_COLLAPSE_OFF || pte_none(pte_load((pte_t *)page_to_virt(table)))))
		pt_note_uniform(space, table);
}

void pt_list_init(struct pt_list *list);
/* Take a table off whichever list it is on. */
void pt_list_remove(struct pt_space *space, struct page *table);

/*
 * Store one entry that changes the size of a page: a table for a leaf, or a leaf for a table that maps the same.
 * One store; or break-before-make where it is asked for (`leaf` is the one of the two that is a leaf).
 */
void pt_publish(struct pt_slot slot, pte_t value, pte_t leaf);
/* Whether that would be by break-before-make, but may not: -EBUSY. */
int pt_publish_possible(struct pt_slot slot, pte_t leaf, u64 va);

/* Hand a table back to the page allocator's form, to be freed. */
void pt_table_retire(struct page *table);

#endif
