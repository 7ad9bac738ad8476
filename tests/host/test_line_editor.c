/* SPDX-License-Identifier: MIT */
/*
 * The monitor's line editor (RP3): bytes go in, and a terminal that knows nothing but printing, backspace, CR, newline and the
 * bell (and the sequence that clears the screen) says what a person would see.
 */
#include <stdlib.h>
#include <string.h>

#include "kernel/base/rng.h"
#include "kernel/line_editor.h"
#include "tests/test.h"

#define ROWS 64u
#define PROMPT "> "
#define CLEAR "\x1b[H\x1b[J"
#define FUZZ_BYTES 400000u

/* ---- The terminal ---- */

static struct {
	char cell[ROWS][LINE_COLUMNS + 1];
	unsigned row, column;
	unsigned bells, clears, faults;
	char held[sizeof(CLEAR)];
	size_t nr_held;
} terminal;

static void terminal_clear(void)
{
	memset(terminal.cell, 0, sizeof(terminal.cell));
	for (unsigned row = 0; row < ROWS; row++)
		memset(terminal.cell[row], ' ', LINE_COLUMNS);
	terminal.row = terminal.column = 0;
}

static void terminal_print(char c)
{
	/* A character in the last column would wrap, in a way that differs between terminals. */
	if (terminal.column + 1 >= LINE_COLUMNS) {
		terminal.faults++;
		return;
	}
	terminal.cell[terminal.row][terminal.column++] = c;
}

static void line_feed(void)
{
	if (terminal.row + 1 < ROWS) {
		terminal.row++;
		return;
	}
	memmove(terminal.cell[0], terminal.cell[1], sizeof(terminal.cell[0]) * (ROWS - 1));
	memset(terminal.cell[ROWS - 1], ' ', LINE_COLUMNS);
}

static void terminal_byte(char c)
{
	if (terminal.nr_held || c == CLEAR[0]) {
		terminal.held[terminal.nr_held++] = c;
		if (memcmp(terminal.held, CLEAR, terminal.nr_held) != 0) {
			terminal.faults++;
			terminal.nr_held = 0;
		} else if (terminal.nr_held == sizeof(CLEAR) - 1) {
			terminal.clears++;
			terminal.nr_held = 0;
			terminal_clear();
		}
	} else if (c == '\b') {
		terminal.faults += !terminal.column;
		terminal.column -= terminal.column > 0;
	} else if (c == '\r') {
		terminal.column = 0;
	} else if (c == '\n') {
		terminal.column = 0;
		line_feed();
	} else if (c == '\a') {
		terminal.bells++;
	} else if (c >= ' ' && c <= '~') {
		terminal_print(c);
	} else {
		terminal.faults++;
	}
}

static void terminal_put(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		terminal_byte(text[i]);
}

/* The row of the cursor, without blanks at its end. */
static const char *terminal_row(unsigned up)
{
	static char row[LINE_COLUMNS + 1];
	size_t length = LINE_COLUMNS;

	memcpy(row, terminal.cell[terminal.row - up], LINE_COLUMNS);
	while (length && row[length - 1] == ' ')
		length--;
	row[length] = 0;
	return row;
}

/* ---- The editor with it ---- */

static const char *const commands[] = { "walk", "walrus", "stats", "policy", NULL };
static const char *const values[] = { "collapse=", "execmem=huge", "execmem=pack", NULL };

static const char *word(const char *line, size_t length, unsigned i)
{
	const char *const *words = length ? values : commands;

	(void)line;
	for (; i && *words; i--)
		words++;
	return *words;
}

static struct line_editor *ed;

static void begin(void)
{
	memset(&terminal, 0, sizeof(terminal));
	terminal_clear();
	/* Of exactly its size, so that the address sanitizer sees what is outside of it. */
	ed = malloc(sizeof(*ed));
	line_editor_init(ed, PROMPT, terminal_put, word);
	line_editor_begin(ed);
}

static void end(void)
{
	CHECK_EQ(terminal.faults, 0);
	free(ed);
}

/* As who takes a line does. */
static void begin_again(void)
{
	if (!terminal.column)
		line_feed();
	line_editor_begin(ed);
}

/* Feed; returns what the last byte led to. A line that ends is followed by the next one. */
static enum line_event type(const char *bytes, size_t length, char *done)
{
	enum line_event event = LINE_MORE;

	for (size_t i = 0; i < length; i++) {
		event = line_editor_feed(ed, (u8)bytes[i]);
		if (event == LINE_MORE)
			continue;
		if (done && event == LINE_DONE)
			strcat(strcat(done, ed->line), "|");
		begin_again();
	}
	return event;
}

/* What the row shows is prompt and line, with the cursor where it belongs, whatever the way there. */
static bool screen_is_right(void)
{
	u32 width = LINE_COLUMNS - 1 - (u32)strlen(PROMPT);
	const char *row = terminal.cell[terminal.row];
	u32 visible = MIN(ed->length - ed->window, width);
	bool good = ed->length <= LINE_MAX_LENGTH && ed->line[ed->length] == 0 && strlen(ed->line) == ed->length &&
		    ed->cursor <= ed->length && ed->window <= ed->cursor && ed->cursor - ed->window <= width;

	/* Nothing is out of sight while there is room for it. */
	good = good && (!ed->window || ed->window + width <= ed->length);
	good = good && memcmp(row, PROMPT, strlen(PROMPT)) == 0;
	good = good && memcmp(row + strlen(PROMPT), ed->line + ed->window, visible) == 0;
	for (u32 i = (u32)strlen(PROMPT) + visible; good && i < LINE_COLUMNS; i++)
		good = row[i] == ' ';
	return good && terminal.column == strlen(PROMPT) + ed->cursor - ed->window;
}

#define UP "\x1b[A"
#define DOWN "\x1b[B"
#define RIGHT "\x1b[C"
#define LEFT "\x1b[D"

#define KEYS(text) (text), sizeof(text) - 1

static const struct {
	const char *name;
	const char *keys;
	size_t length;
	const char *line;	/* that is edited afterwards */
	u32 cursor;
	const char *done;	/* lines that were ended, each with a | behind it */
	unsigned bells;
} rows[] = {
	{ "text", KEYS("walk 1"), "walk 1", 6, "", 0 },
	{ "insert_in_the_middle", KEYS("wk" LEFT "al"), "walk", 3, "", 0 },
	{ "cursor_stops_at_both_ends", KEYS("ab" LEFT LEFT LEFT "x" RIGHT RIGHT RIGHT "y"), "xaby", 4, "", 0 },
	{ "application_cursor_keys", KEYS("ab\x1bODx\x1bOCy"), "axby", 4, "", 0 },
	{ "control_b_f", KEYS("ab\x02x\x06y"), "axby", 4, "", 0 },
	{ "backspace", KEYS("walkk\b"), "walk", 4, "", 0 },
	{ "rubout_in_the_middle", KEYS("wxalk" LEFT LEFT LEFT "\x7f"), "walk", 1, "", 0 },
	{ "backspace_at_the_beginning", KEYS("a\x01\b\b"), "a", 0, "", 0 },
	{ "delete", KEYS("wxalk" LEFT LEFT LEFT LEFT "\x1b[3~"), "walk", 1, "", 0 },
	{ "delete_at_the_end", KEYS("a\x1b[3~\x04"), "a", 1, "", 0 },
	{ "control_d", KEYS("wxalk\x01\x06\x04"), "walk", 1, "", 0 },
	{ "home_end", KEYS("alk\x1b[Hw\x1b[F 1"), "walk 1", 6, "", 0 },
	{ "home_end_of_other_terminals", KEYS("b\x1b[1~a\x1b[4~c\x1b[7~0\x1b[8~d\x1bOH-\x1bOFe"), "-0abcde", 7, "", 0 },
	{ "control_a_e", KEYS("alk\x01w\x05 1"), "walk 1", 6, "", 0 },
	{ "control_k", KEYS("walk 1" LEFT LEFT "\x0b"), "walk", 4, "", 0 },
	{ "control_u", KEYS("rubbish walk" LEFT LEFT LEFT LEFT "\x15"), "walk", 0, "", 0 },
	{ "control_w", KEYS("walk 12  \x17"), "walk ", 5, "", 0 },
	{ "control_w_up_to_the_beginning", KEYS("walk\x17\x17"), "", 0, "", 0 },
	{ "control_c", KEYS("walk\x03s"), "s", 1, "", 0 },
	{ "cr", KEYS("a\rb\r"), "", 0, "a|b|", 0 },
	{ "lf", KEYS("a\nb\n"), "", 0, "a|b|", 0 },
	{ "crlf", KEYS("a\r\nb\r\n"), "", 0, "a|b|", 0 },
	{ "crlf_empty_lines", KEYS("\r\n\r\n"), "", 0, "||", 0 },
	{ "lf_lf", KEYS("a\n\nb"), "b", 1, "a||", 0 },
	{ "cr_text_lf", KEYS("a\rb\n"), "", 0, "a|b|", 0 },
	{ "history", KEYS("one\rtwo\r" UP UP), "one", 3, "one|two|", 0 },
	{ "history_and_back", KEYS("one\rtwo\rthr" UP UP DOWN DOWN "ee"), "three", 5, "one|two|", 0 },
	{ "history_has_an_end", KEYS("one\r" UP UP), "one", 3, "one|", 1 },
	{ "nothing_behind_the_newest", KEYS("one\r" DOWN), "", 0, "one|", 1 },
	{ "history_by_control_p_n", KEYS("one\rtwo\r\x10\x10\x0e"), "two", 3, "one|two|", 0 },
	{ "history_takes_a_line_once", KEYS("one\rone\r\rtwo\r" UP UP), "one", 3, "one|one||two|", 0 },
	{ "history_is_a_copy", KEYS("one\r" UP "s\r" UP UP), "one", 3, "one|ones|", 0 },
	{ "completion", KEYS("st\t"), "stats ", 6, "", 0 },
	{ "completion_in_common", KEYS("w\t"), "wal", 3, "", 0 },
	{ "completion_of_nothing", KEYS("x\t"), "x", 1, "", 1 },
	{ "completion_in_the_middle", KEYS("st 5" LEFT LEFT "\t"), "stats 5", 5, "", 0 },
	{ "completion_of_an_argument", KEYS("policy c\t"), "policy collapse=", 16, "", 0 },
	{ "completion_of_a_whole_word", KEYS("stats\t"), "stats ", 6, "", 0 },
	{ "unknown_sequences", KEYS("a\x1b[5~\x1b[200~b\x1b[?25h\x1b(B\x1bMc\x1b[1;5Zd\x1b[ qe"), "abcde", 5, "", 0 },
	{ "titles_and_strings", KEYS("a\x1b]0;walk\x07" "b\x1bPq#0\x1b\\c"), "abc", 3, "", 0 },
	{ "cut_sequence", KEYS("a\x1b[12\rb\x1b\rc"), "c", 1, "a|b|", 0 },
	{ "sequence_in_a_sequence", KEYS("ab\x1b[1\x1b[Dc"), "acb", 2, "", 0 },
	{ "other_control_characters", KEYS("a\x00\x07\x0f\x13\x1c\x1fz"), "az", 2, "", 0 },
	{ "utf_8_and_8_bit", KEYS("a\xc3\xa4\xff\x80\xe2\x82\xac z"), "a z", 3, "", 0 },
	{ "huge_parameter", KEYS("ab\x1b[99999999999999999999~\x1b[99999999999999999999Dc"), "acb", 2, "", 0 },
};

static unsigned nr_rows(void)
{
	return ARRAY_SIZE(rows);
}

static void name_row(unsigned row, char *buf, size_t size)
{
	strncpy(buf, rows[row].name, size - 1);
	buf[size - 1] = 0;
}

TEST_ROWS(line_editor, keys, "RP3", 0, nr_rows, name_row)
{
	char done[1024] = "";
	unsigned row = test_row();

	begin();
	for (size_t i = 0; i < rows[row].length; i++) {
		type(rows[row].keys + i, 1, done);
		CHECK(screen_is_right());
	}
	CHECK(strcmp(ed->line, rows[row].line) == 0);
	CHECK_EQ(ed->cursor, rows[row].cursor);
	CHECK(strcmp(done, rows[row].done) == 0);
	CHECK_EQ(terminal.bells, rows[row].bells);
	end();
}

TEST_ID(line_editor, candidates_are_listed_below_the_line, "RP3")
{
	begin();
	type(KEYS("wal\t"), NULL);
	CHECK(strcmp(terminal_row(0), PROMPT "wal") == 0);
	CHECK(strcmp(terminal_row(1), "walk    walrus") == 0);
	CHECK(strcmp(terminal_row(2), PROMPT "wal") == 0);
	CHECK(screen_is_right());
	type(KEYS("r\t\x15 \x01\t"), NULL);
	CHECK(strcmp(terminal_row(1), "walk    walrus  stats   policy") == 0);
	end();
}

/* Who takes a line writes it again, to the log too: over what is shown of it, so that it stands there once. */
TEST_ID(line_editor, a_line_that_ends_is_written_over, "RP3")
{
	begin();
	for (unsigned i = 0; i < 70; i++)
		line_editor_feed(ed, (u8)('a' + i % 26));
	line_editor_feed(ed, 1);
	CHECK_EQ(line_editor_feed(ed, '\r'), LINE_DONE);
	CHECK_EQ(strlen(ed->line), 70);
	CHECK_EQ(terminal.row, 0);
	CHECK_EQ(terminal.column, 0);
	terminal_put(PROMPT, strlen(PROMPT));
	terminal_put(ed->line, ed->length);
	terminal_put("\n", 1);
	CHECK(strcmp(terminal_row(0), "") == 0);
	CHECK(strlen(terminal_row(1)) == strlen(PROMPT) + 70);
	CHECK(strcmp(terminal_row(1) + strlen(PROMPT), ed->line) == 0);
	line_editor_begin(ed);
	CHECK(screen_is_right());
	end();
}

TEST_ID(line_editor, control_d_and_c, "RP3")
{
	begin();
	CHECK_EQ(line_editor_feed(ed, 4), LINE_EOF);
	CHECK(strcmp(terminal_row(1), ">") == 0);
	CHECK_EQ(terminal.column, 0);
	line_editor_begin(ed);
	CHECK_EQ(type(KEYS("a\x04"), NULL), LINE_MORE);
	CHECK_EQ(line_editor_feed(ed, 3), LINE_GIVEN_UP);
	CHECK(strcmp(terminal_row(1), PROMPT "a") == 0);
	CHECK_EQ(terminal.column, 0);
	line_editor_begin(ed);
	CHECK_EQ(ed->length, 0);
	end();
}

TEST_ID(line_editor, clears_the_screen, "RP3")
{
	begin();
	type(KEYS("one\rtwo\rwalk 1" LEFT "\x0c"), NULL);
	CHECK_EQ(terminal.clears, 1);
	CHECK_EQ(terminal.row, 0);
	CHECK(strcmp(terminal_row(0), PROMPT "walk 1") == 0);
	CHECK(screen_is_right());
	end();
}

TEST_ID(line_editor, redraws_behind_other_output, "RP3")
{
	begin();
	type(KEYS("walk 1" LEFT), NULL);
	terminal_put(KEYS("\n# something was said\n"));
	line_editor_redraw(ed);
	CHECK(screen_is_right());
	end();
}

/* A line that is full says so at once and at its end, and is not taken for what was typed; unless it was shortened. */
TEST_ID(line_editor, too_long_a_line_is_refused, "RP3")
{
	char done[2048] = "";

	begin();
	for (unsigned i = 0; i < LINE_MAX_LENGTH; i++)
		type("x", 1, NULL);
	CHECK_EQ(terminal.bells, 0);
	type("y", 1, NULL);
	CHECK_EQ(terminal.bells, 1);
	CHECK_EQ(ed->length, LINE_MAX_LENGTH);
	CHECK_EQ(type("\r", 1, done), LINE_TOO_LONG);
	CHECK(done[0] == 0);
	/* It is not in the history. */
	type(KEYS(UP), NULL);
	CHECK_EQ(ed->length, 0);
	for (unsigned i = 0; i < LINE_MAX_LENGTH + 20; i++)
		type("x", 1, NULL);
	CHECK_EQ(type(KEYS("\b\b\r"), done), LINE_DONE);
	CHECK_EQ(strlen(done), LINE_MAX_LENGTH - 2 + 1);
	/* Nor does completion write behind the end. */
	for (unsigned i = 0; i < LINE_MAX_LENGTH - 2; i++)
		type(" ", 1, NULL);
	type(KEYS("p\t"), NULL);
	CHECK_EQ(ed->length, LINE_MAX_LENGTH - 1);
	CHECK(screen_is_right());
	end();
}

TEST_ID(line_editor, history_is_bounded, "RP3")
{
	char line[8] = "lineAA\r";

	begin();
	for (unsigned i = 0; i < 3 * LINE_HISTORY; i++) {
		line[4] = (char)('A' + i / 26);
		line[5] = (char)('A' + i % 26);
		type(line, 7, NULL);
	}
	for (unsigned i = 0; i < LINE_HISTORY + 5; i++)
		type(KEYS(UP), NULL);
	CHECK_EQ(terminal.bells, 5);
	line[4] = (char)('A' + 2 * LINE_HISTORY / 26);
	line[5] = (char)('A' + 2 * LINE_HISTORY % 26);
	CHECK(strncmp(ed->line, line, 6) == 0 && ed->length == 6);
	end();
}

/* A line that is wider than the terminal is seen through a window with the cursor in it. */
TEST_ID(line_editor, window_follows_the_cursor, "RP3")
{
	begin();
	for (unsigned i = 0; i < 200; i++) {
		char c = (char)('a' + i % 26);

		type(&c, 1, NULL);
		CHECK(screen_is_right());
	}
	CHECK(ed->window > 0);
	for (unsigned i = 0; i < 200; i++) {
		type(KEYS(LEFT), NULL);
		CHECK(screen_is_right());
	}
	CHECK_EQ(ed->window, 0);
	type(KEYS("\x05"), NULL);
	CHECK(screen_is_right());
	type(KEYS("\x15"), NULL);
	CHECK(screen_is_right());
	CHECK_EQ(ed->length, 0);
	end();
}

/* Keys that do something come up often enough; every other byte too. */
static u8 random_byte(struct rng *rng)
{
	static const char keys[] = "\x01\x02\x03\x04\x05\x06\b\t\n\x0b\x0c\r\x0e\x10\x15\x17\x1b\x1b\x1b[[O~ABCDFHPZ;?0123walstep=c  ";
	u64 choice = rng_below(rng, 16);

	if (choice < 7)
		return (u8)keys[rng_below(rng, sizeof(keys) - 1)];
	return choice == 7 ? (u8)rng_below(rng, 256) : (u8)(' ' + rng_below(rng, 95));
}

TEST_ID(line_editor, random_bytes, "RP3")
{
	struct rng rng = test_rng();
	unsigned lines = 0, too_long = 0;
	bool good = true;

	begin();
	for (unsigned i = 0; good && i < FUZZ_BYTES; i++) {
		/* Now and then nothing but text, so that lines get long. */
		u8 byte = i / 1024 % 4 == 3 && rng_below(&rng, 512) ? (u8)('!' + rng_below(&rng, 94)) : random_byte(&rng);
		enum line_event event = line_editor_feed(ed, byte);

		if (event != LINE_MORE) {
			good = terminal.column == 0;
			lines += event == LINE_DONE;
			too_long += event == LINE_TOO_LONG;
			begin_again();
		}
		good = good && !terminal.faults && screen_is_right();
	}
	CHECK(good);
	CHECK(lines > 1000 && too_long > 10);
	end();
}
