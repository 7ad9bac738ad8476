/* SPDX-License-Identifier: MIT */
/* The list of consoles, and how the serial one is found. */
#include "kernel/console.h"

#include "arch/x86_64/serial.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "kernel/cmdline.h"
#include "kernel/fbcon.h"
#include "kernel/log.h"
#include "mm/vmalloc.h"

static struct console *consoles;
static struct serial serial;

static const struct {
	const char *name;
	u16 port;
} com_ports[] = { { "com1", 0x3f8 }, { "com2", 0x2f8 }, { "com3", 0x3e8 }, { "com4", 0x2e8 } };

void console_flush(void)
{
	for (struct console *c = consoles; c; c = c->next) {
		const char *text;
		size_t len;

		while (!c->gone && (len = log_read(&c->cursor, &text)))
			c->gone = !c->write(c, text, len);
	}
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
			c->gone = !c->write(c, text, len);
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

static bool serial_console_write(struct console *console, const char *text, size_t len)
{
	(void)console;
	return serial_write(&serial, text, len);
}

static int serial_console_getc(struct console *console)
{
	int c = serial_getc(&serial);

	console->lost = serial.lost;
	return c;
}

/* com1, 0x3f8, com1,115200: false if the text is none of these. */
static bool parse_serial(const char *which, u16 *port, u32 *baud)
{
	char name[16];
	const char *comma = strchr(which, ',');
	size_t len = comma ? (size_t)(comma - which) : strlen(which);
	u64 number;

	*baud = 0;
	if (comma) {
		if (!cmdline_number(comma + 1, &number) || !number || number > SERIAL_BAUD_MAX ||
		    SERIAL_BAUD_MAX % number)
			return false;
		*baud = (u32)number;
	}
	if (len >= sizeof(name))
		return false;
	memcpy(name, which, len);
	name[len] = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(com_ports); i++) {
		if (strcmp(name, com_ports[i].name) == 0) {
			*port = com_ports[i].port;
			return true;
		}
	}
	if (strncmp(name, "0x", 2) != 0 || !cmdline_number(name, &number) || !number || number > 0xfff8)
		return false;
	*port = (u16)number;
	return true;
}

void console_init_serial(const char *which)
{
	static struct console console = { .name = "serial", .write = serial_console_write,
					  .getc = serial_console_getc };
	u16 port = com_ports[0].port;
	u32 baud = 0;

	if (strcmp(which, "none") == 0)
		return;
	if (*which && !parse_serial(which, &port, &baud)) {
		log_warn("command line: bad value in console=%s, com1 is used", which);
		port = com_ports[0].port;
		baud = 0;
	}
	if (!serial_init(&serial, port, baud)) {
		log_warn("console: no UART at port 0x%x", port);
		return;
	}
	console_register(&console);
}

void console_init_screen(const struct boot_framebuffer *fb)
{
	void *pixels;

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
