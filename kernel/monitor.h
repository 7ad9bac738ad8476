/* SPDX-License-Identifier: MIT */
/*
 * The monitor (SPEC RP3): commands typed at a console, once the run is through (end=monitor).
 *
 * A command is a row, in whatever file knows what it shows; the rows are pointers in the section `monitor_commands`, shown in
 * the order of their names. A command says what it found by log_info(), so that it is in the log and on every console; what was
 * wrong with its arguments it says by monitor_error(), and then has done nothing. docs/monitor.md shows a session.
 *
 *	static void run_peek(unsigned nr, char **args) { ... }
 *	MONITOR_COMMAND(peek) = { "peek", "VA", "the word at an address", .min = 1, .max = 1, .run = run_peek };
 */
#ifndef KERNEL_MONITOR_H
#define KERNEL_MONITOR_H

#include "kernel/base/types.h"
#include "kernel/cmdline.h"

#define MONITOR_ARGS_MAX 8u

struct monitor_command {
	const char *name;
	const char *args;	/* what `help` shows behind the name */
	const char *help;	/* one line of at most 48 characters */
	const char *more;	/* further lines for `help NAME`; may be NULL */
	u8 min, max;		/* arguments; at most MONITOR_ARGS_MAX */
	/* One of these. nr is in [min, max], and args[nr] NULL. Task context. */
	void (*run)(unsigned nr, char **args);
	void (*show)(void);	/* takes none */
	/* The i-th word that argument number arg (from 0) may be, NULL: no more. NULL: nothing is known of them. */
	const char *(*word)(unsigned arg, unsigned i);
};

#define MONITOR_COMMAND(name)                                                                          \
	static const struct monitor_command monitor_command_##name;                                    \
	static const struct monitor_command *const monitor_command_p_##name __used                     \
		__section("monitor_commands") = &monitor_command_##name;                               \
	static const struct monitor_command monitor_command_##name

/*
 * Read and run commands until one of them ends the monitor; returns how the run is to end: END_EXIT, END_REBOOT or
 * END_POWEROFF. At once END_EXIT, if there is no console to type at. Task context.
 */
enum cmdline_end monitor_run(void);

/* ---- For commands ---- */

/* "error: ..." */
void monitor_error(const char *fmt, ...) __printf(1, 2);

/*
 * A virtual address: hexadecimal digits, 0x or not; pa:DIGITS is a physical one, as the direct map has it. False: it is none, or
 * not canonical, and that has been said.
 */
bool monitor_address(const char *text, u64 *va) __must_check;

/* A number of bytes: decimal or 0x…, with K, M or G behind it. False: it is none, 0 or above max, and that has been said. */
bool monitor_size(const char *text, u64 max, u64 *bytes) __must_check;

/* Leave the monitor when the command returns. */
void monitor_end(enum cmdline_end how);

#endif
