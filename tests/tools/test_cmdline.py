#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""docs/cmdline.md names the keys, the words and the defaults that kernel/cmdline.c has, and no others."""

import os
import re
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FREE = ("KEY_TEXT", "KEY_NUMBER", "KEY_COUNT")      # values that are no words
SPECIAL_TRACE = {"off", "on", "dump"}


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


class Table(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        source = read("kernel/cmdline.c")
        rows = re.search(r"key_row keys\[\] = \{\n(.*?)\n\};", source, re.DOTALL)[1]
        cls.keys = {key: (kind, choices) for key, kind, choices in
                    re.findall(r'\{ "(\w+)", (KEY_\w+), (\w+), ', rows)}
        assert len(cls.keys) == rows.count("KEY_"), rows
        # words by table, and what each stands for
        cls.choices = {name: dict(re.findall(r'\{ "([\w+-]+)",\s*(\w+) \}', words)) for name, words in
                       re.findall(r"static const struct choice (\w+)\[\] = \{(.*?)\{ 0 \} \};",
                                  re.sub(r"\{ 0 \},?\s*\};", "{ 0 } };", source), re.DOTALL)}
        first = re.search(r"\*out = \(struct cmdline\)\{(.*?)\};", source, re.DOTALL)[1]
        cls.defaults = dict(re.findall(r"\.(\w+) = (-?\w+)", first))
        cls.events = set(re.findall(r'\[TRACE_\w+\] = \{ "(\w+)"', read("kernel/base/trace.c")))
        cls.documented = {}
        for line in read("docs/cmdline.md").splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) == 4 and re.fullmatch(r"`\w+`", cells[0]):
                assert cells[0].strip("`") not in cls.documented, f"{cells[0]} twice"
                cls.documented[cells[0].strip("`")] = (set(re.findall(r"`([\w+-]+)`", cells[1])), cells[2], cells[3])

    def words(self, key):
        """What the kernel takes, or None: any text or number."""
        kind, choices = self.keys[key]
        if kind in FREE:
            return None
        return SPECIAL_TRACE | self.events if kind == "KEY_TRACE" else set(self.choices[choices])

    def test_it_was_read(self):
        self.assertGreaterEqual(len(self.keys), 20)
        self.assertGreaterEqual(len(self.events), 9)
        self.assertEqual(self.choices["lab_words"], {"off": "LAB_OFF", "short": "LAB_SHORT", "full": "LAB_FULL"})
        self.assertEqual(self.choices["execmem_words"]["huge+tail"], "EXECMEM_HUGE_TAIL")

    def test_keys(self):
        self.assertEqual(set(self.documented), set(self.keys))

    def test_words(self):
        for key, (words, _, text) in self.documented.items():
            with self.subTest(key):
                self.assertTrue(text)
                if self.words(key) is not None:
                    self.assertEqual(words, self.words(key))

    def test_defaults(self):
        """Of those that are one of the words."""
        for key, (kind, choices) in self.keys.items():
            default = self.documented[key][1]
            with self.subTest(key):
                if kind == "KEY_BOOL":
                    self.assertEqual(default, "`on`" if self.defaults.get(key) == "true" else "`off`")
                elif kind == "KEY_CHOICE":
                    value = self.defaults.get(key)
                    meant = {f"`{word}`" for word, stands_for in self.choices[choices].items() if stands_for == value}
                    # 0 is none of the words where it is not set: then the default is told in other ways.
                    self.assertTrue(default in meant if meant else not default.startswith("`"), (default, meant))

    def test_header(self):
        """The comment of kernel/cmdline.h has them, too."""
        comment = read("kernel/cmdline.h").split("*/")[1]
        named = set(re.findall(r"(?m)^ \*\t(\w+)=", comment))
        self.assertEqual(named, set(self.keys))


if __name__ == "__main__":
    unittest.main()
