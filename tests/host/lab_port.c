/* SPDX-License-Identifier: MIT */
/* The lab's CPUs on the simulated machine: one after the other, so that a run with the same seed is the same run. */
#include "tests/host/arch_host.h"
#include "tests/lab/cpus.h"

int lab_cpus_start(void)
{
	return 0;
}

void lab_cpus_stop(void)
{
}

void lab_on_cpus(void (*fn)(void *arg), void *arg)
{
	u32 me = arch_this_cpu()->id;

	for_each_cpu(cpu, arch_cpus_online()) {
		host_cpu_set(cpu);
		fn(arg);
	}
	host_cpu_set(me);
}

u64 lab_interrupts_sent(void)
{
	u64 sum = 0;

	for (u32 cpu = 0; cpu < HOST_CPUS_MAX; cpu++)
		sum += host.shootdowns[cpu];
	return sum;
}
