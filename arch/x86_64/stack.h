/* SPDX-License-Identifier: MIT */
/* From one stack to another (entry.asm). */
#ifndef ARCH_X86_64_STACK_H
#define ARCH_X86_64_STACK_H

#include "kernel/base/types.h"

/*
 * Call fn(arg) on the stack that ends at top (16-byte aligned), and never come back: the stack the caller
 * runs on is free for other use as soon as fn runs.
 */
__noreturn void stack_switch_call(void *top, void (*fn)(void *arg), void *arg);

#endif
