/* SPDX-License-Identifier: MIT */
/*
 * Text on a linear framebuffer: cells of 8x16 pixels, white on black. The log scrolls between a line at the bottom, which says how far
 * the run is, and, at the end of it, its result in large letters at the top. Without a screen all of this does nothing.
 */
#ifndef KERNEL_FBCON_H
#define KERNEL_FBCON_H

#include "boot/boot_info.h"
#include "kernel/console.h"

/* Whether there is a framebuffer, of a format and size that can be written to. */
bool fbcon_usable(const struct boot_framebuffer *fb);

/* Clear it and make a console of it. pixels: where it is mapped. Once. */
struct console *fbcon_init(const struct boot_framebuffer *fb, void *pixels);

/* The line at the bottom: stays until the next one. One caller at a time. */
void fbcon_status(const char *text);

/*
 * PASS, FAIL or SKIP, as large as a quarter of the screen, two lines under it, and the last of the log under them; the log goes on there. Not
 * on a screen of a few lines only.
 */
enum verdict { VERDICT_PASS, VERDICT_FAIL, VERDICT_SKIP };
void fbcon_verdict(enum verdict verdict, const char *first, const char *second);

#endif
