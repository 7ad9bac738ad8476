/* SPDX-License-Identifier: MIT */
/*
 * Invalidation: what must be forgotten, by whom, and what may be reused afterwards (SPEC TL1).
 *
 * Every change of rights in a space, made under its page-table lock, gets the space's next generation.
 * A batch collects the ranges of the changes it made and the frames they set free; tlb_batch_finish()
 * brings every CPU that may hold translations of the space up to the batch's generation, collapses
 * what became uniform, and only then frees. Each CPU records the generation it has flushed to, so a
 * CPU that is late or lazy catches up in one flush, and "is it flushed everywhere?" is a compare.
 *
 * Rules:
 *  - the batch is filled under the space's lock, and finished with no spinlock held, interrupts on;
 *  - a batch is finished on every path, error paths too;
 *  - a frame given to the batch is not touched again until the batch frees it.
 */
#ifndef MM_TLB_BATCH_H
#define MM_TLB_BATCH_H

#include "kernel/base/arch_cpu.h"
#include "kernel/base/range.h"
#include "mm/page.h"

struct pt_space;

#define TLB_RANGES 8u

/* In cpu_gen: this CPU holds no translations of the space, it is ahead of every generation. */
#define TLB_GEN_NONE UINT64_MAX

/* What one CPU is asked to do. Lives on the stack of the CPU that waits for it. */
struct tlb_flush {
	struct pt_space *space;
	u64 gen_first;		/* generations of the changes: first .. last */
	u64 gen_last;
	u64 pages;		/* invalidations that the ranges take, by leaf */
	u32 nr_gens;		/* how many of those are this batch's own: all, if no one came between */
	u8 nr;			/* ranges in use */
	bool full;		/* forget everything: more ranges or pages than are worth it, or freed tables */
	bool tables;		/* tables were unhooked: lazy CPUs must flush too */
	struct tlb_range {
		u64 start, end;
		u8 shift;	/* log2 of the stride: a leaf is invalidated once */
	} ranges[TLB_RANGES];
};

struct tlb_batch {
	struct tlb_flush flush;
	u32 frees;		/* frames waiting in this batch: head of a list through struct page */
	u32 nr_frees;
	bool settle;		/* collapse whatever the policy defers */
	bool dead;		/* a CPU did not acknowledge: the frames are not freed */
	u32 clearing;		/* user tables between clear and leaf: head of a list through struct page */
};

/*
 * Pages a ranged flush may cost before a full one is cheaper; picked by tests/lab/ceiling.c, with figures in docs/tlb.md. May
 * be set at any time: it decides about batches to come.
 */
extern u32 tlb_flush_ceiling;

/*
 * Set once the machine takes interrupts: from then on a batch is only finished with interrupts on (asserted). Before,
 * there is one CPU, and nobody to wait for.
 */
extern bool tlb_started;

static inline void tlb_flush_reset(struct tlb_flush *f)
{
	f->gen_first = 0;
	f->gen_last = 0;
	f->pages = 0;
	f->nr_gens = 0;
	f->nr = 0;
	f->full = false;
	f->tables = false;
}

/* Any context. */
static inline void tlb_batch_init(struct tlb_batch *b, struct pt_space *space)
{
	b->flush.space = space;
	tlb_flush_reset(&b->flush);
	b->frees = PFN_NONE;
	b->nr_frees = 0;
	b->settle = false;
	b->dead = false;
	b->clearing = PFN_NONE;
}

/*
 * There was nothing to do, but a table of the range last changed in generation gen: if that is not flushed
 * everywhere yet, finish will see to it, in full, as the ranges of that change are not known here (PT2: a
 * call that finds nothing to do still waits). Space locked.
 */
void tlb_batch_wait(struct tlb_batch *b, u64 gen);

/* Tables were unhooked: forget everything, on lazy CPUs too. Space locked. Returns the generation. */
u64 tlb_batch_add_tables(struct tlb_batch *b);

/* Free a table, or 2^order frames, once no CPU can reach them by the space any more. Space locked. */
void tlb_batch_free_table(struct tlb_batch *b, struct page *table);
void tlb_batch_free(struct tlb_batch *b, struct page *page, unsigned order);

/*
 * Flush, collapse, flush, free. Task context, no spinlock held, interrupts on (asserted).
 * The batch may be filled again afterwards. 0; -EIO: a CPU has not acknowledged and never will, so it may translate as
 * before. The batch's frames are quarantined then; other memory and addresses must not be anyone else's from now on.
 */
int tlb_batch_finish(struct tlb_batch *b);

/* Whether a CPU that may hold translations of the space was given up: no batch that takes rights away succeeds any more. Any context. */
bool tlb_lost(const struct pt_space *space);

/* Bring this CPU up to date. Called by arch on each CPU of a shootdown, in its interrupt. */
void tlb_flush_run(const struct tlb_flush *flush);

/*
 * This CPU begins to use the space (its root is about to be loaded) or comes back from lazy: from now on
 * it takes part in shootdowns, and is brought up to date. Interrupts off. A CPU that runs on the kernel half before it has
 * entered it (while it is started) is asked by nobody: no batch is finished until it has.
 */
void tlb_space_enter(struct pt_space *space);
/* This CPU no longer uses the space (another root is loaded). Interrupts off. */
void tlb_space_leave(struct pt_space *space);
/* This CPU keeps the root loaded, but promises not to touch its user half before tlb_space_enter(). */
void tlb_space_lazy(struct pt_space *space);

/* Whether every CPU that may hold translations of the space has flushed up to gen. Any context. */
bool tlb_flushed(struct pt_space *space, u64 gen);

/* Counters, under Linux's names (TL2) where it has one; what exactly they count here is said beside them. */
struct tlb_stats {
	u64 nr_tlb_local_flush_all;		/* by a CPU on itself, for its own batches and for those of others */
	u64 nr_tlb_local_flush_one;		/* the same of single pages: pages_invalidated */
	u64 nr_tlb_remote_flush;		/* shootdowns sent: one per target CPU */
	u64 nr_tlb_remote_flush_received;
	u64 pages_invalidated;
	u64 batches;				/* tlb_batch_finish() calls that flushed */
	u64 frames_freed;			/* after a flush */
	u64 frames_quarantined;			/* a CPU died on us */
	u64 shootdown_cycles;			/* TSC, waiting for others */
	u64 frames_waiting;			/* in batches now, until their flush: blocks count once */
};
void tlb_read_stats(struct tlb_stats *out);
/* The most frames that waited at once since the last call; counting starts anew with those that wait now. */
u64 tlb_frames_waiting_most(void);

#endif
