/* SPDX-License-Identifier: MIT */
/*
 * Which serial port is the console (SPEC BT6): the first of these that has a UART: the command line's, SPCR's, DBG2's, PCI functions of
 * class 07/00, port 0x3f8.
 */
#ifndef KERNEL_CONSOLE_SERIAL_H
#define KERNEL_CONSOLE_SERIAL_H

#include "boot/boot_info.h"

/*
 * Before anything else is up. which: console= (kernel/console_choice.h); a bad one is named in the log and counts as not
 * given. An I/O port that it names is the console from here on. Else 0x3f8 is, until the tables of the machine have been
 * read: what comes before that must be seen, too.
 */
void console_serial_early(const char *which);

/*
 * Find the console, unless that is settled. Once, after acpi_init(); task context. Whichever it is gets the log from its beginning, but
 * for what it was sent already.
 */
void console_serial_find(const struct boot_info *bi);

/* Whether the command line wants a console on the screen. */
bool console_wants_screen(void);

#endif
