/* SPDX-License-Identifier: MIT */
/*
 * The trace: what was done to mappings, as records of a fixed size in a ring per CPU (SPEC RP4).
 *
 * Off, a call of trace_event() is a test of memory and a branch that is not taken; its arguments are not computed. On, any
 * context may write, NMIs in the middle of a record too: a place is reserved by one atomic addition, claimed by one
 * compare-and-exchange, and its number is stored last. A reader shows a record only if its number was the expected one
 * before and after it was read, so nothing half-written is ever shown; a writer that finds its place claimed by a
 * context that it interrupted gives up and is counted.
 *
 * A ring keeps the newest records; no lock, no allocation. This half knows rings, names and filters. Which CPUs get a ring,
 * and when the trace is shown, is kernel/trace.h's.
 */
#ifndef KERNEL_BASE_TRACE_H
#define KERNEL_BASE_TRACE_H

#include "kernel/base/arch_cpu.h"
#include "kernel/base/atomic.h"
#include "kernel/base/types.h"

/* What can be recorded; names and arguments are rows of trace_rows[]. */
enum trace_id {
	TRACE_SPLIT,	/* a leaf became a table: level of the leaf, va, the table's physical address */
	TRACE_COLLAPSE,	/* a table became a leaf: level of the leaf, va, the table's physical address */
	TRACE_FLUSH,	/* this CPU flushed: up to generation gen, pages (0: everything), the first va of them */
	TRACE_SEND,	/* a shootdown sent: generation, CPUs asked, pages (0: everything) */
	TRACE_RECEIVE,	/* a shootdown received: generation, pages (0: everything), the generation it had */
	TRACE_REFILL,	/* the unmapped cache took a piece: first frame, order, frames it holds now */
	TRACE_RETURN,	/* it gave a piece back: first frame, order, frames it holds now */
	TRACE_FILL,	/* executable memory was filled: va, bytes, whether it was sealed already */
	TRACE_FAULT,	/* a page fault: va, error code, rip */
	TRACE_EVENTS,
};

#define TRACE_ALL ((1u << TRACE_EVENTS) - 1)

struct trace_row {
	const char *name;
	const char *args[3];
	u8 hex;			/* bit i: argument i is an address */
};
extern const struct trace_row trace_rows[TRACE_EVENTS];

/*
 * Bit e: event e is recorded. A plain load, so that compilers test it where it is: it costs two instructions. Set and cleared at
 * boot, behind the tests, and by tests while no other CPU works; a CPU that sees that late records too much or too little.
 */
extern u32 trace_mask;

/* The slow half of trace_event(). */
void trace_write(enum trace_id event, u64 a, u64 b, u64 c);

/* Whether an event is recorded now. */
static __always_inline bool trace_on(enum trace_id event)
{
	return trace_mask & (1u << event);
}

/* Any context. */
static __always_inline void trace_event(enum trace_id event, u64 a, u64 b, u64 c)
{
	if (unlikely(trace_on(event)))
		trace_write(event, a, b, c);
}

/* ---- Records and rings ---- */

/* As a reader gets it. */
struct trace_record {
	u64 number;		/* in its ring, from 0, in the order the records were begun */
	u64 tsc;		/* arch_cycles() */
	u32 cpu;
	u8 event;		/* enum trace_id */
	u8 context;		/* enum cpu_nesting */
	u64 args[3];
};

struct trace_slot {
	u64 state;		/* 0: never used; number + 1; with the top bit: being written */
	u64 tsc;
	u64 what;		/* cpu, event << 32, context << 40 */
	u64 args[3];
};

struct trace_ring {
	u64 next;		/* the number of the next record */
	u64 lost;		/* records that found their place claimed */
	u64 slots;
	struct trace_slot slot[];
};

#define TRACE_RING_BYTES(slots) (sizeof(struct trace_ring) + (slots) * sizeof(struct trace_slot))

/* Make memory of so many bytes (at least one slot's) an empty ring; it is zeroed. */
void trace_ring_init(struct trace_ring *ring, u64 bytes);
/* Any number of contexts and CPUs at once. */
void trace_ring_write(struct trace_ring *ring, const struct trace_record *record);
/* Record `number`, if it is there and whole. Any context, beside writers. */
bool trace_ring_read(const struct trace_ring *ring, u64 number, struct trace_record *out);

/*
 * Where trace_write() of a CPU goes; NULL: nowhere. Returns the ring it had. It may still be written to until the CPU
 * has been seen outside trace_write().
 */
struct trace_ring *trace_set_ring(u32 cpu, struct trace_ring *ring);
struct trace_ring *trace_ring_of(u32 cpu);

/* ---- Reading all rings by time ---- */

/* One reader; large, so it lives outside the stack. */
struct trace_merge {
	struct {
		u64 at, end;			/* records that are still to be shown */
		bool have;			/* first is the next one of them */
		struct trace_record first;
	} cpu[MAX_CPUS];
};

/* Begin with at most `last` records of each CPU, as many as there are now. */
void trace_merge_init(struct trace_merge *m, u64 last);
/*
 * The oldest record that is left, by time; at the same time, of the lowest CPU. Records of one CPU come as they were begun: one that
 * was interrupted while it was written stands before those of the interrupt. False: there is none left.
 */
bool trace_merge_next(struct trace_merge *m, struct trace_record *out);

/* "tsc=… cpu=… context=… event=… …": key=value words. Returns the length, as fmt_print(). */
size_t trace_format(const struct trace_record *r, char *buf, size_t size);

/* ---- Filters ---- */

struct trace_filter {
	u32 mask;		/* events to record */
	bool dump;		/* show all records when the tests are through */
};

/*
 * off | on | dump | EVENT, several parted by commas: they add up, from left to right; dump alone records everything. A word that is
 * none of these is named in the log, and the others count. Returns how many there were.
 */
unsigned trace_parse(const char *text, struct trace_filter *out);

#endif
