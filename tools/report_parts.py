# SPDX-License-Identifier: MIT
"""
The parts of a report: for one run, and for several beside each other. A part is a heading, a lead that says what is to be
seen, figures (plots) and tables; text, page and tests all take them from here.

What is compared with whom: a figure of another system only with what was counted like it. Peers are counted in
instructions, so costs in cycles stand alone.
"""

import peers as peers_module
import plots
import runlog
from plots import human, size

PHASES = ("before", "peak", "after")
LEAF_NAMES = (("leaves_1g", "c1g", "1 GiB leaves"), ("leaves_2m", "c2m", "2 MiB leaves"), ("leaves_4k", "c4k", "4 KiB leaves"))
LEAF_LEGEND = [(css, text) for _, css, text in LEAF_NAMES] + [("cun", "not mapped (taken out)")]
POLICY_CLASS = {("scattered", "off"): "p1", ("scattered", "deferred"): "p2", ("scattered", "eager"): "p3",
                ("unmapped-2m", "eager"): "p4", ("unmapped-1g", "eager"): "p5"}
VERDICTS = {"pass": "PASS", "fail": "FAIL", "skip": "SKIPPED", "broken": "NOT COMPLETE"}
LINUX = ("Linux 6.1", "Linux 7.2", "Linux")

WORKLOADS = {
    "pages": "pages taken one by one, all given back",
    "churn": "pages taken; then 20,000 times one given back and another taken; all given back",
    "unmovable": "pages taken among single pages that stay where they are; all given back",
}


class Table:
    """columns: names; rows: lists of str, int, float or None. A cell may be (text, class). A column of nothing is left out."""

    def __init__(self, title, columns, rows, note=""):
        kept = [at for at in range(len(columns)) if not rows or any(row[at] is not None for row in rows)]
        self.title = title
        self.columns = [columns[at] for at in kept]
        self.rows = [[row[at] for at in kept] for row in rows]
        self.note = note


class Figure:
    """A plot, what its colours mean, and what it says."""

    def __init__(self, title, svg, legend, says):
        self.title = title
        self.svg = svg
        self.legend = legend
        self.says = says


class Part:
    """folded: tables and figures that only some readers want."""

    def __init__(self, name, title, lead, *items, folded=()):
        self.name = name
        self.title = title
        self.lead = lead
        self.items = list(items)
        self.folded = list(folded)


def plural(count, word):
    return f"{human(count)} {word}{'' if count == 1 else 's'}"


def policy_name(policy, collapse):
    return f"{policy}, {collapse}"


# -- one run --------------------------------------------------------------------------------------------

def frame(run):
    """What was run, on what, and how it ended."""
    counts = f"{run.ktap.passed} passed, {run.ktap.failed} failed, {run.ktap.skipped} skipped"
    rows = [["machine", run.machine],
            ["CPU", run.cpu + (", under a hypervisor" if run.hypervisor else "")],
            ["memory for the kernel", size(run.memory)],
            ["build", run.begin("build")], ["seed", run.begin("seed")],
            ["command line", run.command_line or "(none)"],
            ["costs counted in", run.unit or ("nothing: several CPUs share the clock" if run.begin("cpus") not in ("1", "?")
                                              else "(no cost lines)")],
            ["tests", counts], ["log", run.path + (f", boot {run.boot} of {run.boots}" if run.boots > 1 else "")]]
    return Table("", ["", ""], rows)


def tests(run):
    """Failures first, then skips with their reasons, then all suites."""
    items, folded = [], []
    failed = [[result.full, "; ".join(note.removeprefix(f"{result.full}: ") for note in result.notes[-8:]) or result.reason or
               "(it said nothing)"] for result in run.by_status("fail")]
    if run.ktap.running:
        failed.insert(0, [run.ktap.running, "it was running when the log ended"])
    if failed:
        items.append(Table("Failures", ["test", "what it said"], failed))
    expected = [[result.full, result.reason] for result in run.by_status("xfail")]
    if expected:
        items.append(Table("Expected failures", ["test", "reason"], expected))
    skips = {}
    for result in run.by_status("skip"):
        skips.setdefault(result.reason, []).append(result.full)
    if skips:
        rows = [[reason, len(names), ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")]
                for reason, names in sorted(skips.items(), key=lambda item: -len(item[1]))]
        items.append(Table("Skipped, by reason", ["reason", "tests", "which"], rows))
    rows = [[name] + [sum(result.status in status for result in results) or "" for status in
                      (("pass", "xfail"), ("fail",), ("skip",))] for name, results in run.suites.items()]
    if rows:
        folded.append(Table(f"All {len(rows)} suites", ["suite", "passed", "failed", "skipped"], rows))
    lead = (f"{plural(len(run.tests), 'test')}: {run.ktap.passed} passed, {run.ktap.failed} failed, {run.ktap.skipped} "
            "skipped. After each test the machine is compared with what it was before; a test that loses a page or leaves "
            "the direct map in another shape fails.")
    return Part("tests", "Tests", lead, *items, folded=folded)


def strip_pieces(words, whole):
    """Pieces of a strip: bytes by leaf size, and what is missing of `whole`."""
    pieces = []
    for key, css, text in LEAF_NAMES:
        count = words.get(key, 0)
        value = count * runlog.LEAF_BYTES[key]
        pieces.append((css, value, f"{human(count)} {text}: {size(value)}"))
    pieces.append(("cun", max(0, whole - runlog.mapped(words)), f"not mapped: {size(max(0, whole - runlog.mapped(words)))}"))
    return pieces


def phase_strips(phases, names=PHASES):
    """Rows of strips for one policy."""
    whole = runlog.mapped(phases[names[0]])
    return [(name, strip_pieces(phases[name], whole), plural(runlog.leaves(phases[name]), "leaf").replace("leafs", "leaves"))
            for name in names if name in phases]


def whole_run_map(run):
    """The direct map of the whole run, from the `# map` lines."""
    phases = {name: run.map_phase(name) for name in PHASES if run.map_phase(name)}
    if set(phases) != set(PHASES):
        return None
    before, peak, after = (runlog.leaves(phases[name]) for name in PHASES)
    same = "exactly as it began" if before == after else f"with {human(after)}, not as it began"
    says = (f"The direct map began the run with {human(before)} leaves, had {human(peak)} when it was most broken, and "
            f"ended {same}. One leaf needs one place in the TLB, so fewer are better; the fewest that could have mapped the "
            f"same at the peak were {human(phases['peak'].get('fewest'))}.")
    title = "The direct map of the whole run: before, at its peak, after"
    svg = plots.strips(title, [("", phase_strips(phases))], "share of the direct map's memory, by the size of its leaves", True)
    return Figure(title, svg, LEAF_LEGEND, says)


def main_groups(run):
    """
    Of each workload and memory the row with most pages that still leave a choice where to take them: at most one page in 256.
    Aged memory first.
    """
    limit = max(1, run.memory // 4096 // 256)
    best = {}
    for workload, memory, count in run.lab_groups():
        if best.get((workload, memory), 0) < count <= limit + limit // 8 or (workload, memory) not in best:
            best[workload, memory] = count
    order = {"aged": 0, "unmovable": 1, "fresh": 2}
    return sorted(((workload, memory, count) for (workload, memory), count in best.items()),
                  key=lambda group: (order.get(group[1], 3), list(WORKLOADS).index(group[0]) if group[0] in WORKLOADS else 9))


def lab_strips(run, group):
    """before, peak and after of each policy in one group of rows."""
    workload, memory, count = group
    rows, damage = [], {}
    for (policy, collapse), phases in run.lab_groups()[group].items():
        if not set(PHASES) <= set(phases):
            continue
        rows.append((policy_name(policy, collapse), phase_strips(phases)))
        left = (phases["after"].get("leaves_4k", 0) - phases["before"].get("leaves_4k", 0)) * 4096
        damage.setdefault(size(left) if left > 0 else "nothing", []).append(f"“{policy_name(policy, collapse)}”")
    if not rows:
        return None
    title = f"{workload}, n = {human(count)}, {memory} memory: before, at the peak, after, by policy"
    svg = plots.strips(title, rows, "share of the direct map's memory, by the size of its leaves", True)
    says = (f"{human(count)} pages of 4 KiB ({size(count * 4096)}): {WORKLOADS.get(workload, workload)}. What then stays in "
            "4 KiB leaves that was in larger ones before: " +
            "; ".join(f"{what} under {', '.join(names)}" for what, names in damage.items()) + ".")
    return Figure(title, svg, LEAF_LEGEND, says)


def direct_map(run):
    figures = [figure for figure in [whole_run_map(run)] + [lab_strips(run, group) for group in main_groups(run)] if figure]
    if not figures:
        return None
    lead = ("The direct map is the kernel's own mapping of all memory, with the largest leaves that fit. Taking single "
            "pages out of it splits large leaves into 512 small ones. Each strip is the whole direct map; its colours say "
            "in leaves of what size its memory is mapped. Much orange is bad; orange that stays in the strip “after” is "
            "damage that lasts.")
    return Part("map", "The direct map before, at the peak and after", lead, *figures[:4], folded=figures[4:])


def over_the_run(run):
    """Splits and collapses, test by test, and from the trace where there is one."""
    items = []
    events, last = [], None
    for words in run.maps:
        if words.get("phase") in ("before", "test"):
            if last is not None:
                rise, fall = runlog.splits(words) - runlog.splits(last), runlog.collapses(words) - runlog.collapses(last)
                at = words.get("tests", 0)
                name = run.tests[at - 1].full if 0 < at <= len(run.tests) else "?"
                events.append((at, rise, fall, f"{name}: {human(rise)} splits, {human(fall)} collapses"))
            last = words
    if events:
        most = max(events, key=lambda event: event[1])
        total, back = sum(event[1] for event in events), sum(event[2] for event in events)
        says = (f"From the log's “# map” lines: {human(total)} splits and {human(back)} collapses in {len(events)} of "
                f"{len(run.tests)} tests. A bar upwards without one of the same length downwards would be a test that left "
                f"leaves broken. Most splits: {most[3]}.")
        title = "Splits and collapses of direct-map leaves over the run, one bar per test"
        svg = plots.up_and_down(title, events, "tests, in the order in which they ran", ("c4k", "leaves split"),
                                ("c1g", "leaves put together again"), len(run.tests))
        items.append(Figure(title, svg, [("c4k", "splits"), ("c1g", "collapses")], says))
    items += filter(None, [trace_figure(run)])
    if not items:
        return None
    lead = "When leaves were split and put together again in the course of the run."
    return Part("time", "Splits and collapses over the run", lead, *items)


def trace_figure(run):
    events = sorted((words for words in run.trace if words["event"] in ("split", "collapse") and "tsc" in words),
                    key=lambda words: words["tsc"])
    if len(events) < 2:
        return None
    start = events[0]["tsc"]
    counts, series = {"split": 0, "collapse": 0}, {"split": [(0, 0)], "collapse": [(0, 0)]}
    for words in events:
        counts[words["event"]] += 1
        series[words["event"]].append(((words["tsc"] - start) / 1e6, counts[words["event"]]))
    for points in series.values():
        points.append(((events[-1]["tsc"] - start) / 1e6, points[-1][1]))
    unit = "million instructions" if run.exact else "million TSC ticks"
    title = "Splits and collapses in the trace"
    says = ("From the log's “# trace” lines (trace=dump), which hold the last records of each CPU only, so this is the end "
            f"of the run: {counts['split']} splits and {counts['collapse']} collapses, each a step. Collapses without "
            "splits put together what was split before the trace begins.")
    svg = plots.lines(title, [("c4k", series["split"]), ("c1g", series["collapse"])],
                      f"{unit} since the first record of the trace", "events so far")
    return Figure(title, svg, [("c4k", "splits"), ("c1g", "collapses")], says)


def policies(run):
    """Side by side: what each policy does to the map, and what it costs."""
    items = [figure for group in main_groups(run)[:3] for figure in [policy_bars(run, group)] if figure]
    tables = [lab_table(run, group) for group in run.lab_groups()]
    if not tables:
        return None
    lead = ("One workload, several mechanisms. “scattered” takes any free page and unmaps it where it lies; “unmapped-2m” "
            "and “-1g” take whole blocks out of the direct map first and pages out of those. “off”, “deferred”, “eager”: "
            "whether what was split is put together again, and when. Shorter bars are better everywhere.")
    return Part("policies", "Policies side by side", lead, *items, folded=tables)


def page_cost(run, group, policy, collapse):
    """Mean cost of a page's way out of the direct map and back: take and give; None if it was not counted."""
    workload, memory, count = group
    pair = [run.cost(op=op, workload=workload, policy=policy, memory=memory, collapse=collapse, pages=count).get("mean")
            for op in ("take", "give")]
    return None if None in pair else sum(pair)


def policy_legend(rows):
    """Of the bars' colours: rows begin with the policy's name, and have its class third."""
    return list({row[2]: (row[2], row[0]) for row in rows}.values())


def extreme(rows, which):
    """The rows of a plot with the least or most, by name."""
    value = which(row[1] for row in rows)
    return f"{' and '.join('“' + row[0] + '”' for row in rows if row[1] == value)} ({human(value)})"


def policy_bars(run, group):
    metrics = {"leaves split in all": [], "flushes (single pages and whole TLBs)": [], "page tables left over": []}
    costs = []
    for (policy, collapse), phases in run.lab_groups()[group].items():
        if not {"before", "after"} <= set(phases):
            continue
        name, css = policy_name(policy, collapse), POLICY_CLASS.get((policy, collapse), "p0")
        after = phases["after"]
        values = (runlog.splits(after), runlog.flushes(after), runlog.tables_left(phases) or 0)
        for (_, rows), value in zip(metrics.items(), values):
            rows.append((name, value, css, None, human(value)))
        cost = page_cost(run, group, policy, collapse)
        if cost is not None:
            costs.append((name, cost, css, None, human(cost)))
    if not metrics["leaves split in all"]:
        return None
    groups = list(metrics.items())
    if costs:
        groups.append((f"{run.unit} per page, taken and given back", costs))
    workload, memory, count = group
    title = f"{workload}, n = {human(count)}, {memory} memory: what each policy needs"
    svg = plots.bars(title, groups, "share of the longest bar of each group", relative=True)
    rows = metrics["leaves split in all"]
    says = f"Fewest leaves split: {extreme(rows, min)}; most: {extreme(rows, max)}."
    if costs:
        says += (f" {run.unit[0].upper() + run.unit[1:]} per page are means, splits, collapses and scrubbing included: from "
                 f"{extreme(costs, min)} to {extreme(costs, max)}.")
    return Figure(title, svg, policy_legend(rows), says)


def lab_table(run, group):
    workload, memory, count = group
    ops = [op for op in ("take", "alias", "give", "pair") if any(key[0] == op and key[1] == workload for key in run.costs)]
    rows = []
    for (policy, collapse), phases in run.lab_groups()[group].items():
        at = {name: phases.get(name, {}) for name in PHASES}
        costs = [run.cost(op=op, workload=workload, policy=policy, memory=memory, collapse=collapse, pages=count).get("mean")
                 for op in ops]
        rows.append([policy_name(policy, collapse), runlog.leaves(at["before"]), runlog.leaves(at["peak"]),
                     at["peak"].get("fewest"), runlog.leaves(at["after"]), runlog.splits(at["after"]),
                     runlog.collapses(at["after"]), runlog.tables_left(at), runlog.flushes(at["after"]),
                     at["after"].get("cache_refills"), *costs])
    columns = ["policy", "leaves before", "at the peak", "fewest there", "after", "splits", "collapses", "tables left", "flushes",
               "refills", *[f"{op}, mean" for op in ops]]
    note = f"Costs in {run.unit}." if ops and run.unit else ""
    return Table(f"{workload}, n = {human(count)}, {memory} memory", columns, rows, note)


def executable(run):
    """Memory for code: what was asked for, what it took."""
    rows = [words for words in run.execmem if "policy" in words and "objects" in words]
    groups, table = {}, []
    for words in rows:
        asked, used, held = (words.get(key, 0) for key in ("asked", "used", "held"))
        parts = (("p3", asked, "asked for"), ("p2", max(0, used - asked), "rounding"), ("cun", max(0, held - used), "held, not used"))
        pieces = [(css, value, f"{what}: {size(value)}") for css, value, what in parts]
        groups.setdefault(f"{human(words['objects'])} objects of code", []).append(
            (words["policy"], pieces, f"{size(held)}, {plural(words.get('leaves_4k', 0) + words.get('leaves_2m', 0), 'leaf')}".
             replace("leafs", "leaves")))
        table.append([words["policy"], words["objects"], asked, used, held, words.get("wasted"), words.get("tail"),
                      words.get("leaves_4k"), words.get("leaves_2m"), runlog.splits(words)])
    code = [(key, phases) for key, phases in run.lab.items() if key[0] == "code"]
    items = []
    if groups:
        title = "Executable memory by policy: asked for, lost by rounding, held and not used"
        svg = plots.strips(title, list(groups.items()), "memory of executable leaves")
        says = ("“pages” gives each object pages of its own, so most of each page is lost; “pack” puts many into 2 MiB "
                "regions of 4 KiB leaves; “huge” does so with one 2 MiB leaf; “huge+tail” first fills what the kernel's "
                "own text leaves free. Held and not used is room for the next objects, not lost for ever. Few leaves are "
                "good for the instruction TLB.")
        items.append(Figure(title, svg, [("p3", "asked for"), ("p2", "rounding"), ("cun", "held, not used")], says))
        columns = ["policy", "objects", "asked", "used", "held", "wasted", "of it text tail", "4K leaves", "2M leaves", "splits"]
        items.append(Table("Executable memory (bytes)", columns, table))
    if code:
        items.append(code_table(run, code))
    if not items:
        return None
    lead = "Code objects of sizes as they occur (half of them below 500 bytes) loaded under each policy."
    return Part("execmem", "Executable memory", lead, *items)


def code_table(run, code):
    ops = ("code_load", "code_churn", "code_unload")
    rows = []
    for (workload, policy, memory, collapse, count, _), phases in code:
        costs = [run.cost(op=op, workload=workload, policy=policy, memory=memory, collapse=collapse, pages=count).get("mean")
                 for op in ops]
        loaded, churned = phases.get("loaded", {}), phases.get("churned", {})
        rows.append([policy, count, churned.get("asked"), churned.get("used"), churned.get("wasted"),
                     loaded.get("exec_leaves_4k"), loaded.get("exec_leaves_2m"), runlog.splits(phases.get("after")),
                     runlog.flushes(phases.get("after")), *costs])
    return Table("Code loaded, churned (5,000 times one freed and another loaded) and unloaded",
                 ["policy", "objects", "asked", "used", "wasted", "4K leaves", "2M leaves", "splits", "flushes", "load, mean",
                  "churn, mean", "unload, mean"], rows, f"Costs in {run.unit}." if run.unit else "")


def costs(run, peers):
    """Ours beside the peers'."""
    items = [figure for figure in (peer_costs(run, peers), peer_splits(run, peers)) if figure]
    single = [words for words in run.costs.values() if "workload" not in words]
    rows = []
    for words in single:
        peer = peers.get(("q", f"cost op={words.get('op')}"), {})
        key = run.cost_key
        beside = f", beside {plural(words['others'], 'object')}" if "others" in words else ""
        rows.append([words.get("op") + beside, words.get("policy"), words.get("n"), words.get(key) if key else None] +
                    [words.get(name) for name in ("min", "max", "mean", "flushes", "ipis")] +
                    ([peer.get("goal"), peer.get("Linux 6.1"), peer.get("Linux 7.2")] if run.exact else []))
    if not rows and not items:
        return None
    if run.exact:
        lead = ("Counted in instructions, which repeat to the digit on any host (QEMU's -icount). The peers were counted "
                "in the same way, so the figures may be compared. A flush counts as one instruction whatever it costs: see "
                "the column beside. Figures of others: docs/peers.csv.")
    elif run.unit:
        lead = (f"Counted in {run.unit}, on this machine. The peers' figures are instructions: they are not comparable with "
                "these, and none is shown beside them.")
    else:
        lead = "With several CPUs up they share the clock, and who waits spins: only flushes and interrupts are counted."
    columns = ["operation", "policy", "samples", f"median, {run.unit or '-'}", "min", "max", "mean", "flushes", "IPIs"]
    table = Table("Single operations", columns + (["goal, at most", "Linux 6.1", "Linux 7.2"] if run.exact else []), rows)
    small = [table] if rows and len(rows) <= 12 else []
    return Part("costs", "What it costs, beside others", lead, *items, *small, folded=[table] if rows and not small else [])


def linux_rows(peer):
    return [(who, peer[who], "peer", None, human(peer[who])) for who in LINUX if who in peer]


def add_group(groups, title, rows, ours):
    """Rows of others and ours, ((policy, collapse), value) each; none of ours is no comparison."""
    rows = rows + [(policy_name(*which), value, "ours", None, human(value)) for which, value in ours if value is not None]
    if rows and rows[-1][2] == "ours":
        groups.append((title, rows))


def peer_costs(run, peers):
    if not run.exact:
        return None
    groups = []
    split = run.cost(op="split_2m", policy="none")
    peer = peers.get(("q", "cost op=split_2m"), {})
    if split and peer:
        rows = linux_rows(peer)
        rows.append(("Tangram", split["insns"], "ours", peer.get("goal"),
                     f"{human(split['insns'])} (goal: at most {human(peer.get('goal'))})"))
        groups.append(("Splitting one 2 MiB leaf", rows))
    peer = peers.get(("q", "a page's life"), {})
    for memory, rows in (("fresh", linux_rows(peer)), ("aged", [])):
        lab = ("pages", memory, 4096)
        add_group(groups, f"A page taken out of the direct map and put back (4,096 of them), {memory} memory", rows,
                  [(which, page_cost(run, lab, *which)) for which in run.lab_groups().get(lab, {})])
    if not groups:
        return None
    title = "Our costs beside Linux"
    says = ("Instructions per operation, all counted by QEMU's -icount. Linux: what a memfd_secret page costs more than an "
            "anonymous one, on a freshly booted machine; on an aged one it was not counted. Its split includes the flush; "
            "ours is the split alone, whose flush is in the table's rows that end in .split. Linux never puts a split leaf "
            "together again; rows with “eager” and “deferred” pay for that, too.")
    legend = [("peer", "Linux"), ("ours", "Tangram"), ("mark", "goal")]
    return Figure(title, plots.bars(title, groups, "instructions"), legend, says)


def peer_splits(run, peers):
    """2M leaves that stay split: a number, so it is comparable however the log was counted."""
    groups = []
    for (workload, memory, count), members in run.lab_groups().items():
        peer = peers.get(("q", f"splits left n={count}"), {})
        if memory == "fresh" or not peer or workload == "churn":
            continue
        left = [(which, phases["after"].get("level2_splits", 0) - phases["after"].get("level2_collapses", 0))
                for which, phases in members.items() if phases.get("after")]
        add_group(groups, f"n = {human(count)}, {memory} memory", linux_rows(peer), left)
    if not groups:
        return None
    title = "2 MiB leaves that stay split after everything has been given back"
    says = ("Pages are taken on a machine whose free memory is scattered, and given back. Linux 6.1 and 7.2 never repair a "
            "split leaf. “off” does the same here, on the harder case of memory with single free pages only; “deferred” "
            "and “eager” leave none.")
    legend = [("peer", "Linux, 4 GiB"), ("ours", "Tangram, this machine")]
    return Figure(title, plots.bars(title, groups, "leaves of 2 MiB left split"), legend, says)


def several_cpus(run):
    """Rows of the lab on several CPUs, and the counters of shootdowns."""
    rows, bars = [], {}
    for (workload, policy, memory, collapse, count, workers), phases in run.lab.items():
        after = phases.get("after")
        if workers is None or after is None:
            continue
        name = f"{policy}, {collapse}, {memory}, {plural(workers, 'worker')}"
        rows.append([workload, policy, collapse, memory, workers, count, runlog.splits(after), after.get("flush_all"),
                     after.get("flush_one"), after.get("remote_flush"), after.get("interrupts"), after.get("frames_waiting")])
        bars.setdefault(f"{workload}: interrupts sent to make other CPUs flush", []).append(
            (name, after.get("interrupts", 0), POLICY_CLASS.get((policy, collapse), "p0"), None,
             f"{human(after.get('interrupts', 0))} (asked {human(after.get('remote_flush', 0))} times)"))
    if not rows or run.begin("cpus") == "1":
        return None
    title = "Several CPUs: interrupts by policy"
    says = ("Each change of a mapping has to be flushed on every CPU. Pages taken out of the direct map one by one ask all "
            "others each time; pages from blocks that left it whole need one flush per block. With several workers "
            "requests meet, and some interrupts are saved. These figures vary a little from run to run.")
    legend = [(POLICY_CLASS[pair], policy_name(*pair)) for pair in POLICY_CLASS if any(row[1:3] == list(pair) for row in rows)]
    figure = Figure(title, plots.bars(title, list(bars.items()), "interrupts (IPIs)", log=True), legend, says)
    columns = ["workload", "policy", "collapse", "memory", "workers", "pages", "splits", "full flushes", "single flushes",
               "CPUs asked", "interrupts", "frames waiting"]
    table = Table("The lab on several CPUs", columns, rows)
    lead = f"{run.begin('cpus')} CPUs are up. Costs are not counted here: CPUs share the clock, and who waits spins."
    return Part("cpus", "Several CPUs", lead, figure, folded=[table])


def ceiling(run):
    """Flushing page by page, or everything: what each costs, with the reading behind it."""
    key = run.cost_key or "insns"
    rows, lines = [], {}
    for words in run.ceiling:
        flush, touch = words.get(f"flush_{key}"), words.get(f"touch_{key}")
        rows.append([words.get(name) for name in ("policy", "pages", "n", "flush_all", "flush_one", "remote_flush", "touched",
                                                  "walked")] + [flush, touch])
        if flush is not None and touch is not None:
            lines.setdefault(words.get("policy"), []).append((words.get("pages", 0), flush + touch))
    if not rows:
        return None
    table = Table("Batches by size and ceiling", ["ceiling", "pages", "batches", "full flushes", "single flushes", "CPUs asked",
                                                  "pages read", "of these walked for", "flush, median", "reading, median"], rows)
    lead = ("A batch invalidates its pages one by one, or everything at once if they are more than the ceiling (tlb_ceiling=). "
            "docs/tlb.md has more.")
    if run.cost_key != "cycles" or not lines:
        return Part("flush", "Page by page, or everything at once", lead + " Which is cheaper only a clock can tell: a flush counts "
                    "as one instruction, whatever it forgets.", folded=[table])
    colours = [(f"p{at % 6}", policy) for at, policy in enumerate(lines)]
    title = "A flush of so many pages, and 256 others read behind it, by ceiling"
    says = ("Page by page a flush grows with its pages; at once it costs the same for any number, but what is used next has to be "
            "translated again. The best ceiling is where “ceiling-never” rises above the others.")
    svg = plots.lines(title, [(css, lines[policy]) for css, policy in colours], "pages of the batch", run.unit)
    return Part("flush", "Page by page, or everything at once", lead, Figure(title, svg, colours, says), folded=[table])


def steering(run):
    """What it is worth to take pages that leave the direct map where it is split already."""
    names = ["without steering", "with steering"]
    groups = []
    for what, heading in (("blocks", "blocks of 2 MiB"), ("gigabytes", "gigabytes")):
        values = [run.counters.get(f"steering_{way}_{what}") for way in ("off", "on")]
        if None not in values:
            groups.append((f"{heading} that pages were taken out of",
                           [(name, value, css, None, human(value)) for name, value, css in zip(names, values, ("p1", "p4"))]))
    if not groups:
        return None
    title = "Where pages that leave the direct map come from, without steering and with it"
    says = (f"The same {human(run.counters.get('steering_operations'))} operations twice, of which "
            f"{human(run.counters.get('steering_unmapped'))} take a page out of the direct map. Each block that one was taken out "
            "of was split; steering takes the next page where something is split already.")
    figure = Figure(title, plots.bars(title, groups, "blocks, gigabytes"), [("p1", names[0]), ("p4", names[1])], says)
    return Part("steering", "Steering", "The page allocator knows which requests will lose their mapping, and where they do "
                "least harm.", figure)


def free_memory(run):
    blocks = [(order, run.counters.get(f"free_order{order}")) for order in range(19)]
    blocks = [(order, count) for order, count in blocks if count is not None]
    if not any(count for _, count in blocks):
        return None
    rows = [(f"blocks of {size(4096 << order)}", (count << order) * 4096 / runlog.MIB, "p3",
             None, f"{plural(count, 'block')}, {size((count << order) * 4096)}") for order, count in blocks]
    title = "Free memory at the end, by the size of its blocks"
    says = ("Memory in long bars at the bottom is in one piece, so large leaves and large allocations find room; at the "
            "top it is in crumbs.")
    figure = Figure(title, plots.bars(title, [("", rows)], "MiB free"), [("p3", "free memory in blocks of that size")], says)
    return Part("free", "Free memory by order", "What the page allocator has left when the run ends.", figure)


def counters(run, meanings):
    if not run.counters:
        return None
    rows = [[name, value, meanings.get(name, "")] for name, value in run.counters.items() if not name.startswith("free_order")]
    return Part("counters", "Counters", "Counted since boot, read behind the last test. Meanings: docs/report.md.",
                folded=[Table(f"All {len(rows)} counters", ["counter", "value", "meaning"], rows)])


def of_run(run, peers, meanings):
    """The parts of one run that have something to say."""
    parts = [tests(run), direct_map(run), over_the_run(run), policies(run), executable(run), costs(run, peers),
             several_cpus(run), steering(run), ceiling(run), free_memory(run), counters(run, meanings)]
    return [part for part in parts if part]


def read_peers():
    try:
        return peers_module.read()
    except OSError:
        return {}
