#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
The monitor (RP3) as a person meets it: typed at through a terminal, and what it says compared with what QEMU knows.

    tests/qemu/boot_monitor.py [unittest arguments]      (build/ must be there: make esp)

One machine of 4 CPUs answers everything but the ways to end it.
"""

import io
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import unittest

import pexpect

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))

import qemu  # noqa: E402  pylint: disable=wrong-import-position

BUILD = os.environ.get("TANGRAM_BUILD", os.path.join(ROOT, "build"))
RUN_QEMU = os.path.join(ROOT, "tools", "run-qemu")
SECONDS = 240           # for anything: the host may be busy
PROMPT = b"tangram> "
ADDR = 0x000ffffffffff000
PS, PRESENT, WRITABLE, NX = 1 << 7, 1, 2, 1 << 63
UP, DOWN, RIGHT, LEFT = b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D"
PLENTY = "140000000"    # physical 5 GiB: the second half of 4 GiB begins at 4 GiB

COMMANDS = {"audit", "buddy", "collapse", "cpus", "dm", "dump", "exit", "help", "map", "policy", "poweroff", "reboot",
            "report", "run", "split", "stats", "suites", "tlb", "trace", "um", "vmalloc", "walk", "xm"}


class Hmp:
    """QEMU's own monitor: the machine from outside."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SECONDS)
        self.socket.connect(path)
        self._until_prompt()

    def _until_prompt(self):
        data = b""
        while not data.endswith(b"(qemu) "):
            piece = self.socket.recv(65536)
            if not piece:
                raise EOFError("QEMU's monitor has gone")
            data += piece
        return data.decode("ascii", "replace").replace("\r", "")

    def ask(self, line):
        self.socket.sendall(line.encode() + b"\n")
        return self._until_prompt()

    def physical(self, address, words=1):
        """64-bit words of memory."""
        found = re.findall(r"^[0-9a-f]+:((?: 0x[0-9a-f]+)+)$", self.ask(f"xp /{words}gx {address:#x}"), re.MULTILINE)
        return [int(word, 16) for words in found for word in words.split()]

    def leaves(self, start, end):
        """What CPU 0 has mapped: (number of leaves, of those larger than 4K)."""
        found = re.findall(r"^([0-9a-f]{16}): [0-9a-f]{16} ([A-Z-]+)$", self.ask("info tlb"), re.MULTILINE)
        mine = [flags for va, flags in found if start <= int(va, 16) < end]
        return len(mine), sum("P" in flags for flags in mine)


def start(append, *options, extra=()):
    """tools/run-qemu on a terminal of its own."""
    args = [RUN_QEMU, "--build", BUILD, "--monitor", "--timeout", str(3 * SECONDS), "--append", append, *options]
    child = pexpect.spawn(sys.executable, args + (["--", *extra] if extra else []), timeout=SECONDS, dimensions=(40, 80))
    child.delaybeforesend = None
    return child


def finish(child):
    """Its exit status; the machine has been told to end."""
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


class Commands(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="tangram-monitor-")
        path = os.path.join(cls.folder.name, "hmp")
        cls.child = start("suite=none lab=off kaslr=off", "--cpus", "4", "--memory", "4G",
                          extra=["-chardev", f"socket,id=hmp,path={path},server=on,wait=off",
                                 "-mon", "chardev=hmp,mode=readline"])
        try:
            cls.child.expect_exact(b"# TANGRAM MONITOR")
            cls.child.expect_exact(PROMPT)
            cls.hmp = Hmp(path)
        except BaseException:
            cls.child.close(force=True)
            cls.folder.cleanup()
            raise

    @classmethod
    def tearDownClass(cls):
        if cls.child.isalive():
            cls.child.close(force=True)
        cls.folder.cleanup()

    def ask(self, line, keys=None):
        """Type the line, or the keys that should make it; returns what is said, without what marks diagnostics."""
        self.child.send(keys if keys is not None else line.encode() + b"\r")
        self.child.expect_exact(b"\r" + PROMPT + line.encode() + b"\r\n")
        self.child.expect_exact(PROMPT)
        text = self.child.before.decode("ascii").replace("\r", "")
        return "\n".join(line.removeprefix("# ") for line in text.split("\n")).strip("\n")

    def refused(self, line, *words):
        text = self.ask(line)
        self.assertTrue(text.startswith(("error: ", "warning: ")), f"{line}: {text}")
        for word in words:
            self.assertIn(word, text, line)

    def counters(self):
        return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", self.ask("stats"))}

    def totals(self):
        """The last line of dm; the lines before it must add up to it."""
        text = self.ask("dm")
        total = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", text.splitlines()[-1])}
        rows = [dict(re.findall(r"(\w+)=(\d+)", row)) for row in text.splitlines()[:-1]]
        for size in ("1g", "2m", "4k"):
            self.assertEqual(sum(int(row.get(size, 0)) for row in rows), total[size], text)
        return total

    def walk(self, address):
        """[(level, index, entry)], checked against memory as QEMU sees it."""
        text = self.ask(f"walk {address}")
        root = int(re.search(r"from root 0x([0-9a-f]+)", text)[1], 16)
        va = int(re.search(r"walk of 0x([0-9a-f]+)", text)[1], 16)
        steps = [(int(level), int(index), int(entry, 16), words) for level, index, entry, words in
                 re.findall(r"level (\d) entry +(\d+): ([0-9a-f]{16}) (.*)", text)]
        table = root
        for level, index, entry, words in steps:
            self.assertEqual(index, va >> (3 + 9 * level) & 511)
            self.assertEqual(self.hmp.physical(table + 8 * index), [entry], text)
            leaf = entry & PRESENT and (level == 1 or entry & PS)
            self.assertTrue(words.startswith("absent" if not entry & PRESENT else "leaf" if leaf else "table"), text)
            self.assertEqual(" NX" in words, bool(entry & NX), text)
            self.assertEqual("W" in words.split(" ")[1], bool(entry & WRITABLE), text)
            table = entry & ADDR
        return steps, text

    # -- looking ----------------------------------------------------------------------------------------

    def test_help(self):
        text = self.ask("help")
        self.assertEqual({line.split()[0] for line in text.splitlines()}, COMMANDS)
        self.assertEqual(text.splitlines(), sorted(text.splitlines()))
        for command in sorted(COMMANDS):
            more = self.ask(f"help {command}")
            self.assertTrue(more.startswith(command), more)
            text += "\n" + more
        self.assertLessEqual(max(len(line) for line in text.splitlines()), 78)

    def test_suites_are_those_of_the_sources(self):
        text = self.ask("suites")
        found = dict(re.findall(r"([a-z0-9_]+) +(\d+)(?=   |$)", "\n".join(text.splitlines()[:-1]), re.MULTILINE))
        names = set()
        grep = ["grep", "-rhoE", r"^TEST(_ID|_FLAGS|_ROWS)?\(\w+", "--include=*.c", "--exclude-dir=host", "tests"]
        sources = subprocess.run(grep, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for line in sources.splitlines():
            names.add(line.split("(")[1])
        self.assertEqual(set(found), names)
        self.assertEqual(text.splitlines()[-1], f"{len(found)} suites, {sum(map(int, found.values()))} tests")

    def test_run(self):
        text = self.ask("run fmt seed=7")
        self.assertIn("ok 1 fmt\n", text + "\n")
        passed = len(re.findall(r"^  ok \d+ ", text, re.MULTILINE))
        self.assertIn(f"run of fmt, seed=7: pass, {passed} passed, 0 failed, 0 skipped", text)
        self.assertGreater(passed, 3)
        self.assertIn("seed=1: pass, 2 passed, 0 failed", self.ask("run fmt.integers,fmt.pointers"))

    def test_tables(self):
        self.assertRegex(self.ask("buddy"), r"node 0: frames=\d+ free=\d+")
        self.assertRegex(self.ask("um"), r"unmapped: mode 2m, 0 KiB, 0 KiB in use")
        self.assertRegex(self.ask("xm"), r"policy huge\n(execmem policy=huge type=\S+ allocs=.*\n?)+")
        self.assertRegex(self.ask("vmalloc"), r"0x[0-9a-f]{16}-0x[0-9a-f]{16} +\d+ \w+ pages=\d+ kind=ioremap")
        self.assertEqual(len(re.findall(r"^CPU \d: flushed up to \d+, \d+ behind$", self.ask("tlb"), re.MULTILINE)), 4)
        self.assertEqual(re.findall(r"^CPU (\d): thread (\w+)", self.ask("cpus"), re.MULTILINE),
                         [("0", "main"), ("1", "idle"), ("2", "idle"), ("3", "idle")])
        self.assertRegex(self.ask("audit"), r"^audit violations=0 leaves=\d+ executable=\d+ windows=\d+ differences=0$")
        self.assertIn("==== SUMMARY ====", self.ask("report"))

    def test_dm_is_what_qemu_has_mapped(self):
        total = self.totals()
        base = int(re.search(r"walk of 0x([0-9a-f]+)", self.ask("walk pa:0"))[1], 16)
        self.assertEqual(self.hmp.leaves(base, base + (64 << 30)), (total["leaves"], total["1g"] + total["2m"]))
        self.assertGreater(total["1g"], 0)
        figures = self.counters()
        self.assertEqual(figures["direct_map_leaves"], total["leaves"])
        self.assertEqual(figures["direct_map_1g"], total["1g"] << 30)

    def test_walk(self):
        steps, text = self.walk("pa:" + PLENTY)
        self.assertEqual(steps[-1][0], 3, text)
        self.assertIn("physical 0x140000000 by a 1G leaf: writable, no code, write-back, global", text)
        steps, text = self.walk("ffffffff80000000")
        self.assertIn("by a 2M leaf: read-only, executable, write-back", text)
        self.assertIn("class kernel-text", text)
        steps, text = self.walk("1000")
        self.assertFalse(steps[-1][2] & PRESENT)
        self.assertIn("not mapped", text)

    def test_map(self):
        text = self.ask("map ffffffff80000000 2m")
        self.assertRegex(text, r"^0xffffffff80000000-0xffffffff80[0-9a-f]{6} +\d+ x 2M at 0x[0-9a-f]+ r-x global ")
        area = re.search(r"^0x([0-9a-f]+)-0x[0-9a-f]+ .*kind=ioremap", self.ask("vmalloc"), re.MULTILINE)[1]
        self.assertRegex(self.ask(f"map {area} 4k"), rf"^0x{area}-.* 1 x 4K at 0x[0-9a-f]+ rw- .*uncached$")
        # Pieces of the direct map add up to what lies between.
        text = self.ask("map pa:0 2g")
        starts, ends = zip(*re.findall(r"^0x([0-9a-f]+)-0x([0-9a-f]+) ", text, re.MULTILINE))
        self.assertEqual(sorted(starts), list(starts))
        self.assertTrue(all(end <= after for end, after in zip(ends, starts[1:])))
        self.assertEqual(len(set(starts)), len(starts))
        self.assertIn("nothing is mapped from", self.ask("map ffffe00000000000 4k"))

    def test_dump(self):
        va = int(re.search(r"walk of 0x([0-9a-f]+)", self.ask("walk pa:0"))[1], 16)
        text_pa = int(re.search(r"physical 0x([0-9a-f]+)", self.ask("walk ffffffff80000000"))[1], 16)
        for address, physical in ((0xffffffff80000000, text_pa), (va + text_pa + 0x100, text_pa + 0x100)):
            text = self.ask(f"dump {address:x} 100")
            rows = re.findall(r"^0x[0-9a-f]{16}((?: [0-9a-f]{2}){16})  ", text, re.MULTILINE)
            shown = b"".join(bytes.fromhex(row) for row in rows)
            self.assertEqual(len(shown), 112)
            words = self.hmp.physical(physical, 14)
            self.assertEqual(shown, b"".join(word.to_bytes(8, "little") for word in words))

    # -- changing ---------------------------------------------------------------------------------------

    def splits(self, size, level, smaller):
        """One split of the leaf at PLENTY: 511 leaves more, in whatever counts them."""
        before, counted = self.totals(), self.counters()
        self.assertIn(f"split level3={int(level == 3)} level2={int(level == 2)}, 511 leaves more",
                      self.ask(f"split pa:{PLENTY} {size}"))
        after, counted_after = self.totals(), self.counters()
        self.assertEqual(after["leaves"], before["leaves"] + 511)
        self.assertEqual(after[size], before[size] + 512)
        self.assertEqual(after[smaller], before[smaller] - 1)
        self.assertEqual(after["tables"], before["tables"] + 1)
        self.assertEqual(after["fewest"], before["fewest"])
        for key in ("direct_map_level2_splits", "direct_map_level3_splits"):
            self.assertEqual(counted_after[key], counted[key] + (key == f"direct_map_level{level}_splits"), key)
        base = int(re.search(r"walk of 0x([0-9a-f]+)", self.ask("walk pa:0"))[1], 16)
        self.assertEqual(self.hmp.leaves(base, base + (64 << 30)), (after["leaves"], after["1g"] + after["2m"]))
        self.assertEqual(self.walk(f"pa:{PLENTY}")[0][-1][0], level - 1)

    def test_split_and_collapse(self):
        before, counted = self.totals(), self.counters()
        self.assertIn("collapse=off", self.ask("policy collapse=off"))
        self.splits("2m", 3, "1g")
        self.splits("4k", 2, "2m")
        self.refused(f"split pa:{PLENTY}", "is mapped by a 4K leaf already")
        # By hand it is collapsed under any policy, and the policy stays.
        self.assertIn("collapsed level3=1 level2=1", self.ask(f"collapse pa:{PLENTY}"))
        self.assertIn("collapse=off", self.ask("policy"))
        self.assertEqual(self.totals(), before)
        after = self.counters()
        for level in (2, 3):
            key = f"direct_map_level{level}_collapses"
            self.assertEqual(after[key], counted[key] + 1)
        self.assertIn("collapsed level3=0 level2=0", self.ask("collapse"))
        self.assertIn("collapse=eager", self.ask("policy collapse=eager"))
        # Without a size: down to 4K, and any flush of the policy's takes it back.
        self.assertIn("split level3=1 level2=1, 1022 leaves more", self.ask(f"split pa:{PLENTY}"))
        self.assertIn("pass, 1 passed", self.ask("run fmt.integers"))
        self.assertEqual(self.totals(), before)
        text = self.ask("collapse ffffffff80000000")
        self.assertIn("0xffffffff80000000 is mapped by a 2M leaf", text)
        self.assertEqual(len(text.splitlines()), 3)

    def test_policies(self):
        self.assertEqual(self.ask("policy"), "collapse=eager\nexecmem=huge\num=2m")
        self.assertEqual(self.ask("policy execmem=pack um=1g collapse=deferred"), "collapse=deferred\nexecmem=pack\num=1g")
        self.assertIn("policy pack", self.ask("xm"))
        self.assertEqual(self.ask("policy collapse=eager execmem=huge um=2m"), "collapse=eager\nexecmem=huge\num=2m")

    def test_trace(self):
        self.assertEqual(self.ask("trace"), "records nothing")
        self.assertEqual(self.ask("trace split,collapse"), "records split\nrecords collapse")
        self.ask(f"split pa:{PLENTY} 2m")
        self.ask("collapse")
        text = self.ask("trace show")
        self.assertRegex(text, r"trace tsc=\d+ cpu=0 context=task event=split level=3 .*\n.*event=collapse level=3 ")
        self.assertEqual(self.ask("trace off"), "records nothing")

    # -- what is wrong ----------------------------------------------------------------------------------

    def test_errors_say_what_was_wrong(self):
        area = re.search(r"^0x([0-9a-f]+)-0x[0-9a-f]+ .*kind=ioremap", self.ask("vmalloc"), re.MULTILINE)[1]
        guard = f"{int(area, 16) - 0x1000:x}"
        for line, *words in (
                ("nosuch", '"nosuch"', "help"), ("WALK 1", '"WALK"'), ("help nosuch", '"nosuch"'),
                ("walk", "an argument is missing", "walk VA"), ("walk 1 2", 'from "2" on', "walk VA"),
                ("exit now", 'from "now" on'), ("dm a b c d e f g h i j k", 'from "a" on'),
                ("walk zz", '"zz" is no address'), ("walk 0x", '"0x" is no address'), ("walk -1", '"-1" is no address'),
                ("walk 12345678123456781", "is no address"), ("walk pa:", '"pa:" is no address'),
                ("walk 800000000000", "not canonical"), ("walk ffff7fffffffffff", "not canonical"),
                ("walk pa:fffffffffffffff", "beyond the direct map"),
                ("map 1000", "not in the kernel half"), ("map ffffffff80000000 0", '"0" is no number of bytes'),
                ("map ffffffff80000000 1x", '"1x"'), ("map ffffffff80000000 k", '"k"'),
                ("split", "an argument is missing"), ("split ffffffff80000000", "not in the direct map"),
                ("split 1000", "not in the direct map"),
                ("split pa:fee00000", "no memory of the direct map"), (f"split {area}", "not in the direct map"),
                (f"split pa:{PLENTY} 8k", '"8k" is no size'), (f"split pa:{PLENTY} 1g", '"1g" is no size'),
                (f"split pa:{PLENTY} 2mm", '"2mm"'), ("split pa:1000", "4K leaf already"),
                ("collapse nowhere", '"nowhere" is no address'), ("collapse 1000", "not in the kernel half"),
                ("dump 0", "0x0 cannot be read"), (f"dump {guard}", "cannot be read"),
                (f"dump {area}", "not mapped write-back"), ("dump ffffffff80000000 5k", "from 1 to 4096"),
                ("dump ffffffff80000000 99999999999999999999", "no number"),
                ("dump fffffffffffffff8 64", "cannot be read"),
                ("run", "an argument is missing"), ("run nosuch", '"nosuch" matches no test'),
                ("run none", '"none" matches no test'),
                ("run fmt seed=x", '"x" is no seed'), ("run fmt lab=always", '"lab=always"'), ("run fmt 7", '"7"'),
                ("policy eager", '"eager" is not of the form'), ("policy color=red", '"color"'),
                ("policy collapse=sometimes", '"sometimes"'), ("trace teleport", '"teleport"')):
            with self.subTest(line=line):
                self.refused(line, *words)
        self.assertEqual(self.ask("policy"), "collapse=eager\nexecmem=huge\num=2m")

    def test_any_address(self):
        """Nothing that is looked at takes the machine down, wherever it lies."""
        rng = random.Random(1)
        for _ in range(12):
            shift = rng.randrange(12, 48)
            va = rng.randrange(1 << shift) | (rng.choice((0, 0xffff8000, 0xffffd000, 0xffffffff)) << 32)
            for command in ("walk", "map", "dump", "split"):
                self.ask(f"{command} {va:x}")
        self.ask("collapse")

    # -- typing -----------------------------------------------------------------------------------------

    def test_editing_keys(self):
        policies = self.ask("policy")
        for line, keys in (
                ("policy", b"plicy" + 4 * LEFT + b"o\r"), ("policy", b"xpolicyy\x7f\x01\x04\r"),
                ("policy", b"licy\x01po\x05\r"), ("policy", b"policy trash\x17\x08\r"), ("policy", b"nonsense \x15policy\r"),
                ("policy", b"policy nonsense\x01" + 6 * RIGHT + b"\x0b\r"), ("policy", b"\x1b[Hpolicy\x1b[F\x1b[3~\r"),
                ("policy", b"po\x0clicy\r"), ("policy", b"\x1b[5~p\x1b[15~olicy\x1b[200~\r"),
                ("policy", b"pol\xc3\xa9i\xffcy\r"), ("policy", b"walk 1\x03policy\r"), ("policy", b"policy\n"),
                (" policy  ", b" policy  \r")):
            with self.subTest(keys=keys):
                self.assertEqual(self.ask(line, keys), policies)

    def test_history(self):
        self.ask("walk 1000")
        self.ask("policy")
        self.assertIn("not mapped", self.ask("walk 1000", UP + UP + b"\r"))
        self.ask("policy", UP + UP + b"\r")
        self.assertIn("walk of 0x0000000000001008", self.ask("walk 1008", UP + UP + DOWN + UP + b"\x7f8\r"))

    def test_completion(self):
        self.assertIn("suites, ", self.ask("suites ", b"sui\t\r"))
        self.assertIn("run of fmt", self.ask("run fmt ", b"ru\tfm\t\r"))
        self.assertIn("collapse=deferred", self.ask("policy collapse=deferred ", b"pol\tc\td\t\r"))
        self.ask("policy collapse=eager")
        self.child.send(b"po\t")
        self.child.expect_exact(b"policy    poweroff")
        self.child.expect_exact(PROMPT + b"po")
        self.ask("policy", b"licy\r")

    def test_lines_end_once(self):
        """CR LF is one end; several commands in one go come out one after the other."""
        self.child.send(b"policy um=1g\r\npolicy um=2m\r\n" + b"policy\r" * 20 + b"trace\n")
        for line in [b"policy um=1g", b"policy um=2m"] + 20 * [b"policy"] + [b"trace"]:
            self.child.expect_exact(b"\r" + PROMPT + line + b"\r\n")
            self.child.expect_exact(PROMPT)
        self.assertIn(b"records nothing", self.child.before)

    def test_long_lines(self):
        self.assertIn('error: there is no command "xxx', self.ask("x" * 255))
        self.child.send(b"x" * 300 + b"\r")
        self.child.expect_exact(b"error: a line has at most 255 characters: not run")
        self.child.expect_exact(PROMPT)

    def test_noise(self):
        """Bytes at random, but for those that end the monitor or QEMU."""
        rng = random.Random(2)
        noise = [c for c in range(256) if c not in (0x04, 0x1d)]
        self.child.send(bytes(rng.choice(noise) for _ in range(3000)) + b"\x03")
        self.child.expect_exact(b"\r\n" + PROMPT)
        self.assertIn("collapse=eager", self.ask("policy", b"\x03policy\r"))

    def test_zz_exit(self):
        self.child.send(b"exit\r")
        self.assertEqual(finish(self.child), 0)
        self.assertIn(b"run-qemu: PASS: 0 passed, 0 failed, 0 skipped", self.child.before)


class Ends(unittest.TestCase):
    """The verdict is that of the run, whatever was done behind it."""

    def test_exit_of_a_failed_run(self):
        child = start("suite=no_such_suite lab=off", "--memory", "512M")
        child.expect_exact(PROMPT)
        child.send(b"run fmt\r")
        child.expect_exact(b"run of fmt, seed=1: pass")
        child.expect_exact(PROMPT)
        child.send(b"\x04")
        self.assertEqual(finish(child), 1)

    def test_control_bracket_ends_qemu(self):
        child = start("suite=fmt lab=off", "--memory", "512M")
        child.expect_exact(PROMPT)
        child.send(b"half a li\x1d")
        self.assertEqual(finish(child), 0)

    def run_script(self, script):
        """
        Commands by a pipe; returns the result, QMP's reason for the end, and what was said. Behind the last of them run-qemu types
        Ctrl-D, which is a pass as well: only the reason tells who ended the machine.
        """
        with tempfile.TemporaryFile() as typed:
            typed.write(script)
            typed.seek(0)
            said = io.BytesIO()
            run = qemu.Run(qemu.Options(build=BUILD, memory="512M", timeout=SECONDS, monitor=typed,
                                        append="suite=fmt lab=off end=monitor"), said)
            return run.run(), run.shutdown, said.getvalue()

    def test_poweroff(self):
        result, shutdown, said = self.run_script(b"run runner.no_such_test\npoweroff\n")
        self.assertEqual((result.code, shutdown), (qemu.PASS, "guest-shutdown"), result.line())
        self.assertIn(b"matches no test", said)

    def test_reboot(self):
        result, shutdown, _ = self.run_script(b"reboot\n")
        self.assertEqual((result.code, shutdown), (qemu.PASS, "guest-reset"), result.line())

    def test_end_of_input(self):
        """Nobody reset it or switched it off: what the two tests above would see if their commands did nothing."""
        result, shutdown, _ = self.run_script(b"policy\n")
        self.assertEqual((result.code, shutdown), (qemu.PASS, None), result.line())


if __name__ == "__main__":
    unittest.main()
