/* SPDX-License-Identifier: MIT */
/* kernel/base/string.c against a byte at a time, at every alignment and overlap of a small buffer. */
#include "kernel/base/string.h"
#include "tests/test.h"

#define SIZE 160u
#define ROUNDS 3000u

static u8 got[SIZE], want[SIZE];

static void fill(struct rng *rng)
{
	for (unsigned i = 0; i < SIZE; i++)
		got[i] = want[i] = (u8)rng_next(rng);
}

static bool same(void)
{
	for (unsigned i = 0; i < SIZE; i++)
		if (got[i] != want[i])
			return false;
	return true;
}

TEST(string, memmove_overlapping)
{
	struct rng rng = test_rng();
	unsigned bad = 0;

	for (unsigned round = 0; round < ROUNDS; round++) {
		u64 n = rng_below(&rng, SIZE / 2);
		u64 from = rng_below(&rng, SIZE - n), to = rng_below(&rng, SIZE - n);
		u8 copy[SIZE];

		fill(&rng);
		for (u64 i = 0; i < SIZE; i++)
			copy[i] = want[i];
		for (u64 i = 0; i < n; i++)
			want[to + i] = copy[from + i];
		CHECK(memmove(got + to, got + from, n) == got + to);
		bad += !same();
	}
	CHECK_EQ(bad, 0);
}

TEST(string, memcpy_and_memset)
{
	struct rng rng = test_rng();
	unsigned bad = 0;

	for (unsigned round = 0; round < ROUNDS; round++) {
		u64 n = rng_below(&rng, SIZE / 2);
		u64 from = rng_below(&rng, SIZE / 2 - n + 1), to = SIZE / 2 + rng_below(&rng, SIZE / 2 - n + 1);
		u8 value = (u8)rng_next(&rng);

		fill(&rng);
		for (u64 i = 0; i < n; i++)
			want[to + i] = want[from + i];
		memcpy(got + to, got + from, n);
		bad += !same();
		for (u64 i = 0; i < n; i++)
			want[from + i] = value;
		memset(got + from, value, n);
		bad += !same();
	}
	CHECK_EQ(bad, 0);
}

/* Every place of the first difference, both signs, and a difference behind the end that must not count. */
TEST(string, memcmp_every_place)
{
	for (unsigned n = 0; n < 40; n++) {
		for (unsigned at = 0; at < 41; at++) {
			memset(got, 0x7f, SIZE);
			memset(want, 0x7f, SIZE);
			got[at] = 0x80;
			CHECK_EQ(memcmp(got, want, n) > 0, at < n);
			CHECK_EQ(memcmp(want, got, n) < 0, at < n);
		}
	}
}

TEST(string, text)
{
	static const char word[] = "leaf";

	CHECK_EQ(strlen(word), 4);
	CHECK_EQ(strlen(""), 0);
	CHECK_EQ(strnlen(word, 2), 2);
	CHECK_EQ(strnlen(word, 9), 4);
	CHECK(strcmp(word, "leaf") == 0 && strcmp(word, "leag") < 0 && strcmp(word, "lea") > 0);
	CHECK(strcmp("\x80", "\x7f") > 0);
	CHECK(strncmp(word, "least", 3) == 0 && strncmp(word, "least", 4) < 0 && strncmp(word, "x", 0) == 0);
	CHECK(strchr(word, 'a') == word + 2 && !strchr(word, 'x') && strchr(word, 0) == word + 4);
}
