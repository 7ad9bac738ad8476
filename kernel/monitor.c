/* SPDX-License-Identifier: MIT */
/*
 * Reads lines (line_editor.h), parts them into words, finds the row and runs it.
 *
 * The line is shown by log_echo() while it is edited. Once it is done it goes out by the log, over what is shown of it, as what the
 * command says does: so a log tells what was asked, too.
 *
 * Input is polled: without a pause while something comes in, as a UART holds 16 bytes, and each millisecond otherwise, while the
 * CPU halts. If bytes were lost all the same, the line they are missing from is not run.
 */
#include "kernel/monitor.h"

#include <stdarg.h>

#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "kernel/base/string.h"
#include "kernel/console.h"
#include "kernel/line_editor.h"
#include "kernel/log.h"
#include "kernel/thread.h"
#include "mm/pgtable.h"

#define PROMPT "tangram> "
#define COMMANDS_MAX 64u
#define EAGER_POLLS 10000u		/* without a byte, before the CPU halts in between */
#define POLL_NS 1000000u

extern const struct monitor_command *const __start_monitor_commands[];
extern const struct monitor_command *const __stop_monitor_commands[];

static const struct monitor_command *commands[COMMANDS_MAX];	/* by name */
static unsigned nr_commands;
static struct line_editor editor;
static bool ended;
static enum cmdline_end ending;

void monitor_error(const char *fmt, ...)
{
	char text[256];
	va_list args;

	va_start(args, fmt);
	fmt_vprint(text, sizeof(text), fmt, args);
	va_end(args);
	log_info("error: %s", text);
}

void monitor_end(enum cmdline_end how)
{
	ended = true;
	ending = how;
}

/* ---- Commands ---- */

static void sort_commands(void)
{
	nr_commands = 0;
	for (const struct monitor_command *const *c = __start_monitor_commands; c < __stop_monitor_commands; c++) {
		unsigned at = nr_commands++;

		assert(nr_commands <= COMMANDS_MAX);
		for (; at && strcmp(commands[at - 1]->name, (*c)->name) > 0; at--)
			commands[at] = commands[at - 1];
		commands[at] = *c;
	}
}

static const struct monitor_command *find_command(const char *name, size_t length)
{
	for (unsigned i = 0; i < nr_commands; i++)
		if (strlen(commands[i]->name) == length && strncmp(commands[i]->name, name, length) == 0)
			return commands[i];
	return NULL;
}

static const char *command_name(unsigned arg, unsigned i)
{
	(void)arg;
	return i < nr_commands ? commands[i]->name : NULL;
}

/* For the editor: words before this one tell what it may be. */
static const char *complete_word(const char *line, size_t length, unsigned i)
{
	const struct monitor_command *command = NULL;
	unsigned words = 0;

	for (size_t at = 0; at < length; words++) {
		size_t start = at;

		while (at < length && line[at] != ' ')
			at++;
		if (!words)
			command = find_command(line + start, at - start);
		while (at < length && line[at] == ' ')
			at++;
	}
	if (!words)
		return command_name(0, i);
	return command && command->word && words <= command->max ? command->word(words - 1, i) : NULL;
}

/* Part a line into words, in place. Returns how many there are; those above max are counted only. */
static unsigned part(char *line, char **words, unsigned max)
{
	unsigned nr = 0;

	for (;;) {
		while (*line == ' ')
			*line++ = 0;
		if (!*line)
			return nr;
		if (nr < max)
			words[nr] = line;
		nr++;
		while (*line && *line != ' ')
			line++;
	}
}

static void run_line(char *line)
{
	char *words[1 + MONITOR_ARGS_MAX + 1] = { NULL };
	unsigned nr = part(line, words, 1 + MONITOR_ARGS_MAX);
	const struct monitor_command *c;

	if (!nr)
		return;
	c = find_command(words[0], strlen(words[0]));
	if (!c)
		monitor_error("there is no command \"%.64s\" (help lists them)", words[0]);
	else if (nr - 1 < c->min)
		monitor_error("%s: an argument is missing: %s %s", c->name, c->name, c->args);
	else if (nr - 1 > c->max)
		monitor_error("%s: too many arguments, from \"%.64s\" on: %s %s", c->name, words[1 + c->max], c->name, c->args);
	else if (c->show)
		c->show();
	else
		c->run(nr - 1, words + 1);
}

/* ---- Arguments ---- */

static bool is_canonical(u64 va)
{
	unsigned shift = 64 - (pt_shift(arch_mm.levels) + 9);

	return (u64)((i64)(va << shift) >> shift) == va;
}

bool monitor_address(const char *text, u64 *va)
{
	bool physical = strncmp(text, "pa:", 3) == 0;
	const char *digits = text + (physical ? 3 : 0);
	char hex[32];
	u64 number;

	digits += digits[0] == '0' && (digits[1] | 0x20) == 'x' ? 2 : 0;
	if (fmt_print(hex, sizeof(hex), "0x%s", digits) >= sizeof(hex) || !cmdline_number(hex, &number)) {
		monitor_error("\"%.64s\" is no address: up to 16 hexadecimal digits, behind pa: if it is a physical one", text);
		return false;
	}
	if (physical && number >= range_size(kernel_space.direct)) {
		monitor_error("physical 0x%lx is beyond the direct map, which ends at 0x%lx", number,
			      range_size(kernel_space.direct));
		return false;
	}
	if (!physical && !is_canonical(number)) {
		monitor_error("0x%lx is not canonical: with %u levels, bits 63 to %u are all alike", number, arch_mm.levels,
			      pt_shift(arch_mm.levels) + 8);
		return false;
	}
	*va = physical ? phys_to_va(phys(number)) : number;
	return true;
}

bool monitor_size(const char *text, u64 max, u64 *bytes)
{
	static const struct {
		char letter;
		u8 shift;
	} units[] = { { 'k', 10 }, { 'm', 20 }, { 'g', 30 } };
	size_t length = strlen(text);
	unsigned shift = 0;
	char number[32];

	for (unsigned i = 0; length && i < ARRAY_SIZE(units); i++)
		if ((text[length - 1] | 0x20) == units[i].letter)
			shift = units[i].shift;
	length -= shift != 0;
	if (length < sizeof(number)) {
		memcpy(number, text, length);
		number[length] = 0;
		if (cmdline_number(number, bytes) && *bytes && *bytes <= max >> shift) {
			*bytes <<= shift;
			return true;
		}
	}
	monitor_error("\"%.64s\" is no number of bytes from 1 to %lu (K, M and G may stand behind it)", text, max);
	return false;
}

/* ---- Lines ---- */

static u8 next_byte(void)
{
	u64 seen = log_end();
	unsigned idle = 0;
	int byte;

	while ((byte = console_getc()) < 0) {
		if (idle < EAGER_POLLS) {
			idle++;
			thread_yield();
			arch_relax();
		} else {
			thread_sleep(POLL_NS);
		}
		/* Somebody wrote to the log, right into the line. */
		if (log_end() != seen) {
			line_editor_redraw(&editor);
			seen = log_end();
		}
	}
	return (u8)byte;
}

static void take_line(void)
{
	u64 lost = console_lost();
	enum line_event event;

	line_editor_begin(&editor);
	do
		event = line_editor_feed(&editor, next_byte());
	while (event == LINE_MORE);
	if (event == LINE_DONE || event == LINE_TOO_LONG)
		log_raw(PROMPT "%s", editor.line);
	if (event == LINE_TOO_LONG)
		monitor_error("a line has at most %u characters: not run", LINE_MAX_LENGTH);
	else if (event == LINE_EOF)
		monitor_end(END_EXIT);
	else if (event == LINE_DONE && console_lost() != lost)
		monitor_error("part of this line was lost on the wire: not run");
	else if (event == LINE_DONE)
		run_line(editor.line);
}

enum cmdline_end monitor_run(void)
{
	if (!console_has_input()) {
		log_warn("monitor: there is no console to type at: the run ends as by end=exit");
		return END_EXIT;
	}
	sort_commands();
	line_editor_init(&editor, PROMPT, log_echo, complete_word);
	log_info("TANGRAM MONITOR help lists the commands, Tab completes them");
	for (ended = false; !ended;)
		take_line();
	return ending;
}

/* ---- Rows about the monitor itself ---- */

static void run_help(unsigned nr, char **args)
{
	const struct monitor_command *c = nr ? find_command(args[0], strlen(args[0])) : NULL;

	if (nr && !c) {
		monitor_error("help: there is no command \"%.64s\"", args[0]);
	} else if (c) {
		log_info("%s%s%s: %s", c->name, *c->args ? " " : "", c->args, c->help);
		if (c->more)
			log_info("%s", c->more);
	} else {
		for (unsigned i = 0; i < nr_commands; i++) {
			char usage[48];

			fmt_print(usage, sizeof(usage), "%s %s", commands[i]->name, commands[i]->args);
			log_info("%-30s %s", usage, commands[i]->help);
		}
	}
}

MONITOR_COMMAND(help) = { "help", "[COMMAND]", "what there is, or what one of them does",
			  .more = "Keys: left right home end, Ctrl-A E K U W L C; up and down: former lines;\n"
				  "Tab: completes; Ctrl-D: deletes, and on an empty line is exit.",
			  .max = 1, .run = run_help, .word = command_name };

static void end_by_exit(void)
{
	monitor_end(END_EXIT);
}

MONITOR_COMMAND(exit) = { "exit", "", "end as end=exit does, with the run's verdict",
			  .more = "Under QEMU that ends QEMU; a real machine halts.", .show = end_by_exit };

static void end_by_reboot(void)
{
	monitor_end(END_REBOOT);
}

MONITOR_COMMAND(reboot) = { "reboot", "", "reset the machine", .show = end_by_reboot };

static void end_by_poweroff(void)
{
	monitor_end(END_POWEROFF);
}

MONITOR_COMMAND(poweroff) = { "poweroff", "", "switch the machine off", .show = end_by_poweroff };
