/* SPDX-License-Identifier: MIT */
/*
 * What the firmware knows and the kernel wants: ACPI's root, the memory-attributes table, the screen,
 * random bytes.
 */
#ifndef BOOT_TABLES_H
#define BOOT_TABLES_H

#include <efi.h>

#include "boot/boot_info.h"

/*
 * Fill rsdp, efi_*, framebuffer and entropy of info. Whatever is not there stays 0; only what is damaged, or does not
 * fit, is named through complain.
 */
void tables_collect(EFI_SYSTEM_TABLE *system, struct boot_info *info, void (*complain)(const char *fmt, ...));

#endif
