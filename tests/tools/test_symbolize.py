#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""tools/symbolize on a small program linked at the kernel's addresses by the kernel's own linker script."""

import os
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
TOOL = os.path.join(ROOT, "tools", "symbolize")

SOURCE = """\
void kernel_entry(void);
void outer(void);
__attribute__((noinline)) void inner(volatile int *p);
__attribute__((noinline)) void inner(volatile int *p)
{
	*p = 1;
}
void outer(void)
{
	int x;
	inner(&x);
	x++;
	inner(&x);
}
void kernel_entry(void)
{
	for (;;)
		outer();
}
"""


class Symbolize(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="tangram-test-")
        source, cls.elf = (os.path.join(cls.folder.name, name) for name in ("small.c", "small.elf"))
        with open(source, "w", encoding="utf-8") as file:
            file.write(SOURCE)
        obj = source + ".o"
        subprocess.run(["gcc", "-g", "-O1", "-fno-pic", "-mcmodel=kernel", "-ffreestanding", "-fcf-protection=none",
                        "-fno-optimize-sibling-calls", "-c", "-o", obj, source], check=True)
        subprocess.run(["ld", "-T", os.path.join(ROOT, "linker.ld"), "-z", "max-page-size=0x200000", "-o", cls.elf,
                        obj], check=True)
        listing = subprocess.run(["objdump", "-d", cls.elf], check=True, capture_output=True, text=True).stdout
        body = listing[listing.index("<outer>:"):]
        # The addresses behind both calls of inner().
        cls.returns = [int(match, 16) for match in re.findall(r"call.*<inner>\n\s*([0-9a-f]+):", body)][:2]
        cls.outer = int(re.search(r"([0-9a-f]+) <outer>:", listing)[1], 16)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def run_tool(self, *args, text=b""):
        done = subprocess.run([sys.executable, TOOL, "--elf", self.elf, *args], input=text, capture_output=True,
                              check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_return_addresses_name_the_call(self):
        first, second = self.returns
        out = self.run_tool(text=f"# [<{first:#x}>]\n# [<{second:#x}>] tail\n".encode()).decode().splitlines()
        self.assertRegex(out[0], rf"\] outer\+{first - self.outer:#x} .*small\.c:11$")
        self.assertRegex(out[1], rf"\] outer\+{second - self.outer:#x} .*small\.c:13 tail$")

    def test_rip_is_the_instruction_itself(self):
        out = self.run_tool(text=f"# rip [<{self.outer:#x}>]\n".encode()).decode()
        self.assertRegex(out, r"outer\+0x0 .*small\.c:9\n$")

    def test_what_the_kernel_named_gets_its_line(self):
        first = self.returns[0]
        text = f"#   [<{first:#x}>] outer+0x9/0x20\n".encode()
        self.assertRegex(self.run_tool(text=text).decode(), r"\] outer\+0x9/0x20 \S*small\.c:11\n$")

    def test_rip_among_the_registers(self):
        """The same address is the faulting instruction in one log and a return address in another."""
        second = self.returns[1]
        trace = f"#   [<{second:#x}>]\n"
        self.assertRegex(self.run_tool(text=trace.encode()).decode(), r"small\.c:13\n$")
        registers = f"#   rip {second:016x}  cs  0000000000000008\n"
        self.assertRegex(self.run_tool(text=(registers + trace).encode()).decode(), r"small\.c:14\n$")

    def test_bare_addresses(self):
        out = self.run_tool(hex(self.outer), "0x1234").decode().splitlines()
        self.assertRegex(out[0], r"outer\+0x0 .*small\.c:9$")
        self.assertIn("not in the text", out[1])

    def test_the_rest_stays_as_it_is(self):
        text = b"\xff\x00 [<0xffffffff90000000>] [<0x0>] [<zz>] 0xffffffff80000000\nno newline"
        self.assertEqual(self.run_tool(text=text), text)

    def test_missing_file(self):
        done = subprocess.run([sys.executable, TOOL, "--elf", "/nonexistent"], capture_output=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"/nonexistent is not there", done.stderr)


if __name__ == "__main__":
    unittest.main()
