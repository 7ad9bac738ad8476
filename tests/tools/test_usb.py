#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
tools/usb on a made-up machine (TANGRAM_ROOT): writes to a stick whose name was typed or given, byte for byte; refuses
everything else with the reason, and then writes nothing.
"""

import errno
import importlib.machinery
import importlib.util
import os
import pty
import select
import subprocess
import sys
import tempfile
import time
import unittest

TOOL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "usb")
MIB = 1 << 20
USB1 = "devices/pci0000:00/0000:00:14.0/usb1"
DIRT = b"old bytes " * MIB


class Machine(unittest.TestCase):
    """sda: the machine's own; sdb: a stick; the others are sticks, too, each with something wrong."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="tangram-test-")
        self.addCleanup(self.folder.cleanup)
        self.root = os.path.realpath(os.path.join(self.folder.name, "root"))
        self.image = os.path.join(self.folder.name, "image")
        self.bytes = os.urandom(2 * MIB) + bytes(MIB) + os.urandom(300000)
        with open(self.image, "wb") as file:
            file.write(self.bytes)
        self.disk("sda", "8:0", "devices/pci0000:00/ata1", removable=0)
        self.disk("sdb", "8:16", f"{USB1}/1-1")
        self.disk("sdc", "8:32", f"{USB1}/1-2", mib=1)
        self.partition("sdb", "sdb1", "8:17")
        self.mounts("21 1 8:1 / / rw - ext4 /dev/sda1 rw")
        self.put("proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n")

    def put(self, path, text):
        full = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as file:
            file.write(text)

    def mounts(self, *lines):
        self.put("proc/self/mountinfo", "\n".join(lines) + "\n")

    def disk(self, name, number, device, removable=1, mib=8, **files):
        """sysfs as a kernel would have it, and a file in /dev instead of the device."""
        base = f"sys/class/block/{name}"
        self.put(f"{base}/dev", number + "\n")
        self.put(f"{base}/removable", f"{removable}\n")
        self.put(f"{base}/size", f"{mib * 2048}\n")
        scsi = f"sys/{device}/{name}/target/0:0:0:0"
        for key, value in {"vendor": "Maker ", "model": "Stick 3.0 ", "type": "0", **files}.items():
            self.put(f"{scsi}/{key}", value + "\n")
        self.put(f"sys/{device}/serial", f"SERIAL-{name}\n")
        os.symlink(os.path.join(self.root, scsi), os.path.join(self.root, base, "device"))
        self.put(f"dev/{name}", "")
        with open(self.node(name), "wb") as file:
            file.write(DIRT[:mib * MIB])

    def partition(self, disk, name, number):
        for base in (f"sys/class/block/{name}", f"sys/class/block/{disk}/{name}"):
            self.put(f"{base}/partition", "1\n")
            self.put(f"{base}/dev", number + "\n")
            self.put(f"{base}/size", "2048\n")
        self.put(f"dev/{name}", "")

    def node(self, name):
        return os.path.join(self.root, "dev", name)

    def content(self, name):
        with open(self.node(name), "rb") as file:
            return file.read()

    def args(self, *args):
        # No lsblk: it would look at the real machine.
        env = {**os.environ, "TANGRAM_ROOT": self.root, "PATH": os.path.join(self.folder.name, "nothing")}
        return {"args": [sys.executable, TOOL, self.image, *args], "env": env}

    def run_tool(self, *args):
        done = subprocess.run(**self.args(*args), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        self.out, self.error = done.stdout, done.stderr
        return done.returncode

    def run_typing(self, answer, *args):
        """On a terminal, with this answer."""
        ours, theirs = pty.openpty()
        with subprocess.Popen(**self.args(*args), stdin=theirs, stdout=theirs, stderr=theirs,
                              start_new_session=True) as process:
            os.close(theirs)
            self.out, typed, deadline = "", False, time.monotonic() + 30
            while time.monotonic() < deadline:
                try:
                    data = os.read(ours, 4096) if select.select([ours], [], [], 1)[0] else b""
                except OSError as error:            # the other end is closed
                    self.assertEqual(error.errno, errno.EIO)
                    break
                self.out += data.decode()
                if not typed and ", anything else to leave it: " in self.out:
                    typed = True
                    os.write(ours, answer.encode() + b"\n")
            os.close(ours)
            return process.wait(10)

    def assert_written(self, name):
        got = self.content(name)
        self.assertEqual(got[:len(self.bytes)], self.bytes)
        # The end of the disk, where a copy of an older partition table would lie, is empty; between them nothing was touched.
        self.assertEqual(got[-MIB:], bytes(MIB))
        self.assertEqual(got[len(self.bytes):-MIB], DIRT[len(self.bytes):len(got) - MIB])

    def assert_untouched(self, *names):
        for name in names:
            self.assertEqual(self.content(name), DIRT[:len(self.content(name))], name)

    def assert_refused(self, device, why, *args):
        self.assertEqual(self.run_tool(device, *args), 1, device)
        self.assertIn(why, self.error)
        self.assertIn("nothing was written", self.error)
        for name in os.listdir(os.path.join(self.root, "sys/class/block")):
            self.assert_untouched(name)


class Written(Machine):
    def test_help(self):
        self.assertEqual(self.run_tool(), 0)
        self.assertIn("LOST", self.out)
        self.assert_untouched("sda", "sdb", "sdc")

    def test_its_name_is_typed(self):
        for answer in ("sdb", "/dev/sdb"):
            self.disk_again("sdb")
            self.assertEqual(self.run_typing(answer, "/dev/sdb"), 0, self.out)
            self.assertIn("/dev/sdb: Maker Stick 3.0, 8,388 kB, serial number SERIAL-sdb, removable, on USB", self.out)
            self.assertIn("sdb1  1,048 kB", self.out)
            self.assertIn(f"{len(self.bytes)} bytes written, read back and found the same", self.out)
            self.assert_written("sdb")
        self.assert_untouched("sda", "sdc")

    def disk_again(self, name):
        size = len(self.content(name))
        with open(self.node(name), "wb") as file:
            file.write(DIRT[:size])

    def test_its_name_is_given(self):
        self.assertEqual(self.run_tool("/dev/sdb", "--erase", "sdb"), 0, self.error)
        self.assertIn("ALL OF THIS WILL BE LOST", self.out)
        self.assert_written("sdb")

    def test_by_a_link(self):
        os.makedirs(os.path.join(self.root, "dev/disk/by-id"))
        os.symlink("../../sdb", os.path.join(self.root, "dev/disk/by-id/usb-stick"))
        self.assertEqual(self.run_tool("/dev/disk/by-id/usb-stick", "--erase", "sdb"), 0, self.error)
        self.assert_written("sdb")

    def test_usb_disk_that_is_not_removable(self):
        self.disk("sde", "8:64", f"{USB1}/1-4", removable=0)
        self.assert_refused("/dev/sde", "make usb DEV=/dev/sde FIXED=1", "--erase", "sde")
        self.assertEqual(self.run_tool("/dev/sde", "--fixed", "--erase", "sde"), 0, self.error)
        self.assertIn("not removable, on USB", self.out)
        self.assert_written("sde")

    def test_card_in_a_reader_of_the_machine(self):
        self.disk("mmcblk0", "179:0", "devices/pci0000:00/0000:00:1b.0/mmc_host/mmc0", removable=0, type="SD")
        self.assert_refused("/dev/mmcblk0", "make usb DEV=/dev/mmcblk0 FIXED=1", "--erase", "mmcblk0")
        self.assertEqual(self.run_tool("/dev/mmcblk0", "--fixed", "--erase", "mmcblk0"), 0, self.error)
        self.assertIn("not removable. On it now", self.out)
        self.assert_written("mmcblk0")

    def test_disk_as_large_as_the_image(self):
        self.disk("sdf", "8:80", f"{USB1}/1-5", mib=4)
        with open(self.image, "wb") as file:
            self.bytes = os.urandom(4 * MIB)
            file.write(self.bytes)
        self.assertEqual(self.run_tool("/dev/sdf", "--erase", "sdf"), 0, self.error)
        self.assertEqual(self.content("sdf"), self.bytes)


class Refused(Machine):
    def test_not_confirmed(self):
        for answer in ("", "y", "yes", "sda", "/dev/sdc", "sdb1"):
            self.assertEqual(self.run_typing(answer, "/dev/sdb"), 1, self.out)
            self.assertIn("not confirmed", self.out)
            self.assert_untouched("sdb")

    def test_nobody_to_ask(self):
        self.assert_refused("/dev/sdb", "make usb DEV=/dev/sdb ERASE=sdb")

    def test_another_name_given(self):
        for name in ("sda", "sdc", "yes", ""):
            self.assert_refused("/dev/sdb", f"ERASE={name} is another disk", "--erase", name)

    def test_names(self):
        for device, why in (("sdb", "not a name like"), ("/dev/sdz", "no such disk"), ("/dev/", "no such disk"),
                            ("/dev/..", "no such disk"), ("/dev/../dev/sda", "neither on USB nor an SD card"),
                            ("/dev/sdb1", "a partition"), (self.image, "not a name like")):
            self.assert_refused(device, why, "--erase", os.path.basename(device))

    def test_disk_of_the_machine(self):
        # A SATA port that can be plugged, and the memory that is soldered in: whatever they say of being removable.
        self.disk("sdg", "8:96", "devices/pci0000:00/0000:00:17.0/ata2", removable=1)
        self.disk("mmcblk1", "179:8", "devices/pci0000:00/0000:00:1a.0/mmc_host/mmc1", removable=1, type="MMC")
        for name in ("sda", "sdg", "mmcblk1"):
            for how in ((), ("--fixed",)):
                self.assert_refused(f"/dev/{name}", "a disk of the machine itself", *how, "--erase", name)

    def test_too_small(self):
        self.assert_refused("/dev/sdc", f"holds {MIB} bytes, the image has {len(self.bytes)}", "--erase", "sdc")

    def test_no_medium(self):
        self.put("sys/class/block/sdb/size", "0\n")
        self.assert_refused("/dev/sdb", "no medium", "--erase", "sdb")

    def test_write_protected(self):
        self.put("sys/class/block/sdb/ro", "1\n")
        self.assert_refused("/dev/sdb", "write-protected", "--erase", "sdb")

    def test_drive_for_discs(self):
        self.disk("sr0", "11:0", f"{USB1}/1-6", type="5")
        self.assert_refused("/dev/sr0", "no disk, but some other device", "--erase", "sr0")

    def test_in_use(self):
        cases = {
            "mounted at /media/my stick: unmount it": ["30 21 8:17 / /media/my\\040stick rw - vfat /dev/sdb1 rw"],
            "sdb: mounted at /mnt": ["30 21 8:16 / /mnt rw shared:2 - vfat /dev/sdb rw"],
            # The number is that of a subvolume, only the name tells.
            "mounted at /data": ["30 21 0:44 / /data rw - btrfs /dev/sdb1 rw"],
            "the system runs from it": ["30 21 8:17 / / rw - ext4 /dev/root rw"],
        }
        for why, lines in cases.items():
            self.mounts(*lines)
            self.assert_refused("/dev/sdb", why, "--erase", "sdb")
        # Another disk whose name begins the same.
        self.mounts("30 21 65:1 / /mnt rw - ext4 /dev/sdbb1 rw")
        self.put("proc/swaps", "Filename Type Size Used Priority\n/dev/sdb1 partition 1 0 -2\n")
        self.assert_refused("/dev/sdb", "sdb1: in use as swap", "--erase", "sdb")
        self.put("proc/swaps", "Filename Type Size Used Priority\n/dev/sdbb1 partition 1 0 -2\n")
        self.put("sys/class/block/sdb/sdb1/holders/dm-0/dev", "253:0\n")
        self.assert_refused("/dev/sdb", "sdb1: in use by dm-0", "--erase", "sdb")

    @unittest.skipIf(os.getuid() == 0, "root may write everything")
    def test_no_right_to_write(self):
        os.chmod(self.node("sdb"), 0o400)
        self.assert_refused("/dev/sdb", "sudo tools/usb", "--erase", "sdb")

    def test_changed_meanwhile(self):
        """Its size is no longer what sysfs said."""
        self.put("sys/class/block/sdb/size", f"{9 * 2048}\n")
        self.assert_refused("/dev/sdb", "no longer as large", "--erase", "sdb")

    def test_wrong_arguments(self):
        self.assertEqual(self.run_tool("--erase", "sdb"), 2)
        os.remove(self.image)
        self.assertEqual(self.run_tool("/dev/sdb", "--erase", "sdb"), 2)
        self.assert_untouched("sdb")


class ReadBack(Machine):
    def test_difference_is_found(self):
        loader = importlib.machinery.SourceFileLoader("usb", TOOL)
        usb = importlib.util.module_from_spec(importlib.util.spec_from_loader("usb", loader))
        loader.exec_module(usb)
        self.assertEqual(self.run_tool("/dev/sdb", "--erase", "sdb"), 0, self.error)
        for at in (0, 3 * MIB + 5, len(self.bytes) - 1):
            with open(self.image, "rb") as image, open(self.node("sdb"), "r+b") as disk:
                usb.compare(disk.fileno(), image, len(self.bytes))
                os.pwrite(disk.fileno(), bytes([self.bytes[at] ^ 1]), at)
                with self.assertRaisesRegex(OSError, f"first at byte {at}$"):
                    usb.compare(disk.fileno(), image, len(self.bytes))
                os.pwrite(disk.fileno(), self.bytes[at:at + 1], at)


if __name__ == "__main__":
    unittest.main()
