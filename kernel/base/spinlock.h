/* SPDX-License-Identifier: MIT */
/*
 * A test-and-test-and-set spinlock that knows its holder.
 *
 * Task context only may spin, with interrupts on; IRQ and NMI use spin_trylock (DESIGN: Contexts and locks), so no
 * lock ever needs interrupts off. Held locks are counted per CPU: waiting for a shootdown with one
 * held is a deadlock waiting to happen, and asserted against (TL1).
 *
 * Debug builds know the order in which locks are taken: a lock has a class, and one is never waited for while another of
 * its class, or of one further in, is held. To try is allowed in any order. And they assert that who has to wait can be interrupted.
 * Release builds have none of it.
 */
#ifndef KERNEL_BASE_SPINLOCK_H
#define KERNEL_BASE_SPINLOCK_H

#include "kernel/base/arch_cpu.h"
#include "kernel/base/atomic.h"
#include "kernel/base/panic.h"

typedef struct {
	u32 holder;	/* CPU id + 1, or 0: free */
#if CONFIG_DEBUG
	u32 class;	/* enum lock_class */
#endif
} spinlock_t;

#define SPINLOCK_INIT { 0 }

#if CONFIG_DEBUG
#define SPINLOCK_INIT_CLASS(class_) { 0, (class_) }

static inline void spin_set_class(spinlock_t *lock, enum lock_class class)
{
	lock->class = class;
}

static inline const char *lock_class_name(enum lock_class class)
{
	static const char *const names[LOCK_CLASSES] = { LOCK_CLASS_NAMES };

	return names[class];
}

/* Before a lock is waited for. */
static inline void lock_check_order(const struct cpu_state *cpu, const spinlock_t *lock)
{
	if (cpu->nesting != CPU_TASK)
		panic("a lock (%s) is waited for in an interrupt", lock_class_name(lock->class));
	for (u32 held = lock->class; lock->class && held < LOCK_CLASSES; held++)
		if (cpu->held[held])
			panic("lock order: %s is taken while %s is held", lock_class_name(lock->class),
			      lock_class_name(held));
}

/*
 * Somebody has the lock. Who waits for it must answer meanwhile: the holder may lead a rendezvous with the very lock held, or stand in
 * one, and that waits for every CPU that is up (rendezvous.c); nor would a shootdown end that a third CPU waits for.
 */
static inline void lock_check_wait(const struct cpu_state *cpu, const spinlock_t *lock)
{
	if (!arch_irqs_enabled() && cpumask_has(arch_cpus_online(), cpu->id))
		panic("a lock (%s) that somebody holds is waited for with interrupts off", lock_class_name(lock->class));
}

static inline void lock_note(struct cpu_state *cpu, const spinlock_t *lock, int by)
{
	cpu->locks_held += (u32)by;
	cpu->held[lock->class] = (u8)(cpu->held[lock->class] + by);
}
#else
#define SPINLOCK_INIT_CLASS(class_) { 0 }
#define spin_set_class(lock, class_) ((void)0)
#define lock_check_order(cpu, lock) ((void)0)
#define lock_check_wait(cpu, lock) ((void)0)
#define lock_note(cpu, lock, by) ((void)((cpu)->locks_held += (u32)(by)))
#endif

static inline bool spin_trylock(spinlock_t *lock)
{
	struct cpu_state *cpu = arch_this_cpu();
	u32 free = 0;

	if (!compare_exchange(&lock->holder, &free, cpu->id + 1))
		return false;
	lock_note(cpu, lock, 1);
	return true;
}

static inline void spin_lock(spinlock_t *lock)
{
	struct cpu_state *cpu = arch_this_cpu();

	lock_check_order(cpu, lock);
	for (;;) {
		u32 free = 0;

		if (likely(compare_exchange(&lock->holder, &free, cpu->id + 1)))
			break;
		debug_assert(free != cpu->id + 1);	/* already ours: would spin for ever */
		lock_check_wait(cpu, lock);
		while (load_relaxed(&lock->holder))
			arch_relax();
	}
	lock_note(cpu, lock, 1);
}

static inline void spin_unlock(spinlock_t *lock)
{
	debug_assert(load_relaxed(&lock->holder) == arch_this_cpu()->id + 1);
	lock_note(arch_this_cpu(), lock, -1);
	store_release(&lock->holder, 0);
}

/* Whether this CPU holds it. */
static inline bool spin_held(const spinlock_t *lock)
{
	return load_relaxed(&lock->holder) == arch_this_cpu()->id + 1;
}

#define assert_held(lock) debug_assert(spin_held(lock))

#endif
