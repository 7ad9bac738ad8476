#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""tools/costs.py and the row that uses it: what got dearer is named, and no file is taken for what it is not."""

import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = os.path.join(HERE, "..", "..", "tools")
sys.path.insert(0, TOOLS)
sys.path.insert(0, HERE)
import costs  # noqa: E402  pylint: disable=wrong-import-position
from test_ktap import GOOD  # noqa: E402  pylint: disable=wrong-import-position
from test_run_tests import run_tests  # noqa: E402  pylint: disable=wrong-import-position

ELF = b"\x7fELF...\0GCC: (Debian 12.2.0-14+deb12u1) 12.2.0\0GCC: (Debian 12.2.0-14+deb12u1) 12.2.0\0"
LINES = (b"# cost op=split policy=none n=64 insns=1000 min=1000 max=1000 flushes=0 mean=1000\n"
         b"# cost op=tiny policy=none n=64 insns=20 min=20 max=20 flushes=0 mean=20\n"
         b"# cost op=fill policy=huge others=1 size=400 n=64 insns=2400 min=2400 max=2400 flushes=0 mean=2400\n"
         b"# cost op=take policy=x workload=pages memory=aged collapse=off pages=1 n=1 insns=5 min=5 max=5 flushes=0 mean=5\n")


def log(old=b"", new=b""):
    at = GOOD.index(b"# TANGRAM END")
    data = GOOD[:at] + LINES + GOOD[at:]
    assert old in data
    return data.replace(old, new)


class Costs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="tangram-test-")
        self.addCleanup(folder.cleanup)
        self.csv = os.path.join(folder.name, "costs.csv")
        self.kernel = os.path.join(folder.name, "kernel.elf")
        with open(self.kernel, "wb") as file:
            file.write(ELF)
        costs.write(costs.of_log(log()), {("fill", "huge", "1"): (1, 20)}, costs.compiler(self.kernel), self.csv)

    def compare(self, *change):
        return costs.compare(costs.read(self.csv)[1], costs.of_log(log(*change)))

    def test_what_is_written_is_read(self):
        self.assertEqual(costs.read(self.csv), ("GCC 12.2.0", {("split", "none", ""): (1000, 10), ("tiny", "none", ""): (20, 10),
                                                              ("fill", "huge", "1"): (2400, 20)}))
        self.assertEqual(self.compare(), ([], []))

    def test_dearer_by_more_than_a_tenth(self):
        self.assertEqual(self.compare(b"insns=1000", b"insns=1100"), ([], []))
        self.assertEqual(self.compare(b"insns=1000", b"insns=1101")[0], ["split none: 1000 -> 1101 instructions (+10.1 %)"])
        self.assertEqual(self.compare(b"insns=2400", b"insns=2880"), ([], []))
        self.assertEqual(self.compare(b"insns=2400", b"insns=2881")[0], ["fill huge beside 1: 2400 -> 2881 instructions (+20.0 %)"])
        self.assertEqual(self.compare(b"insns=1000", b"insns=899"), ([], ["split none: 1000 -> 899 instructions (-10.1 %)"]))

    def test_a_move_is_no_tenth(self):
        self.assertEqual(self.compare(b"insns=20", b"insns=24"), ([], []))
        self.assertEqual(len(self.compare(b"insns=20", b"insns=25")[0]), 1)

    def test_new_and_gone(self):
        self.assertEqual(self.compare(b"op=tiny", b"op=other")[0], ["tiny none: 20 instructions before, not measured",
                                                                   "other none: 20 instructions, not in docs/costs.csv"])

    def test_bad_logs(self):
        for change in ((LINES, b""), (b"insns=1000", b"cycles=1000"), (b"insns=1000 ", b"insns=x "), (b"op=tiny", b"op=split"),
                       (b"  ok 5 t5", b"  not ok 5 t5"), (b"# TANGRAM END", b"# TANGRAM")):
            with self.assertRaises(costs.BadInput, msg=change):
                costs.of_log(log(*change))

    def test_bad_files(self):
        with open(self.csv, encoding="utf-8") as file:
            text = file.read()
        for bad in (text.replace("# cc", "# c"), text.replace(",20", ",x"), text.replace(",20,", ",0,"), text.replace(",,20", ""), text.replace(",10", ",10,1"),
                    text.replace(",percent", ""), "# cc=GCC 1\n"):
            with open(self.csv, "w", encoding="utf-8") as file:
                file.write(bad)
            with self.assertRaises(costs.BadInput, msg=bad):
                costs.read(self.csv)
        for data in (b"no ELF", ELF + b"clang version 14.0.6\0"):
            with open(self.kernel, "wb") as file:
                file.write(data)
            with self.assertRaises(costs.BadInput):
                costs.compiler(self.kernel)
        with self.assertRaises(costs.BadInput):
            costs.read("/nowhere/costs.csv")

    def test_command(self):
        path = os.path.join(os.path.dirname(self.csv), "log")
        for data, kernel, status in ((log(), self.kernel, 1), (b"", self.kernel, 2), (log(), "/nowhere/kernel.elf", 2)):
            with open(path, "wb") as file:
                file.write(data)
            done = subprocess.run([sys.executable, "-B", os.path.join(TOOLS, "costs.py"), "--kernel", kernel, path],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
            # None of the operations of docs/costs.csv is in that log, unless another compiler's figures are there.
            self.assertIn(done.returncode, (status, 77) if status == 1 else (status,), done.stdout + done.stderr)
            self.assertTrue(done.stdout if status == 1 else done.stderr)

    def test_the_row_fails(self):
        """As tools/run-tests does it."""
        row = next(row for row in run_tests.matrix() if row.costs)
        self.assertEqual(row.options.get("icount"), True)
        item = run_tests.QemuItem(row, 1, False)
        item.counts = run_tests.Counts()
        read, find = costs.read, costs.compiler
        self.addCleanup(setattr, costs, "read", read)
        self.addCleanup(setattr, costs, "compiler", find)
        costs.read, costs.compiler = lambda: read(self.csv), lambda path: find(self.kernel)
        self.assertEqual(item.check_costs(log()), [])
        self.assertEqual((item.counts.passed, item.counts.failed, item.counts.skipped), (3, 0, 0))
        self.assertEqual(item.check_costs(log(b"insns=1000", b"insns=2000")), ["split none: 1000 -> 2000 instructions (+100.0 %)"])
        self.assertEqual((item.counts.passed, item.counts.failed, item.counts.skipped), (5, 1, 0))
        costs.compiler = lambda path: "GCC 99.1"
        self.assertEqual(len(item.check_costs(log())), 1)
        self.assertEqual((item.counts.passed, item.counts.failed, item.counts.skipped), (5, 1, 1))
        costs.compiler = lambda path: find(self.kernel)
        self.assertTrue(item.check_costs(b"")[0].startswith("its run failed: "))
        self.assertEqual((item.counts.passed, item.counts.failed, item.counts.skipped), (5, 2, 1))


if __name__ == "__main__":
    unittest.main()
