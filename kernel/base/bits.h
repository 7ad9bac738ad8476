/* SPDX-License-Identifier: MIT */
/* Arithmetic on powers of two. `align` is always a power of two. */
#ifndef KERNEL_BASE_BITS_H
#define KERNEL_BASE_BITS_H

#include "kernel/base/types.h"

#define BIT(n) (1ull << (n))

static inline u64 align_down(u64 x, u64 align)
{
	return x & ~(align - 1);
}

static inline u64 align_up(u64 x, u64 align)
{
	return (x + align - 1) & ~(align - 1);
}

static inline bool is_aligned(u64 x, u64 align)
{
	return (x & (align - 1)) == 0;
}

static inline bool is_power_of_two(u64 x)
{
	return x && (x & (x - 1)) == 0;
}

/* The highest set bit; x must not be 0. */
static inline unsigned log2_floor(u64 x)
{
	return 63u - (unsigned)__builtin_clzll(x);
}

/* The smallest n with 2^n >= x; x must not be 0. */
static inline unsigned log2_ceil(u64 x)
{
	return x == 1 ? 0 : log2_floor(x - 1) + 1;
}

#endif
