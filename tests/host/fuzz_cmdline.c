/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer on boot/cmdline.c: any bytes as a command line, in both encodings, into lines of any size. The
 * first byte of the input is the encoding, the second the size.
 */
#include <stdlib.h>
#include <string.h>

#include "boot/cmdline.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static void need(bool condition)
{
	if (!condition)
		abort();
}

static void check_line(const char *out, int len, u64 size)
{
	need((u64)len < size && strlen(out) == (u64)len);
	for (int i = 0; i < len; i++) {
		u8 c = (u8)out[i];

		need(c >= 0x20 && c != 0x7f);
		need(c != ' ' || (i > 0 && i < len - 1 && out[i - 1] != ' '));
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	const char *why = NULL;
	u64 out_size;
	char *out, *again;
	u8 *text;
	int len;

	if (size < 2)
		return 0;
	out_size = 1 + data[1];
	out = malloc(out_size);
	text = malloc(size - 2 ? size - 2 : 1);
	memcpy(text, data + 2, size - 2);
	len = (data[0] & 1 ? cmdline_from_utf16 : cmdline_from_utf8)(text, size - 2, out, out_size, &why);
	if (len < 0) {
		need(why && out[0] == '\0');
	} else {
		check_line(out, len, out_size);
		/* A clean line stays as it is. */
		again = malloc(out_size);
		need(cmdline_from_utf8(out, (u64)len, again, out_size, &why) == len);
		need(strcmp(out, again) == 0);
		free(again);
	}
	free(text);
	free(out);
	return 0;
}
