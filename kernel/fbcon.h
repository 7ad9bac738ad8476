/* SPDX-License-Identifier: MIT */
/* Text on a linear framebuffer: cells of 8x16 pixels, white on black. */
#ifndef KERNEL_FBCON_H
#define KERNEL_FBCON_H

#include "boot/boot_info.h"
#include "kernel/console.h"

/* Whether there is a framebuffer, of a format and size that can be written to. */
bool fbcon_usable(const struct boot_framebuffer *fb);

/* Clear it and make a console of it. pixels: where it is mapped. Once. */
struct console *fbcon_init(const struct boot_framebuffer *fb, void *pixels);

#endif
