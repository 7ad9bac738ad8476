#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
The loader's PE image, read here once more without tools/pe-finish: sections on pages of their own, none writable and
executable, NX_COMPAT. And pe-finish refuses every image of which that is not true.

    tests/tools/test_pe_finish.py [unittest arguments]        (build/ must be there: make esp)
"""
import os
import struct
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("TANGRAM_BUILD", os.path.join(ROOT, "build"))
LOADER = os.path.join(BUILD, "esp", "EFI", "BOOT", "BOOTX64.EFI")
TOOL = os.path.join(ROOT, "tools", "pe-finish")

WRITE, EXECUTE = 0x80000000, 0x20000000


def image():
    with open(LOADER, "rb") as file:
        return file.read()


class Layout:
    """Where things are in the headers."""

    def __init__(self, data):
        self.pe = struct.unpack_from("<I", data, 0x3C)[0]
        self.optional = self.pe + 24
        self.count, = struct.unpack_from("<H", data, self.pe + 6)
        self.table = self.optional + struct.unpack_from("<H", data, self.pe + 20)[0]

    def section(self, data, name):
        for at in range(self.table, self.table + 40 * self.count, 40):
            if data[at:at + 8].rstrip(b"\0") == name:
                return at
        raise KeyError(name)


class Loader(unittest.TestCase):
    def setUp(self):
        self.data = image()
        self.layout = Layout(self.data)

    def test_sections_by_rights(self):
        end, rights = 0, {}
        for at in range(self.layout.table, self.layout.table + 40 * self.layout.count, 40):
            name, size, address, raw = struct.unpack_from("<8sIII", self.data, at)
            flags, = struct.unpack_from("<I", self.data, at + 36)
            self.assertEqual(address % 4096, 0, name)
            self.assertGreaterEqual(address, end, name)
            self.assertFalse(flags & WRITE and flags & EXECUTE, name)
            rights[name.rstrip(b"\0")] = (bool(flags & WRITE), bool(flags & EXECUTE))
            end = address + -(-max(size, raw) // 4096) * 4096
        self.assertEqual(rights[b".text"], (False, True))
        self.assertEqual(rights[b".rodata"], (False, False))
        self.assertEqual(rights[b".data"], (True, False))
        self.assertEqual(struct.unpack_from("<I", self.data, self.layout.optional + 32)[0], 4096)

    def test_nx_compat(self):
        self.assertTrue(struct.unpack_from("<H", self.data, self.layout.optional + 70)[0] & 0x100)

    def test_same_bytes_again(self):
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "out.efi")
            self.assertEqual(subprocess.run([TOOL, LOADER, out], check=False).returncode, 0)
            with open(out, "rb") as file:
                self.assertEqual(file.read(), self.data)


class Refusals(unittest.TestCase):
    def refused(self, data, words, check=False):
        with tempfile.TemporaryDirectory() as folder:
            path, out = os.path.join(folder, "in.efi"), os.path.join(folder, "out.efi")
            with open(path, "wb") as file:
                file.write(data)
            args = [TOOL, "--check", path] if check else [TOOL, path, out]
            result = subprocess.run(args, capture_output=True, text=True, check=False)
            self.assertEqual(result.returncode, 1, result)
            self.assertIn(words, result.stderr)
            self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
            self.assertFalse(os.path.exists(out))

    def changed(self, where, form, value):
        data = bytearray(image())
        struct.pack_into("<" + form, data, where(Layout(data), data), value)
        return bytes(data)

    def test_writable_text(self):
        def flags(layout, data):
            return layout.section(data, b".text") + 36
        self.refused(self.changed(flags, "I", 0xE0000020), ".text is writable and executable")

    def test_executable_data(self):
        def flags(layout, data):
            return layout.section(data, b".data") + 36
        self.refused(self.changed(flags, "I", 0x60000040), ".data: code that is not")

    def test_section_off_its_page(self):
        def address(layout, data):
            return layout.section(data, b".rodata") + 12
        self.refused(self.changed(address, "I", 0x7010), "does not start on a page")

    def test_overlap(self):
        def address(layout, data):
            return layout.section(data, b".rodata") + 12
        self.refused(self.changed(address, "I", 0x1000), ".rodata overlaps")

    def test_small_alignment(self):
        self.refused(self.changed(lambda layout, data: layout.optional + 32, "I", 512), "not aligned to 4 KiB")

    def test_entry_in_data(self):
        data = image()
        address, = struct.unpack_from("<I", data, Layout(data).section(data, b".data") + 12)
        self.refused(self.changed(lambda layout, data: layout.optional + 16, "I", address), "entry point is not in code")

    def test_no_relocation_table(self):
        self.refused(self.changed(lambda layout, data: layout.optional + 112 + 8 * 5 + 4, "I", 0), "no relocation table")

    def test_relocation_outside(self):
        def page(layout, data):
            return struct.unpack_from("<I", data, layout.section(data, b".reloc") + 20)[0]
        self.refused(self.changed(page, "I", 0x10000000), "a relocation lies outside")

    def test_wrong_machine(self):
        self.refused(self.changed(lambda layout, data: layout.pe + 4, "H", 0xAA64), "not for x86-64")

    def test_cut(self):
        for size in (0, 1, 63, 64, 200, 500, len(image()) - 1):
            with self.subTest(size):
                self.refused(image()[:size], "pe-finish: ")

    def test_check_wants_nx_compat_and_checksum(self):
        self.refused(self.changed(lambda layout, data: layout.optional + 70, "H", 0), "NX_COMPAT", check=True)
        self.refused(self.changed(lambda layout, data: layout.optional + 64, "I", 1), "checksum", check=True)


if __name__ == "__main__":
    unittest.main()
