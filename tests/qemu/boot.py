# SPDX-License-Identifier: MIT
"""
The base of the boot_*.py that run the kernel's own tests and look at the log from outside: one run of tools/qemu.py, whose
judgement and log are then asked. (firmware.py is for tests of the loader, which type and wait.)
"""

import contextlib
import os
import re
import struct
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))

import qemu  # noqa: E402  pylint: disable=wrong-import-position

BUILD = os.environ.get("TANGRAM_BUILD", os.path.join(ROOT, "build"))
SECONDS = 180
TAIL = 2000             # bytes of the log that a failure shows


# Generic address structures (ACPI 6.5, 5.2.3.2): address spaces
MEMORY, IO = 0, 1


def register(space, address, width=8, access=1):
    return struct.pack("<BBBBQ", space, width, 0, access, address)


def spcr(base, interface=0, baud=7):
    """The body of a table that names a serial port, as -acpitable takes it: (signature, revision, bytes)."""
    return "SPCR", 2, struct.pack("<B3x12sBBIBBBBBBHHBBBIB4x", interface, base, 1, 3, 3, baud, 0, 1, 0, 3, 0, 0xffff,
                                  0xffff, 0, 0, 0, 0, 0)


@contextlib.contextmanager
def acpi_tables(tables):
    """QEMU's arguments for these, (signature, revision, body) each, while their files are there."""
    with tempfile.TemporaryDirectory(prefix="tangram-acpi-") as folder:
        args = []
        for number, (signature, revision, body) in enumerate(tables):
            path = os.path.join(folder, f"table{number}")
            with open(path, "wb") as file:
                file.write(body)
            args += ["-acpitable", f"sig={signature},rev={revision},data={path}"]
        yield args


class Boot(unittest.TestCase):
    """One boot; afterwards: result, shutdown (QMP's reason, or None) and text (of the serial port)."""

    def boot(self, append, **options):
        """With these words of the command line, and options of qemu.Options; returns the text."""
        with tempfile.TemporaryDirectory(prefix="tangram-log-") as folder:
            log = os.path.join(folder, "log")
            options.setdefault("timeout", SECONDS)
            run = qemu.Run(qemu.Options(build=BUILD, append=append, log=log, **options))
            self.result = run.run()
            self.shutdown = run.shutdown
            with open(log, encoding="utf-8", errors="replace") as file:
                self.text = file.read().replace("\r", "")
        return self.text

    def assert_code(self, code):
        self.assertEqual(self.result.code, code, self.result.line() + "\n" + self.text[-TAIL:])

    def assert_passes(self):
        self.assert_code(qemu.PASS)

    def assert_says(self, words):
        self.assertTrue(words in self.text, f"not in the log: {words}; it ends with:\n{self.text[-TAIL:]}")

    def assert_matches(self, pattern):
        """Returns the match."""
        found = re.search(pattern, self.text)
        self.assertTrue(found, f"not in the log: {pattern}; it ends with:\n{self.text[-TAIL:]}")
        return found

    def assert_silent(self):
        self.assertFalse("TANGRAM" in self.text, f"the log came out here:\n{self.text[-TAIL:]}")

    def assert_ends(self, verdict=""):
        """The log's last line is its end, with this verdict if one is given."""
        line = (self.text.rstrip().splitlines() or [""])[-1]
        self.assertTrue(line.startswith(f"# TANGRAM END verdict={verdict}"), self.text[-300:])


def main():
    """What each boot_*.py ends with."""
    qemu.terminate_on_signals()
    unittest.main(module="__main__")
