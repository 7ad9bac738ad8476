#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""tools/run-tests loses no failure: counting, programs that die, hang or say nothing, and needs."""

import fnmatch
import glob
import importlib.machinery
import importlib.util
import io
import os
import re
import sys
import tempfile
import unittest
from contextlib import redirect_stdout

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = os.path.join(HERE, "..", "..", "tools")
sys.path.insert(0, TOOLS)
sys.path.insert(0, HERE)
from test_ktap import GOOD  # noqa: E402  pylint: disable=wrong-import-position


def load():
    loader = importlib.machinery.SourceFileLoader("run_tests", os.path.join(TOOLS, "run-tests"))
    spec = importlib.util.spec_from_loader("run_tests", loader)
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


run_tests = load()
TEXT = GOOD.decode()


def counts(result):
    return result.passed, result.failed, result.skipped


class Counting(unittest.TestCase):
    def test_ktap(self):
        self.assertEqual(counts(run_tests.count_ktap(TEXT, 0)), (13, 0, 2))

    def test_ktap_that_died(self):
        self.assertEqual(counts(run_tests.count_ktap(TEXT, 1)), (13, 1, 2))
        self.assertEqual(counts(run_tests.count_ktap(TEXT, -11)), (13, 1, 2))

    def test_ktap_that_was_cut(self):
        for at in range(0, len(TEXT), 37):
            self.assertGreaterEqual(run_tests.count_ktap(TEXT[:at], 0).failed, 1, at)

    def test_unittest(self):
        text = "....\nRan 5 tests in 0.1s\n\n"
        self.assertEqual(counts(run_tests.count_unittest(text + "OK\n", 0)), (5, 0, 0))
        self.assertEqual(counts(run_tests.count_unittest(text + "OK (skipped=2)\n", 0)), (3, 0, 2))
        bad = text + "FAILED (failures=1, errors=2, skipped=1)\n"
        self.assertEqual(counts(run_tests.count_unittest(bad, 1)), (1, 3, 1))
        self.assertEqual(run_tests.count_unittest(text + "OK\n", 1).failed, 1)
        self.assertEqual(run_tests.count_unittest("", 0).failed, 1)
        self.assertEqual(run_tests.count_unittest("Ran 0 tests in 0.0s\n\nOK\n", 0).failed, 1)

    def test_plain(self):
        self.assertEqual(counts(run_tests.count_any("hello", 0)), (1, 0, 0))
        self.assertEqual(counts(run_tests.count_any("hello", 77)), (0, 0, 1))
        for status in (1, 2, 124, -9):
            self.assertEqual(counts(run_tests.count_any("hello", status)), (0, 1, 0))


class Running(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="tangram-test-")
        self.addCleanup(self.folder.cleanup)
        self.logs, run_tests.LOGS = run_tests.LOGS, self.folder.name
        self.addCleanup(setattr, run_tests, "LOGS", self.logs)

    def run_items(self, *items):
        runner = run_tests.Runner(2)
        with redirect_stdout(io.StringIO()) as out:
            runner.run(items)
        self.output = out.getvalue()
        return counts(runner.total)

    @staticmethod
    def shell(name, script, **more):
        return run_tests.Item(name, ["sh", "-c", script], **more)

    def test_sum(self):
        items = [self.shell("a", "exit 0"), self.shell("b", "exit 1"), self.shell("c", "exit 77")]
        self.assertEqual(self.run_items(*items), (1, 1, 1))

    def test_what_a_failed_test_said_is_shown(self):
        said = "echo '  # s.%s: is 1 (a.c:5)'; echo '  %s %s'; "
        flood = "for i in $(seq 100); do echo \"# counter $i\"; done; "
        self.run_items(self.shell("a", said % ("x", "ok 1", "x") + said % ("y", "not ok 2", "y") + flood + "exit 1"))
        self.assertIn("|   # s.y: is 1 (a.c:5)\n      |   not ok 2 y\n", self.output)
        self.assertIn("# counter 100\n", self.output)
        self.assertNotIn("s.x", self.output)
        self.assertNotIn("# counter 50\n", self.output)

    def test_killed_and_hung(self):
        items = [self.shell("a", "kill -9 $$"), self.shell("b", "sleep 60 & sleep 60", timeout=1)]
        self.assertEqual(self.run_items(*items), (0, 2, 0))
        self.assertIn("killed by signal 9", self.output)
        self.assertIn("not done within 1 s", self.output)

    def test_needs(self):
        items = [self.shell("b", "echo ran", needs=["a"]), self.shell("a", "exit 1")]
        self.assertEqual(self.run_items(*items), (0, 2, 0))
        self.assertIn("not run: a failed", self.output)
        self.assertFalse(os.path.exists(os.path.join(self.folder.name, "b.log")))

    def test_one_crowd_at_a_time(self):
        """Of what keeps several CPUs busy, while there are others; and all of it at the end."""
        trace = os.path.join(self.folder.name, "trace")
        script = 'echo "+{0}" >> {1}; sleep 0.3; echo "-{0}" >> {1}'
        items = [self.shell(name, script.format(name, trace), cpus=cpus)
                 for name, cpus in (("a", 4), ("b", 4), ("c", 1), ("d", 1), ("e", 2), ("f", 2))]
        self.assertEqual(self.run_items(*items), (6, 0, 0))
        with open(trace, encoding="utf-8") as file:
            steps = file.read().split()
        self.assertEqual(len(steps), 12)
        at = {step: number for number, step in enumerate(steps)}
        self.assertTrue(at["-a"] < at["+b"] or max(at["+c"], at["+d"]) < at["+b"], steps)

    def test_time_of_its_own(self):
        item = self.shell("a", "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done & wait")
        self.assertEqual(self.run_items(item), (1, 0, 0))
        self.assertGreater(item.cpu, 0)
        self.assertLessEqual(item.cpu, item.seconds + 0.1)

    def test_missing_program(self):
        self.assertEqual(self.run_items(run_tests.Item("a", ["/nonexistent"])), (0, 1, 0))

    def test_make_is_not_disturbed(self):
        os.environ["MAKEFLAGS"] = "-j --jobserver-auth=9,9"
        self.addCleanup(os.environ.pop, "MAKEFLAGS", None)
        self.assertEqual(self.run_items(self.shell("a", '[ -z "$MAKEFLAGS" ]')), (1, 0, 0))


class Items(unittest.TestCase):
    def test_names_and_needs(self):
        os.chdir(run_tests.ROOT)
        for what in ("quick", "test", "soak"):
            items = run_tests.items_of(what, 1)
            names = [item.name for item in items]
            self.assertEqual(len(names), len(set(names)))
            for item in items:
                self.assertLessEqual(set(item.needs), set(names), item.name)

    def test_scripts(self):
        """Each is an item, and what is said of one by name is about one that is there."""
        os.chdir(run_tests.ROOT)
        items = {item.name: item for item in run_tests.script_items()}
        self.assertEqual(len(items), len(glob.glob("tests/tools/test_*.py")) + len(glob.glob("tests/qemu/boot_*.py")))
        self.assertEqual({name: item.cpus for name, item in items.items() if item.cpus > 1}, run_tests.SCRIPT_CPUS)

    def test_samples_and_whole_rows(self):
        """What `make test` samples, `make soak` runs whole; and it leaves no row out."""
        rows = {row.name: row for row in run_tests.matrix()}
        for what in ("test", "soak"):
            items = {item.row.name: item for item in run_tests.items_of(what, 1) if hasattr(item, "row")}
            for name, row in rows.items():
                self.assertEqual(name in items, what == "soak" or not row.soak_only)
                if name in items and row.sample:
                    append = items[name].args[items[name].args.index("--append") + 1]
                    self.assertEqual(f"suite={row.sample}" in append, what == "test", append)

    def test_globs_name_what_exists(self):
        """A suite that was renamed would be left out of a row without a word."""
        tests = set()
        for path in glob.glob(os.path.join(run_tests.ROOT, "tests", "**", "*.c"), recursive=True):
            with open(path, encoding="utf-8") as file:
                tests |= {f"{suite}.{name}" for suite, name in
                          re.findall(r"(?m)^TEST(?:_ID|_ROWS|_FLAGS)?\((\w+),\s*(\w+)", file.read())}
        suites = {test.split(".")[0] for test in tests}
        self.assertGreater(len(suites), 50)
        for row in run_tests.matrix():
            chosen = [row.sample or ""] + re.findall(r"suite=(\S+)", row.append)
            for pattern in ",".join(chosen).strip(",").split(","):
                self.assertTrue(fnmatch.filter(tests if "." in pattern else suites, pattern or "*"), (row.name, pattern))

    def test_whole_suite_on_each_number_of_cpus(self):
        """With and without 1G leaves, as far as `make test` goes."""
        whole = {(row.options.get("cpus", 1), "pdpe1gb" in row.options.get("cpu", "")) for row in run_tests.matrix()
                 if not row.soak_only and not row.sample and "suite=" not in row.append and row.variant == "release"}
        self.assertLessEqual({(1, False), (1, True), (2, False), (3, False), (4, False), (4, True), (8, False)}, whole)

    def test_selection_brings_needs(self):
        items = run_tests.with_needs(run_tests.items_of("test", 1), ["qemu.costs-again"])
        self.assertEqual({item.name for item in items}, {"build.release", "qemu.costs", "qemu.costs-again"})


if __name__ == "__main__":
    unittest.main()
