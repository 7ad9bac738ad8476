/* SPDX-License-Identifier: MIT */
/*
 * Invariants: text is in memory before the state that counts it; a chunk whose state does not agree with it does not
 * exist. Every chunk but the last one is full, so a missing one is known by its bytes. A writer may be stopped for good behind any
 * instruction, and another go on in its place (an NMI of a panic): so how far a chunk is filled is said by the chunk alone, in its one store,
 * and the number of the next one is published when that one can be written to.
 */
#include "kernel/base/log_ring.h"

#include "kernel/base/atomic.h"
#include "kernel/base/crc32.h"
#include "kernel/base/fmt.h"
#include "kernel/base/string.h"

#define CHUNK_HEAD offsetof(struct log_ring_chunk, text)
#define CUT_LINE 96u

_Static_assert(sizeof(struct log_ring_chunk) == LOG_RING_CHUNK, "a chunk fills its page");
_Static_assert(CHUNK_HEAD + CUT_LINE < LOG_RING_CHUNK, "the line in a gap is shorter than the gap");

static struct log_ring_chunk *chunk_of(const void *memory, u64 number)
{
	return (struct log_ring_chunk *)((u8 *)memory + LOG_RING_CHUNK) + log_ring_slot(number);
}

/* Of a chunk without text. */
static u32 crc_of_head(const struct log_ring_chunk *c)
{
	return crc32(0, c, offsetof(struct log_ring_chunk, state));
}

static u64 state_of(u32 crc, u32 used)
{
	return (u64)crc32(crc, &used, sizeof(used)) << 32 | used;
}

/* Whether c is chunk `number` of the run as it was written. Its text may be shorter than the room for it. */
static bool intact(const struct log_ring_chunk *c, u64 run, u64 number)
{
	u32 used = (u32)c->state;

	return c->run == run && c->number == number && used <= LOG_RING_TEXT &&
	       c->state == state_of(crc32(crc_of_head(c), c->text, used), used);
}

/* ---- Writing ---- */

void log_ring_wipe(void *memory, log_ring_persist_fn persist)
{
	memset(memory, 0, sizeof(struct log_ring_header));
	persist(memory, sizeof(struct log_ring_header));
}

void log_ring_format(void *memory, u64 run, log_ring_persist_fn persist)
{
	struct log_ring_header header = { .magic = LOG_RING_MAGIC, .run = run, .size = LOG_RING_SIZE };

	header.crc = crc32(0, &header, offsetof(struct log_ring_header, crc));
	log_ring_wipe(memory, persist);
	for (u64 slot = 0; slot < LOG_RING_CHUNKS; slot++) {
		struct log_ring_chunk *c = (struct log_ring_chunk *)((u8 *)memory + LOG_RING_CHUNK) + slot;

		memset(c, 0, CHUNK_HEAD);
		persist(c, CHUNK_HEAD);
	}
	memcpy(memory, &header, sizeof(header));
	persist(memory, sizeof(header));
}

/* One store, of 8 aligned bytes. */
static void set_state(struct log_ring *ring, struct log_ring_chunk *c, u64 state)
{
	store_release(&c->state, state);
	ring->persist(&c->state, sizeof(c->state));
}

/* The chunk that may have been here before is gone with the first store. */
static struct log_ring_chunk *start_chunk(struct log_ring *ring, u32 number)
{
	struct log_ring_chunk *c = chunk_of(ring->memory, number);

	set_state(ring, c, 0);
	c->run = ring->run;
	c->number = number;
	c->zero = 0;
	ring->persist(c, CHUNK_HEAD);
	set_state(ring, c, state_of(crc_of_head(c), 0));
	store_release(&ring->number, number);
	ring->crc = crc_of_head(c);
	return c;
}

/*
 * The chunk to go on in, ring->crc being its. If that is not so yet, who wrote before was stopped, perhaps with the chunk's state still in a
 * cache. A chunk that somebody has spoilt is left as it is: the reader tells.
 */
static struct log_ring_chunk *chunk_with_room(struct log_ring *ring)
{
	struct log_ring_chunk *c = chunk_of(ring->memory, ring->number);
	u32 used = (u32)c->state;

	if (state_of(ring->crc, used) != c->state && intact(c, ring->run, ring->number)) {
		ring->persist(&c->state, sizeof(c->state));
		ring->crc = crc32(crc_of_head(c), c->text, used);
	}
	if (used < LOG_RING_TEXT && state_of(ring->crc, used) == c->state)
		return c;
	return start_chunk(ring, ring->number + 1);
}

bool log_ring_open(struct log_ring *ring, void *memory, log_ring_persist_fn persist)
{
	const struct log_ring_header *header = memory;
	struct log_ring_chunk *first = chunk_of(memory, 0);

	if (!log_ring_valid(memory) || first->run || first->state)
		return false;
	*ring = (struct log_ring){ .memory = memory, .persist = persist, .run = header->run };
	start_chunk(ring, 0);
	return true;
}

void log_ring_append(struct log_ring *ring, const char *text, u64 size)
{
	while (size) {
		struct log_ring_chunk *c = chunk_with_room(ring);
		u32 used = (u32)c->state;
		u32 n = (u32)MIN(size, LOG_RING_TEXT - used);
		u32 crc = crc32(ring->crc, text, n);

		memcpy(c->text + used, text, n);
		ring->persist(c->text + used, n);
		set_state(ring, c, state_of(crc, used + n));
		ring->crc = crc;
		text += n;
		size -= n;
	}
}

/* ---- Reading ---- */

bool log_ring_valid(const void *memory)
{
	struct log_ring_header header;

	memcpy(&header, memory, sizeof(header));
	return header.magic == LOG_RING_MAGIC && header.size == LOG_RING_SIZE &&
	       header.crc == crc32(0, &header, offsetof(struct log_ring_header, crc));
}

/* One that was never begun. */
static bool untouched(const struct log_ring_chunk *c)
{
	return !c->run && !c->number && !c->zero && !c->state;
}

/* How many chunks were begun, as far as one can see: the number of the last intact one, and one more. */
static u64 count_chunks(const void *memory, u64 run)
{
	const struct log_ring_chunk *chunks = chunk_of(memory, 0);
	u64 count = 0;

	for (u64 slot = 0; slot < LOG_RING_CHUNKS; slot++) {
		const struct log_ring_chunk *c = &chunks[slot];

		if (c->number >= count && log_ring_slot(c->number) == slot && intact(c, run, c->number))
			count = (u64)c->number + 1;
	}
	return count;
}

struct reader {
	char *out;
	u64 run;
	u64 gap;			/* bytes missing here */
	struct log_ring_found *found;
};

/* In a line of its own that begins like nothing in KTAP. */
static void write_cut(struct reader *r, const char *what)
{
	struct log_ring_found *found = r->found;
	char line[CUT_LINE];
	size_t n;

	n = fmt_print(line, sizeof(line), "%sTANGRAM LOG CUT: %s missing here\n",
		      found->length && r->out[found->length - 1] != '\n' ? "\n" : "", what);
	memcpy(r->out + found->length, line, n);
	found->length += n;
}

static void write_gap(struct reader *r)
{
	char what[32];

	if (!r->gap)
		return;
	fmt_print(what, sizeof(what), "%lu bytes are", r->gap);
	write_cut(r, what);
	r->found->missing += r->gap;
	r->gap = 0;
}

static void read_chunk(struct reader *r, const void *memory, u64 number, u64 count)
{
	const struct log_ring_chunk *c = chunk_of(memory, number);
	bool overwritten = number >= LOG_RING_HEAD && number + (LOG_RING_CHUNKS - LOG_RING_HEAD) < count;
	u64 used = (u32)c->state;
	bool good = !overwritten && intact(c, r->run, number);

	/* One before the last that is not full is not one that was written here. */
	if (!good || (number + 1 < count && used != LOG_RING_TEXT)) {
		r->found->damaged |= !overwritten;
		r->gap += LOG_RING_TEXT;
		return;
	}
	write_gap(r);
	memcpy(r->out + r->found->length, c->text, used);
	r->found->length += used;
}

/* Whether the chunk behind the last intact one was begun: its place holds neither nothing nor what was there a round before. */
static bool end_damaged(const void *memory, u64 run, u64 count)
{
	const struct log_ring_chunk *c = chunk_of(memory, count);
	u64 round = LOG_RING_CHUNKS - LOG_RING_HEAD;

	if (count >= LOG_RING_CHUNKS)
		return !intact(c, run, count - round);
	return !untouched(c);
}

void log_ring_read(const void *memory, char *out, struct log_ring_found *found)
{
	const struct log_ring_header *header = memory;
	struct reader r = { .out = out, .run = header->run, .found = found };
	u64 count = count_chunks(memory, r.run);

	*found = (struct log_ring_found){ 0 };
	for (u64 number = 0; number < count; number++)
		read_chunk(&r, memory, number, count);
	if (end_damaged(memory, r.run, count)) {
		found->damaged = true;
		write_cut(&r, "the end is");
	}
}
