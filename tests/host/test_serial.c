/* SPDX-License-Identifier: MIT */
/*
 * kernel/serial.c on a simulated 16550 (BT6): registers of every shape that a table can describe, in memory or at ports; UARTs that
 * are missing, dead, slow, or go away. The simulation counts every access that the described registers do not have.
 */
#include "kernel/serial.h"

#include <string.h>

#include "tests/test.h"

#define BASE 0xfe001000ull
#define WAIT_READS 1000u
#define OUT_MAX 256u

static struct {
	/* What it is. */
	struct serial shape;
	bool absent;		/* nobody answers: reads are `floating` */
	u8 floating;
	u8 scratch_or;		/* bits that are stuck at 1 */
	bool no_fifo;
	u32 slowness;		/* reads of the status until the FIFO is empty again; ~0: never */
	u32 dies_after;		/* bytes that it takes before the transmitter stops; 0: never */

	/* Its state. */
	u8 ier, lcr, mcr, fcr, scratch, dll, dlm;
	u8 lsr_in;		/* received: bits of the status, given once */
	u8 byte_in;
	u32 fill, busy;		/* bytes in the FIFO, reads of the status until it is empty */
	u32 taken;
	char out[OUT_MAX];

	/* What was done. */
	u32 bad_accesses, overflows, status_reads, cleared_while_busy, writes;
} sim;

static bool dlab(void)
{
	return sim.lcr & 0x80;
}

static unsigned sim_register(u64 address, unsigned bytes)
{
	u64 offset = address - BASE;

	if (address < BASE || offset >= 8ull * sim.shape.stride || offset % sim.shape.stride || bytes != sim.shape.width)
		sim.bad_accesses++;
	return offset / sim.shape.stride % 8;
}

static u8 sim_status(void)
{
	u8 lsr = sim.lsr_in;

	sim.status_reads++;
	sim.lsr_in &= 1;
	if (sim.busy && sim.busy != ~0u && !--sim.busy)
		sim.fill = 0;
	return lsr | (sim.busy ? 0 : 0x60);
}

static u8 sim_read_register(unsigned reg)
{
	switch (reg) {
	case 0:
		sim.lsr_in &= (u8)~1u;
		return dlab() ? sim.dll : sim.byte_in;
	case 1:
		return dlab() ? sim.dlm : sim.ier;
	case 2:
		return sim.fcr & 1 && !sim.no_fifo ? 0xc1 : 0x01;
	case 3:
		return sim.lcr;
	case 4:
		return sim.mcr;
	case 5:
		return sim_status();
	case 7:
		return sim.scratch | sim.scratch_or;
	default:
		return 0;
	}
}

static u32 sim_read(u64 address, unsigned bytes)
{
	unsigned reg = sim_register(address, bytes);

	/* The bytes beside a register are anything. */
	return (bytes > 1 ? 0xa5a5a500 : 0) | (sim.absent ? sim.floating : sim_read_register(reg));
}

static void sim_transmit(u8 value)
{
	if (sim.fill >= (sim.no_fifo ? 1 : 16))
		sim.overflows++;
	if (sim.taken < OUT_MAX - 1)
		sim.out[sim.taken] = (char)value;
	sim.taken++;
	sim.fill++;
	if (sim.slowness)
		sim.busy = sim.slowness;
	else
		sim.fill = 0;
	if (sim.dies_after && sim.taken >= sim.dies_after)
		sim.busy = ~0u;
}

static void sim_write(u64 address, unsigned bytes, u32 value)
{
	unsigned reg = sim_register(address, bytes);
	u8 v = (u8)value;

	sim.writes++;
	if (sim.absent)
		return;
	switch (reg) {
	case 0:
		if (dlab())
			sim.dll = v;
		else
			sim_transmit(v);
		break;
	case 1:
		*(dlab() ? &sim.dlm : &sim.ier) = v;
		break;
	case 2:
		sim.cleared_while_busy += (v & 0x04) && sim.busy;
		sim.fcr = v;
		break;
	case 3:
		sim.lcr = v;
		break;
	case 4:
		sim.mcr = v;
		break;
	case 7:
		sim.scratch = v;
		break;
	}
}

static const struct serial_bus sim_bus = { sim_read, sim_write, WAIT_READS };

/* A good UART of that shape, and the driver's view of it. */
static struct serial sim_start(u8 stride, u8 width)
{
	memset(&sim, 0, sizeof(sim));
	sim.shape = (struct serial){ .bus = &sim_bus, .base = BASE, .stride = stride, .width = width };
	sim.ier = 0x0f;
	sim.dll = 3;
	return sim.shape;
}

static const struct {
	u8 stride, width;
} shapes[] = { { 1, 1 }, { 2, 2 }, { 4, 1 }, { 4, 4 }, { 8, 4 } };

static void programs_and_sends(u8 stride, u8 width)
{
	static const char text[] = "one\ntwo, longer than a FIFO of sixteen\n";
	struct serial s = sim_start(stride, width);

	sim.slowness = 5;
	REQUIRE(!serial_init(&s, 0x1234));
	CHECK_EQ(sim.dll, 0x34);
	CHECK_EQ(sim.dlm, 0x12);
	CHECK_EQ(sim.lcr, 0x03);
	CHECK_EQ(sim.ier, 0);
	CHECK_EQ(sim.mcr, 0x03);
	CHECK_EQ(serial_write(&s, text, strlen(text)), strlen(text));
	CHECK(strcmp(sim.out, "one\r\ntwo, longer than a FIFO of sixteen\r\n") == 0);
	CHECK_EQ(sim.overflows, 0);
	CHECK_EQ(sim.bad_accesses, 0);
}

TEST_ID(serial, programs_and_sends, "BT6")
{
	for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++)
		programs_and_sends(shapes[i].stride, shapes[i].width);
}

TEST_ID(serial, without_a_fifo, "BT6")
{
	struct serial s = sim_start(1, 1);

	sim.no_fifo = true;
	sim.slowness = 3;
	REQUIRE(!serial_init(&s, 0));
	CHECK_EQ(serial_write(&s, "0123456789", 10), 10);
	CHECK(strcmp(sim.out, "0123456789") == 0);
	CHECK_EQ(sim.overflows, 0);
	CHECK_EQ(sim.dll, 3);	/* the rate that was set */
}

/* What the loader wrote last is still on its way. */
TEST_ID(serial, waits_before_it_clears_the_fifo, "BT6")
{
	struct serial s = sim_start(4, 4);

	sim.fill = 16;
	sim.busy = 100;
	REQUIRE(!serial_init(&s, 1));
	CHECK_EQ(sim.cleared_while_busy, 0);
}

/* Nothing there: probed by the scratch register, and nothing else is written. */
TEST_ID(serial, nothing_there, "BT6")
{
	static const u8 floating[] = { 0xff, 0x00, 0x5a, 0xa5 };

	for (unsigned i = 0; i < ARRAY_SIZE(floating); i++) {
		struct serial s = sim_start(4, 4);

		sim.absent = true;
		sim.floating = floating[i];
		CHECK(serial_init(&s, 1));
		CHECK(sim.writes <= 2);
		CHECK_EQ(sim.status_reads, 0);
	}
}

TEST_ID(serial, a_scratch_register_that_is_none, "BT6")
{
	struct serial s = sim_start(1, 1);

	sim.scratch_or = 0x01;
	CHECK(serial_init(&s, 1));
	CHECK_EQ(sim.lcr, 0);
}

TEST_ID(serial, a_transmitter_that_is_dead, "BT6")
{
	struct serial s = sim_start(1, 1);

	sim.busy = ~0u;
	CHECK(serial_init(&s, 1));
	CHECK_EQ(sim.status_reads, WAIT_READS);
	CHECK_EQ(sim.cleared_while_busy, 0);
}

/* It stops in the middle of a text, is waited for once, and goes on where it stopped: nothing lost, nothing twice. */
TEST_ID(serial, stops_and_goes_on, "BT6")
{
	static const char text[] = "abcdefghijklmnopqrstuvwxyz";
	struct serial s = sim_start(4, 1);
	size_t taken;
	u32 reads;

	REQUIRE(!serial_init(&s, 0));
	sim.dies_after = 16;
	reads = sim.status_reads;
	taken = serial_write(&s, text, 26);
	CHECK_EQ(taken, 16);
	CHECK(s.stuck);
	CHECK_EQ(sim.status_reads - reads, WAIT_READS + 1);
	reads = sim.status_reads;
	CHECK_EQ(serial_write(&s, text + taken, 26 - taken), 0);
	CHECK_EQ(sim.status_reads - reads, 1);
	sim.dies_after = 0;
	sim.busy = 0;
	sim.fill = 0;
	CHECK_EQ(serial_write(&s, text + taken, 26 - taken), 26 - taken);
	CHECK(!s.stuck);
	CHECK(strcmp(sim.out, text) == 0);
}

/* One FIFO's worth now and then must not hold up the kernel for a full wait each time. */
TEST_ID(serial, a_crawling_one_is_not_waited_for_again_and_again, "BT6")
{
	struct serial s = sim_start(1, 1);
	char text[64];

	memset(text, 'x', sizeof(text));
	REQUIRE(!serial_init(&s, 0));
	sim.slowness = ~0u;
	for (unsigned i = 0; i < 1000; i++) {
		CHECK(serial_write(&s, text, sizeof(text)) <= 16);
		sim.busy = 0;
		sim.fill = 0;
	}
	CHECK(sim.taken >= 16 * 1000);
	CHECK(sim.status_reads < 20 * WAIT_READS);
	CHECK_EQ(sim.overflows, 0);
}

/* All ones say "empty", too. */
TEST_ID(serial, goes_away, "BT6")
{
	struct serial s = sim_start(1, 1);

	REQUIRE(!serial_init(&s, 0));
	sim.absent = true;
	sim.floating = 0xff;
	CHECK_EQ(serial_write(&s, "gone", 4), 0);
	CHECK(s.stuck);
	CHECK_EQ(serial_getc(&s), -1);
}

TEST_ID(serial, divisors, "BT6")
{
	CHECK_EQ(serial_divisor(1843200, 115200), 1);
	CHECK_EQ(serial_divisor(1843200, 9600), 12);
	CHECK_EQ(serial_divisor(48000000, 115200), 26);
	CHECK_EQ(serial_divisor(1843200, 0), 0);
	CHECK_EQ(serial_divisor(4000000000u, 1), 0);
	CHECK_EQ(serial_divisor(1843200, 4000000000u), 0);
}

/* Bytes come one at a time, and those that were lost are counted. */
static void receives(u8 stride, u8 width)
{
	static const struct {
		u8 status;
		int byte;
		u32 lost;
	} rows[] = {
		{ 0x00, -1, 0 },	/* idle */
		{ 0x01, 0xe4, 0 },	/* ready */
		{ 0x03, 0xe4, 1 },	/* ready, and bytes before it were lost */
		{ 0x02, -1, 1 },
		{ 0x05, -1, 1 },	/* parity */
		{ 0x09, -1, 1 },	/* framing */
		{ 0x11, -1, 1 },	/* break */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct serial s = sim_start(stride, width);

		REQUIRE(!serial_init(&s, 0));
		sim.lsr_in = rows[i].status;
		sim.byte_in = 0xe4;
		CHECK_EQ(serial_getc(&s), rows[i].byte);
		CHECK_EQ(s.lost, rows[i].lost);
		CHECK_EQ(serial_getc(&s), -1);
		CHECK_EQ(s.lost, rows[i].lost);
		CHECK_EQ(sim.bad_accesses, 0);
	}
}

TEST_ID(serial, receives, "BT6 RP3")
{
	for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++)
		receives(shapes[i].stride, shapes[i].width);
}

/* Accesses to registers in memory, on memory: as wide as asked for, no wider. */
TEST_ID(serial, accesses_to_memory, "BT6")
{
	static const unsigned widths[] = { 1, 2, 4 };

	for (unsigned i = 0; i < ARRAY_SIZE(widths); i++) {
		u32 words[3] = { 0xeeeeeeee, 0xeeeeeeee, 0xeeeeeeee };
		u8 *bytes = (u8 *)&words[1];

		serial_memory.write((u64)bytes, widths[i], 0x5a);
		CHECK_EQ(serial_memory.read((u64)bytes, widths[i]), 0x5a);
		for (unsigned b = 0; b < 4; b++)
			CHECK_EQ(bytes[b], b == 0 ? 0x5a : b < widths[i] ? 0 : 0xee);
		CHECK_EQ(words[0], 0xeeeeeeee);
		CHECK_EQ(words[2], 0xeeeeeeee);
	}
}
