/* SPDX-License-Identifier: MIT */
/* boot/cmdline.c: what people and firmware write, and the one line that comes out. */
#include <stdlib.h>
#include <string.h>

#include "boot/boot_info.h"
#include "boot/cmdline.h"
#include "tests/test.h"

/* The input in memory of exactly its size, so that the address sanitizer sees every read behind its end. */
static int clean(int (*from)(const void *, u64, char *, u64, const char **), const void *text, u64 len, char *out,
		 u64 size, const char **why)
{
	void *exact = malloc(len ? len : 1);
	int rc;

	memcpy(exact, text, len);
	rc = from(exact, len, out, size, why);
	free(exact);
	return rc;
}

#define BYTES(text) (text), sizeof(text) - 1

static const struct {
	const char *name;
	const char *text;
	u64 len;
	const char *line;	/* NULL: refused */
	const char *why;
} utf8_rows[] = {
	{ "empty", BYTES(""), "", NULL },
	{ "one_word", BYTES("seed=1"), "seed=1", NULL },
	{ "newline_at_the_end", BYTES("seed=1 lab=off\n"), "seed=1 lab=off", NULL },
	{ "crlf", BYTES("seed=1\r\nlab=off\r\n"), "seed=1 lab=off", NULL },
	{ "old_mac_newline", BYTES("seed=1\rlab=off"), "seed=1 lab=off", NULL },
	{ "byte_order_mark", BYTES("\xef\xbb\xbfseed=1 lab=off"), "seed=1 lab=off", NULL },
	{ "mark_and_crlf", BYTES("\xef\xbb\xbf\r\n seed=1 \t lab=off \r\n\r\n"), "seed=1 lab=off", NULL },
	{ "mark_in_the_middle", BYTES("seed=1\n\xef\xbb\xbflab=off"), "seed=1 lab=off", NULL },
	{ "mark_alone", BYTES("\xef\xbb\xbf"), "", NULL },
	{ "spaces_alone", BYTES(" \r\n\t\v\f "), "", NULL },
	{ "umlaut", BYTES("name=M\xc3\xbcller"), "name=M\xc3\xbcller", NULL },
	{ "four_bytes", BYTES("\xf0\x9f\x98\x80"), "\xf0\x9f\x98\x80", NULL },
	{ "nul", BYTES("seed=1\0lab=off"), NULL, "not text" },
	{ "escape", BYTES("seed=1\x1b[2J"), NULL, "not text" },
	{ "c1_control", BYTES("seed=1\xc2\x9b" "2J"), NULL, "not text" },
	{ "delete", BYTES("\x7f"), NULL, "not text" },
	{ "latin1", BYTES("M\xfcller"), NULL, "not text" },
	{ "lone_continuation", BYTES("\x80"), NULL, "not text" },
	{ "cut_sequence", BYTES("a\xe2\x82"), NULL, "not text" },
	{ "overlong", BYTES("\xc0\xaf"), NULL, "not text" },
	{ "overlong_three", BYTES("\xe0\x80\xaf"), NULL, "not text" },
	{ "surrogate", BYTES("\xed\xa0\x80"), NULL, "not text" },
	{ "beyond_unicode", BYTES("\xf4\x90\x80\x80"), NULL, "not text" },
	{ "impossible_byte", BYTES("\xff"), NULL, "not text" },
	{ "utf16_file", BYTES("\xff\xfes\0e\0"), NULL, "UTF-16" },
	{ "elf_file", BYTES("\x7f" "ELF\2\1\1\0"), NULL, "not text" },
};

static unsigned utf8_count(void)
{
	return ARRAY_SIZE(utf8_rows);
}

static void utf8_name(unsigned row, char *buf, size_t size)
{
	strncpy(buf, utf8_rows[row].name, size - 1);
	buf[size - 1] = '\0';
}

TEST_ROWS(cmdline_utf8, rows, "BT1", 0, utf8_count, utf8_name)
{
	unsigned row = test_row();
	const char *why = NULL;
	char out[64];
	int rc;

	memset(out, 0x55, sizeof(out));
	rc = clean(cmdline_from_utf8, utf8_rows[row].text, utf8_rows[row].len, out, sizeof(out), &why);
	if (utf8_rows[row].line) {
		CHECK_EQ(rc, strlen(utf8_rows[row].line));
		CHECK(strcmp(out, utf8_rows[row].line) == 0);
	} else {
		CHECK(rc < 0);
		CHECK(out[0] == '\0');
		CHECK(why && strstr(why, utf8_rows[row].why));
	}
}

#define WIDE(text) (const char *)(text), sizeof(text) - 2

static const struct {
	const char *name;
	const char *text;
	u64 len;
	const char *line;
} utf16_rows[] = {
	{ "plain", WIDE(u"seed=1 lab=off"), "seed=1 lab=off" },
	{ "ends_at_nul", WIDE(u"seed=1\0rubbish\x1b"), "seed=1" },
	{ "without_nul", WIDE(u"seed=1"), "seed=1" },
	{ "own_name", WIDE(u"FS0:\\EFI\\BOOT\\BOOTX64.EFI seed=1 lab=off"), "seed=1 lab=off" },
	{ "byte_order_mark", WIDE(u"\xfeffseed=1"), "seed=1" },
	{ "own_name_alone", WIDE(u"bootx64.efi"), "" },
	{ "efi_in_a_later_word", WIDE(u"a=1 b=x.efi"), "a=1 b=x.efi" },
	{ "surrogates", WIDE(u"a\xd83d\xde00"), "a\xf0\x9f\x98\x80" },
	{ "three_bytes", WIDE(u"a=\x20ac"), "a=\xe2\x82\xac" },
	{ "empty", WIDE(u""), "" },
	{ "lone_surrogate", WIDE(u"a\xd83d"), NULL },
	{ "low_surrogate_first", WIDE(u"\xde00" u"a"), NULL },
	{ "control", WIDE(u"a\x1" u"b"), NULL },
	{ "odd_size", BYTES("a\0b"), NULL },
	{ "guid_of_a_firmware", BYTES("\x4e\xac\x08\x81\x11\x9f\x59\x4d\x85\x0e\xe2\x1a\x52\x2c\x59\xb2"), NULL },
};

static unsigned utf16_count(void)
{
	return ARRAY_SIZE(utf16_rows);
}

static void utf16_name(unsigned row, char *buf, size_t size)
{
	strncpy(buf, utf16_rows[row].name, size - 1);
	buf[size - 1] = '\0';
}

TEST_ROWS(cmdline_utf16, rows, "BT1", 0, utf16_count, utf16_name)
{
	unsigned row = test_row();
	const char *why = NULL;
	char out[64];
	int rc;

	rc = clean(cmdline_from_utf16, utf16_rows[row].text, utf16_rows[row].len, out, sizeof(out), &why);
	if (utf16_rows[row].line) {
		CHECK_EQ(rc, strlen(utf16_rows[row].line));
		CHECK(strcmp(out, utf16_rows[row].line) == 0);
	} else {
		CHECK(rc < 0);
		CHECK(out[0] == '\0');
	}
}

TEST_ID(cmdline, length_is_bounded, "BT1")
{
	static char text[BOOT_CMDLINE_MAX], out[BOOT_CMDLINE_MAX];
	const char *why;

	memset(text, 'x', sizeof(text));
	CHECK_EQ(clean(cmdline_from_utf8, text, sizeof(text) - 1, out, sizeof(out), &why), sizeof(text) - 1);
	CHECK_EQ(strlen(out), sizeof(out) - 1);
	CHECK(clean(cmdline_from_utf8, text, sizeof(text), out, sizeof(out), &why) < 0);
	CHECK(strstr(why, "too long"));
	/* White space costs nothing. */
	memset(text, ' ', sizeof(text));
	text[sizeof(text) - 1] = 'x';
	CHECK_EQ(clean(cmdline_from_utf8, text, sizeof(text), out, 2, &why), 1);
	CHECK(clean(cmdline_from_utf8, text, sizeof(text), out, 1, &why) < 0);
}

/* The promises of cmdline.h, for any input: no control, single spaces, none at the ends, a NUL in its place. */
static bool line_clean(const char *out, int len, u64 size)
{
	if ((u64)len >= size || out[len] != '\0' || strlen(out) != (u64)len)
		return false;
	for (int i = 0; i < len; i++) {
		u8 c = (u8)out[i];

		if (c < 0x20 || c == 0x7f)
			return false;
		if (c == ' ' && (i == 0 || i == len - 1 || out[i - 1] == ' '))
			return false;
	}
	return true;
}

TEST_ID(cmdline, survives_random_input, "BT1")
{
	static const u8 likely_bytes[] = " \t\r\n=a\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80\xef\xbb\xbf.efi\0\0\0\0";
	struct rng rng = test_rng();
	u64 accepted = 0, unclean = 0;

	for (unsigned i = 0; i < 40000; i++) {
		u64 len = rng_below(&rng, 48), size = 1 + rng_below(&rng, 32);
		u8 text[48];
		char out[32];
		const char *why;
		int rc;

		for (u64 k = 0; k < len; k++)
			text[k] = rng_below(&rng, 30) ? likely_bytes[rng_below(&rng, sizeof(likely_bytes))] :
							(u8)rng_next(&rng);
		rc = clean(i % 2 ? cmdline_from_utf8 : cmdline_from_utf16, text, len, out, size, &why);
		accepted += rc >= 0;
		unclean += rc < 0 ? out[0] != '\0' || !why : !line_clean(out, rc, size);
	}
	CHECK_EQ(unclean, 0);
	CHECK(accepted > 0);
}

TEST_ID(cmdline, a_word_is_looked_up, "BT1")
{
	CHECK(cmdline_says("logs=off", "logs", "off"));
	CHECK(cmdline_says("lab=off logs=off end=exit", "logs", "off"));
	CHECK(cmdline_says("logs=on logs=off", "logs", "off"));
	CHECK(!cmdline_says("logs=off logs=on", "logs", "off"));
	CHECK(!cmdline_says("", "logs", "off"));
	CHECK(!cmdline_says("logs", "logs", "off"));
	CHECK(!cmdline_says("logs=", "logs", "off"));
	CHECK(!cmdline_says("logs=offline", "logs", "off"));
	CHECK(!cmdline_says("nologs=off", "logs", "off"));
	CHECK(!cmdline_says("logs2=off", "logs", "off"));
	CHECK(cmdline_says("logs=off logs2=on", "logs", "off"));
}
