/* SPDX-License-Identifier: MIT */
/*
 * Batches of invalidations, by generation. See tlb_batch.h for the rules.
 *
 * A CPU that is asked to flush up to generation g and has flushed to g - n, the batch's n changes being all that
 * came since, invalidates the batch's ranges; in any other case it forgets everything and is then at the newest
 * generation there is. So a range is never relied on to cover somebody else's change.
 *
 * Order, for a CPU that flushes in full: read the space's generation, then flush. Stores of a change come before
 * its generation (release, under the lock), so what the flush may miss has a generation that was not read.
 */
#include "mm/tlb_batch.h"

#include "kernel/base/errno.h"
#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "kernel/base/trace.h"
#include "mm/arch.h"
#include "mm/buddy.h"
#include "mm/pgtable.h"
#include "mm/plant.h"
#include "mm/pt_internal.h"

u32 tlb_flush_ceiling = 32;
bool tlb_started;

/*
 * Each CPU counts for itself, and what it does in interrupts apart from what an interrupt may come in between; readers
 * add up.
 */
static struct tlb_stats tlb_stats[MAX_CPUS];
static struct tlb_stats served_stats[MAX_CPUS];

/* Frames in batches of all CPUs, and the most there were: of the sum, so it is one word for all. */
static u64 frames_waiting, frames_waiting_most;

static struct tlb_stats *my_stats(void)
{
	return &tlb_stats[arch_this_cpu()->id];
}

u64 tlb_batch_add_tables(struct tlb_batch *b)
{
	b->flush.full = true;
	b->flush.tables = true;
	return tlb_batch_next_gen(b);
}

void tlb_batch_wait(struct tlb_batch *b, u64 gen)
{
	struct tlb_flush *f = &b->flush;

	if (tlb_flushed(f->space, gen))
		return;
	/* A change of this very batch will be flushed by its own range, if no one else's came between. */
	if (f->gen_first && gen >= f->gen_first && gen <= f->gen_last &&
	    f->nr_gens == f->gen_last - f->gen_first + 1)
		return;
	f->full = true;
	if (!f->gen_first)
		f->gen_first = gen;
	f->gen_last = MAX(f->gen_last, gen);
}

static void push_free(struct tlb_batch *b, struct page *page)
{
	u64 now, most;

	page->next = b->frees;
	b->frees = (u32)page_to_pfn(page);
	b->nr_frees++;
	now = fetch_add(&frames_waiting, 1) + 1;
	most = load_relaxed(&frames_waiting_most);
	while (unlikely(most < now) && !compare_exchange(&frames_waiting_most, &most, now))
		;
}

u64 tlb_frames_waiting_most(void)
{
	return __atomic_exchange_n(&frames_waiting_most, load_relaxed(&frames_waiting), __ATOMIC_ACQ_REL);
}

static void free_frame(struct page *page)
{
	unsigned order = page->order;

	if (page_class(page) == PAGE_TABLE) {
		pt_table_retire(page);
		order = 0;
	}
	free_pages(page, order);
}

void tlb_batch_free_table(struct tlb_batch *b, struct page *table)
{
	assert_held(&b->flush.space->lock);
	if (PLANTED(PLANT_FREE_EARLY)) {
		free_frame(table);
		return;
	}
	push_free(b, table);
}

void tlb_batch_free(struct tlb_batch *b, struct page *page, unsigned order)
{
	store_relaxed(&page->order, (u8)order);
	push_free(b, page);
}

/* ---- On each CPU ---- */

/* Out of line, and by the one pointer that is at hand: the path it is called from is the shortest there is. */
static __noinline void trace_ranges(const struct tlb_flush *f)
{
	trace_write(TRACE_FLUSH, f->gen_last, f->pages, f->ranges[0].start);
}

static inline void flush_ranges(const struct tlb_flush *f, struct tlb_stats *stats)
{
	counter_add(&stats->pages_invalidated, f->pages);
	if (likely(f->pages == 1)) {
		arch_tlb_flush_page(f->ranges[0].start);
		return;
	}
	for (unsigned i = 0; i < f->nr; i++) {
		const struct tlb_range *r = &f->ranges[i];

		for (u64 va = r->start; va < r->end; va += 1ull << r->shift) {
			arch_tlb_flush_page(va);
			if (PLANTED(PLANT_FLUSH_FIRST_ONLY))
				break;
		}
	}
}

/*
 * Interrupts may be on: a shootdown that comes in between brings this CPU further, and what is then stored here says
 * less than is true, which costs a flush and nothing else.
 */
static inline void flush_this_cpu(const struct tlb_flush *f, u64 *mine, struct tlb_stats *stats)
{
	struct pt_space *space = f->space;
	u64 at = load_relaxed(mine);

	if (at >= f->gen_last)
		return;
	if (PLANTED(PLANT_NO_FLUSH)) {
		store_release(mine, f->gen_last);
		return;
	}
	if (!f->full && at + 1 >= f->gen_first && f->nr_gens == f->gen_last - f->gen_first + 1) {
		flush_ranges(f, stats);
		store_release(mine, f->gen_last);
		if (unlikely(trace_on(TRACE_FLUSH)))
			trace_ranges(f);
	} else {
		u64 now = load_acquire(&space->gen);

		arch_tlb_flush_all();
		if (PLANTED(PLANT_RACE_GEN)) {
			for (unsigned i = 0; i < 4; i++)
				arch_relax();	/* time for somebody's change, however few cores the host has */
			now = load_acquire(&space->gen);
		}
		counter_add(&stats->nr_tlb_local_flush_all, 1);
		store_release(mine, now);
		trace_event(TRACE_FLUSH, now, 0, 0);
	}
}

void tlb_flush_run(const struct tlb_flush *f)
{
	u32 me = arch_this_cpu()->id;

	counter_add(&served_stats[me].nr_tlb_remote_flush_received, 1);
	trace_event(TRACE_RECEIVE, f->gen_last, f->full ? 0 : f->pages, load_relaxed(&f->space->cpu_gen[me]));
	flush_this_cpu(f, &f->space->cpu_gen[me], &served_stats[me]);
}

/* ---- Who uses a space ---- */

void tlb_space_enter(struct pt_space *space)
{
	struct cpu_state *cpu = arch_this_cpu();
	u64 *mine = &space->cpu_gen[cpu->id];
	bool fresh = !cpumask_has(&space->cpus, cpu->id);
	u64 now;

	if (fresh)
		store_relaxed(mine, 0);
	/* Take part first, then look: a change made in between is seen, or sent to us, or both. */
	cpumask_set(&space->cpus, cpu->id);
	if (fresh)
		fetch_add(&space->nr_cpus, 1);
	cpumask_clear(&space->lazy, cpu->id);
	fence_full();
	now = load_acquire(&space->gen);
	if (fresh || load_relaxed(mine) < now) {
		/* Loading the root forgets what is not global; global leaves of the shared half need more. */
		if (!fresh || space->flags & PT_SPACE_SHARED) {
			arch_tlb_flush_all();
			counter_add(&my_stats()->nr_tlb_local_flush_all, 1);
		}
		store_release(mine, now);
	}
}

void tlb_space_leave(struct pt_space *space)
{
	u32 id = arch_this_cpu()->id;

	store_release(&space->cpu_gen[id], TLB_GEN_NONE);
	cpumask_clear(&space->lazy, id);
	if (cpumask_has(&space->cpus, id)) {
		cpumask_clear(&space->cpus, id);
		fetch_add(&space->nr_cpus, -1u);
	}
}

void tlb_space_lazy(struct pt_space *space)
{
	cpumask_set(&space->lazy, arch_this_cpu()->id);
}

bool tlb_flushed(struct pt_space *space, u64 gen)
{
	if (load_acquire(&space->flushed) >= gen)
		return true;
	for_each_cpu(cpu, &space->cpus)
		if (load_acquire(&space->cpu_gen[cpu]) < gen)
			return false;
	return true;
}

/* ---- Finish ---- */

static void raise_flushed(struct pt_space *space, u64 gen)
{
	u64 old = load_relaxed(&space->flushed);

	while (old < gen && !compare_exchange(&space->flushed, &old, gen))
		;
}

/* Whether nobody but this CPU uses the space, if it does. */
static inline bool alone(const struct pt_space *space, u32 me)
{
	return load_relaxed(&space->nr_cpus) == (load_relaxed(&space->cpu_gen[me]) != TLB_GEN_NONE);
}

/* Ask other CPUs. Returns whether every CPU that may hold translations is up to date now. */
static __noinline bool flush_others(struct tlb_batch *b, u32 me)
{
	struct tlb_flush *f = &b->flush;
	struct pt_space *space = f->space;
	cpumask_t targets = { { 0 } };
	cpumask_t dead = { { 0 } };
	bool all = true;
	u64 nr = 0;

	for_each_cpu(cpu, &space->cpus) {
		if (cpu == me || load_acquire(&space->cpu_gen[cpu]) >= f->gen_last)
			continue;
		if (!cpumask_has(arch_cpus_online(), cpu)) {
			cpumask_set(&dead, cpu);	/* it may still translate: nothing it knew is ever reused */
			continue;
		}
		if (!f->tables && cpumask_has(&space->lazy, cpu)) {
			all = false;		/* catches up when it comes back */
			continue;
		}
		cpumask_set(&targets, cpu);
		nr++;
	}
	if (nr) {
		u64 start = arch_cycles();

		assert(arch_irqs_enabled());
		counter_add(&tlb_stats[me].nr_tlb_remote_flush, nr);
		trace_event(TRACE_SEND, f->gen_last, nr, f->full ? 0 : f->pages);
		arch_tlb_shootdown(&targets, f, &dead);
		counter_add(&tlb_stats[me].shootdown_cycles, arch_cycles() - start);
	}
	if (cpumask_empty(&dead))
		return all;
	b->dead = true;
	return false;
}

static __always_inline void flush_everywhere(struct tlb_batch *b, u32 me)
{
	struct tlb_flush *f = &b->flush;
	struct pt_space *space = f->space;
	u64 *mine = &space->cpu_gen[me];
	u64 gen = f->gen_last;

	counter_add(&tlb_stats[me].batches, 1);
	fence_full();		/* our stores, before who uses the space is looked at */
	flush_this_cpu(f, mine, &tlb_stats[me]);
	if (alone(space, me) || flush_others(b, me))
		raise_flushed(space, gen);
	tlb_flush_reset(f);
}

static __noinline void free_all(struct tlb_batch *b)
{
	struct tlb_stats *stats = my_stats();

	while (b->frees != PFN_NONE) {
		struct page *page = pfn_to_page(b->frees);

		b->frees = page->next;
		if (b->dead) {
			page_flags_add(page, PAGE_QUARANTINE);
			counter_add(&stats->frames_quarantined, 1);
		} else {
			free_frame(page);
			counter_add(&stats->frames_freed, 1);
		}
	}
	fetch_add(&frames_waiting, -(u64)b->nr_frees);
	b->nr_frees = 0;
}

/* Whether pt_collapse_pending() would find anything. A glance: what is missed waits for the next batch. */
static bool work_pending(const struct tlb_batch *b)
{
	const struct pt_space *space = b->flush.space;

	return load_relaxed(&space->empty.nr) || b->clearing != PFN_NONE ||
	       (load_relaxed(&space->policy) != PT_COLLAPSE_OFF && load_relaxed(&space->uniform.nr));
}

/* Collapse and unhook, and flush what that takes, until nothing is left to do. */
static __noinline void collapse_all(struct tlb_batch *b, u32 me)
{
	struct pt_space *space = b->flush.space;
	bool again;

	do {
		spin_lock(&space->lock);
		again = pt_collapse_pending(space, b);
		spin_unlock(&space->lock);
		if (again)
			flush_everywhere(b, me);
	} while (again);
}

int tlb_batch_finish(struct tlb_batch *b)
{
	struct cpu_state *cpu = arch_this_cpu();
	u32 me = cpu->id;

	assert(cpu->locks_held == 0);
	assert(arch_irqs_enabled() || !tlb_started);
	if (b->flush.gen_last)
		flush_everywhere(b, me);
	/* Also of a batch without a flush: a page mapped again may have been what a table lacked. */
	if (work_pending(b))
		collapse_all(b, me);
	if (b->frees != PFN_NONE)
		free_all(b);
	return unlikely(b->dead) ? -EIO : 0;
}

bool tlb_lost(const struct pt_space *space)
{
	if (alone(space, arch_this_cpu()->id))
		return false;
	for_each_cpu(cpu, &space->cpus)
		if (!cpumask_has(arch_cpus_online(), cpu))
			return true;
	return false;
}

void tlb_read_stats(struct tlb_stats *out)
{
	*out = (struct tlb_stats){ 0 };
	for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++) {
		const u64 *from = (const u64 *)&tlb_stats[cpu];
		const u64 *served = (const u64 *)&served_stats[cpu];
		u64 *to = (u64 *)out;

		for (unsigned i = 0; i < sizeof(*out) / sizeof(u64); i++)
			to[i] += load_relaxed(from + i) + load_relaxed(served + i);
	}
	out->nr_tlb_local_flush_one = out->pages_invalidated;
	out->frames_waiting = load_relaxed(&frames_waiting);
}
