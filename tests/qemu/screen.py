# SPDX-License-Identifier: MIT
"""
A picture of the machine's screen (QEMU's screendump: PPM), read by the kernel's own font: text by cells, and large letters.
"""
import os
import re

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WIDTH, HEIGHT = 8, 16       # pixels of a cell: kernel/fbcon.c


def load_font():
    """kernel/font.c -> character: its 16 rows as bytes."""
    with open(os.path.join(ROOT, "kernel", "font.c"), encoding="ascii") as file:
        rows = re.findall(r"^\t\{ ((?:0x[0-9a-f]{2}(?:, )?){8}) \},", file.read(), re.MULTILINE)
    assert len(rows) == 94, f"{len(rows)} characters in kernel/font.c"
    font = {chr(ord("!") + number): tuple(int(dots, 16) << 2 for dots in line.split(", ") for _ in (0, 1))
            for number, line in enumerate(rows)}
    font[" "] = (0,) * HEIGHT
    return font


class Screen:
    """One PPM file (P6, 8 bits)."""

    def __init__(self, path):
        with open(path, "rb") as file:
            head, self.pixels = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s(.*)", file.read(), re.DOTALL), None
        self.width, self.height = int(head[1]), int(head[2])
        self.pixels = head[3]
        self.font = load_font()
        self.by_rows = {rows: char for char, rows in self.font.items()}

    def pixel(self, x, y):
        at = 3 * (y * self.width + x)
        return tuple(self.pixels[at:at + 3])

    def _cell(self, column, row, paper):
        lines = []
        for y in range(row * HEIGHT, (row + 1) * HEIGHT):
            lines.append(sum((self.pixel(column * WIDTH + x, y) != paper) << (WIDTH - 1 - x) for x in range(WIDTH)))
        return self.by_rows.get(tuple(lines), "\x00")

    def line(self, row, paper=(0, 0, 0)):
        """The text in a row of cells; NUL where no character is."""
        return "".join(self._cell(column, row, paper) for column in range(self.width // WIDTH)).rstrip()

    @property
    def rows(self):
        return self.height // HEIGHT

    def status(self):
        """The line at the bottom: black on white."""
        return self.line(self.rows - 1, (255, 255, 255))

    def large(self, word):
        """The colour of a word in letters as large as the screen takes, at its top; None if it is not there, pixel by pixel."""
        scale = min(self.width // (len(word) * WIDTH), (self.rows - 1) // 4)
        left = (self.width - len(word) * WIDTH * scale) // 2
        colours = set()
        for y in range(HEIGHT * scale):
            for x in range(self.width):
                cell, dot = divmod(x - left, WIDTH * scale)
                lit = 0 <= cell < len(word) and \
                    self.font[word[cell]][y // scale] >> (WIDTH - 1 - dot // scale) & 1 == 1
                if lit != (self.pixel(x, y) != (0, 0, 0)):
                    return None
                if lit:
                    colours.add(self.pixel(x, y))
        return colours.pop() if len(colours) == 1 else None

    def below(self, word_length=4):
        """The two lines of text under the large letters."""
        scale = min(self.width // (word_length * WIDTH), (self.rows - 1) // 4)
        return self.line(scale + 1), self.line(scale + 2)
