#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
The same sources give the same bytes: built again in another folder, at another time, under another user's settings, what is
in build/ comes out once more. In `make test` the loader, the kernel that checks the hand-over and some objects of
each kind; in `make soak` (TANGRAM_SOAK=1) the whole image. build/ must be there, built by gcc: make image.
"""

import os
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCES = ("Makefile", "linker.ld", "arch", "boot", "kernel", "mm", "tests", "tools")
SOAK = os.environ.get("TANGRAM_SOAK") == "1"
PARTS = ("esp/EFI/BOOT/BOOTX64.EFI", "handover.elf", "obj/arch/x86_64/trap.asm.o", "obj/arch/x86_64/switch.asm.o",
         "obj/mm/tlb_batch.o", "obj/kernel/main.o", "obj/tests/runner.o")
WHOLE = ("kernel.elf", "tangram.img")


class Again(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="tangram-with-a-longer-name-")
        self.addCleanup(folder.cleanup)
        self.again = os.path.join(folder.name, "another clone")
        os.mkdir(self.again)
        for name in SOURCES:
            source = os.path.join(ROOT, name)
            if os.path.isdir(source):
                shutil.copytree(source, os.path.join(self.again, name), copy_function=shutil.copy,
                                ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, self.again)

    def make(self, *targets):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "CC"))}
        env.update(TZ="Asia/Tokyo", LC_ALL="C", HOME="/nonexistent", CCACHE_DISABLE="1")
        done = subprocess.run(["make", "-j1", "CC=gcc", *targets], cwd=self.again, env=env, umask=0o077,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=900, check=False)
        self.assertEqual(done.returncode, 0, done.stdout[-3000:])

    def test_same_bytes(self):
        names = PARTS + WHOLE * SOAK
        for name in names:
            # What build/ holds of these files is of today's sources.
            self.assertTrue(os.path.exists(os.path.join(ROOT, "build", name)), f"{name}: make image")
        self.make(*[f"build/{name}" for name in names])
        for name in names:
            with self.subTest(name):
                with open(os.path.join(ROOT, "build", name), "rb") as one, \
                     open(os.path.join(self.again, "build", name), "rb") as other:
                    self.assertTrue(one.read() == other.read(), f"build/{name} differs")

    def test_nothing_may_ask_for_the_date(self):
        """-Wdate-time makes an error of it; this would otherwise be found by luck."""
        with open(os.path.join(self.again, "kernel", "symbols.c"), "a", encoding="utf-8") as file:
            file.write("const char *built_when(void);\nconst char *built_when(void)\n{\n\treturn __DATE__;\n}\n")
        with self.assertRaisesRegex(AssertionError, "date-time"):
            self.make("build/obj/kernel/symbols.o")


if __name__ == "__main__":
    unittest.main()
