/* SPDX-License-Identifier: MIT */
/*
 * Where the log is shown: serial port and screen, either of which may be absent (SPEC BT6).
 *
 * The log (kernel/base/log.h) is written to a ring in memory, and each console remembers how far it got. So one
 * that appears late, or did not take anything for a while, shows what it missed, up to the size of the ring.
 */
#ifndef KERNEL_CONSOLE_H
#define KERNEL_CONSOLE_H

#include "boot/boot_info.h"
#include "kernel/base/types.h"

struct console {
	const char *name;
	/*
	 * Show up to len bytes; returns how many. Fewer: it takes no more for now, and has waited for that at most once: it is given
	 * the rest when there is more to show. Any context.
	 */
	size_t (*write)(struct console *console, const char *text, size_t len);
	/* The next byte that was typed, -1 if there is none; never waits. NULL: a console to look at only. */
	int (*getc)(struct console *console);
	u64 lost;	/* times that getc found bytes lost */
	u64 cursor;	/* bytes of the log it has been given */
	u64 dropped;	/* those that were overwritten in the ring before it could take them */
	bool waiting;	/* it took less than it was given last */
	bool gone;	/* not to be called again */
	struct console *next;
};

/* Add a console. It is brought up to date at once. Task context. */
void console_register(struct console *console);

/* Give every console what it has not shown yet. Called by the log with its lock held. */
void console_flush(void);

/* Show text at every console that can be typed at. Called by the log with its lock held (log_echo). */
void console_echo(const char *text, size_t len);

/* The next byte typed at any console, -1 if there is none. Never waits. One caller at a time: the monitor. */
int console_getc(void);

/* Times so far that typed bytes were lost, because they came faster than they were fetched or were spoilt on the line. */
u64 console_lost(void);

/* Whether there is a console to type at. */
bool console_has_input(void);

/*
 * Name each console that has not shown all: what it dropped, and what it has not taken yet. Says nothing if all is well. Before the log's
 * last line.
 */
void console_say_dropped(void);

/* The screen, once ioremap() works, unless the command line wants none. The serial port: kernel/console_serial.h. */
void console_init_screen(const struct boot_framebuffer *fb);

#endif
