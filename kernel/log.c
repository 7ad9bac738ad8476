/* SPDX-License-Identifier: MIT */
/*
 * The log: lines are built in the caller's frame, put into the ring whole, and shown by the consoles.
 *
 * Only one CPU at a time appends. A context that interrupted the log on its own CPU cannot wait for it: its line is
 * dropped and counted, and the next line that gets through says how many there were.
 */
#include "kernel/log.h"

#include "kernel/base/fmt.h"
#include "kernel/base/spinlock.h"
#include "kernel/base/string.h"
#include "kernel/console.h"

#define LINE_MAX 1024u	/* longer ones are cut, and end in "..." */

u64 log_warnings;

static char ring[LOG_RING_SIZE];
static u64 ring_end;		/* bytes ever written; the last LOG_RING_SIZE of them are in the ring */
static spinlock_t log_lock = SPINLOCK_INIT;
static bool lock_broken;
static u64 dropped;

size_t log_read(u64 *cursor, const char **text)
{
	u64 oldest = ring_end > LOG_RING_SIZE ? ring_end - LOG_RING_SIZE : 0;
	size_t len;

	if (*cursor < oldest)
		*cursor = oldest;
	*text = ring + *cursor % LOG_RING_SIZE;
	len = MIN(ring_end - *cursor, LOG_RING_SIZE - *cursor % LOG_RING_SIZE);
	*cursor += len;
	return len;
}

/* Control characters, from a file or a command line, would end the line or move a terminal's cursor. */
static char printable(char c)
{
	return (c >= 0 && c < ' ' && c != '\n' && c != '\t') || c == 0x7f ? '?' : c;
}

static void append(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		ring[(ring_end + i) % LOG_RING_SIZE] = printable(text[i]);
	ring_end += len;
}

static void append_line(const char *prefix, const char *line, size_t len)
{
	append(prefix, strlen(prefix));
	append(line, len);
	append("\n", 1);
}

static bool take_lock(void)
{
	if (lock_broken)
		return true;
	while (!spin_trylock(&log_lock)) {
		if (spin_held(&log_lock))
			return false;
		arch_relax();
	}
	return true;
}

static void drop_lock(void)
{
	if (!lock_broken)
		spin_unlock(&log_lock);
}

static void say_dropped(void)
{
	char line[64];
	u64 nr = __atomic_exchange_n(&dropped, 0, __ATOMIC_RELAXED);

	if (nr)
		append_line("# ", line, fmt_print(line, sizeof(line), "warning: %lu lines of the log lost", nr));
}

/* text may hold several lines: each gets the prefix. NULL: none, and the text goes out as it is. */
static void emit(const char *prefix, const char *text)
{
	if (!take_lock()) {
		__atomic_fetch_add(&dropped, 1, __ATOMIC_RELAXED);
		return;
	}
	say_dropped();
	for (;;) {
		const char *newline = prefix ? strchr(text, '\n') : NULL;

		append_line(prefix ? prefix : "", text, newline ? (size_t)(newline - text) : strlen(text));
		if (!newline)
			break;
		text = newline + 1;
	}
	console_flush();
	drop_lock();
}

static void emit_formatted(const char *prefix, const char *fmt, va_list args)
{
	char line[LINE_MAX];

	if (fmt_vprint(line, sizeof(line), fmt, args) >= sizeof(line))
		memcpy(line + sizeof(line) - 4, "...", 4);
	emit(prefix, line);
}

void log_flush(void)
{
	if (!take_lock())
		return;
	console_flush();
	drop_lock();
}

void log_break_lock(void)
{
	lock_broken = true;
	if (ring_end && ring[(ring_end - 1) % LOG_RING_SIZE] != '\n')
		append("\n", 1);
}

void log_info(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	emit_formatted("# ", fmt, args);
	va_end(args);
}

void log_warn(const char *fmt, ...)
{
	va_list args;

	__atomic_fetch_add(&log_warnings, 1, __ATOMIC_RELAXED);
	va_start(args, fmt);
	emit_formatted("# warning: ", fmt, args);
	va_end(args);
}

void log_vraw(const char *fmt, va_list args)
{
	emit_formatted(NULL, fmt, args);
}

void log_raw(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	log_vraw(fmt, args);
	va_end(args);
}
