/* SPDX-License-Identifier: MIT */
/* Four bits at a time: a table of 64 bytes is enough for what a log takes. */
#include "kernel/base/crc32.h"

/* What 4 bits that fall out on the right do to the rest: the polynomial, reflected, divided by them. */
static const u32 steps[16] = {
	0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
	0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
};

u32 crc32(u32 crc, const void *data, u64 size)
{
	const u8 *bytes = data;

	crc = ~crc;
	for (u64 i = 0; i < size; i++) {
		crc ^= bytes[i];
		crc = crc >> 4 ^ steps[crc & 15];
		crc = crc >> 4 ^ steps[crc & 15];
	}
	return ~crc;
}
