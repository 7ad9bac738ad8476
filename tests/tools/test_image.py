#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The files that were built: rights and alignment of build/kernel.elf's segments (BT3), the ESP (BT1)."""

import os
import struct
import subprocess
import unittest

BUILD = os.environ.get("TANGRAM_BUILD", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build"))
MIB2 = 0x200000
KERNEL_BASE = 0xffffffff80000000
PF_X, PF_W, PF_R = 1, 2, 4
EM_X86_64, ET_EXEC, PT_LOAD = 62, 2, 1


class Segment:
    def __init__(self, data):
        (self.type, self.flags, self.offset, self.va, _, self.file_size, self.size,
         self.align) = struct.unpack("<IIQQQQQQ", data)

    @property
    def end(self):
        return self.va + self.size


class Kernel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with open(os.path.join(BUILD, "kernel.elf"), "rb") as file:
            cls.data = file.read()
        cls.type, cls.machine, _, cls.entry, offset = struct.unpack_from("<HHIQQ", cls.data, 16)
        size, count = struct.unpack_from("<HH", cls.data, 54)
        segments = [Segment(cls.data[offset + i * size:offset + (i + 1) * size]) for i in range(count)]
        cls.load = [segment for segment in segments if segment.type == PT_LOAD]
        output = subprocess.run(["nm", os.path.join(BUILD, "kernel.elf")], check=True, capture_output=True, text=True)
        cls.symbols = {}
        for line in output.stdout.splitlines():
            parts = line.split()
            if len(parts) == 3:
                cls.symbols[parts[2]] = int(parts[0], 16)

    def test_header(self):
        self.assertEqual(self.data[:6], b"\x7fELF\x02\x01")
        self.assertEqual((self.type, self.machine), (ET_EXEC, EM_X86_64))
        self.assertEqual(self.entry, self.symbols["kernel_entry"])

    def test_rights(self):
        self.assertEqual([segment.flags for segment in self.load], [PF_R | PF_X, PF_R, PF_R | PF_W])

    def test_each_in_blocks_of_its_own(self):
        self.assertEqual(self.load[0].va, KERNEL_BASE)
        for segment in self.load:
            self.assertEqual(segment.va % MIB2, 0)
            self.assertEqual(segment.align, MIB2)
        for before, after in zip(self.load, self.load[1:]):
            self.assertLessEqual(-(-before.end // MIB2) * MIB2, after.va)

    def test_entry_is_text(self):
        self.assertTrue(self.load[0].va <= self.entry < self.load[0].end)

    def test_symbols_of_the_linker(self):
        text, rodata, data = self.load
        for name, segment in (("text", text), ("rodata", rodata), ("data", data), ("bss", data)):
            start, end = self.symbols[f"_{name}_start"], self.symbols[f"_{name}_end"]
            self.assertTrue(segment.va <= start <= end <= segment.end, name)

    def test_tables_are_not_empty_and_point_into_rodata(self):
        rodata = self.load[1]
        start, stop = self.symbols["__start_test_cases"], self.symbols["__stop_test_cases"]
        self.assertGreater(stop - start, 8 * 20)
        for at in range(start, stop, 8):
            pointer, = struct.unpack_from("<Q", self.data, at - rodata.va + rodata.offset)
            self.assertTrue(rodata.va <= pointer < rodata.end, hex(at))

    def test_build_id(self):
        start, end = self.symbols["_build_id_note_start"], self.symbols["_build_id_note_end"]
        rodata = self.load[1]
        note = self.data[start - rodata.va + rodata.offset:end - rodata.va + rodata.offset]
        self.assertEqual(struct.unpack_from("<III", note), (4, 20, 3))
        self.assertEqual(note[12:16], b"GNU\x00")


class Esp(unittest.TestCase):
    def test_files(self):
        for path in ("EFI/BOOT/BOOTX64.EFI", "tangram/kernel.elf", "tangram/cmdline.txt"):
            self.assertTrue(os.path.isfile(os.path.join(BUILD, "esp", path)), path)

    def test_kernel_is_the_one_with_the_symbols(self):
        names = os.path.join(BUILD, "kernel.elf"), os.path.join(BUILD, "esp", "tangram", "kernel.elf")
        contents = []
        for name in names:
            with open(name, "rb") as file:
                contents.append(file.read())
        self.assertEqual(*contents)


if __name__ == "__main__":
    unittest.main()
