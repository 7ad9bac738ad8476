/* SPDX-License-Identifier: MIT */
/*
 * The log: whole lines to the serial console, the screen and the ring that survives a reset.
 * The format is KTAP 1 with `# ` diagnostics (SPEC RP1): what is not a test result goes out as a
 * diagnostic line, so that nothing a component says can break the parse.
 *
 * Any context, NMI too, on any number of CPUs: a text goes out in one piece, at once or, from a context that must not wait,
 * when whoever writes at the time is done (kernel/log.c).
 */
#ifndef KERNEL_BASE_LOG_H
#define KERNEL_BASE_LOG_H

#include <stdarg.h>

#include "kernel/base/types.h"

/* One diagnostic: "# " is put before it and a newline behind it. Newlines inside start a new "# ". */
void log_info(const char *fmt, ...) __printf(1, 2);

/* The same, led by "# warning: ". Counted (log_warnings). */
void log_warn(const char *fmt, ...) __printf(1, 2);

/* A line exactly as given (a test result, a plan); the newline is added. For tests/report.c. */
void log_raw(const char *fmt, ...) __printf(1, 2);
void log_vraw(const char *fmt, va_list args);

extern u64 log_warnings;

#endif
