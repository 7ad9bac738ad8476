/* SPDX-License-Identifier: MIT */
/*
 * Sends and receives bytes, polling. A UART that is missing, or that stopped, costs a bounded time once and nothing to speak of
 * afterwards.
 */
#include "kernel/serial.h"

/* Registers, by number. */
#define UART_DATA 0
#define UART_DIVISOR_LOW 0	/* these two while LCR_DLAB is set */
#define UART_DIVISOR_HIGH 1
#define UART_IER 1
#define UART_FCR 2		/* write */
#define UART_IIR 2		/* read */
#define UART_LCR 3
#define UART_MCR 4
#define UART_LSR 5
#define UART_SCRATCH 7

#define FCR_ENABLE_CLEAR 0x07
#define IIR_FIFO 0xc0		/* both set: FIFOs work */
#define LCR_8N1 0x03
#define LCR_DLAB 0x80
#define MCR_DTR_RTS 0x03
#define LSR_READY 0x01		/* a byte has come in */
#define LSR_OVERRUN 0x02	/* bytes were lost since the last read of this register */
#define LSR_BAD 0x1c		/* the byte to be read next came in with wrong parity or framing, or is a break */
#define LSR_EMPTY 0x20		/* transmit FIFO empty */
#define LSR_IDLE 0x40		/* and the last bit is out */
#define LSR_NO_DEVICE 0xff	/* nothing answers any more: no UART has all of these bits set */

#define FIFO_BYTES 16
#define STALLS_MAX 8		/* times that it is waited for in vain; from then on it gets what it takes at once */
#define DIVISOR_MAX 0xffffu

static u32 memory_read(u64 address, unsigned bytes)
{
	switch (bytes) {
	case 4:
		return *(volatile u32 *)address;
	case 2:
		return *(volatile u16 *)address;
	default:
		return *(volatile u8 *)address;
	}
}

static void memory_write(u64 address, unsigned bytes, u32 value)
{
	switch (bytes) {
	case 4:
		*(volatile u32 *)address = value;
		break;
	case 2:
		*(volatile u16 *)address = (u16)value;
		break;
	default:
		*(volatile u8 *)address = (u8)value;
		break;
	}
}

/* An uncached read takes 100 ns even where the UART is beside the CPU. */
const struct serial_bus serial_memory = { memory_read, memory_write, .wait_reads = 1330000 };

/* Of a wider register the low byte counts. */
static u8 uart_read(const struct serial *serial, unsigned reg)
{
	return (u8)serial->bus->read(serial->base + (u64)reg * serial->stride, serial->width);
}

static void uart_write(const struct serial *serial, unsigned reg, u8 value)
{
	serial->bus->write(serial->base + (u64)reg * serial->stride, serial->width, value);
}

static bool scratch_holds(const struct serial *serial, u8 value)
{
	uart_write(serial, UART_SCRATCH, value);
	return uart_read(serial, UART_SCRATCH) == value;
}

static bool status_has(struct serial *serial, u8 bit)
{
	u8 status = uart_read(serial, UART_LSR);

	serial->reads++;
	return status != LSR_NO_DEVICE && (status & bit);
}

static bool wait_status(struct serial *serial, u8 bit)
{
	for (u32 i = 0; i < serial->bus->wait_reads; i++)
		if (status_has(serial, bit))
			return true;
	return false;
}

u32 serial_divisor(u32 clock, u32 baud)
{
	u64 divisor = baud ? (clock + 8ull * baud) / (16ull * baud) : 0;

	return divisor <= DIVISOR_MAX ? (u32)divisor : 0;
}

const char *serial_init(struct serial *serial, u32 divisor)
{
	serial->fifo = 1;
	serial->stuck = false;
	serial->reads = serial->stalls = serial->lost = 0;
	if (!scratch_holds(serial, 0x5a) || !scratch_holds(serial, 0xa5))
		return "no UART there: its scratch register does not hold what is written to it";
	uart_write(serial, UART_IER, 0);
	if (!wait_status(serial, LSR_IDLE))
		return "a UART whose transmitter never gets empty";
	if (divisor) {
		uart_write(serial, UART_LCR, LCR_DLAB);
		uart_write(serial, UART_DIVISOR_LOW, (u8)divisor);
		uart_write(serial, UART_DIVISOR_HIGH, (u8)(divisor >> 8));
	}
	uart_write(serial, UART_LCR, LCR_8N1);
	uart_write(serial, UART_MCR, MCR_DTR_RTS);
	uart_write(serial, UART_FCR, FCR_ENABLE_CLEAR);
	if ((uart_read(serial, UART_IIR) & IIR_FIFO) == IIR_FIFO)
		serial->fifo = FIFO_BYTES;
	return NULL;
}

/* One that takes a byte now and then would hold up everything else for ever. */
static bool wait_empty(struct serial *serial)
{
	bool empty = serial->stalls < STALLS_MAX ? wait_status(serial, LSR_EMPTY) : status_has(serial, LSR_EMPTY);

	serial->stuck = !empty;
	serial->stalls += !empty;
	return empty;
}

/* One byte; *room says how many the FIFO still takes without being asked. */
static bool put(struct serial *serial, u8 *room, char c)
{
	if (!*room) {
		if (!wait_empty(serial))
			return false;
		*room = serial->fifo;
	}
	uart_write(serial, UART_DATA, (u8)c);
	--*room;
	return true;
}

size_t serial_write(struct serial *serial, const char *text, size_t len)
{
	u8 room = 0;

	if (serial->stuck && !status_has(serial, LSR_EMPTY))
		return 0;
	for (size_t i = 0; i < len; i++)
		if ((text[i] == '\n' && !put(serial, &room, '\r')) || !put(serial, &room, text[i]))
			return i;
	return len;
}

int serial_getc(struct serial *serial)
{
	u8 status = uart_read(serial, UART_LSR);
	u8 byte;

	if (status == LSR_NO_DEVICE)
		return -1;
	if (status & LSR_OVERRUN)
		serial->lost++;
	if (!(status & LSR_READY))
		return -1;
	byte = uart_read(serial, UART_DATA);
	if (!(status & LSR_BAD))
		return byte;
	serial->lost++;
	return -1;
}
