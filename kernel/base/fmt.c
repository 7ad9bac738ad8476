/* SPDX-License-Identifier: MIT */
/* Formatting. Stateless: every call works in its caller's buffer. */
#include "kernel/base/fmt.h"

#include "kernel/base/bits.h"

struct out {
	char *buf;
	size_t size;	/* of buf */
	size_t len;	/* of the text so far, whether it fits or not */
};

enum length { LEN_CHAR, LEN_SHORT, LEN_INT, LEN_LONG };

struct spec {
	bool left;	/* - */
	bool zero;	/* 0 */
	bool prefix;	/* # */
	bool upper;	/* X */
	int width;
	int precision;	/* -1: none given */
	enum length length;
};

static void put(struct out *o, char c)
{
	if (o->len + 1 < o->size)
		o->buf[o->len] = c;
	o->len++;
}

static void put_repeated(struct out *o, char c, int n)
{
	while (n-- > 0)
		put(o, c);
}

static void put_text(struct out *o, const struct spec *s, const char *text)
{
	int n = 0;

	if (!text)
		text = "(null)";
	while (text[n] && (s->precision < 0 || n < s->precision))
		n++;
	if (!s->left)
		put_repeated(o, ' ', s->width - n);
	for (int i = 0; i < n; i++)
		put(o, text[i]);
	if (s->left)
		put_repeated(o, ' ', s->width - n);
}

/* sign: "", "-" or "0x"; it stands before padding by zeros and behind padding by blanks. */
static void put_number(struct out *o, const struct spec *s, u64 value, unsigned base, const char *sign)
{
	const char *digits = s->upper ? "0123456789ABCDEF" : "0123456789abcdef";
	char text[24];
	int n = 0, zeros, sign_len = 0;

	for (; value; value /= base)
		text[n++] = digits[value % base];
	if (!n && s->precision != 0)
		text[n++] = '0';
	while (sign[sign_len])
		sign_len++;
	zeros = MAX(s->precision - n, 0);
	if (s->zero && !s->left && s->precision < 0)
		zeros = MAX(s->width - sign_len - n, 0);

	if (!s->left)
		put_repeated(o, ' ', s->width - sign_len - zeros - n);
	for (int i = 0; i < sign_len; i++)
		put(o, sign[i]);
	put_repeated(o, '0', zeros);
	for (int i = n; i--;)
		put(o, text[i]);
	if (s->left)
		put_repeated(o, ' ', s->width - sign_len - zeros - n);
}

/* Numbers and flags before the conversion; returns where it stands. */
static const char *parse_spec(const char *f, struct spec *s, va_list *args)
{
	*s = (struct spec){ .precision = -1, .length = LEN_INT };
	for (;; f++) {
		if (*f == '-')
			s->left = true;
		else if (*f == '0')
			s->zero = true;
		else if (*f == '#')
			s->prefix = true;
		else
			break;
	}
	if (*f == '*') {
		s->width = va_arg(*args, int);
		f++;
		if (s->width < 0) {
			s->left = true;
			s->width = -s->width;
		}
	}
	for (; *f >= '0' && *f <= '9'; f++)
		s->width = s->width * 10 + (*f - '0');
	if (*f == '.') {
		s->precision = 0;
		f++;
		if (*f == '*') {
			s->precision = va_arg(*args, int);
			f++;
		}
		for (; *f >= '0' && *f <= '9'; f++)
			s->precision = s->precision * 10 + (*f - '0');
	}
	for (; *f == 'h' || *f == 'l' || *f == 'z'; f++) {
		if (*f == 'h')
			s->length = s->length == LEN_SHORT ? LEN_CHAR : LEN_SHORT;
		else
			s->length = LEN_LONG;
	}
	return f;
}

static u64 arg_unsigned(const struct spec *s, va_list *args)
{
	u64 value = s->length == LEN_LONG ? va_arg(*args, u64) : va_arg(*args, unsigned);

	if (s->length == LEN_CHAR)
		return (u8)value;
	return s->length == LEN_SHORT ? (u16)value : value;
}

static i64 arg_signed(const struct spec *s, va_list *args)
{
	i64 value = s->length == LEN_LONG ? va_arg(*args, i64) : va_arg(*args, int);

	if (s->length == LEN_CHAR)
		return (i8)value;
	return s->length == LEN_SHORT ? (i16)value : value;
}

static void put_signed(struct out *o, const struct spec *s, i64 value)
{
	put_number(o, s, value < 0 ? -(u64)value : (u64)value, 10, value < 0 ? "-" : "");
}

static void put_hex(struct out *o, const struct spec *s, u64 value)
{
	const char *prefix = s->prefix && value ? (s->upper ? "0X" : "0x") : "";

	put_number(o, s, value, 16, prefix);
}

/* One conversion, f at its letter; an unknown one is shown as it was written. */
static void convert(struct out *o, const char *f, struct spec *s, va_list *args)
{
	char one[2] = "";

	switch (*f) {
	case 'd':
	case 'i':
		put_signed(o, s, arg_signed(s, args));
		break;
	case 'u':
		put_number(o, s, arg_unsigned(s, args), 10, "");
		break;
	case 'X':
		s->upper = true;
		put_hex(o, s, arg_unsigned(s, args));
		break;
	case 'x':
		put_hex(o, s, arg_unsigned(s, args));
		break;
	case 'p':
		put_number(o, s, (u64)va_arg(*args, void *), 16, "0x");
		break;
	case 'c':
		one[0] = (char)va_arg(*args, int);
		s->precision = -1;
		if (one[0]) {
			put_text(o, s, one);
			break;
		}
		put_repeated(o, ' ', s->left ? 0 : s->width - 1);
		put(o, 0);
		put_repeated(o, ' ', s->left ? s->width - 1 : 0);
		break;
	case 's':
		put_text(o, s, va_arg(*args, const char *));
		break;
	case '%':
		put(o, '%');
		break;
	default:
		put(o, '%');
		put(o, *f);
	}
}

size_t fmt_vprint(char *buf, size_t size, const char *fmt, va_list args)
{
	struct out o = { buf, size, 0 };
	va_list copy;

	va_copy(copy, args);
	for (const char *f = fmt; *f; f++) {
		struct spec s;

		if (*f != '%') {
			put(&o, *f);
			continue;
		}
		f = parse_spec(f + 1, &s, &copy);
		if (!*f)
			break;
		convert(&o, f, &s, &copy);
	}
	va_end(copy);
	if (size)
		buf[MIN(o.len, size - 1)] = 0;
	return o.len;
}

size_t fmt_print(char *buf, size_t size, const char *fmt, ...)
{
	va_list args;
	size_t len;

	va_start(args, fmt);
	len = fmt_vprint(buf, size, fmt, args);
	va_end(args);
	return len;
}
