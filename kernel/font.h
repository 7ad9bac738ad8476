/* SPDX-License-Identifier: MIT */
/* A font of 8x16 pixels for the printable characters of ASCII. */
#ifndef KERNEL_FONT_H
#define KERNEL_FONT_H

#include "kernel/base/types.h"

/* One row of pixels (0..15, from the top) of a character, the leftmost in bit 7. Any other one is a box. */
u8 font_row(char c, unsigned row);

#endif
