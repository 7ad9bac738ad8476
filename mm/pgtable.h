/* SPDX-License-Identifier: MIT */
/*
 * Page tables: walk, map, protect, unmap, split, collapse. One code for all levels.
 *
 * This is mechanism. It knows entries, tables, frames and generations; what may be done to which
 * frame is decided above (directmap.h, set_memory.h).
 *
 * Every change is the same protocol (DESIGN: Page tables):
 *
 *   plan how many tables → reserve them → lock → plan again (short? unlock, reserve more, again)
 *   → split where partial, store, count breaks → unlock → flush → lock → collapse what is uniform and
 *   flushed → unlock → flush → free
 *
 * Invariants, checked by pt_check():
 *  - an absent entry is all zero;
 *  - entries that point to tables are permissive: rights are those of the leaf;
 *  - table->breaks is the number of i with entries i and i+1 not one run. Two neighbours are one run
 *    if both are absent, or both are leaves with equal attributes (A and D aside) and the second
 *    maps what lies behind the first. So a table is uniform if breaks == 0 and its first frame is
 *    aligned to what the table spans, or its first entry is absent;
 *  - statistics equal what a walk counts;
 *  - a store changes the size of a page, or its frame, rights or memory type, never both.
 */
#ifndef MM_PGTABLE_H
#define MM_PGTABLE_H

#include "arch/x86_64/pte.h"
#include "kernel/base/range.h"
#include "kernel/base/spinlock.h"
#include "mm/page.h"
#include "mm/tlb_batch.h"

enum pt_collapse_policy {
	PT_COLLAPSE_OFF,	/* never: what Linux does */
	PT_COLLAPSE_DEFERRED,	/* when a table has been uniform for a while: no ping-pong */
	PT_COLLAPSE_EAGER,	/* at once */
};

/* Leaves and events of a part of a space (index by level, PT_4K..PT_1G; 0 is unused). */
struct pt_stats {
	u64 leaves[PT_1G + 1];		/* now */
	u64 splits[PT_1G + 1];		/* of a leaf of this level, ever (level2_splits: [PT_2M]) */
	u64 collapses[PT_1G + 1];	/* into a leaf of this level, ever */
	u64 tables;			/* in use now */
};

/* The parts of a space that are counted apart. */
enum pt_part {
	PT_DIRECT,	/* the direct map */
	PT_OTHER,	/* all else */
	PT_PARTS,
};

/* Tables on a doubly linked list through struct page, flag PAGE_PENDING. A table is on one at most. */
enum pt_list_id {
	PT_LIST_NONE,
	PT_LIST_UNIFORM,
	PT_LIST_EMPTY,
};

struct pt_list {
	u32 head;
	u32 tail;
	u32 nr;
};

#define PT_SPACE_USER 0x1u	/* its leaves may be PTE_U, their A and D are the CPU's */
#define PT_SPACE_SHARED 0x2u	/* its tables are seen by every root: the kernel half */

struct pt_space {
	const char *name;
	phys_t root;
	u8 levels;		/* of the root: 4 or 5 */
	u8 max_leaf;		/* largest leaf to use */
	u8 policy;		/* enum pt_collapse_policy; pt_set_policy() */
	u8 flags;		/* PT_SPACE_* */
	struct range half;	/* addresses that the space is about: the kernel half if shared, else the user half */
	struct range direct;	/* addresses of the direct map in it: tables full of absent entries are kept
				   there, and counted as PT_DIRECT. Empty if there is none */
	spinlock_t lock;	/* guards every table of the space, and what follows */
	u64 gen;		/* of the last change */
	u64 flushed;		/* every CPU is known to have flushed up to here (a lower bound) */
	cpumask_t cpus;		/* may hold translations */
	u32 nr_cpus;		/* how many: 1 and we are in it means nobody need be asked */
	cpumask_t lazy;		/* of these: promised not to use them */
	u64 *cpu_gen;		/* by CPU: flushed up to; TLB_GEN_NONE if it does not use the space */
	struct pt_stats stats[PT_PARTS];
	struct pt_list uniform;	/* tables that one leaf could replace, the oldest first */
	struct pt_list empty;	/* tables with no entry, to be freed (never those of the direct map) */
	u32 plan_ids;		/* plans begun */
	struct pt_space *next;	/* all spaces, for the audit */
};

/* Where a walk ended: the slot, its table's level, and what stood there. */
struct pt_slot {
	pte_t *pte;
	pte_t value;
	u8 level;
};

/* The space of the kernel half: image, direct map, struct page array, areas. */
extern struct pt_space kernel_space;

/*
 * Make *space empty: one root table from the allocator (or `root`, if not 0: a frame of the caller's,
 * whose struct page exists; pt_space_destroy() leaves it to the caller again). cpu_gen has MAX_CPUS words. -ENOMEM. The space is listed for the audit.
 */
int pt_space_init(struct pt_space *space, const char *name, unsigned flags, phys_t root, u64 *cpu_gen) __must_check;

/* Free every table of the space's own (not those of the shared half). No CPU uses it any more. */
void pt_space_destroy(struct pt_space *space);

/* All spaces, for walkers that go through every root: NULL starts, NULL ends. */
struct pt_space *pt_space_next(struct pt_space *space);
/* While held, no space is made or destroyed. Outside of every page-table lock (LOCK_PT_SPACES). Task context. */
void pt_spaces_hold(void);
void pt_spaces_release(void);

/*
 * The slot that decides about va: the leaf, or the absent entry where the walk ended, or the entry of
 * level stop (a table, if there is one below). Space locked, or nobody changes it.
 */
struct pt_slot pt_walk(struct pt_space *space, u64 va, unsigned stop);

/*
 * The same without a lock, from any context: for the fault handler, the audit and the monitor. The
 * answer may be out of date, but each step is checked to be a frame that is a table, so that tables
 * freed meanwhile lead to an absent slot and nowhere else. slot.pte is not to be written through.
 */
struct pt_slot pt_walk_lockless(phys_t root, unsigned levels, u64 va);
/* Down to the entry of level `stop` at most, which may be a table's. */
struct pt_slot pt_walk_lockless_to(phys_t root, unsigned levels, u64 va, unsigned stop);

/* What a change does to a range. */
enum pt_op {
	PT_OP_MAP,	/* absent entries become leaves: consecutive frames from `pa`, attributes `set` */
	PT_OP_UNMAP,	/* leaves become absent. Absent stays absent */
	PT_OP_PROTECT,	/* leaves lose `clear` and get `set`. Absent stays absent */
};

struct pt_change {
	enum pt_op op;
	struct range va;	/* 4 KiB-aligned */
	phys_t pa;		/* MAP */
	u64 set;		/* MAP: all attributes; PROTECT: bits to set. Normal form (pte.h) */
	u64 clear;		/* PROTECT */
	u8 max_leaf;		/* MAP: largest leaf to use, 0: the space's. Also bounded by what fits */
};

struct pt_plan;

/* Tables reserved for a change, so that nothing fails half-way. */
struct pt_pool {
	u32 head;	/* list through struct page */
	u32 nr;
};

#define PT_POOL_INIT { PFN_NONE, 0 }

/*
 * Have at least nr tables in the pool, none of them where `plan` (or NULL) must avoid them: 0, or -ENOMEM (what was got
 * stays in the pool). No lock held.
 */
int pt_pool_reserve(struct pt_pool *pool, u64 nr, const struct pt_plan *plan) __must_check;
/* Give back what is left. No lock held. */
void pt_pool_release(struct pt_pool *pool);

/*
 * A plan: the tables that a set of changes will take, counted once even where several changes meet in
 * one table. begin, then pt_plan() each change, then compare plan.tables with the pool. Space locked.
 */
/* 2M leaves that one request can split out of 1G leaves under break-before-make; more are -EBUSY. */
#define PT_PLAN_AVOID 32u

struct pt_plan {
	u32 id;
	u64 tables;
	u64 avoid[PT_PLAN_AVOID];	/* break-before-make: 2M blocks of memory in which no table of this plan may lie */
	u32 nr_avoid;
	u64 last[PT_256T + 1];	/* by level: base of the table counted last (changes come in ascending order) */
};
void pt_plan_begin(struct pt_space *space, struct pt_plan *plan);

/*
 * Count what one change takes, and check it: MAP over a present leaf that maps something else is
 * -EBUSY (equal: nothing to do). Space locked.
 */
int pt_plan(struct pt_space *space, const struct pt_change *change, struct pt_plan *plan) __must_check;

/* Make the change. It has been planned since the lock was taken, and the pool covers the plan. */
void pt_apply(struct pt_space *space, const struct pt_change *change, struct pt_pool *pool, struct tlb_batch *batch);

/*
 * The whole protocol, for a set of changes that must happen together. plan() is called with the space locked, as often
 * as it takes until enough tables are reserved: it checks everything and calls pt_plan() for each change; whatever it
 * returns ends the protocol, and nothing has changed; but -EAGAIN finishes the batch, so that every CPU is up to date, and
 * plans again (-EIO if a CPU does not answer, and so never will be). apply() is called once, under the same lock: it calls
 * pt_apply() for each change and cannot fail. The caller finishes the batch. Task context, no lock held.
 */
struct pt_protocol {
	int (*plan)(void *arg, struct pt_plan *plan);
	void (*apply)(void *arg, struct pt_pool *pool, struct tlb_batch *batch);
};
int pt_run(struct pt_space *space, const struct pt_protocol *protocol, void *arg, struct tlb_batch *batch) __must_check;

/*
 * One change by the protocol. 0, -ENOMEM, -EBUSY (MAP over something else; break-before-make impossible), -EINVAL
 * (not aligned, not in the space's half, empty). On error nothing has changed.
 */
int pt_change(struct pt_space *space, const struct pt_change *change, struct tlb_batch *batch) __must_check;

/*
 * Split leaves so that [start, end) can change alone, without changing any right (a test hook, the
 * monitor's `split`, and PROTECT's first step). level: split down to leaves of this level at most.
 */
int pt_split_range(struct pt_space *space, struct range va, unsigned level, struct tlb_batch *batch) __must_check;

/*
 * `deferred`: a uniform table is collapsed once the space has seen this many more changes since the table's last one.
 * A give-back that is followed by another take of the same block within that time costs neither a collapse nor
 * a split. The number bounds the tables that wait (16 MiB of them). Measured on the lab's churn row, 2,048 pages out
 * of 4 GiB and 20,000 pairs, splits: 8,624 eager, 8,445 at 64, 7,319 at 512, 4,233 at 2,048, 2,198 at 4,096, 1,377 at 8,192.
 */
#define PT_DEFER_CHANGES 4096u

/*
 * eager, deferred, off. Turned on after `off`, every table is looked at once; pt_settle() then collapses what became
 * uniform meanwhile. Task context, no lock held.
 */
void pt_set_policy(struct pt_space *space, enum pt_collapse_policy policy);

/*
 * Collapse every table that can be collapsed, whatever `deferred` is waiting for (nothing under `off`).
 * Task context, no lock held.
 */
void pt_settle(struct pt_space *space);

/*
 * In a batch that has been flushed: replace tables that are uniform, flushed and due by the policy, and unhook
 * empty ones. Space locked. Returns whether the batch must be flushed again, and then this called again (user
 * leaves take two rounds: clear, flush, then the leaf with the A and D of all). For tlb_batch_finish() only.
 */
bool pt_collapse_pending(struct pt_space *space, struct tlb_batch *batch);

/*
 * Give every top-level slot of a range a table that stays for ever, so that roots made later can share the
 * kernel half by copying entries. Before the second root exists. -ENOMEM.
 */
int pt_fill_top(struct pt_space *space, struct range va) __must_check;

/*
 * The same further down: every address of the range has tables down to `level`, and they stay for as long as the space does.
 * -ENOMEM; -EINVAL: the range is empty, or there is no such table; -EBUSY: a larger leaf maps part of it (what was
 * hung up to there stays).
 */
int pt_fill_tables(struct pt_space *space, struct range va, unsigned level) __must_check;

/* Break-before-make: PT3. -1: as the CPU's errata ask; 0 off; 1 on. */
extern int pt_bbm;
/*
 * Check each store against the rule of PT3, and fill the tables that are freed with PT_POISON: who still walks one faults (debug=on, and
 * in every test that does not measure).
 */
extern bool pt_checks;
/* No entry: absent, but not zero, and no marker of a user table either. */
#define PT_POISON 0x7ab1e0dead7ab1e0ull

/* Leaves that the current mappings of a part would take if every uniform run had the largest leaf. */
u64 pt_fewest_leaves(struct pt_space *space, enum pt_part part);

/* A leaf, as a walker sees it. va, level, entry. Return false to stop. */
typedef bool (*pt_visit_fn)(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective);
/*
 * Every leaf that maps something of [start, end), in order; `effective` has W, U and NX ANDed (ORed for NX) over the levels. Takes
 * the space's lock a gigabyte at a time.
 */
void pt_for_each_leaf(struct pt_space *space, struct range va, pt_visit_fn visit, void *arg);
/* The same in one go, for who holds the lock already. */
void pt_for_each_leaf_locked(struct pt_space *space, struct range va, pt_visit_fn visit, void *arg);

/*
 * Compare statistics, breaks, the pending list and the table classes with a fresh walk. Returns the number of
 * differences, the first few of them in the log. Quiescent points.
 */
unsigned pt_check(struct pt_space *space);

/*
 * Split one leaf: the slot is that of a leaf above 4 KiB that translates va, the pool has a table. Publishes
 * by one store. Rights, type and frame of every page stay, so nothing need be flushed. Space locked.
 */
void pt_split_leaf(struct pt_space *space, struct pt_slot slot, u64 va, struct pt_pool *pool);

/* The space's next generation, for a change whose stores are done. Space locked. */
static inline u64 tlb_batch_next_gen(struct tlb_batch *b)
{
	struct tlb_flush *f = &b->flush;
	u64 gen = f->space->gen + 1;

	assert_held(&f->space->lock);
	store_release(&f->space->gen, gen);
	if (!f->gen_first)
		f->gen_first = gen;
	f->gen_last = gen;
	f->nr_gens++;
	return gen;
}

/*
 * A change of [start, end) has been stored, in leaves of 2^shift bytes (both ends are aligned to it); returns the
 * generation it got. Space locked. Any number of calls.
 */
static inline u64 tlb_batch_add(struct tlb_batch *b, struct range va, unsigned shift)
{
	struct tlb_flush *f = &b->flush;
	struct tlb_range *last = &f->ranges[f->nr];

	f->pages += range_size(va) >> shift;
	if (f->nr && last[-1].end == va.start && last[-1].shift == shift)
		last[-1].end = va.end;
	else if (f->nr < TLB_RANGES)
		*last = (struct tlb_range){ va.start, va.end, (u8)shift }, f->nr++;
	else
		f->full = true;
	if (f->pages > tlb_flush_ceiling)
		f->full = true;
	return tlb_batch_next_gen(b);
}

#endif
