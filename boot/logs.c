/* SPDX-License-Identifier: MIT */
/*
 * A log survives a reset because it lies where the next loader looks, and because the loader takes that memory before anybody else does.
 *
 * Where: the first free one of a few fixed addresses. Firmware puts its own things at the very bottom (below 32 MiB) and at the top of the
 * memory below 4 GiB, so what lies between is what it is least likely to touch on its way up. All are in the first gigabyte, which no machine has
 * as a whole (there is the hole below 1 MiB), so the log costs no 1G leaf; and it is a 2M block of its own, and stays in the direct map: no 2M leaf
 * either. AllocateAddress() succeeds only in free memory, so nothing is read that is not RAM. The type is EfiLoaderData:
 * reserved memory would be a hole in the direct map, and firmware keeps statistics of it.
 *
 * That a run was begun is remembered by a file, pending: not by a variable of the firmware, whose flash is small, soldered in, and some other machine's if the
 * stick moves on. It is written once and stays; only if there is no place for a log it goes. A log that was taken is wiped
 * from memory, so it is written once.
 */
#include "boot/logs.h"

#include "boot/alloc.h"
#include "boot/cmdline.h"
#include "boot/cpu.h"
#include "boot/files.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log_ring.h"
#include "kernel/base/string.h"

#define FOLDER "\\tangram\\logs"
#define PENDING FOLDER "\\pending"
#define WIDE_(text) L##text
#define WIDE(text) WIDE_(text)

#define DIGITS_MIN 4u
#define DIGITS_MAX 18u	/* such a number fits 64 bits, and so does the next one */

static const u64 places[] = { 32 * MIB, 64 * MIB, 128 * MIB, 256 * MIB, 512 * MIB, 768 * MIB };

static const char pending_text[] =
	"A run has begun. The next one writes its log here, as NNNN.txt, or says that it was lost.\r\n";

static u64 home;	/* where this run's log goes, and that of the run before is if there is one; 0: nowhere */
static bool found;	/* it holds a log */
static bool spoilt;	/* at one of the places was a log once */

void logs_hold(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(places) && !found; i++) {
		struct log_ring_header *header = (void *)places[i];

		if (EFI_ERROR(alloc_at(LOG_RING_SIZE, places[i])))
			continue;
		found = log_ring_valid(header);
		if (!found && header->magic == LOG_RING_MAGIC) {
			spoilt = true;
			log_ring_wipe(header, cpu_write_back);
		}
		if (found)
			alloc_free(home);
		else if (home)
			alloc_free(places[i]);
		if (found || !home)
			home = places[i];
	}
}

/* ---- File names ---- */

/* NNNN.txt, in either case: its number; 0: that is no log's name. */
static u64 log_number(const CHAR16 *name)
{
	static const char ending[] = ".txt";
	unsigned digits = 0;
	u64 number = 0;

	for (; *name >= '0' && *name <= '9'; name++, digits++)
		number = digits < DIGITS_MAX ? number * 10 + (u64)(*name - '0') : 0;
	if (digits < DIGITS_MIN || digits > DIGITS_MAX)
		return 0;
	for (unsigned i = 0; i < sizeof(ending); i++)
		if (name[i] != (CHAR16)ending[i] && (name[i] | 0x20) != (CHAR16)ending[i])
			return 0;
	return number;
}

static void find_last(const CHAR16 *name, void *arg)
{
	u64 *last = arg;

	*last = MAX(*last, log_number(name));
}

struct log_name {
	char text[64];
	CHAR16 path[64];
};

/* The number behind the highest there is: it never goes back, so nothing is overwritten. */
static void next_name(u64 last, struct log_name *out)
{
	size_t n = 0;

	fmt_print(out->text, sizeof(out->text), FOLDER "\\%04lu.txt", last + 1);
	do
		out->path[n] = (u8)out->text[n];
	while (out->text[n++]);
}

/* ---- The run before ---- */

static EFI_STATUS write_text(const char *text, u64 length, struct log_name *name, char *why, size_t why_size)
{
	EFI_STATUS status;
	u64 last = 0;

	next_name(0, name);
	status = files_make_folder(WIDE(FOLDER), why, why_size);
	if (!EFI_ERROR(status))
		status = files_list(WIDE(FOLDER), find_last, &last, why, why_size);
	if (EFI_ERROR(status)) {
		memcpy(name->text, FOLDER, sizeof(FOLDER));
		return status;
	}
	next_name(last, name);
	return files_write_new(name->path, text, length, why, why_size);
}

/* False: the volume does not take files. */
static bool write_log(void (*say)(const char *fmt, ...))
{
	struct log_ring_found log;
	struct log_name name;
	EFI_STATUS status;
	char why[128];
	u64 text;

	if (EFI_ERROR(alloc_any(LOG_RING_OUT, &text))) {
		say("the log of the run before is lost: too little memory to read it");
		return true;
	}
	log_ring_read((const void *)home, (char *)text, &log);
	if (!log.length) {
		say("the run before left no log: it ended before its kernel began");
		alloc_free(text);
		return true;
	}
	status = write_text((const char *)text, log.length, &name, why, sizeof(why));
	alloc_free(text);
	if (EFI_ERROR(status))
		say("the log of the run before is lost: %s %s", name.text, why);
	else if (log.damaged)
		say("the log of the run before is in %s, damaged: %lu bytes are left, %lu or more are not", name.text,
		    log.length, log.missing);
	else if (log.missing)
		say("the log of the run before is in %s: %lu bytes, without %lu of its middle that had no room", name.text,
		    log.length, log.missing);
	else
		say("the log of the run before is in %s: %lu bytes", name.text, log.length);
	return !EFI_ERROR(status);
}

/* What became of the log of the run before. False: the volume does not take files. */
static bool settle(void (*say)(const char *fmt, ...))
{
	if (found)
		return write_log(say);
	if (spoilt)
		say("the log of the run before is lost: it was damaged in memory (its checksum is wrong)");
	else if (files_exists(WIDE(PENDING)))
		say("the log of the run before is lost: it is not in memory any more (the power was off, the firmware "
		    "cleared it, or logs=off), or it is another machine's");
	return true;
}

/* ---- This run ---- */

static void mark_pending(bool quiet, void (*say)(const char *fmt, ...))
{
	const char *path = FOLDER;
	char why[128];
	EFI_STATUS status;

	if (files_exists(WIDE(PENDING)))
		return;
	status = files_make_folder(WIDE(FOLDER), why, sizeof(why));
	if (!EFI_ERROR(status)) {
		path = PENDING;
		status = files_write_new(WIDE(PENDING), pending_text, sizeof(pending_text) - 1, why, sizeof(why));
	}
	if (EFI_ERROR(status) && !quiet)
		say("%s %s: logs cannot be kept here", path, why);
}

void logs_keep(struct boot_info *info, void (*say)(const char *fmt, ...))
{
	bool quiet;
	u64 run;

	if (cmdline_says(info->cmdline, "logs", "off")) {
		/* Or else a later run would take it for that of the run before. */
		if (home)
			log_ring_wipe((void *)home, cpu_write_back);
		alloc_free(home);
		return;
	}
	quiet = !settle(say);
	if (!home) {
		say("the log of this run is not kept: none of the places for it is free");
		files_delete(WIDE(PENDING));
		return;
	}
	mark_pending(quiet, say);
	memcpy(&run, info->entropy, sizeof(run));
	log_ring_format((void *)home, run | 1, cpu_write_back);
	info->log = (struct boot_log){ home, LOG_RING_SIZE };
}
