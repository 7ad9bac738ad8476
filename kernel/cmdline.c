/* SPDX-License-Identifier: MIT */
/* Parses the command line by a table: one row per key, one list of words per key that chooses among some. */
#include "kernel/cmdline.h"

#include "kernel/base/log.h"
#include "kernel/base/string.h"

struct cmdline cmdline;

struct choice {
	const char *word;
	u32 value;
};

enum key_kind {
	KEY_CHOICE,	/* one of the words; a u32 */
	KEY_NUMBER,	/* a u64 */
	KEY_COUNT,	/* a u32, from 1 on */
	KEY_TEXT,	/* a char[CMDLINE_TEXT] */
	KEY_BOOL,	/* on, off; a bool */
	KEY_TRACE,	/* a struct trace_filter */
	KEY_LOADER,	/* for the loader: one of the words, and nothing else happens here */
	KEY_LATER,	/* its mechanism comes later: only the value is checked */
};

struct key_row {
	const char *key;
	enum key_kind kind;
	const struct choice *choices;	/* up to a row without a word */
	size_t offset;			/* in struct cmdline */
};

static const struct choice on_off[] = { { "on", 1 }, { "off", 0 }, { 0 } };
static const struct choice lab_words[] = { { "off", LAB_OFF }, { "short", LAB_SHORT }, { "full", LAB_FULL }, { 0 } };
static const struct choice end_words[] = { { "exit", END_EXIT },	 { "halt", END_HALT },
					   { "reboot", END_REBOOT },	 { "poweroff", END_POWEROFF },
					   { "monitor", END_MONITOR }, { 0 } };
static const struct choice collapse_words[] = { { "eager", PT_COLLAPSE_EAGER },
						{ "deferred", PT_COLLAPSE_DEFERRED },
						{ "off", PT_COLLAPSE_OFF },
						{ 0 } };
static const struct choice panic_words[] = { { "assert", PANIC_ASSERT },
					     { "fault", PANIC_FAULT },
					     { "overflow", PANIC_OVERFLOW },
					     { "nested", PANIC_NESTED },
					     { "thread", PANIC_THREAD },
					     { "thread-overflow", PANIC_THREAD_OVERFLOW },
					     { "all", PANIC_ALL },
					     { 0 } };
static const struct choice plant_words[] = { { "silent-cpu", PLANT_SILENT_CPU },
					     { "deaf-cpu", PLANT_DEAF_CPU },
					     { "dead-cpu", PLANT_DEAD_CPU },
					     { 0 } };
static const struct choice um_words[] = { { "2m", UNMAPPED_2M }, { "1g", UNMAPPED_1G }, { "off", UNMAPPED_OFF }, { 0 } };
static const struct choice execmem_words[] = { { "pages", EXECMEM_PAGES },
					       { "pack", EXECMEM_PACK },
					       { "huge", EXECMEM_HUGE },
					       { "huge+tail", EXECMEM_HUGE_TAIL },
					       { 0 } };
static const struct choice ptprot_words[] = { { "off", 0 }, { "readonly", 0 }, { "pks", 0 }, { 0 } };

static const struct key_row keys[] = {
	{ "suite", KEY_TEXT, NULL, offsetof(struct cmdline, suite) },
	{ "lab", KEY_CHOICE, lab_words, offsetof(struct cmdline, lab) },
	{ "seed", KEY_NUMBER, NULL, offsetof(struct cmdline, seed) },
	{ "end", KEY_CHOICE, end_words, offsetof(struct cmdline, end) },
	{ "console", KEY_TEXT, NULL, offsetof(struct cmdline, console) },
	{ "collapse", KEY_CHOICE, collapse_words, offsetof(struct cmdline, collapse) },
	{ "bbm", KEY_CHOICE, on_off, offsetof(struct cmdline, bbm) },
	{ "debug", KEY_BOOL, on_off, offsetof(struct cmdline, debug) },
	{ "soak", KEY_BOOL, on_off, offsetof(struct cmdline, soak) },
	{ "cpus", KEY_COUNT, NULL, offsetof(struct cmdline, cpus) },
	{ "tlb_ceiling", KEY_COUNT, NULL, offsetof(struct cmdline, tlb_ceiling) },
	{ "plant", KEY_CHOICE, plant_words, offsetof(struct cmdline, plant) },
	{ "panic", KEY_CHOICE, panic_words, offsetof(struct cmdline, panic) },
	{ "um", KEY_CHOICE, um_words, offsetof(struct cmdline, um) },
	{ "execmem", KEY_CHOICE, execmem_words, offsetof(struct cmdline, execmem) },
	{ "kaslr", KEY_BOOL, on_off, offsetof(struct cmdline, kaslr) },
	{ "page_owner", KEY_BOOL, on_off, offsetof(struct cmdline, page_owner) },
	{ "trace", KEY_TRACE, NULL, offsetof(struct cmdline, trace) },
	{ "ptprot", KEY_LATER, ptprot_words, 0 },
	{ "logs", KEY_LOADER, on_off, 0 },
};

bool cmdline_number(const char *text, u64 *out)
{
	u64 base = 10, value = 0;

	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
		base = 16;
		text += 2;
	}
	if (!*text)
		return false;
	for (; *text; text++) {
		u64 digit;

		if (*text >= '0' && *text <= '9')
			digit = (u64)(*text - '0');
		else if ((*text | 0x20) >= 'a' && (*text | 0x20) <= 'f')
			digit = (u64)((*text | 0x20) - 'a') + 10;
		else
			return false;
		if (digit >= base || __builtin_mul_overflow(value, base, &value) ||
		    __builtin_add_overflow(value, digit, &value))
			return false;
	}
	*out = value;
	return true;
}

static bool choose(const struct choice *choices, const char *value, u32 *out)
{
	for (; choices->word; choices++) {
		if (strcmp(choices->word, value) == 0) {
			*out = choices->value;
			return true;
		}
	}
	return false;
}

static const struct choice *choices_of(const char *key)
{
	static const struct choice none = { 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++)
		if (strcmp(keys[i].key, key) == 0 && keys[i].choices)
			return keys[i].choices;
	return &none;
}

const char *cmdline_word(const char *key, u32 value)
{
	for (const struct choice *c = choices_of(key); c->word; c++)
		if (c->value == value)
			return c->word;
	return NULL;
}

bool cmdline_choice(const char *key, const char *word, u32 *value)
{
	return choose(choices_of(key), word, value);
}

/* Set the field of a row. False: the value is none that the key may have. */
static bool set_field(struct cmdline *out, const struct key_row *row, const char *value)
{
	void *field = (char *)out + row->offset;
	u32 word = 0;
	u64 number;

	if (row->choices && !choose(row->choices, value, &word))
		return false;
	switch (row->kind) {
	case KEY_CHOICE:
		memcpy(field, &word, sizeof(word));
		return true;
	case KEY_BOOL:
		*(bool *)field = word;
		return true;
	case KEY_NUMBER:
		return cmdline_number(value, field);
	case KEY_COUNT:
		if (!cmdline_number(value, &number) || !number || number > UINT32_MAX)
			return false;
		word = (u32)number;
		memcpy(field, &word, sizeof(word));
		return true;
	case KEY_TEXT:
		if (!*value || strlen(value) >= CMDLINE_TEXT)
			return false;
		memcpy(field, value, strlen(value) + 1);
		return true;
	case KEY_LOADER:
		return true;
	case KEY_LATER:
		return *value;
	case KEY_TRACE:
		break;
	}
	return false;
}

/* One word, key and value parted already. Returns how much there was to complain about. */
static unsigned take_word(struct cmdline *out, const char *key, const char *value)
{
	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
		if (strcmp(keys[i].key, key) != 0)
			continue;
		if (keys[i].kind == KEY_TRACE)
			return trace_parse(value, (struct trace_filter *)((char *)out + keys[i].offset));
		if (!set_field(out, &keys[i], value)) {
			log_warn("command line: bad value in %s=%.64s, ignored", key, value);
			return 1;
		}
		if (keys[i].kind == KEY_NUMBER)
			out->seed_given = true;
		if (keys[i].kind == KEY_LATER)
			log_info("command line: %s=%.64s has no effect yet", key, value);
		return 0;
	}
	log_warn("command line: unknown key %.64s, ignored", key);
	return 1;
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

unsigned cmdline_parse(struct cmdline *out, const char *text)
{
	unsigned complaints = 0;

	*out = (struct cmdline){ .bbm = -1, .lab = LAB_FULL, .end = END_EXIT, .collapse = PT_COLLAPSE_EAGER,
				 .um = UNMAPPED_2M, .execmem = EXECMEM_HUGE, .kaslr = true };
	while (*text) {
		char word[2 * CMDLINE_TEXT];
		size_t n = 0;
		char *equals;

		if (is_blank(*text)) {
			text++;
			continue;
		}
		for (; *text && !is_blank(*text); text++)
			if (n + 1 < sizeof(word))
				word[n++] = *text;
		word[n] = 0;
		equals = strchr(word, '=');
		if (!equals) {
			log_warn("command line: %.64s is not of the form key=value, ignored", word);
			complaints++;
			continue;
		}
		*equals = 0;
		complaints += take_word(out, word, equals + 1);
	}
	return complaints;
}
