/* SPDX-License-Identifier: MIT */
/* Console (BT6): ports without a UART, a UART that stopped, glyphs and the framebuffer's bounds; symbols (RP4). */
#include "kernel/console.h"

#include "arch/x86_64/insn.h"
#include "arch/x86_64/serial.h"
#include "kernel/base/string.h"
#include "kernel/fbcon.h"
#include "kernel/font.h"
#include "kernel/symbols.h"
#include "tests/test.h"

/*
 * Page registers of the old DMA controller (channels 3 and 0): bytes that keep what is written and do nothing by
 * themselves. Seen as a UART, the second is its line status register.
 */
#define DMA_PAGE_PORT 0x82
#define NO_DEVICE_PORT 0x3e0
#define UART_LSR 5

TEST_ID(console, no_uart_is_seen, "BT6")
{
	struct serial serial;

	if (insn_inb(NO_DEVICE_PORT + UART_LSR) != 0xff)
		SKIP("something answers at port 0x%x", NO_DEVICE_PORT);
	CHECK(!serial_init(&serial, NO_DEVICE_PORT, 0));
}

/* Scratch register and all, but the transmitter never gets empty: one bounded wait, then nothing is sent at all. */
TEST_ID(console, stuck_uart_does_not_hang, "BT6")
{
	struct serial serial = { .port = DMA_PAGE_PORT, .fifo = 16 };
	u32 reads;

	insn_outb(DMA_PAGE_PORT + UART_LSR, 0);
	if (insn_inb(DMA_PAGE_PORT + UART_LSR) != 0)
		SKIP("no DMA page registers");
	CHECK(!serial_write(&serial, "stuck", 5));
	CHECK(serial.stuck);
	reads = serial.reads;
	CHECK(reads > 0);
	CHECK(!serial_write(&serial, "still stuck", 11));
	CHECK_EQ(serial.reads, reads);
}

/* The same registers as a line status that says what it likes: bytes come one at a time, and those that were lost are counted. */
TEST_ID(console, bytes_come_in_and_lost_ones_are_counted, "RP3")
{
	static const struct {
		u8 status;
		int byte;
		u32 lost;
	} rows[] = {
		{ 0x60, -1, 0 },	/* idle */
		{ 0x61, 0x41, 0 },	/* ready */
		{ 0x63, 0x41, 1 },	/* ready, and bytes before it were lost */
		{ 0x62, -1, 1 },
		{ 0x65, -1, 1 },	/* parity */
		{ 0x69, -1, 1 },	/* framing */
		{ 0x71, -1, 1 },	/* break */
		{ 0xff, -1, 0 },	/* the UART has gone */
	};

	insn_outb(DMA_PAGE_PORT + UART_LSR, 0);
	if (insn_inb(DMA_PAGE_PORT + UART_LSR) != 0)
		SKIP("no DMA page registers");
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct serial serial = { .port = DMA_PAGE_PORT, .fifo = 16 };

		insn_outb(DMA_PAGE_PORT, 0x41);
		insn_outb(DMA_PAGE_PORT + UART_LSR, rows[i].status);
		CHECK_EQ(serial_getc(&serial), rows[i].byte);
		CHECK_EQ(serial.lost, rows[i].lost);
	}
	insn_outb(DMA_PAGE_PORT + UART_LSR, 0);
}

TEST_ID(console, font_has_every_character, "BT6")
{
	for (int c = 0; c < 256; c++) {
		unsigned lit = 0;

		for (unsigned row = 0; row < 16; row++)
			lit += font_row((char)c, row) != 0;
		CHECK_EQ(lit != 0, c != ' ');
	}
	for (int a = '!'; a <= '~'; a++) {
		for (int b = '!'; b < a; b++) {
			unsigned same = 0;

			for (unsigned row = 0; row < 16; row++)
				same += font_row((char)a, row) == font_row((char)b, row);
			if (same == 16)
				test_note("same_a=%d same_b=%d", a, b);
			CHECK(same < 16);
		}
	}
}

TEST_ID(console, unusable_framebuffers_are_refused, "BT6")
{
	const struct boot_framebuffer good = { .pa = 0x80000000, .size = 640 * 480 * 4, .width = 640, .height = 480, .stride = 640 };
	struct boot_framebuffer fb = good;

	CHECK(fbcon_usable(&fb));
	fb.pa = 0;
	CHECK(!fbcon_usable(&fb));
	fb = good;
	fb.format = 2;
	CHECK(!fbcon_usable(&fb));
	fb = good;
	fb.size--;
	CHECK(!fbcon_usable(&fb));
	fb = good;
	fb.stride = 639;
	CHECK(!fbcon_usable(&fb));
	fb = good;
	fb.height = 15;
	CHECK(!fbcon_usable(&fb));
}

TEST_ID(console, symbols_of_this_kernel, "RP4")
{
	struct symbol s;

	REQUIRE(symbol_find((u64)fbcon_usable + 1, &s));
	CHECK(strcmp(s.name, "fbcon_usable") == 0);
	CHECK_EQ(s.start, (u64)fbcon_usable);
	CHECK(s.size > 1);
	CHECK(!symbol_find(0x1000, &s));
	CHECK(!symbol_find(UINT64_MAX, &s));
}
