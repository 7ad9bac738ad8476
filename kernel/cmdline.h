/* SPDX-License-Identifier: MIT */
/*
 * The kernel's command line: `key=value` words parted by blanks (SPEC IF).
 *
 *	suite=GLOB[,GLOB]	tests to run; default all. none: no test at all
 *	lab=off|short|full	the comparison behind the tests
 *	seed=N			of all random tests, decimal or 0x…
 *	end=exit|halt|reboot|poweroff|monitor
 *				what comes behind the report; monitor: commands are taken from the serial console (kernel/monitor.h)
 *	console=PORT[,BAUD]|serial|screen|none
 *				where the log is shown; PORT is com1 to com4, io,0xPORT, mmio,0xADDRESS, mmio16,..., mmio32,... or
 *				pci,BUS:DEV.FN (docs/console.md). Default: the serial port that ACPI or PCI names, else 0x3f8, and
 *				the screen
 *	collapse=eager|deferred|off
 *	um=2m|1g|off		blocks that the unmapped cache takes; off: page by page, no cache
 *	bbm=on|off		break-before-make; left out: as the CPU's errata ask
 *	debug=on|off		check every store and every table; free frames hold a pattern
 *	soak=on|off		the long version of the tests
 *	execmem=pages|pack|huge|huge+tail
 *				how executable memory is handed out (mm/execmem.h); default huge
 *	kaslr=on|off		off: executable memory at the same addresses on every boot
 *	trace=off|on|dump|EVENT[,EVENT]
 *				record what is done to mappings (kernel/base/trace.h), all events or these: split collapse flush
 *				send receive refill return fill fault. Panics show the last records. dump, alone or
 *				beside events: all records are printed behind the tests. An unknown event is named in the
 *				log, the others count
 *	page_owner=on|off	remember who allocated each page (mm/page_owner.h): leaks and bad frees are named by call
 *				stack. Costs 4 bytes a frame and time, and frames for new stacks that a test which counts each
 *				frame notices; default off
 *	logs=on|off		for the loader: off, and the log of this run is not kept in memory, nor that of the run before
 *				written to a file (docs/logs.md)
 *	cpus=N			use no more CPUs than that; default all
 *	tlb_ceiling=N		pages that a flush may take one by one; beyond, it forgets everything (docs/tlb.md)
 *	plant=silent-cpu|deaf-cpu|dead-cpu
 *				a CPU that never starts; that leaves a shootdown unanswered; that takes no NMI either: this is how their
 *				reports are tested (deaf and dead: by the suite `deaf`)
 *	panic=assert|fault|overflow|nested|thread|thread-overflow|all
 *				crash on purpose once everything is up: this is how panics are tested (thread: on the last
 *				CPU; all: on each CPU at once)
 *
 * Accepted, with a line in the log that they have no effect yet, because what they choose comes later:
 *	ptprot=off|readonly|pks
 *
 * A key given twice counts as it is given last. An unknown key or a bad value is named in the log and fails
 * nothing.
 */
#ifndef KERNEL_CMDLINE_H
#define KERNEL_CMDLINE_H

#include "kernel/base/trace.h"
#include "kernel/base/types.h"
#include "mm/execmem.h"
#include "mm/pgtable.h"
#include "mm/unmapped.h"

enum cmdline_lab { LAB_OFF, LAB_SHORT, LAB_FULL };
enum cmdline_end { END_EXIT, END_HALT, END_REBOOT, END_POWEROFF, END_MONITOR };
enum cmdline_plant { PLANT_NOTHING, PLANT_SILENT_CPU, PLANT_DEAF_CPU, PLANT_DEAD_CPU };
enum cmdline_panic { PANIC_NONE, PANIC_ASSERT, PANIC_FAULT, PANIC_OVERFLOW, PANIC_NESTED,
		     PANIC_THREAD, PANIC_THREAD_OVERFLOW, PANIC_ALL };

#define CMDLINE_TEXT 256u

struct cmdline {
	char suite[CMDLINE_TEXT];	/* "": all */
	char console[CMDLINE_TEXT];	/* "": the default */
	u64 seed;			/* 0 if not given */
	bool seed_given;
	bool debug;
	bool soak;
	bool kaslr;			/* default on */
	bool page_owner;
	i32 bbm;			/* -1 as the errata ask, 0 off, 1 on: pt_bbm */
	u32 lab;			/* enum cmdline_lab; default full */
	u32 end;			/* enum cmdline_end */
	u32 collapse;			/* enum pt_collapse_policy; default eager */
	u32 um;				/* enum unmapped_mode; default 2m */
	u32 execmem;			/* enum execmem_policy; default huge */
	u32 panic;			/* enum cmdline_panic */
	struct trace_filter trace;	/* default off */
	u32 plant;			/* enum cmdline_plant */
	u32 cpus;			/* to use at most; 0: all */
	u32 tlb_ceiling;		/* 0: as built */
};

/* What the kernel was started with. Constant after cmdline_parse(). */
extern struct cmdline cmdline;

/* Set *out to the defaults and read the words of text. Complaints go to the log. Returns how many there were. */
unsigned cmdline_parse(struct cmdline *out, const char *text);

/* The word of a key that chooses among some by which a value is meant, and the way back; NULL, false: there is none. */
const char *cmdline_word(const char *key, u32 value);
bool cmdline_choice(const char *key, const char *word, u32 *value);

/* A decimal or 0x-hexadecimal number that ends with the text. False: it is none, or does not fit. */
bool cmdline_number(const char *text, u64 *out);

#endif
