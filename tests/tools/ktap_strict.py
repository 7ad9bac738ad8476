# SPDX-License-Identifier: MIT
"""
A second reader of KTAP 1, for tests: written from the format's specification, it shares nothing with tools/ktap.py, and
it is strict. A log has a version line, a plan, as many results as planned, numbered from 1; a result may have a whole
log before it, two columns further in; diagnostics anywhere; and nothing else.
"""

import re

RESULT = re.compile(r"^(ok|not ok) ([0-9]+)(?: (?:- )?([^#]*?))?(?: # ([A-Z]+)(?: (.*))?)?$")


class Bad(Exception):
    """The log is not KTAP 1."""


class Node:
    """A result: leaf, or with children."""

    def __init__(self, good, name, directive, children):
        self.good, self.name, self.directive, self.children = good, name, directive, children

    def leaves(self, path=()):
        """[(names, good, directive)] of the tests below, or of itself."""
        here = path + (self.name,)
        if not self.children:
            return [(here, self.good, self.directive)]
        return [leaf for child in self.children for leaf in child.leaves(here)]


class Lines:
    def __init__(self, lines):
        self.lines, self.at = lines, 0

    def peek(self, depth):
        """The next line that is no diagnostic and lies at this depth or deeper, without its indentation; None: there is none."""
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.strip() and not line.lstrip(" ").startswith("#"):
                indent = len(line) - len(line.lstrip(" "))
                if indent < 2 * depth:
                    return None
                return line[2 * depth:]
            self.at += 1
        return None

    def take(self, depth, what):
        line = self.peek(depth)
        if line is None:
            raise Bad(f"the log ends where {what} is due")
        self.at += 1
        return line


def _log(lines, depth):
    if lines.take(depth, "a version line") != "KTAP version 1":
        raise Bad(f"line {lines.at}: no version line")
    plan = re.match(r"^1\.\.([0-9]+)$", lines.take(depth, "a plan"))
    if not plan:
        raise Bad(f"line {lines.at}: no plan")
    nodes = []
    for number in range(1, int(plan[1]) + 1):
        ahead = lines.peek(depth)
        children = _log(lines, depth + 1) if ahead is not None and ahead.startswith("  ") else []
        result = RESULT.match(lines.take(depth, f"result {number}"))
        if not result:
            raise Bad(f"line {lines.at}: not a result: {lines.lines[lines.at - 1]!r}")
        if int(result[2]) != number:
            raise Bad(f"line {lines.at}: {result[2]} where {number} is due")
        node = Node(result[1] == "ok", (result[3] or "").strip(), result[4], children)
        if children and node.good and not all(child.good or child.directive == "XFAIL" for child in children):
            raise Bad(f"line {lines.at}: {node.name} is ok, a test in it is not")
        nodes.append(node)
    return nodes


def parse(text):
    """The text from its version line on -> [Node]. Raises Bad."""
    lines = Lines(text.replace("\r", "").split("\n"))
    nodes = _log(lines, 0)
    if lines.peek(0) is not None:
        raise Bad(f"line {lines.at + 1}: something behind the last result: {lines.lines[lines.at]!r}")
    return nodes


def counts(text):
    """(passed, failed, skipped)"""
    leaves = [leaf for node in parse(text) for leaf in node.leaves()]
    skipped = sum(good and directive == "SKIP" for _, good, directive in leaves)
    failed = sum(not good and directive != "XFAIL" for _, good, directive in leaves)
    return len(leaves) - failed - skipped, failed, skipped
