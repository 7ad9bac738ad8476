/* SPDX-License-Identifier: MIT */
/*
 * The seeded generator of every test and workload: splitmix64 (Steele, Lea, Flood: Fast splittable
 * pseudorandom number generators, OOPSLA 2014). Not for secrets.
 */
#ifndef KERNEL_BASE_RNG_H
#define KERNEL_BASE_RNG_H

#include "kernel/base/types.h"

struct rng {
	u64 state;
};

static inline u64 rng_next(struct rng *r)
{
	u64 z = (r->state += 0x9E3779B97F4A7C15ull);

	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
	return z ^ (z >> 31);
}

/* Uniform in [0, n), n up to 2^32. */
static inline u64 rng_below(struct rng *r, u64 n)
{
	return ((rng_next(r) >> 32) * n) >> 32;
}

#endif
