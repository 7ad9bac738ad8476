/* SPDX-License-Identifier: MIT */
/*
 * Memory from the firmware, all of type EfiLoaderData, and a ledger of it: when loading fails, everything
 * goes back in one call.
 */
#ifndef BOOT_ALLOC_H
#define BOOT_ALLOC_H

#include <efi.h>

#include "kernel/base/range.h"
#include "kernel/base/types.h"

void alloc_init(EFI_BOOT_SERVICES *services);

/* At least size bytes (0 gets a page), page-aligned, content undefined. Where firmware likes. */
EFI_STATUS alloc_any(u64 size, u64 *pa) __must_check;
/* The same at this page-aligned address. EFI_NOT_FOUND: it is not free. */
EFI_STATUS alloc_at(u64 size, u64 pa) __must_check;
/* What alloc_any() or alloc_at() gave, whole. pa = 0: nothing happens. */
void alloc_free(u64 pa);
void alloc_free_all(void);

/* All that is allocated: begin with *cursor 0; false: no more. */
bool alloc_next(unsigned *cursor, struct range *out);

#endif
