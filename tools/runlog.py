# SPDX-License-Identifier: MIT
"""
What one boot said, as figures: the machine, the verdict, tests, counters, rows of the lab, costs (docs/report.md).

Read from the serial log by tools/ktap.py, and from nothing else; where tools/run-qemu left its result beside the
log (FILE.json beside FILE.log) and it is of that very log, its verdict counts, too: it knows why a machine ended.
"""

import hashlib
import json
import os
import re

import ktap as ktap_module

CPU = re.compile(r"cpu: (.*?)(?:, (under a hypervisor))?$")
LARGEST_LEAF = re.compile(r"leaves up to (\S+)$")
COMMAND_LINE = re.compile(ktap_module.COMMAND_LINE + r"(.*)$")

MIB = 1 << 20
LEAF_BYTES = {"leaves_1g": 1 << 30, "leaves_2m": 2 * MIB, "leaves_4k": 4096}
MAX_DIGITS = 20                 # of the largest figure of 64 bits
UNITS = {"insns": "instructions", "cycles": "TSC cycles", "ns": "nanoseconds"}

LAB_KEYS = ("workload", "policy", "memory", "collapse", "n", "workers")
COST_KEYS = ("op", "workload", "policy", "memory", "collapse", "pages", "others", "size")


class BadLog(Exception):
    """Not a log that can be read: the message names the file and what is wrong with it."""


# Of figures; every other one is an integer, but for addresses in the trace.
TEXT_KEYS = ("workload", "policy", "memory", "collapse", "phase", "op", "type", "event", "context")


# What names a line of figures.
NAMES = {"map": ("phase",), "lab": ("workload", "policy", "n"), "cost": ("op",)}
PHASED = ("phase",)             # lines of the lab, but for those of workload=flush


def is_number(text):
    """Of 64 bits, about: more digits are damage, and no figure to compute with."""
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS


def number(text):
    """The integer that the word is, or 0."""
    return int(text) if is_number(text) else 0


def typed(pairs):
    """With integers for digits."""
    return {key: int(value) if key not in TEXT_KEYS and is_number(value) else value for key, value in pairs.items()}


def key_of(words, keys):
    """The words that name a row."""
    return tuple(words.get(key) for key in keys)


class Run:
    """One boot."""

    def __init__(self, path, ktap, boot=1, boots=1):
        self.path = path
        self.ktap = ktap
        self.boot = boot
        self.boots = boots
        self.judged = None          # what tools/run-qemu said of it
        self.counters, self.trace = {}, []
        self.maps = []              # `# map` lines
        self.lab = {}               # key by LAB_KEYS -> {phase: words}
        self.costs = {}             # key by COST_KEYS -> words
        self.execmem = []
        self.ceiling = []           # lab lines of workload=flush, which have no phases (docs/tlb.md)
        for kind, pairs in ktap.figures:
            self._figure(kind, typed(pairs))

    def _figure(self, kind, words):
        bad = [key for key, value in words.items() if key not in TEXT_KEYS and isinstance(value, str)]
        names = NAMES.get(kind, ()) + (PHASED if kind == "lab" and words.get("workload") != "flush" else ())
        lacking = [key for key in names if key not in words]
        if kind == "trace":
            if "event" in words and "tsc" not in bad:
                self.trace.append(words)
        elif bad:
            self.ktap.problems.append(f"a {kind} line whose {bad[0]}= is no number")
        elif lacking:
            self.ktap.problems.append(f"a {kind} line without {lacking[0]}=")
        elif kind == "counter":
            self.counters.update(words)
        elif kind == "map":
            self.maps.append(words)
        elif kind == "lab" and words.get("workload") == "flush":
            self.ceiling.append(words)
        elif kind == "lab":
            self.lab.setdefault(key_of(words, LAB_KEYS), {})[words.get("phase")] = words
        elif kind == "cost":
            self.costs[key_of(words, COST_KEYS)] = words
        elif kind == "execmem":
            self.execmem.append(words)

    # -- what it is -------------------------------------------------------------------------------------

    @property
    def name(self):
        """Of the log: its file, and which boot of it."""
        base = os.path.basename(self.path)
        return f"{base}, boot {self.boot} of {self.boots}" if self.boots > 1 else base

    def begin(self, key, default="?"):
        return (self.ktap.begin or {}).get(key, default)

    @property
    def memory(self):
        """Bytes for the kernel."""
        return number(self.begin("memory", ""))

    def _said(self, pattern):
        for line in self.ktap.preface:
            match = pattern.match(line) or pattern.search(line)
            if match:
                return match
        return None

    @property
    def cpu(self):
        match = self._said(CPU)
        return match[1] if match else "unknown CPU"

    @property
    def hypervisor(self):
        match = self._said(CPU)
        return bool(match and match[2])

    @property
    def largest_leaf(self):
        match = self._said(LARGEST_LEAF)
        return match[1] if match else "?"

    @property
    def command_line(self):
        match = self._said(COMMAND_LINE)
        return match[1] if match else ""

    @property
    def machine(self):
        """In a few words."""
        cpus = self.begin("cpus")
        return f"{cpus} CPU{'' if cpus == '1' else 's'}, {self.memory / (1 << 30):.1f} GiB, leaves up to {self.largest_leaf}"

    @property
    def cost_key(self):
        """insns, cycles or ns: what costs were counted in; None if there are none."""
        for words in self.costs.values():
            for key in UNITS:
                if key in words:
                    return key
        return None

    @property
    def unit(self):
        return UNITS.get(self.cost_key)

    def cost(self, **names):
        """The cost line of that name; {} if there is none."""
        return self.costs.get(key_of(names, COST_KEYS), {})

    @property
    def exact(self):
        """Whether every figure repeats to the digit."""
        return self.cost_key == "insns"

    # -- how it went ------------------------------------------------------------------------------------

    @property
    def verdict(self):
        """pass, fail, skip (nothing but skips) or broken (no complete report)."""
        verdict = self.ktap.verdict
        if verdict == "incomplete":
            return "broken"
        if verdict == "fail" and self.ktap.problems:
            return "broken"
        if verdict == "pass" and self.judged and self.judged["code"]:
            return "fail"
        return verdict

    @property
    def reason(self):
        """Why it is not a pass, in a sentence; '' if it is one."""
        if self.judged and self.judged["code"]:
            return self.judged["reason"]
        ktap = self.ktap
        if self.verdict == "skip":
            return "every test was skipped"
        if ktap.panic or ktap.restarted or not self.verdict == "broken":
            return ktap.failure()
        if ktap.end is None:
            return f"the log breaks off before the end of the report (hung, killed, or cut): {ktap.where()}"
        return f"the log is incomplete: {ktap.problems[0]}"

    @property
    def tests(self):
        return self.ktap.results

    def by_status(self, *statuses):
        return [result for result in self.tests if result.status in statuses]

    @property
    def suites(self):
        """{name: [results]}, in their order."""
        found = {}
        for result in self.tests:
            found.setdefault(result.suite or "(none)", []).append(result)
        return found

    # -- the direct map ---------------------------------------------------------------------------------

    def map_phase(self, phase):
        """The `# map` line of before, peak or after, or None."""
        for words in self.maps:
            if words.get("phase") == phase:
                return words
        return None

    def lab_groups(self):
        """Rows of the lab that found the same machine: {(workload, memory, n): {(policy, collapse): phases}}."""
        groups = {}
        for (workload, policy, memory, collapse, count, workers), phases in self.lab.items():
            if workers is None and workload != "code":
                groups.setdefault((workload, memory, count), {})[policy, collapse] = phases
        return groups


# What a line of figures adds up to. Of a phase that the log has not, {} or None: None, not 0.

def _sum(words, *keys):
    return sum(words.get(key, 0) for key in keys) if words else None


def leaves(words):
    return _sum(words, *LEAF_BYTES)


def mapped(words):
    """Bytes."""
    return sum(words.get(key, 0) * size for key, size in LEAF_BYTES.items())


def splits(words):
    return _sum(words, "level2_splits", "level3_splits")


def collapses(words):
    return _sum(words, "level2_collapses", "level3_collapses")


def flushes(words):
    return _sum(words, "flush_all", "flush_one")


def tables_left(phases):
    """Page tables more than before."""
    before, after = (phases.get(phase, {}).get("tables") for phase in ("before", "after"))
    return None if before is None or after is None else after - before


# -- files ----------------------------------------------------------------------------------------------

def _judgement(path, data):
    """What tools/run-qemu left beside the log, if it is about this log, or None."""
    beside = os.path.splitext(path)[0] + ".json"
    try:
        with open(beside, encoding="utf-8") as file:
            result = json.load(file)
        about = result["log_bytes"], result["log_sha256"]
        if not isinstance(result["code"], int) or not isinstance(result["reason"], str):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if about == (len(data), hashlib.sha256(data).hexdigest()) else None


def read(path):
    """The boots of a log, in their order. Raises BadLog."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise BadLog(f"{path}: {error.strerror}") from None
    if not data.strip():
        raise BadLog(f"{path}: it is empty")
    found = ktap_module.boots(data)
    first = found[0]
    if not any(ktap.started or ktap.panic for ktap in found):
        raise BadLog(f"{path}: no 'KTAP version 1' line: not a log of Tangram, or its kernel never spoke")
    if first.begin is None and first.results and not first.panic:
        raise BadLog(f"{path}: no '# TANGRAM BEGIN': the log of another program")
    runs = [Run(path, ktap, at + 1, len(found)) for at, ktap in enumerate(found)]
    runs[-1].judged = _judgement(path, data)
    return runs
