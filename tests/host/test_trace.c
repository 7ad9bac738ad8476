/* SPDX-License-Identifier: MIT */
/*
 * Writers of the trace that interrupt each other (RP4). An NMI can come between any two instructions of a writer or a reader: here
 * the CPU's single-step flag puts one behind each of them in turn, and a signal handler plays the NMI. Threads that write
 * into one ring while others read show the rest: what is read is always whole.
 */
#define _GNU_SOURCE	/* REG_EFL */

#include <pthread.h>
#include <string.h>
#include <ucontext.h>

#include "kernel/base/trace.h"
#include "tests/host/single_step.h"
#include "tests/test.h"

#define SLOTS 4u
#define STEPS_MAX 20000u	/* instructions of one write or read, sanitizers' included */
#define THREADS 3u
#define ROUNDS 20000u	/* at least, by each writer */
#define PASSES 200u	/* of the reader that found records, meanwhile */

static union {
	struct trace_ring ring;
	u8 bytes[TRACE_RING_BYTES(SLOTS)];
} ring;

/* Every word of a record follows from one. */
static struct trace_record record(u64 x)
{
	return (struct trace_record){ .tsc = x, .cpu = (u32)(x % 1000), .event = (u8)(x % 7), .context = (u8)(x % 3),
				      .args = { ~x, x * 3, x << 7 } };
}

static void write_record(u64 x)
{
	struct trace_record r = record(x);

	trace_ring_write(&ring.ring, &r);
}

static bool is_whole(const struct trace_record *r)
{
	struct trace_record want = record(r->tsc);

	return r->cpu == want.cpu && r->event == want.event && r->context == want.context &&
	       !memcmp(r->args, want.args, sizeof(want.args));
}

/* Records that can be read now, and whether one of them is torn. */
static unsigned count_readable(bool *torn)
{
	u64 end = load_acquire(&ring.ring.next);
	struct trace_record r;
	unsigned n = 0;

	for (u64 i = end - MIN(end, SLOTS); i < end; i++) {
		if (!trace_ring_read(&ring.ring, i, &r))
			continue;
		n++;
		if (!is_whole(&r))
			*torn = true;
	}
	return n;
}

/* ---- An NMI behind each instruction ---- */

static struct {
	u64 at;			/* the instruction behind which it comes */
	u64 steps;
	unsigned burst;		/* records that it writes */
	u64 next;		/* what it writes */
	u64 lost_before;
	bool torn;		/* seen by the NMI */
	bool came;
} volatile nmi;

/* Steps end when the one NMI that was to come has come. */
static void on_step(int number, siginfo_t *info, void *context)
{
	ucontext_t *interrupted = context;
	bool torn = false;

	(void)number;
	(void)info;
	if (nmi.steps++ != nmi.at)
		return;
	interrupted->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)FLAG_TF;
	nmi.came = true;
	count_readable(&torn);
	for (unsigned i = 0; i < nmi.burst; i++)
		write_record(nmi.next + i);
	count_readable(&torn);
	nmi.torn = torn;
}

/* One write of 100, after three others, with an NMI of so many records behind instruction `at`. Returns whether it came. */
static bool interrupted_write(u64 at, unsigned burst)
{
	bool torn = false;
	unsigned seen;

	trace_ring_init(&ring.ring, sizeof(ring));
	for (u64 x = 1; x <= 3; x++)
		write_record(x);
	nmi.at = at;
	nmi.steps = 0;
	nmi.burst = burst;
	nmi.next = 1000;
	nmi.came = false;
	nmi.torn = false;
	single_step_on();
	write_record(100);
	single_step_off();
	seen = count_readable(&torn);
	CHECK(!nmi.torn && !torn);
	CHECK_EQ(ring.ring.next, 4u + (nmi.came ? burst : 0));
	/* Of the newest all are there, but for one that found its place claimed. Each round of the burst may meet that place. */
	CHECK(seen >= SLOTS - (ring.ring.lost ? 1 : 0));
	CHECK(ring.ring.lost <= MAX(burst / SLOTS, 1u));
	/* What came last can never be lost to one that came before, but in the middle of it. */
	if (burst < SLOTS)
		CHECK_EQ(ring.ring.lost, 0);
	write_record(7);
	CHECK(trace_ring_read(&ring.ring, ring.ring.next - 1, &(struct trace_record){ 0 }));
	return nmi.came;
}

TEST_ID(trace_host, an_nmi_behind_each_instruction_of_a_write, "RP4")
{
	static const unsigned bursts[] = { SLOTS - 1, 3 * SLOTS };
	struct sigaction old;
	u64 lost = 0;

	single_step_catch(on_step, &old);
	for (unsigned b = 0; b < ARRAY_SIZE(bursts); b++) {
		u64 at = 0;

		while (at < STEPS_MAX && interrupted_write(at, bursts[b])) {
			lost += ring.ring.lost;
			at++;
		}
		CHECK(at > 10 && at < STEPS_MAX);
	}
	sigaction(SIGTRAP, &old, NULL);
	CHECK(lost > 0);	/* claimed places were met */
}

TEST_ID(trace_host, an_nmi_behind_each_instruction_of_a_read, "RP4")
{
	struct sigaction old;
	u64 refused = 0;
	u64 at = 0;

	single_step_catch(on_step, &old);
	do {
		struct trace_record r;
		bool ok;

		trace_ring_init(&ring.ring, sizeof(ring));
		for (u64 x = 1; x <= SLOTS; x++)
			write_record(x);
		nmi.at = at++;
		nmi.steps = 0;
		nmi.burst = 2 * SLOTS;
		nmi.next = 1000;
		nmi.came = false;
		nmi.torn = false;
		single_step_on();
		ok = trace_ring_read(&ring.ring, 1, &r);
		single_step_off();
		CHECK(!ok || (is_whole(&r) && r.tsc == 2));
		refused += !ok;
	} while (nmi.came && at < STEPS_MAX);
	sigaction(SIGTRAP, &old, NULL);
	CHECK(at > 10 && at < STEPS_MAX);
	CHECK(refused > 0);
}

/* ---- Several CPUs at one ring ---- */

static struct {
	u32 writing;
	u64 torn, read, passes, written;
} threads;

static void *write_many(void *arg)
{
	u64 base = (u64)arg << 32;

	u64 n = 0;

	for (; n < ROUNDS || load_relaxed(&threads.passes) < PASSES; n++)
		write_record(base + n);
	fetch_add(&threads.written, n);
	fetch_add(&threads.writing, -1u);
	return NULL;
}

static void *read_many(void *arg)
{
	(void)arg;
	while (load_acquire(&threads.writing)) {
		bool torn = false;

		unsigned n = count_readable(&torn);

		fetch_add(&threads.read, n);
		fetch_add(&threads.torn, torn);
		fetch_add(&threads.passes, n > 0);
	}
	return NULL;
}

TEST_ID(trace_host, records_are_whole_beside_writers, "RP4")
{
	pthread_t writers[THREADS], reader;
	bool torn = false;

	trace_ring_init(&ring.ring, sizeof(ring));
	memset(&threads, 0, sizeof(threads));
	threads.writing = THREADS;
	REQUIRE(pthread_create(&reader, NULL, read_many, NULL) == 0);
	for (u64 i = 0; i < THREADS; i++)
		if (!CHECK(pthread_create(&writers[i], NULL, write_many, (void *)i) == 0))
			return;
	for (u64 i = 0; i < THREADS; i++)
		pthread_join(writers[i], NULL);
	pthread_join(reader, NULL);
	CHECK_EQ(threads.torn, 0);
	CHECK_EQ(ring.ring.next, threads.written);
	CHECK(threads.read > 0);
	CHECK(count_readable(&torn) > 0 && !torn);
	test_note("read=%llu lost=%llu", (unsigned long long)threads.read, (unsigned long long)ring.ring.lost);
}
