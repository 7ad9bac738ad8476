/* SPDX-License-Identifier: MIT */
/*
 * Page tables: spaces, the walk, and changes by plan and apply. See pgtable.h for the protocol.
 *
 * A change walks from the root to the slot that decides about its first address, handles the run of
 * entries of that table which lie in its range, and walks again for the next run. There is no function per
 * level, and no recursion: the tables between are reached anew once per 512 entries.
 *
 * Invariants kept here: every store to a reachable table goes through pt_store_run(), which keeps the
 * table's breaks; a change that has been planned cannot fail; entries are never changed from one frame to
 * another, only from absent, to absent, or in their rights.
 */
#include "mm/pgtable.h"

#include "kernel/base/errno.h"
#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "kernel/base/string.h"
#include "kernel/base/trace.h"
#include "mm/arch.h"
#include "mm/buddy.h"
#include "mm/plant.h"
#include "mm/pt_internal.h"

struct pt_space kernel_space;
int pt_bbm = -1;
bool pt_checks;

#if CONFIG_PLANT
int mm_plant;
#endif

static struct pt_space *pt_spaces;
static spinlock_t pt_spaces_lock = SPINLOCK_INIT_CLASS(LOCK_PT_SPACES);

/* ---- Stores ---- */

/*
 * The rule of PT3, for one store: from or to absent is free, and so is a table in place of a leaf or the
 * reverse, as its child maps the same. What remains, leaf to leaf, must keep its frame, and so must its size.
 */
static void check_store(pte_t old, pte_t new, unsigned level)
{
	if (!pte_present(old) || !pte_present(new))
		return;
	if (pte_is_leaf(old, level) && pte_is_leaf(new, level)) {
		assert(pte_leaf_pa(old, level).raw == pte_leaf_pa(new, level).raw);
		return;
	}
	/* A change of size: both must map the same. One of them is a table. */
	bool split = pte_is_leaf(old, level);
	pte_t leaf = split ? old : new;
	phys_t child = pte_table_pa(split ? new : old);
	u64 attrs = pte_attrs(leaf, level);

	assert(pte_is_table(split ? new : old, level) && pte_is_leaf(leaf, level));
	for (unsigned i = 0; i < PT_ENTRIES; i++) {
		pte_t e = pte_load(pt_table(child) + i);
		pte_t want = pte_leaf(phys(pte_leaf_pa(leaf, level).raw + i * pt_span(level - 1)), attrs, level - 1);

		assert(((e.raw ^ want.raw) & ~PTE_AD) == 0);
	}
}

/* pt_store_run() for one entry, of which it is known what stands there. */
static __always_inline void store_one(struct page *page, pte_t *slot, unsigned level, pte_t old, pte_t new)
{
	unsigned i = (unsigned)((u64)slot / sizeof(*slot)) % PT_ENTRIES;
	int delta = 0;

	if (unlikely(pt_checks))
		check_store(old, new, level);
	if (likely(i > 0)) {
		pte_t prev = pte_load(slot - 1);

		delta += pte_continues(prev, old, level) - pte_continues(prev, new, level);
	}
	if (likely(i < PT_ENTRIES - 1) && !PLANTED(PLANT_BREAKS_OFF_BY_ONE)) {
		pte_t next = pte_load(slot + 1);

		delta += pte_continues(old, next, level) - pte_continues(new, next, level);
	}
	arch_pte_store(slot, new, level);
	page->breaks = (u16)(page->breaks + delta);
}

void pt_store_run(pte_t *table, unsigned level, unsigned i, unsigned n, pte_t first, u64 step)
{
	struct page *page = virt_to_page(table);
	unsigned lo = i ? i - 1 : 0;
	unsigned hi = MIN(i + n, PT_ENTRIES - 1);
	unsigned before;

	if (n == 1) {
		store_one(page, table + i, level, pte_load(table + i), first);
		return;
	}
	before = pt_count_breaks(table, level, lo, hi);
	if (unlikely(pt_checks))
		for (unsigned k = 0; k < n; k++)
			check_store(pte_load(table + i + k), (pte_t){ first.raw + k * step }, level);
	arch_pte_fill(table + i, n, first, step, level);
	page->breaks = (u16)(page->breaks + pt_count_breaks(table, level, lo, hi) - before);
}

/* ---- Pools of tables ---- */

static bool must_avoid(const struct pt_plan *plan, const struct page *page)
{
	u64 block = align_down(page_to_phys(page).raw, pt_span(PT_2M));

	for (u32 i = 0; plan && i < plan->nr_avoid; i++)
		if (plan->avoid[i] == block)
			return true;
	return false;
}

static void pool_push(struct pt_pool *pool, struct page *page)
{
	page->next = pool->head;
	pool->head = (u32)page_to_pfn(page);
	pool->nr++;
}

/* Move what the plan must avoid from one pool to another. */
static void pool_sort_out(struct pt_pool *pool, struct pt_pool *unfit, const struct pt_plan *plan)
{
	struct pt_pool all = *pool;

	*pool = (struct pt_pool)PT_POOL_INIT;
	while (all.nr) {
		struct page *page = pfn_to_page(all.head);

		all.head = page->next;
		all.nr--;
		pool_push(must_avoid(plan, page) ? unfit : pool, page);
	}
}

/* Whether the pool has what the plan takes. It may have been filled for another plan: others change tables between two tries. */
static bool pool_serves(const struct pt_pool *pool, const struct pt_plan *plan)
{
	u32 pfn = pool->head;

	for (u64 i = 0; plan->nr_avoid && i < pool->nr; i++, pfn = pfn_to_page(pfn)->next)
		if (must_avoid(plan, pfn_to_page(pfn)))
			return false;
	return plan->tables <= pool->nr;
}

int pt_pool_reserve(struct pt_pool *pool, u64 nr, const struct pt_plan *plan)
{
	struct pt_pool unfit = PT_POOL_INIT;
	int rc = 0;

	if (plan && plan->nr_avoid)
		pool_sort_out(pool, &unfit, plan);
	while (pool->nr < nr) {
		struct page *page = alloc_page(0);

		if (!page) {
			rc = -ENOMEM;
			break;
		}
		pool_push(must_avoid(plan, page) ? &unfit : pool, page);
	}
	pt_pool_release(&unfit);
	return rc;
}

/* A frame of the pool, now a table of this level that translates va onwards. Its entries are undefined. */
static struct page *pool_take(struct pt_pool *pool, unsigned level, u64 va)
{
	struct page *table;

	assert(pool->nr);
	table = pfn_to_page(pool->head);
	pool->head = table->next;
	pool->nr--;
	table->breaks = 0;
	table->gen = 0;
	/* Those who walk without a lock look at these two, and at the class. */
	store_relaxed(&table->va, align_down(va, pt_span(level) * PT_ENTRIES));
	store_relaxed(&table->order, (u8)level);
	page_put_class(table, PAGE_TABLE);
	return table;
}

/* Whoever reads a table after this finds entries that no table ever has. */
static void poison(const struct page *table)
{
	u64 *entries = page_to_virt(table);

	for (unsigned i = 0; i < PT_ENTRIES; i++)
		store_relaxed(entries + i, PT_POISON);
}

void pt_table_retire(struct page *table)
{
	page_put_class(table, PAGE_KERNEL);
	store_relaxed(&table->order, 0);
	table->breaks = 0;
	table->list = PT_LIST_NONE;
	table->gen = 0;
	store_relaxed(&table->va, 0);
	page_flags_remove(table, PAGE_PINNED);
	if (pt_checks)
		poison(table);
}

void pt_pool_release(struct pt_pool *pool)
{
	while (pool->nr) {
		struct page *page = pfn_to_page(pool->head);

		pool->head = page->next;
		pool->nr--;
		free_page(page);
	}
}

/* ---- Spaces ---- */

/* The root of a private space sees the kernel half: its entries are copied once and never change again. */
static void share_kernel_half(struct pt_space *space, pte_t *root)
{
	const pte_t *kernel = pt_table(kernel_space.root);

	for (unsigned i = PT_ENTRIES / 2; i < PT_ENTRIES; i++) {
		pte_t e = pte_load(kernel + i);

		if (!pte_none(e))
			arch_pte_store(root + i, e, space->levels);
	}
}

int pt_space_init(struct pt_space *space, const char *name, unsigned flags, phys_t root, u64 *cpu_gen)
{
	struct pt_pool pool = PT_POOL_INIT;
	struct page *table;

	if (!root.raw) {
		int rc = pt_pool_reserve(&pool, 1, NULL);

		if (rc)
			return rc;
	} else {
		pool.head = (u32)phys_to_pfn(root);
		pool.nr = 1;
	}
	memset(space, 0, sizeof(*space));
	memset(cpu_gen, 0xff, MAX_CPUS * sizeof(*cpu_gen));	/* TLB_GEN_NONE */
	space->name = name;
	space->levels = arch_mm.levels;
	space->max_leaf = arch_mm.max_leaf;
	space->policy = PT_COLLAPSE_EAGER;
	space->flags = (u8)flags;
	space->cpu_gen = cpu_gen;
	spin_set_class(&space->lock, flags & PT_SPACE_SHARED ? LOCK_PT_KERNEL : LOCK_PT_SPACE);
	/* The last page of the address space is never mapped: a half-open range could not name it. */
	space->half = flags & PT_SPACE_SHARED ? range(-(pt_span(space->levels) * (PT_ENTRIES / 2)), -PAGE_SIZE)
					      : range(0, pt_span(space->levels) * (PT_ENTRIES / 2));
	pt_list_init(&space->uniform);
	pt_list_init(&space->empty);

	table = pool_take(&pool, space->levels, 0);
	page_flags_add(table, PAGE_PINNED);
	space->root = page_to_phys(table);
	memset(page_to_virt(table), 0, PAGE_SIZE);
	if (!(flags & PT_SPACE_SHARED) && kernel_space.root.raw)
		share_kernel_half(space, page_to_virt(table));
	table->breaks = (u16)pt_count_breaks(page_to_virt(table), space->levels, 0, PT_ENTRIES - 1);
	space->stats[PT_OTHER].tables = 1;

	spin_lock(&pt_spaces_lock);
	space->next = pt_spaces;
	store_release(&pt_spaces, space);
	spin_unlock(&pt_spaces_lock);
	return 0;
}

/* Free the tables below an entry, depth first. Nobody uses the space. */
static void destroy_tables(struct pt_space *space, pte_t entry, unsigned level)
{
	pte_t *table = pt_table(pte_table_pa(entry));
	struct page *page = phys_to_page(pte_table_pa(entry));

	for (unsigned i = 0; level > PT_4K && i < PT_ENTRIES; i++) {
		pte_t e = pte_load(table + i);

		if (pte_is_table(e, level))
			destroy_tables(space, e, level - 1);
	}
	pt_table_retire(page);
	page_flags_remove(page, PAGE_PENDING);
	free_page(page);
}

void pt_space_destroy(struct pt_space *space)
{
	pte_t *root = pt_table(space->root);
	unsigned end = space->flags & PT_SPACE_SHARED ? PT_ENTRIES : PT_ENTRIES / 2;

	spin_lock(&pt_spaces_lock);
	for (struct pt_space **p = &pt_spaces; *p; p = &(*p)->next)
		if (*p == space) {
			store_release(p, space->next);
			break;
		}
	spin_unlock(&pt_spaces_lock);
	for (unsigned i = 0; i < end; i++) {
		pte_t e = pte_load(root + i);

		if (pte_is_table(e, space->levels))
			destroy_tables(space, e, space->levels - 1u);
	}
	pt_table_retire(phys_to_page(space->root));
	if (phys_to_page(space->root)->flags & PAGE_HEAD)	/* else it was the caller's, and is again */
		free_page(phys_to_page(space->root));
	space->root = phys(0);
}

struct pt_space *pt_space_next(struct pt_space *space)
{
	return load_acquire(space ? &space->next : &pt_spaces);
}

void pt_spaces_hold(void)
{
	spin_lock(&pt_spaces_lock);
}

void pt_spaces_release(void)
{
	spin_unlock(&pt_spaces_lock);
}

/* Frames that tables of `level` and above for a range take at most. */
static u64 fill_tables_needed(const struct pt_space *space, struct range va, unsigned level)
{
	u64 nr = 0;

	for (unsigned l = level + 1; l <= space->levels; l++)
		nr += (align_down(va.end - 1, pt_span(l)) - align_down(va.start, pt_span(l))) / pt_span(l) + 1;
	return nr;
}

/* Pin the tables on the way to va down to `level`, and hang what is missing of them. -EBUSY: a leaf is in the way. */
static int fill_tables_at(struct pt_space *space, u64 va, unsigned level, struct pt_pool *pool)
{
	pte_t *table = pt_table(space->root);

	for (unsigned l = space->levels; l > level; l--) {
		pte_t *slot = table + pt_index(va, l);
		struct page *child;

		if (pte_is_leaf(pte_load(slot), l))
			return -EBUSY;
		if (pte_none(pte_load(slot))) {
			child = pool_take(pool, l - 1, va);
			memset(page_to_virt(child), 0, PAGE_SIZE);
			counter_add(&pt_stats_of(space, child->va)->tables, 1);
			pt_store_run(table, l, pt_index(va, l), 1,
				     pte_table(page_to_phys(child), space->flags & PT_SPACE_USER), 0);
		}
		table = pt_table(pte_table_pa(pte_load(slot)));
		child = virt_to_page(table);
		pt_list_remove(space, child);
		page_flags_add(child, PAGE_PINNED);
	}
	return 0;
}

int pt_fill_tables(struct pt_space *space, struct range va, unsigned level)
{
	struct pt_pool pool = PT_POOL_INIT;
	u64 span = pt_span(level + 1);
	int rc = 0;

	if (level < PT_4K || level >= space->levels || range_empty(va))
		return -EINVAL;
	rc = pt_pool_reserve(&pool, fill_tables_needed(space, va, level), NULL);
	if (!rc) {
		spin_lock(&space->lock);
		for (u64 at = align_down(va.start, span); !rc; at += span) {
			rc = fill_tables_at(space, at, level, &pool);
			if (at == align_down(va.end - 1, span))
				break;
		}
		spin_unlock(&space->lock);
	}
	pt_pool_release(&pool);
	return rc;
}

int pt_fill_top(struct pt_space *space, struct range va)
{
	return pt_fill_tables(space, va, space->levels - 1u);
}

/* ---- The walk ---- */

static inline struct pt_slot walk(struct pt_space *space, u64 va, unsigned stop)
{
	unsigned level = space->levels;
	unsigned shift = pt_shift(level);
	pte_t *slot = pt_table(space->root) + (va >> shift) % PT_ENTRIES;
	pte_t e = pte_load(slot);

	while (level > stop && pte_is_table(e, level)) {
		level--;
		shift -= 9;
		slot = pt_table(pte_table_pa(e)) + (va >> shift) % PT_ENTRIES;
		e = pte_load(slot);
	}
	debug_assert(e.raw != PT_POISON);	/* a table that has been freed */
	return (struct pt_slot){ slot, e, (u8)level };
}

struct pt_slot pt_walk(struct pt_space *space, u64 va, unsigned stop)
{
	return walk(space, va, stop);
}

/* Whether a frame is the table of this level that translates va. The root is one of any address. */
static bool is_table_for(phys_t table, unsigned level, bool root, u64 va)
{
	pfn_t pfn = phys_to_pfn(table);
	const struct page *page;

	if (!pfn_valid(pfn))
		return false;
	page = pfn_to_page(pfn);
	return load_acquire(&page->class) == PAGE_TABLE && load_relaxed(&page->order) == level &&
	       (root || load_relaxed(&page->va) == align_down(va, pt_span(level) * PT_ENTRIES));
}

/*
 * A table may be freed, and its frame be anything else, between any two steps. So what was read counts only if the frame was this
 * very table both before and after. An entry is read with acquire: what it points to was filled before it was stored.
 */
struct pt_slot pt_walk_lockless_to(phys_t root, unsigned levels, u64 va, unsigned stop)
{
	struct pt_slot s = { NULL, { 0 }, (u8)levels };
	phys_t table = root;

	while (is_table_for(table, s.level, s.level == levels, va)) {
		s.pte = pt_table(table) + pt_index(va, s.level);
		s.value.raw = PLANTED(PLANT_RACE_WALK) ? load_relaxed(&s.pte->raw) : load_acquire(&s.pte->raw);
		if (!is_table_for(table, s.level, s.level == levels, va) || s.value.raw == PT_POISON)
			break;
		if (s.level == stop || !pte_is_table(s.value, s.level))
			return s;
		table = pte_table_pa(s.value);
		s.level--;
	}
	s.value = (pte_t){ 0 };
	return s;
}

struct pt_slot pt_walk_lockless(phys_t root, unsigned levels, u64 va)
{
	return pt_walk_lockless_to(root, levels, va, PT_4K);
}

/* ---- Split ---- */

/*
 * User leaves get A and D from the CPU at any moment: what was read may be old by the time it is replaced,
 * so they are exchanged by comparison. Kernel leaves carry both bits from the start and are stored.
 */
static bool leaf_is_volatile(const struct pt_space *space)
{
	return space->flags & PT_SPACE_USER;
}

/*
 * What one store of break-before-make needs, for the rendezvous. All other CPUs stand still in it, so what a user leaf has
 * of A and D by then is final: a child is filled from that.
 */
struct bbm_store {
	struct pt_slot slot;
	pte_t value;
	struct page *child;	/* or NULL: it says the right thing already */
};

static void fill_child(struct page *child, pte_t leaf, unsigned level);

static void bbm_store(void *arg)
{
	struct bbm_store *s = arg;

	if (s->child)
		fill_child(s->child, pte_load(s->slot.pte), s->slot.level);
	arch_pte_store(s->slot.pte, (pte_t){ 0 }, s->slot.level);
	arch_rendezvous_flush();
	arch_pte_store(s->slot.pte, s->value, s->slot.level);
}

static bool bbm_wanted(pte_t leaf)
{
	if (pt_bbm >= 0)
		return pt_bbm;
	return arch_mm.bbm == ARCH_BBM_ALL || (arch_mm.bbm == ARCH_BBM_EXECUTABLE && !(leaf.raw & PTE_NX));
}

int pt_publish_possible(struct pt_slot slot, pte_t leaf, u64 va)
{
	struct range span = range_len(align_down(va, pt_span(slot.level)), pt_span(slot.level));

	if (!bbm_wanted(leaf))
		return 0;
	/* The entry is absent for a moment: neither what runs nor its own table may be reached through it. */
	return arch_range_pinned(span) || range_has(span, phys_to_va(virt_to_phys(slot.pte))) ? -EBUSY : 0;
}

/* Store by break-before-make, filling a child (or NULL) from the leaf that is broken. */
static void publish_broken(struct pt_slot slot, pte_t value, struct page *child)
{
	struct bbm_store s = { slot, value, child };
	pte_t *table = (pte_t *)align_down((u64)slot.pte, PAGE_SIZE);
	unsigned i = (unsigned)(slot.pte - table);
	unsigned lo = i ? i - 1 : 0;
	unsigned hi = MIN(i + 1, PT_ENTRIES - 1);
	unsigned before = pt_count_breaks(table, slot.level, lo, hi);

	arch_rendezvous(bbm_store, &s);
	virt_to_page(table)->breaks += pt_count_breaks(table, slot.level, lo, hi) - before;
}

void pt_publish(struct pt_slot slot, pte_t value, pte_t leaf)
{
	pte_t *table = (pte_t *)align_down((u64)slot.pte, PAGE_SIZE);
	unsigned i = (unsigned)(slot.pte - table);

	if (bbm_wanted(leaf)) {
		publish_broken(slot, value, NULL);
		return;
	}
	if (PLANTED(PLANT_SPLIT_BY_UNMAP))
		pt_store_run(table, slot.level, i, 1, (pte_t){ 0 }, 0);
	pt_store_run(table, slot.level, i, 1, value, 0);
}

/*
 * Replace an entry whose A and D the CPU may set meanwhile: `make` builds the new one from what stands there, until
 * nothing has come between.
 */
static void replace_volatile(pte_t *slot, pte_t old, unsigned level, pte_t (*make)(void *arg, pte_t old), void *arg)
{
	pte_t *table = (pte_t *)align_down((u64)slot, PAGE_SIZE);
	unsigned i = (unsigned)(slot - table);
	unsigned lo = i ? i - 1 : 0;
	unsigned hi = MIN(i + 1, PT_ENTRIES - 1);
	unsigned before = pt_count_breaks(table, level, lo, hi);

	while (!arch_pte_replace(slot, old, make(arg, old), level))
		old = pte_load(slot);
	virt_to_page(table)->breaks += pt_count_breaks(table, level, lo, hi) - before;
}

static void fill_child(struct page *child, pte_t leaf, unsigned level)
{
	u64 attrs = pte_attrs(leaf, level);
	pte_t first = pte_leaf(pte_leaf_pa(leaf, level), attrs, level - 1);

	if (PLANTED(PLANT_PAT_NOT_MOVED) && level == PT_2M && (leaf.raw & PTE_PAT_LARGE))
		first.raw &= ~PTE_PAT;
	arch_pte_fill(page_to_virt(child), PT_ENTRIES, first, pt_span(level - 1), level - 1);
}

struct split {
	struct page *child;
	unsigned level;
	pte_t entry;
};

static pte_t make_split(void *arg, pte_t old)
{
	struct split *s = arg;

	fill_child(s->child, old, s->level);
	return s->entry;
}

void pt_split_leaf(struct pt_space *space, struct pt_slot slot, u64 va, struct pt_pool *pool)
{
	struct page *child = pool_take(pool, slot.level - 1u, va);
	struct split split = { child, slot.level, pte_table(page_to_phys(child), space->flags & PT_SPACE_USER) };
	struct pt_stats *stats = pt_stats_of(space, va);

	assert_held(&space->lock);
	/* A change of the leaf may still be in flight: who looks at a piece of it has as long to wait. */
	child->gen = pt_page_of_slot(slot.pte)->gen;
	if (leaf_is_volatile(space) && bbm_wanted(slot.value)) {
		publish_broken(slot, split.entry, child);
	} else if (leaf_is_volatile(space)) {
		replace_volatile(slot.pte, slot.value, slot.level, make_split, &split);
	} else {
		fill_child(child, slot.value, slot.level);
		pt_publish(slot, split.entry, slot.value);
	}
	counter_add(&stats->leaves[slot.level], -1);
	counter_add(&stats->leaves[slot.level - 1], PT_ENTRIES);
	counter_add(&stats->splits[slot.level], 1);
	counter_add(&stats->tables, 1);
	trace_event(TRACE_SPLIT, slot.level, va, page_to_phys(child).raw);
}

/* ---- Plan ---- */

/* Marks in struct block are told from those of earlier plans by number; when numbers start over, none may be left. */
static void forget_marks(void)
{
	for (pfn_t pfn = 0; pfn < page_max_pfn; pfn += BIT(BLOCK_ORDER))
		if (pfn_valid(pfn)) {
			pfn_to_block(pfn)->plan_2m = 0;
			pfn_to_block(pfn)->plan_1g = 0;
		}
}

/* Only the space with the direct map leaves marks: its numbers are given out under its lock. */
void pt_plan_begin(struct pt_space *space, struct pt_plan *plan)
{
	if (unlikely(!++space->plan_ids)) {
		if (!range_empty(space->direct))
			forget_marks();
		space->plan_ids = 1;
	}
	plan->id = space->plan_ids;
	plan->tables = 0;
	plan->nr_avoid = 0;
	for (unsigned l = 0; l < ARRAY_SIZE(plan->last); l++)
		plan->last[l] = 1;	/* no table starts at an odd address */
}

/* Count a new table of this level at base, unless this plan has it already. */
static void plan_table(struct pt_space *space, struct pt_plan *plan, unsigned level, u64 base)
{
	if (plan->last[level] == base)
		return;
	plan->last[level] = base;
	if (pt_part_of(space, base) == PT_DIRECT && level < PT_1G) {
		struct block *block = pfn_to_block((base - space->direct.start) >> PAGE_SHIFT);
		u32 *mark = level == PT_4K ? &block->plan_2m : &block->plan_1g;

		if (pfn_valid((base - space->direct.start) >> PAGE_SHIFT)) {
			if (*mark == plan->id)
				return;
			*mark = plan->id;
		}
	}
	plan->tables++;
}

/* Tables that it takes to let [r) of one leaf (or absent entry) of this level change alone. */
static void plan_partial(struct pt_space *space, struct pt_plan *plan, unsigned level, struct range r)
{
	u64 span = pt_span(level);
	u64 base = align_down(r.start, span);

	if (level == PT_4K || (r.start == base && r.end == base + span))
		return;
	plan_table(space, plan, level - 1, base);

	u64 step = pt_span(level - 1);
	u64 first = align_down(r.start, step);
	u64 last = align_down(r.end - 1, step);

	plan_partial(space, plan, level - 1, range(r.start, MIN(r.end, first + step)));
	if (last != first)
		plan_partial(space, plan, level - 1, range(last, r.end));
}

/* The largest level at which [va, end) can begin with a leaf for pa. */
static unsigned leaf_fit(u64 va, u64 end, u64 pa, unsigned max)
{
	unsigned level = max;

	while (level > PT_4K && (!is_aligned(va | pa, pt_span(level)) || end - va < pt_span(level)))
		level--;
	return level;
}

/* Tables that it takes to map [r) at pa where one absent entry of this level stands. */
static void plan_map(struct pt_space *space, struct pt_plan *plan, unsigned level, struct range r, u64 pa, unsigned max)
{
	u64 va = r.start;

	if (level == PT_4K || (level <= max && leaf_fit(va, r.end, pa, max) >= level))
		return;
	plan_table(space, plan, level - 1, align_down(va, pt_span(level)));
	while (va < r.end) {
		u64 next = MIN(pt_next(va, level - 1), r.end);

		plan_map(space, plan, level - 1, range(va, next), pa + (va - r.start), max);
		if (level - 1 == PT_4K)
			break;
		va = next;
	}
}

/* Whether a leaf already is what a PROTECT makes of it. */
static bool protect_is_noop(pte_t leaf, unsigned level, const struct pt_change *c)
{
	u64 attrs = pte_attrs(leaf, level);

	return ((attrs & ~c->clear) | c->set) == attrs;
}

static bool map_is_noop(pte_t leaf, unsigned level, u64 va, const struct pt_change *c)
{
	u64 pa = pte_leaf_pa(leaf, level).raw + (va & (pt_span(level) - 1));
	u64 keep = PTE_AD | PTE_KEEP;

	return pa == c->pa.raw + (va - c->va.start) && ((pte_attrs(leaf, level) ^ c->set) & ~keep) == 0;
}

/* Whether an entry of a 4K table, from va up to end, is present and maps something else. */
static bool map_is_blocked(const pte_t *slot, u64 va, u64 end, const struct pt_change *c)
{
	for (; va < end; va += PAGE_SIZE, slot++) {
		pte_t e = pte_load(slot);

		if (!pte_none(e) && !map_is_noop(e, PT_4K, va, c))
			return true;
	}
	return false;
}

static unsigned map_max_leaf(const struct pt_space *space, const struct pt_change *c)
{
	return c->max_leaf && c->max_leaf < space->max_leaf ? c->max_leaf : space->max_leaf;
}

/*
 * Under break-before-make a 1G leaf of the direct map is about to be split, and then 2M leaves at the ends of [r) out of
 * it. The table in between must not lie in memory that those leaves map: it could not be written while one is absent.
 */
static int plan_avoid(struct pt_space *space, struct pt_plan *plan, struct range r)
{
	u64 block = pt_span(PT_2M);
	u64 ends[] = { align_down(r.start, block), align_down(r.end - 1, block) };

	if (pt_part_of(space, r.start) != PT_DIRECT)
		return 0;
	for (unsigned i = 0; i < ARRAY_SIZE(ends); i++) {
		if (plan->nr_avoid == PT_PLAN_AVOID)
			return -EBUSY;
		plan->avoid[plan->nr_avoid++] = ends[i] - space->direct.start;
	}
	return 0;
}

int pt_plan(struct pt_space *space, const struct pt_change *c, struct pt_plan *plan)
{
	u64 va = c->va.start;

	assert_held(&space->lock);
	while (va < c->va.end) {
		struct pt_slot s = walk(space, va, PT_4K);
		u64 end = MIN(pt_next(va, s.level), c->va.end);
		struct range r = range(va, end);
		int rc = 0;

		if (unlikely(!pte_present(s.value) && !pte_none(s.value)))
			return -EAGAIN;		/* a user table between clear and leaf */
		if (c->op == PT_OP_MAP) {
			if (pte_none(s.value))
				plan_map(space, plan, s.level, r, c->pa.raw + (va - c->va.start), map_max_leaf(space, c));
			else if (!map_is_noop(s.value, s.level, va, c))
				return -EBUSY;
		} else if (s.level > PT_4K && pte_present(s.value) && range_size(r) < pt_span(s.level) &&
			   !(c->op == PT_OP_PROTECT && protect_is_noop(s.value, s.level, c))) {
			rc = pt_publish_possible(s, s.value, va);
			if (!rc && s.level == PT_1G && bbm_wanted(s.value))
				rc = plan_avoid(space, plan, r);
			if (rc)
				return rc;
			plan_partial(space, plan, s.level, r);
		}
		/* A table of 4K entries takes no further table: go on behind it. MAP has to look at each entry. */
		if (s.level == PT_4K) {
			end = MIN(pt_next(va, PT_2M), c->va.end);
			if (c->op == PT_OP_MAP && map_is_blocked(s.pte, va, end, c))
				return -EBUSY;
		}
		va = end;
	}
	return 0;
}

/* ---- Apply ---- */

/* What one change has done so far. */
struct apply {
	struct pt_space *space;
	const struct pt_change *change;
	struct pt_pool *pool;
	u64 gen;		/* that the change will have */
	struct range stored;	/* first to last address whose leaf was changed and may be cached */
	unsigned shift;		/* log2 of the smallest of these leaves */
	u64 wait;		/* latest change of a table in which there was nothing to do */
};

static void note_stored(struct apply *a, struct page *table, u64 va, u64 end, unsigned level)
{
	if (range_empty(a->stored))
		a->stored.start = va;
	a->stored.end = end;
	a->shift = MIN(a->shift, pt_shift(level));
	table->gen = a->gen;
}

static pte_t make_rights(void *arg, pte_t old)
{
	const pte_t *masks = arg;	/* clear, set */

	return (pte_t){ (old.raw & ~masks[0].raw) | masks[1].raw };
}

/* PROTECT entries [i, i + n) of a table, up to the first that is a table itself. Returns how many. */
static unsigned protect_run(struct apply *a, pte_t *table, unsigned level, unsigned i, unsigned n, u64 va)
{
	struct page *page = virt_to_page(table);
	pte_t masks[2] = { { pte_mask_at(a->change->clear, level) }, { pte_mask_at(a->change->set, level) } };
	u64 before = page->gen;
	bool idle = false;
	unsigned k;

	for (k = 0; k < n; k++) {
		pte_t e = pte_load(table + i + k);
		pte_t new = make_rights(masks, e);
		u64 at = va + k * pt_span(level);

		if (!pte_is_leaf(e, level)) {
			if (pte_present(e))
				break;
			idle = true;	/* it may have become absent a moment ago, and be cached still */
			continue;
		}
		if (pte_same(e, new)) {
			idle = true;
			continue;
		}
		if (leaf_is_volatile(a->space))
			replace_volatile(table + i + k, e, level, make_rights, masks);
		else
			store_one(page, table + i + k, level, e, new);
		note_stored(a, page, at, at + pt_span(level), level);
	}
	if (idle)
		a->wait = MAX(a->wait, before);
	if (page->gen == a->gen)
		pt_note_change(a->space, page);
	return k;
}

/* UNMAP entries [i, i + n) of a table, up to the first that is a table itself. Returns how many. */
static unsigned unmap_run(struct apply *a, pte_t *table, unsigned level, unsigned i, unsigned n, u64 va)
{
	struct page *page = virt_to_page(table);
	unsigned leaves = 0;
	unsigned k;

	for (k = 0; k < n; k++) {
		pte_t e = pte_load(table + i + k);

		if (pte_is_table(e, level))
			break;
		leaves += pte_present(e);
	}
	if (leaves) {
		pt_store_run(table, level, i, k, (pte_t){ 0 }, 0);
		note_stored(a, page, va, va + k * pt_span(level), level);
		counter_add(&pt_stats_of(a->space, va)->leaves[level], -(u64)leaves);
		pt_note_change(a->space, page);
	} else {
		a->wait = MAX(a->wait, page->gen);
	}
	return k;
}

/* Hang an empty table into an absent slot. */
static void hang_table(struct apply *a, struct pt_slot slot, u64 va)
{
	struct page *child = pool_take(a->pool, slot.level - 1u, va);
	pte_t *table = (pte_t *)align_down((u64)slot.pte, PAGE_SIZE);
	bool user = a->space->flags & PT_SPACE_USER;

	memset(page_to_virt(child), 0, PAGE_SIZE);
	child->gen = virt_to_page(table)->gen;	/* what was unmapped here may still be in flight */
	counter_add(&pt_stats_of(a->space, va)->tables, 1);
	pt_store_run(table, slot.level, pt_index(va, slot.level), 1, pte_table(page_to_phys(child), user), 0);
}

/*
 * MAP from va on, where an absent entry stands: hang tables until a leaf fits, and fill the run of absent
 * entries. That alone needs no flush: what is absent is not cached (SDM 3A 4.10.2.3). Returns the next address.
 */
static u64 map_run(struct apply *a, struct pt_slot slot, u64 va)
{
	const struct pt_change *c = a->change;
	u64 pa = c->pa.raw + (va - c->va.start);
	unsigned fit = leaf_fit(va, c->va.end, pa, map_max_leaf(a->space, c));

	while (slot.level > fit) {
		hang_table(a, slot, va);
		slot = walk(a->space, va, slot.level - 1u);
	}
	pte_t *table = (pte_t *)align_down((u64)slot.pte, PAGE_SIZE);
	unsigned i = pt_index(va, slot.level);
	u64 n = MIN(PT_ENTRIES - i, (c->va.end - va) >> pt_shift(slot.level));
	u64 run = 1;

	while (run < n && pte_none(pte_load(table + i + run)))
		run++;
	/* What stood here before may be in flight: whoever maps must not come back while a CPU still uses it. */
	a->wait = MAX(a->wait, virt_to_page(table)->gen);
	pt_store_run(table, slot.level, i, (unsigned)run, pte_leaf(phys(pa), c->set, slot.level), pt_span(slot.level));
	counter_add(&pt_stats_of(a->space, va)->leaves[slot.level], run);
	pt_note_change(a->space, virt_to_page(table));
	return va + (run << pt_shift(slot.level));
}

/* Handle what the slot at va decides about. Returns the next address. */
static u64 apply_step(struct apply *a, struct pt_slot s, u64 va)
{
	const struct pt_change *c = a->change;
	u64 span = pt_span(s.level);
	u64 base = align_down(va, span);
	bool whole = va == base && c->va.end - base >= span;

	if (c->op == PT_OP_MAP) {
		if (pte_none(s.value))
			return map_run(a, s, va);
		/* Planned: what is present maps the same. Go on behind the present entries of this table. */
		do {
			va = pt_next(va, s.level);
			s.pte++;
		} while (va < c->va.end && !is_aligned((u64)s.pte, PAGE_SIZE) && pte_is_leaf(pte_load(s.pte), s.level));
		return va;
	}
	if (!pte_present(s.value) && (s.level > PT_4K || !whole)) {
		a->wait = MAX(a->wait, pt_page_of_slot(s.pte)->gen);
		return pt_next(va, s.level);
	}
	if (!whole) {
		if (c->op == PT_OP_PROTECT && protect_is_noop(s.value, s.level, c)) {
			a->wait = MAX(a->wait, pt_page_of_slot(s.pte)->gen);
			return pt_next(va, s.level);
		}
		pt_split_leaf(a->space, s, va, a->pool);
		return va;			/* walk again, one level lower */
	}
	pte_t *table = (pte_t *)align_down((u64)s.pte, PAGE_SIZE);
	unsigned i = pt_index(va, s.level);
	u64 n = MIN(PT_ENTRIES - i, (c->va.end - va) >> pt_shift(s.level));
	unsigned done = c->op == PT_OP_PROTECT ? protect_run(a, table, s.level, i, (unsigned)n, va)
					       : unmap_run(a, table, s.level, i, (unsigned)n, va);

	return va + done * span;
}

static inline struct apply apply_begin(struct pt_space *space, const struct pt_change *c, struct pt_pool *pool)
{
	return (struct apply){
		.space = space, .change = c, .pool = pool, .gen = space->gen + 1, .shift = pt_shift(PT_512G),
	};
}

static inline void apply_end(const struct apply *a, struct tlb_batch *batch)
{
	if (!range_empty(a->stored))
		tlb_batch_add(batch, a->stored, a->shift);
	if (a->wait)
		tlb_batch_wait(batch, a->wait);
}

void pt_apply(struct pt_space *space, const struct pt_change *c, struct pt_pool *pool, struct tlb_batch *batch)
{
	struct apply a = apply_begin(space, c, pool);
	u64 va = c->va.start;

	assert_held(&space->lock);
	while (va < c->va.end)
		va = apply_step(&a, walk(space, va, PT_4K), va);
	apply_end(&a, batch);
}

/*
 * A change of rights that lies in one table of 4K entries: there is nothing to split, so nothing to plan, and one
 * walk is enough. Space locked. False: it is not of this kind. This is the path of a page that is given back.
 */
static bool protect_in_one_table(struct pt_space *space, const struct pt_change *c, struct tlb_batch *batch)
{
	struct pt_slot s = walk(space, c->va.start, PT_4K);
	u64 nr = range_size(c->va) >> PAGE_SHIFT, idle = 0;
	pte_t *slot = s.pte;
	struct page *page;

	if (s.level != PT_4K || leaf_is_volatile(space))
		return false;
	page = pt_page_of_slot(slot);
	do {
		pte_t e = pte_load(slot);
		pte_t new = { (e.raw & ~c->clear) | c->set };

		if (pte_same(e, new) || !pte_present(e))
			idle++;
		else
			store_one(page, slot, PT_4K, e, new);
	} while (++slot < s.pte + nr);
	if (idle)
		tlb_batch_wait(batch, page->gen);
	if (idle < nr) {
		page->gen = tlb_batch_add(batch, c->va, PAGE_SHIFT);
		pt_note_change(space, page);
	}
	return true;
}

/* ---- The whole protocol ---- */

static inline bool range_ok(const struct pt_space *space, struct range va)
{
	return is_aligned(va.start | va.end, PAGE_SIZE) && !range_empty(va) && range_covers(space->half, va);
}

/* A plan has to wait for changes in flight, perhaps this batch's own: bring every CPU up to date. */
static void flush_before_retry(struct pt_space *space, struct tlb_batch *batch)
{
	spin_lock(&space->lock);
	tlb_batch_wait(batch, space->gen);
	spin_unlock(&space->lock);
	tlb_batch_finish(batch);
	arch_relax();
}

/* What a CPU that was given up has begun, a user table between clear and leaf, it never ends. Others need no such time. */
#define LOST_RETRIES 1000u

int pt_run(struct pt_space *space, const struct pt_protocol *protocol, void *arg, struct tlb_batch *batch)
{
	struct pt_pool pool = PT_POOL_INIT;
	struct pt_plan plan;
	unsigned retries = 0;
	int rc;

	for (;;) {
		spin_lock(&space->lock);
		pt_plan_begin(space, &plan);
		rc = protocol->plan(arg, &plan);
		if (likely(!rc && pool_serves(&pool, &plan))) {
			protocol->apply(arg, &pool, batch);
			spin_unlock(&space->lock);
			break;
		}
		spin_unlock(&space->lock);
		if (!rc)
			rc = pt_pool_reserve(&pool, plan.tables, &plan);
		if (rc && rc != -EAGAIN)
			break;
		if (rc)
			flush_before_retry(space, batch);
		/* A CPU that never answers never forgets what this waits for. */
		if (unlikely(rc && (batch->dead || (++retries > LOST_RETRIES && tlb_lost(space))))) {
			rc = -EIO;
			break;
		}
	}
	if (unlikely(pool.nr))
		pt_pool_release(&pool);
	return rc;
}

/* The protocol for one change. */
struct one_change {
	struct pt_space *space;
	const struct pt_change *change;
};

static int one_plan(void *arg, struct pt_plan *plan)
{
	const struct one_change *one = arg;

	return pt_plan(one->space, one->change, plan);
}

static void one_apply(void *arg, struct pt_pool *pool, struct tlb_batch *batch)
{
	const struct one_change *one = arg;

	pt_apply(one->space, one->change, pool, batch);
}

int pt_change(struct pt_space *space, const struct pt_change *c, struct tlb_batch *batch)
{
	static const struct pt_protocol protocol = { one_plan, one_apply };
	struct one_change one = { space, c };
	bool done;

	if (unlikely(!range_ok(space, c->va)))
		return -EINVAL;
	if (c->op == PT_OP_MAP && (!is_aligned(c->pa.raw, PAGE_SIZE) || !(c->set & PTE_P)))
		return -EINVAL;
	if (c->op == PT_OP_PROTECT && !((c->va.start ^ (c->va.end - 1)) >> pt_shift(PT_2M))) {
		spin_lock(&space->lock);
		done = protect_in_one_table(space, c, batch);
		spin_unlock(&space->lock);
		if (done)
			return 0;
	}
	return pt_run(space, &protocol, &one, batch);
}

/* Tables to split every leaf above `level` in the range. */
static int plan_split(struct pt_space *space, struct range va, unsigned level, struct pt_plan *plan)
{
	for (u64 at = va.start; at < va.end;) {
		struct pt_slot s = walk(space, at, level);
		u64 end = MIN(pt_next(at, s.level), va.end);

		if (s.level > level && pte_is_leaf(s.value, s.level)) {
			int rc = pt_publish_possible(s, s.value, at);

			if (rc)
				return rc;
			plan->tables++;
			/* A 1G leaf down to 4K: a table for each 2M block the range meets, besides. */
			for (u64 b = at; !rc && s.level > level + 1 && bbm_wanted(s.value) && b < end; b = pt_next(b, PT_2M))
				rc = plan_avoid(space, plan, range(b, MIN(pt_next(b, PT_2M), end)));
			if (rc)
				return rc;
			if (s.level > level + 1)
				plan->tables += (align_up(end, pt_span(PT_2M)) - align_down(at, pt_span(PT_2M))) >>
						pt_shift(PT_2M);
		}
		at = end;
	}
	return 0;
}

int pt_split_range(struct pt_space *space, struct range va, unsigned level, struct tlb_batch *batch)
{
	struct pt_pool pool = PT_POOL_INIT;
	struct pt_plan plan;
	int rc;

	if (!range_ok(space, va) || level < PT_4K || level > PT_1G)
		return -EINVAL;
	(void)batch;			/* a split changes no right: there is nothing to flush */
	for (;;) {
		spin_lock(&space->lock);
		pt_plan_begin(space, &plan);
		rc = plan_split(space, va, level, &plan);
		if (!rc && pool_serves(&pool, &plan))
			break;
		spin_unlock(&space->lock);
		if (!rc)
			rc = pt_pool_reserve(&pool, plan.tables, &plan);
		if (rc) {
			pt_pool_release(&pool);
			return rc;
		}
	}
	for (u64 at = va.start; at < va.end;) {
		struct pt_slot s = walk(space, at, level);

		if (s.level > level && pte_is_leaf(s.value, s.level)) {
			pt_split_leaf(space, s, at, &pool);
			pt_note_change(space, virt_to_page(pt_table(pte_table_pa(pte_load(s.pte)))));
			continue;
		}
		at = pt_next(at, s.level);
	}
	spin_unlock(&space->lock);
	pt_pool_release(&pool);
	return 0;
}
