/* SPDX-License-Identifier: MIT */
/* The list of consoles. */
#include "kernel/console.h"

#include "kernel/base/log.h"
#include "kernel/console_serial.h"
#include "kernel/fbcon.h"
#include "kernel/log.h"
#include "mm/vmalloc.h"

static struct console *consoles;

/*
 * Whether the console took all there is. What it did not take stays in the ring. What is behind the cursor when the ring
 * is read was overwritten meanwhile.
 */
static bool flush(struct console *c)
{
	const char *text;
	size_t len, taken;
	u64 before;

	for (;;) {
		before = c->cursor;
		len = log_read(&c->cursor, &text);
		if (!len)
			return true;
		c->dropped += c->cursor - len - before;
		taken = c->write(c, text, len);
		c->cursor -= len - taken;
		if (taken < len)
			return false;
	}
}

/* What is said here goes out when the others have been flushed, and the log comes back here for it. */
void console_flush(void)
{
	for (struct console *c = consoles; c; c = c->next) {
		bool waited = c->waiting;

		if (c->gone)
			continue;
		c->waiting = !flush(c);
		if (c->waiting && !waited)
			log_warn("console: %s takes no characters: the log waits for it", c->name);
		else if (waited && !c->waiting)
			log_info("console: %s takes characters again, %lu were dropped so far", c->name, c->dropped);
	}
}

void console_say_dropped(void)
{
	for (struct console *c = consoles; c; c = c->next)
		if (!c->gone && (c->dropped || c->waiting))
			log_warn("console: %s: %lu characters dropped, %lu never taken", c->name, c->dropped,
				 c->waiting ? log_end() - c->cursor : 0);
}

void console_register(struct console *console)
{
	struct console **last = &consoles;

	while (*last)
		last = &(*last)->next;
	console->next = NULL;
	*last = console;
	log_flush();
}

/* Whether it can be typed at, and what comes of it can be seen. */
static bool is_terminal(const struct console *c)
{
	return c->getc && !c->gone;
}

void console_echo(const char *text, size_t len)
{
	for (struct console *c = consoles; c; c = c->next)
		if (is_terminal(c))
			c->dropped += len - c->write(c, text, len);
}

int console_getc(void)
{
	for (struct console *c = consoles; c; c = c->next) {
		int byte = is_terminal(c) ? c->getc(c) : -1;

		if (byte >= 0)
			return byte;
	}
	return -1;
}

u64 console_lost(void)
{
	u64 lost = 0;

	for (struct console *c = consoles; c; c = c->next)
		lost += c->lost;
	return lost;
}

bool console_has_input(void)
{
	for (struct console *c = consoles; c; c = c->next)
		if (is_terminal(c))
			return true;
	return false;
}

void console_init_screen(const struct boot_framebuffer *fb)
{
	void *pixels;

	if (!console_wants_screen()) {
		log_info("console: no screen: the command line wants none");
		return;
	}
	if (!fbcon_usable(fb)) {
		log_info("console: no usable framebuffer");
		return;
	}
	pixels = ioremap(fb->pa, fb->size, IOREMAP_WC);
	if (!pixels) {
		log_warn("console: framebuffer at 0x%lx cannot be mapped", fb->pa);
		return;
	}
	console_register(fbcon_init(fb, pixels));
}
