# SPDX-License-Identifier: MIT
"""Several runs beside each other: what is the same and what differs between their machines."""

import plots
import runlog
from plots import human
from report_parts import LEAF_LEGEND, PHASES, POLICY_CLASS, Figure, Part, Table, phase_strips, policy_legend, policy_name


def labels(runs):
    """A short name for each run, told apart by letters."""
    return [f"{chr(ord('A') + at % 26)}{at // 26 or ''}" for at in range(len(runs))]


def overview(runs):
    rows = []
    for label, run in zip(labels(runs), runs):
        ends = [run.map_phase(phase) for phase in ("peak", "after")]
        rows.append([label, run.name, (run.verdict, "verdict-" + run.verdict), run.machine, run.ktap.passed, run.ktap.failed,
                     run.ktap.skipped, *(runlog.leaves(words) if words else None for words in ends),
                     *(count(ends[1]) if ends[1] else None for count in (runlog.splits, runlog.collapses)),
                     run.unit or "–", run.begin("seed"), run.begin("build"),
                     run.cpu + (", under a hypervisor" if run.hypervisor else "")])
    return Table("The runs", ["", "log", "verdict", "machine", "passed", "failed", "skipped", "leaves at the peak", "at the end",
                              "splits", "collapses", "costs in", "seed", "build", "CPU"], rows)


def machines_map(runs):
    groups = []
    for label, run in zip(labels(runs), runs):
        phases = {name: run.map_phase(name) for name in PHASES if run.map_phase(name)}
        if set(phases) == set(PHASES):
            groups.append((f"{label}: {run.machine}", phase_strips(phases)))
    if not groups:
        return None
    title = "The direct map of each machine: before, at its peak, after"
    says = ("Each strip is all memory of that machine. Machines without 1 GiB leaves begin with more of them; what the "
            "tests did is the difference between the first strip and the second, what they left behind that between the "
            "first and the third.")
    return Figure(title, plots.strips(title, groups, "share of the direct map's memory, by the size of its leaves", True),
                  LEAF_LEGEND, says)


def common_group(runs):
    """The workload that most of the runs have, with as many pages as possible."""
    found = {}
    for run in runs:
        for group in run.lab_groups():
            found[group] = found.get(group, 0) + 1
    wanted = [group for group in found if group[0] == "pages" and group[1] == "aged" and found[group] > 1] or \
             [group for group in found if found[group] > 1]
    return max(wanted, key=lambda group: (found[group], group[2]), default=None)


def machines_policies(runs):
    group = common_group(runs)
    if not group:
        return None
    groups = []
    for label, run in zip(labels(runs), runs):
        rows = []
        for (policy, collapse), phases in run.lab_groups().get(group, {}).items():
            if "after" in phases:
                count = runlog.splits(phases["after"])
                left = runlog.splits(phases["after"]) - runlog.collapses(phases["after"])
                text = human(count) + (f", {'all' if left == count else human(left)} left" if left else "")
                rows.append((policy_name(policy, collapse), count, POLICY_CLASS.get((policy, collapse), "p0"), None, text))
        if rows:
            groups.append((f"{label}: {run.machine}", rows))
    workload, memory, count = group
    title = f"The same work on each machine: {workload}, n = {human(count)}, {memory} memory"
    says = (f"Leaves split while {human(count)} pages were taken and given back, by policy. The larger a machine's memory, "
            "the further the free pages lie apart and the more leaves have to be split for the same number of pages.")
    legend = policy_legend([row for _, rows in groups for row in rows])
    return Figure(title, plots.bars(title, groups, "leaves split"), legend, says)


def machines_costs(runs):
    """A table of medians for each unit: instructions and cycles never stand in one row."""
    tables = []
    named = list(zip(labels(runs), runs))
    for key, unit in runlog.UNITS.items():
        members = [(label, run) for label, run in named if run.cost_key == key]
        if not members:
            continue
        order = []
        for _, run in members:
            order += [cost for cost, words in run.costs.items() if "workload" not in words and cost not in order]
        rows = [[" ".join(str(word) for word in cost[:1] + cost[6:] if word), cost[2]] +
                [run.costs.get(cost, {}).get(key) for _, run in members] for cost in order]
        if rows:
            tables.append(Table(f"Median cost of single operations, in {unit}",
                                ["operation", "policy"] + [label for label, _ in members], rows,
                                "" if key == "insns" else "Time of different machines: fast hardware is not a better mechanism."))
    return tables


def of_all(runs):
    """What is the same and what differs between the machines."""
    figures = [figure for figure in (machines_map(runs), machines_policies(runs)) if figure]
    lead = (f"{len(runs)} runs beside each other; each has a section of its own below. A run counts only if its log is "
            "complete: every planned test has a result and the counts of the last line agree with them.")
    return Part("machines", "The machines compared", lead, overview(runs), *figures, folded=machines_costs(runs))
