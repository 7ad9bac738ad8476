# SPDX-License-Identifier: MIT
"""
What changed from one run to another, and whether it got worse.

Figures of logs that count instructions repeat to the digit, so any change counts; all others (cycles; anything on several
CPUs, where they race) may differ by a tolerance. Only figures of the same machine are compared, and ticks only with ticks
of the same kind. Counters of the whole run mean the same only if the same tests ran: otherwise they are shown and not judged.
"""

import runlog
from report_parts import Part, Table

MEMORY_TOLERANCE = 0.01         # firmware keeps a little more or less from build to build

# Fewer is better.
LAB_LESS = ("level2_splits", "level3_splits", "flush_all", "flush_one", "remote_flush", "interrupts", "pages_invalidated",
            "frames_waiting", "cache_refills", "cache_batches", "used", "wasted", "exec_leaves_4k", "exec_leaves_2m")
EXECMEM_LESS = ("used", "held", "wasted", "leaves_4k", "leaves_2m", "level2_splits", "level3_splits")
COST_LESS = ("mean", "flushes", "ipis", "pages_invalidated", "local_temp_flushes")
RUN_LESS = ("direct_map_level2_splits", "direct_map_level3_splits", "direct_map_leaves", "direct_map_tables", "kernel_map_tables",
            "kernel_map_level2_splits", "kernel_map_level3_splits", "nr_tlb_local_flush_all", "nr_tlb_local_flush_one",
            "nr_tlb_remote_flush", "tlb_pages_invalidated", "tlb_batches", "tlb_frames_quarantined")

STATUS = {"pass": "passes", "xfail": "fails as expected", "fail": "fails", "skip": "is skipped", None: "is not there"}
GOOD = ("pass", "xfail")


class Change:
    """One difference: verdict is worse, better or changed."""

    def __init__(self, what, old, new, verdict):
        self.what = what
        self.old = old
        self.new = new
        self.verdict = verdict


def machine_differences(old, new):
    """What makes two runs those of different machines, in words."""
    found = []
    for key, name in (("cpus", "CPUs"), ("seed", "seed")):
        if old.begin(key) != new.begin(key):
            found.append(f"{name} {old.begin(key)} and {new.begin(key)}")
    for name, values in (("CPU", (old.cpu, new.cpu)), ("hypervisor", (old.hypervisor, new.hypervisor)),
                         ("largest leaf", (old.largest_leaf, new.largest_leaf))):
        if values[0] != values[1]:
            found.append(f"{name} {values[0]} and {values[1]}")
    memory = [run.memory for run in (old, new)]
    if abs(memory[0] - memory[1]) > MEMORY_TOLERANCE * max(memory):
        found.append(f"memory {memory[0]} and {memory[1]} bytes")
    return found


def figures(run):
    """{what it is: (value, whether fewer is better)}, without counters of the whole run."""
    found = {}
    for key, phases in run.lab.items():
        name = " ".join(f"{word}={value}" for word, value in zip(runlog.LAB_KEYS, key) if value is not None)
        before = phases.get("before")
        for phase, words in phases.items():
            if phase == "before":
                found[f"lab {name} {phase}: leaves"] = runlog.leaves(words), False
                continue
            if before:
                found[f"lab {name} {phase}: leaves more than before"] = runlog.leaves(words) - runlog.leaves(before), True
                found[f"lab {name} {phase}: tables more than before"] = words.get("tables", 0) - before.get("tables", 0), True
            found.update({f"lab {name} {phase}: {word}": (words[word], True) for word in LAB_LESS if word in words})
    for key, words in run.costs.items():
        name = " ".join(f"{word}={value}" for word, value in zip(runlog.COST_KEYS, key) if value is not None)
        found.update({f"cost {name}: {word}": (words[word], True) for word in (*runlog.UNITS, *COST_LESS) if word in words})
    for words in run.ceiling:
        for what in ("flush", "touch"):
            found.update({f"cost op={what} policy={words.get('policy')} pages={words.get('pages')}: {unit}":
                          (words[f"{what}_{unit}"], True) for unit in runlog.UNITS if f"{what}_{unit}" in words})
    for words in run.execmem:
        name = " ".join(f"{word}={words[word]}" for word in ("policy", "type", "objects") if word in words)
        found.update({f"execmem {name}: {word}": (words[word], True) for word in EXECMEM_LESS if word in words})
    return found


def run_figures(run):
    """Counters of the whole run, and its peak."""
    found = {f"counter {name}": (value, name in RUN_LESS) for name, value in run.counters.items()}
    peak = run.map_phase("peak")
    if peak:
        found["direct map, leaves at the peak"] = runlog.leaves(peak), True
    return found


def is_ticks(what):
    return what.startswith("cost ") and what.rpartition(": ")[2] in (*runlog.UNITS, "mean")


class Comparison:
    """Of two runs. tolerance: in percent. force: compare figures of different machines, too."""

    def __init__(self, old, new, tolerance=10.0, force=False):
        self.old, self.new = old, new
        self.share = tolerance / 100
        self.exact = old.exact and new.exact
        self.differences = machine_differences(old, new)
        self.changes = []
        self.same = 0
        self.refused = []           # reasons why something was not compared
        self._verdict()
        same_tests = self._tests()
        if self.differences and not force:
            self.refused.append("figures: these are different machines: " + "; ".join(self.differences) +
                                " (--force compares them all the same)")
            return
        self._figures(figures(old), figures(new), True)
        self._figures(run_figures(old), run_figures(new), same_tests)
        if not same_tests:
            self.refused.append("counters of the whole run: not the same tests ran; changes are shown and not judged")

    @property
    def worse(self):
        return [change for change in self.changes if change.verdict == "worse"]

    @property
    def status(self):
        """Exit status: 1 a regression, 2 nothing got worse but figures could not be compared, 0."""
        if self.worse:
            return 1
        return 2 if self.refused and self.refused[0].startswith("figures") or self.old.verdict == "broken" else 0

    def _add(self, what, old, new, verdict):
        self.changes.append(Change(what, old, new, verdict))

    def _verdict(self):
        old, new = self.old.verdict, self.new.verdict
        if new == "broken" or (old == "pass" and new != "pass"):
            self._add("verdict", old, f"{new}: {self.new.reason}", "worse")
        elif old != new:
            self._add("verdict", old, new, "better" if new == "pass" else "changed")
        if old == "broken":
            self.refused.append(f"all of {self.old.name}: {self.old.reason}")

    def _tests(self):
        """Whether both ran the same tests to the same results."""
        old = {result.full: result.status for result in self.old.tests}
        new = {result.full: result.status for result in self.new.tests}
        for name in [*old, *(name for name in new if name not in old)]:
            was, now = old.get(name), new.get(name)
            if was == now:
                self.same += 1
            elif was in GOOD and now not in GOOD and not (now == "skip" and self.differences):
                self._add(f"test {name}", STATUS[was], STATUS[now], "worse")
            elif now == "fail":
                self._add(f"test {name}", STATUS[was], STATUS[now], "worse")
            else:
                self._add(f"test {name}", STATUS[was], STATUS[now], "better" if was == "fail" and now in GOOD else "changed")
        return old == new

    def _figures(self, old, new, judged):
        for what in [*old, *(what for what in new if what not in old)]:
            if what not in old or what not in new:
                continue            # a test that did not run says so itself
            if is_ticks(what) and self.old.cost_key != self.new.cost_key:
                continue
            (was, less), (now, _) = old[what], new[what]
            if was == now:
                self.same += 1
            elif not less or not judged:
                self._add(what, was, now, "changed")
            elif not self.exact and abs(now - was) <= self.share * max(abs(was), abs(now)):
                self.same += 1
            else:
                self._add(what, was, now, "worse" if now > was else "better")

    def part(self):
        """As a part of a report."""
        changes = sorted(self.changes, key=lambda change: ("worse", "better", "changed").index(change.verdict))
        rows = [[(change.verdict, change.verdict), change.what, change.old, change.new, percent(change)] for change in changes]
        count = {word: sum(change.verdict == word for change in changes) for word in ("worse", "better", "changed")}
        lead = (f"From {self.old.name} ({self.old.machine}, build {self.old.begin('build')}) to {self.new.name} "
                f"({self.new.machine}, build {self.new.begin('build')}): {count['worse']} worse, {count['better']} better, "
                f"{count['changed']} changed without being better or worse, {self.same} the same. ")
        lead += ("Both logs count instructions: every difference counts." if self.exact else
                 f"Figures within {self.share * 100:g} % of each other count as the same.")
        if self.old.command_line != self.new.command_line:
            lead += f" The command lines differ: “{self.old.command_line}” and “{self.new.command_line}”."
        if self.old.cost_key != self.new.cost_key:
            lead += f" Costs are not compared: {self.old.unit or 'none'} in one, {self.new.unit or 'none'} in the other."
        for reason in self.refused:
            lead += f" Not compared: {reason}."
        table = Table("Changes", ["", "what", "before", "now", "change"], rows)
        return Part("compare", "What changed", lead, *([table] if rows else []))

    def as_json(self):
        return {"worse": len(self.worse), "same": self.same, "refused": self.refused, "differences": self.differences,
                "changes": [vars(change) for change in self.changes]}


def percent(change):
    if isinstance(change.old, str) or isinstance(change.new, str):
        return ""
    if not change.old:
        return "from 0"
    share = (change.new - change.old) * 100 / abs(change.old)
    return f"{share:+.1f} %" if abs(share) >= 0.1 else f"{share:+.2g} %"
