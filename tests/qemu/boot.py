# SPDX-License-Identifier: MIT
"""
The base of the boot_*.py that run the kernel's own tests and look at the log from outside: one run of tools/qemu.py, whose
judgement and log are then asked. (firmware.py is for tests of the loader, which type and wait.)
"""

import os
import re
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))

import qemu  # noqa: E402  pylint: disable=wrong-import-position

BUILD = os.environ.get("TANGRAM_BUILD", os.path.join(ROOT, "build"))
SECONDS = 180
TAIL = 2000             # bytes of the log that a failure shows


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
