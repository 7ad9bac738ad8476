/* SPDX-License-Identifier: MIT */
/* The port under the benchmarks: see arch_bench.c. */
#ifndef TESTS_HOST_BENCH_ARCH_BENCH_H
#define TESTS_HOST_BENCH_ARCH_BENCH_H

#include "kernel/base/arch_cpu.h"
#include "kernel/base/types.h"

#define BENCH_CPUS 8u

/* Instructions that a machine would have executed to invalidate. */
extern u64 arch_bench_flushes;

/* From now on this thread is that CPU (below BENCH_CPUS); before, CPU 0. */
void arch_bench_use_cpu(u32 cpu);

/*
 * Make room for the struct pages of `frames` frames from physical 0 on, all of them PAGE_RESERVED, and forget what
 * the page allocator had. arch_mm.direct_base becomes `direct_base`: 0 if nobody looks into frames.
 */
void arch_bench_memory(u64 frames, u64 direct_base);

#endif
