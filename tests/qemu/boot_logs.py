#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
BT1, BT6, RP4: the log of a run outlives a reset and becomes a file on the stick, or is said to be lost; and what the screen shows
meanwhile. A dozen boots on four machines, and no more of each than the tests need.

    tests/qemu/boot_logs.py [unittest arguments]        (build/ must be there: make esp)
"""
import json
import mmap
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

from firmware import BUILD, ROOT, Machine, NotSeen, make_esp, make_image
from screen import Screen

sys.path.insert(0, os.path.join(ROOT, "tools"))

import ktap  # noqa: E402  pylint: disable=wrong-import-position

KERNEL = os.path.join(BUILD, "kernel.elf")
PLACES = [mib << 20 for mib in (32, 64, 128, 256, 512, 768)]    # boot/logs.c
MAGIC = b"TANGLOG1"
HEADER, CHUNK_TEXT = 24, 4096 + 24      # kernel/base/log_ring.h
PLAIN = "suite=fmt lab=off"
LONGER = "suite=random,fmt,runner lab=off"       # seconds, in this order: the screen is looked at meanwhile
PROGRESS = re.compile(r" test (\d+) of (\d+), 0 failed, (?:(\d+) min )?(\d+) s gone(?:, about (\d+ (?:s|min)) left)?"
                      r" \| (?:fmt|random|runner)\.[a-z0-9_.-]+")       # tests/machine/progress.c
SURE = 5.0      # seconds and tests before that says a time left
IN = r"loader: the log of the run before is in \\tangram\\logs\\{}: "
LOST = "loader: the log of the run before is lost: "
TIMEOUT = 600.0


def stick(image, how=""):
    """An image as a USB stick: QEMU arguments."""
    return ["-device", "qemu-xhci", "-drive", f"if=none,id=stick,format=raw,file={image}{how}",
            "-device", "usb-storage,drive=stick,removable=on"]


class Disk:
    """An image without partitions, looked at and changed while the machine is not using it."""

    def __init__(self, folder, cmdline, fill=None):
        self.path = os.path.join(folder, "disk")
        esp = make_esp(os.path.join(folder, "esp"), kernel=KERNEL, cmdline=cmdline.encode())
        if fill:
            fill(os.path.join(esp, "tangram", "logs"))
        make_image(esp, self.path)

    def command(self, *args, data=None):
        env = {**os.environ, "MTOOLS_LOCK_TIMEOUT": "1"}
        return subprocess.run([args[0], "-i", self.path, *args[1:]], input=data, capture_output=True, check=False, env=env)

    def read(self, name):
        """A file of \\tangram\\logs, None if it is not there."""
        got = self.command("mtype", "::/tangram/logs/" + name)
        return got.stdout if got.returncode == 0 else None

    def logs(self):
        got = self.command("mdir", "-b", "::/tangram/logs")
        return sorted(line.rsplit("/", 1)[1] for line in got.stdout.decode().split() if "/logs/" in line)

    def set_cmdline(self, text):
        self.command("mcopy", "-o", "-", "::/tangram/cmdline.txt", data=text.encode()).check_returncode()

    def fill(self, spare):
        """Leave so many bytes."""
        free = re.search(r"([\d ]+) bytes free", self.command("mdir", "::/").stdout.decode())[1]
        size = int(free.replace(" ", "")) - spare
        self.command("mcopy", "-", "::/full", data=bytes(size)).check_returncode()


class Desk:
    """
    A machine that halts at its end like a real one (no hypervisor: no debug exit), with a reset button, a screen, and memory that
    can be looked into.
    """

    def __init__(self, folder, drive, **options):
        self.qmp_path = os.path.join(folder, "qmp")
        self.ram_path = os.path.join(folder, "ram")
        self.dump = os.path.join(folder, "screen.ppm")
        ram = f"memory-backend-file,id=ram,size=512M,share=on,mem-path={self.ram_path}"
        self.machine = Machine(drive, memory="512M", cpu="max,-hypervisor", reboots=True, timeout=TIMEOUT,
                               kind="q35,memory-backend=ram",
                               extra=["-object", ram, "-vga", "std", "-qmp", f"unix:{self.qmp_path},server=on,wait=off"],
                               **options)
        self.qmp = None
        self.began = 0              # where in the text this boot begins

    def __enter__(self):
        self.machine.__enter__()
        return self

    def __exit__(self, *args):
        if self.qmp:
            self.qmp.close()
        self.machine.__exit__(*args)

    def ask(self, command, **arguments):
        if not self.qmp:
            while not os.path.exists(self.qmp_path) and self.machine.process.poll() is None:
                time.sleep(0.1)
            self.qmp = socket.socket(socket.AF_UNIX)
            self.qmp.settimeout(60)
            self.qmp.connect(self.qmp_path)
            self.answers = self.qmp.makefile()
            self.answers.readline()
            self.ask("qmp_capabilities")
        self.qmp.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self.answers.readline())
            if "return" in answer or "error" in answer:
                return answer

    def reset(self):
        self.began = len(self.machine.text)
        self.machine.seen = self.began
        self.ask("system_reset")

    def expect(self, pattern):
        return self.machine.expect(pattern)

    def text(self):
        """Of this boot, from the kernel's first line on."""
        text = self.machine.text[self.began:]
        return text[text.find("# command line: "):]

    def screen(self, wanted, seconds=60):
        """The first picture that is as wanted, or the last one. QEMU takes them from a screen that is being drawn."""
        deadline = time.monotonic() + seconds
        while True:
            self.ask("screendump", filename=self.dump)
            picture = Screen(self.dump)
            if wanted(picture) or time.monotonic() > deadline:
                return picture
            time.sleep(0.3)

    def stand(self, seconds):
        """Time goes on, the machine does not."""
        self.machine.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.machine.process.send_signal(signal.SIGCONT)

    def ring(self, memory):
        places = [place for place in PLACES if memory[place:place + len(MAGIC)] == MAGIC]
        if len(places) != 1:
            raise AssertionError(f"rings in memory: {places}")
        return places[0]

    def spoil(self, offset):
        """One bit of the ring."""
        with open(self.ram_path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            memory[self.ring(memory) + offset] ^= 0x10


END = r"# TANGRAM END verdict=(\w+)[^\n]*\n"
PANIC_END = r"backtrace:\n.*main_on_task_stack[^\n]*\n"


class OneDesk(unittest.TestCase):
    """One machine through seven boots; each test looks at another side of what happened."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="tangram-logs-")
        cls.addClassCleanup(folder.cleanup)
        disk = cls.disk = Disk(folder.name, LONGER)
        with Desk(folder.name, disk.path) as desk:
            cls.story(disk, desk)

    @classmethod
    def story(cls, disk, desk):
        # 1: a run that passes.
        desk.expect(r"# Subtest: random\n")
        cls.running = desk.screen(lambda s: s.status().startswith(" test"))
        desk.expect(r"# Subtest: fmt\n")
        desk.stand(SURE + 1)
        cls.later = desk.screen(lambda s: re.search(", about .* left ", s.status()) and PROGRESS.fullmatch(s.status()))
        desk.expect(END)
        cls.passed = desk.screen(lambda s: s.large("PASS") and s.status().startswith(" the run has"))
        cls.first_serial = desk.text()
        cls.logs_at_first = disk.logs()
        disk.set_cmdline(PLAIN + " panic=fault")
        desk.reset()
        # 2: writes that log, and panics.
        cls.said_pass = desk.expect(IN.format(r"(0001\.txt)") + r"(\d+) bytes\n")
        cls.first_file = disk.read("0001.txt")
        desk.expect(PANIC_END)
        cls.panicked = desk.screen(lambda s: s.large("FAIL"))
        cls.panic_serial = desk.text()
        disk.set_cmdline("suite=no_such_suite lab=off")
        desk.reset()
        # 3: writes the panic, and fails.
        cls.said_panic = desk.expect(IN.format(r"(0002\.txt)") + r"(\d+) bytes\n")
        cls.panic_file = disk.read("0002.txt")
        desk.expect(END)
        cls.failed = desk.screen(lambda s: s.large("FAIL") and s.status().startswith(" the run has"))
        cls.failed_serial = desk.text()
        desk.spoil(CHUNK_TEXT + 500)
        disk.set_cmdline(PLAIN)
        desk.reset()
        # 4: finds it damaged, and passes.
        cls.said_damaged = desk.expect(IN[:-2].format(r"(0003\.txt)") + r", damaged: (\d+) bytes are left[^\n]*\n")
        cls.damaged_file = disk.read("0003.txt")
        desk.expect(END)
        desk.spoil(HEADER - 10)
        desk.reset()
        # 5: finds no valid header.
        cls.said_spoilt = desk.expect(LOST + r"[^\n]*\n")[0]
        disk.set_cmdline(PLAIN + " logs=off")
        desk.expect(END)
        desk.reset()
        # 6: neither keeps nor writes.
        desk.expect(END)
        cls.off_serial = desk.machine.text[desk.began:]
        cls.logs_after_off = disk.logs()
        disk.set_cmdline("suite=deaf.rendezvous_* lab=off")
        desk.reset()
        # 7: has nothing but the mark that a run was begun, and skips the only test.
        cls.said_off = desk.expect(r"loader: the log of the run before [^\n]*\n")[0]
        cls.logs_at_last = disk.logs()
        desk.expect(END)
        cls.skipped = desk.screen(lambda s: s.large("SKIP") and s.status().startswith(" nothing"))

    def test_a_run_is_kept(self):
        """The file is what the serial port said, and is judged as that would be."""
        self.assertEqual(self.logs_at_first, ["pending"])
        self.assertEqual(self.first_file.decode(), self.first_serial)
        self.assertEqual(int(self.said_pass[2]), len(self.first_file))
        self.assertEqual(ktap.check(self.first_file).verdict, "pass")

    def test_a_panic_is_kept(self):
        text = self.panic_file.decode()
        self.assertTrue(text.startswith(self.panic_serial), text[-500:])
        self.assertIn("# PANIC on CPU 0 during planned panic: page fault", text)
        judged = ktap.check(self.panic_file)
        self.assertTrue(judged.panic)
        self.assertNotEqual(judged.verdict, "pass")

    def test_damage_is_told(self):
        """One bit of the only chunk: what is left is a line that no reader takes for a log."""
        self.assertEqual(int(self.said_damaged[2]), len(self.damaged_file))
        self.assertIn(b"TANGRAM LOG CUT: ", self.damaged_file)
        self.assertNotEqual(ktap.check(self.damaged_file).verdict, "pass")

    def test_a_gap_is_no_pass(self):
        """Even where nothing that counts was lost."""
        before, behind = self.first_file.split(b"# TANGRAM END")
        cut = before + b"TANGRAM LOG CUT: 40 bytes are missing here\n# TANGRAM END" + behind
        self.assertNotEqual(ktap.check(cut).verdict, "pass")

    def test_loss_is_told(self):
        self.assertIn("damaged in memory", self.said_spoilt)
        self.assertIn("not in memory any more", self.said_off)
        self.assertEqual(self.logs_at_last, ["0001.txt", "0002.txt", "0003.txt", "pending"])

    def test_off(self):
        """Nor is a log of the run before found afterwards."""
        self.assertNotIn("the log of", self.off_serial)
        self.assertEqual(self.logs_after_off, ["0001.txt", "0002.txt", "0003.txt", "pending"])

    def test_screen_shows_how_far_it_is(self):
        """Which test of how many, and the time left as soon as that can be told: the mean so far for each that is to come."""
        self.assertTrue(PROGRESS.fullmatch(self.running.status()), self.running.status())
        status = self.later.status()
        found = PROGRESS.fullmatch(status)
        self.assertTrue(found, status)
        number, planned, minutes, seconds = (int(found[i] or 0) for i in range(1, 5))
        gone = minutes * 60 + seconds
        self.assertEqual(planned, int(re.search(r"passed=(\d+)", self.first_serial.rpartition("# TANGRAM END")[2])[1]))
        self.assertLessEqual(number, planned)
        self.assertGreaterEqual(gone, SURE)
        left = gone * (planned - number + 1) // (number - 1)
        self.assertEqual(found[5], f"{(left // 10 + 1) * 10} s" if left < 60 else f"{(left + 59) // 60} min", status)

    def test_screen_holds_pass(self):
        red, green, blue = self.passed.large("PASS")
        self.assertGreater(green, max(red, blue))
        counts = re.search(END, self.first_serial)[0]
        passed = int(re.search(r"passed=(\d+)", counts)[1])
        first, second = self.passed.below()
        self.assertRegex(first, rf"^{passed} tests: {passed} passed, 0 failed, 0 skipped, in ")
        self.assertEqual(second, "")
        self.assertEqual(self.passed.status(), " the run has passed")
        self.assertIsNone(self.passed.large("FAIL"))
        self.assertIn(counts.strip(), self.log_on(self.passed))

    def test_screen_holds_the_first_failure(self):
        red, green, blue = self.failed.large("FAIL")
        self.assertGreater(red, max(green, blue))
        first, second = self.failed.below()
        self.assertRegex(first, r"^1 tests: 0 passed, 1 failed, 0 skipped, in ")
        self.assertEqual(second, "first failure: selection: suite=no_such_suite matches no test")
        self.assertEqual(self.failed.status(), " the run has failed")

    def test_screen_holds_what_tested_nothing(self):
        red, green, blue = self.skipped.large("SKIP")
        self.assertTrue(red == green == blue)
        self.assertRegex(self.skipped.below()[0], r"^1 tests: 0 passed, 0 failed, 1 skipped, in ")
        self.assertIsNone(self.skipped.large("PASS"))

    def test_screen_holds_a_panic(self):
        self.assertTrue(self.panicked.large("FAIL"))
        self.assertEqual(self.panicked.below(), ("the kernel panicked:", "page fault"))
        self.assertIn("#   backtrace:", self.log_on(self.panicked))

    @staticmethod
    def log_on(picture):
        return [picture.line(row) for row in range(picture.rows - 1)]


class NoSerial(unittest.TestCase):
    """Nothing but a USB stick: tools/mkimage's image, read by mtools behind the second boot."""

    def test_the_log_is_on_the_stick(self):
        with tempfile.TemporaryDirectory(prefix="tangram-logs-") as folder:
            esp = make_esp(os.path.join(folder, "esp"), kernel=KERNEL, cmdline=(PLAIN + " end=reboot").encode())
            logs = os.path.join(esp, "tangram", "logs")
            os.makedirs(logs)
            for name in ("0041.TXT", "99.txt", "0100.tmp", "00x1.txt"):
                with open(os.path.join(logs, name), "w", encoding="ascii") as file:
                    file.write("mine")
            image = os.path.join(folder, "image")
            subprocess.run([os.path.join(ROOT, "tools", "mkimage"), esp, image], check=True, stdout=subprocess.DEVNULL)
            with Machine(stick(image), reboots=True, uart=()):
                text = self.wait_for(image, "0042.txt")
            self.assertEqual(self.read(image, "0041.TXT"), b"mine")
        self.assertTrue(text.startswith(b"# command line: "), text[:200])
        judged = ktap.check(text)
        self.assertEqual(judged.verdict, "pass", judged.problems)

    @staticmethod
    def read(image, name):
        got = subprocess.run(["mtype", "-i", image + "@@1M", "::/tangram/logs/" + name], capture_output=True, check=False)
        return got.stdout if got.returncode == 0 else b""

    def wait_for(self, image, name):
        deadline = time.monotonic() + TIMEOUT
        while b"# TANGRAM END" not in self.read(image, name):
            if time.monotonic() > deadline:
                raise NotSeen(f"no {name} on the stick")
            time.sleep(0.5)
        return self.read(image, name)


class CannotWrite(unittest.TestCase):
    """One clear line each, and both runs go on to their end."""

    @staticmethod
    def boots(drive):
        """Of two boots each: what the loader says of logs."""
        with Machine(drive, reboots=True, timeout=TIMEOUT) as machine:
            machine.expect(END)
            first = len(machine.text)
            machine.expect(END)
            return [re.findall(r"^# loader: (.*\blogs?\b.*)$", text, re.MULTILINE)
                    for text in (machine.text[:first], machine.text[first:])]

    def test_a_stick_that_is_write_protected(self):
        with tempfile.TemporaryDirectory(prefix="tangram-logs-") as folder:
            disk = Disk(folder, PLAIN + " end=reboot")
            first, second = self.boots(stick(disk.path, ",readonly=on"))
            self.assertEqual(disk.logs(), [])
        self.assertEqual(len(first), 1, first)
        self.assertRegex(first[0], r"^\\tangram\\logs cannot be made: the medium is write-protected .*: logs cannot be kept")
        self.assertEqual(len(second), 1, second)
        self.assertRegex(second[0], r"^the log of the run before is lost: \\tangram\\logs cannot be made: the medium is write-p")

    def test_a_disk_that_is_full(self):
        """Room for the mark, but not for the log: no half of it is left behind."""
        def prepare(logs):
            os.makedirs(logs)
            shutil.copyfile(__file__, os.path.join(logs, "pending"))

        with tempfile.TemporaryDirectory(prefix="tangram-logs-") as folder:
            disk = Disk(folder, PLAIN + " end=reboot", prepare)
            disk.fill(spare=4096)
            first, second = self.boots(disk.path)
            self.assertEqual(disk.logs(), ["pending"])
        self.assertEqual(len(first), 1, first)
        self.assertIn("not in memory any more", first[0])
        self.assertEqual(len(second), 1, second)
        self.assertRegex(second[0], r"is lost: \\tangram\\logs\\0001\.txt cannot be written: the disk is full ")


if __name__ == "__main__":
    unittest.main()
