/* SPDX-License-Identifier: MIT */
/* Who called whom, by the chain of frame pointers (-fno-omit-frame-pointer). */
#ifndef ARCH_X86_64_BACKTRACE_H
#define ARCH_X86_64_BACKTRACE_H

#include "kernel/base/types.h"

/*
 * Fill in the return addresses of the frames from rbp outward, innermost first; returns how many, at most max. It
 * ends at a frame pointer that is 0, not readable, or does not lie above the one before. Any context.
 */
unsigned backtrace(u64 rbp, u64 *addresses, unsigned max);

#endif
