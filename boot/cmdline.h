/* SPDX-License-Identifier: MIT */
/*
 * The kernel command line from what people and firmware write: UTF-8 files with or without a byte-order
 * mark, UTF-16 load options. One form comes out: one line, words parted by single spaces.
 *
 * Nothing here knows the firmware, so the same object is tested and fuzzed as a Linux program.
 */
#ifndef BOOT_CMDLINE_H
#define BOOT_CMDLINE_H

#include "kernel/base/types.h"

/* A file beyond this is not even read: a command line of BOOT_CMDLINE_MAX has no use for more white space. */
#define CMDLINE_FILE_MAX (64 * KIB)

/*
 * Clean len bytes of UTF-8 into out (NUL-terminated, size bytes). Returns the length without the NUL, or -EINVAL, *out
 * empty and *why a phrase for "is ignored: %s": not text, or too long.
 */
int cmdline_from_utf8(const void *text, u64 len, char *out, u64 size, const char **why) __must_check;

/*
 * The same from UTF-16 (little-endian), which ends at the first NUL, if there is one. Binary data of the firmware's is
 * told from text by its first character: text begins with an ASCII one. A first word that ends in ".efi" is the
 * loader's own name, as a shell of version 1 passes it, and is dropped.
 */
int cmdline_from_utf16(const void *text, u64 len, char *out, u64 size, const char **why) __must_check;

/* Whether the last word of a clean line that begins with key and "=" is "key=value". */
bool cmdline_says(const char *line, const char *key, const char *value);

#endif
