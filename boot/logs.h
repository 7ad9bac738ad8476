/* SPDX-License-Identifier: MIT */
/*
 * The log of the run before, from memory into a file, and memory for the log of the run that begins (docs/logs.md).
 */
#ifndef BOOT_LOGS_H
#define BOOT_LOGS_H

#include "boot/boot_info.h"

/* Take the memory that a log may be in, before anything else is allocated. */
void logs_hold(void);

/*
 * Write the log of the run before to \tangram\logs\NNNN.txt, and say so or why not; then make room for the next one, in info->log.
 * Under logs=off the memory is wiped and given back, and that is all. info: command line and entropy are there; the volume is open.
 */
void logs_keep(struct boot_info *info, void (*say)(const char *fmt, ...));

#endif
