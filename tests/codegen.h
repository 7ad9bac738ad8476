/* SPDX-License-Identifier: MIT */
/*
 * Functions of x86 code, made up: what is loaded, called and unloaded by the tests and the lab of executable memory. What
 * such a function returns depends on every instruction in it, so a byte that is wrong anywhere is seen.
 */
#ifndef TESTS_CODEGEN_H
#define TESTS_CODEGEN_H

#include "kernel/base/rng.h"
#include "kernel/base/types.h"

#define CODEGEN_MIN 32u	/* bytes: the least that a function takes */

/* What generated code may call: takes and returns 32 bits. */
typedef u32 (*codegen_callee)(u32 value);

/*
 * A function of `size` bytes, u32 f(void), into buf. callee: what it calls, with what it computed, and whose answer it
 * returns; NULL: nobody, then the code may lie anywhere. va: where it will lie, within 2 GiB of the callee. *before: what it
 * computed; without a callee that is what it returns.
 */
void codegen_function(struct rng *rng, u8 *buf, u64 size, u64 va, codegen_callee callee, u32 *before);

#endif
