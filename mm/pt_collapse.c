/* SPDX-License-Identifier: MIT */
/*
 * Collapse: putting a leaf back where a table has become uniform, and freeing tables with nothing in them.
 *
 * A table that a change left without breaks goes on one of its space's two lists; nothing ever searches for one.
 * tlb_batch_finish() comes here after its flush, so that what is replaced says the same as every TLB does: the
 * one store of a collapse changes the size of a page and nothing else (PT3). The table itself is freed after one
 * more flush, of everything, as paging-structure caches may still point to it (SDM 3A 4.10.3).
 *
 * In user spaces the CPU may set A and D in the old entries until the last moment. There the entry that points to
 * the table is made absent first (a marker keeps others out), then flushed, then the leaf gets the A and D of all.
 */
#include "kernel/base/panic.h"
#include "kernel/base/trace.h"
#include "mm/arch.h"
#include "mm/plant.h"
#include "mm/pt_internal.h"

/* How much of the list one batch looks at under `deferred`: keeps the work of any caller small. */
#define DEFERRED_LOOK 8u

/* A user table between clear and leaf: not present, not zero. */
#define PTE_CLEARING BIT(10)

/* ---- Lists ---- */

void pt_list_init(struct pt_list *list)
{
	*list = (struct pt_list){ PFN_NONE, PFN_NONE, 0 };
}

static struct pt_list *list_by_id(struct pt_space *space, unsigned id)
{
	return id == PT_LIST_UNIFORM ? &space->uniform : &space->empty;
}

static void list_add_tail(struct pt_space *space, struct page *table, enum pt_list_id id)
{
	struct pt_list *list = list_by_id(space, id);
	u32 pfn = (u32)page_to_pfn(table);

	assert_held(&space->lock);
	table->next = PFN_NONE;
	table->prev = list->tail;
	if (list->tail == PFN_NONE)
		list->head = pfn;
	else
		pfn_to_page(list->tail)->next = pfn;
	list->tail = pfn;
	counter_add(&list->nr, 1);
	table->list = (u16)id;
	page_flags_add(table, PAGE_PENDING);
}

void pt_list_remove(struct pt_space *space, struct page *table)
{
	struct pt_list *list = list_by_id(space, table->list);

	assert_held(&space->lock);
	if (!(table->flags & PAGE_PENDING))
		return;
	if (table->prev == PFN_NONE)
		list->head = table->next;
	else
		pfn_to_page(table->prev)->next = table->next;
	if (table->next == PFN_NONE)
		list->tail = table->prev;
	else
		pfn_to_page(table->next)->prev = table->prev;
	counter_add(&list->nr, -1);
	table->list = PT_LIST_NONE;
	page_flags_remove(table, PAGE_PENDING);
}

/* ---- What can be collapsed ---- */

pte_t pt_collapsed_leaf(struct pt_space *space, const struct page *table)
{
	unsigned level = table->order;
	pte_t first = pte_load(page_to_virt(table));
	phys_t pa = pte_leaf_pa(first, level);
	u64 span = pt_span(level + 1);
	u64 end;

	if (table->breaks || level >= space->max_leaf || !pte_is_leaf(first, level) || first.raw & PTE_KEEP ||
	    !is_aligned(pa.raw, span))
		return (pte_t){ 0 };
	/* A leaf over two memory types has an undefined one (SDM 3A 12.11.9). */
	arch_memory_type(pa, &end);
	if (end < pa.raw + span)
		return (pte_t){ 0 };
	return pte_leaf(pa, pte_attrs(first, level), level + 1);
}

/* Under `off` nothing is noted but empty tables: pt_set_policy() looks when it is turned on again. */
void pt_note_uniform(struct pt_space *space, struct page *table)
{
	enum pt_list_id id = PT_LIST_NONE;

	if (table->flags & PAGE_PINNED)
		return;
	if (pt_table_is_empty(table))
		id = pt_part_of(space, table->va) == PT_DIRECT ? PT_LIST_NONE : PT_LIST_EMPTY;
	else if (space->policy != PT_COLLAPSE_OFF && !pte_none(pt_collapsed_leaf(space, table)))
		id = PT_LIST_UNIFORM;
	if (table->list == id)
		return;
	pt_list_remove(space, table);
	if (id != PT_LIST_NONE)
		list_add_tail(space, table, id);
}

/* ---- Doing it ---- */

static struct pt_slot parent_slot(struct pt_space *space, const struct page *table)
{
	struct pt_slot s = pt_walk(space, table->va, table->order + 1u);

	assert(s.level == table->order + 1u && pte_table_pa(s.value).raw == page_to_phys(table).raw);
	return s;
}

static void count_collapse(struct pt_space *space, const struct page *table)
{
	struct pt_stats *stats = pt_stats_of(space, table->va);

	counter_add(&stats->leaves[table->order], -(u64)PT_ENTRIES);
	counter_add(&stats->leaves[table->order + 1], 1);
	counter_add(&stats->collapses[table->order + 1], 1);
	counter_add(&stats->tables, -1);
	trace_event(TRACE_COLLAPSE, table->order + 1u, table->va, page_to_phys(table).raw);
}

/* Kernel leaves: one store. s: the entry that points to the table. */
static void collapse(struct pt_space *space, struct page *table, struct pt_slot s, pte_t leaf, struct tlb_batch *batch)
{
	pt_publish(s, leaf, leaf);
	count_collapse(space, table);
	tlb_batch_free_table(batch, table);
	pt_note_change(space, pt_page_of_slot(s.pte));
}

/* User leaves, first round: the table is out of reach, and the CPU's updates with it. */
static void clear_for_collapse(struct page *table, struct pt_slot s, struct tlb_batch *batch)
{
	pte_t *parent = (pte_t *)align_down((u64)s.pte, PAGE_SIZE);
	pte_t marker = { page_to_phys(table).raw | PTE_CLEARING };

	pt_store_run(parent, s.level, (unsigned)(s.pte - parent), 1, marker, 0);
	table->next = batch->clearing;
	batch->clearing = (u32)page_to_pfn(table);
}

/* Second round, flushed meanwhile: the leaf, accessed and dirty if any of the entries was. */
static void finish_clearing(struct pt_space *space, struct tlb_batch *batch)
{
	while (batch->clearing != PFN_NONE) {
		struct page *table = pfn_to_page(batch->clearing);
		struct pt_slot s = pt_walk(space, table->va, table->order + 1u);
		pte_t *parent = (pte_t *)align_down((u64)s.pte, PAGE_SIZE);
		pte_t leaf = pt_collapsed_leaf(space, table);
		pte_t *entries = page_to_virt(table);

		for (unsigned i = 0; i < PT_ENTRIES; i++)
			leaf.raw |= pte_load(entries + i).raw & PTE_AD;
		batch->clearing = table->next;
		pt_store_run(parent, s.level, (unsigned)(s.pte - parent), 1, leaf, 0);
		count_collapse(space, table);
		tlb_batch_free_table(batch, table);
		pt_note_change(space, virt_to_page(parent));
	}
}

/* Unhook tables without entries. What was mapped there may still be in flight: the flush that follows covers it. */
static bool unhook_empty(struct pt_space *space, struct tlb_batch *batch)
{
	bool any = false;

	while (space->empty.nr) {
		struct page *table = pfn_to_page(space->empty.head);

		pt_list_remove(space, table);
		if (!pt_table_is_empty(table)) {
			pt_note_change(space, table);
			continue;
		}
		struct pt_slot s = parent_slot(space, table);
		pte_t *parent = (pte_t *)align_down((u64)s.pte, PAGE_SIZE);

		pt_store_run(parent, s.level, (unsigned)(s.pte - parent), 1, (pte_t){ 0 }, 0);
		/* Who finds nothing to do here from now on looks at the parent to know how long to wait. */
		virt_to_page(parent)->gen = space->gen + 1;
		counter_add(&pt_stats_of(space, table->va)->tables, -1);
		tlb_batch_free_table(batch, table);
		pt_note_change(space, virt_to_page(parent));
		any = true;
	}
	return any;
}

static bool is_due(const struct pt_space *space, const struct page *table, const struct tlb_batch *batch)
{
	return space->policy == PT_COLLAPSE_EAGER || batch->settle || space->gen - table->gen >= PT_DEFER_CHANGES;
}

/* Break-before-make may be impossible at the moment: the table stays on the list. */
static bool may_collapse(const struct pt_space *space, const struct page *table, struct pt_slot s, pte_t leaf)
{
	return space->flags & PT_SPACE_USER || !pt_publish_possible(s, leaf, table->va);
}

static bool collapse_uniform(struct pt_space *space, struct tlb_batch *batch)
{
	bool deferred = space->policy == PT_COLLAPSE_DEFERRED && !batch->settle;
	unsigned look = deferred ? MIN(DEFERRED_LOOK, space->uniform.nr) : UINT32_MAX;
	u32 pfn = space->uniform.head;
	bool any = false;

	for (; look && pfn != PFN_NONE; look--) {
		struct page *table = pfn_to_page(pfn);
		pte_t leaf = pt_collapsed_leaf(space, table);
		bool ready = !pte_none(leaf) && is_due(space, table, batch) &&
			     (tlb_flushed(space, table->gen) || PLANTED(PLANT_COLLAPSE_UNFLUSHED));
		struct pt_slot parent = { 0 };
		u32 next;

		if (ready)
			parent = parent_slot(space, table);
		if (ready && may_collapse(space, table, parent, leaf)) {
			next = table->next;
			pt_list_remove(space, table);
			if (space->flags & PT_SPACE_USER)
				clear_for_collapse(table, parent, batch);
			else
				collapse(space, table, parent, leaf, batch);
			any = true;
			/* A parent that became uniform by this stands at the tail. */
			if (next == PFN_NONE)
				next = space->uniform.nr ? space->uniform.tail : PFN_NONE;
		} else {
			next = table->next;
			if (pte_none(leaf)) {
				pt_list_remove(space, table);
			} else if (deferred && !is_due(space, table, batch)) {
				/* Oldest first, but for tables that changed again while they waited: those go behind. */
				if (next == PFN_NONE || pfn_to_page(next)->gen >= table->gen)
					break;
				pt_list_remove(space, table);
				list_add_tail(space, table, PT_LIST_UNIFORM);
			}
		}
		pfn = next;
	}
	return any;
}

bool pt_collapse_pending(struct pt_space *space, struct tlb_batch *batch)
{
	bool any;

	assert_held(&space->lock);
	finish_clearing(space, batch);
	any = unhook_empty(space, batch);
	if (space->policy != PT_COLLAPSE_OFF)
		any |= collapse_uniform(space, batch);
	if (any)
		tlb_batch_add_tables(batch);
	return any;
}

/* Note every table below an entry that is uniform: what `off` left unnoticed. */
static void note_below(struct pt_space *space, phys_t table, unsigned level)
{
	const pte_t *entries = pt_table(table);

	for (unsigned i = 0; level > PT_4K && i < PT_ENTRIES; i++) {
		pte_t e = pte_load(entries + i);

		if (pte_is_table(e, level))
			note_below(space, pte_table_pa(e), level - 1);
	}
	pt_note_change(space, phys_to_page(table));
}

/* The tables of the space's own half. */
static void note_all(struct pt_space *space)
{
	struct range r = space->half;
	unsigned first = pt_index(r.start, space->levels);
	unsigned last = pt_index(r.end - 1, space->levels);
	const pte_t *root = pt_table(space->root);

	for (unsigned i = first; i <= last; i++) {
		pte_t e = pte_load(root + i);

		if (pte_is_table(e, space->levels))
			note_below(space, pte_table_pa(e), space->levels - 1u);
	}
}

void pt_set_policy(struct pt_space *space, enum pt_collapse_policy policy)
{
	bool was_off;

	spin_lock(&space->lock);
	was_off = space->policy == PT_COLLAPSE_OFF;
	store_relaxed(&space->policy, (u8)policy);
	if (was_off && policy != PT_COLLAPSE_OFF)
		note_all(space);
	spin_unlock(&space->lock);
}

void pt_settle(struct pt_space *space)
{
	struct tlb_batch batch;

	tlb_batch_init(&batch, space);
	batch.settle = true;
	spin_lock(&space->lock);
	tlb_batch_wait(&batch, space->gen);
	spin_unlock(&space->lock);
	tlb_batch_finish(&batch);
}
