/* SPDX-License-Identifier: MIT */
/*
 * The end of the line. panic() is for a broken invariant only; a bad argument, a lack of memory
 * or a bad file is an errno. Any context, NMI included.
 */
#ifndef KERNEL_BASE_PANIC_H
#define KERNEL_BASE_PANIC_H

#include "kernel/base/types.h"

__noreturn void panic(const char *fmt, ...) __printf(1, 2);

/* Inside: what the public function's checks have made sure of. Always on: it guards real memory. */
#define assert(cond)                                                                       \
	do {                                                                               \
		if (unlikely(!(cond)))                                                     \
			panic("assertion failed: %s (%s:%d)", #cond, __FILE__, __LINE__);  \
	} while (0)

/* Costs too much for a release build (CONFIG_DEBUG=0), or stands on a hot path. */
#define debug_assert(cond)          \
	do {                        \
		if (CONFIG_DEBUG)   \
			assert(cond); \
	} while (0)

#ifndef CONFIG_DEBUG
#define CONFIG_DEBUG 0
#endif

#endif
