/* SPDX-License-Identifier: MIT */
/*
 * The port (kernel/base/arch_cpu.h, mm/arch.h) on a simulated machine: RAM is an arena of the process, CPUs
 * are virtual. They act in one of two ways:
 *
 *  - one at a time (host_cpu_set() says which): every run with the same seed is the same run;
 *  - all at once, each a thread of the process (host_threads_run()): for ThreadSanitizer, and for what no order of
 *    turns would show. An interrupt is taken where a CPU looks for one: arch_relax(), arch_irq_restore(), before and after
 *    each store of an entry and each flush, and wherever it waits, so a CPU that waits serves others.
 *
 *  - Physical address = offset in the arena at HOST_ARENA, where the code of mm/ reads and writes frames
 *    (arch_mm.direct_ptr). Virtual addresses are those of the machine; they mean something to the simulated
 *    page walk only, so tests go through sim_access() where they would use a pointer on the machine.
 *  - Interrupts, online mask, roots and lock counts are kept per virtual CPU.
 *  - What the CPUs remember of the page tables is sim_tlb.h; what was stored into them store_log.h.
 *
 * Faults that the simulation finds are counted here by kind; a test fails if there is one it did not expect.
 */
#ifndef TESTS_HOST_ARCH_HOST_H
#define TESTS_HOST_ARCH_HOST_H

#include "kernel/base/range.h"
#include "kernel/base/rng.h"
#include "kernel/base/types.h"
#include "mm/arch.h"

/* Built with ThreadSanitizer. */
#if defined(__SANITIZE_THREAD__)
#define HOST_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HOST_TSAN 1
#endif
#endif
#ifndef HOST_TSAN
#define HOST_TSAN 0
#endif

/*
 * Where the arena is: clear of the shadow memory of AddressSanitizer, and of what the C library maps. ThreadSanitizer
 * has its shadow there, and looks at the lowest 512 GiB. (The files that it does not instrument get the same value by
 * -DHOST_ARENA, see the Makefile.)
 */
#ifndef HOST_ARENA
#define HOST_ARENA 0x200000000000ull
#endif
#define HOST_RAM_MAX (64 * GIB)
#define HOST_CPUS_MAX 16u
#define HOST_TYPES_MAX 4u

/* What the checks of the simulated machine can find. */
enum host_fault {
	HOST_STALE,		/* a cached translation differs from the tables after the flush */
	HOST_EARLY_REUSE,	/* a table or frame was freed while a CPU could still reach it */
	HOST_SIZE_RULE,		/* a store changed the size of a page and something else */
	HOST_SPLIT_RULE,	/* a split not published by one store after 512 */
	HOST_VIA_ABSENT,	/* a split or collapse by way of an absent entry */
	HOST_TABLE_ENTRY,	/* an entry that points to a table and is not permissive, or a wrong level */
	HOST_CONTEXT,		/* called with interrupts off, a spinlock held, for a CPU it may not */
	HOST_ACCESS,		/* a pointer asked for where the tables allow no access */
	HOST_COUNTERS,		/* statistics differ from the log */
	HOST_FAULTS,
};

struct host_type_range {	/* memory type of a physical range (MTRR encoding); elsewhere write-back (6) */
	struct range pa;
	u8 type;
};

/* The machine's own state; machine.c fills in the first part. */
struct host {
	u64 ram_end;			/* first byte behind the highest RAM */
	u32 nr_cpus;
	struct host_type_range types[HOST_TYPES_MAX];
	u32 nr_types;
	struct range pinned[4];		/* virtual ranges that arch_range_pinned() names */
	u32 nr_pinned;
	bool speculation;		/* CPUs fill translations by themselves */
	bool quiet;			/* faults are expected: count, don't print */
	bool testing;			/* a test runs: a fault that nobody expected fails it */

	u32 cpu;			/* acts now */
	struct rng rng;			/* of the simulation alone, never of a test's choices */
	cpumask_t online;
	cpumask_t deaf;			/* these do not acknowledge a shootdown */
	cpumask_t coming;		/* in tlb_space_enter(): not lazy any more, maybe behind still; they use no address of it */
	u64 faults[HOST_FAULTS];
	u64 shootdowns[HOST_CPUS_MAX];	/* received, by CPU */
	u64 rendezvous;
	u64 flushes;			/* flush instructions executed, all CPUs */
	u64 serialisations[HOST_CPUS_MAX];	/* by CPU */
	u64 ipis[HOST_CPUS_MAX];	/* interrupts sent for shootdowns, by target; requests merged with one under way cost none */
	bool threads;			/* every CPU acts, each in its thread */
	/*
	 * Runs at every point where another CPU may act: before and after each store of an entry, before each
	 * flush. For tests that let other CPUs write memory meanwhile. May call sim_access() only.
	 */
	void (*meanwhile)(void *arg);
	void *meanwhile_arg;
	bool in_meanwhile;
	/*
	 * Where another CPU may come in between: each time CPU race_cpu asks who it is (before it takes a
	 * lock, inside the page allocator) with no lock held and interrupts on. At the race_at-th of these
	 * points, from 1, race() runs once, as CPU race_as. race_points counts them.
	 */
	void (*race)(void *arg);
	void *race_arg;
	u32 race_cpu, race_as;
	u64 race_at, race_points;
	bool in_race;
};

extern struct host host;

/* Map the arena (once), empty; CPUs 0..nr_cpus-1 online, CPU 0 acting, interrupts on, no fault counted. */
void host_init(u64 ram_end, u32 nr_cpus, u64 seed);

/* From now on the process acts as this CPU. Returns the one before. Not while CPUs are threads. */
u32 host_cpu_set(u32 cpu);
/* The CPU that acts: this thread's, or the one that was set. */
u32 host_cpu(void);

/*
 * Run fn(arg) on every CPU at once, each in a thread of its own, begun together. A CPU that is done goes on taking
 * interrupts until all are. Returns when every thread has ended; then CPUs take turns again. `seed` is that of the
 * CPUs' speculation.
 */
void host_threads_run(void (*fn)(void *arg), void *arg, u64 seed);
/* Wait for every other CPU that is in host_threads_run() and online to come here too. Takes interrupts meanwhile. */
void host_barrier(void);
/* How many CPUs wait for this one to take an interrupt. */
u32 host_waiting_for(u32 cpu);
/* What the acting CPU draws for the simulation's own choices. */
struct rng *host_rng(void);
/* How often ThreadSanitizer has reported something, if the process is built with it. */
u64 host_tsan_reports(void);
/* The root that a CPU has loaded. */
u64 host_root(u32 cpu);
void host_irqs_set(bool on);

/*
 * A point where other CPUs may act: speculation and host.meanwhile. va: an address that is of interest now.
 */
void host_tick(u64 va);

/* Count a fault; the first few are printed, unless they are expected. */
void host_fault(enum host_fault kind, const char *fmt, ...) __printf(2, 3);
u64 host_faults(void);
/* Forget faults; returns how many there were. */
u64 host_faults_clear(void);
const char *host_fault_name(enum host_fault kind);

/* Whether the other CPUs stand in a rendezvous now. */
bool host_in_rendezvous(void);

/* Whether a physical address lies in the arena. */
static inline bool host_is_ram(u64 pa)
{
	return pa < host.ram_end;
}

#endif
