/* SPDX-License-Identifier: MIT */
/*
 * The log: lines are built in the caller's frame, put into the ring whole, and shown by the consoles.
 *
 * Only one CPU at a time appends: a text of several lines stays in one piece. A task waits for its turn with interrupts on, so that it
 * goes on answering other CPUs. Nobody else waits: not an interrupt or an NMI, which may have interrupted the log itself, nor
 * who has interrupts off, whom the CPU that writes may be waiting for. Such a text is set aside in a place of its own, taken and
 * passed on without a lock, and goes out when the one who writes is done, at the latest. When there is no place left, it is
 * dropped and counted, and the next line that gets through says how many there were.
 */
#include "kernel/log.h"

#include "kernel/base/atomic.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/spinlock.h"
#include "kernel/base/string.h"
#include "kernel/console.h"

#define LINE_MAX 1024u	/* longer ones are cut, and end in "..." */
#define ASIDE_PLACES 64u

/* A text whose author could not wait. */
struct aside {
	struct aside *next;
	const char *prefix;
	char text[LINE_MAX];
};

u64 log_warnings;

static char ring[LOG_RING_SIZE];
static u64 ring_end;		/* bytes ever written; the last LOG_RING_SIZE of them are in the ring */
static spinlock_t log_lock = SPINLOCK_INIT;
static u32 broken_by;		/* CPU id + 1, or 0: the only one that still writes, without a lock */
static u64 dropped;
static struct aside asides[ASIDE_PLACES];
static u64 asides_used;		/* a bit per place */
static struct aside *aside_last;	/* to go out: a stack that anyone pushes to, and who writes takes whole */

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

/* ---- Whose turn it is ---- */

/* Whether this context may stand still until another CPU has written what it has to. */
static bool may_wait(void)
{
	return arch_this_cpu()->nesting == CPU_TASK && arch_irqs_enabled() && !spin_held(&log_lock);
}

static bool try_lock(void)
{
	u32 owner = load_acquire(&broken_by);

	return owner ? owner == arch_this_cpu()->id + 1 : spin_trylock(&log_lock);
}

static bool take_lock(void)
{
	while (!try_lock()) {
		if (!may_wait())
			return false;
		arch_relax();
	}
	return true;
}

/* ---- Set aside ---- */

/* Any context, one inside another too. False: no place. */
static bool set_aside(const char *prefix, const char *text)
{
	u64 used = load_relaxed(&asides_used);
	struct aside *a;

	do {
		if (used == ~0ull)
			return false;
	} while (!compare_exchange(&asides_used, &used, used | (used + 1)));
	a = &asides[__builtin_ctzll(~used)];
	a->prefix = prefix;
	memcpy(a->text, text, strlen(text) + 1);
	a->next = load_relaxed(&aside_last);
	while (!compare_exchange(&aside_last, &a->next, a))
		;
	return true;
}

/* ---- With the lock held ---- */

static void say_dropped(void)
{
	char line[64];
	u64 nr = __atomic_exchange_n(&dropped, 0, __ATOMIC_RELAXED);

	if (nr)
		append_line("# ", line, fmt_print(line, sizeof(line), "warning: %lu lines of the log lost", nr));
}

/* text may hold several lines: each gets the prefix. NULL: none, and the text goes out as it is. */
static void append_text(const char *prefix, const char *text)
{
	for (;;) {
		const char *newline = prefix ? strchr(text, '\n') : NULL;

		append_line(prefix ? prefix : "", text, newline ? (size_t)(newline - text) : strlen(text));
		if (!newline)
			break;
		text = newline + 1;
	}
}

/* What was set aside, the first one first. */
static void append_asides(void)
{
	struct aside *a = exchange_acquire(&aside_last, NULL), *ordered = NULL;

	while (a) {
		struct aside *next = a->next;

		a->next = ordered;
		ordered = a;
		a = next;
	}
	for (; ordered; ordered = a) {
		a = ordered->next;
		append_text(ordered->prefix, ordered->text);
		fetch_and(&asides_used, ~BIT(ordered - asides));
	}
}

/* Let go. Who set something aside after the last look found the lock taken: so look again once it is free. */
static void drop_lock(void)
{
	do {
		append_asides();
		say_dropped();
		console_flush();
		if (load_relaxed(&broken_by))
			return;
		spin_unlock(&log_lock);
		fence_full();
	} while (load_relaxed(&aside_last) && try_lock());
}

static void emit(const char *prefix, const char *text)
{
	if (take_lock()) {
		append_asides();	/* perhaps this author's, from while the lock was taken: it has only just become free */
		append_text(prefix, text);
		drop_lock();
		return;
	}
	if (!set_aside(prefix, text)) {
		__atomic_fetch_add(&dropped, 1, __ATOMIC_RELAXED);
		return;
	}
	/* Perhaps the lock has become free since. */
	fence_full();
	if (try_lock())
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
	if (take_lock())
		drop_lock();
}

void log_echo(const char *text, size_t length)
{
	if (!take_lock())
		return;
	console_flush();
	console_echo(text, length);
	drop_lock();
}

void log_break_lock(void)
{
	store_release(&broken_by, arch_this_cpu()->id + 1);
	if (ring_end && ring[(ring_end - 1) % LOG_RING_SIZE] != '\n')
		append("\n", 1);
}

u64 log_end(void)
{
	return load_acquire(&ring_end);
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
