#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
How a run ends, seen from outside: end= (BT7), panics (RP4).

Boots build/esp some fifteen times, a few seconds each, with the quickest of suites.
"""

import os
import re
import tempfile

from boot import Boot, main, qemu

QUICK = "suite=cmdline lab=off"


class Ends(Boot):
    def test_exit_pass(self):
        self.boot(f"{QUICK} end=exit")
        self.assert_code(qemu.PASS)
        self.assert_ends()

    def test_exit_fail(self):
        self.boot("suite=no_such_suite lab=off end=exit")
        self.assert_code(qemu.FAIL)
        self.assert_says("verdict=fail")

    def test_halt_stays_up(self):
        self.boot(f"{QUICK} end=halt")
        self.assert_code(qemu.PASS)
        self.assertIsNone(self.shutdown)

    def test_reboot_resets(self):
        self.boot(f"{QUICK} end=reboot")
        self.assert_code(qemu.PASS)
        self.assertEqual(self.shutdown, "guest-reset")
        self.assert_ends()

    def test_poweroff_switches_off(self):
        self.boot(f"{QUICK} end=poweroff")
        self.assert_code(qemu.PASS)
        self.assertEqual(self.shutdown, "guest-shutdown")
        self.assert_ends()

    def test_no_hypervisor_means_halt(self):
        """Port 0xf4 belongs to something else on a real machine: never written there. Its errata count there, too."""
        self.boot(f"{QUICK} end=exit", cpu="Nehalem,-hypervisor")
        self.assert_says("verdict=pass")
        self.assert_says("break-before-make asked for by errata: executable leaves")
        self.assert_code(qemu.FAIL)
        self.assertIn("did not end the machine", self.result.reason)


class Panics(Boot):
    def panic(self, how):
        self.boot(f"{QUICK} panic={how}")
        self.assert_code(qemu.FAIL)
        self.assertNotIn("TANGRAM END", self.text)
        return self.text

    def test_assertion(self):
        text = self.panic("assert")
        self.assertRegex(text, r"# PANIC on CPU 0 during planned panic: assertion failed: .*kernel/panic\.c:\d+")
        self.assertRegex(text, r"#   \[<0x[0-9a-f]{16}>\] panic_on_purpose\+0x[0-9a-f]+/0x[0-9a-f]+\n")
        self.assertIn("main_on_task_stack+", text)

    def test_page_fault(self):
        text = self.panic("fault")
        self.assertIn("supervisor write to an absent page, at address 0xffffffff7ffff000", text)
        self.assertIn("how 0xffffffff7ffff000 is mapped:", text)
        self.assertRegex(text, r"level 4 entry 511: [0-9a-f]{16} table")
        self.assertRegex(text, r"level [1-3] entry +\d+: 0{16} absent")
        rip = re.search(r"  rip ([0-9a-f]{16})", text)
        self.assertTrue(rip)
        self.assertRegex(text, rf"backtrace:\n#   \[<0x{rip.group(1)}>\] \w+\+0x")

    def test_stack_overflow(self):
        text = self.panic("overflow")
        self.assertIn("double fault (vector 8)", text)
        self.assertIn("stack overflow: the task stack ran into its guard page", text)
        self.assertRegex(text, r"guard page below area 0x[0-9a-f]{16}-0x[0-9a-f]{16}")
        self.assertGreater(text.count("] overflow_on_purpose+"), 5)

    def test_panic_inside_a_panic(self):
        self.assertIn("# PANIC inside a panic: asked for inside a panic", self.panic("nested"))


class PanicsOfMany(Boot):
    """Four CPUs: one speaks, the others are stopped wherever they are, and named (RP4)."""

    CPUS = 4

    def panic(self, how):
        self.boot(f"{QUICK} panic={how}", cpus=self.CPUS)
        self.assert_code(qemu.FAIL)
        self.assertNotIn("TANGRAM END", self.text)
        speakers = re.findall(r"# PANIC on CPU (\d+) ", self.text)
        self.assertEqual(len(speakers), 1, self.text[-3000:])
        return int(speakers[0])

    def others(self):
        """CPU -> thread, what became of it, and the line behind."""
        found = re.findall(r"#   CPU (\d+), thread ([\w-]+), ([^\n]*)\n(?=([^\n]*))", self.text)
        return {int(cpu): (thread, fate, where) for cpu, thread, fate, where in found}

    def check_stopped(self):
        """The scene of panic=thread and thread-overflow: the last CPU crashes, CPU 1 has its interrupts off."""
        others = self.others()
        self.assertEqual(sorted(others), [0, 1, 2], self.text[-3000:])
        self.assertEqual(others[1][0], "deaf")
        self.assertEqual(others[2][0], "idle")
        for cpu, (_, fate, where) in others.items():
            with self.subTest(cpu=cpu):
                self.assertEqual(fate, "was stopped at")
                self.assertRegex(where, r"^#   \[<0x[0-9a-f]{16}>\] \w+[.\w]*\+0x[0-9a-f]+/0x[0-9a-f]+$")
        self.assertIn("#   in thread crasher\n", self.text)

    def test_in_a_thread(self):
        self.assertEqual(self.panic("thread"), self.CPUS - 1)
        self.check_stopped()
        self.assertIn("supervisor write to an absent page, at address 0xffffffff7ffff000", self.text)

    def test_stack_of_a_thread(self):
        self.assertEqual(self.panic("thread-overflow"), self.CPUS - 1)
        self.check_stopped()
        self.assertIn("stack overflow: the task stack ran into its guard page", self.text)
        self.assertRegex(self.text, r"guard page below area 0x[0-9a-f]{16}-0x[0-9a-f]{16} \(vmalloc, crasher\)")

    def test_all_at_once(self):
        """Whoever is first speaks. The others were about to, or have left their reason."""
        first = self.panic("all")
        others = self.others()
        self.assertEqual(sorted(others), [cpu for cpu in range(self.CPUS) if cpu != first], self.text[-3000:])
        for cpu, (_, fate, _) in others.items():
            with self.subTest(cpu=cpu):
                self.assertIn(fate, ("was stopped at", f"panicked, too: asked for on CPU {cpu}"))


class LostThread(Boot):
    def test_join_is_told(self):
        """A CPU that is given up takes its thread with it: who waits for that is told, and the run fails."""
        self.boot("suite=lost_thread lab=off plant=deaf-cpu", cpus=3)
        self.assert_code(qemu.FAIL)
        self.assert_says("# lost_thread.join_says_so: lost=2 joined=5\n")
        self.assertNotIn("not true", self.text)
        self.assertIn("# TANGRAM END verdict=fail", self.text)


if __name__ == "__main__":
    main()
