/* SPDX-License-Identifier: MIT */
/*
 * A 16550 UART (National PC16550D data sheet), wherever its registers are: at I/O ports or in memory, bytes side by side or
 * a wider register for each.
 *
 * How a register is reached is the caller's (struct serial_bus), so the same code runs on a simulated UART.
 */
#ifndef KERNEL_SERIAL_H
#define KERNEL_SERIAL_H

#include "kernel/base/types.h"

/* bytes is 1, 2 or 4; address is as struct serial's base has it. */
struct serial_bus {
	u32 (*read)(u64 address, unsigned bytes);
	void (*write)(u64 address, unsigned bytes, u32 value);
	u32 wait_reads;	/* of a register, that take 133 ms at least: 16 bytes at 1200 baud */
};

/* Registers in memory; base is where they are mapped, uncached. */
extern const struct serial_bus serial_memory;

struct serial {
	/* Where it is: the caller's to fill in. */
	const struct serial_bus *bus;
	u64 base;	/* of its first register */
	u8 stride;	/* bytes from one register to the next */
	u8 width;	/* bytes of an access: 1, 2 or 4 */

	/* serial_init()'s. */
	u8 fifo;	/* bytes that may be written once the transmitter is empty */
	bool stuck;	/* it did not take a byte in time */
	u32 reads;	/* of its line status, while waiting */
	u32 stalls;	/* times that it was found stuck */
	u32 lost;	/* times that bytes came in and were lost: too fast, or spoilt on the line */
};

#define SERIAL_REGISTERS 8u
#define SERIAL_CLOCK 1843200u	/* Hz: of every UART of a PC */
#define SERIAL_BAUD_MAX (SERIAL_CLOCK / 16)

/* What its divisor has to be for a rate, to the nearest; 0: no divisor makes it. */
u32 serial_divisor(u32 clock, u32 baud);

/*
 * Find and program the UART: 8 data bits, no parity, one stop bit, no interrupts; what was on its way out goes out first. divisor 0
 * keeps the rate that the firmware set. Returns NULL, or why there is none that could be used, as a phrase behind its name.
 */
const char *serial_init(struct serial *serial, u32 divisor);

/*
 * Send; each newline goes out as CR LF. Returns how many bytes of text it took. Fewer: it is stuck, which was waited for
 * some 100 ms, and costs one read of its status per call from then on, until it goes on. One that is stuck again and again is
 * waited for no more.
 */
size_t serial_write(struct serial *serial, const char *text, size_t len);

/* The next byte that came in, -1 if there is none. Never waits. One caller at a time. */
int serial_getc(struct serial *serial);

#endif
