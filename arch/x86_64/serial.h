/* SPDX-License-Identifier: MIT */
/* A 16550 UART (National PC16550D data sheet). */
#ifndef ARCH_X86_64_SERIAL_H
#define ARCH_X86_64_SERIAL_H

#include "kernel/base/types.h"

struct serial {
	u16 port;
	u8 fifo;	/* bytes that may be written once the transmitter is empty */
	bool stuck;	/* it did not take a byte in time: nothing is sent to it any more */
	u32 reads;	/* of its line status, while waiting */
	u32 lost;	/* times that bytes came in and were lost: too fast, or spoilt on the line */
};

#define SERIAL_BAUD_MAX 115200u

/*
 * Find and program the UART at an I/O port: 8 data bits, no parity, one stop bit. baud must divide 115200; 0 keeps
 * the rate that the firmware set. False: the scratch register does not hold what is written to it, there is none.
 */
bool serial_init(struct serial *serial, u16 port, u32 baud);

/* Send; each newline goes out as CR LF. Never waits longer than some 100 ms. False: stuck, now or before. */
bool serial_write(struct serial *serial, const char *text, size_t len);

/* The next byte that came in, -1 if there is none. Never waits. One caller at a time. */
int serial_getc(struct serial *serial);

#endif
