#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
What operations cost on one CPU, beside what they cost when docs/costs.csv was written.

    tools/costs.py [--kernel FILE] LOG             compare: one line each that is worse, new or gone, and what became cheaper
    tools/costs.py [--kernel FILE] --update LOG    write docs/costs.csv anew, with a reason in the commit

LOG is one of the row `costs-again` of make test: build/test/qemu.costs-again.serial. Instructions repeat to the digit with the same compiler, so
another one's are not compared. Exit status: 0 nothing is worse, 1 something is, 2 bad input, 77 another compiler.
"""

import argparse
import csv
import io
import os
import re
import sys

import ktap as ktap_module

HERE = os.path.dirname(os.path.abspath(__file__))
PATH = os.path.join(HERE, "..", "docs", "costs.csv")
KERNEL = os.path.join(HERE, "..", "build", "kernel.elf")
TOLERANCE = 10      # per cent, of an operation whose line has no other
SLACK = 4           # instructions: of an operation of 40, 10 per cent are one move
KEY = ("op", "policy", "others")
FIGURES = ("insns", "percent")
HEADER = """\
# What operations cost on one CPU: median instructions of the row `costs-again` (tests/qemu/matrix.py), QEMU -icount, 4 GiB.
# make test fails when one is more than `percent` and {slack} instructions above. tools/costs.py --update writes this file, and keeps
# `percent`: {tolerance}, and more where chance has a part (`pages`, whether a frame splits a leaf; beside 2,000, the shape of a tree).
# cc={compiler}
"""
COMPILER = re.compile(rb"GCC: \([^)]*\) [0-9.]+|clang version [0-9.]+")


class BadInput(Exception):
    """A file that cannot be used; says why."""


def compiler(path):
    """What an ELF file says it was compiled by."""
    try:
        with open(path, "rb") as file:
            found = {re.sub(r": \([^)]*\)", "", match.decode()) for match in COMPILER.findall(file.read())}
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    if len(found) != 1:
        raise BadInput(f"{path}: {' and '.join(sorted(found)) or 'no compiler'} named in it")
    return found.pop()


def of_log(data):
    """{(op, policy, others): median} of a log's single operations, counted in instructions."""
    costs = {}
    ktap = ktap_module.check(data)
    if ktap.failed or ktap.problems:
        raise BadInput(f"its run failed: {(ktap.failures + ktap.problems)[0]}")
    for kind, words in ktap.figures:
        if kind != "cost" or "workload" in words:
            continue
        if "insns" not in words or not words["insns"].isdigit():
            raise BadInput(f"{words.get('op', 'a cost')} is not in instructions: the run was none with --icount")
        key = tuple(words.get(key, "") for key in KEY)
        if key in costs:
            raise BadInput(f"{name(key)} is there twice")
        costs[key] = int(words["insns"])
    if not costs:
        raise BadInput("no costs in it")
    return costs


def read(path=PATH):
    """(compiler, {(op, policy, others): (median, per cent that it may grow)})"""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    match = re.search(r"^# cc=(.+)$", text, re.MULTILINE)
    costs = {}
    for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#")):
        figures = [row.get(key) or "" for key in FIGURES]
        if None in row or None in row.values() or not all(figure.isdigit() and int(figure) for figure in figures):
            raise BadInput(f"{path}: {row} is no line of {','.join(KEY + FIGURES)}")
        costs[tuple(row[key] for key in KEY)] = tuple(map(int, figures))
    if not match or not costs:
        raise BadInput(f"{path}: no {'costs' if match else 'cc='} in it")
    return match[1], costs


def write(costs, before, compiled_by, path=PATH):
    """`before`: what read() found, for what each may grow."""
    text = io.StringIO()
    text.write(HEADER.format(tolerance=TOLERANCE, slack=SLACK, compiler=compiled_by))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(KEY + FIGURES)
    writer.writerows(key + (insns, before.get(key, (0, TOLERANCE))[1]) for key, insns in costs.items())
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.getvalue())


def name(key):
    op, policy, others = key
    return f"{op} {policy}" + (f" beside {others}" if others else "")


def compare(before, now):
    """(what is wrong, what became cheaper), a line each."""
    wrong, better = [], []
    for key in {**before, **now}:
        (was, percent), has = before.get(key, (None, TOLERANCE)), now.get(key)
        if was is None:
            wrong.append(f"{name(key)}: {has} instructions, not in docs/costs.csv")
        elif has is None:
            wrong.append(f"{name(key)}: {was} instructions before, not measured")
        elif has > was + max(was * percent / 100, SLACK):
            wrong.append(f"{name(key)}: {was} -> {has} instructions ({(has - was) * 100 / was:+.1f} %)")
        elif has < was - max(was * percent / 100, SLACK):
            better.append(f"{name(key)}: {was} -> {has} instructions ({(has - was) * 100 / was:+.1f} %)")
    return wrong, better


def main():
    parser = argparse.ArgumentParser(description="What operations cost, beside docs/costs.csv.")
    parser.add_argument("--kernel", metavar="FILE", default=KERNEL, help="the image that was run (default build/kernel.elf)")
    parser.add_argument("--update", action="store_true", help="write docs/costs.csv anew")
    parser.add_argument("log", metavar="LOG")
    options = parser.parse_args()
    try:
        compiled_by = compiler(options.kernel)
        with open(options.log, "rb") as file:
            now = of_log(file.read())
        by, before = read()
        if options.update:
            write(now, before, compiled_by)
            return 0
    except OSError as error:
        print(f"costs: {options.log}: {error.strerror}", file=sys.stderr)
        return 2
    except BadInput as error:
        print(f"costs: {error}", file=sys.stderr)
        return 2
    if by != compiled_by:
        print(f"costs: docs/costs.csv is of {by}, this kernel of {compiled_by}: not compared")
        return 77
    wrong, better = compare(before, now)
    for line in [f"worse: {line}" for line in wrong] + [f"cheaper: {line}" for line in better]:
        print(line)
    print(f"{len(now)} operations, {len(wrong)} wrong, {len(better)} much cheaper")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
