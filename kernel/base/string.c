/* SPDX-License-Identifier: MIT */
/*
 * Memory and string functions, in plain C and by words: REP instructions would count one instruction per byte
 * under -icount, and cost a start-up time on real CPUs.
 *
 * The compiler recognises such loops and would replace them by calls of the function they stand in. hide() makes a
 * pointer's origin unknown to it, at no cost, and with that the pattern is gone.
 */
#include "kernel/base/string.h"

typedef u64 __attribute__((may_alias, aligned(1))) word_t;

#define WORD sizeof(word_t)

static __always_inline void *hide(const void *p)
{
	__asm__("" : "+r"(p));
	return (void *)(u64)p;
}

static void copy_up(u8 *dst, const u8 *src, size_t n)
{
	for (; n >= 4 * WORD; n -= 4 * WORD, dst += 4 * WORD, src += 4 * WORD) {
		word_t a = ((const word_t *)src)[0], b = ((const word_t *)src)[1];
		word_t c = ((const word_t *)src)[2], d = ((const word_t *)src)[3];

		dst = hide(dst);
		((word_t *)dst)[0] = a;
		((word_t *)dst)[1] = b;
		((word_t *)dst)[2] = c;
		((word_t *)dst)[3] = d;
	}
	for (; n >= WORD; n -= WORD, dst += WORD, src += WORD) {
		dst = hide(dst);
		*(word_t *)dst = *(const word_t *)src;
	}
	while (n--) {
		dst = hide(dst);
		*dst++ = *src++;
	}
}

static void copy_down(u8 *dst, const u8 *src, size_t n)
{
	while (n >= WORD) {
		n -= WORD;
		dst = hide(dst);
		*(word_t *)(dst + n) = *(const word_t *)(src + n);
	}
	while (n--) {
		dst = hide(dst);
		dst[n] = src[n];
	}
}

void *memcpy(void *dst, const void *src, size_t n)
{
	copy_up(dst, src, n);
	return dst;
}

/* Each word is read before it, or a lower one, is written: so up is right for any dst below src. */
void *memmove(void *dst, const void *src, size_t n)
{
	if ((u64)dst <= (u64)src || (u64)dst >= (u64)src + n)
		copy_up(dst, src, n);
	else
		copy_down(dst, src, n);
	return dst;
}

void *memset(void *dst, int c, size_t n)
{
	u64 pattern = (u8)c * 0x0101010101010101ull;
	u8 *p = dst;

	for (; n >= 8 * WORD; n -= 8 * WORD, p += 8 * WORD) {
		word_t *w = hide(p);

		/* Written out: the compiler does not unroll this loop. */
		w[0] = pattern;
		w[1] = pattern;
		w[2] = pattern;
		w[3] = pattern;
		w[4] = pattern;
		w[5] = pattern;
		w[6] = pattern;
		w[7] = pattern;
	}
	while (n--) {
		p = hide(p);
		*p++ = (u8)c;
	}
	return dst;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const u8 *p = a, *q = b;

	for (; n >= 8 * WORD; n -= 8 * WORD, p += 8 * WORD, q += 8 * WORD) {
		const word_t *v = (const word_t *)p, *w = (const word_t *)q;

		if (v[0] != w[0] || v[1] != w[1] || v[2] != w[2] || v[3] != w[3] || v[4] != w[4] || v[5] != w[5] ||
		    v[6] != w[6] || v[7] != w[7])
			break;
	}
	for (; n >= WORD && *(const word_t *)p == *(const word_t *)q; n -= WORD) {
		p += WORD;
		q += WORD;
	}
	for (; n; n--, p++, q++)
		if (*p != *q)
			return *p - *q;
	return 0;
}

size_t strlen(const char *s)
{
	const char *p = s;

	for (p = hide(p); *p; p++)
		p = hide(p);
	return (size_t)(p - s);
}

size_t strnlen(const char *s, size_t max)
{
	size_t n = 0;

	while (n < max && s[n])
		n++;
	return n;
}

int strcmp(const char *a, const char *b)
{
	for (; *a && *a == *b; a++, b++)
		;
	return (u8)*a - (u8)*b;
}

int strncmp(const char *a, const char *b, size_t n)
{
	for (; n && *a && *a == *b; a++, b++, n--)
		;
	return n ? (u8)*a - (u8)*b : 0;
}

char *strchr(const char *s, int c)
{
	for (; *s != (char)c; s++)
		if (!*s)
			return NULL;
	return (char *)(u64)s;
}
