#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
tools/run-qemu, from outside: a firmware of a few bytes takes the place of OVMF, writes a given log to the serial
port and ends in a given way. Each way to end has its exit status and its reason.
"""

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = os.path.join(HERE, "..", "..", "tools")
sys.path.insert(0, TOOLS)
sys.path.insert(0, HERE)
import qemu  # noqa: E402  pylint: disable=wrong-import-position
from test_ktap import GOOD  # noqa: E402  pylint: disable=wrong-import-position

FAILED = GOOD.replace(b"  ok 5 t5\n", b"  not ok 5 t5\n").replace(b"\nok 1 buddy", b"\nnot ok 1 buddy").replace(
    b"verdict=pass passed=13 failed=0", b"verdict=fail passed=12 failed=1")
SKIPPED = (b"KTAP version 1\n# TANGRAM BEGIN build=a cpus=1 memory=1 seed=1\n1..1\nok 1 a # SKIP nothing here\n"
           b"# TANGRAM END verdict=pass passed=0 failed=0 skipped=1\n")

LIMIT = 120             # seconds, of what takes one: a busy host is no failure

# 16-bit code: what the machine does behind the text.
EXIT_PASS = b"\xba\xf4\x00\xb0\x10\xee"             # mov dx,0xf4; mov al,0x10; out dx,al
EXIT_FAIL = b"\xba\xf4\x00\xb0\x11\xee"
EXIT_ODD = b"\xba\xf4\x00\xb0\x05\xee"
RESET = b"\xba\xf9\x0c\xb0\x06\xee"                 # port 0xcf9: hard reset
TRIPLE_FAULT = b"\x0f\x01\x1e\xe0\xff\xcc"          # lidt of a limit of zero; int3
MONITOR = b"# TANGRAM MONITOR help lists the commands\n> "
HALT = b"\xf4\xeb\xfd"                              # hlt, for ever
FLOOD = b"\xba\xf8\x03\xee\xeb\xfd"                 # out dx,al, for ever


def rom(text, action):
    """64 KiB that write the text to COM1 and then act. Runs at f000:0000, from the reset vector."""
    head = b"\xfa\x8c\xc8\x8e\xd8"                  # cli; mov ax,cs; mov ds,ax
    head += b"\xbe\x00\x01" + b"\xb9" + struct.pack("<H", len(text)) + b"\xba\xf8\x03"
    head += b"\xe3\x04" + b"\xac\xee\xe2\xfc"       # jcxz past the loop; lodsb; out dx,al; loop
    image = bytearray(65536)
    code = head + action + HALT
    image[0:len(code)] = code
    image[0x100:0x100 + len(text)] = text
    image[0xfff0:0xfff5] = b"\xea\x00\x00\x00\xf0"  # jmp f000:0000
    return bytes(image)


def echo(last):
    """16-bit code: each byte that comes in goes out again; behind the last one, pass."""
    loop = (b"\xba\xfd\x03\xec\xa8\x01\x74\xfb"         # mov dx,0x3fd; in al,dx; test al,1; jz back to the in
            b"\xba\xf8\x03\xec\xee\x3c" + last)         # mov dx,0x3f8; in al,dx; out dx,al; cmp al,last
    return loop + b"\x75" + bytes([256 - len(loop) - 2]) + EXIT_PASS


def have_qemu():
    try:
        qemu.find_qemu()
        return True
    except qemu.Unavailable:
        return False


class Base(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="tangram-test-")
        self.addCleanup(self.folder.cleanup)
        os.makedirs(self.path("tmp"))
        os.makedirs(self.path("esp/tangram"))
        with open(self.path("esp/tangram/cmdline.txt"), "wb") as file:
            file.write(b"\xef\xbb\xbfseed=7 end=exit\r\n")
        self.write("vars", bytes(65536))

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data)

    def environment(self, **more):
        ours = {"OVMF_CODE": self.path("rom"), "OVMF_VARS": self.path("vars"), "TMPDIR": self.path("tmp"),
                "ACCEL": "tcg"}
        return {**os.environ, **ours, **more}

    def args(self, *more):
        return [sys.executable, os.path.join(TOOLS, "run-qemu"), "--esp", self.path("esp"), "--memory", "64M",
                "--timeout", str(LIMIT), "--result", self.path("result"), *more]

    def boot(self, text, action, *more, stdin=b"", **env):
        self.write("rom", rom(text, action))
        return self.run_args(*more, stdin=stdin, **env)

    def run_args(self, *more, stdin=b"", **env):
        done = subprocess.run(self.args(*more), env=self.environment(**env), input=stdin, capture_output=True, timeout=3 * LIMIT,
                              check=False)
        self.stdout, self.stderr = done.stdout, done.stderr.decode()
        self.assertEqual(os.listdir(self.path("tmp")), [], "something is left behind")
        return done.returncode

    def boot_until_silent(self, text, *more):
        """A machine that writes the text and hangs, ended by a time limit long enough for that on this host."""
        for seconds in ("3", "15", "60", "240"):
            status = self.boot(text, HALT, "--log", self.path("run.log"), "--timeout", seconds, *more)
            with open(self.path("run.log"), "rb") as file:
                if file.read() == text:
                    return status, seconds
        raise AssertionError("the text did not come in four minutes")

    def reason(self):
        with open(self.path("result"), encoding="utf-8") as file:
            return json.load(file)["reason"]


@unittest.skipUnless(have_qemu(), "no QEMU here")
class Ends(Base):
    def test_pass(self):
        self.assertEqual(self.boot(GOOD, EXIT_PASS), 0, "no pass")
        self.assertIn("run-qemu: PASS: 13 passed, 0 failed, 2 skipped", self.stderr)
        self.assertIn(b"ok 1 buddy", self.stdout)
        self.assertNotIn(b"\x1b", self.stdout)

    def test_log_is_raw(self):
        self.boot(GOOD, EXIT_PASS, "--log", self.path("log"))
        with open(self.path("log"), "rb") as file:
            self.assertEqual(file.read(), GOOD)

    def test_result_names_its_log(self):
        self.boot(GOOD, EXIT_PASS)
        with open(self.path("result"), encoding="utf-8") as file:
            result = json.load(file)
        self.assertEqual((result["log_bytes"], result["log_sha256"]), (len(GOOD), hashlib.sha256(GOOD).hexdigest()))

    def test_fail(self):
        self.assertEqual(self.boot(FAILED, EXIT_FAIL), 1)
        self.assertIn("buddy.t5", self.reason())

    def test_skip(self):
        self.assertEqual(self.boot(SKIPPED, EXIT_PASS), 77)

    def test_pass_status_without_a_complete_log(self):
        for text in (b"", GOOD[:GOOD.index(b"# TANGRAM END")], GOOD.replace(b"  ok 7 t7\n", b"")):
            self.assertEqual(self.boot(text, EXIT_PASS), 1, text[-50:])
            self.assertIn("incomplete", self.reason())

    def test_fail_status_with_a_good_log(self):
        self.assertEqual(self.boot(GOOD, EXIT_FAIL), 1)

    def test_other_status(self):
        self.assertEqual(self.boot(GOOD, EXIT_ODD), 1)
        self.assertIn("QEMU exited with 11", self.reason())

    def test_log_cut_at_random_places(self):
        for at in (len(GOOD) // 7 * step for step in range(1, 7)):
            self.assertEqual(self.boot(GOOD[:at], EXIT_PASS), 1, at)

    def test_triple_fault(self):
        self.assertEqual(self.boot(GOOD[:GOOD.index(b"ok 4")], TRIPLE_FAULT), 1)
        self.assertRegex(self.reason(), "^triple fault; .*buddy.t3")

    def test_reset(self):
        self.assertEqual(self.boot(GOOD[:GOOD.index(b"ok 4")], RESET), 1)
        self.assertRegex(self.reason(), "reset itself before the end.*buddy.t3")

    def test_hang_names_the_test(self):
        text = GOOD[:GOOD.index(b"  ok 1 t1")]
        status, seconds = self.boot_until_silent(text)
        self.assertEqual(status, 124)
        self.assertEqual(self.reason(), f"no end within {seconds} s; in test buddy.t1")
        self.assertIn("TIMEOUT", self.stderr)

    def test_end_halt(self):
        self.assertEqual(self.boot(GOOD, HALT, "--append", "end=halt"), 0)

    def test_no_exit_behind_end(self):
        self.assertEqual(self.boot(GOOD, HALT), 1)
        self.assertIn("end=exit did not end", self.reason())

    def test_end_reboot(self):
        self.assertEqual(self.boot(GOOD, RESET, "--append", "end=reboot"), 0)
        self.assertEqual(self.boot(GOOD, RESET), 1)
        self.assertEqual(self.boot(GOOD, RESET, "--append", "end=poweroff"), 1)

    def test_monitor_without_anybody(self):
        """Whoever runs end=monitor and does not type gets the verdict, and no hang."""
        self.assertEqual(self.boot(GOOD + MONITOR, HALT, "--append", "end=monitor"), 0)

    def test_monitor_takes_input(self):
        log = self.path("log")
        self.assertEqual(self.boot(GOOD + MONITOR, echo(b"!"), "--monitor", "--log", log, stdin=b"walk 1\n!"), 0)
        with open(log, "rb") as file:
            self.assertEqual(file.read(), GOOD + MONITOR + b"walk 1\n!")
        self.assertIn("PASS: 13 passed", self.stderr)

    def test_monitor_is_told_that_input_ends(self):
        self.assertEqual(self.boot(GOOD + MONITOR, echo(b"\x04"), "--monitor", stdin=b"dm"), 0)
        self.assertTrue(self.stdout.endswith(b"dm\r\x04"), self.stdout[-40:])

    def test_monitor_gets_all_of_a_long_input(self):
        text = bytes(range(0x20, 0x7f)) * 200
        self.assertEqual(self.boot(GOOD + MONITOR, echo(b"\x04"), "--monitor", stdin=text), 0)
        self.assertTrue(self.stdout.endswith(text + b"\r\x04"))

    def test_nothing_is_typed_before_the_monitor(self):
        self.assertEqual(self.boot(GOOD, echo(b"\x04"), "--monitor", stdin=b"walk 1\n"), 1)

    def test_monitor_of_a_failed_run(self):
        self.assertEqual(self.boot(FAILED + MONITOR, RESET, "--monitor"), 1)
        self.assertEqual(self.boot(GOOD + MONITOR, RESET, "--monitor"), 0)
        self.assertEqual(self.boot(GOOD + MONITOR + b"# PANIC on CPU 0 during payload: no\n", EXIT_FAIL, "--monitor"), 1)
        self.assertIn("PANIC", self.reason())

    def test_firmware_shell(self):
        self.assertEqual(self.boot(b"BdsDxe: x\r\nUEFI Interactive Shell v2.2\r\n", HALT), 1)
        self.assertIn("went back to the firmware", self.reason())

    def test_flood_is_ended(self):
        self.assertEqual(self.boot(GOOD[:300], FLOOD, "--quiet", "--timeout", "300"), 1)
        self.assertIn("MiB on the serial port", self.reason())

    def test_any_byte(self):
        text = bytes(range(256)) * 4 + GOOD
        self.assertEqual(self.boot(text, EXIT_PASS), 0)
        self.assertEqual(self.boot(GOOD[:300] + bytes(range(256)) * 4, EXIT_PASS), 1)

    def test_heartbeat(self):
        self.write("rom", rom(b"hello\r\n", HALT))
        process = subprocess.Popen(self.args(), env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE)
        with process.stderr:
            self.assertRegex(process.stderr.readline().decode(), r"run-qemu: \d+ s, silent for \d\d+ s; the kernel has not spoken yet")
            process.terminate()
        self.assertEqual(process.wait(LIMIT), 128 + signal.SIGTERM)

    def test_icount(self):
        self.assertEqual(self.boot(GOOD, EXIT_PASS, "--icount"), 0)
        self.assertEqual(self.run_args("--icount", "--cpus", "2"), 2)
        self.assertEqual(self.run_args("--icount", ACCEL="kvm"), 2)

    def test_qemu_refuses(self):
        self.assertEqual(self.boot(GOOD, EXIT_PASS, "--cpu", "no-such-cpu"), 1)
        self.assertIn("no-such-cpu", self.reason())

    def test_extra_and_numa(self):
        self.assertEqual(self.boot(GOOD, EXIT_PASS, "--cpus", "2", "--numa", "2", "--", "-vga", "std"), 0)
        self.assertEqual(self.boot(GOOD, EXIT_PASS, "--numa", "16M,48M"), 0)
        self.assertEqual(self.run_args("--numa", "16M,16M"), 2)

    def test_reader_goes_away(self):
        self.write("rom", rom(GOOD[:300] + b"# x\n" * 10000, HALT))
        process = subprocess.Popen(self.args(), env=self.environment(), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.close()
        with process.stderr:
            error = process.stderr.read().decode()
        self.assertEqual(process.wait(LIMIT), 1)
        self.assertNotIn("Traceback", error)
        self.assertEqual(os.listdir(self.path("tmp")), [])

    def stopped_by(self, number):
        self.write("rom", rom(GOOD[:300], HALT))
        process = subprocess.Popen(self.args(), env=self.environment(), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with process.stdout:
            self.assertIn(b"BdsDxe", process.stdout.readline())
            process.send_signal(number)
            status = process.wait(LIMIT)
        self.assertEqual(os.listdir(self.path("tmp")), [])
        return status

    def test_signals_leave_nothing(self):
        self.assertEqual(self.stopped_by(signal.SIGTERM), 128 + signal.SIGTERM)
        self.assertEqual(self.stopped_by(signal.SIGINT), 130)


class WithoutQemu(Base):
    """A program of ours in QEMU's place: what QEMU itself does."""

    def fake(self, script):
        self.write("qemu", b"#!/bin/sh\n" + script)
        os.chmod(self.path("qemu"), 0o755)
        self.write("rom", bytes(16))
        return self.run_args(QEMU=self.path("qemu"))

    def test_killed(self):
        self.assertEqual(self.fake(b"echo 'KTAP version 1'; kill -9 $$\n"), 1)
        self.assertIn("QEMU was killed by SIGKILL", self.reason())

    def test_says_why(self):
        self.assertEqual(self.fake(b"echo 'qemu: no memory' >&2; exit 1\n"), 1)
        self.assertIn("QEMU exited with 1: qemu: no memory", self.reason())

    def test_missing_qemu(self):
        self.write("rom", bytes(16))
        self.assertEqual(self.run_args(QEMU="/nonexistent/qemu"), 77)
        self.assertIn("SKIP", self.stderr)

    def test_missing_firmware(self):
        self.write("qemu", b"#!/bin/sh\nexit 33\n")
        os.chmod(self.path("qemu"), 0o755)
        self.assertEqual(self.run_args(QEMU=self.path("qemu")), 77)
        self.assertIn("no OVMF", self.stderr)

    def test_missing_esp(self):
        self.write("rom", bytes(16))
        self.assertEqual(self.run_args("--esp", self.path("nothing")), 2)
        self.assertIn("make esp", self.stderr)

    def test_wrong_arguments(self):
        self.write("rom", bytes(16))
        for args in (["--cpus", "0"], ["--memory", "0"], ["--memory", "4X"], ["--bogus"], ["--timeout", "x"]):
            self.assertEqual(self.run_args(*args), 2, args)

    def test_command_line(self):
        """The private copy holds the merged line; the ESP itself is as before."""
        script = b"""for a; do case $a in *file=fat:*) esp=${a#*fat:};; esac; done
            cat "$esp/tangram/cmdline.txt" >&2; exit 3\n"""
        self.write("qemu", b"#!/bin/sh\n" + script)
        os.chmod(self.path("qemu"), 0o755)
        self.write("rom", bytes(16))
        self.assertEqual(self.run_args("--append", "lab=off  end=halt", QEMU=self.path("qemu")), 1)
        self.assertIn("QEMU exited with 3: seed=7 lab=off end=halt", self.reason())
        with open(self.path("esp/tangram/cmdline.txt"), "rb") as file:
            self.assertEqual(file.read(), b"\xef\xbb\xbfseed=7 end=exit\r\n")


class Pieces(unittest.TestCase):
    def test_merge(self):
        self.assertEqual(qemu.merge_cmdline("a=1 b=2", "c", "a=3"), "b=2 c a=3")
        self.assertEqual(qemu.merge_cmdline("", "  "), "")

    def test_sizes(self):
        self.assertEqual(qemu.parse_size("512M"), 512 << 20)
        self.assertEqual(qemu.parse_size("4g"), 4 << 30)
        self.assertEqual(qemu.parse_size("64"), 64 << 20)
        for bad in ("", "M", "-1M", "1.5G", "4X"):
            self.assertRaises(qemu.Usage, qemu.parse_size, bad)

    def test_escape_filter_in_pieces(self):
        text = b"a\x1b[2Jb\x1b[01;37mc\x1b(Bd"
        for step in range(1, len(text)):
            stream = qemu.EscapeFilter()
            out = b"".join(stream.feed(text[at:at + step]) for at in range(0, len(text), step))
            self.assertEqual(out, b"abcd", step)

    def test_time_limits(self):
        self.assertEqual(qemu.Options().seconds, 300)
        self.assertEqual(qemu.Options(icount=True).seconds, 900)
        self.assertIsNone(qemu.Options(debug=True).seconds)
        self.assertEqual(qemu.Options(monitor=sys.stdin).seconds, 300)
        self.assertEqual(qemu.Options(monitor=sys.stdin, timeout=7).seconds, 7)


class Stopped:
    """In the place of QEMU's process: whether it was ended."""

    def __init__(self):
        self.dead = False

    def kill(self):
        self.dead = True


class MonitorLimits(unittest.TestCase):
    """How long a run with a monitor may take: told by its watchman alone, at times of ours."""

    def setUp(self):
        reader, writer = os.pipe()
        self.reader, self.writer = os.fdopen(reader, "rb"), os.fdopen(writer, "wb")
        self.addCleanup(self.reader.close)
        self.addCleanup(self.writer.close)

    def run_of(self, log, **options):
        run = qemu.Run(qemu.Options(monitor=self.reader, **options))
        run.ktap.feed(log)
        return run

    @staticmethod
    def ended(run, now, heard):
        """Whether it is, of a run that began at 0, and with what exit status and reason."""
        process = Stopped()
        run._watch(process, now, 0, heard)                              # pylint: disable=protected-access
        return run._judge(-9, b"", "") if process.dead else None        # pylint: disable=protected-access

    def test_before_the_monitor(self):
        run = self.run_of(GOOD[:GOOD.index(b"  ok 1 t1")])
        self.assertIsNone(self.ended(run, 299, 298))
        self.assertEqual(self.ended(run, 300, 299), (qemu.TIMEOUT, "no end within 300 s; in test buddy.t1"))

    def test_who_types_may_take_their_time(self):
        self.assertIsNone(self.ended(self.run_of(GOOD + MONITOR), 100000, 10))

    def test_behind_the_input(self):
        run = self.run_of(GOOD + MONITOR)
        self.writer.close()
        run._input.read()                   # pylint: disable=protected-access
        run._input.last = 1000              # pylint: disable=protected-access
        self.assertIsNone(self.ended(run, 1299, 10))
        self.assertIsNone(self.ended(run, 5000, 4701), "it speaks")
        self.assertEqual(self.ended(run, 5001, 4701), (qemu.TIMEOUT,
                                                        "silent at the monitor for 300 s, and nothing more to be typed"))

    def test_input_that_nobody_takes(self):
        run = self.run_of(GOOD + MONITOR)
        self.writer.write(b"x" * (2 * qemu.INPUT_MAX))
        self.writer.flush()
        run._input.read()                   # pylint: disable=protected-access
        run._input.last = 1000              # pylint: disable=protected-access
        self.assertIsNone(self.ended(run, 1299, 10))
        self.assertEqual(self.ended(run, 1300, 10)[0], qemu.TIMEOUT)

    def test_one_that_was_asked_for_is_of_all(self):
        run = self.run_of(GOOD + MONITOR, timeout=7)
        self.assertIsNone(self.ended(run, 6, 6))
        self.assertEqual(self.ended(run, 7, 7)[0], qemu.TIMEOUT)


if __name__ == "__main__":
    unittest.main()
