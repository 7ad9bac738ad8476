/* SPDX-License-Identifier: MIT */
/*
 * Files of the volume that the loader was started from.
 *
 * Reasons for failure are phrases that go behind the file's name in a message: "is missing".
 * Source: UEFI 2.10, sections 13.4 and 13.5 (simple file system, file protocol).
 */
#ifndef BOOT_FILES_H
#define BOOT_FILES_H

#include <efi.h>

#include "boot/boot_info.h"

struct files_buffer {
	u64 pa;		/* of alloc_any(); 0: nothing read */
	u64 size;	/* bytes */
};

/* The volume on `device`. */
EFI_STATUS files_open_volume(EFI_BOOT_SERVICES *services, EFI_HANDLE device) __must_check;
void files_close_volume(void);

/*
 * Read a whole file, at most max bytes, into memory of its own. On an error *out is empty and why says
 * what is wrong; EFI_NOT_FOUND: there is no such file, EFI_BAD_BUFFER_SIZE: it is larger than max.
 */
EFI_STATUS files_read(const CHAR16 *path, u64 max, struct files_buffer *out, char *why, size_t why_size) __must_check;

/* Visit every file of a folder (not the folders in it), in the order the folder has them. */
EFI_STATUS files_list(const CHAR16 *path, void (*visit)(const CHAR16 *name, void *arg), void *arg, char *why,
		      size_t why_size) __must_check;

bool files_exists(const CHAR16 *path);

/* One that is there already is fine. */
EFI_STATUS files_make_folder(const CHAR16 *path, char *why, size_t why_size) __must_check;

/* A file that is not there yet, in a folder that is; on the medium when this returns. On an error there is no such file. */
EFI_STATUS files_write_new(const CHAR16 *path, const void *data, u64 size, char *why, size_t why_size) __must_check;

/* If it is there, and can be. */
void files_delete(const CHAR16 *path);

/*
 * Read the files of \tangram\modules\, in the order of their names, into info->modules. What cannot be had is
 * named through complain (NUL-terminated sentences) and left out. No such folder: no modules.
 */
void files_read_modules(struct boot_info *info, void (*complain)(const char *fmt, ...));

#endif
