/* SPDX-License-Identifier: MIT */
/* Storms of NMIs. See storm.h. */
#include "tests/machine/storm.h"

#include "arch/x86_64/apic.h"
#include "arch/x86_64/ipi.h"
#include "arch/x86_64/nmi.h"
#include "kernel/base/atomic.h"
#include "kernel/base/rng.h"
#include "tests/machine/crew.h"
#include "tests/test.h"

#define STORM_HZ 4000u	/* so few that a CPU of a busy QEMU gets on between them */
#define SPINS_MAX 4000000000ull

static struct {
	const struct storm *storm;
	u64 seen;
	u64 of[MAX_CPUS];	/* by CPU; written by its handler */
	u32 prepared;		/* CPUs */
	bool begun;
} s;

static void on_nmi(const struct trap_frame *frame)
{
	u64 *mine = &s.of[arch_this_cpu()->id];

	(void)frame;
	s.storm->handler();
	store_relaxed(mine, *mine + 1);
	fetch_add(&s.seen, 1);
}

u64 storm_seen(void)
{
	return load_relaxed(&s.seen);
}

bool storm_over(void)
{
	return storm_seen() >= s.storm->wanted;
}

static nmi_handler_fn begin(const struct storm *storm)
{
	s.storm = storm;
	s.seen = 0;
	s.prepared = 0;
	s.begun = false;
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		s.of[cpu] = 0;
	return nmi_set_handler(on_nmi);
}

static void prepare(void)
{
	if (s.storm->prepare)
		s.storm->prepare();
	fetch_add(&s.prepared, 1);
}

const char *storm_by_timer(const struct storm *storm)
{
	nmi_handler_fn old;

	if (!nmi_storm_source())
		return NULL;
	old = begin(storm);
	prepare();
	if (CHECK_EQ(nmi_storm_start(STORM_HZ, arch_this_cpu()->id), 0)) {
		storm->churn(NULL);
		nmi_storm_stop();
	}
	nmi_set_handler(old);
	return nmi_storm_source();
}

static bool is_among(u32 cpu, const u32 *ids, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		if (ids[i] == cpu)
			return true;
	return false;
}

/* Who holds a lock; now and then, when nobody does, anybody. */
static void send(const u32 *ids, unsigned nr)
{
	struct rng rng = test_rng();
	u64 sent[MAX_CPUS] = { 0 };

	for (u64 spins = 0; !storm_over() && spins < SPINS_MAX; spins++) {
		u32 cpu = s.storm->lock_holder();

		if (!is_among(cpu, ids, nr))
			cpu = spins % 1024 ? MAX_CPUS : ids[spins / 1024 % nr];
		if (cpu == MAX_CPUS || load_relaxed(&s.of[cpu]) < sent[cpu]) {
			arch_relax();
			continue;
		}
		for (u64 wait = rng_below(&rng, s.storm->scatter + 1ull); wait; wait--)
			s.storm->lock_holder();
		sent[cpu] = load_relaxed(&s.of[cpu]) + 1;
		ipi_nmi(cpu);
	}
}

/* Nobody is hit, and nobody churns, before all are prepared. */
static void be_hit(void *arg)
{
	prepare();
	while (!load_acquire(&s.begun)) {
		arch_relax();
		thread_yield();
	}
	s.storm->churn(arg);
}

const char *storm_aimed(const struct storm *storm)
{
	struct thread *threads[CREW_MAX];
	u32 ids[CREW_MAX];
	unsigned nr = crew_cpus(ids);
	nmi_handler_fn old;

	if (nr < 2 || !apic_present())
		return NULL;
	old = begin(storm);
	for (unsigned i = 1; i < nr; i++)
		threads[i] = crew_start(ids[i], "churn", be_hit, NULL);
	for (u64 spins = 0; load_acquire(&s.prepared) < nr - 1 && spins < SPINS_MAX; spins++) {
		arch_relax();
		thread_yield();
	}
	CHECK_EQ(load_acquire(&s.prepared), nr - 1);
	store_release(&s.begun, true);
	send(ids + 1, nr - 1);
	crew_join(threads + 1, nr - 1);
	nmi_set_handler(old);
	return "sent";
}
