/* SPDX-License-Identifier: MIT */
/*
 * The CRC-32 of Ethernet, gzip and GPT (ISO 3309: polynomial 0x04c11db7, reflected, all ones before and after): that of
 * zlib's crc32(), so what is checked by it here can be checked by any other tool.
 */
#ifndef KERNEL_BASE_CRC32_H
#define KERNEL_BASE_CRC32_H

#include "kernel/base/types.h"

/* Of all that gave `crc`, with size more bytes behind it. Begin with 0. */
u32 crc32(u32 crc, const void *data, u64 size);

#endif
