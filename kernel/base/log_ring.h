/* SPDX-License-Identifier: MIT */
/*
 * A log in memory that outlives a reset: what the kernel writes and the loader of the next boot reads.
 *
 * LOG_RING_SIZE bytes: a page that says what this is, then chunks of a page each, filled one after the other. The first
 * LOG_RING_HEAD chunks are written once, so the beginning of a log (its plan) stays; the others go round, so its end stays, and what is lost
 * of a log that is too long is its middle.
 *
 * A run may end at any instruction, and the reset that follows drops what the caches hold and memory does not. So each chunk has a CRC
 * of its own, over what it is (run, number), its text and how much text that is; length and CRC change in one store of 8 bytes, which
 * comes when the text is in memory. At every moment a chunk says either what it said before a write or what it says after it. One CRC
 * over the whole log would have to be computed again for each line, and one damaged byte would take everything.
 *
 * The first page is written once and has its own CRC. Where chunks are missing or damaged the reader puts a line that is not
 * KTAP, so that a log with a gap never counts as complete (docs/logs.md).
 */
#ifndef KERNEL_BASE_LOG_RING_H
#define KERNEL_BASE_LOG_RING_H

#include "kernel/base/types.h"

/* A whole 2M block: nobody else's frames share its leaf of the direct map. */
#define LOG_RING_SIZE (2 * MIB)
#define LOG_RING_ALIGN (2 * MIB)

#define LOG_RING_CHUNK 4096u		/* bytes */
#define LOG_RING_CHUNKS (LOG_RING_SIZE / LOG_RING_CHUNK - 1)
#define LOG_RING_HEAD 128u		/* chunks that are written once */

/* "TANGLOG1" read as a little-endian word; another format is another number. */
#define LOG_RING_MAGIC 0x31474f4c474e4154ull

struct log_ring_header {
	u64 magic;
	u64 run;		/* drawn by the loader: chunks of another run do not count */
	u32 size;		/* LOG_RING_SIZE */
	u32 crc;		/* of what stands before it */
};

struct log_ring_chunk {
	u64 run;
	u32 number;		/* from 0; those behind LOG_RING_HEAD go round */
	u32 zero;
	u64 state;		/* bytes of text, and in the upper half the CRC of run, number, zero, text and these bytes' number */
	char text[LOG_RING_CHUNK - 24];
};

#define LOG_RING_TEXT sizeof(((struct log_ring_chunk *)0)->text)

/* Where chunk `number` is kept. */
static inline u64 log_ring_slot(u64 number)
{
	return number < LOG_RING_HEAD ? number :
					LOG_RING_HEAD + (number - LOG_RING_HEAD) % (LOG_RING_CHUNKS - LOG_RING_HEAD);
}

/*
 * Returns when these bytes are in memory, not only in a cache, and does not let later stores pass. A write never needs more
 * than this to be complete.
 */
typedef void (*log_ring_persist_fn)(const void *start, u64 size);

/* ---- Writing ---- */

struct log_ring {
	u8 *memory;
	log_ring_persist_fn persist;
	u64 run;
	u32 number;	/* of the chunk that is being filled */
	u32 crc;	/* of it, text included; worth nothing unless the chunk's own state agrees */
};

/* Make memory (LOG_RING_SIZE bytes) an empty ring. What was in it is not to be had any more. */
void log_ring_format(void *memory, u64 run, log_ring_persist_fn persist);

/* Forget that there was a ring. */
void log_ring_wipe(void *memory, log_ring_persist_fn persist);

/* Begin to write. False: that is no empty ring. */
bool log_ring_open(struct log_ring *ring, void *memory, log_ring_persist_fn persist) __must_check;

/*
 * Behind what there is. Whatever happens afterwards, a reader finds it (up to LOG_RING_CHUNKS chunks). One at a time; who breaks in
 * behind any instruction and never returns may go on writing: only what was half written is lost.
 */
void log_ring_append(struct log_ring *ring, const char *text, u64 size);

/* ---- Reading ---- */

struct log_ring_found {
	u64 length;		/* bytes of text */
	u64 missing;		/* bytes that are known to be missing: overwritten by what came later, or damaged */
	bool damaged;		/* a chunk that should be there is not as it was written */
};

/* Room for everything that log_ring_read() may write: a gap takes a chunk and writes one short line. */
#define LOG_RING_OUT LOG_RING_SIZE

/* Whether there is a ring: its first page is as it was written. */
bool log_ring_valid(const void *memory);

/* Of a valid ring: the text that it holds, in order, a line in each gap. out: LOG_RING_OUT bytes, not NUL-terminated. */
void log_ring_read(const void *memory, char *out, struct log_ring_found *found);

#endif
