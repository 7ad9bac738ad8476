/* SPDX-License-Identifier: MIT */
/*
 * Rings of trace records. Invariants:
 *  - a slot's state is number + 1 of the record in it, and whole, or has the top bit: someone is writing;
 *  - only who set that bit by compare-and-exchange stores into the slot, and clears it by the last store;
 *  - numbers in a slot only grow.
 * Writers store and readers load every word with release and acquire order, which on x86 costs nothing: so a reader that
 * sees one word of a newer record also sees that the state is no longer the one it began with.
 */
#include "kernel/base/trace.h"

#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "kernel/base/string.h"

#define BUSY (1ull << 63)

const struct trace_row trace_rows[TRACE_EVENTS] = {
	[TRACE_SPLIT] = { "split", { "level", "va", "table" }, 6 },
	[TRACE_COLLAPSE] = { "collapse", { "level", "va", "table" }, 6 },
	[TRACE_FLUSH] = { "flush", { "gen", "pages", "va" }, 4 },
	[TRACE_SEND] = { "send", { "gen", "cpus", "pages" }, 0 },
	[TRACE_RECEIVE] = { "receive", { "gen", "pages", "had" }, 0 },
	[TRACE_REFILL] = { "refill", { "pfn", "order", "frames" }, 0 },
	[TRACE_RETURN] = { "return", { "pfn", "order", "frames" }, 0 },
	[TRACE_FILL] = { "fill", { "va", "bytes", "sealed" }, 1 },
	[TRACE_FAULT] = { "fault", { "va", "error", "rip" }, 7 },
};

static const char *const contexts[CPU_NESTING_LEVELS] = {
	[CPU_TASK] = "task",
	[CPU_IRQ] = "irq",
	[CPU_NMI] = "nmi",
	[CPU_MACHINE_CHECK] = "machine-check",
};

u32 trace_mask;

static struct trace_ring *rings[MAX_CPUS];

/* ---- Writing ---- */

void trace_ring_init(struct trace_ring *ring, u64 bytes)
{
	assert(bytes >= TRACE_RING_BYTES(1));
	memset(ring, 0, bytes);
	ring->slots = (bytes - sizeof(*ring)) / sizeof(struct trace_slot);
}

void trace_ring_write(struct trace_ring *ring, const struct trace_record *r)
{
	u64 number = fetch_add(&ring->next, 1);
	struct trace_slot *slot = &ring->slot[number % ring->slots];
	u64 old = load_relaxed(&slot->state);

	/* Claimed by a writer that was interrupted, or passed by a whole round meanwhile. */
	if (old & BUSY || old > number || !compare_exchange(&slot->state, &old, BUSY | (number + 1))) {
		fetch_add(&ring->lost, 1);
		return;
	}
	store_release(&slot->tsc, r->tsc);
	store_release(&slot->what, r->cpu | (u64)r->event << 32 | (u64)r->context << 40);
	for (unsigned i = 0; i < ARRAY_SIZE(slot->args); i++)
		store_release(&slot->args[i], r->args[i]);
	store_release(&slot->state, number + 1);
}

void trace_write(enum trace_id event, u64 a, u64 b, u64 c)
{
	const struct cpu_state *cpu = arch_this_cpu();
	struct trace_ring *ring = load_acquire(&rings[cpu->id]);
	struct trace_record r = { 0, arch_cycles(), cpu->id, (u8)event, cpu->nesting, { a, b, c } };

	if (ring)
		trace_ring_write(ring, &r);
}

struct trace_ring *trace_set_ring(u32 cpu, struct trace_ring *ring)
{
	return __atomic_exchange_n(&rings[cpu], ring, __ATOMIC_ACQ_REL);
}

struct trace_ring *trace_ring_of(u32 cpu)
{
	return load_acquire(&rings[cpu]);
}

/* ---- Reading ---- */

bool trace_ring_read(const struct trace_ring *ring, u64 number, struct trace_record *out)
{
	const struct trace_slot *slot = &ring->slot[number % ring->slots];
	u64 what;

	if (load_acquire(&slot->state) != number + 1)
		return false;
	out->number = number;
	out->tsc = load_acquire(&slot->tsc);
	what = load_acquire(&slot->what);
	out->cpu = (u32)what;
	out->event = (u8)(what >> 32);
	out->context = (u8)(what >> 40);
	for (unsigned i = 0; i < ARRAY_SIZE(slot->args); i++)
		out->args[i] = load_acquire(&slot->args[i]);
	return load_relaxed(&slot->state) == number + 1;
}

void trace_merge_init(struct trace_merge *m, u64 last)
{
	memset(m, 0, sizeof(*m));
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++) {
		const struct trace_ring *ring = trace_ring_of(cpu);
		u64 end = ring ? load_acquire(&ring->next) : 0;

		m->cpu[cpu].end = end;
		m->cpu[cpu].at = ring ? end - MIN(end, MIN(last, ring->slots)) : 0;
	}
}

/* Make sure that the CPU's next record is at hand, if it has one. Those that were overwritten are passed. */
static bool look(struct trace_merge *m, u32 cpu)
{
	const struct trace_ring *ring = trace_ring_of(cpu);

	while (ring && !m->cpu[cpu].have && m->cpu[cpu].at < m->cpu[cpu].end)
		m->cpu[cpu].have = trace_ring_read(ring, m->cpu[cpu].at++, &m->cpu[cpu].first);
	return m->cpu[cpu].have;
}

bool trace_merge_next(struct trace_merge *m, struct trace_record *out)
{
	u32 oldest = MAX_CPUS;

	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		if (look(m, cpu) && (oldest == MAX_CPUS || m->cpu[cpu].first.tsc < m->cpu[oldest].first.tsc))
			oldest = cpu;
	if (oldest == MAX_CPUS)
		return false;
	*out = m->cpu[oldest].first;
	m->cpu[oldest].have = false;
	return true;
}

size_t trace_format(const struct trace_record *r, char *buf, size_t size)
{
	const struct trace_row *row = r->event < TRACE_EVENTS ? &trace_rows[r->event] : NULL;
	size_t n = fmt_print(buf, size, "tsc=%llu cpu=%u context=%s event=%s", (unsigned long long)r->tsc, r->cpu,
			     r->context < CPU_NESTING_LEVELS ? contexts[r->context] : "unknown",
			     row ? row->name : "unknown");

	for (unsigned i = 0; row && i < ARRAY_SIZE(row->args); i++)
		n += fmt_print(buf + MIN(n, size), size - MIN(n, size), row->hex >> i & 1 ? " %s=0x%llx" : " %s=%llu",
			       row->args[i], (unsigned long long)r->args[i]);
	return n;
}

/* ---- Filters ---- */

static bool is_word(const char *text, size_t length, const char *word)
{
	return strlen(word) == length && !strncmp(text, word, length);
}

/* What a word means. False: nothing. */
static bool take_word(const char *text, size_t length, struct trace_filter *out)
{
	if (is_word(text, length, "off")) {
		*out = (struct trace_filter){ 0 };
		return true;
	}
	if (is_word(text, length, "on")) {
		out->mask = TRACE_ALL;
		return true;
	}
	if (is_word(text, length, "dump")) {
		out->dump = true;
		return true;
	}
	for (unsigned i = 0; i < TRACE_EVENTS; i++) {
		if (is_word(text, length, trace_rows[i].name)) {
			out->mask |= 1u << i;
			return true;
		}
	}
	return false;
}

unsigned trace_parse(const char *text, struct trace_filter *out)
{
	unsigned complaints = 0;

	*out = (struct trace_filter){ 0 };
	for (;;) {
		const char *comma = strchr(text, ',');
		size_t length = comma ? (size_t)(comma - text) : strlen(text);

		if (!take_word(text, length, out)) {
			log_warn("trace: there is no event \"%.*s\", ignored", (int)MIN(length, 64), text);
			complaints++;
		}
		if (!comma)
			break;
		text = comma + 1;
	}
	if (out->dump && !out->mask && !complaints)
		out->mask = TRACE_ALL;
	return complaints;
}
