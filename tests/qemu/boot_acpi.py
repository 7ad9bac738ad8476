#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
BT4 from outside: machines whose ACPI tables are good, bad or missing. QEMU mends length and checksum of a table that it is
given, so what can be bad here is the body; the rest is tests/machine/suite_acpi.c's and tests/host/test_acpi.c's.
"""

import random
import re
import struct

from boot import IO, Boot, acpi_tables, main, register, spcr


class Acpi(Boot):
    def boot_with(self, tables=(), suite="acpi", **options):
        """Boot with more tables, (signature, revision, body) each, and run the machine's own tests of ACPI; they pass."""
        options.setdefault("memory", "1G")
        with acpi_tables(tables) as args:
            self.boot(f"suite={suite} lab=off", extra=[*options.pop("extra", ()), *args], **options)
        self.assert_passes()
        self.complaints = re.findall(r"(?m)^# warning: acpi: (.*)$", self.text)

    def assert_found(self, words):
        self.assertIn(words, self.assert_matches(r"(?m)^# acpi: (tables .*)$")[1])

    def assert_complaints(self, *patterns):
        """These, each once, and no others."""
        left = list(self.complaints)
        for pattern in patterns:
            hits = [line for line in left if re.search(pattern, line)]
            self.assertEqual(len(hits), 1, f"{pattern}: {self.complaints}")
            left.remove(hits[0])
        self.assertEqual(left, [])


class Good(Acpi):
    def test_cpus_and_nodes(self):
        self.boot_with(cpus=3, numa="2")
        self.assert_complaints()
        self.assert_found("CPUs 3 usable of 3, IOAPICs 1, nodes 2, PCI segments 1, HPET address 0xfed00000")

    def test_cpus_to_be_plugged_are_not_usable(self):
        self.boot_with(extra=["-smp", "2,maxcpus=6"])
        self.assert_complaints()
        self.assert_found("CPUs 2 usable of 6")

    def test_serial_port(self):
        """A console that the firmware names: 0x2f8, 16550."""
        self.boot_with([spcr(register(IO, 0x2f8))])
        self.assert_complaints()
        self.assert_found("SPCR port 0x2f8")


class Bad(Acpi):
    def test_every_kind_of_nonsense(self):
        """One boot, for they are independent of each other."""
        noise = random.Random(4).randbytes(300)
        self.boot_with([
            ("SRAT", 3, bytes(12) + b"\x00\x00" + bytes(50)),       # an entry of length 0
            ("SRAT", 3, bytes(12) + b"\x01\x10" + bytes(14)),       # memory affinity, too short
            ("SLIT", 1, noise),                                     # nobody reads it, nobody minds
            ("SPCR", 2, b"\xff" * 9),
            ("DBG2", 0, struct.pack("<II", 44, 0xffffffff) + noise),
            ("MCFG", 1, bytes(8) + noise[:17]),                     # QEMU's own counts; but this is a second one
            ("?!#1", 1, noise),
        ], cpus=2)
        self.assert_complaints(
            r"^SRAT at 0x[0-9a-f]+: entry at offset 0x30, type 0, has length 0, with 52 bytes left: table skipped$",
            r"^SRAT at 0x[0-9a-f]+: entry at offset 0x30, type 1, has 16 bytes instead of 40: table skipped$",
            r"^SPCR at 0x[0-9a-f]+: 45 bytes, fewer than 80: table skipped$",
            r"^DBG2 at 0x[0-9a-f]+: device \d+ at offset 0x[0-9a-f]+ has length \d+, with \d+ bytes left: table skipped$",
            r"^MCFG at 0x[0-9a-f]+: a second one, besides that at 0x[0-9a-f]+: table skipped$")
        self.assert_found("CPUs 2 usable of 2, IOAPICs 1, nodes 1, PCI segments 1, HPET address 0xfed00000, PM timer port")

    def test_a_good_srat_beside_a_bad_one(self):
        self.boot_with([("SRAT", 3, random.Random(5).randbytes(400))], cpus=2, numa="2")
        self.assertEqual(len(self.complaints), 1, self.complaints)
        self.assertRegex(self.complaints[0], r"^SRAT at 0x[0-9a-f]+: .*: table skipped$")
        self.assert_found("nodes 2")


class Missing(Acpi):
    def test_no_hpet(self):
        self.boot_with(machine="q35,hpet=off")
        self.assert_complaints()
        self.assert_found("HPET none")

    def test_no_tables(self):
        self.boot_with(suite="acpi,fmt", machine="q35,acpi=off", cpus=2)
        self.assertIn("RSDP: the firmware has none", self.complaints)
        self.assertIn("nothing can be read: one CPU, no IOAPIC, no HPET, no PM timer", self.complaints)


if __name__ == "__main__":
    main()
