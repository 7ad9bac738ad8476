#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""docs/contexts.md says what tests/machine/suite_contexts.c tries: the same functions, in the same contexts."""
import os
import re
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SUITE = os.path.join(ROOT, "tests/machine/suite_contexts.c")
PAGE = os.path.join(ROOT, "docs/contexts.md")
COLUMNS = ["task", "interrupts off", "lock held", "IRQ", "NMI", "panic"]
SETS = {
    "IN_TASK": {"task"},
    "LOCKS_ONLY": {"task", "interrupts off", "lock held"},
    "ANYWHERE": set(COLUMNS),
}


def of_suite(text):
    rows = re.findall(r'^\t\{ "([^"]+)", try_\w+, (\w+) \},$', text, re.M)
    return {name: SETS[where] for name, where in rows}


def of_page(text):
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == ["Function"] + COLUMNS, lines[0]
    table = {}
    for cells in lines[2:]:
        assert set(cells[1:]) <= {"yes", "no"} and len(cells) == len(COLUMNS) + 1, cells
        table[cells[0].strip("`")] = {c for c, answer in zip(COLUMNS, cells[1:]) if answer == "yes"}
    return table


class Contexts(unittest.TestCase):
    def setUp(self):
        with open(SUITE, encoding="utf-8") as file:
            self.suite = of_suite(file.read())
        with open(PAGE, encoding="utf-8") as file:
            self.page_text = file.read()

    def test_page_says_what_is_tried(self):
        self.assertGreater(len(self.suite), 15)
        self.assertEqual(of_page(self.page_text), self.suite)

    def test_a_wrong_cell_is_seen(self):
        wrong = self.page_text.replace("| `vmalloc` | yes | no |", "| `vmalloc` | yes | yes |")
        self.assertNotEqual(wrong, self.page_text)
        self.assertNotEqual(of_page(wrong), self.suite)


if __name__ == "__main__":
    unittest.main()
