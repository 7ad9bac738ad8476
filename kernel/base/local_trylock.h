/* SPDX-License-Identifier: MIT */
/*
 * local_trylock: a per-CPU section that the interrupts and NMIs of the same CPU may try to enter (SPEC PA3).
 *
 * Who comes while it is occupied is told so and goes another way; nobody waits. It costs two plain stores and a test, no
 * atomic instruction, because of what interrupts are: whoever interrupts is done before the interrupted goes on.
 * So between finding it free and marking it, somebody may have been in it, but nobody can still be; and what it guards
 * is read behind the mark, not before.
 *
 * Three things make it work, and are the user's to keep:
 *  - it is of one CPU, and only that CPU touches it and what it guards;
 *  - nobody switches threads or moves to another CPU inside;
 *  - it is left in the context in which it was entered.
 */
#ifndef KERNEL_BASE_LOCAL_TRYLOCK_H
#define KERNEL_BASE_LOCAL_TRYLOCK_H

#include "kernel/base/atomic.h"
#include "kernel/base/types.h"

typedef struct {
	u32 busy;	/* 1: somebody on this CPU is inside */
} local_trylock_t;

/* Enter. False: whom this context interrupted is inside. Any context, on the CPU it is of. */
static inline bool local_trylock(local_trylock_t *lock)
{
	if (unlikely(load_relaxed(&lock->busy)))
		return false;
	store_relaxed(&lock->busy, 1);
	fence_signal();
	return true;
}

/* Leave. */
static inline void local_unlock(local_trylock_t *lock)
{
	fence_signal();
	store_relaxed(&lock->busy, 0);
}

/* Whether somebody is inside: for assertions, and for those who only look. */
static inline bool local_trylock_busy(const local_trylock_t *lock)
{
	return load_relaxed(&lock->busy);
}

#endif
