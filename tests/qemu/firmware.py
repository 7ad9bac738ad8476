# SPDX-License-Identifier: MIT
"""
A machine with real firmware (OVMF) for tests of the loader: a folder or a disk image as its disk, its serial port
as text, typed to if need be. For boot_*.py; a run of the kernel's own tests is tools/run-qemu's.

Every machine has a private copy of the firmware's variables and a deadline, and is gone when the `with` ends.
"""
import os
import re
import select
import shutil
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("TANGRAM_BUILD", os.path.join(ROOT, "build"))
LOADER = os.path.join(BUILD, "esp", "EFI", "BOOT", "BOOTX64.EFI")
HANDOVER = os.path.join(BUILD, "handover.elf")

FIRMWARE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
VARIABLES = "/usr/share/OVMF/OVMF_VARS_4M.fd"

ESCAPE = re.compile(rb"\x1b\[[0-9;?=]*[A-Za-z]")
TIMEOUT = 90.0

# The firmware's shell has begun; and is at its prompt (which takes five seconds more, for startup.nsh).
SHELL = r"UEFI Interactive Shell v"
PROMPT = r"Shell> "
EXIT_PASS = 0x10 * 2 + 1


class NotSeen(AssertionError):
    """The text that was waited for did not come."""


def make_esp(folder, loader=LOADER, kernel=HANDOVER, cmdline=b"seed=1\n", boot=True):
    """A folder as an EFI system partition. kernel and cmdline are bytes, or a path, or None: not there."""
    tangram = os.path.join(folder, "tangram")
    place = os.path.join(folder, "EFI", "BOOT") if boot else folder
    os.makedirs(tangram, exist_ok=True)
    os.makedirs(place, exist_ok=True)
    shutil.copyfile(loader, os.path.join(place, "BOOTX64.EFI" if boot else "loader.efi"))
    for name, content in (("kernel.elf", kernel), ("cmdline.txt", cmdline)):
        if isinstance(content, str):
            shutil.copyfile(content, os.path.join(tangram, name))
        elif content is not None:
            with open(os.path.join(tangram, name), "wb") as file:
                file.write(content)
    return folder


def make_image(folder, path, mib=64):
    """The folder as a FAT file system without partitions in a file: a disk that the firmware may write."""
    with open(path, "wb") as file:
        file.truncate(mib << 20)
    subprocess.run(["mformat", "-i", path, "-v", "TANGRAM", "::"], check=True)
    names = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    subprocess.run(["mcopy", "-s", "-Q", "-i", path, *names, "::"], check=True)
    return path


class Machine:
    """
    QEMU, from power-on. disk: a folder (stays as it is), a file, or a list of QEMU arguments; uart: what stands between the
    machine and `text`; files: descriptors that QEMU gets.
    """

    def __init__(self, disk, memory="1G", cpu="max", extra=(), timeout=TIMEOUT, reboots=False, kind="q35",
                 uart=("-serial", "stdio"), files=()):
        self.folder = tempfile.mkdtemp(prefix="tangram-boot-")
        self.raw = b""
        self.seen = 0                       # how much of the text earlier waits have used up
        self.deadline = time.monotonic() + timeout
        variables = os.path.join(self.folder, "vars.fd")
        shutil.copyfile(VARIABLES, variables)
        if isinstance(disk, str):
            disk = f"fat:{disk},snapshot=on" if os.path.isdir(disk) else disk
            disk = ["-drive", f"format=raw,file={disk}"]
        args = ["qemu-system-x86_64", "-machine", kind, "-accel", "tcg", "-cpu", cpu, "-m", memory, "-net", "none",
                "-nodefaults", "-display", "none", *uart,
                "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
                "-drive", f"if=pflash,format=raw,readonly=on,file={FIRMWARE}",
                "-drive", f"if=pflash,format=raw,file={variables}", *disk, *extra]
        if not reboots:
            args.append("-no-reboot")
        self.process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, bufsize=0, pass_fds=files)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def text(self):
        """What came over the serial port, without terminal commands and carriage returns."""
        return ESCAPE.sub(b"", self.raw).replace(b"\r", b"").decode("utf-8", "replace")

    def _read(self):
        """Take in what there is; False at the end of the machine."""
        ready, _, _ = select.select([self.process.stdout], [], [], 0.2)
        if not ready:
            return True
        data = os.read(self.process.stdout.fileno(), 65536)
        self.raw += data
        return bool(data)

    def expect(self, pattern):
        """Wait for a regular expression behind all that was expected before; returns the match."""
        alive = True
        while True:
            match = re.compile(pattern, re.DOTALL).search(self.text, self.seen)
            if match:
                self.seen = match.end()
                return match
            if not alive:
                raise NotSeen(f"QEMU ended without /{pattern}/:\n{self.text[-3000:]}")
            if time.monotonic() > self.deadline:
                raise NotSeen(f"no /{pattern}/ in time:\n{self.text[-3000:]}")
            alive = self._read()

    def type(self, line):
        """A line to the firmware's shell. One character at a time: its serial input has a short buffer."""
        for c in line + "\r":
            os.write(self.process.stdin.fileno(), c.encode())
            time.sleep(0.01)

    def skip_countdown(self):
        """Have the shell run startup.nsh at once."""
        self.expect(r"Press ESC in")
        os.write(self.process.stdin.fileno(), b" ")

    def wait(self):
        """Until the machine ends by itself; its exit status."""
        while self._read():
            if time.monotonic() > self.deadline:
                raise NotSeen(f"the machine did not end in time:\n{self.text[-3000:]}")
        return self.process.wait()


class Handover:
    """What build/handover.elf said, of a machine that ran to its end."""

    def __init__(self, text, status):
        self.text = text
        self.status = status
        self.lines = [line[len("handover: "):] for line in text.splitlines() if line.startswith("handover: ")]
        self.faults = [line for line in self.lines if line.startswith("FAULT ")]
        self.notes = [line[len("note="):] for line in self.lines if line.startswith("note=")]
        self.said = [line[len("tangram: "):] for line in text.splitlines() if line.startswith("tangram: ")]
        self.complete = bool(self.lines) and self.lines[-1] == "END faults=0"

    def value(self, key):
        """Of the first line that begins with key=: all behind it."""
        return next((line[len(key) + 1:] for line in self.lines if line.startswith(key + "=")), None)

    def word(self, key):
        """Of the first word key=value in any line."""
        found = re.search(rf"(?:^| ){re.escape(key)}=(\S*)", "\n".join(self.lines), re.MULTILINE)
        return found and found[1]


def hand_over(disk, by_shell=False, **options):
    """Boot to the end of the kernel; by_shell: startup.nsh is what starts it."""
    with Machine(disk, **options) as machine:
        if by_shell:
            machine.skip_countdown()
        status = machine.wait()
        return Handover(machine.text, status)
