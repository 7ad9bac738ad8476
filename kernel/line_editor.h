/* SPDX-License-Identifier: MIT */
/*
 * A line editor for a terminal at the other end of a wire: bytes go in, bytes come out, and now and then a line is done.
 *
 * It is pure: it touches nothing but its own memory and what put() and the completion are given, so it is tested hosted
 * (tests/host/test_line_editor.c), as it runs on the machine (kernel/monitor.c).
 *
 * In: printable ASCII; the control characters below; what terminals send for cursor keys (ECMA-48 control sequences).
 * CR, LF and CR LF each end a line once. A sequence or a byte that means nothing here does nothing: nothing of it is shown.
 * Out: printable ASCII, backspace, CR, newline (LF, of which consoles make CR LF) and the bell, no more, so the simplest
 * terminal will do; after Ctrl-L alone also the sequence that clears the screen. A line wider than the terminal is shown
 * through a window that follows the cursor.
 *
 *	left, right, Ctrl-B, Ctrl-F	Home, End, Ctrl-A, Ctrl-E	Backspace	Delete, Ctrl-D
 *	Ctrl-K to the end		Ctrl-U to the beginning		Ctrl-W a word back
 *	up, down, Ctrl-P, Ctrl-N history	Tab completes, or lists what there is	Ctrl-L clears the screen
 *	Ctrl-C gives the line up	Ctrl-D on an empty line: LINE_EOF
 *
 * A line that is full takes no more: the bell rings, and unless something is deleted afterwards it ends as LINE_TOO_LONG, so that
 * half of what was pasted is never taken for the whole.
 */
#ifndef KERNEL_LINE_EDITOR_H
#define KERNEL_LINE_EDITOR_H

#include "kernel/base/types.h"

#define LINE_MAX_LENGTH 255u
#define LINE_HISTORY 16u	/* lines that are remembered */
#define LINE_COLUMNS 80u	/* of the terminal; the last one stays free, where terminals differ */
#define LINE_PROMPT_MAX 32u

enum line_event {
	LINE_MORE,	/* go on */
	LINE_DONE,	/* editor.line is it; the cursor is in the first column, for prompt and line to be written once more, whole */
	LINE_TOO_LONG,	/* the same, but it lacks what did not fit */
	LINE_GIVEN_UP,	/* Ctrl-C; the cursor is on a new line */
	LINE_EOF,	/* Ctrl-D on an empty line; the cursor is on a new line */
};

struct line_editor {
	/* Set by line_editor_init(). */
	void (*put)(const char *text, size_t length);
	/*
	 * The i-th word that may stand behind the first `length` bytes of the line, which end at the beginning of a word or of the
	 * line; NULL: there are no more. The editor itself takes those that begin as the word under the cursor does.
	 */
	const char *(*word)(const char *line, size_t length, unsigned i);
	char prompt[LINE_PROMPT_MAX];

	/* The line, NUL-terminated, and where the cursor is in it. */
	char line[LINE_MAX_LENGTH + 1];
	u32 length;
	u32 cursor;
	bool full;		/* something did not fit */

	/* What the row of the terminal shows, and where its cursor is. */
	char shown[LINE_COLUMNS];
	u32 shown_length;
	u32 shown_cursor;
	u32 window;		/* first character of the line that is shown */

	/* The newest line is history[(nr_history - 1) % LINE_HISTORY]. */
	char history[LINE_HISTORY][LINE_MAX_LENGTH + 1];
	u64 nr_history;
	u32 back;		/* how many lines back the cursor keys have gone */
	char stash[LINE_MAX_LENGTH + 1];	/* the line that they came from */

	/* An escape sequence that is being read. */
	u8 state;
	u32 parameter;
	bool after_cr;
};

/* prompt: printable, at most LINE_PROMPT_MAX - 1 characters. Nothing is shown yet. */
void line_editor_init(struct line_editor *ed, const char *prompt, void (*put)(const char *text, size_t length),
		      const char *(*word)(const char *line, size_t length, unsigned i));

/* Show the prompt on what is a new line of the terminal, and begin an empty line. */
void line_editor_begin(struct line_editor *ed);

/* Show prompt and line again, behind something else that was written meanwhile; the cursor is on a new line. */
void line_editor_redraw(struct line_editor *ed);

/* The next byte that was typed. */
enum line_event line_editor_feed(struct line_editor *ed, u8 byte);

#endif
