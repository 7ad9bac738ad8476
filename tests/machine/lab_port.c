/* SPDX-License-Identifier: MIT */
/*
 * The lab's CPUs on the machine: all at once, in a thread each. The threads live from lab_cpus_start() to lab_cpus_stop(), so that their
 * stacks, which are mapped and unmapped, are none of what is measured in between.
 */
#include "arch/x86_64/ipi.h"
#include "kernel/base/atomic.h"
#include "kernel/base/errno.h"
#include "kernel/base/log.h"
#include "kernel/thread.h"
#include "tests/lab/cpus.h"

static struct {
	struct thread *threads[MAX_CPUS];
	u32 nr;			/* threads, and this CPU */
	void (*fn)(void *arg);
	void *arg;
	u64 round;		/* of work; the threads wait for the next one */
	u32 arrived, left;	/* CPUs that are about to begin, that are through */
	bool stop;
} port;

/* Whether to wait for the count to be full: not for a CPU that was given up, its run has failed anyway. */
static bool wait_for(const u32 *count)
{
	if (load_acquire(count) >= port.nr)
		return false;
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		if (port.threads[cpu] && !cpumask_has(arch_cpus_online(), cpu))
			return false;
	return true;
}

static void work(void)
{
	fetch_add(&port.arrived, 1);
	while (wait_for(&port.arrived))
		arch_relax();
	port.fn(port.arg);
	fetch_add(&port.left, 1);
}

static void worker(void *arg)
{
	u64 round = 0;

	(void)arg;
	for (;;) {
		while (load_acquire(&port.round) == round)
			thread_park();
		round++;
		if (load_relaxed(&port.stop))
			return;
		work();
	}
}

static void next_round(void)
{
	store_relaxed(&port.arrived, 0);
	store_relaxed(&port.left, 0);
	fetch_add(&port.round, 1);
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		if (port.threads[cpu])
			thread_unpark(port.threads[cpu]);
}

int lab_cpus_start(void)
{
	u32 me = arch_this_cpu()->id;

	port.nr = 1;
	port.round = 0;
	port.stop = false;
	for_each_cpu(cpu, arch_cpus_online()) {
		if (cpu == me)
			continue;
		port.threads[cpu] = thread_start(cpu, "lab", worker, NULL);
		if (!port.threads[cpu]) {
			lab_cpus_stop();
			return -ENOMEM;
		}
		port.nr++;
	}
	return 0;
}

void lab_cpus_stop(void)
{
	port.stop = true;
	next_round();
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++) {
		if (port.threads[cpu] && thread_join(port.threads[cpu]))
			log_warn("lab: CPU %u was given up", cpu);
		port.threads[cpu] = NULL;
	}
}

void lab_on_cpus(void (*fn)(void *arg), void *arg)
{
	port.fn = fn;
	port.arg = arg;
	next_round();
	work();
	while (wait_for(&port.left))
		arch_relax();
}

u64 lab_interrupts_sent(void)
{
	u64 sum = 0;

	for_each_cpu(cpu, arch_cpus_online()) {
		struct ipi_stats stats;

		ipi_read_stats(cpu, &stats);
		sum += stats.sent;
	}
	return sum;
}
