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
#define WHITE 0x00ffffffu	/* the same in RGBX and BGRX, and so are grey and green */
#define GREY 0x00c0c0c0u
#define GREEN 0x0000c000u
#define TAB_WIDTH 8u
#define VERDICT_LETTERS 4u
#define VERDICT_LINES 4u	/* one blank, two of text, one blank */
#define LOG_ROWS_MIN 4u		/* that must be left for the log */

static struct {
	volatile u32 *pixels;		/* NULL: no screen */
	u32 width, stride;
	u32 red;			/* the colour, in this format */
	u32 columns;
	u32 top, rows;			/* the log is from row top up to, not including, rows */
	u32 status;			/* row of the line at the bottom; 0: there is none */
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
	u32 paper = fbcon.status && y == fbcon.status ? WHITE : 0;

	if (fbcon.shown[y][x] == c)
		return;
	fbcon.shown[y][x] = c;
	for (u32 row = 0; row < CELL_HEIGHT; row++, line += fbcon.stride) {
		u8 bits = font_row(c, row);

		for (u32 column = 0; column < CELL_WIDTH; column++)
			line[column] = bits >> (CELL_WIDTH - 1 - column) & 1 ? WHITE ^ paper : paper;
	}
}

/* A whole row: the text, cut if need be, and blanks. NULL: blanks. */
static void draw_row(u32 y, const char *text)
{
	for (u32 x = 0; x < fbcon.columns; x++) {
		draw(x, y, text && *text ? *text : ' ');
		if (text && *text)
			text++;
	}
}

/* The cursor first: a panic may break in at any character, and it must not be outside of the log's rows then. */
static void scroll(void)
{
	u32 up = (fbcon.rows - fbcon.top + 1) / 2;

	fbcon.y -= up;
	for (u32 y = fbcon.top; y < fbcon.rows; y++)
		for (u32 x = 0; x < fbcon.columns; x++)
			draw(x, y, y + up < fbcon.rows ? fbcon.shown[y + up][x] : ' ');
}

static void new_line(void)
{
	fbcon.x = 0;
	if (fbcon.y + 1 == fbcon.rows)
		scroll();
	fbcon.y++;
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

static size_t fbcon_write(struct console *console, const char *text, size_t len)
{
	(void)console;
	for (size_t i = 0; i < len; i++)
		put(text[i]);
	return len;
}

struct console *fbcon_init(const struct boot_framebuffer *fb, void *pixels)
{
	static struct console console = { .name = "screen", .write = fbcon_write };
	u32 rows = MIN(fb->height / CELL_HEIGHT, ROWS_MAX);

	fbcon.width = fb->width;
	fbcon.stride = fb->stride;
	fbcon.red = fb->format ? 0x00e00000u : 0x000000e0u;
	fbcon.columns = MIN(fb->width / CELL_WIDTH, COLUMNS_MAX);
	fbcon.status = rows > LOG_ROWS_MIN ? rows - 1 : 0;
	fbcon.rows = fbcon.status ? fbcon.status : rows;
	memset(fbcon.shown, ' ', sizeof(fbcon.shown));
	memset(fbcon.shown[fbcon.rows], 0, sizeof(fbcon.shown[0]));
	fbcon.pixels = pixels;
	for (u64 i = 0; i < (u64)fb->stride * fb->height; i++)
		fbcon.pixels[i] = 0;
	return &console;
}

void fbcon_status(const char *text)
{
	if (fbcon.pixels && fbcon.status)
		draw_row(fbcon.status, text);
}

/* A letter with each pixel of the font a square of so many. */
static void draw_large(u32 left, char c, u32 scale, u32 colour)
{
	for (u32 y = 0; y < CELL_HEIGHT * scale; y++) {
		volatile u32 *line = fbcon.pixels + (u64)y * fbcon.stride + left;
		u8 bits = font_row(c, y / scale);

		for (u32 x = 0; x < CELL_WIDTH * scale; x++)
			line[x] = bits >> (CELL_WIDTH - 1 - x / scale) & 1 ? colour : 0;
	}
}

/* The log keeps its last lines, in what is left of its rows. They move down, if at all: the lowest one first. */
static void lower_top(u32 top)
{
	u32 kept = MIN(fbcon.y + 1 - fbcon.top, fbcon.rows - top);
	u32 from = fbcon.y + 1 - kept;

	for (u32 i = kept; i-- > 0;)
		for (u32 x = 0; x < fbcon.columns; x++)
			draw(x, top + i, fbcon.shown[from + i][x]);
	fbcon.y = top + kept - 1;
	fbcon.top = top;
}

void fbcon_verdict(enum verdict verdict, const char *first, const char *second)
{
	static const char words[][VERDICT_LETTERS + 1] = { "PASS", "FAIL", "SKIP" };
	const u32 colours[] = { GREEN, fbcon.red, GREY };
	u32 scale = MIN(fbcon.width / (VERDICT_LETTERS * CELL_WIDTH), fbcon.rows / 4);
	u32 top = scale + VERDICT_LINES;

	if (!fbcon.pixels || !scale || top + LOG_ROWS_MIN > fbcon.rows)
		return;
	if (fbcon.top < top)
		lower_top(top);
	for (u32 y = 0; y < top; y++)
		draw_row(y, NULL);
	draw_row(scale + 1, first);
	draw_row(scale + 2, second);
	for (u32 y = 0; y < scale * CELL_HEIGHT; y++)
		for (u32 x = 0; x < fbcon.width; x++)
			fbcon.pixels[(u64)y * fbcon.stride + x] = 0;
	for (u32 i = 0; i < VERDICT_LETTERS; i++)
		draw_large((fbcon.width - VERDICT_LETTERS * CELL_WIDTH * scale) / 2 + i * CELL_WIDTH * scale,
			   words[verdict][i], scale, colours[verdict]);
}
