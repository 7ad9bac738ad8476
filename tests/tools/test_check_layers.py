#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""tools/check-layers finds planted violations of every kind, and nothing in a tree without any."""

import os
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
TOOL = os.path.join(ROOT, "tools", "check-layers")

CLEAN = {
    "kernel/base/types.h": "#include <stdint.h>\n",
    "boot/boot_info.h": '#include "kernel/base/types.h"\n',
    "boot/main.c": '#include <efi.h>\n#include "boot/boot_info.h"\n#include "arch/x86_64/pte.h"\n',
    "arch/x86_64/pte.h": '#include "kernel/base/types.h"\n',
    "arch/x86_64/cpu.h": "",
    "arch/x86_64/cpu.c": '#include "arch/x86_64/cpu.h"\n#include "mm/arch.h"\n#include "boot/boot_info.h"\n',
    "arch/x86_64/entry.asm": '%include "arch/x86_64/cpu.h"\n',
    "mm/arch.h": '#include "arch/x86_64/pte.h"\n',
    "mm/buddy.h": "",
    "mm/buddy.c": '#include "mm/buddy.h"\n\n#include "kernel/base/types.h"\n',
    "kernel/main.c": '#include "mm/buddy.h"\n#include "arch/x86_64/cpu.h"\n',
    "tests/test.h": "",
    "tests/suite_x.c": '#include "tests/test.h"\n#include "arch/x86_64/cpu.h"\n#include "kernel/base/types.h"\n',
    "tests/host/main.c": '#include <stdio.h>\n#include "tests/test.h"\n',
    "tests/host/bench/a.h": "",
    "tests/host/bench/a.c": '#include "tests/host/bench/a.h"\n#include "a.h"\n',
}

# file, what is added to it, and the line and words that must be named
PLANTED = [
    ("mm/buddy.c", '#include "arch/x86_64/cpu.h"\n', 4, "mm/ may include only"),
    ("mm/buddy.c", '#include "kernel/main.h"\n', 4, "not a file seen from the root"),
    ("mm/buddy.c", '#include "tests/test.h"\n', 4, "mm/ may include only"),
    ("mm/buddy.c", "#include <stdio.h>\n", 4, "freestanding"),
    ("mm/buddy.c", "#  include\t<stdio.h>\n", 4, "freestanding"),
    ("mm/buddy.c", "#include HEADER\n", 4, "computed include"),
    ("mm/buddy.c", 'static void f(void) { __asm__("nop"); }\n', 4, "no instruction"),
    ("mm/buddy.c", '#if 0\n#include "arch/x86_64/cpu.h"\n#endif\n', 5, "mm/ may include only"),
    ("mm/buddy.c", '/* "unterminated */\n#include "tests/test.h"\n', 5, "mm/ may include only"),
    ("kernel/base/types.h", '#include "mm/buddy.h"\n', 2, "kernel/base/ may include only"),
    ("arch/x86_64/cpu.c", '#include "mm/buddy.h"\n', 4, "arch/ may include only"),
    ("arch/x86_64/entry.asm", '%include "mm/buddy.h"\n', 2, "arch/ may include only"),
    ("boot/main.c", '#include "mm/buddy.h"\n', 4, "boot/ may include only"),
    ("boot/main.c", '#include "arch/x86_64/cpu.h"\n', 4, "boot/ may include only"),
    ("kernel/main.c", '#include "tests/test.h"\n', 3, "kernel/ may include only"),
    ("kernel/main.c", '#include "boot/main.h"\n', 3, "not a file"),
    ("tests/suite_x.c", "#include <stdio.h>\n", 4, "freestanding"),
    ("mm/buddy.c", '#include "pte.h"\n', 4, "not a file seen from the root"),
]


class Layers(unittest.TestCase):
    def check(self, files):
        with tempfile.TemporaryDirectory(prefix="tangram-test-") as folder:
            for path, text in files.items():
                full = os.path.join(folder, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, "w", encoding="utf-8") as file:
                    file.write(text)
            done = subprocess.run([sys.executable, TOOL, folder], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    def test_clean_tree(self):
        status, out = self.check(CLEAN)
        self.assertEqual((status, out), (0, out))
        self.assertIn(" 0 violations", out)

    def test_planted(self):
        for path, text, line, words in PLANTED:
            with self.subTest(path=path, text=text):
                status, out = self.check({**CLEAN, path: CLEAN[path] + text})
                self.assertEqual(status, 1, out)
                self.assertIn(" 1 violations", out)
                self.assertRegex(out, rf"(?m)^{path}:{line}: .*{words}")

    def test_own_header_first(self):
        text = '#include "kernel/base/types.h"\n#include "mm/buddy.h"\n'
        status, out = self.check({**CLEAN, "mm/buddy.c": text})
        self.assertEqual(status, 1)
        self.assertIn("mm/buddy.c:1: the first include is not its own header", out)

    def test_comments_and_strings_are_none(self):
        text = CLEAN["mm/buddy.c"] + ('/*\n#include "tests/test.h"\n asm */\n// #include "tests/test.h"\n'
                                      'const char *s = "asm";\n')
        self.assertEqual(self.check({**CLEAN, "mm/buddy.c": text})[0], 0)

    def test_empty_tree_is_no_pass(self):
        self.assertEqual(self.check({"README": ""})[0], 1)


if __name__ == "__main__":
    unittest.main()
