/* SPDX-License-Identifier: MIT */
/*
 * The log that outlives a reset: its format, and that a run may end, caches be dropped and bytes be damaged anywhere.
 *
 * Two memories: what the CPU sees (`cpu`) and what is left after a reset (`left`). persist() copies from the first to the second;
 * besides, a cache may write back any line at any time.
 */
#include "kernel/base/log_ring.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include "kernel/base/crc32.h"
#include "tests/host/single_step.h"
#include "tests/test.h"

#define LINE 64u
#define LOG_MAX (3 * LOG_RING_SIZE)

static u8 cpu[LOG_RING_SIZE] __aligned(4096);
static u8 left[LOG_RING_SIZE] __aligned(4096);
static char written[LOG_MAX];		/* all that was ever appended */
static u64 written_size;
static char text[LOG_RING_OUT];
static struct log_ring_found found;
static struct log_ring ring;

static u64 persists;		/* calls */
static u64 stop_at;		/* the call that does not return; 0: none */
static u64 forget_every;	/* every so many calls do nothing; 0: none */
static jmp_buf stopped;
static struct rng rng;

static void write_back(u64 offset)
{
	memcpy(left + offset / LINE * LINE, cpu + offset / LINE * LINE, LINE);
}

static void persist(const void *start, u64 size)
{
	u64 from = (u64)((const u8 *)start - cpu);

	persists++;
	if (stop_at && rng_next(&rng) % 2)	/* part of it, at least */
		write_back(from);
	if (persists == stop_at)
		longjmp(stopped, 1);
	if (forget_every && persists % forget_every == 0)
		return;
	for (u64 at = from / LINE * LINE; at < from + size; at += LINE)
		write_back(at);
}

static void begin(void)
{
	persists = stop_at = forget_every = written_size = 0;
	memset(cpu, 0xa5, sizeof(cpu));
	memset(left, 0x5a, sizeof(left));
	log_ring_format(cpu, 0x1234567890abcdef, persist);
	CHECK(log_ring_open(&ring, cpu, persist));
}

/* Lines of random length, `size` bytes in all. */
static void make_log(u64 size)
{
	for (u64 i = 0; i < size; i++)
		written[i] = rng_next(&rng) % 40 ? (char)('!' + rng_next(&rng) % 90) : '\n';
}

static void append(u64 size)
{
	log_ring_append(&ring, written + written_size, size);
	written_size += size;
}

/* From 1 to max, and not beyond goal. */
static u64 piece(u64 max, u64 goal)
{
	u64 size = 1 + rng_next(&rng) % max;

	return MIN(size, goal - written_size);
}

static void append_all(u64 size)
{
	u64 goal = written_size + size;

	while (written_size < goal)
		append(piece(200, goal));
}

static bool read_left(void)
{
	if (!log_ring_valid(left))
		return false;
	log_ring_read(left, text, &found);
	return true;
}

/* The log is what was written (false), or it is said that it is not (true). */
static bool noticed(void)
{
	if (!read_left() || found.damaged)
		return true;
	CHECK_EQ(found.length, written_size);
	CHECK(memcmp(text, written, written_size) == 0);
	return false;
}

TEST_ID(log_ring, crc_is_that_of_zlib, "BT1")
{
	const char digits[] = "123456789";	/* the check value of every catalogue of CRCs */

	CHECK_EQ(crc32(0, digits, 9), 0xcbf43926);
	CHECK_EQ(crc32(crc32(0, digits, 4), digits + 4, 5), 0xcbf43926);
	CHECK_EQ(crc32(0, digits, 0), 0);
}

TEST_ID(log_ring, what_was_written_is_read, "BT1")
{
	static const u64 sizes[] = { 0, 1, LOG_RING_TEXT - 1, LOG_RING_TEXT, LOG_RING_TEXT + 1, 3 * LOG_RING_TEXT,
				     200000, LOG_RING_CHUNKS * LOG_RING_TEXT };

	rng = test_rng();
	make_log(LOG_RING_CHUNKS * LOG_RING_TEXT);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		begin();
		append_all(sizes[i]);
		REQUIRE(read_left());
		CHECK_EQ(found.length, sizes[i]);
		CHECK_EQ(found.missing, 0);
		CHECK(!found.damaged);
		CHECK(memcmp(text, written, sizes[i]) == 0);
	}
}

/* Beginning and end stay; a line says what is not there, and that line is all that was added. */
TEST_ID(log_ring, a_log_too_long_loses_its_middle, "BT1")
{
	static const u64 sizes[] = { LOG_RING_CHUNKS * LOG_RING_TEXT + 1, 5 * LOG_RING_SIZE / 2, LOG_MAX };
	u64 head = LOG_RING_HEAD * LOG_RING_TEXT;

	rng = test_rng();
	make_log(LOG_MAX);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		char cut[64];
		u64 tail;
		int n;

		begin();
		append_all(sizes[i]);
		REQUIRE(read_left());
		CHECK(!found.damaged);
		CHECK_EQ(found.missing % LOG_RING_TEXT, 0);
		CHECK(found.missing >= sizes[i] - LOG_RING_CHUNKS * LOG_RING_TEXT);
		CHECK(found.missing < sizes[i] - (LOG_RING_CHUNKS - 2) * LOG_RING_TEXT);
		n = sprintf(cut, "%sTANGRAM LOG CUT: %lu bytes are missing here\n", written[head - 1] == '\n' ? "" : "\n",
			    found.missing);
		CHECK_EQ(found.length, sizes[i] - found.missing + (u64)n);
		tail = sizes[i] - head - found.missing;
		CHECK(memcmp(text, written, head) == 0);
		CHECK(memcmp(text + head, cut, (size_t)n) == 0);
		CHECK(memcmp(text + head + n, written + sizes[i] - tail, tail) == 0);
	}
}

TEST_ID(log_ring, every_damaged_byte_is_noticed, "BT1")
{
	u64 nr = 0;

	rng = test_rng();
	make_log(2 * LOG_RING_TEXT);
	begin();
	append_all(2 * LOG_RING_TEXT - 100);
	REQUIRE(!noticed());
	for (u64 at = 0; at < 4 * LOG_RING_CHUNK; at++) {
		u8 before = left[at];

		left[at] ^= (u8)(1 + rng_next(&rng) % 255);
		nr += noticed();
		left[at] = before;
	}
	/* The header, both chunks but the room behind the text, and the head of a chunk never begun. */
	CHECK_EQ(nr, sizeof(struct log_ring_header) + 2 * LOG_RING_CHUNK - 100 + LOG_RING_CHUNK - LOG_RING_TEXT);
}

/* Zeroes, noise, and what another part of the ring holds: as firmware might leave it. */
TEST_ID(log_ring, overwritten_ranges_are_noticed, "BT1")
{
	unsigned nr = 0;

	rng = test_rng();
	make_log(LOG_MAX);
	for (unsigned i = 0; i < 60; i++) {
		u64 start = rng_next(&rng) % 40 * LOG_RING_CHUNK + rng_next(&rng) % LOG_RING_CHUNK;
		u64 size = 1 + rng_next(&rng) % (i % 2 ? 300 : 20000);

		begin();
		append_all(20 * LOG_RING_TEXT + rng_next(&rng) % 20000);
		for (u64 at = start; at < start + size; at++)
			left[at] = i % 3 == 0 ? 0 : i % 3 == 1 ? (u8)rng_next(&rng) : left[at + 3 * LOG_RING_CHUNK];
		nr += noticed();
	}
	CHECK(nr > 15 && nr < 60);
	test_note("noticed=%u", nr);
}

/* What is left when the run ends inside a persist(): all that was complete before, and no more than was begun. */
static void check_prefix(u64 complete, u64 begun)
{
	REQUIRE(read_left());
	if (!found.damaged) {
		CHECK(found.length >= complete);
		CHECK(found.length <= begun);
		CHECK(memcmp(text, written, found.length) == 0);
	} else {
		/* A chunk was being begun: what is before it is all there. */
		CHECK(found.length >= complete);
		CHECK(memcmp(text, written, complete) == 0);
	}
}

static volatile u64 asked;	/* bytes of the append that is under way */

static void run_until(u64 call)
{
	u64 goal = 3 * LOG_RING_TEXT;

	begin();
	stop_at = persists + call;
	if (setjmp(stopped))
		return;
	while (written_size < goal) {
		asked = piece(2000, goal);
		append(asked);
	}
	asked = 0;
	stop_at = 0;
}

/* Cut the same log off at each of its persists, and look at what is left. */
static void cut_everywhere(void (*look)(void))
{
	unsigned calls = 0;

	rng = test_rng();
	make_log(3 * LOG_RING_TEXT);
	for (u64 call = 1; call < 200; call++) {
		run_until(call);
		if (!stop_at)
			break;
		calls++;
		look();
	}
	CHECK(calls > 20);
	CHECK(!stop_at);
	test_note("calls=%u", calls);
}

static void is_prefix(void)
{
	check_prefix(written_size, written_size + asked);
}

TEST_ID(log_ring, a_run_may_end_anywhere, "BT1")
{
	cut_everywhere(is_prefix);
}

/* The control: a kernel that forgets to push some of it out of the caches. The log is short or damaged then, and never another. */
TEST_ID(log_ring, what_stays_in_caches_is_missed, "BT1")
{
	rng = test_rng();
	make_log(3 * LOG_RING_TEXT);
	for (u64 every = 2; every < 12; every++) {
		begin();
		forget_every = every;
		append_all(2 * LOG_RING_TEXT + 50);
		/* The last is forgotten in any case. */
		forget_every = 1;
		append(10);
		REQUIRE(read_left());
		CHECK(found.damaged || found.length < written_size);
		CHECK(found.damaged || memcmp(text, written, found.length) == 0);
	}
}

static const char last_words[] = "# PANIC on CPU 0\n";

/* panic() may interrupt whoever writes, and goes on writing. */
static void break_in(void)
{
	stop_at = 0;
	log_ring_append(&ring, last_words, sizeof(last_words) - 1);
	REQUIRE(read_left());
	CHECK(!found.damaged);
	REQUIRE(found.length >= written_size + sizeof(last_words) - 1);
	CHECK(memcmp(text, written, written_size) == 0);
	CHECK(memcmp(text + found.length - sizeof(last_words) + 1, last_words, sizeof(last_words) - 1) == 0);
}

TEST_ID(log_ring, who_breaks_in_is_heard, "BT1")
{
	cut_everywhere(break_in);
}

/* ---- Last words behind each instruction of a write ---- */

#define STEP_PAGES (3 * LOG_RING_CHUNK)	/* the header and two chunks */
#define STEP_SIZE 24u			/* bytes, half of them in the second chunk */

static struct {
	u64 steps, lost;
	unsigned seen[3];	/* how often none of the write, its first chunk's half, all of it were there */
} volatile cut;

/* All that was complete, some of what was under way, the last words, and no damage. */
static bool heard(void)
{
	u64 part;

	if (!read_left() || found.damaged || found.missing || found.length < written_size + sizeof(last_words) - 1)
		return false;
	part = found.length - written_size - (sizeof(last_words) - 1);
	if (part % (STEP_SIZE / 2) || part > STEP_SIZE || memcmp(text, written, written_size + part))
		return false;
	cut.seen[part / (STEP_SIZE / 2)]++;
	return !memcmp(text + written_size + part, last_words, sizeof(last_words) - 1);
}

/* They are written, looked for, and taken back: as if they came here, and then as if they did not. */
static void on_step(int number, siginfo_t *info, void *context)
{
	static u8 cpu_before[STEP_PAGES], left_before[STEP_PAGES];
	struct log_ring before = ring;

	(void)number;
	(void)info;
	(void)context;
	memcpy(cpu_before, cpu, STEP_PAGES);
	memcpy(left_before, left, STEP_PAGES);
	log_ring_append(&ring, last_words, sizeof(last_words) - 1);
	cut.lost += !heard();
	cut.steps++;
	ring = before;
	memcpy(cpu, cpu_before, STEP_PAGES);
	memcpy(left, left_before, STEP_PAGES);
}

TEST_ID(log_ring, who_breaks_in_behind_any_instruction_is_heard, "BT1")
{
	struct sigaction old;

	rng = test_rng();
	make_log(LOG_RING_TEXT + STEP_SIZE);
	begin();
	append_all(LOG_RING_TEXT - STEP_SIZE / 2);
	memset((void *)&cut, 0, sizeof(cut));
	single_step_catch(on_step, &old);
	single_step_on();
	log_ring_append(&ring, written + written_size, STEP_SIZE);
	single_step_off();
	sigaction(SIGTRAP, &old, NULL);
	CHECK_EQ(cut.lost, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(cut.seen); i++)
		CHECK(cut.seen[i] > 0);
	written_size += STEP_SIZE;
	CHECK(!noticed());
	test_note("instructions=%lu", cut.steps);
}

/* What follows is in the next chunk, and none of it outside of one. */
TEST_ID(log_ring, a_chunk_spoilt_under_the_writer_is_left, "BT1")
{
	static const u64 states[] = { 0, 1, LOG_RING_TEXT - 1, LOG_RING_TEXT, LOG_RING_TEXT + 1, 0xffffffff, ~0ull };

	rng = test_rng();
	make_log(100);
	for (unsigned i = 0; i < ARRAY_SIZE(states); i++) {
		begin();
		append(100);
		memcpy(cpu + LOG_RING_CHUNK + offsetof(struct log_ring_chunk, state), &states[i], sizeof(states[i]));
		log_ring_append(&ring, last_words, sizeof(last_words) - 1);
		REQUIRE(read_left());
		CHECK(found.damaged);
		REQUIRE(found.length > sizeof(last_words));
		CHECK(memcmp(text + found.length - sizeof(last_words) + 1, last_words, sizeof(last_words) - 1) == 0);
	}
}

TEST_ID(log_ring, only_an_empty_ring_is_opened, "BT1")
{
	rng = test_rng();
	make_log(100);
	begin();
	append(1);
	CHECK(!log_ring_open(&ring, cpu, persist));
	log_ring_format(cpu, 7, persist);
	CHECK(log_ring_open(&ring, cpu, persist));
	log_ring_wipe(cpu, persist);
	CHECK(!log_ring_open(&ring, cpu, persist));
	CHECK(!log_ring_valid(left));
}

/* Chunks of another run, and of the round before, are none of this one's. */
TEST_ID(log_ring, chunks_of_another_run_do_not_count, "BT1")
{
	rng = test_rng();
	make_log(10 * LOG_RING_TEXT);
	begin();
	append_all(10 * LOG_RING_TEXT);
	memcpy(cpu, left, sizeof(cpu));
	begin();
	append_all(2 * LOG_RING_TEXT);
	/* As if the wiping of the third chunk had stayed in a cache. */
	memcpy(left + 3 * LOG_RING_CHUNK, cpu + 2 * LOG_RING_CHUNK, LOG_RING_CHUNK);
	left[3 * LOG_RING_CHUNK] ^= 1;
	CHECK(noticed());
	CHECK(memcmp(text, written, 2 * LOG_RING_TEXT) == 0);
}
