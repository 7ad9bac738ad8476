/* SPDX-License-Identifier: MIT */
/* Runtime services of the firmware, in a root of their own (SPEC BT7, PT5). */
#ifndef KERNEL_EFI_RUNTIME_H
#define KERNEL_EFI_RUNTIME_H

#include "boot/boot_info.h"
#include "kernel/base/types.h"

/* UEFI 2.10, 8.5.1: EFI_RESET_TYPE. */
enum efi_reset {
	EFI_RESET_COLD = 0,
	EFI_RESET_WARM = 1,
	EFI_RESET_SHUTDOWN = 2,
};

/*
 * Build the root: the firmware's runtime memory one to one, with the rights of its memory-attributes table. Where there is none,
 * its code is writable and executable, and registered with the audit as such. -ENOENT: no runtime services; -ENOSPC: more
 * ranges than there is room for; -ENOMEM. Without it efi_runtime_reset() does nothing. Once; task context.
 */
int efi_runtime_init(const struct boot_info *bi) __must_check;

/* ResetSystem(). Returns if the firmware did not do it. Task context, not to be used after a panic. */
void efi_runtime_reset(enum efi_reset type);

#endif
