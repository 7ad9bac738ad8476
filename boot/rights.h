/* SPDX-License-Identifier: MIT */
/*
 * The rights that the firmware's own page tables give to the loader's memory: none of it shall be writable and
 * executable (what NX_COMPAT in the image's header promises).
 *
 * Firmware that enforces rights gives memory of type EfiLoaderData without execution, and maps each section of the image as
 * its header says: then nothing is left to do. Other firmware may map everything with all rights; where it has
 * EFI_MEMORY_ATTRIBUTE_PROTOCOL, they are taken away by that. Without it they stay, and are counted. In no case does the kernel
 * need more: its image is data until the boot root is loaded, and the jump is part of the loader's .text.
 *
 * Nothing here knows the firmware but by that protocol, so the same object is tested as a Linux program.
 */
#ifndef BOOT_RIGHTS_H
#define BOOT_RIGHTS_H

#include "kernel/base/range.h"
#include "kernel/base/types.h"

#define RIGHTS_XP 0x4000ull	/* EFI_MEMORY_XP: not executable */
#define RIGHTS_RO 0x20000ull	/* EFI_MEMORY_RO: not writable */

#define RIGHTS_CODE RIGHTS_RO
#define RIGHTS_DATA RIGHTS_XP
#define RIGHTS_CONSTANTS (RIGHTS_RO | RIGHTS_XP)

/* EFI_MEMORY_ATTRIBUTE_PROTOCOL (UEFI 2.10). Addresses and lengths are whole pages; a status of 0 is success. */
struct rights_protocol {
	u64(__attribute__((ms_abi)) * get)(struct rights_protocol *self, u64 base, u64 length, u64 *attributes);
	u64(__attribute__((ms_abi)) * set)(struct rights_protocol *self, u64 base, u64 length, u64 attributes);
	u64(__attribute__((ms_abi)) * clear)(struct rights_protocol *self, u64 base, u64 length, u64 attributes);
};

/* NULL: the firmware has none, nothing is changed. */
void rights_init(struct rights_protocol *protocol);

/*
 * Give pages these rights (XP and RO of them), without any moment in which they are writable and executable if they were not
 * before. What cannot be changed stays as it is.
 */
void rights_set(struct range pa, u64 rights);

/* Give back what pages had before rights_set(): before the firmware gets them back, and hands them to others. */
void rights_restore(struct range pa);

/*
 * rights_set() for a loaded PE image, by the sections of its header. False: the header is none, nothing is changed.
 */
bool rights_set_image(struct range pa);

/* Ranges that were changed so far, and are not restored. */
u32 rights_changed(void);

/* How tables are read: the firmware's, which map their own memory one to one. */
struct rights_tables {
	u64 root;
	unsigned levels;
	bool nx;	/* whether entries may say NX */
};

/* Bytes of the pages of pa, one to one, that these tables let everybody write and execute. */
u64 rights_writable_executable(const struct rights_tables *tables, struct range pa);

#endif
