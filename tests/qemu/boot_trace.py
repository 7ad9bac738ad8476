#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
trace= seen from outside (RP4): what trace=dump prints, what a panic shows, and what is said of an unknown event.

    tests/qemu/boot_trace.py [unittest arguments]        (build/ must be there: make esp)
"""

import re

from boot import Boot, main, qemu

RECORD = re.compile(r"^# +trace tsc=(\d+) cpu=(\d+) context=(\S+) event=(\S+) (.*)$", re.MULTILINE)
RING = re.compile(r"^# trace ring=(\d+) records=(\d+) overwritten=(\d+) lost=(\d+)$", re.MULTILINE)
WORD = re.compile(r"^[a-z]+=(?:\d+|0x[0-9a-f]+)$")
RING_SLOTS = 2730       # kernel/trace.c: 128 KiB


class Traces(Boot):
    def records(self):
        """(tsc, cpu, context, event, {key: value}), as they stand in the log."""
        found = []
        for tsc, cpu, context, event, words in RECORD.findall(self.text):
            for word in words.split():
                self.assertRegex(word, WORD)
            pairs = dict(word.split("=") for word in words.split())
            found.append((int(tsc), int(cpu), context, event, {key: int(value, 0) for key, value in pairs.items()}))
        return found

    def assert_in_order(self, records):
        """By time; what an interrupt wrote may stand behind what it interrupted."""
        tasks = [tsc for tsc, _, context, _, _ in records if context == "task"]
        self.assertEqual(tasks, sorted(tasks))

    def test_dump_of_some_events(self):
        self.boot("suite=directmap lab=off trace=split,collapse,dump")
        self.assert_code(qemu.PASS)
        records = self.records()
        self.assert_in_order(records)
        self.assertEqual({record[3] for record in records}, {"split", "collapse"})
        for _, cpu, _, _, pairs in records:
            self.assertEqual(cpu, 0)
            self.assertEqual(set(pairs), {"level", "va", "table"})
            self.assertIn(pairs["level"], (2, 3))
        rings = RING.findall(self.text)
        self.assertEqual(len(rings), 1)
        self.assertEqual(int(rings[0][1]) - int(rings[0][2]), len(records))
        # Behind the tests, before the end.
        self.assertLess(self.text.rindex("ok 1 directmap"), self.text.index("# trace ring"))
        self.assert_ends()

    def test_dump_of_everything_on_two_cpus(self):
        self.boot("suite=directmap,execmem.freed_text_is_int3,trap lab=off trace=dump", cpus=2)
        self.assert_code(qemu.PASS)
        records = self.records()
        self.assert_in_order(records)
        events = {record[3] for record in records}
        self.assertLessEqual({"split", "collapse", "flush", "refill", "return", "fill", "fault"}, events)
        self.assertLessEqual({record[1] for record in records}, {0, 1})
        for _, records_, overwritten, lost in RING.findall(self.text):
            self.assertEqual(int(overwritten), max(0, int(records_) - RING_SLOTS))
            self.assertEqual(int(lost), 0)

    def test_off_is_silent(self):
        self.boot("suite=directmap lab=off trace=on trace=off")
        self.assert_code(qemu.PASS)
        self.assertEqual(self.records(), [])
        self.assertNotIn("# trace", self.text)

    def test_an_unknown_event_is_named_and_the_others_count(self):
        self.boot("suite=directmap lab=off trace=split,teleport,dump")
        self.assert_code(qemu.PASS)
        self.assert_says('# warning: trace: there is no event "teleport", ignored')
        self.assertEqual({record[3] for record in self.records()}, {"split"})

    def test_panics_show_the_last_records(self):
        self.boot("suite=cmdline lab=off trace=on panic=fault")
        self.assert_code(qemu.FAIL)
        self.assert_says("# PANIC on CPU 0")
        self.assert_says("the last records of the trace:")
        rip = int(re.search(r"  rip ([0-9a-f]{16})", self.text)[1], 16)
        _, cpu, _, event, pairs = self.records()[-1]
        self.assertEqual((cpu, event), (0, "fault"))
        self.assertEqual(pairs, {"va": 0xffffffff7ffff000, "error": 2, "rip": rip})

    def test_panics_say_that_there_is_no_trace(self):
        self.boot("suite=cmdline lab=off panic=assert")
        self.assert_code(qemu.FAIL)
        self.assert_says("no records of the trace: it is off (trace=on)")


if __name__ == "__main__":
    main()
