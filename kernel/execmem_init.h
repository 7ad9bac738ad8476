/* SPDX-License-Identifier: MIT */
/* Where executable memory lies, and what it starts with (SPEC XM5, XM6, BT3). */
#ifndef KERNEL_EXECMEM_INIT_H
#define KERNEL_EXECMEM_INIT_H

#include "boot/boot_info.h"

/*
 * Ranges, the text tail, the random base and the policy of the command line, for execmem_init(). After
 * memory_init(). Panics if that fails.
 */
void execmem_boot(const struct boot_info *bi);

#endif
