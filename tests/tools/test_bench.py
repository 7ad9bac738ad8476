#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""tools/bench: goals are judged, figures come from complete logs only, and callgrind counts what it should."""

import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
TOOLS = os.path.join(ROOT, "tools")
sys.path.insert(0, TOOLS)
sys.path.insert(0, HERE)
from test_ktap import GOOD  # noqa: E402  pylint: disable=wrong-import-position


def load():
    loader = importlib.machinery.SourceFileLoader("bench", os.path.join(TOOLS, "bench"))
    spec = importlib.util.spec_from_loader("bench", loader)
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


bench = load()

PROGRAM = """\
#include <stdio.h>
#include <valgrind/callgrind.h>
void pf_alloc(void);
void pf_free(void);
static volatile int x;
__attribute__((noinline)) void pf_alloc(void) { __asm__ volatile(".rept 97; nop; .endr"); x++; }
__attribute__((noinline)) void pf_free(void) { x--; }
int main(void)
{
	CALLGRIND_ZERO_STATS;
	for (int i = 0; i < 1000; i++) {
		pf_alloc();
		x += 7;
	}
	CALLGRIND_DUMP_STATS_AT("w0:1000");
	puts("peer=A impl=x threads=1 work=any metric=bytes value=12.5");
	return 0;
}
"""


class Goals(unittest.TestCase):
    def table(self, goal, judged):
        table = bench.Table("t", ["c"])
        table.add("row", [judged], goal, judged)
        return table.goals, table.missed, table.rows[0][2]

    def test_met_and_missed(self):
        self.assertEqual(self.table(60, 60)[:2], (1, 0))
        self.assertEqual(self.table(60, 60.01)[:2], (1, 1))
        self.assertIn("MISSED", self.table(60, 61)[2])
        self.assertEqual(self.table(None, 61)[:2], (0, 0))

    def test_at_least(self):
        for value, missed in ((509, 0), (508, 1), (None, 1)):
            table = bench.Table("t", ["c"])
            table.add("row", [value], None, value, 509)
            self.assertEqual((table.goals, table.missed), (1, missed))

    def test_not_measured_is_missed(self):
        self.assertEqual(self.table(60, None)[:2], (1, 1))

    def test_numbers(self):
        for value, text in ((None, "-"), (0, "0"), (0.142, "0.142"), (53.04, "53.0"), (54, "54"), (7289, "7,289"),
                            (1234.5, "1,234")):
            self.assertEqual(bench.number(value), text)


class Peers(unittest.TestCase):
    def test_file(self):
        os.chdir(ROOT)
        peers = bench.peers_module.read()
        self.assertEqual(peers["a", "w2_churn0_pair"], {"buddy": 86, "+lock": 101, "pcp": 56, "LLFree": 1706, "goal": 50})
        goals = {key: row["goal"] for key, row in peers.items() if "goal" in row}
        self.assertEqual(goals, {("a", "w0_pair0"): 50, ("a", "w2_churn0_pair"): 50, ("a", "w4_order9_pair"): 110,
                                 ("b", "b2_rw_4096restore"): 400,
                                 ("q", "cost op=split_2m"): 3000})


class Logs(unittest.TestCase):
    COST = b"# cost op=split_2m policy=none n=64 %s=%d mean=1 min=1 max=9 flushes=0\n"

    def boot(self, data):
        with tempfile.NamedTemporaryFile(prefix="tangram-test-") as file:
            file.write(data)
            file.flush()
            return bench.boot("build", file.name)

    def log(self, *cost):
        return GOOD.replace(b"# counter direct", self.COST % cost + b"# counter direct")

    def judge(self, data):
        table = bench.table_costs({("q", "cost op=split_2m"): {"goal": 3000}}, self.boot(data))
        return table.goals, table.missed

    def test_goal_by_the_log(self):
        self.assertEqual(self.judge(self.log(b"insns", 3000)), (1, 0))
        self.assertEqual(self.judge(self.log(b"insns", 3001)), (1, 1))

    def test_cycles_are_no_instructions(self):
        self.assertRaises(bench.Failed, self.judge, self.log(b"cycles", 100))

    def test_cut_log(self):
        data = self.log(b"insns", 100)
        self.assertRaises(bench.Failed, self.boot, data[:-40])


@unittest.skipUnless(shutil.which("valgrind"), "no valgrind here")
class Callgrind(unittest.TestCase):
    def test_only_the_entry_points_count(self):
        with tempfile.TemporaryDirectory(prefix="tangram-test-") as folder:
            source, program = os.path.join(folder, "p.c"), os.path.join(folder, "p")
            with open(source, "w", encoding="utf-8") as file:
                file.write(PROGRAM)
            subprocess.run(["gcc", "-O2", "-gdwarf-4", "-o", program, source], check=True)
            figures = bench.callgrind(program, bench.ENTRY_A)
        # 97 NOPs, load, add, store and return, in one form or another; nothing of the loop.
        self.assertTrue(98 <= figures["w0"] <= 101, figures)
        self.assertEqual(figures["any.bytes"], 12.5)

    def test_missing_program(self):
        self.assertRaises(bench.Failed, bench.callgrind, "/nonexistent", ())


if __name__ == "__main__":
    unittest.main()
