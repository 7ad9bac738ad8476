#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""tools/mkimage: a valid GPT and FAT32, the files inside, the same bytes twice."""

import os
import shutil
import subprocess
import tempfile
import time
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
TOOL = os.path.join(ROOT, "tools", "mkimage")
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"

FILES = {
    "EFI/BOOT/BOOTX64.EFI": b"MZ" + bytes(5000),
    "tangram/kernel.elf": os.urandom(3 << 20),
    "tangram/cmdline.txt": b"seed=1\n",
    "tangram/modules/one with a long name.ko": b"x",
}


@unittest.skipUnless(shutil.which("mformat") and shutil.which("sgdisk", path=PATH), "no mtools or sgdisk here")
class Image(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="tangram-test-")
        self.addCleanup(self.folder.cleanup)
        self.make_esp("esp", FILES)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def make_esp(self, name, files):
        for path, data in files.items():
            full = os.path.join(self.path(name), path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "wb") as file:
                file.write(data)

    def make_image(self, esp, image, **env):
        done = subprocess.run([TOOL, self.path(esp), self.path(image)], env={**os.environ, **env},
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.path(image), "rb") as file:
            return file.read()

    def test_files_come_back(self):
        self.make_image("esp", "a.img")
        for path, data in FILES.items():
            got = subprocess.run(["mcopy", "-i", self.path("a.img") + "@@1M", "::/" + path, "-"],
                                 capture_output=True, check=True).stdout
            self.assertEqual(got, data, path)

    def test_partition_table(self):
        image = self.make_image("esp", "a.img")
        self.assertEqual(image[510:512], b"\x55\xaa")
        self.assertEqual(image[512:520], b"EFI PART")
        self.assertEqual(image[-512:-504], b"EFI PART")
        # The type of an EFI system partition (UEFI 2.10, table 5.7), and where it begins.
        self.assertEqual(image[1024:1040].hex(), "28732ac11ff8d211ba4b00a0c93ec93b")
        self.assertEqual(int.from_bytes(image[1024 + 32:1024 + 40], "little"), 2048)
        self.assertEqual(image[1 << 20:][82:90], b"FAT32   ")
        check = subprocess.run(["sgdisk", "-v", self.path("a.img")], env={"PATH": PATH}, capture_output=True,
                               text=True, check=True)
        self.assertIn("No problems found", check.stdout)

    def test_fat32_has_enough_clusters(self):
        """Fewer than 65525 and firmware reads it as FAT16."""
        sector = self.make_image("esp", "a.img")[1 << 20:][:512]
        total = int.from_bytes(sector[32:36], "little")
        reserved = int.from_bytes(sector[14:16], "little")
        fats = sector[16] * int.from_bytes(sector[36:40], "little")
        self.assertGreaterEqual((total - reserved - fats) // sector[13], 65525)

    def test_same_bytes(self):
        first = self.make_image("esp", "a.img")
        shuffled = dict(reversed(FILES.items()))
        time.sleep(2.1)             # FAT keeps time in steps of two seconds
        self.make_esp("again", shuffled)
        self.assertEqual(self.make_image("again", "b.img", TZ="Asia/Tokyo"), first)

    def test_other_input_other_bytes(self):
        first = self.make_image("esp", "a.img")
        self.make_esp("esp", {"tangram/cmdline.txt": b"seed=2\n"})
        self.assertNotEqual(self.make_image("esp", "b.img"), first)

    def test_big_kernel(self):
        self.make_esp("esp", {"tangram/kernel.elf": bytes(90 << 20)})
        self.make_image("esp", "a.img")
        got = subprocess.run(["mcopy", "-i", self.path("a.img") + "@@1M", "::/tangram/kernel.elf", "-"],
                             capture_output=True, check=True).stdout
        self.assertEqual(len(got), 90 << 20)

    def test_wrong_arguments(self):
        done = subprocess.run([TOOL, self.path("nothing"), self.path("a.img")], capture_output=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertFalse(os.path.exists(self.path("a.img")))


if __name__ == "__main__":
    unittest.main()
