#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""tools/ktap.py: a complete log passes, and nothing that was cut, torn or doctored does (RP1)."""

import os
import random
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools"))
import ktap  # noqa: E402  pylint: disable=wrong-import-position

GOOD = b"""\x1b[2J\x1b[01;01HBdsDxe: starting Boot0001\r
\x1b[0m\x1b[37mKTAP version 1
# TANGRAM BEGIN build=abc cpus=1 memory=4294967296 seed=1
1..3
  KTAP version 1
  # Subtest: buddy
  1..12
  # running buddy.t1 proves PA1
  ok 1 t1
  ok 2 t2 # SKIP no 1G leaves
  ok 3 t3
  ok 4 t4
  ok 5 t5
  ok 6 t6
  ok 7 t7
  ok 8 t8
  ok 9 t9
  ok 10 t10
  ok 11 t11
  not ok 12 t12 # XFAIL known to be so
ok 1 buddy
  KTAP version 1
  # Subtest: pgtable
  1..2
  # lab workload=aged policy=scattered n=1 phase=peak leaves_4k=512
  ok 1 split-keeps.pat
  ok 2 x_1
ok 2 pgtable
  KTAP version 1
  # Subtest: smp
  1..1
  ok 1 ipi # SKIP one CPU
ok 3 smp # SKIP every test of it was skipped
# counter direct_map_1g=3221225472
# TANGRAM END verdict=pass passed=13 failed=0 skipped=2
"""


def verdict(data):
    return ktap.check(data).verdict


def problems(data):
    return ktap.check(data).problems


class Complete(unittest.TestCase):
    def test_good_log(self):
        log = ktap.check(GOOD)
        self.assertEqual(log.problems, [])
        self.assertEqual((log.verdict, log.passed, log.failed, log.skipped, log.xfailed), ("pass", 13, 0, 2, 1))
        self.assertEqual(log.last_test, "smp.ipi")
        self.assertIn(("counter", {"direct_map_1g": "3221225472"}), log.figures)

    def test_carriage_returns(self):
        self.assertEqual(verdict(GOOD.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")), "pass")

    def test_fed_byte_by_byte(self):
        log = ktap.Ktap()
        for at in range(len(GOOD)):
            log.feed(GOOD[at:at + 1])
        log.finish()
        self.assertEqual(log.verdict, "pass")

    def test_nothing_but_skips(self):
        data = b"KTAP version 1\n# TANGRAM BEGIN build=a cpus=1 memory=1 seed=1\n1..1\nok 1 a # SKIP no QEMU\n" \
               b"# TANGRAM END verdict=pass passed=0 failed=0 skipped=1\n"
        self.assertEqual(verdict(data), "skip")

    def test_plain_ktap_needs_no_marks(self):
        data = b"KTAP version 1\n1..1\nok 1 a\n"
        self.assertEqual(ktap.check(data, marks=False).verdict, "pass")
        self.assertEqual(verdict(data), "incomplete")


class Nested(unittest.TestCase):
    """Whole logs as subtests, as the hosted tests write them: one per simulated machine."""

    INNER = b"".join(b"  " + line for line in GOOD[GOOD.index(b"KTAP"):].splitlines(keepends=True)).replace(
        b"seed=1\n", b"seed=1\n  # Subtest: one\n")
    LOG = b"KTAP version 1\n# host-test seed=1\n1..2\n" + INNER + b"ok 1 one\n" + \
        INNER.replace(b": one", b": two") + b"ok 2 two\n# 26 passed, 0 failed\n"

    def test_good(self):
        log = ktap.check(self.LOG, marks=False)
        self.assertEqual(log.problems, [])
        self.assertEqual((log.verdict, log.passed, log.failed, log.skipped), ("pass", 26, 0, 4))

    def test_cut_at_every_line(self):
        lines = self.LOG.splitlines(keepends=True)
        for at in range(len(lines) - 1):
            self.assertEqual(ktap.check(b"".join(lines[:at]), marks=False).verdict, "incomplete", at)

    def test_inner_end_must_add_up(self):
        for old, new in ((b"passed=13", b"passed=12"), (b"verdict=pass", b"verdict=fail")):
            log = ktap.check(self.LOG.replace(old, new, 1), marks=False)
            self.assertEqual(log.verdict, "incomplete")

    def test_inner_end_lost(self):
        lines = self.LOG.splitlines(keepends=True)
        at = [number for number, line in enumerate(lines) if b"TANGRAM END" in line][0]
        self.assertEqual(ktap.check(b"".join(lines[:at] + lines[at + 1:]), marks=False).verdict, "incomplete")

    def test_behind_inner_end(self):
        old = b"skipped=2\nok 1 one"
        self.assertIn(old, self.LOG)
        log = ktap.check(self.LOG.replace(old, b"skipped=2\n  # a sanitizer speaks\nok 1 one"), marks=False)
        self.assertEqual(log.verdict, "incomplete")


class Cut(unittest.TestCase):
    def test_at_every_line(self):
        lines = GOOD.splitlines(keepends=True)
        for count in range(len(lines)):
            self.assertNotIn(verdict(b"".join(lines[:count])), ("pass", "skip"), count)

    def test_at_every_byte(self):
        for at in range(len(GOOD)):
            self.assertNotIn(verdict(GOOD[:at]), ("pass", "skip"), at)

    def test_any_result_line_lost(self):
        lines = GOOD.splitlines(keepends=True)
        for at, line in enumerate(lines):
            if line.strip().startswith((b"ok", b"not ok", b"1..", b"# TANGRAM")):
                self.assertEqual(verdict(b"".join(lines[:at] + lines[at + 1:])), "incomplete", line)

    def test_any_result_line_twice(self):
        lines = GOOD.splitlines(keepends=True)
        for at, line in enumerate(lines):
            if line.strip().startswith((b"ok", b"not ok", b"1..", b"# TANGRAM")):
                self.assertEqual(verdict(b"".join(lines[:at] + [line] + lines[at:])), "incomplete", line)

    def test_numbers_without_end(self):
        for old, new in ((b"1..12\n", b"1..%s\n"), (b"ok 7 t7", b"ok %s t7"), (b"cpus=1", b"cpus=%s")):
            self.assertEqual(verdict(GOOD.replace(old, new % (b"7" * 5000))), "pass" if b"cpus" in old else "incomplete", old)

    def test_random_damage_never_crashes(self):
        rng = random.Random(1)
        for _ in range(300):
            data = bytearray(GOOD)
            for _ in range(rng.randrange(1, 40)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            ktap.check(bytes(data))

    def test_noise_is_no_pass(self):
        rng = random.Random(2)
        for _ in range(50):
            self.assertEqual(verdict(rng.randbytes(5000)), "incomplete")

    def test_endless_line(self):
        log = ktap.Ktap()
        log.feed(b"KTAP version 1\n")
        for _ in range(100):
            log.feed(b"x" * 10000)
        log.finish()
        self.assertEqual(log.verdict, "incomplete")


class Doctored(unittest.TestCase):
    """Each change makes the log say two different things."""

    def changed(self, old, new, expected="incomplete"):
        self.assertEqual(GOOD.count(old), 1, old)
        self.assertEqual(verdict(GOOD.replace(old, new)), expected)

    def test_counts_of_end(self):
        self.changed(b"passed=13", b"passed=14")
        self.changed(b"failed=0", b"failed=1")
        self.changed(b"skipped=2", b"skipped=1")
        self.changed(b" skipped=2", b"")

    def test_verdict_against_counts(self):
        self.changed(b"verdict=pass", b"verdict=fail")

    def test_failed_test_in_ok_suite(self):
        self.changed(b"  ok 5 t5\n", b"  not ok 5 t5\n", "fail")

    def test_failure_is_a_fail(self):
        data = GOOD.replace(b"  ok 5 t5\n", b"  not ok 5 t5\n").replace(b"ok 1 buddy", b"not ok 1 buddy")
        data = data.replace(b"verdict=pass passed=13 failed=0", b"verdict=fail passed=12 failed=1")
        log = ktap.check(data)
        self.assertEqual((log.verdict, log.problems, log.failures), ("fail", [], ["buddy.t5"]))

    def test_second_boot(self):
        self.assertEqual(verdict(GOOD + GOOD), "incomplete")

    def test_something_behind_end(self):
        self.assertEqual(verdict(GOOD + b"# still here\n"), "incomplete")

    def test_monitor_behind_end(self):
        """The report is over: nothing that is said there changes it, but a panic."""
        session = b"# TANGRAM MONITOR help lists the commands\r\ntangram> run fmt\r\n1..1\r\nnot ok 1 fmt\r\n# TANGRAM END x\r\ntangra"
        log = ktap.check(GOOD + session)
        self.assertEqual((log.verdict, log.problems, log.failures), ("pass", [], []))
        self.assertTrue(log.monitor)
        log = ktap.check(GOOD + session + b"m> # PANIC on CPU 0 during payload: no\n")
        self.assertEqual(log.verdict, "incomplete")
        self.assertIn("PANIC on CPU 0", log.failure())
        self.assertEqual(len(ktap.boots(GOOD + session)), 1)

    def test_monitor_before_end(self):
        log = ktap.check(GOOD[:GOOD.index(b"# TANGRAM END")] + b"# TANGRAM MONITOR help\n")
        self.assertEqual((log.verdict, log.monitor), ("incomplete", False))

    def test_skip_without_reason(self):
        self.changed(b"# SKIP one CPU", b"# SKIP")

    def test_names(self):
        self.changed(b"split-keeps.pat", b"Split")

    def test_numbers(self):
        self.changed(b"  ok 7 t7", b"  ok 8 t7")

    def test_wrong_parent(self):
        self.changed(b"ok 2 pgtable", b"ok 2 buddy")

    def test_not_ktap(self):
        self.changed(b"# counter direct_map_1g=3221225472", b"oops")

    def test_figures_are_words(self):
        self.changed(b"phase=peak", b"phase peak")

    def test_panic(self):
        data = GOOD.replace(b"# counter direct_map_1g=3221225472", b"# PANIC on CPU 0 during tests: no")
        self.assertEqual(verdict(data), "incomplete")
        self.assertTrue(any("panicked" in text for text in problems(data)))

    def test_begin_needs_its_keys(self):
        self.changed(b" seed=1\n", b"\n")


class Boots(unittest.TestCase):
    """Where one boot ends and the next begins, whoever speaks first there."""

    MACHINE = b"# command line: seed=1\r\n# cpu: one\r\n# command line: unknown key x, ignored\r\n"
    FIRMWARE = b"\x1b[2J\x1b[01;01HBdsDxe: starting Boot0001\r\n\x1b[2J\x1b[=3h"
    LOADER = b"tangram: the log of the run before is lost\r\n"
    REPORT = GOOD[GOOD.index(b"KTAP"):]

    def verdicts(self, data):
        return [log.verdict for log in ktap.boots(data)]

    def test_one(self):
        for head in (b"", self.FIRMWARE, self.LOADER, self.FIRMWARE + self.LOADER, self.FIRMWARE * 3):
            self.assertEqual(self.verdicts(head + self.MACHINE + self.REPORT), ["pass"], head)

    def test_words_about_the_command_line_are_no_boot(self):
        words = (b"bad value in seed=x, ignored", b"bad value in console=x, ignored: no such console", b"unknown key x, ignored",
                 b"lab=off has no effect yet", b"x is not of the form key=value, ignored")
        lines = b"".join(b"# command line: " + word + b"\r\n" for word in words)
        self.assertEqual(self.verdicts(self.MACHINE + lines + self.REPORT), ["pass"])

    def test_a_crash_before_the_report(self):
        """It is a boot that went wrong, whatever comes behind it; the machine may stop in the middle of a line."""
        for crashed in (self.MACHINE, self.FIRMWARE + self.MACHINE, self.MACHINE[:-9], b"# command line: \r\n"):
            for head in (b"", self.FIRMWARE, self.LOADER, self.FIRMWARE + self.LOADER):
                if head == self.LOADER and not crashed.endswith(b"\n"):
                    continue        # the loader's words are told from others by standing at the start of a line
                again = head + self.MACHINE + self.REPORT
                self.assertEqual(self.verdicts(crashed + again), ["incomplete", "pass"], (crashed, head))
                self.assertEqual(self.verdicts(crashed * 2 + again), ["incomplete"] * 2 + ["pass"], (crashed, head))
                self.assertEqual(self.verdicts(again + crashed + again), ["pass", "incomplete", "pass"], (crashed, head))
        log = ktap.boots(self.MACHINE + self.MACHINE + self.REPORT)[0]
        self.assertTrue(log.restarted)
        self.assertEqual(log.failure(), "the machine started again before the end of the report; before its first test, "
                                        "behind 'command line: unknown key x, ignored'")

    def test_a_crash_in_the_report(self):
        cut = self.MACHINE + self.REPORT[:self.REPORT.index(b"k 7 t7")]
        for again in (self.MACHINE + self.REPORT, self.FIRMWARE + self.MACHINE + self.REPORT, self.REPORT):
            self.assertEqual(self.verdicts(cut + again), ["incomplete", "pass"], again[:40])

    def test_a_boot_behind_the_monitor(self):
        """Nothing at the monitor counts, but a kernel that starts there does."""
        session = self.MACHINE + self.REPORT + b"# TANGRAM MONITOR help lists the commands\r\ntangram> "
        self.assertEqual(self.verdicts(session + self.MACHINE), ["pass", "incomplete"])
        self.assertEqual(self.verdicts(session + self.MACHINE + self.REPORT), ["pass", "pass"])


if __name__ == "__main__":
    unittest.main()
