/* SPDX-License-Identifier: MIT */
/* Real accesses by trap_try(). See trial.h. */
#include "tests/machine/trial.h"

#include "arch/x86_64/cpu.h"
#include "arch/x86_64/insn.h"

u64 trial_rip;

static void read_it(void *arg)
{
	(void)*(volatile u64 *)arg;
}

static void write_it(void *arg)
{
	*(volatile u64 *)arg = (u64)arg;
}

static void call_it(void *arg)
{
	((void (*)(void))arg)();
}

static u32 trial(void (*fn)(void *arg), u64 va)
{
	struct trap_record record;

	if (trap_try(fn, (void *)va, &record))
		return TRIAL_OK;
	trial_rip = record.rip;
	if (record.vector != TRAP_PAGE_FAULT || record.cr2 != va)
		return TRIAL_OTHER(record.vector);
	return record.error;
}

u32 trial_read(u64 va)
{
	return trial(read_it, va);
}

u32 trial_write(u64 va)
{
	return trial(write_it, va);
}

u32 trial_call(u64 va)
{
	return trial(call_it, va);
}

/* CPUID leaf 0x40000000 (QEMU, target/i386/cpu.c). */
bool trial_translated_by_qemu(void)
{
	struct cpuid_regs r;

	if (!cpu_has(CPU_HYPERVISOR))
		return false;
	r = insn_cpuid(0x40000000, 0);
	return r.ebx == 0x54474354 && r.ecx == 0x43544743 && r.edx == 0x47435447;	/* "TCGTCGTCGTCG" */
}
