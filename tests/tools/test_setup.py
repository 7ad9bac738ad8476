#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""tools/setup on machines that lack this or that: commands of ours take the place of apt-get, id and sudo."""

import os
import re
import shutil
import subprocess
import tempfile
import time
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
TOOL = os.path.join(ROOT, "tools", "setup")

# Installs by making an empty command of the package's name; `update` leaves a trace.
APT = """#!/bin/sh
echo "apt-get $*" >> "$TRACE"
[ "$FAIL" = 1 ] && exit 100
for word; do
	case $word in
	-* | install | update | DPkg*) ;;
	*) printf '#!/bin/sh\\n' > "$BIN/$word"; chmod +x "$BIN/$word" ;;
	esac
done
"""


class Setup(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="tangram-test-")
        self.addCleanup(self.folder.cleanup)
        self.bin = os.path.join(self.folder.name, "bin")
        self.trace = os.path.join(self.folder.name, "trace")
        os.mkdir(self.bin)
        for name in ("sh", "cat", "chmod", "env"):
            os.symlink(shutil.which(name), os.path.join(self.bin, name))
        for name in ("gcc", "ld", "make", "nasm", "python3"):
            self.command(name, "exit 0")
        self.command("id", "echo 0")

    def command(self, name, text):
        path = os.path.join(self.bin, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
        os.chmod(path, 0o755)

    def remove(self, name):
        os.remove(os.path.join(self.bin, name))

    def run_setup(self, *args, fail=False):
        env = {"PATH": self.bin, "BIN": self.bin, "TRACE": self.trace, "FAIL": str(int(fail))}
        done = subprocess.run([TOOL, *args], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=30, check=False)
        self.output = done.stdout + done.stderr
        return done.returncode

    def traced(self):
        if not os.path.exists(self.trace):
            return ""
        with open(self.trace, encoding="utf-8") as file:
            return file.read()

    def test_complete_machine_is_left_alone_and_fast(self):
        self.command("apt-get", APT)
        began = time.monotonic()
        self.assertEqual(self.run_setup("build"), 0, self.output)
        self.assertLess(time.monotonic() - began, 1.0)
        self.assertEqual((self.output, self.traced()), ("", ""))

    def test_installs_what_is_missing_and_only_that(self):
        self.command("apt-get", APT)
        self.remove("nasm")
        self.assertEqual(self.run_setup("build"), 0, self.output)
        self.assertRegex(self.traced(), r"install -y --no-install-recommends nasm\n$")
        self.assertNotIn("gcc", self.traced())

    def test_sets_ask_for_their_own(self):
        self.command("apt-get", APT)
        self.assertEqual(self.run_setup("--check", "build"), 0, self.output)
        self.assertEqual(self.run_setup("--check", "bench"), 1)
        self.assertIn("valgrind", self.output)
        self.assertNotIn("qemu", self.output)

    def test_without_root(self):
        self.command("apt-get", APT)
        self.command("id", "echo 1000")
        self.remove("nasm")
        self.assertEqual(self.run_setup("build"), 1)
        self.assertIn("apt-get update && apt-get install -y --no-install-recommends nasm", self.output)
        self.assertEqual(self.traced(), "")

    def test_through_sudo(self):
        self.command("apt-get", APT)
        self.command("id", "echo 1000")
        self.command("sudo", '[ "$1" = -n ] && shift; [ "$1" = true ] && exit 0; echo sudo >> "$TRACE"; exec "$@"')
        self.remove("nasm")
        self.assertEqual(self.run_setup("build"), 0, self.output)
        self.assertIn("sudo\napt-get", self.traced())

    def test_sudo_that_wants_a_password_is_not_waited_for(self):
        self.command("apt-get", APT)
        self.command("id", "echo 1000")
        self.command("sudo", "exit 1")
        self.remove("nasm")
        self.assertEqual(self.run_setup("build"), 1)
        self.assertIn("run this as root", self.output)

    def test_failed_install_says_so(self):
        self.command("apt-get", APT)
        self.remove("nasm")
        self.assertEqual(self.run_setup("build", fail=True), 1)
        self.assertIn("installing failed", self.output)
        self.assertIn("nasm", self.output)

    def test_install_that_brings_nothing(self):
        self.command("apt-get", "exit 0")
        self.remove("nasm")
        self.assertEqual(self.run_setup("build"), 1)
        self.assertIn("still not found: nasm", self.output)

    def test_no_apt(self):
        self.remove("nasm")
        self.assertEqual(self.run_setup("build"), 1)
        self.assertIn("no apt-get here", self.output)

    def test_unknown_set(self):
        self.assertEqual(self.run_setup("everything"), 2)
        self.assertIn("unknown set 'everything'", self.output)


class Targets(unittest.TestCase):
    def make(self, *args):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(["make", "-C", ROOT, "--no-print-directory", *args], env=env, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_each_installs_first_what_it_needs(self):
        """So any of them may be the only command behind the clone, where there is not even a Python to run the next one."""
        targets = set(re.findall(r"(?m)^make ([\w-]+) ", self.make("help"))) - {"clean"}
        self.assertLessEqual({"run", "test", "usb", "monitor", "bench", "fuzz"}, targets)
        for target in sorted(targets):
            with self.subTest(target=target):
                self.assertRegex(self.make("-n", target).splitlines()[0], r"^tools/setup build\b")


if __name__ == "__main__":
    unittest.main()
