/* SPDX-License-Identifier: MIT */
/* Names of addresses in the image, from the symbol table of kernel.elf, which the loader left in memory. */
#ifndef KERNEL_SYMBOLS_H
#define KERNEL_SYMBOLS_H

#include "boot/boot_info.h"
#include "kernel/base/types.h"

struct symbol {
	const char *name;
	u64 start;
	u64 size;
};

/*
 * Find the table in the file at boot_info.kernel_file. It is used where it lies: the memory must not be given away. -ENOEXEC:
 * no 64-bit ELF file, or its tables are not inside it; -ENOENT: it has no symbols.
 */
int symbols_init(const struct boot_info *bi) __must_check;

/* The function that address lies in. False: none. Any context. */
bool symbol_find(u64 address, struct symbol *out);

#endif
