/* SPDX-License-Identifier: MIT */
/*
 * The line editor (line_editor.h).
 *
 * Every key changes line, length and cursor, and nothing else; then refresh() compares what the row should show with what it
 * does show, and sends the difference. So there is one place that writes to the terminal, and it cannot forget anything.
 */
#include "kernel/line_editor.h"

#include "kernel/base/string.h"

#define CTRL(c) ((c) & 0x1f)
#define ESC 0x1b
#define DEL 0x7f
#define BELL "\a"

enum escape_state {
	STATE_GROUND,
	STATE_ESCAPE,	/* behind ESC */
	STATE_CSI,	/* behind ESC [ : parameters, up to a final byte */
	STATE_SS3,	/* behind ESC O : one more byte */
	STATE_STRING,	/* behind ESC ] and its like: text up to BEL, ESC or another control character */
};

/* ---- The screen ---- */

static void put(struct line_editor *ed, const char *text, size_t length)
{
	if (length)
		ed->put(text, length);
}

static void put_text(struct line_editor *ed, const char *text)
{
	put(ed, text, strlen(text));
}

/* The cursor goes left by backspaces, and right by writing what is there. */
static void move_to(struct line_editor *ed, u32 column)
{
	while (ed->shown_cursor > column) {
		put_text(ed, "\b");
		ed->shown_cursor--;
	}
	put(ed, ed->shown + ed->shown_cursor, column - ed->shown_cursor);
	ed->shown_cursor = column;
}

/* Make the row show `length` characters of text. */
static void show(struct line_editor *ed, const char *text, u32 length)
{
	u32 same = 0;

	while (same < length && same < ed->shown_length && text[same] == ed->shown[same])
		same++;
	if (same < length || same < ed->shown_length) {
		u32 old = ed->shown_length;

		move_to(ed, same);
		memcpy(ed->shown + same, text + same, length - same);
		if (old > length)
			memset(ed->shown + length, ' ', old - length);
		ed->shown_length = MAX(old, length);
		move_to(ed, ed->shown_length);
		ed->shown_length = length;
	}
}

static void refresh(struct line_editor *ed)
{
	u32 prompt = (u32)strlen(ed->prompt);
	u32 width = LINE_COLUMNS - 1 - prompt;	/* of the window; the cursor may stand behind its last character */
	char row[LINE_COLUMNS];
	u32 visible;

	if (ed->cursor < ed->window || ed->cursor > ed->window + width)
		ed->window = ed->cursor > width / 2 ? ed->cursor - width / 2 : 0;
	/* No blank end of the window while something is out of sight before it. */
	if (ed->window && ed->length < ed->window + width)
		ed->window = ed->length > width ? ed->length - width : 0;
	visible = MIN(ed->length - ed->window, width);
	memcpy(row, ed->prompt, prompt);
	memcpy(row + prompt, ed->line + ed->window, visible);
	show(ed, row, prompt + visible);
	move_to(ed, prompt + ed->cursor - ed->window);
}

/* The terminal's cursor is at the beginning of a row that is empty, or that nobody needs any more. */
static void row_is_empty(struct line_editor *ed)
{
	ed->shown_length = 0;
	ed->shown_cursor = 0;
}

static void leave_row(struct line_editor *ed)
{
	move_to(ed, ed->shown_length);
	put_text(ed, "\n");
	row_is_empty(ed);
}

/* ---- The line ---- */

static void set_line(struct line_editor *ed, const char *text)
{
	ed->length = (u32)strlen(text);
	memcpy(ed->line, text, ed->length + 1);
	ed->cursor = ed->length;
	ed->full = false;
}

static bool insert(struct line_editor *ed, const char *text, size_t length)
{
	if (length > LINE_MAX_LENGTH - ed->length) {
		ed->full = true;
		put_text(ed, BELL);
		return false;
	}
	memmove(ed->line + ed->cursor + length, ed->line + ed->cursor, ed->length + 1 - ed->cursor);
	memcpy(ed->line + ed->cursor, text, length);
	ed->length += (u32)length;
	ed->cursor += (u32)length;
	return true;
}

/* Delete from `start` to `end`; the cursor, which is at one of the two, ends up there. */
static void delete(struct line_editor *ed, u32 start, u32 end)
{
	if (start == end)
		return;
	memmove(ed->line + start, ed->line + end, ed->length + 1 - end);
	ed->length -= end - start;
	ed->cursor = start;
	ed->full = false;
}

static u32 word_start(const struct line_editor *ed)
{
	u32 at = ed->cursor;

	while (at && ed->line[at - 1] == ' ')
		at--;
	while (at && ed->line[at - 1] != ' ')
		at--;
	return at;
}

/* ---- History ---- */

static const char *history_line(const struct line_editor *ed, u32 back)
{
	return ed->history[(ed->nr_history - back) % LINE_HISTORY];
}

static void remember(struct line_editor *ed)
{
	if (!ed->length || (ed->nr_history && strcmp(history_line(ed, 1), ed->line) == 0))
		return;
	memcpy(ed->history[ed->nr_history++ % LINE_HISTORY], ed->line, ed->length + 1);
}

static void go_back(struct line_editor *ed, u32 back)
{
	if (back > MIN(ed->nr_history, (u64)LINE_HISTORY)) {
		put_text(ed, BELL);
		return;
	}
	if (!ed->back)
		memcpy(ed->stash, ed->line, ed->length + 1);
	ed->back = back;
	set_line(ed, back ? history_line(ed, back) : ed->stash);
}

static void go_forth(struct line_editor *ed)
{
	if (ed->back)
		go_back(ed, ed->back - 1);
	else
		put_text(ed, BELL);
}

/* ---- Completion ---- */

struct completion {
	u32 start;		/* of the word in the line */
	u32 length;		/* of what stands of it before the cursor */
	u32 common;		/* characters that all candidates begin with, from `first` */
	unsigned found;
	const char *first;
};

/* The next candidate from *i on, NULL: none. */
static const char *candidate(struct line_editor *ed, const struct completion *c, unsigned *i)
{
	const char *word;

	while ((word = ed->word(ed->line, c->start, (*i)++)))
		if (strncmp(word, ed->line + c->start, c->length) == 0)
			return word;
	return NULL;
}

static void look_for_candidates(struct line_editor *ed, struct completion *c)
{
	const char *word;

	for (unsigned i = 0; (word = candidate(ed, c, &i)); c->found++) {
		u32 same = 0;

		if (!c->found) {
			c->first = word;
			c->common = (u32)strlen(word);
		}
		while (same < c->common && word[same] == c->first[same])
			same++;
		c->common = same;
	}
}

/* In columns, on rows of their own below the line. */
static void list_candidates(struct line_editor *ed, const struct completion *c)
{
	u32 width = 0, column = 0;
	const char *word;

	for (unsigned i = 0; (word = candidate(ed, c, &i));)
		width = MAX(width, (u32)strlen(word) + 2);
	leave_row(ed);
	for (unsigned i = 0; (word = candidate(ed, c, &i));) {
		if (column && column + width >= LINE_COLUMNS) {
			put_text(ed, "\n");
			column = 0;
		}
		put_text(ed, word);
		for (u32 n = (u32)strlen(word); n < width; n++)
			put_text(ed, " ");
		column += width;
	}
	put_text(ed, "\n");
}

static void complete(struct line_editor *ed)
{
	struct completion c = { .start = ed->cursor };

	while (c.start && ed->line[c.start - 1] != ' ')
		c.start--;
	c.length = ed->cursor - c.start;
	look_for_candidates(ed, &c);
	if (!c.found)
		put_text(ed, BELL);
	else if (c.common > c.length && !insert(ed, c.first + c.length, c.common - c.length))
		return;
	else if (c.found > 1 && c.common == c.length)
		list_candidates(ed, &c);
	/* A word that is complete is left behind, but not one that goes on with a value: key= */
	if (c.found == 1 && c.common && c.first[c.common - 1] != '=' && ed->line[ed->cursor] != ' ')
		insert(ed, " ", 1);
}

/* ---- Keys ---- */

/* Home, then all that is behind it: who reads a log takes "all of the screen" for the firmware's, on the next boot. */
static void clear_screen(struct line_editor *ed)
{
	put_text(ed, "\x1b[H\x1b[J");
	row_is_empty(ed);
}

static void delete_here(struct line_editor *ed)
{
	if (ed->cursor < ed->length)
		delete(ed, ed->cursor, ed->cursor + 1);
}

static void key_left(struct line_editor *ed)
{
	ed->cursor -= ed->cursor > 0;
}

static void key_right(struct line_editor *ed)
{
	ed->cursor += ed->cursor < ed->length;
}

static enum line_event end_line(struct line_editor *ed)
{
	put_text(ed, "\r");
	row_is_empty(ed);
	if (ed->full)
		return LINE_TOO_LONG;
	remember(ed);
	return LINE_DONE;
}

static enum line_event control(struct line_editor *ed, u8 byte)
{
	switch (byte) {
	case '\r':
	case '\n':
		return end_line(ed);
	case CTRL('A'):
		ed->cursor = 0;
		break;
	case CTRL('B'):
		key_left(ed);
		break;
	case CTRL('C'):
		leave_row(ed);
		return LINE_GIVEN_UP;
	case CTRL('D'):
		if (!ed->length) {
			leave_row(ed);
			return LINE_EOF;
		}
		delete_here(ed);
		break;
	case CTRL('E'):
		ed->cursor = ed->length;
		break;
	case CTRL('F'):
		key_right(ed);
		break;
	case CTRL('H'):
	case DEL:
		delete(ed, ed->cursor - (ed->cursor > 0), ed->cursor);
		break;
	case '\t':
		complete(ed);
		break;
	case CTRL('K'):
		delete(ed, ed->cursor, ed->length);
		break;
	case CTRL('L'):
		clear_screen(ed);
		break;
	case CTRL('N'):
		go_forth(ed);
		break;
	case CTRL('P'):
		go_back(ed, ed->back + 1);
		break;
	case CTRL('U'):
		delete(ed, 0, ed->cursor);
		break;
	case CTRL('W'):
		delete(ed, word_start(ed), ed->cursor);
		break;
	}
	return LINE_MORE;
}

/* What the final byte of a control sequence, or the one behind ESC O, asks for. */
static void key(struct line_editor *ed, u8 final)
{
	static const u8 tilde_keys[] = { [1] = 'H', [3] = 'D' | 0x80, [4] = 'F', [7] = 'H', [8] = 'F' };

	if (final == '~')
		final = ed->parameter < ARRAY_SIZE(tilde_keys) ? tilde_keys[ed->parameter] : 0;
	switch (final) {
	case 'A':
		go_back(ed, ed->back + 1);
		break;
	case 'B':
		go_forth(ed);
		break;
	case 'C':
		key_right(ed);
		break;
	case 'D':
		key_left(ed);
		break;
	case 'H':
		ed->cursor = 0;
		break;
	case 'F':
		ed->cursor = ed->length;
		break;
	case 'D' | 0x80:
		delete_here(ed);
		break;
	}
}

static void escape(struct line_editor *ed, u8 byte)
{
	switch (byte) {
	case '[':
		ed->state = STATE_CSI;
		ed->parameter = 0;
		break;
	case 'O':
		ed->state = STATE_SS3;
		break;
	case 'P':
	case 'X':
	case ']':
	case '^':
	case '_':
		ed->state = STATE_STRING;
		break;
	default:
		/* Intermediate bytes are followed by more; anything else ends the sequence. */
		if (byte < 0x20 || byte > 0x2f)
			ed->state = STATE_GROUND;
	}
}

static void control_sequence(struct line_editor *ed, u8 byte)
{
	if (byte >= '0' && byte <= '9' && ed->parameter < 1000)
		ed->parameter = ed->parameter * 10 + byte - '0';
	if (byte >= 0x20 && byte < 0x40)
		return;
	ed->state = STATE_GROUND;
	if (byte < 0x7f)
		key(ed, byte);
}

/* A byte inside an escape sequence, no control character. */
static void sequence(struct line_editor *ed, u8 byte)
{
	switch (ed->state) {
	case STATE_ESCAPE:
		escape(ed, byte);
		break;
	case STATE_CSI:
		control_sequence(ed, byte);
		break;
	case STATE_SS3:
		ed->state = STATE_GROUND;
		key(ed, byte);
		break;
	default:	/* STATE_STRING: it goes on */
		break;
	}
}

enum line_event line_editor_feed(struct line_editor *ed, u8 byte)
{
	enum line_event event = LINE_MORE;
	bool after_cr = ed->after_cr;

	ed->after_cr = byte == '\r';
	if (byte == '\n' && after_cr)
		return LINE_MORE;
	if (byte == ESC) {
		ed->state = STATE_ESCAPE;
		return LINE_MORE;
	}
	/* A control character ends a sequence that was cut; a bell is the regular end of a string. */
	if (byte < 0x20) {
		ed->state = STATE_GROUND;
		event = control(ed, byte);
	} else if (ed->state != STATE_GROUND) {
		sequence(ed, byte);
	} else if (byte == DEL) {
		event = control(ed, byte);
	} else if (byte < DEL) {
		insert(ed, (const char *)&byte, 1);
	}
	if (event == LINE_MORE)
		refresh(ed);
	return event;
}

/* ---- Begin ---- */

void line_editor_init(struct line_editor *ed, const char *prompt, void (*put_bytes)(const char *text, size_t length),
		      const char *(*word)(const char *line, size_t length, unsigned i))
{
	size_t length = MIN(strlen(prompt), (size_t)LINE_PROMPT_MAX - 1);

	memset(ed, 0, sizeof(*ed));
	ed->put = put_bytes;
	ed->word = word;
	memcpy(ed->prompt, prompt, length);
}

void line_editor_redraw(struct line_editor *ed)
{
	row_is_empty(ed);
	refresh(ed);
}

void line_editor_begin(struct line_editor *ed)
{
	set_line(ed, "");
	ed->back = 0;
	ed->window = 0;
	line_editor_redraw(ed);
}
