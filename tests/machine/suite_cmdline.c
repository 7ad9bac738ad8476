/* SPDX-License-Identifier: MIT */
/* kernel/cmdline.c: each kind of key, defaults, and what is complained about. */
#include "kernel/cmdline.h"

#include "boot/boot_info.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "tests/test.h"

static struct cmdline c;

/* Complaints are warnings, which a run counts; these are meant. */
static unsigned parse(const char *text)
{
	u64 warnings = log_warnings;
	unsigned complaints = cmdline_parse(&c, text);

	CHECK_EQ(log_warnings - warnings, complaints);
	log_warnings = warnings;
	return complaints;
}

TEST(cmdline, defaults)
{
	CHECK_EQ(parse(""), 0);
	CHECK(!c.suite[0] && !c.console[0] && !c.seed_given && !c.debug && !c.soak);
	CHECK(c.bbm == -1);
	CHECK_EQ(c.end, END_EXIT);
	CHECK_EQ(c.lab, LAB_FULL);
	CHECK_EQ(c.collapse, PT_COLLAPSE_EAGER);
	CHECK_EQ(c.um, UNMAPPED_2M);
	CHECK_EQ(c.panic, PANIC_NONE);
	CHECK_EQ(c.plant, PLANT_NOTHING);
	CHECK_EQ(c.cpus, 0);
	CHECK_EQ(c.tlb_ceiling, 0);
	CHECK_EQ(c.execmem, EXECMEM_HUGE);
	CHECK(c.kaslr);
	CHECK(!c.page_owner);
}

TEST(cmdline, every_kind_of_key)
{
	CHECK_EQ(parse(" suite=trap,cpu.*\tlab=short  seed=0x10 end=poweroff console=com2,9600 collapse=off bbm=off debug=on "
		       "soak=on um=1g execmem=huge+tail kaslr=off cpus=3 plant=deaf-cpu page_owner=on "
		       "tlb_ceiling=64\r\n"),
		 0);
	CHECK(strcmp(c.suite, "trap,cpu.*") == 0);
	CHECK(strcmp(c.console, "com2,9600") == 0);
	CHECK_EQ(c.lab, LAB_SHORT);
	CHECK(c.seed_given);
	CHECK_EQ(c.seed, 16);
	CHECK_EQ(c.end, END_POWEROFF);
	CHECK_EQ(c.collapse, PT_COLLAPSE_OFF);
	CHECK_EQ(c.bbm, 0);
	CHECK_EQ(c.um, UNMAPPED_1G);
	CHECK_EQ(c.execmem, EXECMEM_HUGE_TAIL);
	CHECK(!c.kaslr);
	CHECK(c.page_owner);
	CHECK_EQ(c.cpus, 3);
	CHECK_EQ(c.tlb_ceiling, 64);
	CHECK_EQ(c.plant, PLANT_DEAF_CPU);
	CHECK(c.debug && c.soak);
}

TEST(cmdline, the_last_word_counts)
{
	CHECK_EQ(parse("bbm=off bbm=on collapse=eager collapse=deferred"), 0);
	CHECK_EQ(c.bbm, 1);
	CHECK_EQ(c.collapse, PT_COLLAPSE_DEFERRED);
}

TEST(cmdline, keys_of_later_mechanisms_are_accepted)
{
	CHECK_EQ(parse("ptprot=pks"), 0);
}

TEST(cmdline, words_of_the_loader_are_checked)
{
	CHECK_EQ(parse("logs=on logs=off"), 0);
	CHECK_EQ(parse("logs=maybe"), 1);
}

TEST_ID(cmdline, trace_takes_events, "IF RP4")
{
	CHECK_EQ(parse(""), 0);
	CHECK(c.trace.mask == 0 && !c.trace.dump);
	CHECK_EQ(parse("trace=on"), 0);
	CHECK(c.trace.mask == TRACE_ALL && !c.trace.dump);
	CHECK_EQ(parse("trace=on trace=split,dump"), 0);
	CHECK(c.trace.mask == 1u << TRACE_SPLIT && c.trace.dump);
	CHECK_EQ(parse("trace=split,bogus,flush,also-bogus"), 2);
	CHECK_EQ(c.trace.mask, 1u << TRACE_SPLIT | 1u << TRACE_FLUSH);
}

TEST(cmdline, bad_words_are_counted_and_change_nothing)
{
	CHECK_EQ(parse("color=red lab=long seed= seed=12x seed=0x seed=18446744073709551616 plain bbm=maybe um=4k suite= =x cpus=0 "
		       "cpus=4294967296 cpus=two plant=tree tlb_ceiling=0"), 16);
	CHECK_EQ(c.cpus, 0);
	CHECK_EQ(c.lab, LAB_FULL);
	CHECK(c.bbm == -1);
	CHECK(!c.seed_given && !c.suite[0]);
}

TEST(cmdline, a_value_as_long_as_the_line_is_refused)
{
	static char line[BOOT_CMDLINE_MAX] = "suite=";

	memset(line + 6, 'a', sizeof(line) - 7);
	CHECK_EQ(parse(line), 1);
	CHECK(!c.suite[0]);
	line[6 + CMDLINE_TEXT - 1] = 0;
	CHECK_EQ(parse(line), 0);
	CHECK_EQ(strlen(c.suite), CMDLINE_TEXT - 1);
}

TEST(cmdline, numbers)
{
	u64 n = 0;

	CHECK(cmdline_number("18446744073709551615", &n) && n == UINT64_MAX);
	CHECK(cmdline_number("0xffffffffffffffff", &n) && n == UINT64_MAX);
	CHECK(cmdline_number("0", &n) && n == 0);
	CHECK(!cmdline_number("", &n) && !cmdline_number("-1", &n) && !cmdline_number("1f", &n) &&
	      !cmdline_number("0x10000000000000000", &n));
}
