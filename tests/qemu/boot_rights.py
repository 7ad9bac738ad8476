#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
BT1: nothing of the loader's is writable and executable under the firmware's page tables, where the firmware lets that be said.
OVMF of Debian 12 does not; tests/qemu/strict/ adds to it what it lacks.
"""

import os
import shutil
import tempfile
import unittest

from boot import SECONDS
from firmware import BUILD, EXIT_PASS, LOADER, Machine, make_esp

KERNEL = os.path.join(BUILD, "kernel.elf")
STRICT = os.path.join(BUILD, "strict.efi")
CMDLINE = b"suite=cmdline lab=off\n"
FOUND = (r"# loader: firmware {} memory-attribute protocol, (\d+) ranges changed; of the loader's (\d+) KiB, (\d+) KiB were "
         r"writable and executable\n")


class Rights(unittest.TestCase):
    def machine(self, strict, kernel=KERNEL):
        folder = tempfile.mkdtemp(prefix="tangram-rights-")
        self.addCleanup(shutil.rmtree, folder)
        make_esp(folder, loader=STRICT if strict else LOADER, kernel=kernel, cmdline=CMDLINE)
        shutil.copyfile(LOADER, os.path.join(folder, "tangram", "loader.efi"))
        return Machine(folder, timeout=SECONDS)

    def boot(self, strict):
        """Ranges changed, KiB in all, KiB writable and executable."""
        with self.machine(strict) as machine:
            found = machine.expect(FOUND.format("with" if strict else "without"))
            self.assertEqual(machine.wait(), EXIT_PASS)
            return [int(word) for word in found.groups()]

    def test_with_the_protocol(self):
        changed, kib, left = self.boot(strict=True)
        self.assertGreater(changed, 5)
        self.assertGreater(kib, 4096)
        self.assertEqual(left, 0)

    def test_without_the_protocol(self):
        """What the protocol takes away is there without it: else the test above would prove nothing."""
        changed, kib, left = self.boot(strict=False)
        self.assertEqual(changed, 0)
        self.assertEqual(left, kib)

    def test_all_is_given_back(self):
        """A loader that fails leaves the firmware's memory as it was."""
        with self.machine(strict=True, kernel=os.path.join(BUILD, "strict.efi")) as machine:
            machine.expect(r"tangram: \\tangram\\kernel\.elf [^\n]*\n")
            found = machine.expect(r"tangram: strict: status 0x[0-9a-f]+; writable and executable were (\d+) bytes, are (\d+)\n")
            self.assertEqual(found[1], found[2])
            self.assertGreater(int(found[1]), 0)


if __name__ == "__main__":
    unittest.main()
