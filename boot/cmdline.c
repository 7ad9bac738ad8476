/* SPDX-License-Identifier: MIT */
/*
 * Cleaning of the command line.
 *
 * Invariants: what comes out is valid UTF-8 without control characters, has no space at either end and
 * never two in a row, and fits with its NUL; on an error it is empty. A byte of the input is read at most
 * once and never behind its end.
 *
 * Source: The Unicode Standard, section 3.9 (well-formed UTF-8 and UTF-16).
 */
#include "boot/cmdline.h"

#include "kernel/base/errno.h"
#include "kernel/base/string.h"

#define NOT_TEXT 0xffffffffu	/* no code point: the input is malformed here */

/* The line as far as it is written. */
struct line {
	char *out;
	u64 size;
	u64 len;
	bool space;	/* white space since the last word */
	const char *why;	/* NULL as long as all is well */
};

/* The byte-order mark, too: at the start of a file, and wherever files were put one behind the other. */
static bool is_space(u32 c)
{
	return c == ' ' || (c >= '\t' && c <= '\r') || c == 0xfeff;
}

/* C0, DEL and C1: in a log they are not text but commands to a terminal. */
static bool is_control(u32 c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0);
}

static unsigned encode_utf8(u32 c, char out[4])
{
	static const struct {
		u32 below;
		u8 lead;
	} forms[] = { { 0x80, 0x00 }, { 0x800, 0xc0 }, { 0x10000, 0xe0 }, { 0x110000, 0xf0 } };
	unsigned n = 0;

	while (c >= forms[n].below)
		n++;
	for (unsigned i = n; i > 0; i--) {
		out[i] = (char)(0x80 | (c & 0x3f));
		c >>= 6;
	}
	out[0] = (char)(forms[n].lead | c);
	return n + 1;
}

/* Take one character in; false: the line is refused (line->why). */
static bool put(struct line *line, u32 c)
{
	char bytes[4];
	unsigned n;

	if (is_space(c)) {
		line->space = line->len > 0;
		return true;
	}
	if (c == NOT_TEXT || is_control(c)) {
		line->why = "it is not text";
		return false;
	}
	n = encode_utf8(c, bytes);
	if (line->len + line->space + n >= line->size) {
		line->why = "it is too long";
		return false;
	}
	if (line->space)
		line->out[line->len++] = ' ';
	line->space = false;
	memcpy(line->out + line->len, bytes, n);
	line->len += n;
	return true;
}

static int finish(struct line *line, const char **why)
{
	*why = line->why;
	if (line->why)
		line->len = 0;
	line->out[line->len] = '\0';
	return line->why ? -EINVAL : (int)line->len;
}

/* One code point from *at, which moves on; overlong forms and surrogates are malformed. */
static u32 decode_utf8(const u8 *text, u64 len, u64 *at)
{
	static const u32 smallest[] = { 0, 0x80, 0x800, 0x10000 };
	u8 lead = text[(*at)++];
	unsigned more;
	u32 c;

	if (lead < 0x80)
		return lead;
	if (lead < 0xc0 || lead > 0xf7)
		return NOT_TEXT;
	more = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
	c = lead & (0x3f >> more);
	for (unsigned i = 0; i < more; i++) {
		if (*at == len || (text[*at] & 0xc0) != 0x80)
			return NOT_TEXT;
		c = c << 6 | (text[(*at)++] & 0x3f);
	}
	if (c < smallest[more] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return NOT_TEXT;
	return c;
}

static u32 decode_utf16(const u8 *text, u64 len, u64 *at)
{
	u32 c, low;

	c = text[*at] | (u32)text[*at + 1] << 8;
	*at += 2;
	if (c < 0xd800 || c > 0xdfff)
		return c;
	if (c > 0xdbff || *at == len)
		return NOT_TEXT;
	low = text[*at] | (u32)text[*at + 1] << 8;
	*at += 2;
	if (low < 0xdc00 || low > 0xdfff)
		return NOT_TEXT;
	return 0x10000 + ((c & 0x3ff) << 10 | (low & 0x3ff));
}

int cmdline_from_utf8(const void *text, u64 len, char *out, u64 size, const char **why)
{
	static const u8 utf16_mark[] = { 0xff, 0xfe };
	struct line line = { .out = out, .size = size };
	u64 at = 0;

	if (len >= sizeof(utf16_mark) && memcmp(text, utf16_mark, sizeof(utf16_mark)) == 0) {
		line.why = "it is UTF-16, not UTF-8";
		return finish(&line, why);
	}
	while (at < len && put(&line, decode_utf8(text, len, &at)))
		;
	return finish(&line, why);
}

/* Drop "…\loader.efi " from the front. */
static void drop_own_name(struct line *line)
{
	char *space = strchr(line->out, ' ');
	u64 word = space ? (u64)(space - line->out) : line->len;
	u64 skip = space ? word + 1 : word;

	if (word < 4 || line->out[word - 4] != '.' || (line->out[word - 3] | 0x20) != 'e' ||
	    (line->out[word - 2] | 0x20) != 'f' || (line->out[word - 1] | 0x20) != 'i')
		return;
	line->len -= skip;
	memmove(line->out, line->out + skip, line->len + 1);
}

int cmdline_from_utf16(const void *text, u64 len, char *out, u64 size, const char **why)
{
	struct line line = { .out = out, .size = size };
	const u8 *bytes = text;
	u64 at = 0;

	if (len % 2)
		line.why = "it is not text";
	while (!line.why && at < len && (bytes[at] || bytes[at + 1])) {
		u32 c = decode_utf16(text, len, &at);

		/* Two random bytes are a letter somewhere in the world, but hardly ever an ASCII one. */
		put(&line, line.len == 0 && c >= 0x80 && !is_space(c) ? NOT_TEXT : c);
	}
	if (finish(&line, why) < 0)
		return -EINVAL;
	drop_own_name(&line);
	return (int)line.len;
}

bool cmdline_says(const char *line, const char *key, const char *value)
{
	size_t key_len = strlen(key), value_len = strlen(value);
	bool says = false;

	while (*line) {
		const char *space = strchr(line, ' ');
		size_t len = space ? (size_t)(space - line) : strlen(line);

		if (len > key_len && line[key_len] == '=' && !strncmp(line, key, key_len))
			says = len == key_len + 1 + value_len && !strncmp(line + key_len + 1, value, value_len);
		line += len + (space != NULL);
	}
	return says;
}
