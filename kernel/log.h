/* SPDX-License-Identifier: MIT */
/* The other end of kernel/base/log.h: what consoles and the panic code need of it. */
#ifndef KERNEL_LOG_H
#define KERNEL_LOG_H

#include "kernel/base/log.h"

#define LOG_RING_SIZE (256 * KIB)

/*
 * The next piece of the log behind *cursor, in *text; returns its length and moves the cursor, 0 at the end. A cursor
 * that has been overtaken goes on with the oldest byte there is. Called under the log's lock (console_flush).
 */
size_t log_read(u64 *cursor, const char **text);

/* The cursor of the next byte to be written. Any context. */
u64 log_end(void);

/* Bring every console up to date. Task context. */
void log_flush(void);

/*
 * Show text at the consoles that can be typed at, behind what the log holds but without being part of it: for the line that is being
 * edited. Task context.
 */
void log_echo(const char *text, size_t length);

/*
 * From now on only this CPU logs, and takes no lock. For panic(), which may have interrupted the log itself; the line that was
 * being written ends where it was.
 */
void log_break_lock(void);

#endif
