/* SPDX-License-Identifier: MIT */
/*
 * Draws text. The framebuffer is write-combining memory: written in order, never read. What is on the screen is
 * remembered in a grid of characters, and only cells that change are drawn. At the bottom the text moves up by half
 * a screen, so that redrawing costs about one more cell per cell.
 */
#include "kernel/fbcon.h"

#include "kernel/base/string.h"
#include "kernel/font.h"

#define CELL_WIDTH 8u
#define CELL_HEIGHT 16u
#define COLUMNS_MAX 256u
#define ROWS_MAX 144u
#define WHITE 0x00ffffffu	/* the same in RGBX and BGRX */
#define TAB_WIDTH 8u

static struct {
	volatile u32 *pixels;
	u32 stride;
	u32 columns, rows;
	u32 x, y;
	char shown[ROWS_MAX][COLUMNS_MAX];
} fbcon;

bool fbcon_usable(const struct boot_framebuffer *fb)
{
	return fb->pa && fb->format <= 1 && fb->width >= CELL_WIDTH && fb->height >= CELL_HEIGHT &&
	       fb->stride >= fb->width && (u64)fb->stride * fb->height * sizeof(u32) <= fb->size;
}

static void draw(u32 x, u32 y, char c)
{
	volatile u32 *line = fbcon.pixels + (u64)y * CELL_HEIGHT * fbcon.stride + x * CELL_WIDTH;

	if (fbcon.shown[y][x] == c)
		return;
	fbcon.shown[y][x] = c;
	for (u32 row = 0; row < CELL_HEIGHT; row++, line += fbcon.stride) {
		u8 bits = font_row(c, row);

		for (u32 column = 0; column < CELL_WIDTH; column++)
			line[column] = bits >> (CELL_WIDTH - 1 - column) & 1 ? WHITE : 0;
	}
}

static void scroll(void)
{
	u32 up = (fbcon.rows + 1) / 2;

	for (u32 y = 0; y < fbcon.rows; y++)
		for (u32 x = 0; x < fbcon.columns; x++)
			draw(x, y, y + up < fbcon.rows ? fbcon.shown[y + up][x] : ' ');
	fbcon.y -= up;
}

static void new_line(void)
{
	fbcon.x = 0;
	fbcon.y++;
	if (fbcon.y == fbcon.rows)
		scroll();
}

static void put(char c)
{
	if (c == '\n') {
		new_line();
		return;
	}
	if (c == '\t') {
		fbcon.x = (fbcon.x / TAB_WIDTH + 1) * TAB_WIDTH;
		return;
	}
	if (fbcon.x >= fbcon.columns)
		new_line();
	draw(fbcon.x++, fbcon.y, c);
}

static bool fbcon_write(struct console *console, const char *text, size_t len)
{
	(void)console;
	for (size_t i = 0; i < len; i++)
		put(text[i]);
	return true;
}

struct console *fbcon_init(const struct boot_framebuffer *fb, void *pixels)
{
	static struct console console = { .name = "screen", .write = fbcon_write };

	fbcon.pixels = pixels;
	fbcon.stride = fb->stride;
	fbcon.columns = MIN(fb->width / CELL_WIDTH, COLUMNS_MAX);
	fbcon.rows = MIN(fb->height / CELL_HEIGHT, ROWS_MAX);
	memset(fbcon.shown, ' ', sizeof(fbcon.shown));
	for (u64 i = 0; i < (u64)fb->stride * fb->height; i++)
		fbcon.pixels[i] = 0;
	return &console;
}
