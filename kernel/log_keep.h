/* SPDX-License-Identifier: MIT */
/*
 * The log in memory that outlives a reset (kernel/base/log_ring.h), as a console: whatever is logged is there when the call
 * that logged it returns. The loader of the next boot writes it to a file (docs/logs.md).
 */
#ifndef KERNEL_LOG_KEEP_H
#define KERNEL_LOG_KEEP_H

#include "boot/boot_info.h"

/* If the loader made room for it. The first console to be registered, so that none that hangs or faults comes before it. */
void log_keep_init(const struct boot_info *bi);

#endif
