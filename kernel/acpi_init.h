/* SPDX-License-Identifier: MIT */
/* ACPI's tables of this machine: how they are reached (SPEC BT4, VA1). */
#ifndef KERNEL_ACPI_INIT_H
#define KERNEL_ACPI_INIT_H

#include "boot/boot_info.h"
#include "kernel/acpi.h"

/*
 * Fill `acpi` (kernel/acpi.h), and say in the log what was found. Once, in task context, after memory_init(); needs
 * the loader's memory map in bi. Never fails: what is missing stays "none".
 */
void acpi_init(const struct boot_info *bi);

/*
 * The two halves of a struct acpi_source on this machine: a read-only area (VA1), write-back where the MTRRs have nothing
 * against it, of memory that the firmware's map lists. NULL for what it does not list, for device registers, for unusable
 * and not accepted memory: reading there may have effects, or never end. After acpi_init(); task context.
 */
const void *acpi_init_map(struct acpi_source *source, u64 pa, u64 size);
void acpi_init_unmap(struct acpi_source *source, const void *p);

#endif
