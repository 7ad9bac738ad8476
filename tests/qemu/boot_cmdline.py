#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
BT1, BT2 with the kernel itself: a cmdline.txt with a byte-order mark and CRLF gives the identical run; one that is binary
or of 1 MB is named in the log, and the run goes on to its end. XM5, XM6: policy and base of executable memory.

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

    def runs(self, cmdline):
        """
        The log of a run that nothing keeps short, until its first suites have passed: all the others are there for whoever reads
        on, and are what tests/qemu/matrix.py runs.
        """
        with tempfile.TemporaryDirectory() as folder:
            with Machine(make_esp(folder, kernel=KERNEL, cmdline=cmdline), timeout=400) as machine:
                for number in (1, 2, 3):
                    machine.expect(rf"\nok {number} ")
                return machine.text

    def assert_named(self, text, words):
        """On the firmware's console, and again in the kernel's log."""
        for start in ("tangram: ", "# (?:warning: )?(?:loader: )?"):
            self.assertRegex(text, rf"(?m)^{start}{re.escape(words)}")

    def lines_from(self, text, first):
        """All lines from that one on. The rates of clocks are measured: not the same twice."""
        return [re.sub(r"at \d+ kHz", "at N kHz", line) for line in text[text.find(first):].splitlines()]

    def test_mark_and_crlf_run_identically(self):
        plain = self.boot(b"suite=cmdline,directmap,set_memory lab=off seed=7 kaslr=off\n")
        fancy = self.boot(b"\xef\xbb\xbfsuite=cmdline,directmap,set_memory\r\nlab=off   seed=7\r\nkaslr=off\r\n\r\n")
        first = "# command line: "
        self.assertIn(first, plain)
        self.assertEqual(self.lines_from(plain, first), self.lines_from(fancy, first))

    def execmem_base(self, options):
        """Where executable memory begins, and whether the log says that this is by chance."""
        text = self.boot(b"suite=execmem.is_within_reach_of_the_image,execmem.freed_text_is_int3 lab=off " + options)
        found = re.search(r"(?m)^# executable memory: policy (\S+), from 0x([0-9a-f]+) on( \(random\))?,", text)
        self.assertIsNotNone(found, text[-2000:])
        return found[1], int(found[2], 16), bool(found[3])

    def test_base_of_executable_memory_is_random_or_pinned(self):
        """XM6. Of some 500 places: three times the same one is one case in 250,000."""
        drawn = [self.execmem_base(b"\n") for _ in range(3)]
        pinned = [self.execmem_base(b"kaslr=off execmem=" + policy + b"\n") for policy in (b"pack", b"pages")]
        bases = {base for _, base, _ in drawn}
        self.assertGreater(len(bases), 1)
        self.assertEqual([(policy, chance) for policy, _, chance in drawn], [("huge", True)] * 3)
        self.assertEqual([(policy, chance) for policy, _, chance in pinned], [("pack", False), ("pages", False)])
        self.assertEqual(pinned[0][1], pinned[1][1])
        for base in bases:
            self.assertEqual(base % (2 << 20), 0)
            self.assertGreaterEqual(base, pinned[0][1])

    def test_binary_is_named_and_runs(self):
        text = self.runs(random.Random(2).randbytes(2000))
        self.assert_named(text, r"\tangram\cmdline.txt is ignored: it is not text")

    def test_one_megabyte_is_named_and_runs(self):
        text = self.runs((b"seed=1 " * 149797)[:1 << 20])
        self.assert_named(text, r"\tangram\cmdline.txt is too large: 1048576 bytes")


if __name__ == "__main__":
    unittest.main()
