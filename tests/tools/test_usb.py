#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""tools/usb-help on a made-up /sys: shows a command for a stick, refuses everything else, writes nothing."""

import os
import subprocess
import tempfile
import unittest

TOOL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "usb-help")


class Usb(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="tangram-test-")
        self.addCleanup(self.folder.cleanup)
        self.write("image", bytes(4096))
        self.write("mounts", b"/dev/sdd1 /media/x vfat rw 0 0\n")
        self.disk("sda", 0, 1000000, "pci0000:00/ata1")             # a disk of the machine
        self.disk("sdb", 1, 1000000, "pci0000:00/usb1/1-1")         # a stick
        self.disk("sdc", 1, 7, "pci0000:00/usb1/1-2")               # 3.5 KiB
        self.disk("sdd", 1, 1000000, "pci0000:00/usb1/1-3")         # mounted
        self.disk("sde", 0, 1000000, "pci0000:00/usb2/2-1")         # a fixed disk behind USB
        self.disk("sdb1", 0, 900000, "pci0000:00/usb1/1-1")
        self.write("sys/class/block/sdb1/partition", b"1\n")

    def write(self, path, data):
        full = os.path.join(self.folder.name, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as file:
            file.write(data)

    def disk(self, name, removable, sectors, device):
        base = f"sys/class/block/{name}"
        self.write(f"{base}/removable", b"%d\n" % removable)
        self.write(f"{base}/size", b"%d\n" % sectors)
        target = os.path.join(self.folder.name, "sys/devices", device)
        os.makedirs(target, exist_ok=True)
        os.symlink(target, os.path.join(self.folder.name, base, "device"))

    def run_tool(self, *args):
        env = {**os.environ, "TANGRAM_SYS": os.path.join(self.folder.name, "sys"),
               "TANGRAM_MOUNTS": os.path.join(self.folder.name, "mounts")}
        done = subprocess.run([TOOL, os.path.join(self.folder.name, "image"), *args], env=env, capture_output=True,
                              text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def test_help(self):
        status, out, _ = self.run_tool()
        self.assertEqual(status, 0)
        self.assertIn("LOST", out)

    def test_sticks(self):
        for name in ("sdb", "sde"):
            status, out, _ = self.run_tool(f"/dev/{name}")
            self.assertEqual(status, 0, name)
            self.assertIn(f"of=/dev/{name} ", out)
            self.assertIn("LOST", out)

    def test_refused(self):
        for device, why in (("/dev/sda", "disk of the machine"), ("/dev/sdb1", "a partition"), ("sdb", "not a name"),
                            ("/dev/sdc", "holds 3584 bytes"), ("/dev/sdd", "mounted at /media/x"),
                            ("/dev/sdz", "no such disk"), ("/dev/", "no such disk")):
            status, out, error = self.run_tool(device)
            self.assertEqual((status, out), (1, ""), device)
            self.assertIn(why, error)
            self.assertIn("nothing was written", error)


if __name__ == "__main__":
    unittest.main()
