/* SPDX-License-Identifier: MIT */
/* kernel/base/fmt.c: what each conversion writes, and that no buffer is overrun. */
#include "kernel/base/fmt.h"
#include "kernel/base/string.h"
#include "tests/test.h"

static char text[64];

static bool is(size_t len, const char *want)
{
	bool ok = len == strlen(want) && strcmp(text, want) == 0;

	if (!ok)
		test_note("got=%s length=%lu", text, (unsigned long)len);
	return ok;
}

#define GIVES(want, ...) CHECK(is(fmt_print(text, sizeof(text), __VA_ARGS__), want))

TEST(fmt, integers)
{
	GIVES("0 -1 1", "%d %i %u", 0, -1, 1u);
	GIVES("-2147483648", "%d", INT32_MIN);
	GIVES("-9223372036854775808", "%ld", (long)INT64_MIN);
	GIVES("18446744073709551615", "%llu", ~0ull);
	GIVES("ff FF 0xff", "%x %X %#x", 255u, 255u, 255u);
	GIVES("0", "%#x", 0u);
	GIVES("7", "%zu", (size_t)7);
}

TEST(fmt, lengths_cut_the_value)
{
	GIVES("1", "%hhu", (unsigned char)0x101);
	GIVES("-1", "%hhd", (signed char)0xff);
	GIVES("8000", "%hx", (unsigned short)0x18000);
	GIVES("123456789abcdef0", "%lx", 0x123456789abcdef0ul);
}

TEST(fmt, width_and_precision)
{
	GIVES("   42|42   |00042", "%5d|%-5d|%05d", 42, 42, 42);
	GIVES("-0042", "%05d", -42);
	GIVES("  042", "%5.3d", 42);
	GIVES("0x00ff", "%#06x", 255u);
	GIVES("  0xff", "%#6x", 255u);
	GIVES("   7|7   |", "%*d|%*d|", 4, 7, -4, 7);
	GIVES("", "%.0d", 0);
}

TEST(fmt, strings_and_characters)
{
	GIVES("abc|  abc|abc  |", "%s|%5s|%-5s|", "abc", "abc", "abc");
	GIVES("ab|a", "%.2s|%.*s", "abc", 1, "abc");
	GIVES("x%|  x|x  |", "%c%%|%3c|%-3c|", 'x', 'x', 'x');
}

TEST(fmt, pointers)
{
	GIVES("0xffffffff80000000", "%p", (void *)0xffffffff80000000);
}

/* At every size: never a byte behind the end, always a NUL, and the length of the whole text. */
TEST(fmt, bounds_at_every_size)
{
	static const char whole[] = "a 12345 0x00ff end";

	for (size_t size = 0; size <= sizeof(whole) + 1; size++) {
		size_t kept = size ? MIN(size - 1, sizeof(whole) - 1) : 0;

		memset(text, '#', sizeof(text));
		CHECK_EQ(fmt_print(text, size, "a %d %#06x %s", 12345, 255u, "end"), sizeof(whole) - 1);
		CHECK(memcmp(text, whole, kept) == 0);
		if (size)
			CHECK_EQ(text[kept], 0);
		CHECK_EQ(text[size], '#');
	}
}
