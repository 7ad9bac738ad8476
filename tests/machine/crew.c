/* SPDX-License-Identifier: MIT */
/* Threads for tests. See crew.h. */
#include "tests/machine/crew.h"

#include "kernel/base/atomic.h"
#include "kernel/base/panic.h"
#include "tests/test.h"

unsigned crew_cpus(u32 ids[CREW_MAX])
{
	unsigned nr = 0;

	ids[nr++] = arch_this_cpu()->id;
	for (u32 cpu = 0; cpu < MAX_CPUS && nr < CREW_MAX; cpu++)
		if (cpu != ids[0] && thread_cpu_ready(cpu))
			ids[nr++] = cpu;
	return nr;
}

struct thread *crew_start(u32 cpu, const char *name, void (*fn)(void *arg), void *arg)
{
	struct thread *t = thread_start(cpu, name, fn, arg);

	if (!t)
		panic("thread %s cannot be started on CPU %u", name, cpu);
	return t;
}

void crew_join(struct thread *const *threads, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		CHECK_EQ(thread_join(threads[i]), 0);
}

#define LOOK_NS 500000u		/* between two looks whether all have ended */

static struct play {
	u32 gate;		/* open: nobody begins before all are there */
	u32 ended;
} play;

static void play_role(void *arg)
{
	const struct crew_role *role = arg;

	while (!load_acquire(&play.gate))
		thread_yield();
	role->fn((void *)role->arg);
	fetch_add(&play.ended, 1);
}

void crew_play(const struct crew_role *roles, unsigned nr)
{
	struct thread *threads[CREW_ROLES];
	u32 ids[CREW_MAX];
	unsigned cpus = crew_cpus(ids);

	assert(nr <= CREW_ROLES);
	play = (struct play){ 0 };
	for (unsigned i = 0; i < nr; i++)
		threads[i] = crew_start(ids[i % cpus], roles[i].name, play_role, (void *)&roles[i]);
	store_release(&play.gate, 1);
	while (load_acquire(&play.ended) < nr)
		thread_sleep(LOOK_NS);
	crew_join(threads, nr);
}
