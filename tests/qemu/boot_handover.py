#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
BT1, BT3: what the loader hands over, as build/handover.elf finds it: a kernel that does nothing but check the promises
of boot/boot_info.h, on machines of several kinds, with command lines of every origin, and with modules.

    tests/qemu/boot_handover.py [unittest arguments]        (build/ must be there: make esp)
"""
import os
import random
import struct
import tempfile
import unittest

from firmware import EXIT_PASS, PROMPT, Machine, hand_over, make_esp, make_image

MODULES = ("tangram", "modules")


class Case(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = temporary.name

    def good(self, found, notes=()):
        """All promises kept, and these notes, each on the console, too."""
        self.assertEqual(found.faults, [], found.text)
        self.assertTrue(found.complete, found.text)
        self.assertEqual(found.status, EXIT_PASS)
        self.assertEqual(len(found.notes), len(notes), found.notes)
        for note, want in zip(found.notes, notes):
            self.assertIn(want, note)
        self.assertEqual(found.said, found.notes, "the console says what the notes say, once")


class Machines(Case):
    """Sizes of memory, CPUs with and without features, chipsets."""

    def boot(self, **options):
        found = hand_over(make_esp(self.folder), **options)
        self.good(found)
        self.assertEqual(found.word("image_gigabyte"), "ragged", "the image costs no 1G leaf")
        return found

    def test_512_mib(self):
        found = self.boot(memory="512M", extra=["-vga", "std"])
        self.assertNotEqual(found.word("width"), "0", "the framebuffer is found")

    def test_4_gib_without_1g_leaves(self):
        found = self.boot(memory="4G", cpu="max,-pdpe1gb")
        self.assertEqual(found.word("width"), "0", "no screen, no framebuffer")

    def test_12_gib_and_random_numbers(self):
        found = self.boot(memory="12G", extra=["-device", "virtio-rng-pci"])
        self.assertEqual(found.word("entropy_bytes"), "32")
        self.assertGreater(int(found.word("usable_mib")), 12000)

    def test_without_nx(self):
        self.assertEqual(self.boot(cpu="max,-nx").word("nx"), "0")

    def test_old_chipset_and_cpu(self):
        self.assertEqual(self.boot(cpu="qemu64", kind="pc", memory="3G").word("nx"), "1")

    def test_levels_follow_the_firmware(self):
        """OVMF of 2022 stays at 4 levels where the CPU has 5; one that does not is served as well."""
        self.assertIn(self.boot(cpu="max,la57=on").word("levels"), ("4", "5"))


class CommandLines(Case):
    def boot(self, cmdline):
        return hand_over(make_esp(self.folder, cmdline=cmdline))

    def test_mark_and_crlf_boot_identically(self):
        plain = self.boot(b"seed=5 lab=off suite=directmap\n")
        fancy = self.boot(b"\xef\xbb\xbfseed=5   lab=off\r\n\r\n\tsuite=directmap\r\n")
        self.good(plain)
        self.good(fancy)
        self.assertEqual(plain.value("cmdline"), "seed=5 lab=off suite=directmap")
        self.assertEqual(plain.lines, fancy.lines)

    def test_binary(self):
        found = self.boot(random.Random(1).randbytes(300))
        self.good(found, [r"\tangram\cmdline.txt is ignored: it is not text"])
        self.assertEqual(found.value("cmdline"), "")

    def test_one_megabyte(self):
        found = self.boot((b"seed=1 " * 149797)[:1 << 20])
        self.good(found, [r"\tangram\cmdline.txt is too large: 1048576 bytes"])
        self.assertEqual(found.value("cmdline"), "")

    def test_longer_than_boot_info_holds(self):
        found = self.boot(b"x" * 4096)
        self.good(found, [r"\tangram\cmdline.txt is ignored: it is too long"])

    def test_as_long_as_boot_info_holds(self):
        found = self.boot(b"y" * 4095 + b"\n")
        self.good(found)
        self.assertEqual(found.word("cmdline_length"), "4095")

    def test_missing(self):
        found = self.boot(None)
        self.good(found, [r"\tangram\cmdline.txt is missing"])
        self.assertEqual(found.value("cmdline"), "")


class Modules(Case):
    def boot(self, files):
        make_esp(self.folder)
        os.makedirs(os.path.join(self.folder, *MODULES))
        for name, data in files.items():
            with open(os.path.join(self.folder, *MODULES, name), "wb") as file:
                file.write(data)
        return hand_over(make_image(self.folder, self.folder + ".img"))

    def tearDown(self):
        if os.path.exists(self.folder + ".img"):
            os.unlink(self.folder + ".img")

    @staticmethod
    def line(name, data):
        total = 0
        for byte in data:
            total = (total * 31 + byte) & 0xFFFFFFFF
        return f"module {name} size={len(data)} sum={total}"

    def test_content_and_order(self):
        files = {"zebra.ko": b"z" * 5000, "Alpha.ko": bytes(range(256)) * 4097, "empty.ko": b"", "m.txt": b"text"}
        found = self.boot(files)
        self.good(found)
        self.assertEqual([line for line in found.lines if line.startswith("module ")],
                         [self.line(name, files[name]) for name in sorted(files)])

    def test_what_does_not_fit_is_named(self):
        files = {f"{number:03}.ko": b"%d" % number for number in range(66)}
        files["m\u00fcller.ko"] = b"umlaut"
        files["n" * 100] = b"long"
        found = self.boot(files)
        left_out = r"\tangram\modules: a file whose name is not ASCII or longer than 63 is left out"
        self.good(found, [left_out, left_out, r"\tangram\modules: 2 files beyond the first 64 are left out"])
        self.assertEqual(len([line for line in found.lines if line.startswith("module ")]), 64)


class LoadOptions(Case):
    """From the shell and from a boot option; both win over the file."""

    def disk(self, script):
        make_esp(self.folder, boot=False, cmdline=b"from=file\n")
        with open(os.path.join(self.folder, "startup.nsh"), "wb") as file:
            file.write("\r\n".join(["@echo -off", "fs0:", *script]).encode() + b"\r\n")
        self.addCleanup(lambda: os.path.exists(self.folder + ".img") and os.unlink(self.folder + ".img"))
        return make_image(self.folder, self.folder + ".img")

    def test_shell_arguments(self):
        found = hand_over(self.disk(['loader.efi from=shell "seed=3   lab=off"']), by_shell=True)
        self.good(found)
        self.assertEqual(found.value("cmdline"), "from=shell seed=3 lab=off")

    def test_shell_without_arguments(self):
        found = hand_over(self.disk(["loader.efi"]), by_shell=True)
        self.good(found)
        self.assertEqual(found.value("cmdline"), "from=file")

    def boot_option(self, options):
        """A boot option with this optional data, made in the shell; then the firmware starts it (UEFI 2.10, 3.1.3)."""
        name = "\\loader.efi".encode("utf-16-le") + b"\0\0"
        path = bytes.fromhex("02010c00d041030a00000000"        # PciRoot(0)
                             "01010600021f"                    # Pci(31, 2)
                             "03120a000000ffff0000")           # Sata(0)
        path += struct.pack("<BBH", 4, 4, 4 + len(name)) + name + bytes.fromhex("7fff0400")
        data = struct.pack("<IH", 1, len(path)) + "Tangram".encode("utf-16-le") + b"\0\0" + path + options
        setvar = "setvar {} -guid 8BE4DF61-93CA-11D2-AA0D-00E098032B8C -nv -bs -rt ={}"
        script = ["if exist fs0:\\made then", "loader.efi from=never", "endif", "echo made > fs0:\\made",
                  setvar.format("Boot0009", data.hex()), setvar.format("BootNext", "0900"), "reset"]
        return hand_over(self.disk(script), by_shell=True, reboots=True)

    def test_boot_option(self):
        found = self.boot_option("from=option seed=9".encode("utf-16-le") + b"\0\0")
        self.good(found)
        self.assertEqual(found.value("cmdline"), "from=option seed=9")

    def test_binary_boot_option(self):
        """Data of the firmware's own: named, and the file counts."""
        found = self.boot_option(bytes.fromhex("c0dec0de119f594d850ee21a522c59b2"))
        self.good(found, ["the load options (16 bytes) are ignored: it is not text"])
        self.assertEqual(found.value("cmdline"), "from=file")


class Serial(Case):
    """A firmware whose console does not reach the serial port: the loader writes there by itself."""

    def test_without_a_firmware_console(self):
        make_esp(self.folder, boot=False, kernel=None)
        with open(os.path.join(self.folder, "direct.nsh"), "wb") as file:
            file.write(b"@echo -off\r\ndisconnect %1\r\nloader.efi\r\nconnect -r\r\necho CONNECTED\r\n")
        image = make_image(self.folder, self.folder + ".img")
        self.addCleanup(os.unlink, image)
        with Machine(image) as machine:
            machine.expect(PROMPT)
            machine.type("fs0:")
            machine.type("dh -p SerialIo")
            handle = machine.expect(r"\n\s*([0-9A-F]+): [^\n]*SerialIO")[1]
            machine.type(f"direct.nsh {handle}")
            machine.expect(r"tangram: \\tangram\\kernel\.elf is missing\n")
            self.assertEqual(machine.text.count("tangram: "), 1, machine.text)


if __name__ == "__main__":
    unittest.main()
