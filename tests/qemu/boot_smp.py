#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
CPUs that fail, CPUs that are not wanted, and machines that lack a clock or a controller (BT5, TL1), seen from outside.

Boots build/esp some ten times, with a handful of tests each.
"""

import re

from boot import Boot, main, qemu

QUICK = "suite=smp.all_*,smp.each_*,smp.alarm_*,smp.nmi_* lab=off"


class Lost(Boot):
    """A CPU stops answering: the run fails, in time, and says which CPU and why."""

    TIMEOUT_MS = 1500       # tests/machine/suite_deaf.c
    # The wait ends with the timeout, the NMI takes up to 200 ms (arch/x86_64/ipi.c), and a busy host lets a virtual CPU stand for
    # seconds. Less than the 10 s of ipi_timeout_ms that nobody changed: who waits for those is seen.
    LATE_MS = 9000

    def assert_report_is_complete(self):
        for words in ("# ==== SUMMARY ====", "# counter nr_tlb_local_flush_all="):
            self.assert_says(words)
        self.assert_ends("fail")

    def lose(self, test, plant, words):
        text = self.boot(f"suite=deaf.{test} lab=off plant={plant}", cpus=3)
        self.assert_code(qemu.FAIL)
        self.assert_matches(rf"# warning: CPU 2 did not {words} of CPU 0 within {self.TIMEOUT_MS} ms: given up")
        self.assert_says(f"# deaf.{test}: CPU 2 did not answer in time and was given up")
        self.assertFalse("not true:" in text, text[-2000:])     # all that the test itself checks holds
        passed = self.assert_matches(rf"timeout_ms={self.TIMEOUT_MS} passed_ms=(\d+)")
        self.assertGreaterEqual(int(passed.group(1)), self.TIMEOUT_MS)
        self.assertLess(int(passed.group(1)), self.LATE_MS)
        self.assert_report_is_complete()

    def test_deaf_to_a_shootdown(self):
        self.lose("shootdown_names_the_cpu_and_keeps_its_frames", "deaf-cpu", "answer a call")
        self.assert_matches(r"CPU 2 .*: given up, and stopped at 0xffffffff8")
        self.assert_matches(r"tlb_frames_quarantined=[1-9]")

    def test_dead_to_everything(self):
        self.lose("shootdown_names_the_cpu_and_keeps_its_frames", "dead-cpu", "answer a call")
        self.assert_says("given up; it takes no NMI either")

    def test_deaf_to_a_rendezvous(self):
        self.lose("rendezvous_goes_on_without_the_cpu", "deaf-cpu", "come to a rendezvous")

    def test_stuck_in_a_call(self):
        self.lose("a_call_that_does_not_end", "deaf-cpu", "come to the end of a call")

    def test_lost_with_a_lock(self):
        self.boot("suite=deaf.a_call_that_ends_holding_a_lock lab=off plant=deaf-cpu", cpus=3)
        self.assert_code(qemu.FAIL)
        self.assert_matches(r"# PANIC on CPU 0 .*: CPU 2 did not come to the end of a call of CPU 0 within 1500 ms, and holds 1 locks")


class Starts(Boot):
    def test_one_that_does_not_start_is_left_out(self):
        self.boot(f"{QUICK} plant=silent-cpu", cpus=3)
        self.assert_matches(r"# warning: CPU with APIC id \d+ does not answer: left out")
        self.assert_says("# CPUs: 2 up of 3 usable, some left out")
        self.assert_says("is kept for who comes late")
        self.assert_passes()

    def test_limit(self):
        for limit, up in ((1, 1), (2, 2), (9, 3)):
            with self.subTest(cpus=limit):
                text = self.boot(f"{QUICK} cpus={limit}", cpus=3)
                self.assertIn(f"cpus={up} ", re.search(r"# TANGRAM BEGIN .*", text).group(0))
                self.assertEqual("limited by cpus=" in text, limit == 2)
                self.assert_passes()


class Lacks(Boot):
    """A machine without one of the parts: said in the log, and all else works."""

    def test_no_hpet(self):
        self.boot(QUICK, cpus=2, extra=["-no-hpet"])
        self.assert_matches(r"# timer: TSC at \d+ kHz, by the PM timer")
        self.assert_says("NMIs by timer: PIT")
        self.assert_says("source=PIT")
        self.assert_passes()

    def test_no_acpi(self):
        self.boot(QUICK, cpus=2, machine="q35,acpi=off")
        self.assert_says("acpi: nothing can be read: one CPU")
        self.assert_matches(r"# timer: TSC at \d+ kHz, by the PIT")
        self.assert_says("NMIs by timer: none")
        self.assert_matches(r"nmi_storm_by_a_timer_of_the_machine # SKIP no IOAPIC")
        self.assert_passes()


if __name__ == "__main__":
    main()
