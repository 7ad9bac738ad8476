#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
tools/report on real logs: what it says agrees with what other readers of KTAP say; a log that was cut is never a pass;
kernels that hang, reset or panic are named with their last test; comparisons find what was planted; the page is a page.
"""

import atexit
import concurrent.futures
import contextlib
import glob
import hashlib
import html
import html.parser
import importlib.machinery
import importlib.util
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
TOOLS = os.path.join(ROOT, "tools")
sys.path.insert(0, TOOLS)
sys.path.insert(0, HERE)
import ktap_strict  # noqa: E402  pylint: disable=wrong-import-position
import qemu  # noqa: E402  pylint: disable=wrong-import-position
import runlog  # noqa: E402  pylint: disable=wrong-import-position
import test_run_qemu  # noqa: E402  pylint: disable=wrong-import-position
from test_ktap import GOOD  # noqa: E402  pylint: disable=wrong-import-position

CUTS = 100
SEED = 20261121
FIGURE = re.compile(r"^ *# (?:TANGRAM BEGIN|TANGRAM END|counter|map|lab|cost|execmem|trace) (.*)$", re.MULTILINE)
DEBIAN_PYTHON = "/usr/bin/python3"      # which has Debian's modules

# A machine each: enough of everything that a log can say. The second shows several CPUs.
BOOTS = (
    {"memory": "256M", "append": "seed=1 lab=short trace=split,collapse,dump suite=directmap,report,lab.pages.*.n64,"
                                 "costs.split*,costs.alloc*,costs.execmem_bytes*,costs_flush"},
    {"memory": "512M", "cpus": 2, "append": "seed=1 lab=short suite=lab_cpus.*unmapped*,lab_cpus.pages*.fresh*"},
)


def load(name):
    loader = importlib.machinery.SourceFileLoader(name, os.path.join(TOOLS, name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


report = load("report")
FOLDER = tempfile.mkdtemp(prefix="tangram-report-")
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
LOGS = []                                # bytes of the real logs; set up once


def boot(number):
    options = qemu.Options(build=os.path.join(ROOT, "build"), log=os.path.join(FOLDER, f"real{number}.log"),
                           timeout=600, **BOOTS[number])
    result = qemu.Run(options).run()
    if result.code != qemu.PASS:
        raise AssertionError(f"boot {number}: {result.line()}")
    with open(options.log, "rb") as file:
        return file.read()


def setUpModule():      # pylint: disable=invalid-name
    try:
        qemu.find_qemu()
        qemu.find_firmware()
    except qemu.Unavailable as error:
        raise unittest.SkipTest(str(error)) from None
    with concurrent.futures.ThreadPoolExecutor(len(BOOTS)) as pool:
        LOGS.extend(pool.map(boot, range(len(BOOTS))))


def from_version(data):
    return data[data.index(b"KTAP version 1"):]


def as_instructions(data):
    """The log as if its ticks had been instructions."""
    return re.sub(rb"\b(cycles|insns)=", b"insns=", data)


class Base(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="tangram-test-")
        self.addCleanup(self.folder.cleanup)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data)
        return self.path(name)

    def run_report(self, *args):
        """Inside this process: (status, stdout, stderr)."""
        out, err, argv = io.StringIO(), io.StringIO(), sys.argv
        sys.argv = ["report", *args]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = report.main()
        except SystemExit as leave:
            status = leave.code
        finally:
            sys.argv = argv
        return status, out.getvalue(), err.getvalue()

    def one(self, data, *args):
        return self.run_report(*args, self.write("log", data))

    def page(self, *logs):
        paths = [self.write(f"{number}.log", data) for number, data in enumerate(logs)]
        self.run_report("--quiet", "--html", self.path("page.html"), *paths)
        with open(self.path("page.html"), encoding="utf-8") as file:
            return file.read()


class OtherReaders(Base):
    """Counts of tools/ktap.py, of the strict parser, of python3-tap, of JSON and of JUnit are the same."""

    def counts(self, data):
        run = runlog.read(self.write("log", data))[0]
        return run.ktap.passed, run.ktap.failed, run.ktap.skipped

    def test_strict_parser(self):
        for data in (*LOGS, GOOD):
            text = from_version(data).decode("utf-8", "replace")
            self.assertEqual(ktap_strict.counts(text), self.counts(data))

    def test_strict_parser_is_strict(self):
        good = from_version(GOOD).decode()
        for old, new in (("  1..12\n", "  1..11\n"), ("ok 7 t7", "ok 8 t7"), ("ok 2 pgtable\n", ""), ("1..3\n", ""),
                         ("  ok 5 t5\n", "  not ok 5 t5\n"), ("ok 3 smp", "oops"), ("  KTAP version 1\n", "", )):
            self.assertEqual(good.count(old) >= 1, True, old)
            self.assertRaises(ktap_strict.Bad, ktap_strict.parse, good.replace(old, new, 1))

    def test_python_tap(self):
        program = ("import sys; from tap.parser import Parser\n"
                   "r = [l for b in sys.stdin.read().split('\\f') for l in Parser().parse_text(b)]\n"
                   "t = [l for l in r if l.category == 'test']\n"
                   "print(sum(l.ok and not l.skip for l in t), sum(not l.ok for l in t), sum(bool(l.skip) for l in t),\n"
                   "      sum(l.expected_tests for l in r if l.category == 'plan'))\n")
        if subprocess.run([DEBIAN_PYTHON, "-c", "import tap"], capture_output=True, check=False).returncode:
            self.skipTest("no python3-tap here (tools/setup test)")
        for data in LOGS:
            text = from_version(data).decode("utf-8", "replace").replace("\r", "")
            # It knows no subtests: each is a stream of its own.
            streams = [[]]
            for line in text.split("\n"):
                if line == "  KTAP version 1":
                    streams.append([])
                elif line.startswith("  "):
                    streams[-1].append(line[2:])
            done = subprocess.run([DEBIAN_PYTHON, "-c", program], input="\f".join("\n".join(lines) for lines in streams),
                                  capture_output=True, text=True, check=True)
            passed, failed, skipped = self.counts(data)
            self.assertEqual(done.stdout.split(), [str(value) for value in (passed, failed, skipped, passed + failed + skipped)])

    def test_json(self):
        status, _, _ = self.one(LOGS[0], "--quiet", "--json", self.path("json"))
        self.assertEqual(status, 0)
        with open(self.path("json"), encoding="utf-8") as file:
            run, = json.load(file)["runs"]
        self.assertEqual((run["passed"], run["failed"], run["skipped"]), self.counts(LOGS[0]))
        statuses = [test["status"] for test in run["tests"]]
        self.assertEqual([statuses.count("pass") + statuses.count("xfail"), statuses.count("fail"), statuses.count("skip")],
                         [run["passed"], run["failed"], run["skipped"]])
        self.assertEqual(run["verdict"], "pass")
        self.assertEqual(run["machine"]["cpus"], 1)
        self.assertEqual(run["counters"]["tlb_frames_quarantined"], 0)
        self.assertEqual({words.get("phase") for words in run["lab"]}, {"before", "peak", "after", None})
        self.assertTrue(run["trace"] and run["map"] and run["cost"] and run["execmem"])

    def junit(self, data):
        self.one(data, "--quiet", "--junit", self.path("junit"))
        root = ElementTree.parse(self.path("junit")).getroot()
        for node in [root, *root]:
            for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"), ("tests", "testcase")):
                self.assertEqual(int(node.get(key)), len(list(node.iter(tag))), key)
        return root

    def test_junit(self):
        for data in LOGS:
            root = self.junit(data)
            passed, failed, skipped = self.counts(data)
            self.assertEqual([int(root.get(key)) for key in ("tests", "failures", "errors", "skipped")],
                             [passed + failed + skipped, failed, 0, skipped])

    def test_junit_failures_and_broken_logs(self):
        root = self.junit(test_run_qemu.FAILED.replace(b"  not ok 5 t5", b"  # buddy.t5: <&\x01> is 1\n  not ok 5 t5"))
        self.assertEqual([node.get("message") for node in root.iter("failure")], ["buddy.t5: <&> is 1"])
        root = self.junit(GOOD[:GOOD.index(b"  ok 1 t1")])
        self.assertEqual([case.get("name") for case in root.iter("testcase") if case.find("error") is not None], ["buddy.t1"])
        self.assertEqual(root.get("errors"), "1")


class Cut(Base):
    """A log cut at random places."""

    def places(self):
        rng = random.Random(SEED)
        for data in LOGS:
            yield from ((data, rng.randrange(len(data))) for _ in range(CUTS))
            yield from ((data, len(data) - back) for back in range(1, 40))

    def test_never_a_pass(self):
        for data, at in self.places():
            status, out, err = self.one(data[:at])
            self.assertIn(status, (1, 2), at)
            self.assertNotIn(": PASS", out, at)
            self.assertTrue(err.startswith("report: "), at)

    def test_never_a_pass_for_run_qemu(self):
        for data, at in self.places():
            run = qemu.Run(qemu.Options())
            run.ktap.feed(data[:at])
            run.ktap.finish()
            # QEMU says that the kernel says pass: the log has the last word.
            code, reason = run._judge(qemu.EXIT_PASS, b"", "")      # pylint: disable=protected-access
            self.assertEqual(code, qemu.FAIL, at)
            self.assertTrue(reason, at)

    def test_whole_logs_pass(self):
        for data in LOGS:
            self.assertEqual(self.one(data)[0], 0)
            self.assertEqual(self.one(data.replace(b"\r\n", b"\n"))[0], 0)
            self.assertEqual(self.one(b"\x1b[2J\x1b[01;01H\xff\xfe\x00 garbage\r\n" + data)[0], 0)

    def test_a_result_beside_it_makes_no_pass(self):
        cut = LOGS[0][:LOGS[0].index(b"# TANGRAM END")]
        result = {"code": 0, "reason": "", "log_bytes": len(cut), "log_sha256": hashlib.sha256(cut).hexdigest()}
        self.write("x.json", json.dumps(result).encode())
        run, = runlog.read(self.write("x.log", cut))
        self.assertEqual((run.judged, run.verdict), (result, "broken"))
        self.assertEqual(self.run_report("--quiet", self.path("x.log"))[0], 1)

    def test_a_result_beside_it_takes_a_pass_away(self):
        result = {"code": 1, "reason": "a triple fault", "log_bytes": len(GOOD), "log_sha256": hashlib.sha256(GOOD).hexdigest()}
        for about, verdict in ((result, "fail"), ({**result, "log_bytes": 7}, "pass"), ({**result, "log_sha256": "0" * 64}, "pass"),
                               ({"code": 1, "reason": "x", "passed": 13, "failed": 0, "skipped": 2}, "pass"), ([], "pass")):
            self.write("x.json", json.dumps(about).encode())
            run, = runlog.read(self.write("x.log", GOOD))
            self.assertEqual(run.verdict, verdict, about)

    def test_as_a_program(self):
        for data, expected in ((LOGS[0], 0), (LOGS[0][:len(LOGS[0]) // 2], 1), (b"hello\n", 2)):
            done = subprocess.run([sys.executable, os.path.join(TOOLS, "report"), self.write("log", data)], capture_output=True,
                                  check=False)
            self.assertEqual(done.returncode, expected, done.stderr)


class Ends(Base):
    """How a kernel ended, and where."""

    def half(self):
        """A log that ends within a test, and the name of that test."""
        marks = list(re.finditer(rb"  # running (\S+)", LOGS[0]))
        mark = marks[len(marks) // 2]
        return LOGS[0][:LOGS[0].index(b"\n", mark.end()) + 1], mark[1].decode()

    def test_hung_or_killed(self):
        data, name = self.half()
        status, out, err = self.one(data)
        self.assertEqual(status, 1)
        self.assertIn("NOT COMPLETE: the log breaks off before the end of the report (hung, killed, or cut): "
                      f"in test {name}", out)
        self.assertIn(name, err)

    def test_panic(self):
        data, name = self.half()
        status, out, _ = self.one(data + b"# PANIC on CPU 0: a planted one\r\n# rip 0x0\r\n")
        self.assertEqual(status, 1)
        self.assertIn(f"PANIC on CPU 0: a planted one; in test {name}", out)

    def test_started_again(self):
        data, name = self.half()
        for again in (LOGS[0], LOGS[0][LOGS[0].index(b"# command line"):], from_version(LOGS[0]),
                      b"\x1b[2JBdsDxe: loading Boot0001\r\n", b"tangram: the log of the run before is lost\r\n"):
            status, out, _ = self.one(data + again)
            self.assertEqual(status, 1)
            self.assertIn(f"the machine started again before the end of the report; in test {name}", out)

    def test_started_again_before_its_report(self):
        """The kernel spoke, and stopped before its first plan: the pass behind that is another boot's."""
        said = LOGS[0][LOGS[0].index(b"# command line"):]
        said = said[:said.index(b"\n", said.index(b"# cpu: ")) + 1]
        for again in (LOGS[0], LOGS[0][LOGS[0].index(b"# command line"):], b"\x1b[2JBdsDxe: loading Boot0001\r\n" + LOGS[0]):
            status, out, _ = self.one(said + again, "--html", self.path("page"), "--junit", self.path("junit"))
            self.assertEqual(status, 1)
            self.assertIn("boot 1 of 2: NOT COMPLETE: the machine started again before the end of the report; before its first "
                          "test, behind 'cpu: ", out)
            self.assertIn("boot 2 of 2: PASS", out)
            self.assertEqual(ElementTree.parse(self.path("junit")).getroot().get("errors"), "1")

    def test_started_again_within_a_line(self):
        data, _ = self.half()
        status, out, _ = self.one(data[:-9] + LOGS[0])
        self.assertEqual(status, 1)
        self.assertIn("the machine started again", out)
        self.assertIn("boot 2 of 2: PASS", out)

    def test_several_boots(self):
        status, out, _ = self.one(LOGS[0] + LOGS[1])
        self.assertEqual(status, 0)
        self.assertIn("boot 1 of 2: PASS", out)
        self.assertIn("boot 2 of 2: PASS", out)
        self.assertEqual(self.one(LOGS[0] + LOGS[1][:9000], "--quiet")[0], 1)
        self.assertEqual(self.one(LOGS[0] + LOGS[1][:9000], "--quiet", "--boot", "1")[0], 0)
        self.assertEqual(self.one(self.half()[0] + LOGS[1], "--quiet", "--boot", "-1")[0], 0)
        self.assertEqual(self.one(LOGS[0], "--boot", "2")[0], 2)

    def test_monitor_session(self):
        """What is asked for at the monitor is no part of the report; a boot behind it is."""
        data = LOGS[0] + b"# TANGRAM MONITOR help lists the commands\r\ntangram> run x\r\n  KTAP version 1\r\nok 1 x\r\n"
        self.assertEqual(self.one(data, "--quiet")[0], 0)
        self.assertEqual(self.one(data + self.half()[0], "--quiet")[0], 1)

    def test_bad_input(self):
        for data, what in ((b"", "it is empty"), (b"hello\n", "not a log of Tangram"),
                           (b"KTAP version 1\n1..1\nok 1 x\n", "another program"),
                           (random.Random(1).randbytes(5000), "not a log of Tangram")):
            status, _, err = self.one(data)
            self.assertEqual(status, 2)
            self.assertIn(what, err)
            self.assertIn(self.path("log"), err)
        status, _, err = self.run_report(self.path("missing"))
        self.assertEqual((status, "No such file" in err, self.path("missing") in err), (2, True, True))
        self.assertEqual(self.run_report(self.folder.name)[0], 2)
        self.assertEqual(self.run_report()[0], 2)
        self.assertEqual(self.run_report("--quiet", "--html", "/nonexistent/page", self.write("log", LOGS[0]))[0], 2)

    def test_random_damage_never_crashes(self):
        rng = random.Random(SEED)
        for _ in range(20):
            data = bytearray(LOGS[1])
            for _ in range(rng.randrange(1, 200)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            status, _, err = self.one(bytes(data), "--html", self.path("page"), "--junit", self.path("junit"))
            self.assertIn(status, (0, 1, 2))
            if status == 2:
                self.assertIn(self.path("log"), err)
            else:
                ElementTree.parse(self.path("junit"))


    def test_figures_without_end(self):
        """A figure of 400 digits, or of 5,000, is damage, wherever it stands."""
        places = [re.search(rb"(# %s .*?\b%s=)(\d+)" % pair, LOGS[number]) for number, pair in (
            (0, (b"map", b"leaves_4k")), (0, (b"counter", b"direct_map_4k")), (0, (b"lab", b"leaves_2m")), (0, (b"lab", b"n")),
            (0, (b"cost", b"mean")), (0, (b"execmem", b"wasted")), (0, (b"trace", b"tsc")), (0, (b"trace", b"level")),
            (0, (b"TANGRAM BEGIN", b"memory")), (0, (b"TANGRAM END", b"passed")), (1, (b"lab", b"workers")))]
        for match in places:
            for digits in (b"7" * 21, b"7" * 400, b"7" * 5000):
                data = match.string[:match.start(2)] + digits + match.string[match.end(2):]
                status, out, _ = self.one(data, "--html", self.path("page"), "--json", self.path("json"), "--junit", self.path("junit"))
                expected = 0 if match[1].startswith((b"# trace", b"# TANGRAM BEGIN")) else 1
                self.assertEqual((status, "NOT COMPLETE" in out), (expected, bool(expected)), match[1])
                if b"END" not in match[1] and expected:
                    self.assertIn("= is no number", out)


class ThroughQemu(test_run_qemu.Base):
    """Machines that really end badly: the log and the result that tools/run-qemu leaves, read by tools/report."""

    def reported(self):
        done = subprocess.run([sys.executable, os.path.join(TOOLS, "report"), self.path("run.log")], capture_output=True,
                              text=True, check=False)
        self.assertEqual(done.returncode, 1)
        return done.stdout.splitlines()[0]

    def text(self):
        """The log of a machine that stops within a test, and that test's name."""
        text = from_version(LOGS[1])
        text = text[:text.index(b"\n", text.index(b"  # running", 3000)) + 1]
        return text, re.findall(rb"# running (\S+)", text)[-1].decode()

    def files(self):
        return "--log", self.path("run.log"), "--result", self.path("run.json")

    def test_triple_fault(self):
        text, name = self.text()
        self.boot(text, test_run_qemu.TRIPLE_FAULT, *self.files())
        self.assertEqual(self.reported(), f"run.log: NOT COMPLETE: triple fault; in test {name}")

    def test_reset(self):
        text, name = self.text()
        self.boot(text, test_run_qemu.RESET, *self.files())
        self.assertEqual(self.reported(), f"run.log: NOT COMPLETE: the machine reset itself before the end of the report; in test {name}")

    def test_hang(self):
        text, name = self.text()
        _, seconds = self.boot_until_silent(text, *self.files())
        self.assertEqual(self.reported(), f"run.log: NOT COMPLETE: no end within {seconds} s; in test {name}")

    def test_the_result_of_another_run(self):
        """It counts the same results, and is not of this log: nothing of it is believed."""
        text, name = self.text()
        self.boot(text, test_run_qemu.TRIPLE_FAULT, *self.files())
        with open(self.path("run.log"), "ab") as file:
            file.write(b"# said by another run\r\n")
        self.assertEqual(self.reported(), "run.log: NOT COMPLETE: the log breaks off before the end of the report (hung, killed, "
                                          f"or cut): in test {name}")


class Killed(test_run_qemu.Base):
    def test_qemu_was_killed(self):
        text = from_version(LOGS[1])
        self.write("said", text[:text.index(b"\n", text.index(b"  # running", 3000)) + 1])
        self.write("qemu", b"#!/bin/sh\ncat " + self.path("said").encode() + b"; kill -9 $$\n")
        os.chmod(self.path("qemu"), 0o755)
        self.write("rom", bytes(16))
        self.assertEqual(self.run_args("--log", self.path("run.log"), "--result", self.path("run.json"),
                                       QEMU=self.path("qemu")), 1)
        run, = runlog.read(self.path("run.log"))
        self.assertEqual((run.verdict, run.reason), ("broken", f"QEMU was killed by SIGKILL; in test {run.ktap.running}"))
        self.assertTrue(run.ktap.running)


class Compare(Base):
    def compare(self, old, new, *args):
        return self.run_report("--compare", self.write("old.log", old), self.write("new.log", new), *args)

    def changed(self, pattern, change, data=None):
        """The log with the first figure that matches changed; (log, its new text)."""
        data = data or as_instructions(LOGS[0])
        match = re.search(pattern, data)
        value = str(change(int(match[2]))).encode()
        return data[:match.start(2)] + value + data[match.end(2):]

    def test_the_same(self):
        status, out, _ = self.compare(LOGS[0], LOGS[0])
        self.assertEqual(status, 0)
        self.assertIn("0 worse, 0 better, 0 changed", out)

    def test_an_instruction_more_is_worse(self):
        data = as_instructions(LOGS[0])
        status, out, _ = self.compare(data, self.changed(rb"(op=split_2m .*?insns=)(\d+)", lambda value: value + 1))
        self.assertEqual(status, 1)
        self.assertRegex(out, r"worse +cost op=split_2m policy=none: insns")
        status, out, _ = self.compare(data, self.changed(rb"(op=split_2m .*?insns=)(\d+)", lambda value: value - 1))
        self.assertEqual(status, 0)
        self.assertRegex(out, r"better +cost op=split_2m policy=none: insns")

    def test_cycles_have_a_tolerance(self):
        data = LOGS[0].replace(b"insns=", b"cycles=")
        pattern = rb"(op=split_2m .*?cycles=)(\d+)"
        near = self.changed(pattern, lambda value: value * 105 // 100, data)
        far = self.changed(pattern, lambda value: value * 130 // 100, data)
        self.assertEqual(self.compare(data, near)[0], 0)
        self.assertEqual(self.compare(data, far)[0], 1)
        self.assertEqual(self.compare(data, far, "--tolerance", "50")[0], 0)
        self.assertEqual(self.compare(data, near, "--tolerance", "1")[0], 1)

    def test_leaves_splits_and_flushes(self):
        data = as_instructions(LOGS[0])
        for pattern, what in ((rb"(phase=after .*?level2_splits=)(\d+)", "level2_splits"),
                              (rb"(phase=after .*?flush_one=)(\d+)", "flush_one"),
                              (rb"(workload=pages .*?phase=after leaves_4k=)(\d+)", "leaves more than before"),
                              (rb"(nr_tlb_local_flush_one=)(\d+)", "nr_tlb_local_flush_one"),
                              (rb"(# execmem policy=huge .*?wasted=)(\d+)", "wasted")):
            status, out, _ = self.compare(data, self.changed(pattern, lambda value: value + 1))
            self.assertEqual((status, f": {what}" in out or f" {what}" in out), (1, True), what)
            self.assertEqual(self.compare(self.changed(pattern, lambda value: value + 1), data)[0], 0, what)

    def test_cycles_are_not_compared_with_instructions(self):
        counted, timed = as_instructions(LOGS[0]), LOGS[0].replace(b"insns=", b"cycles=")
        worse = self.changed(rb"(op=split_2m .*?cycles=)(\d+)", lambda value: value * 1000, timed)
        for args in ((), ("--force",)):
            status, out, _ = self.compare(counted, worse, *args)
            self.assertEqual(status, 0)
            self.assertIn("Costs are not compared: instructions in one, TSC cycles in the other", out)
            self.assertNotIn("split_2m", out)

    def test_other_machines(self):
        for old, new, what in ((b"cpus=1 memory", b"cpus=2 memory", "CPUs 1 and 2"), (b"seed=1\r", b"seed=2\r", "seed 1 and 2"),
                               (b"stepping 1,", b"stepping 2,", "CPU ")):
            self.assertIn(old, LOGS[0])
            other = self.changed(rb"(op=split_2m .*?(?:cycles|insns)=)(\d+)", lambda value: value * 1000,
                                 LOGS[0].replace(old, new))
            status, out, err = self.compare(LOGS[0], other)
            self.assertEqual(status, 2)
            self.assertIn(what, err)
            self.assertNotIn("split_2m", out)
            status, out, _ = self.compare(LOGS[0], other, "--force")
            self.assertEqual((status, "split_2m" in out), (1, True))

    def test_tests(self):
        failed = test_run_qemu.FAILED
        status, out, _ = self.compare(GOOD, failed)
        self.assertEqual(status, 1)
        self.assertRegex(out, r"worse +verdict +pass +fail")
        self.assertRegex(out, r"worse +test buddy.t5 +passes +fails")
        self.assertEqual(self.compare(failed, GOOD)[0], 0)
        self.assertEqual(self.compare(failed, failed)[0], 0)
        gone = GOOD.replace(b"  1..2\n", b"  1..1\n").replace(b"  ok 2 x_1\n", b"").replace(b"passed=13", b"passed=12")
        status, out, _ = self.compare(GOOD, gone)
        self.assertEqual(status, 1)
        self.assertRegex(out, r"worse +test pgtable.x_1 +passes +is not there")
        self.assertEqual(self.compare(gone, GOOD)[0], 0)

    def test_a_broken_log(self):
        self.assertEqual(self.compare(LOGS[0], LOGS[0][:50000])[0], 1)
        self.assertEqual(self.compare(GOOD[:GOOD.index(b"# TANGRAM END")], GOOD)[0], 2)
        self.assertEqual(self.compare(GOOD, GOOD + GOOD)[0], 2)
        self.assertEqual(self.compare(GOOD, b"hello")[0], 2)

    def test_page_and_json(self):
        worse = self.changed(rb"(op=split_2m .*?insns=)(\d+)", lambda value: value + 1)
        self.compare(as_instructions(LOGS[0]), worse, "--json", self.path("json"), "--html", self.path("page"))
        with open(self.path("json"), encoding="utf-8") as file:
            self.assertEqual(json.load(file)["comparison"]["worse"], 1)
        with open(self.path("page"), encoding="utf-8") as file:
            self.assertIn('class="badge worse"', file.read())


class Reader(html.parser.HTMLParser):
    """Complains of what does not nest, and collects what a page refers to."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self):
        super().__init__()
        self.open, self.bad, self.ids, self.links, self.tags = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            if key in ("href", "src", "action", "data", "poster", "srcset") or key.startswith("on"):
                self.links.append((tag, key, value))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.bad.append(f"</{tag}> at {self.getpos()}")


class Page(Base):
    def read(self, text):
        reader = Reader()
        reader.feed(text)
        reader.close()
        self.assertEqual((reader.bad, reader.open), ([], []))
        return reader

    def test_well_formed_and_self_contained(self):
        for logs in ((LOGS[0],), (LOGS[1],), (LOGS[0], LOGS[1], GOOD, test_run_qemu.FAILED, LOGS[0][:40000])):
            text = self.page(*logs)
            reader = self.read(text)
            self.assertEqual([tag for tag in reader.tags if tag in ("script", "link", "iframe", "img", "object", "embed")], [])
            self.assertEqual(len(reader.ids), len(set(reader.ids)))
            for tag, key, value in reader.links:
                self.assertEqual((tag, key, value[:1]), ("a", "href", "#"))
                self.assertIn(value[1:], reader.ids)
            self.assertNotRegex(text, r"url\(|@import|https?://")

    def test_plots(self):
        text = self.page(LOGS[0], LOGS[1])
        figures = re.findall(r"<figure>(.*?)</figure>", text, re.DOTALL)
        self.assertGreater(len(figures), 8)
        for figure in figures:
            svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", figure, re.DOTALL)[0])
            words = [node.get("class") for node in svg.iter("text")]
            self.assertIn("axis", words)
            self.assertIn("tick", words)
            self.assertRegex(figure, r"<h4>[^<]{8,}</h4>")
            self.assertIn('<ul class="legend">', figure)
            self.assertRegex(figure, r"<figcaption>[^<]{40,}</figcaption>")
            width, height = (float(value) for value in svg.get("viewBox").split()[2:])
            for node in svg.iter("rect"):
                self.assertGreaterEqual(float(node.get("x")), 0)
                self.assertLessEqual(float(node.get("x")) + float(node.get("width")), width + 0.2)
                self.assertLessEqual(float(node.get("y")) + float(node.get("height")), height)

    def test_what_a_log_says_is_text(self):
        data = GOOD.replace(b"# SKIP no 1G leaves", b"# SKIP <script>alert(1)</script> & co")
        text = self.page(data)
        self.read(text)
        self.assertIn("&lt;script&gt;alert(1)&lt;/script&gt; &amp; co", text)

    def test_what_a_log_does_not_say_is_no_zero(self):
        """A row of the lab that was cut before its end has no figures of the end."""
        at = LOGS[0].index(b"phase=after", LOGS[0].index(b"# lab workload=pages"))
        cut = LOGS[0][:LOGS[0].rindex(b"\n", 0, at) + 1]
        _, out, _ = self.one(cut)
        self.assertRegex(out, r"scattered, off +[\d,]+ +[\d,]+ +[\d,]+\n")
        self.read(self.page(cut))

    def test_steering(self):
        data = GOOD.replace(b"# counter ", b"# counter steering_operations=9 steering_unmapped=4 steering_off_blocks=78 "
                            b"steering_on_blocks=7 ")
        self.assertRegex(self.page(data), r"without steering: 78.*with steering: 7")

    def test_failures_come_first(self):
        text = self.page(test_run_qemu.FAILED)
        self.assertLess(text.index("buddy.t5"), text.index("Skipped, by reason"))

    def test_units_are_not_mixed(self):
        counted, timed = as_instructions(LOGS[0]), LOGS[0].replace(b"insns=", b"cycles=")
        self.assertIn("Our costs beside Linux", self.page(counted))
        text = self.page(timed)
        self.assertNotIn("Our costs beside Linux", text)
        self.assertIn("they are not comparable", text)
        text = self.page(counted, timed)
        self.assertIn("Median cost of single operations, in instructions", text)
        self.assertIn("Median cost of single operations, in TSC cycles", text)


class Browser(Base):
    """The page as a browser lays it out. Optional: chromium is larger than all other packages together."""

    def setUp(self):
        super().setUp()
        self.browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if not self.browser:
            self.skipTest("no chromium here (optional: apt-get install chromium)")

    def look(self, text, *options):
        """What page_probe.js finds on that page."""
        with open(os.path.join(HERE, "page_probe.js"), encoding="utf-8") as file:
            probe = file.read()
        self.write("page.html", text.replace("</body>", f"<script>{probe}</script></body>").encode())
        done = subprocess.run([self.browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={self.path('profile')}",
                               *options, "--dump-dom", f"file://{self.path('page.html')}"], capture_output=True, text=True, timeout=400,
                              check=False)
        left = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
        self.assertTrue(left, done.stderr[-500:])
        return json.loads(html.unescape(left[1]))

    def test_layout(self):
        """Wide and light, narrow and dark: all writing is there to be read, and every shape has its colour."""
        text = self.page(LOGS[0], LOGS[1])
        for size, dark in ((1000, False), (500, True)):
            seen = self.look(text, f"--window-size={size},2000", f"--blink-settings=preferredColorScheme={int(not dark)}")
            self.assertEqual((seen["found"], seen["width"], seen["dark"]), ([], size, dark))
            self.assertEqual(seen["plots"], text.count("<svg"))
            self.assertGreater(seen["shapes"], 100)

    def test_the_probe_finds(self):
        """The same page spoiled, in each way that the probe looks for."""
        text = self.page(LOGS[0])
        label = re.search(r"<text [^>]*>[^<]{5,}</text>", text)
        for spoiled, what in (
                (text.replace("<h1>", '<h1 style="width: 3000px">', 1), "the page is wider than its window"),
                (text.replace("<h1>", '<h1 style="color: #bbbbbb; background: #ffffff">', 1), "too faint: Tangram"),
                (re.sub(r'(<rect [^>]*class=")c2m', r"\1other", text, count=1), "without a colour: "),
                (text[:label.end()] + label[0] + text[label.end():], "over other writing: "),
                (text[:label.end()] + '<text x="-90" y="20">left</text>' + text[label.end():], "outside of its plot: left"),
                (text.replace("<svg ", '<svg style="height: 9px" ', 1), "a plot without room: ")):
            seen = self.look(spoiled, "--window-size=1000,2000", "--blink-settings=preferredColorScheme=1")
            self.assertTrue(any(line.startswith(what) for line in seen["found"]), (what, seen["found"]))


class Documented(Base):
    def missing(self, texts):
        """Keys of lines of figures that docs/report.md does not have."""
        with open(os.path.join(ROOT, "docs", "report.md"), encoding="utf-8") as file:
            known = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", file.read(), flags=re.DOTALL)))
        keys = {key for text in texts for key in re.findall(r"(?<![%a-z0-9_.])([a-z0-9_.]+)=", text)}
        return sorted(key for key in keys if not self.is_known(key, known))

    def test_every_key_of_a_log_is_in_the_documentation(self):
        texts = [text for data in LOGS for text in FIGURE.findall(data.decode("utf-8", "replace").replace("\r", ""))]
        self.assertGreater(len(texts), 100)
        self.assertEqual(self.missing(texts), [])

    def test_every_key_that_is_written_is_in_the_documentation(self):
        """What these boots do not show, by the strings in the sources."""
        texts = []
        for folder in ("tests", "mm", "kernel"):
            for path in glob.glob(os.path.join(ROOT, folder, "**", "*.c"), recursive=True):
                with open(path, encoding="utf-8") as file:
                    texts += re.findall(r'log_info\("((?:counter|map|lab|cost|execmem|trace) .*?);', file.read(), re.DOTALL)
        self.assertGreater(len(texts), 15)
        self.assertEqual(self.missing(texts), [])

    @staticmethod
    def is_known(key, known):
        """By its name, its last part (`_2m`), as one of a row (`free_order0` … `free_order18`), its beginning (`kernel_map_…`)."""
        if key in known or re.sub(r"\d+$", "0", key) in known:
            return True
        return any(name.startswith("_") and key.endswith(name) or name.endswith("…") and key.startswith(name[:-1])
                   for name in known)

    def test_the_page_explains_counters(self):
        meanings = report.read_meanings()
        for name in ("direct_map_4k", "direct_map_2m", "nr_tlb_local_flush_one", "buddy_free"):
            self.assertGreater(len(meanings.get(name, "")), 5, name)


if __name__ == "__main__":
    unittest.main()
