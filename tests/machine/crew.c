/* SPDX-License-Identifier: MIT */
/* Threads for tests. See crew.h. */
#include "tests/machine/crew.h"

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
