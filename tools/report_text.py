# SPDX-License-Identifier: MIT
"""The parts of a report as text for a terminal, as JSON and as JUnit XML."""

import textwrap
import xml.etree.ElementTree as ElementTree

import report_machines
import report_parts
import runlog
from plots import human

TEXT_WIDTH = 120
WIDEST = 60                     # of a text column


def _shown(cell):
    if isinstance(cell, tuple):
        cell = cell[0]
    return human(cell) if not isinstance(cell, str) else cell


def _is_number(cell):
    return isinstance(cell[0] if isinstance(cell, tuple) else cell, (int, float))


def table_text(table):
    """Columns of numbers to the right, text to the left; long text goes on below."""
    cells = [[textwrap.wrap(_shown(cell), WIDEST) or [""] for cell in row] for row in table.rows]
    widths = [max([len(name)] + [len(line) for row in cells if at < len(row) for line in row[at]])
              for at, name in enumerate(table.columns)]
    right = [any(_is_number(row[at]) for row in table.rows if at < len(row)) for at in range(len(table.columns))]

    def line(parts):
        return "  " + "  ".join(part.rjust(width) if side else part.ljust(width)
                                for part, width, side in zip(parts, widths, right)).rstrip()

    lines = [table.title] if table.title else []
    if any(table.columns):
        lines.append(line(table.columns))
    for row in cells:
        for at in range(max(len(cell) for cell in row)):
            lines.append(line([cell[at] if at < len(cell) else "" for cell in row]))
    if table.note:
        lines.append("  " + table.note)
    return "\n".join(lines) + "\n"


def part_text(part, every=False):
    """Tables only: a terminal has no room for plots. every: the folded ones, too."""
    tables = [item for item in part.items + (part.folded if every else []) if isinstance(item, report_parts.Table)]
    if not tables and (part.items or part.folded):
        return ""
    lead = "\n".join(textwrap.wrap(part.lead, TEXT_WIDTH))
    return f"== {part.title} ==\n{lead}\n\n" + "\n".join(table_text(table) for table in tables) + "\n"


def run_text(run, peers, meanings, label=""):
    text = f"{label}{run.name}: {report_parts.VERDICTS[run.verdict]}" + (f": {run.reason}" if run.reason else "") + "\n"
    text += table_text(report_parts.frame(run)) + "\n"
    # On a terminal the tables of policies are what the plots show on the page.
    return text + "".join(part_text(part, every=part.name in ("policies", "costs", "cpus", "flush"))
                          for part in report_parts.of_run(run, peers, meanings))


def report_text(runs, peers, meanings):
    text = ""
    if len(runs) > 1:
        text = part_text(report_machines.of_all(runs), every=True) + "\n"
    labels = report_machines.labels(runs)
    return text + "\n".join(run_text(run, peers, meanings, f"{label}: " if len(runs) > 1 else "")
                            for label, run in zip(labels, runs))


# -- JSON -----------------------------------------------------------------------------------------------

def run_json(run):
    ktap = run.ktap
    return {
        "log": run.path, "boot": run.boot, "boots": run.boots, "verdict": run.verdict, "reason": run.reason,
        "machine": {"cpus": runlog.number(run.begin("cpus")), "memory": run.memory,
                    "cpu": run.cpu, "hypervisor": run.hypervisor, "largest_leaf": run.largest_leaf},
        "build": run.begin("build"), "seed": runlog.number(run.begin("seed")), "command_line": run.command_line,
        "unit": run.unit, "end": ktap.end,
        "passed": ktap.passed, "failed": ktap.failed, "skipped": ktap.skipped, "xfailed": ktap.xfailed,
        "running": ktap.running, "last_test": ktap.last_test, "problems": ktap.problems,
        "tests": [{"suite": result.suite, "name": result.name, "status": result.status, "reason": result.reason,
                   "notes": result.notes} for result in run.tests],
        "counters": run.counters, "map": run.maps,
        "lab": [words for phases in run.lab.values() for words in phases.values()] + run.ceiling,
        "cost": list(run.costs.values()), "execmem": run.execmem, "trace": run.trace,
    }


def report_json(runs):
    return {"format": "tangram-report", "version": 1, "runs": [run_json(run) for run in runs]}


# -- JUnit ----------------------------------------------------------------------------------------------

def _suite(parent, name, cases, errors=0):
    failures = sum(case.status == "fail" for case in cases)
    skipped = sum(case.status == "skip" for case in cases)
    return ElementTree.SubElement(parent, "testsuite", name=name, tests=str(len(cases) + errors), failures=str(failures),
                                  errors=str(errors), skipped=str(skipped))


def _case(suite, result):
    case = ElementTree.SubElement(suite, "testcase", classname=result.suite or "(none)", name=result.name)
    if result.status == "fail":
        failure = ElementTree.SubElement(case, "failure", message=(result.notes or [result.reason or "failed"])[0], type="not ok")
        failure.text = "\n".join(result.notes)
    elif result.status == "skip":
        ElementTree.SubElement(case, "skipped", message=result.reason)
    elif result.status == "xfail":
        ElementTree.SubElement(case, "system-out").text = f"expected failure: {result.reason}"


def _error(suites, run):
    """What is wrong with the log as a whole: a case of its own, so that no reader takes it for a pass."""
    suite = _suite(suites, "log", [], errors=1)
    case = ElementTree.SubElement(suite, "testcase", classname="log", name=run.ktap.running or "complete")
    error = ElementTree.SubElement(case, "error", message=run.reason, type=run.verdict)
    error.text = "\n".join(run.ktap.problems)


def junit(runs):
    """A testsuite for each suite of each run; counts are those of the log."""
    root = ElementTree.Element("testsuites", name="tangram")
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for run in runs:
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        for name, results in run.suites.items():
            suite = _suite(root, prefix + name, results)
            properties = ElementTree.SubElement(suite, "properties")
            for key in ("build", "cpus", "memory", "seed"):
                ElementTree.SubElement(properties, "property", name=key, value=run.begin(key))
            for result in results:
                _case(suite, result)
        if run.verdict == "broken" or (run.verdict == "fail" and not run.by_status("fail")):
            _error(root, run)
    for suite in root:
        for key in totals:
            totals[key] += int(suite.get(key))
    for key, value in totals.items():
        root.set(key, str(value))
    ElementTree.indent(root)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="utf-8") + b"\n"
