/* SPDX-License-Identifier: MIT */
/*
 * The log on many CPUs (RP1): whoever writes, from whatever context, texts come out whole and none is lost. The ring is read back.
 */
#include "kernel/log.h"

#include "arch/x86_64/apic.h"
#include "arch/x86_64/ipi.h"
#include "arch/x86_64/trap.h"
#include "kernel/base/atomic.h"
#include "kernel/base/fmt.h"
#include "kernel/base/string.h"
#include "tests/machine/crew.h"
#include "tests/test.h"

#define TEXTS 24u	/* of each author: with three authors on each of 8 CPUs they fit into the ring */
#define PARTS 3u	/* lines of a text */
#define LINE_SIZE 128u

/* Who writes on a CPU. An interrupt and an NMI interrupt the others, the log among them. */
enum author { TASK, INTERRUPT, NMI, AUTHORS };

static u32 written[MAX_CPUS][AUTHORS];	/* texts; each by its author only */

static void format_part(char *line, u32 cpu, u32 author, u32 text, u32 part)
{
	size_t n = fmt_print(line, LINE_SIZE, "crew %u.%u.%u.%u ", cpu, author, text, part);

	while (n < 40 + 8 * part)
		line[n++] = (char)('a' + (cpu + author + part) % 26);
	line[n] = 0;
}

static void write_text(enum author author)
{
	u32 cpu = arch_this_cpu()->id, text = written[cpu][author];
	char part[PARTS][LINE_SIZE];

	for (u32 i = 0; i < PARTS; i++)
		format_part(part[i], cpu, author, text, i);
	written[cpu][author] = text + 1;
	log_info("%s\n%s\n%s", part[0], part[1], part[2]);
}

/* Reads the ring from *cursor on, a line at a time. False: no further line. */
static bool next_line(u64 *cursor, char *line, size_t size)
{
	size_t n = 0;

	for (;;) {
		const char *text;
		u64 at = *cursor;

		if (!log_read(cursor, &text))
			return false;
		*cursor = at + 1;
		if (*text == '\n')
			break;
		if (n + 1 < size)
			line[n++] = *text;
	}
	line[n] = 0;
	return true;
}

static bool read_number(const char **text, u32 *out)
{
	const char *from = *text;

	for (*out = 0; **text >= '0' && **text <= '9'; ++*text)
		*out = *out * 10 + (u32)(**text - '0');
	return *text != from && *(*text)++ != 0;
}

/* What has been read so far. */
struct reading {
	u32 next[MAX_CPUS][AUTHORS];	/* text that comes next, by author */
	u32 cpu, author, part;		/* part 0: none is open; otherwise of this author this part comes next */
	u32 bad;
};

static void take_line(struct reading *r, const char *line)
{
	const char *at = line + strlen("# crew ");
	u32 cpu, author, text, part;
	char want[LINE_SIZE];

	if (strncmp(line, "# crew ", strlen("# crew ")) || !read_number(&at, &cpu) || !read_number(&at, &author) ||
	    !read_number(&at, &text) || !read_number(&at, &part) || cpu >= MAX_CPUS || author >= AUTHORS) {
		r->bad++;
		return;
	}
	format_part(want, cpu, author, text, part);
	r->bad += strcmp(line + 2, want) != 0 || part != r->part || text != r->next[cpu][author];
	r->bad += part && (cpu != r->cpu || author != r->author);
	r->cpu = cpu;
	r->author = author;
	r->part = (part + 1) % PARTS;
	if (part == PARTS - 1)
		r->next[cpu][author] = text + 1;
}

static struct reading reading;

/* Every line since `from` belongs to a text that is whole, and each author's come in order: how many texts in all. */
static u32 read_back(u64 from)
{
	char line[LINE_SIZE];
	u32 texts = 0;

	memset(&reading, 0, sizeof(reading));
	while (next_line(&from, line, sizeof(line)))
		take_line(&reading, line);
	CHECK_EQ(reading.bad, 0);
	CHECK_EQ(reading.part, 0);
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		for (u32 author = 0; author < AUTHORS; author++) {
			CHECK_EQ(reading.next[cpu][author], written[cpu][author]);
			texts += reading.next[cpu][author];
		}
	return texts;
}

static u32 read_torn(u64 from)
{
	char line[LINE_SIZE];

	memset(&reading, 0, sizeof(reading));
	while (next_line(&from, line, sizeof(line)))
		take_line(&reading, line);
	return reading.bad;
}

/* The control: what the reader must notice. */
TEST_ID(log, torn_texts_are_noticed, "RP1")
{
	char part[LINE_SIZE];
	u64 from = log_end();

	/* Two texts whose lines alternate, as they would without a lock. */
	for (u32 i = 0; i < 2 * PARTS; i++) {
		format_part(part, i % 2, TASK, 0, i / 2);
		log_info("%s", part);
	}
	CHECK(read_torn(from) >= PARTS);
	/* A line that another one has cut. */
	from = log_end();
	format_part(part, 0, TASK, 0, 0);
	part[strlen(part) - 1] = 0;
	log_info("%s", part);
	CHECK_EQ(read_torn(from), 1);
	/* A line of somebody else in between. */
	from = log_end();
	log_info("somebody else");
	CHECK_EQ(read_torn(from), 1);
}

static void write_texts(void *arg)
{
	(void)arg;
	for (u32 i = 0; i < TEXTS; i++)
		write_text(TASK);
}

TEST_ID(log, all_cpus_at_once, "RP1")
{
	u64 from = log_end();
	u32 ids[CREW_MAX];
	unsigned nr = crew_cpus(ids);
	u32 texts;

	memset(written, 0, sizeof(written));
	CHECK_EQ(thread_run_on_all(write_texts, NULL), 0);
	texts = read_back(from);
	CHECK_EQ(texts, TEXTS * nr);
	test_note("cpus=%u texts=%u", nr, texts);
}

static void interrupted(void *arg)
{
	(void)arg;
	write_text(INTERRUPT);
}

static void nmi_writes(const struct trap_frame *frame)
{
	(void)frame;
	write_text(NMI);
}

/* Interrupt, by call and by NMI, CPUs that are writing. Merged NMIs write once. */
static void disturb(void *arg)
{
	u32 me = arch_this_cpu()->id, ids[CREW_MAX];
	unsigned nr = crew_cpus(ids);

	(void)arg;
	for (u32 i = 0; i < TEXTS; i++) {
		u32 other = ids[1 + i % (nr - 1)];
		cpumask_t mask = { { 0 } };

		write_text(TASK);
		ipi_nmi(other);
		cpumask_set(&mask, other);
		ipi_call(&mask, interrupted, NULL, NULL);
		CHECK(other != me);
	}
}

static void nothing(void *arg)
{
	(void)arg;
}

/* All wait with interrupts on, or not at all: nobody waits for a CPU that waits for it. */
TEST_ID(log, interrupts_and_nmis_write_too, "RP1")
{
	u64 from = log_end();
	nmi_handler_fn before;
	u32 ids[CREW_MAX];
	u32 texts;

	if (crew_cpus(ids) == 1)
		SKIP("one CPU: nobody interrupts it while it writes");
	memset(written, 0, sizeof(written));
	before = nmi_set_handler(nmi_writes);
	CHECK_EQ(thread_run_on_all(disturb, NULL), 0);
	ipi_call_others(nothing, NULL, NULL);	/* a CPU takes the NMIs that wait for it first */
	nmi_set_handler(before);
	log_flush();
	texts = read_back(from);
	CHECK(texts >= 2 * TEXTS);
	test_note("texts=%u", texts);
}

static u32 nmi_done;

static void write_twice(const struct trap_frame *frame)
{
	nmi_writes(frame);
	nmi_writes(frame);
	store_release(&nmi_done, 1);
}

/* An NMI of this CPU's own, while it does not write: its texts need not wait for anybody's. */
TEST_ID(log, nmi_on_this_cpu, "RP1")
{
	nmi_handler_fn before;
	u64 from = log_end();

	if (!apic_present())
		SKIP("no local APIC: no NMI to be had");
	memset(written, 0, sizeof(written));
	store_release(&nmi_done, 0);
	before = nmi_set_handler(write_twice);
	write_text(TASK);
	ipi_nmi(arch_this_cpu()->id);
	while (!load_acquire(&nmi_done))
		arch_relax();
	write_text(TASK);
	nmi_set_handler(before);
	CHECK_EQ(read_back(from), 4);
}

/* Who has interrupts off does not wait for the log: what it could not write at once is written by who could. */
static void write_with_interrupts_off(void *arg)
{
	u64 flags = arch_irq_save();

	(void)arg;
	for (u32 i = 0; i < TEXTS; i++)
		write_text(TASK);
	arch_irq_restore(flags);
}

TEST_ID(log, with_interrupts_off, "RP1")
{
	u64 from = log_end();
	u32 ids[CREW_MAX];
	unsigned nr = crew_cpus(ids);

	if (nr > 2)
		nr = 2;		/* more could be more texts at once than there are places for */
	memset(written, 0, sizeof(written));
	for (unsigned i = 1; i < nr; i++) {
		struct thread *t = crew_start(ids[i], "irqs off", write_with_interrupts_off, NULL);

		write_with_interrupts_off(NULL);
		CHECK_EQ(thread_join(t), 0);
	}
	if (nr == 1)
		write_with_interrupts_off(NULL);
	log_flush();
	CHECK_EQ(read_back(from), TEXTS * nr);
}
