/* SPDX-License-Identifier: MIT */
/*
 * What the loader says: the firmware's console, and the serial port besides unless that console reaches it.
 */
#ifndef BOOT_CONSOLE_H
#define BOOT_CONSOLE_H

#include <efi.h>

#include "kernel/base/types.h"

/* Before anything else. */
void console_init(EFI_SYSTEM_TABLE *system);

/* One line, "tangram: " before it. At most 500 bytes; ASCII, anything else shows as '?'. */
void console_line(const char *fmt, ...) __printf(1, 2);

/* From the first call of ExitBootServices() on only the serial port may be used, even if that call failed. */
void console_leave_firmware(void);

#endif
