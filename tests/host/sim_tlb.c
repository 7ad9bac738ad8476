/* SPDX-License-Identifier: MIT */
/*
 * The caches of the virtual CPUs: see sim_tlb.h.
 *
 * Invariants: a leaf is kept under the address and level it was walked at, in the hash chain of both; the
 * same leaf is not kept twice; ctx is the root it was walked from, or 0 for a global leaf. Nothing here calls
 * mm/.
 */
#include "tests/host/sim_tlb.h"

#include <stdio.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "arch/x86_64/pte.h"
#include "kernel/base/panic.h"
#include "mm/buddy.h"
#include "mm/page.h"
#include "mm/pgtable.h"
#include "tests/host/arch_host.h"

#define BUCKETS 1024u
#define NONE UINT32_MAX
#define RECENT 64u
#define CHANGES 256u
/* What decides about an access, in a leaf: KEEP is a note of the software, A and D are compared apart. */
#define LEAF_COMPARED (PTE_ATTRS & ~(PTE_KEEP | PTE_AD))

struct leaf {
	u64 va, pa, ctx;
	u64 attrs;	/* normal form; W, U and NX are those of the whole walk */
	u32 next;	/* in the chain, or in the list of free ones */
	u8 level;	/* 0: free */
};

/* An entry that points to a table: the table's level is that of its entries. */
struct cached_table {
	u64 va, pa, ctx;
	u64 rights;	/* W, U, NX down to here */
	u8 level;
};

struct cache {
	u32 lock;	/* while CPUs are threads: a walk and what it adds are one step, and so is a flush */
	struct leaf *leaves;
	u32 nr_leaves, max_leaves, free;
	u64 used;
	u32 bucket[BUCKETS];
	struct cached_table *tables;
	u32 nr_tables, max_tables;
};

static struct cache caches[HOST_CPUS_MAX];
static struct recent {
	u64 va[RECENT];
	u32 nr;
} recents[1 + HOST_CPUS_MAX];	/* of all CPUs while they take turns; of each while they are threads */
static struct range changes[CHANGES];
static u32 nr_changes;
static bool changes_lost;

static u64 random_below(u64 n)
{
	return rng_below(host_rng(), n);
}

/*
 * This file is not seen by ThreadSanitizer, so its locks order nothing in the eyes of it. With a cache locked no interrupt is
 * taken and nothing waits but for another cache's lock, which is never held together with one.
 */
static struct cache *lock_cache(u32 cpu)
{
	struct cache *c = &caches[cpu];

	while (host.threads && __atomic_exchange_n(&c->lock, 1, __ATOMIC_ACQUIRE))
		sched_yield();
	return c;
}

static void unlock_cache(struct cache *c)
{
	__atomic_store_n(&c->lock, 0, __ATOMIC_RELEASE);
}

static u64 *table_at(u64 pa)
{
	return (u64 *)(HOST_ARENA + pa);
}

static u64 va_base(u64 va, unsigned level)
{
	return align_down(va, pt_span(level));
}

static u32 hash(u64 base, unsigned level)
{
	u64 h = ((base >> 12) + level) * 0x9E3779B97F4A7C15ull;

	return (u32)(h >> 32) % BUCKETS;
}

static void forget_all(struct cache *c)
{
	c->nr_leaves = 0;
	c->used = 0;
	c->free = NONE;
	c->nr_tables = 0;
	memset(c->bucket, 0xff, sizeof(c->bucket));
}

void sim_reset(u32 nr_cpus)
{
	assert(nr_cpus <= HOST_CPUS_MAX);
	for (u32 i = 0; i < HOST_CPUS_MAX; i++)
		forget_all(&caches[i]);
	memset(recents, 0, sizeof(recents));
	nr_changes = 0;
	changes_lost = false;
}

/* ---- Leaves ---- */

static void add_leaf(struct cache *c, const struct leaf *new)
{
	u32 h = hash(new->va, new->level);
	u32 i;

	for (i = c->bucket[h]; i != NONE; i = c->leaves[i].next) {
		struct leaf *l = &c->leaves[i];

		if (l->va == new->va && l->level == new->level && l->ctx == new->ctx && l->pa == new->pa &&
		    l->attrs == new->attrs)
			return;
	}
	i = c->free;
	if (i != NONE) {
		c->free = c->leaves[i].next;
	} else {
		if (c->nr_leaves == c->max_leaves) {
			c->max_leaves = c->max_leaves ? 2 * c->max_leaves : 256;
			c->leaves = realloc(c->leaves, c->max_leaves * sizeof(*c->leaves));
			assert(c->leaves);
		}
		i = c->nr_leaves++;
	}
	c->leaves[i] = *new;
	c->leaves[i].next = c->bucket[h];
	c->bucket[h] = i;
	c->used++;
}

static void drop_leaf(struct cache *c, u32 *link)
{
	u32 i = *link;

	*link = c->leaves[i].next;
	c->leaves[i].level = 0;
	c->leaves[i].next = c->free;
	c->free = i;
	c->used--;
}

/* Drop the leaves that translate va: those of a context, and global ones if asked. */
static void drop_leaves_at(struct cache *c, u64 va, u64 ctx)
{
	for (unsigned level = PT_4K; level <= PT_1G; level++) {
		u64 base = va_base(va, level);
		u32 *link = &c->bucket[hash(base, level)];

		while (*link != NONE) {
			struct leaf *l = &c->leaves[*link];

			if (l->va == base && l->level == level && (!l->ctx || l->ctx == ctx))
				drop_leaf(c, link);
			else
				link = &l->next;
		}
	}
}

/* ---- Table entries ---- */

static void add_table(struct cache *c, const struct cached_table *new)
{
	for (u32 i = 0; i < c->nr_tables; i++)
		if (!memcmp(&c->tables[i], new, sizeof(*new)))
			return;
	if (c->nr_tables == c->max_tables) {
		c->max_tables = c->max_tables ? 2 * c->max_tables : 64;
		c->tables = realloc(c->tables, c->max_tables * sizeof(*c->tables));
		assert(c->tables);
	}
	c->tables[c->nr_tables++] = *new;
}

/* Whether the frame still is the table that was cached: of this level, for this address. */
static bool table_holds(const struct cached_table *t)
{
	pfn_t pfn = t->pa >> PAGE_SHIFT;
	const struct page *page;

	if (!host_is_ram(t->pa) || !pfn_valid(pfn))
		return false;
	page = pfn_to_page(pfn);
	return page->class == PAGE_TABLE && page->order == t->level && page->va == t->va;
}

/* ---- Walks ---- */

/* What the CPU does with an entry: read it, and set A, and D in a leaf that is written by, unless it changes meanwhile. */
static pte_t read_and_mark(u64 *slot, unsigned level, u64 rights, bool dirty)
{
	u64 e = __atomic_load_n(slot, __ATOMIC_ACQUIRE), marked;

	do {
		marked = e;
		if (!pte_present((pte_t){ e }))
			break;
		marked |= PTE_A;
		if (pte_is_leaf((pte_t){ e }, level) && dirty && rights & e & PTE_W)
			marked |= PTE_D;
	} while (marked != e &&
		 !__atomic_compare_exchange_n(slot, &e, marked, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
	return (pte_t){ marked };
}

/* The answer of a walk: a leaf, or level 0 for none. */
static struct leaf walk_from(struct cache *c, u64 va, u64 ctx, u64 table, unsigned level, u64 rights, bool keep,
			     bool dirty)
{
	struct leaf none = { 0 };

	for (;;) {
		struct cached_table t;
		u64 *slot;
		pte_t e;

		if (!host_is_ram(table))
			return none;
		slot = table_at(table) + pt_index(va, level);
		e = keep ? read_and_mark(slot, level, rights, dirty) : (pte_t){ __atomic_load_n(slot, __ATOMIC_ACQUIRE) };
		if (!pte_present(e))
			return none;
		rights = (rights & e.raw & (PTE_W | PTE_U)) | ((rights | e.raw) & PTE_NX);
		if (pte_is_leaf(e, level)) {
			struct leaf l = { va_base(va, level), pte_leaf_pa(e, level).raw, ctx, 0, 0, (u8)level };

			l.attrs = (pte_attrs(e, level) & ~(PTE_W | PTE_U | PTE_NX | PTE_KEEP)) | rights;
			if (l.attrs & PTE_G)
				l.ctx = 0;
			if (keep)
				add_leaf(c, &l);
			return l;
		}
		table = pte_table_pa(e).raw;
		level--;
		if (!keep)
			continue;
		memset(&t, 0, sizeof(t));
		t.va = va_base(va, level + 1);
		t.pa = table;
		t.ctx = ctx;
		t.rights = rights;
		t.level = (u8)level;
		add_table(c, &t);
	}
}

#define RIGHTS_ALL (PTE_W | PTE_U)

static struct leaf walk_fresh(u64 root, u64 va)
{
	return walk_from(NULL, va, root, root, arch_mm.levels, RIGHTS_ALL, false, false);
}

/* A walk of the CPU: from the root, or from a cached table entry. */
static struct leaf walk_cpu(u32 cpu, u64 va, bool dirty)
{
	struct cache *c = &caches[cpu];
	u64 root = host_root(cpu);
	const struct cached_table *from = NULL;
	u32 seen = 0;

	for (u32 i = 0; i < c->nr_tables; i++) {
		struct cached_table *t = &c->tables[i];

		if (t->ctx == root && t->va == va_base(va, t->level + 1u) && random_below(++seen + 1))
			from = t;
	}
	if (!from)
		return walk_from(c, va, root, root, arch_mm.levels, RIGHTS_ALL, true, dirty);
	if (!table_holds(from)) {
		host_fault(HOST_EARLY_REUSE,
			   "CPU %u walks %#llx by a cached entry for table %#llx, which is no more", cpu,
			   (unsigned long long)va, (unsigned long long)from->pa);
		return (struct leaf){ 0 };
	}
	return walk_from(c, va, root, from->pa, from->level, from->rights, true, dirty);
}

static bool allows(u64 attrs, unsigned kind)
{
	unsigned access = kind & ~(unsigned)SIM_USER;

	if (kind & SIM_USER && !(attrs & PTE_U))
		return false;
	if (access == SIM_WRITE)
		return attrs & PTE_W;
	return access == SIM_READ || !(attrs & PTE_NX);
}

static struct sim_result result_of(const struct leaf *l, u64 va, unsigned kind)
{
	if (!l->level)
		return (struct sim_result){ SIM_ABSENT, 0 };
	if (!allows(l->attrs, kind))
		return (struct sim_result){ SIM_RIGHTS, 0 };
	return (struct sim_result){ SIM_OK, l->pa + (va - l->va) };
}

/* One of the cached leaves that translate va, each as likely; false: none. */
static bool find_leaf(u32 cpu, u64 va, struct leaf *out)
{
	struct cache *c = &caches[cpu];
	u64 root = host_root(cpu);
	u32 seen = 0;

	for (unsigned level = PT_4K; level <= PT_1G; level++) {
		u64 base = va_base(va, level);

		for (u32 i = c->bucket[hash(base, level)]; i != NONE; i = c->leaves[i].next) {
			struct leaf *l = &c->leaves[i];

			if (l->va == base && l->level == level && (!l->ctx || l->ctx == root) &&
			    !random_below(++seen))
				*out = *l;
		}
	}
	return seen;
}

struct sim_result sim_access(u32 cpu, u64 va, unsigned kind)
{
	bool write = (kind & ~(unsigned)SIM_USER) == SIM_WRITE;
	struct cache *c = lock_cache(cpu);
	struct leaf l;

	/* A write through a leaf that is clean walks again, to set D in the tables. */
	if (!find_leaf(cpu, va, &l) || !allows(l.attrs, kind) || (write && !(l.attrs & PTE_D))) {
		drop_leaves_at(c, va, host_root(cpu));
		l = walk_cpu(cpu, va, write);
	}
	unlock_cache(c);
	return result_of(&l, va, kind);
}

struct sim_result sim_expect(u32 cpu, u64 va, unsigned kind)
{
	struct leaf l = walk_fresh(host_root(cpu), va);

	return result_of(&l, va, kind);
}

void sim_prime(u32 cpu, struct range va, u64 step)
{
	for (u64 at = va.start; at < va.end; at += step)
		sim_access(cpu, at, SIM_READ);
}

/* ---- Invalidation ---- */

void sim_flush_page(u32 cpu, u64 va)
{
	struct cache *c = lock_cache(cpu);
	u64 root = host_root(cpu);
	u32 kept = 0;

	drop_leaves_at(c, va, root);
	for (u32 i = 0; i < c->nr_tables; i++)
		if (c->tables[i].ctx != root)
			c->tables[kept++] = c->tables[i];
	c->nr_tables = kept;
	unlock_cache(c);
}

void sim_flush_all(u32 cpu)
{
	struct cache *c = lock_cache(cpu);

	forget_all(c);
	unlock_cache(c);
}

void sim_load_root(u32 cpu, u64 old_root)
{
	struct cache *c = lock_cache(cpu);

	for (u32 b = 0; b < BUCKETS; b++) {
		u32 *link = &c->bucket[b];

		while (*link != NONE) {
			if (c->leaves[*link].ctx == old_root)
				drop_leaf(c, link);
			else
				link = &c->leaves[*link].next;
		}
	}
	c->nr_tables = 0;
	unlock_cache(c);
}

/* ---- Speculation ---- */

void sim_speculate(u64 va)
{
	struct recent *recent = &recents[host.threads ? 1 + host_cpu() : 0];
	struct cache *c;
	u32 cpu;

	if (va) {
		recent->va[recent->nr++ % RECENT] = va;
		if (random_below(4))
			return;
	} else {
		if (!recent->nr)
			return;
	}
	if (!va || !random_below(4))
		va = recent->va[random_below(MIN(recent->nr, RECENT))];
	if (!random_below(2))
		va = (va ^ (random_below(PT_ENTRIES) << PAGE_SHIFT)) & ~(PAGE_SIZE - 1);
	/* A thread fills for itself: what it walks through cannot be freed before it has answered. */
	cpu = host.threads ? host_cpu() : (u32)random_below(host.nr_cpus);
	if (!host_root(cpu) || !cpumask_has(&host.online, cpu))
		return;
	c = lock_cache(cpu);
	walk_cpu(cpu, va, false);
	unlock_cache(c);
}

/* ---- Checks ---- */

/* The first frame of the aligned block of an order around a frame; NULL: it has no struct page. */
static const struct page *block_head(pfn_t pfn, unsigned order)
{
	pfn_t head = pfn & ~(BIT(order) - 1);

	return pfn_valid(head) ? pfn_to_page(head) : NULL;
}

/*
 * Whether the page allocator has a frame: the first frame of its block tells, of whatever order that is.
 * Frames inside a block may show what they were before, so an allocation around the frame decides before
 * anything free is believed.
 */
static bool frame_is_free(pfn_t pfn)
{
	const struct page *page;

	if (pfn_to_page(pfn)->class == PAGE_TABLE)
		return false;
	for (unsigned order = 0; order <= ORDER_MAX && (page = block_head(pfn, order)); order++)
		if (page->flags & PAGE_HEAD && page->order >= order && (!order || page->class != PAGE_TABLE))
			return false;
	for (unsigned order = 0; order <= ORDER_MAX && (page = block_head(pfn, order)); order++)
		if (page->class == PAGE_FREE && page->flags & (PAGE_BUDDY | PAGE_CACHED) &&
		    page->order >= order)
			return true;
	return false;
}

static void check_reuse(u32 cpu)
{
	const struct cache *c = &caches[cpu];

	for (u32 i = 0; i < c->nr_tables; i++)
		if (!table_holds(&c->tables[i]))
			host_fault(HOST_EARLY_REUSE,
				   "CPU %u holds an entry for table %#llx (level %u, va %#llx), freed", cpu,
				   (unsigned long long)c->tables[i].pa, c->tables[i].level,
				   (unsigned long long)c->tables[i].va);
	for (u32 i = 0; i < c->nr_leaves; i++) {
		const struct leaf *l = &c->leaves[i];
		pfn_t pfn = l->pa >> PAGE_SHIFT;

		if (!l->level || range_has(kernel_space.direct, l->va) || !pfn_valid(pfn))
			continue;
		if (frame_is_free(pfn))
			host_fault(HOST_EARLY_REUSE, "CPU %u translates %#llx to frame %#llx, freed", cpu,
				   (unsigned long long)l->va, (unsigned long long)pfn);
	}
}

void sim_check_reuse(u32 cpu)
{
	struct cache *c = lock_cache(cpu);

	check_reuse(cpu);
	unlock_cache(c);
}

void sim_note_change(struct range va)
{
	if (host.threads) {
		changes_lost = true;
		return;
	}
	struct range *last = nr_changes ? &changes[nr_changes - 1] : NULL;

	if (last && va.start >= last->start && va.start <= last->end) {
		last->end = MAX(last->end, va.end);
		return;
	}
	if (nr_changes == CHANGES) {
		changes_lost = true;
		return;
	}
	changes[nr_changes++] = va;
}

/*
 * Whether the CPU promised not to use its user half, and so may be behind, or is about to catch up. Asked with its cache locked: it does
 * not come to the end of that meanwhile.
 */
static bool is_lazy(u32 cpu, u64 va)
{
	if (va >> 63)
		return false;
	for (struct pt_space *s = pt_space_next(NULL); s; s = pt_space_next(s))
		if (s->root.raw == host_root(cpu))
			return cpumask_has(&s->lazy, cpu) || cpumask_has(&host.coming, cpu);
	return false;
}

/* Whether a cached leaf says, page for page, what the tables say of the addresses in r. */
static bool leaf_holds_in(u32 cpu, const struct leaf *l, struct range r)
{
	r = range_intersect(range_len(l->va, pt_span(l->level)), r);
	for (u64 va = r.start; va < r.end;) {
		struct leaf now = walk_fresh(host_root(cpu), va);

		if (!now.level || ((now.attrs ^ l->attrs) & LEAF_COMPARED))
			return false;
		if (now.pa + (va - now.va) != l->pa + (va - l->va))
			return false;
		if (l->attrs & ~now.attrs & PTE_D)	/* cleared behind the CPU's back */
			return false;
		va = pt_next(va, now.level);
	}
	return true;
}

static bool leaf_holds(u32 cpu, const struct leaf *l)
{
	return leaf_holds_in(cpu, l, range_len(l->va, pt_span(l->level)));
}

static unsigned check_leaf(u32 cpu, const struct leaf *l)
{
	struct leaf now;

	if (is_lazy(cpu, l->va) || leaf_holds(cpu, l))
		return 0;
	now = walk_fresh(host_root(cpu), l->va);
	host_fault(HOST_STALE,
		   "CPU %u has %#llx -> %#llx attrs %#llx level %u; tables: %#llx attrs %#llx level %u", cpu,
		   (unsigned long long)l->va, (unsigned long long)l->pa, (unsigned long long)l->attrs,
		   l->level, (unsigned long long)now.pa, (unsigned long long)now.attrs, now.level);
	return 1;
}

static bool overlaps_change(const struct leaf *l)
{
	struct range r = range_len(l->va, pt_span(l->level));

	for (u32 i = 0; i < nr_changes; i++)
		if (range_overlaps(changes[i], r))
			return true;
	return false;
}

unsigned sim_check(bool changed)
{
	unsigned stale = 0;

	if (changes_lost)
		changed = false;
	for_each_cpu(cpu, &host.online) {
		struct cache *c = &caches[cpu];

		check_reuse(cpu);
		for (u32 i = 0; i < c->nr_leaves; i++)
			if (c->leaves[i].level && (!changed || overlaps_change(&c->leaves[i])))
				stale += check_leaf(cpu, &c->leaves[i]);
	}
	nr_changes = 0;
	changes_lost = false;
	return stale;
}

unsigned sim_probe(u64 va)
{
	static const unsigned kinds[] = { SIM_READ, SIM_WRITE, SIM_EXEC };
	unsigned wrong = 0;

	for_each_cpu(cpu, &host.online) {
		for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
			struct sim_result want = sim_expect(cpu, va, kinds[k]);
			struct sim_result got = sim_access(cpu, va, kinds[k]);

			if (got.fault == want.fault && got.pa == want.pa)
				continue;
			wrong++;
			host_fault(HOST_STALE,
				   "CPU %u, access %u to %#llx: got %u %#llx, tables say %u %#llx", cpu,
				   kinds[k], (unsigned long long)va, got.fault, (unsigned long long)got.pa,
				   want.fault, (unsigned long long)want.pa);
		}
	}
	return wrong;
}

u64 sim_entries(u32 cpu)
{
	return caches[cpu].used;
}

unsigned sim_stale_in(struct range va)
{
	unsigned stale = 0;

	for_each_cpu(cpu, &host.online) {
		struct cache *c = lock_cache(cpu);

		for (u32 i = 0; i < c->nr_leaves; i++) {
			const struct leaf *l = &c->leaves[i];

			if (l->level && range_overlaps(range_len(l->va, pt_span(l->level)), va) &&
			    !is_lazy(cpu, l->va))
				stale += !leaf_holds_in(cpu, l, va);
		}
		unlock_cache(c);
	}
	return stale;
}

unsigned sim_check_range(struct range va)
{
	unsigned stale = sim_stale_in(va);

	if (stale)
		host_fault(HOST_STALE, "CPU %u: %u translations of [%#llx, %#llx) differ from the tables", host_cpu(), stale,
			   (unsigned long long)va.start, (unsigned long long)va.end);
	return stale;
}

bool sim_holds(struct range va)
{
	bool found = false;

	for_each_cpu(cpu, &host.online) {
		struct cache *c = lock_cache(cpu);

		for (u32 i = 0; i < c->nr_leaves && !found; i++) {
			const struct leaf *l = &c->leaves[i];

			found = l->level && range_overlaps(range_len(l->va, pt_span(l->level)), va);
		}
		unlock_cache(c);
	}
	return found;
}
