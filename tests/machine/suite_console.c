/* SPDX-License-Identifier: MIT */
/* Console (BT6): what names a serial port, glyphs and the framebuffer's bounds; symbols (RP4). The UART: tests/host/test_serial.c. */
#include "kernel/console.h"

#include "kernel/base/string.h"
#include "kernel/console_choice.h"
#include "kernel/fbcon.h"
#include "kernel/font.h"
#include "kernel/symbols.h"
#include "tests/test.h"

#define COM4 0x2e8

static void check_place(const struct serial_place *got, const struct serial_place *want)
{
	CHECK_EQ(got->kind, want->kind);
	CHECK_EQ(got->address, want->address);
	CHECK_EQ(got->stride, want->stride);
	CHECK_EQ(got->width, want->width);
	CHECK_EQ(got->baud, want->baud);
	CHECK_EQ(got->clock, want->clock);
	CHECK_EQ(got->pci.segment, want->pci.segment);
	CHECK_EQ(got->pci.bus, want->pci.bus);
	CHECK_EQ(got->pci.device, want->pci.device);
	CHECK_EQ(got->pci.number, want->pci.number);
}

TEST_ID(console, words_that_name_a_port, "BT6")
{
	static const struct {
		const char *text;
		struct serial_place place;
	} good[] = {
		{ "com1", { SERIAL_PORT, 0x3f8, 1, 1, 0, 1843200, { 0 } } },
		{ "com4,9600", { SERIAL_PORT, COM4, 1, 1, 9600, 1843200, { 0 } } },
		{ "0x2f8", { SERIAL_PORT, 0x2f8, 1, 1, 0, 1843200, { 0 } } },
		{ "io,760,57600", { SERIAL_PORT, 0x2f8, 1, 1, 57600, 1843200, { 0 } } },
		{ "io,0xfff8", { SERIAL_PORT, 0xfff8, 1, 1, 0, 1843200, { 0 } } },
		{ "mmio,0xfe001001", { SERIAL_MEMORY, 0xfe001001, 1, 1, 0, 1843200, { 0 } } },
		{ "mmio16,0xfe001002", { SERIAL_MEMORY, 0xfe001002, 2, 2, 0, 1843200, { 0 } } },
		{ "mmio32,0x1fe001000,115200", { SERIAL_MEMORY, 0x1fe001000, 4, 4, 115200, 1843200, { 0 } } },
		{ "pci,00:1f.7", { SERIAL_PCI, 0, 1, 1, 0, 1843200, { 0, 0, 31, 7 } } },
		{ "pci,a:ff:0.0,1200", { SERIAL_PCI, 0, 1, 1, 1200, 1843200, { 10, 255, 0, 0 } } },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
		struct console_choice got;

		REQUIRE(!console_choice_parse(good[i].text, &got));
		CHECK(got.serial && got.screen);
		check_place(&got.place, &good[i].place);
	}
}

TEST_ID(console, words_that_choose_the_device, "BT6")
{
	static const struct {
		const char *text;
		bool serial, screen;
	} words[] = { { "", true, true }, { "serial", true, false }, { "screen", false, true }, { "none", false, false } };
	struct console_choice got;

	for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
		REQUIRE(!console_choice_parse(words[i].text, &got));
		CHECK_EQ(got.serial, words[i].serial);
		CHECK_EQ(got.screen, words[i].screen);
		CHECK_EQ(got.place.kind, SERIAL_NOWHERE);
	}
}

/* Each is refused with a reason, and leaves the default. */
TEST_ID(console, bad_words_are_refused, "BT6")
{
	static const char *const bad[] = {
		"com5", "com", "com1,", "com1,0", "com1,7", "com1,230400", "com1,9600,1", "com1,9600,1,2", "0x", "0x0", "0xfff9", "0xg",
		"1016", "io", "io,", "io,0x10000", "io,3f8", "mmio", "mmio,0", "mmio,com1", "mmio16,0xfe000001", "mmio32,0xfe000002",
		"mmio32,0xfffffffffffffff0", "mmio32,0x10000000000000000", "mmio64,0xfe000000", "pci", "pci,", "pci,0", "pci,0:0",
		"pci,0:20.0", "pci,0:0.8", "pci,100:0.0", "pci,0:0.0 ", "pci,10000:0:0.0", "pci,0:0.0,7", "pci,::.", "none,9600",
		"serial,com1", "screen,none", "NONE", ",", "mmio32,0x00000000000000000000000000000000001000",
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct console_choice got;

		if (!console_choice_parse(bad[i], &got))
			test_note("accepted=%s", bad[i]);
		CHECK(console_choice_parse(bad[i], &got));
		CHECK(got.serial && got.screen);
		CHECK_EQ(got.place.kind, SERIAL_NOWHERE);
	}
}

/* What tables of real firmware say, and what they must not say. */
TEST_ID(console, places_in_tables, "BT6")
{
	static const struct {
		struct acpi_serial table;
		struct serial_place place;	/* SERIAL_NOWHERE: refused */
	} rows[] = {
		{ { { 0x3f8, ACPI_SPACE_IO, 8, 0, 1 }, 115200, 0, 0 }, { SERIAL_PORT, 0x3f8, 1, 1, 115200, 1843200, { 0 } } },
		/* A port is bytes side by side, unless expressly not. */
		{ { { 0x3f8, ACPI_SPACE_IO, 32, 0, 3 }, 0, 0, 1 }, { SERIAL_PORT, 0x3f8, 1, 1, 0, 1843200, { 0 } } },
		{ { { 0x3f8, ACPI_SPACE_IO, 32, 0, 3 }, 0, 0, 0x12 }, { SERIAL_PORT, 0x3f8, 4, 4, 0, 1843200, { 0 } } },
		{ { { 0xfe000000, ACPI_SPACE_MEMORY, 8, 0, 1 }, 9600, 0, 0 }, { SERIAL_MEMORY, 0xfe000000, 1, 1, 9600, 0, { 0 } } },
		{ { { 0xfe000000, ACPI_SPACE_MEMORY, 32, 0, 3 }, 9600, 48000000, 0x12 },
		  { SERIAL_MEMORY, 0xfe000000, 4, 4, 9600, 48000000, { 0 } } },
		{ { { 0xfe000000, ACPI_SPACE_MEMORY, 32, 0, 1 }, 0, 0, 0x12 }, { SERIAL_MEMORY, 0xfe000000, 4, 1, 0, 0, { 0 } } },
		{ { { 0xfe000000, ACPI_SPACE_MEMORY, 16, 0, 0 }, 0, 0, 0x12 }, { SERIAL_MEMORY, 0xfe000000, 2, 2, 0, 0, { 0 } } },
		{ { { 0xfe000000, ACPI_SPACE_MEMORY, 0, 0, 0 }, 0, 0, 0 }, { SERIAL_MEMORY, 0xfe000000, 1, 1, 0, 0, { 0 } } },
		{ { { 0xfe000000, ACPI_SPACE_MEMORY, 8, 0, 3 }, 0, 0, 0 }, { SERIAL_MEMORY, 0xfe000000, 4, 4, 0, 0, { 0 } } },
		{ { { 0xfe000000, ACPI_SPACE_MEMORY, 64, 0, 4 }, 0, 0, 0x12 }, { 0 } },
		{ { { 0xfe000000, ACPI_SPACE_MEMORY, 32, 8, 3 }, 0, 0, 0x12 }, { 0 } },
		{ { { 0xfe000002, ACPI_SPACE_MEMORY, 32, 0, 3 }, 0, 0, 0x12 }, { 0 } },
		{ { { 0xfff0, ACPI_SPACE_IO, 32, 0, 1 }, 0, 0, 0x12 }, { 0 } },
		{ { { 0xfffffffffffffff0, ACPI_SPACE_MEMORY, 32, 0, 3 }, 0, 0, 0x12 }, { 0 } },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct serial_place got = { 0 };

		CHECK_EQ(!serial_place_from_acpi(&rows[i].table, &got), rows[i].place.kind != SERIAL_NOWHERE);
		check_place(&got, &rows[i].place);
	}
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
