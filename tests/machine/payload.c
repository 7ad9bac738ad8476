/* SPDX-License-Identifier: MIT */
/*
 * What the kernel is there for (kernel/main.h): run the tests and the lab as the command line says, and report.
 */
#include "kernel/base/fmt.h"
#include "kernel/cmdline.h"
#include "kernel/console.h"
#include "kernel/main.h"
#include "kernel/memory.h"
#include "kernel/trace.h"
#include "tests/lab/lab.h"
#include "tests/lab/measure.h"
#include "tests/machine/progress.h"
#include "tests/report.h"
#include "tests/test.h"

/* The note that the linker made (--build-id): a header of 16 bytes, then the id. linker.ld */
extern const u8 _build_id_note_start[], _build_id_note_end[];
#define NOTE_HEADER 16u
#define BUILD_ID_SHOWN 6u	/* bytes of it: enough to tell builds apart */

static const enum lab_mode lab_modes[] = {
	[LAB_OFF] = LAB_RUN_OFF,
	[LAB_SHORT] = LAB_RUN_SHORT,
	[LAB_FULL] = LAB_RUN_FULL,
};

static const char *build_id(char *text, size_t size)
{
	const u8 *id = _build_id_note_start + NOTE_HEADER;
	size_t n = 0;

	if (id + BUILD_ID_SHOWN > _build_id_note_end)
		return BUILD_VERSION;
	for (unsigned i = 0; i < BUILD_ID_SHOWN; i++)
		n += fmt_print(text + n, size - n, "%02x", id[i]);
	return text;
}

int kernel_payload(const struct boot_info *bi)
{
	char id[2 * BUILD_ID_SHOWN + 1];
	struct report_setup setup = {
		.build = build_id(id, sizeof(id)),
		.cpus = measure_cpus(),
		.memory = memory_usable(),
		.seed = cmdline.seed_given ? cmdline.seed : test_seed,
	};
	bool pass;

	(void)bi;	/* everything it says has been taken over by now */
	test_seed = setup.seed;
	lab_mode = lab_modes[cmdline.lab];
	report_begin(&setup);
	progress_begin();
	test_run_all(cmdline.suite);
	trace_dump();
	console_say_dropped();
	pass = report_end();
	progress_end(pass);
	return pass ? 0 : 1;
}
