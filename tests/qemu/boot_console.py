#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
BT6 from outside: which serial port the log comes out of, and that it ends well where there is none, no screen, or neither.

No MMIO UART can be given to a PC of this QEMU: what is tried here of them is what is not one. Their registers are
tests/host/test_serial.c's.
"""

import os
import socket
import struct
import tempfile
import threading
import unittest

import boot
from boot import IO, MEMORY, qemu, register, spcr
from boot_logs import Desk
from firmware import BUILD, EXIT_PASS, Machine, make_esp

EXIT_FAIL = qemu.EXIT_FAIL
KERNEL = os.path.join(BUILD, "kernel.elf")
QUICK = "suite=cmdline lab=off"
NOWHERE = 0x2e8         # no UART of QEMU's is there
COM2 = ["-device", "isa-serial,iobase=0x2f8,irq=3,chardev=serial"]
PCI = ["-device", "pci-serial,addr=6,chardev=serial"]
BEGIN = "# command line: suite="


def dbg2(base, interface=0):
    device = struct.pack("<BHBHHHHHHHHH", 0, 40, 1, 2, 38, 0, 0, 0x8000, interface, 0, 22, 34)
    return "DBG2", 0, struct.pack("<II", 44, 1) + device + base + struct.pack("<I", 8) + b".\0"


class Consoles(boot.Boot):
    def boot(self, append, tables=(), first_port=False, **options):
        """With more ACPI tables; first_port: a UART at 0x3f8 besides, whose text is `other` afterwards."""
        with tempfile.TemporaryDirectory(prefix="tangram-console-") as folder:
            extra = list(options.pop("extra", ()))
            path = os.path.join(folder, "other")
            if first_port:
                extra += ["-serial", f"file:{path}"]
            options.setdefault("memory", "512M")
            with boot.acpi_tables(tables) as args:
                super().boot(f"{QUICK} {append}", extra=extra + args, **options)
            self.other = ""
            if first_port:
                with open(path, encoding="utf-8", errors="replace") as file:
                    self.other = file.read().replace("\r", "")

    def assert_whole(self):
        """A pass, and nothing of the log twice."""
        self.assert_passes()
        for words in (BEGIN, "# console: serial at ", "# TANGRAM BEGIN "):
            self.assertEqual(self.text.count(words), 1, f"{words}:\n{self.text[:boot.TAIL]}")

    # -- tables and PCI ---------------------------------------------------------------------------------

    def test_spcr(self):
        """Behind a bad word, which is named. The other port has the log up to the line that says where it goes on."""
        self.boot("console=mmio64,0xfe000000", [spcr(register(IO, 0x2f8))], first_port=True, uart=COM2)
        self.assert_says("# warning: command line: bad value in console=mmio64,0xfe000000, ignored: no such console")
        self.assert_whole()
        self.assert_says("# console: serial at port 0x2f8 (SPCR), 115200 baud\n")
        self.assertEqual(self.other.count(BEGIN), 1)
        self.assertEqual(self.other.rstrip().splitlines()[-1], "# console: serial at port 0x2f8 (SPCR), 115200 baud")

    def test_dbg2_where_spcr_points_to_nothing(self):
        self.boot("", [spcr(register(IO, NOWHERE)), dbg2(register(IO, 0x2f8))], uart=COM2)
        self.assert_whole()
        self.assert_says("# warning: console: port 0x2e8 (SPCR): no UART there: its scratch register does not hold what")
        self.assert_says("# console: serial at port 0x2f8 (DBG2), baud rate as it was set\n")

    def test_addresses_without_a_uart(self):
        """Beside all devices, and in the middle of RAM; then what PCI says, then 0x3f8."""
        self.boot("console=mmio32,0xfe800000,9600",
                  [spcr(register(MEMORY, 0xfe700000, 32, 3), 0x12), dbg2(register(MEMORY, 0x1000000, 32, 3), 0x12)])
        self.assert_whole()
        for line in ("address 0xfe800000, 4-byte registers (command line): no UART there",
                     "address 0xfe700000, 4-byte registers (SPCR): no UART there",
                     "address 0x1000000, 4-byte registers (DBG2): no place for registers: memory"):
            self.assert_says(f"# warning: console: {line}")
        self.assert_says("# console: serial at port 0x3f8 (the usual place, nothing names another)")

    def test_pci_by_class(self):
        """And no screen, although there is one."""
        self.boot("console=serial", uart=PCI, extra=["-vga", "std"])
        self.assert_whole()
        self.assert_says("# console: no screen: the command line wants none\n")
        self.assert_matches(r"# console: serial at port 0x[0-9a-f]{4} \(PCI 00:06\.0, class 07/00\), baud rate as it was")

    def test_pci_by_class_without_mcfg(self):
        """And before the usual port."""
        self.boot("", machine="pc", first_port=True, uart=PCI)
        self.assert_says("PCI segments 0,")
        self.assert_whole()
        self.assert_matches(r"# console: serial at port 0x[0-9a-f]{4} \(PCI 00:06\.0, class 07/00\)")
        self.assertNotIn("KTAP", self.other)

    # -- the command line -------------------------------------------------------------------------------

    def test_ports(self):
        self.boot("console=io,0x2f8,57600", [spcr(register(IO, 0x3f8))], first_port=True, uart=COM2)
        self.assert_whole()
        self.assert_says("# console: serial at port 0x2f8 (command line), 57600 baud\n")
        self.assertNotIn("TANGRAM", self.other)

    def test_pci_function(self):
        self.boot("console=pci,00:06.0,9600", [spcr(register(IO, 0x3f8))], first_port=True, uart=PCI)
        self.assert_whole()
        self.assert_matches(r"# console: serial at port 0x[0-9a-f]{4} \(command line, PCI 00:06\.0\), 9600 baud")

    def test_pci_function_that_is_not_there(self):
        self.boot("console=pci,7:1f.7")
        self.assert_whole()
        self.assert_says("# warning: console: command line, PCI 07:1f.7: no such function")
        self.assert_says("# console: serial at port 0x3f8 (the usual place")

    def test_no_console(self):
        self.boot("console=none")
        self.assert_silent()

    def test_panic_speaks(self):
        self.boot("panic=fault", uart=PCI)
        self.assert_code(qemu.FAIL)
        self.assert_says("# PANIC on CPU 0 during planned panic: page fault")


class Kernel(unittest.TestCase):
    """The kernel on a machine whose log need not come out: what is left is the exit status, and the screen."""

    def end(self, append, **options):
        with tempfile.TemporaryDirectory(prefix="tangram-bare-") as folder:
            esp = make_esp(folder, kernel=KERNEL, cmdline=f"{append}\n".encode())
            with Machine(esp, memory="512M", timeout=boot.SECONDS, **options) as machine:
                return machine.wait(), machine.text

    def screen_of_a_panic(self, append, **options):
        """What stands below the large FAIL. The kernel halts then, as there is no hypervisor to leave by."""
        with tempfile.TemporaryDirectory(prefix="tangram-screen-") as folder:
            esp = make_esp(os.path.join(folder, "esp"), kernel=KERNEL, cmdline=f"{append}\n".encode())
            with Desk(folder, esp, **options) as desk:
                picture = desk.screen(lambda picture: picture.large("FAIL") and picture.below()[1], boot.SECONDS)
                self.assertEqual(picture.below()[0].strip(), "the kernel panicked:")
                return "\n".join(picture.line(row) for row in range(picture.rows))


class Bare(Kernel):
    def test_neither_serial_nor_screen(self):
        self.assertEqual(self.end(QUICK, uart=())[0], EXIT_PASS)

    def test_no_serial(self):
        """And a run that fails says so."""
        self.assertEqual(self.end("suite=no_such_suite lab=off", uart=(), extra=["-vga", "std"])[0], EXIT_FAIL)

    def test_no_screen(self):
        status, text = self.end(QUICK, extra=["-vga", "none"])
        self.assertEqual(status, EXIT_PASS)
        self.assertIn("# console: no usable framebuffer\n", text)
        self.assertIn("# TANGRAM END verdict=pass ", text)

    def test_panic_on_the_screen(self):
        self.assertIn("#   backtrace:", self.screen_of_a_panic(f"{QUICK} panic=assert", uart=()))

    def test_loader_speaks_to_the_firmware(self):
        """BT2, where the firmware's console is none that the loader could write to by itself."""
        with tempfile.TemporaryDirectory(prefix="tangram-bare-") as folder:
            with Machine(make_esp(folder, kernel=None), uart=["-chardev", "stdio,id=serial", *PCI]) as machine:
                machine.expect(r"tangram: \\tangram\\kernel\.elf is missing")


class Stuck(Kernel):
    """A UART whose reader falls asleep at the kernel's first line: it takes what fits into a socket, and not a byte more."""

    def setUp(self):
        self.reader, writer = socket.socketpair()
        self.addCleanup(self.reader.close)
        self.addCleanup(writer.close)
        self.machine = {"uart": ["-chardev", f"socket,id=serial,fd={writer.fileno()}", "-serial", "chardev:serial"],
                        "files": [writer.fileno()]}
        thread = threading.Thread(target=self.read)
        self.addCleanup(thread.join)
        self.addCleanup(self.reader.shutdown, socket.SHUT_RDWR)
        thread.start()

    def read(self):
        text = b""
        while BEGIN.encode() not in text:
            data = self.reader.recv(64)
            if not data:
                return
            text += data

    def test_the_run_ends_all_the_same(self):
        self.assertEqual(self.end("suite=cmdline,fmt,console lab=off", **self.machine)[0], EXIT_PASS)

    def test_what_was_dropped_is_said_on_the_screen(self):
        text = self.screen_of_a_panic(f"{QUICK} panic=assert", **self.machine)
        self.assertRegex(text, r"# warning: console: serial: 0 characters dropped, [1-9]\d* never taken")


if __name__ == "__main__":
    boot.main()
