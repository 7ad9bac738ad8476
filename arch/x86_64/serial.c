/* SPDX-License-Identifier: MIT */
/*
 * Sends and receives bytes, polling. A UART that is missing, or that stopped, costs a bounded time once and none afterwards.
 */
#include "arch/x86_64/serial.h"

#include "arch/x86_64/insn.h"

/* Registers, as offsets from the port. */
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
#define LSR_NO_DEVICE 0xff	/* nothing answers any more: no UART has all of these bits set */

#define FIFO_BYTES 16
/*
 * A read of an I/O port takes about a microsecond, or more under a hypervisor. 16 bytes at 1200 baud, the slowest
 * line anybody will use, take 133 ms.
 */
#define WAIT_READS 200000u

static u8 uart_read(const struct serial *serial, u16 reg)
{
	return insn_inb(serial->port + reg);
}

static void uart_write(const struct serial *serial, u16 reg, u8 value)
{
	insn_outb(serial->port + reg, value);
}

static bool scratch_holds(const struct serial *serial, u8 value)
{
	uart_write(serial, UART_SCRATCH, value);
	return uart_read(serial, UART_SCRATCH) == value;
}

bool serial_init(struct serial *serial, u16 port, u32 baud)
{
	*serial = (struct serial){ .port = port, .fifo = 1 };
	if (!scratch_holds(serial, 0x5a) || !scratch_holds(serial, 0xa5))
		return false;
	uart_write(serial, UART_IER, 0);
	if (baud) {
		u32 divisor = SERIAL_BAUD_MAX / baud;

		uart_write(serial, UART_LCR, LCR_DLAB);
		uart_write(serial, UART_DIVISOR_LOW, (u8)divisor);
		uart_write(serial, UART_DIVISOR_HIGH, (u8)(divisor >> 8));
	}
	uart_write(serial, UART_LCR, LCR_8N1);
	uart_write(serial, UART_MCR, MCR_DTR_RTS);
	uart_write(serial, UART_FCR, FCR_ENABLE_CLEAR);
	if ((uart_read(serial, UART_IIR) & IIR_FIFO) == IIR_FIFO)
		serial->fifo = FIFO_BYTES;
	return true;
}

static bool wait_empty(struct serial *serial)
{
	for (u32 i = 0; i < WAIT_READS; i++) {
		serial->reads++;
		if (uart_read(serial, UART_LSR) & LSR_EMPTY)
			return true;
	}
	serial->stuck = true;
	return false;
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

bool serial_write(struct serial *serial, const char *text, size_t len)
{
	u8 room = 0;

	for (size_t i = 0; i < len && !serial->stuck; i++) {
		if (text[i] == '\n')
			put(serial, &room, '\r');
		if (!serial->stuck)
			put(serial, &room, text[i]);
	}
	return !serial->stuck;
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
