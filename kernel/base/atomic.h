/* SPDX-License-Identifier: MIT */
/*
 * Memory shared between CPUs, between a CPU and its own interrupts, or with the page walker,
 * is touched through these. They are the compiler's builtins (C11 memory model) under short
 * names; hosted builds under ThreadSanitizer understand them as they are.
 */
#ifndef KERNEL_BASE_ATOMIC_H
#define KERNEL_BASE_ATOMIC_H

#include "kernel/base/types.h"

#define load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define fetch_add(p, v) __atomic_fetch_add((p), (v), __ATOMIC_ACQ_REL)
#define fetch_or(p, v) __atomic_fetch_or((p), (v), __ATOMIC_ACQ_REL)
#define fetch_and(p, v) __atomic_fetch_and((p), (v), __ATOMIC_ACQ_REL)
#define exchange_acquire(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQUIRE)
#define compare_exchange(p, expected, v) \
	__atomic_compare_exchange_n((p), (expected), (v), false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
/*
 * ThreadSanitizer has no model of fences. What is ordered by this one is atomic itself, so all that is needed there is the
 * instruction: an exchange with memory that nobody else looks at.
 */
#if defined(__SANITIZE_THREAD__)
#define ATOMIC_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ATOMIC_TSAN 1
#endif
#endif
#ifdef ATOMIC_TSAN
static inline void fence_full(void)
{
	static __thread u32 here;

	__atomic_exchange_n(&here, 1, __ATOMIC_SEQ_CST);
}
#else
#define fence_full() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif
/*
 * A number that one CPU at a time changes (its own, or under a lock) and others read with load_relaxed(): a figure for
 * reports, or a hint. On x86 an aligned word is read and written whole, so plain code does it, in one instruction.
 */
#ifdef ATOMIC_TSAN
#define counter_add(p, n) store_relaxed((p), load_relaxed(p) + (n))
#else
#define counter_add(p, n) ((void)(*(p) += (n)))
#endif
/* Orders this CPU against its own interrupts only: costs no instruction. */
#define fence_signal() __atomic_signal_fence(__ATOMIC_SEQ_CST)

#endif
