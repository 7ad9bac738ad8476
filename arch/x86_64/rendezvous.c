/* SPDX-License-Identifier: MIT */
/*
 * All CPUs stand still but one, the leader (mm/arch.h).
 *
 * The others are interrupted, wherever they are: a CPU that spins for a lock that the leader holds has interrupts on and comes.
 * Two that want to lead: one gets the lock, the other serves its inbox while it waits for it, and so is stopped like
 * anybody else. The leader waits with interrupts off and serves nobody: nobody it waits for waits for it without taking
 * interrupts.
 *
 * `round` is odd while CPUs have to stand. A CPU that arrives reads it after it has taken the request out of its inbox,
 * and the leader does not end the round before all have arrived or were given up: so it always is the right one.
 */
#include "arch/x86_64/rendezvous.h"

#include "arch/x86_64/ipi.h"
#include "arch/x86_64/percpu.h"
#include "kernel/base/atomic.h"
#include "kernel/base/panic.h"
#include "mm/arch.h"

static struct {
	u32 leader;		/* CPU id + 1; 0: free */
	u64 round;
	u64 flush;		/* flushes asked for, ever */
	cpumask_t targets;	/* of this round; the leader's own */
} r;

/* Written by each CPU that stands; read by the leader. */
static struct {
	u64 arrived;		/* the last round it arrived in */
	u64 flushed;		/* the last flush it made */
} __aligned(64) stands[MAX_CPUS];

void rendezvous_stand_still(void)
{
	u32 me = arch_this_cpu()->id;
	u64 round = load_acquire(&r.round);
	u64 flushed = load_acquire(&r.flush);

	store_relaxed(&stands[me].flushed, flushed);
	store_release(&stands[me].arrived, round);
	while (load_acquire(&r.round) == round) {
		u64 flush = load_acquire(&r.flush);

		if (flush != flushed) {
			flushed = flush;
			arch_tlb_flush_all();
			store_release(&stands[me].flushed, flushed);
		}
		arch_relax();
	}
}

/* Wait until each target's word has reached a value; those that do not are given up, and no longer waited for. */
static void wait_for_all(size_t offset, u64 value, const char *what)
{
	u64 deadline = ipi_patience();

	for_each_cpu(cpu, &r.targets) {
		const u64 *word = (const u64 *)((const u8 *)&stands[cpu] + offset);

		while (load_acquire(word) != value && arch_cycles() < deadline)
			arch_relax();
		if (load_acquire(word) != value) {
			ipi_give_up(cpu, what);
			cpumask_clear(&r.targets, cpu);
		}
	}
}

static void lead(u32 me)
{
	u32 none = 0;

	while (!compare_exchange(&r.leader, &none, me + 1)) {
		none = 0;
		ipi_serve();
		arch_relax();
	}
}

static void stop_others(u32 me)
{
	r.targets = *arch_cpus_online();
	cpumask_clear(&r.targets, me);
	store_release(&r.round, r.round + 1);
	for_each_cpu(cpu, &r.targets)
		ipi_post_stop(cpu);
	wait_for_all(offsetof(typeof(stands[0]), arrived), r.round, "come to a rendezvous");
}

void arch_rendezvous(void (*fn)(void *arg), void *arg)
{
	u64 flags = arch_irq_save();
	struct cpu_local *local = cpu_local();
	u32 me = local->state.id;

	lead(me);
	local->ipi_stats.rendezvous++;
	stop_others(me);
	fn(arg);
	store_release(&r.round, r.round + 1);
	store_release(&r.leader, 0);
	arch_irq_restore(flags);
}

void arch_rendezvous_flush(void)
{
	assert(load_relaxed(&r.leader) == arch_this_cpu()->id + 1);
	store_release(&r.flush, r.flush + 1);
	arch_tlb_flush_all();
	wait_for_all(offsetof(typeof(stands[0]), flushed), r.flush, "flush in a rendezvous");
}
