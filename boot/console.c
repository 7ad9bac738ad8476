/* SPDX-License-Identifier: MIT */
/*
 * The loader's console.
 *
 * The firmware's console often includes a serial terminal; then the port is not written a second time.
 * Whether it does is seen from the device paths of the active console devices. The port itself is probed
 * by its scratch register and every wait is bounded: a machine without one loses nothing but a moment.
 *
 * Sources: UEFI 2.10 section 12.4 (simple text output) and 10.3.4.18 (UART device path); National
 * Semiconductor PC16550D data sheet.
 */
#include "boot/console.h"

#include <stdarg.h>

#include "boot/cpu.h"
#include "kernel/base/fmt.h"
#include "kernel/base/string.h"

#define LINE_MAX 512

#define COM1 0x3f8
#define UART_DATA 0
#define UART_INTERRUPTS 1
#define UART_FIFO 2
#define UART_LINE_CONTROL 3
#define UART_LINE_STATUS 5
#define UART_SCRATCH 7
#define UART_8N1 0x03
#define UART_DLAB 0x80
#define UART_TRANSMIT_EMPTY 0x20

/* One read of the status register takes about a microsecond on real hardware: 20 bytes' time at 9600 baud. */
#define UART_WAIT 20000

/* EDK2 and its descendants put this protocol on every device that is part of the active console. */
static EFI_GUID console_out_device_guid = {
	0xd3b36f2c, 0xd551, 0x11d4, { 0x9a, 0x46, 0x00, 0x90, 0x27, 0x3f, 0xc1, 0x4d }
};

/* PNP0501 (16550A-compatible port) as a device path spells it: ACPI 6.5 section 6.1.5, compressed EISA id. */
#define EISA_ID_PNP0501 0x050141d0u

static EFI_SYSTEM_TABLE *st;
static bool firmware_usable;
static bool serial_direct;

static bool serial_probe(void)
{
	static const u8 patterns[] = { 0x5a, 0xa5 };

	for (unsigned i = 0; i < ARRAY_SIZE(patterns); i++) {
		cpu_out8(COM1 + UART_SCRATCH, patterns[i]);
		if (cpu_in8(COM1 + UART_SCRATCH) != patterns[i])
			return false;
	}
	return true;
}

/* 115200 baud, 8N1, no interrupts: what the kernel uses, too. */
static void serial_setup(void)
{
	cpu_out8(COM1 + UART_INTERRUPTS, 0);
	cpu_out8(COM1 + UART_LINE_CONTROL, UART_DLAB | UART_8N1);
	cpu_out8(COM1 + UART_DATA, 1);		/* divisor, low and high byte */
	cpu_out8(COM1 + UART_INTERRUPTS, 0);
	cpu_out8(COM1 + UART_LINE_CONTROL, UART_8N1);
	cpu_out8(COM1 + UART_FIFO, 0x07);	/* on, both emptied */
}

static void serial_write(const char *text)
{
	for (; *text; text++) {
		for (unsigned i = 0; i < UART_WAIT; i++)
			if (cpu_in8(COM1 + UART_LINE_STATUS) & UART_TRANSMIT_EMPTY)
				break;
		cpu_out8(COM1 + UART_DATA, (u8)*text);
	}
}

/* Whether a device path goes through the first serial port: ACPI PNP0501 with UID 0, then a UART node. */
static bool path_is_com1(EFI_DEVICE_PATH *path)
{
	bool first_port = false;

	while (DevicePathType(path) != END_DEVICE_PATH_TYPE) {
		const ACPI_HID_DEVICE_PATH *acpi = (const ACPI_HID_DEVICE_PATH *)path;

		if ((size_t)DevicePathNodeLength(path) < sizeof(*path))
			return false;
		if (DevicePathType(path) == ACPI_DEVICE_PATH && DevicePathSubType(path) == ACPI_DP)
			first_port = acpi->HID == EISA_ID_PNP0501 && acpi->UID == 0;
		if (first_port && DevicePathType(path) == MESSAGING_DEVICE_PATH &&
		    DevicePathSubType(path) == MSG_UART_DP)
			return true;
		path = NextDevicePathNode(path);
	}
	return false;
}

static bool firmware_console_has_com1(void)
{
	static EFI_GUID path_guid = DEVICE_PATH_PROTOCOL;
	EFI_HANDLE *handles = NULL;
	EFI_DEVICE_PATH *path;
	bool found = false;
	UINTN count = 0;

	if (EFI_ERROR(st->BootServices->LocateHandleBuffer(ByProtocol, &console_out_device_guid, NULL, &count,
							   &handles)))
		return false;
	for (UINTN i = 0; i < count && !found; i++)
		if (!EFI_ERROR(st->BootServices->HandleProtocol(handles[i], &path_guid, (void **)&path)))
			found = path_is_com1(path);
	st->BootServices->FreePool(handles);
	return found;
}

void console_init(EFI_SYSTEM_TABLE *system)
{
	st = system;
	firmware_usable = st->ConOut != NULL;
	serial_direct = !(firmware_usable && firmware_console_has_com1()) && serial_probe();
	if (serial_direct)
		serial_setup();
}

void console_leave_firmware(void)
{
	if (firmware_usable && !serial_direct)
		serial_direct = serial_probe();
	firmware_usable = false;
}

static void firmware_write(const char *text)
{
	CHAR16 wide[LINE_MAX];
	size_t n = 0;

	for (; text[n] && n < LINE_MAX - 1; n++)
		wide[n] = (u8)text[n] < 0x80 ? (CHAR16)text[n] : L'?';
	wide[n] = 0;
	st->ConOut->OutputString(st->ConOut, wide);
}

void console_line(const char *fmt, ...)
{
	char text[LINE_MAX] = "tangram: ";
	size_t used = strlen(text);
	va_list args;

	va_start(args, fmt);
	fmt_vprint(text + used, sizeof(text) - used - 2, fmt, args);
	va_end(args);
	used = strlen(text);
	memcpy(text + used, "\r\n", 3);
	if (firmware_usable)
		firmware_write(text);
	if (serial_direct)
		serial_write(text);
}
