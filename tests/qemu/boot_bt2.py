#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
BT2, BT6: kernel images that cannot be loaded, under real firmware. Each gets one line, "tangram: ", the file and the
cause, on the console and so on the serial port; then the firmware goes on by itself: its boot manager says
that the option has failed, and the shell comes. Memory that was taken is free again.

    tests/qemu/boot_bt2.py [unittest arguments]        (build/ must be there: make esp)
"""
import os
import re
import struct
import tempfile
import unittest

from firmware import HANDOVER, SHELL, Machine, make_esp, make_image

PH_SIZE = 56
P_FLAGS, P_OFFSET, P_VADDR, P_FILESZ, P_MEMSZ = 4, 8, 16, 32, 40
KERNEL = r"\tangram\kernel.elf"


def good():
    with open(HANDOVER, "rb") as file:
        return file.read()


def changed(*changes):
    """The good image with (offset, struct format, value) put in."""
    data = bytearray(good())
    for at, form, value in changes:
        struct.pack_into("<" + form, data, at, value)
    return bytes(data)


def segment(number, field):
    """Offset in the file of a field of a program header."""
    return struct.unpack_from("<Q", good(), 32)[0] + number * PH_SIZE + field


def header(number, field, form="Q"):
    return struct.unpack_from("<" + form, good(), segment(number, field))[0]


def with_segments(count):
    """An image whose table of segments has so many more, one block each."""
    data = bytearray(good())
    table = len(data)
    old = struct.unpack_from("<Q", data, 32)[0]
    data += data[old:old + 3 * PH_SIZE]
    for number in range(count):
        data += struct.pack("<IIQQQQQQ", 1, 4, 0, 0xFFFFFFFF90000000 + (number << 21), 0, 1, 1, 4096)
    struct.pack_into("<Q", data, 32, table)
    struct.pack_into("<H", data, 56, 3 + count)
    return bytes(data)


def bad_images():
    """name -> (bytes, what the message says)"""
    text_end = header(0, P_OFFSET) + header(0, P_FILESZ)
    return {
        "empty": (b"", "is empty"),
        "noelf": (b"#!/bin/sh\n" * 100, "is not an ELF file"),
        "cut-eh": (good()[:40], "is truncated: 40 bytes"),
        "cut-ph": (good()[:100], "is truncated: program headers"),
        "cut-text": (changed((40, "Q", 0))[:text_end - 1], "is truncated: segment 0"),
        "cut-sh": (good()[:-1], "is truncated: section headers"),
        "elf32": (changed((4, "B", 1)), "is not ELF64"),
        "bigend": (changed((5, "B", 2)), "is not little-endian"),
        "machine": (changed((18, "H", 183)), "is for the wrong machine: number 183"),
        "shared": (changed((16, "H", 3)), "ELF type 3"),
        "overlap": (changed((segment(1, P_VADDR), "Q", header(0, P_VADDR))), "overlaps the one at"),
        "wx": (changed((segment(0, P_FLAGS), "I", 7)), "is writable and executable"),
        "low": (changed((segment(1, P_VADDR), "Q", 0x200000)), "lies outside the image's range"),
        "unalign": (changed((segment(1, P_VADDR), "Q", header(1, P_VADDR) + 4096)), "is not aligned to 2 MiB"),
        "filesz": (changed((segment(1, P_MEMSZ), "Q", 1)), "in the file, but 0x1 in memory"),
        "overflow": (changed((segment(1, P_OFFSET), "Q", 2 ** 64 - 16)), "is truncated: segment 1"),
        "memsz": (changed((segment(2, P_MEMSZ), "Q", 2 ** 64 - 1)), "lies outside the image's range"),
        "noentry": (changed((24, "Q", 0)), "has no entry point"),
        "entry": (changed((24, "Q", header(1, P_VADDR))), "outside of every executable segment"),
        "many": (with_segments(6), "has too many segments"),
        "toolarge": (changed((segment(2, P_MEMSZ), "Q", 1200 << 20)), "too little memory"),
    }


class FromBootManager(unittest.TestCase):
    """Started as a boot option, as on a user's machine."""

    def refused(self, disk, message, status, **options):
        with Machine(disk, **options) as machine:
            machine.expect(rf"tangram: {re.escape(message)}[^\n]*\n")
            machine.expect(rf"BdsDxe: failed to start [^\n]*: {status}\n")
            machine.expect(SHELL)
            self.assertEqual(machine.text.count("tangram: "), 1, machine.text)
            self.assertEqual(machine.text.count("BdsDxe: starting"), 2, "the loader's entry, then the shell's")

    def refused_kernel(self, kernel, message, status="Load Error", **options):
        with tempfile.TemporaryDirectory() as folder:
            self.refused(make_esp(folder, kernel=kernel), f"{KERNEL} {message}", status, **options)

    def test_missing(self):
        self.refused_kernel(None, "is missing", "Not Found")

    def test_truncated_in_elf_header(self):
        self.refused_kernel(*bad_images()["cut-eh"])

    def test_truncated_in_program_headers(self):
        self.refused_kernel(*bad_images()["cut-ph"])

    def test_truncated_in_segment(self):
        self.refused_kernel(*bad_images()["cut-text"])

    def test_wrong_machine(self):
        self.refused_kernel(*bad_images()["machine"])

    def test_overlapping(self):
        self.refused_kernel(changed((segment(1, P_VADDR), "Q", header(0, P_VADDR))), "segment 1 at 0x")

    def test_too_little_memory(self):
        kernel = changed((segment(2, P_MEMSZ), "Q", 600 << 20))
        self.refused_kernel(kernel, "needs 604 MiB in one piece: too little memory", "Out of Resources",
                            memory="512M")

    def test_folder_instead_of_file(self):
        with tempfile.TemporaryDirectory() as folder:
            make_esp(folder, kernel=None)
            os.mkdir(os.path.join(folder, "tangram", "kernel.elf"))
            self.refused(folder, f"{KERNEL} is a folder, not a file", "Unsupported")

    def test_unreadable(self):
        """A sector of the file that the disk cannot read. By virtio: OVMF's AHCI driver passes such a read as good."""
        with tempfile.TemporaryDirectory() as folder:
            # Far behind everything else: the firmware reads files in pieces of 64 KiB.
            tail = b"unreadable sector " * 29
            kernel = good() + bytes(256 << 10) + tail
            os.mkdir(os.path.join(folder, "esp"))
            image = make_image(make_esp(os.path.join(folder, "esp"), kernel=kernel), os.path.join(folder, "disk.img"))
            with open(image, "rb") as file:
                at = file.read().find(tail[:512])
            self.assertGreater(at, 0)
            disk = ["-blockdev", f"driver=file,node-name=image,filename={image}",
                    "-blockdev", "driver=blkdebug,node-name=faulty,image=image,inject-error.0.event=read_aio,"
                    f"inject-error.0.errno=5,inject-error.0.sector={at // 512}",
                    "-blockdev", "driver=raw,node-name=disk,file=faulty", "-device", "virtio-blk-pci,drive=disk"]
            self.refused(disk, f"{KERNEL} cannot be read: device error", "Device Error")


class FromShell(unittest.TestCase):
    """Every bad image in one boot, started from the shell one after the other: each returns, and nothing leaks."""

    @classmethod
    def setUpClass(cls):
        cls.cases = bad_images()
        cls.temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.temporary.cleanup)
        esp = os.path.join(cls.temporary.name, "esp")
        os.mkdir(esp)
        make_esp(esp, boot=False)
        os.mkdir(os.path.join(esp, "cases"))
        for name, (data, _) in cls.cases.items():
            with open(os.path.join(esp, "cases", f"{name}.elf"), "wb") as file:
                file.write(data)
        script = ["@echo -off", "fs0:", "echo BEGIN"]
        # The first run is not measured: the shell itself takes memory when it first starts a program.
        for name in ["noelf", *cls.cases]:
            script += [f"cp -q cases\\{name}.elf tangram\\kernel.elf", f"echo CASE {name}", "loader.efi",
                       "echo STATUS %lasterror%", "memmap"]
        script += ["echo ALL DONE", "reset -s"]
        with open(os.path.join(esp, "startup.nsh"), "wb") as file:
            file.write("\r\n".join(script).encode() + b"\r\n")
        image = make_image(esp, os.path.join(cls.temporary.name, "disk.img"))
        with Machine(image, timeout=240) as machine:
            machine.skip_countdown()
            machine.expect("ALL DONE")
            cls.text = machine.text
        cls.parts = {}
        for part in cls.text.split("CASE ")[1:]:
            name, _, rest = part.partition("\n")
            cls.parts[name.strip()] = rest

    def test_each_is_refused_by_its_cause(self):
        for name, (_, message) in self.cases.items():
            with self.subTest(name):
                said = re.findall(r"^tangram: (.*)$", self.parts[name], re.MULTILINE)
                self.assertEqual(len(said), 1, self.parts[name][:500])
                self.assertTrue(said[0].startswith(KERNEL + " "), said[0])
                self.assertIn(message, said[0])

    def test_each_has_an_error_status(self):
        for name in self.cases:
            with self.subTest(name):
                status = int(re.search(r"STATUS (0x[0-9A-Fa-f]+)", self.parts[name])[1], 16)
                # The shell drops the top bit, which says "error".
                want = 9 if name == "toolarge" else 1
                self.assertEqual(status & 0xFF, want, hex(status))

    def test_no_memory_is_lost(self):
        pages = {name: re.search(r"LoaderData\s*:\s*([\d,]+) Pages", self.parts[name])[1] for name in self.cases}
        self.assertEqual(len(set(pages.values())), 1, pages)


if __name__ == "__main__":
    unittest.main()
