#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
BT1, BT2 with the kernel itself: a cmdline.txt with a byte-order mark and CRLF gives the identical run; one that is binary
or of 1 MB is named in the log, and the run goes on to its end.

    tests/qemu/boot_cmdline.py [unittest arguments]        (build/ must be there: make esp)
"""
import os
import random
import re
import tempfile
import unittest

from firmware import BUILD, EXIT_PASS, Machine, make_esp

KERNEL = os.path.join(BUILD, "kernel.elf")


class Run(unittest.TestCase):
    def boot(self, cmdline):
        """The log from the kernel's first line on; the run is complete and has passed."""
        with tempfile.TemporaryDirectory() as folder:
            with Machine(make_esp(folder, kernel=KERNEL, cmdline=cmdline), timeout=400) as machine:
                status = machine.wait()
                text = machine.text
        self.assertEqual(status, EXIT_PASS, text[-2000:])
        self.assertRegex(text, r"\n# TANGRAM END verdict=pass passed=\d+ failed=0 ")
        return text

    def assert_named(self, text, words):
        """On the firmware's console, and again in the kernel's log."""
        for start in ("tangram: ", "# (?:warning: )?(?:loader: )?"):
            self.assertRegex(text, rf"(?m)^{start}{re.escape(words)}")

    def test_mark_and_crlf_run_identically(self):
        plain = self.boot(b"suite=cmdline,directmap,set_memory lab=off seed=7 kaslr=off\n")
        fancy = self.boot(b"\xef\xbb\xbfsuite=cmdline,directmap,set_memory\r\nlab=off   seed=7\r\nkaslr=off\r\n\r\n")
        first = "# command line: "
        self.assertIn(first, plain)
        self.assertEqual(plain[plain.find(first):].splitlines(), fancy[fancy.find(first):].splitlines())

    def test_binary_is_named_and_runs(self):
        text = self.boot(random.Random(2).randbytes(2000))
        self.assert_named(text, r"\tangram\cmdline.txt is ignored: it is not text")

    def test_one_megabyte_is_named_and_runs(self):
        text = self.boot((b"seed=1 " * 149797)[:1 << 20])
        self.assert_named(text, r"\tangram\cmdline.txt is too large: 1048576 bytes")


if __name__ == "__main__":
    unittest.main()
