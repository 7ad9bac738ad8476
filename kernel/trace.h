/* SPDX-License-Identifier: MIT */
/*
 * The trace of a run (kernel/base/trace.h): who gets a ring, and when the records are shown.
 */
#ifndef KERNEL_TRACE_H
#define KERNEL_TRACE_H

#include "kernel/base/trace.h"

/*
 * From now on record these events, and no others; each CPU that is online gets a ring, if it has none. Quiescent points. Task context.
 */
void trace_start(u32 mask);

/*
 * Give every CPU that is online a ring, and begin to record what the command line asks for. Nothing, if it asks for nothing. Task
 * context, memory is up; a CPU that comes up later records nothing.
 */
void trace_init(void);

/*
 * If the command line asks for it: stop, and write what the rings hold as `# trace` lines, oldest first; before that, for each
 * CPU, how much was recorded. Task context.
 */
void trace_dump(void);

/* The last records of each CPU, at most so many, for a panic and the monitor: no locks, no allocation, rings may still be written to. */
void trace_say_last(u64 last);

#endif
