/* SPDX-License-Identifier: MIT */
/*
 * A test-and-test-and-set spinlock that knows its holder.
 *
 * Task context only may spin; IRQ and NMI use spin_trylock (DESIGN: Contexts and locks), so no
 * lock ever needs interrupts off. Held locks are counted per CPU: waiting for a shootdown with one
 * held is a deadlock waiting to happen, and asserted against (TL1).
 */
#ifndef KERNEL_BASE_SPINLOCK_H
#define KERNEL_BASE_SPINLOCK_H

#include "kernel/base/arch_cpu.h"
#include "kernel/base/atomic.h"
#include "kernel/base/panic.h"

typedef struct {
	u32 holder;	/* CPU id + 1, or 0: free */
} spinlock_t;

#define SPINLOCK_INIT { 0 }

static inline bool spin_trylock(spinlock_t *lock)
{
	struct cpu_state *cpu = arch_this_cpu();
	u32 free = 0;

	if (!compare_exchange(&lock->holder, &free, cpu->id + 1))
		return false;
	cpu->locks_held++;
	return true;
}

static inline void spin_lock(spinlock_t *lock)
{
	struct cpu_state *cpu = arch_this_cpu();

	for (;;) {
		u32 free = 0;

		if (likely(compare_exchange(&lock->holder, &free, cpu->id + 1)))
			break;
		debug_assert(free != cpu->id + 1);	/* already ours: would spin for ever */
		while (load_relaxed(&lock->holder))
			arch_relax();
	}
	cpu->locks_held++;
}

static inline void spin_unlock(spinlock_t *lock)
{
	debug_assert(load_relaxed(&lock->holder) == arch_this_cpu()->id + 1);
	arch_this_cpu()->locks_held--;
	store_release(&lock->holder, 0);
}

/* Whether this CPU holds it. */
static inline bool spin_held(const spinlock_t *lock)
{
	return load_relaxed(&lock->holder) == arch_this_cpu()->id + 1;
}

#define assert_held(lock) debug_assert(spin_held(lock))

#endif
