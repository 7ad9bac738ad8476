# SPDX-License-Identifier: MIT
"""
One self-contained page of the parts of a report: no script, no network, plots as SVG inside it. Light or dark as the reader
has it, on paper light.
"""

from html import escape

import report_machines
import report_parts
from plots import human

STYLE = """
:root { color-scheme: light dark;
  --bg: #ffffff; --panel: #f5f7fa; --fg: #1b2530; --soft: #52606d; --line: #d5dce4; --grid: #e3e8ee; --link: #1658a8;
  --c1g: #173f73; --c2m: #5b9fd8; --c4k: #e2651d; --cun: #c3cad3;
  --p0: #66717e; --p1: #b8352b; --p2: #d9901a; --p3: #2f72b8; --p4: #1f8a5f; --p5: #7a54b4;
  --peer: #8a949f; --ours: #1f8a5f; --mark: #b8352b;
  --good: #14713f; --good-bg: #dff3e7; --bad: #a3221a; --bad-bg: #fbe3e1; --skip: #7a5200; --skip-bg: #fdf0d3; }
@media (prefers-color-scheme: dark) { :root {
  --bg: #12171d; --panel: #1a2129; --fg: #e4e9ef; --soft: #a3afbc; --line: #36414d; --grid: #28323c; --link: #82b8f2;
  --c1g: #3a6fae; --c2m: #8cc4f0; --c4k: #f58549; --cun: #4a5561;
  --p0: #98a4b1; --p1: #ee7d72; --p2: #eab354; --p3: #6fabe6; --p4: #52c294; --p5: #b493e6;
  --peer: #8a96a3; --ours: #52c294; --mark: #ff9a8f;
  --good: #7fdca8; --good-bg: #123524; --bad: #ff9d94; --bad-bg: #451b18; --skip: #f0c56b; --skip-bg: #3d2f0e; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1.6rem clamp(1rem, 4vw, 2.6rem) 5rem; max-width: 68rem;
  background: var(--bg); color: var(--fg);
  font: 16px/1.55 "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.45rem; line-height: 1.25; margin: 3.2rem 0 .6rem; padding-top: 1rem; border-top: 2px solid var(--line); }
h3 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; }
h4 { font-size: .98rem; margin: 0 0 .4rem; }
p { margin: .4rem 0 1rem; max-width: 46rem; }
a { color: var(--link); }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .9em; }
nav { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: .7rem 1rem; margin: 1.2rem 0; }
nav ul { margin: 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; }
figure { margin: 1.3rem 0 1.8rem; padding: 1rem 1.1rem .8rem; background: var(--panel);
  border: 1px solid var(--line); border-radius: 8px; break-inside: avoid; }
figcaption { color: var(--soft); font-size: .93rem; margin-top: .5rem; max-width: 50rem; }
.scroll { overflow-x: auto; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: 0 0 .6rem; padding: 0; list-style: none; font-size: .87rem;
  color: var(--soft); }
.legend i { display: inline-block; width: .95em; height: .95em; margin-right: .4em; border-radius: 2px; vertical-align: -.1em; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .2rem 0 .4rem; font-size: .95rem; }
th, td { padding: .28rem .7rem .28rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td.num, th.num { text-align: right; padding-left: .9rem; padding-right: .3rem; white-space: nowrap; }
td { overflow-wrap: break-word; max-width: 34rem; }
td.long { min-width: min(22rem, 60vw); }
td.num + td:not(.num), th.num + th:not(.num) { padding-left: 1.2rem; }
td.short { white-space: nowrap; }
.note { color: var(--soft); font-size: .88rem; margin: .3rem 0 1rem; }
.block { margin: 1rem 0 1.6rem; }
details { margin: .6rem 0 1.4rem; }
summary { cursor: pointer; color: var(--link); font-size: .95rem; }
.badge { display: inline-block; padding: 0 .5em; border-radius: 5px; font-weight: 700; letter-spacing: .02em; }
.verdict-pass, .better { color: var(--good); background: var(--good-bg); }
.verdict-fail, .verdict-broken, .worse { color: var(--bad); background: var(--bad-bg); }
.verdict-skip { color: var(--skip); background: var(--skip-bg); }
.changed { color: var(--soft); }
svg { display: block; width: 100%; min-width: 700px; height: auto;
  font: 12px "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }
svg text { fill: var(--fg); }
svg .tick, svg .axis { fill: var(--soft); }
svg .heading { font-weight: 600; font-size: 12.5px; }
svg .value { font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--grid); stroke-width: 1; }
svg .base { stroke: var(--soft); stroke-width: 1; }
svg .plot { fill: none; stroke-width: 2; }
@media print {
  :root { color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  nav { display: none; }
  h2, h3, h4, caption, section > p { break-after: avoid; }
  figure, tr { break-inside: avoid; }
  .scroll { overflow: visible; } svg { min-width: 0; width: 100%; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

SHORT = 36                      # characters of text that stay on one line in a table
CLASSES = ("c1g", "c2m", "c4k", "cun", "p0", "p1", "p2", "p3", "p4", "p5", "peer", "ours", "mark")

INTRO = """Tangram is a small kernel, started by UEFI, that measures what removing or re-protecting <b>single pages</b> does
to a kernel's <b>direct map</b> (its own mapping of all memory), and which mechanism does it least harm. This page shows what
it measured."""

WORDS = (
    ("leaf", "an entry of a page table that maps memory: 4 KiB, 2 MiB or 1 GiB. Each takes a place in the TLB, so few large ones "
             "are good"),
    ("split, collapse", "one large leaf becomes 512 small ones; 512 small ones become one again"),
    ("TLB, flush", "the CPU remembers translations in its TLB; after a change they have to be forgotten, on every CPU"),
    ("IPI", "an interrupt from one CPU to another, here to make it flush"),
    ("aged memory", "free pages lie scattered over all memory, as on a machine that has run for long; on a fresh one they lie "
                    "together. Unmovable: so do pages that are in use and stay"),
    ("peak, after", "the moment when most was taken out of the direct map; when everything has been given back"),
    ("instructions", "counted by QEMU (-icount): the same on every host, to the digit. Cycles are time, and differ by machine"),
)


def _style():
    """The CSS, with a rule for each colour that plots use."""
    rules = "".join(f"svg .{name} {{ fill: var(--{name}); }} .legend .{name} {{ background: var(--{name}); }} "
                    f"svg .plot.{name} {{ fill: none; stroke: var(--{name}); }}\n" for name in CLASSES)
    return STYLE + rules + "svg line.mark { stroke: var(--mark); stroke-width: 2.5; }\n"


def _cell(value):
    """A number, None, text, or (text, class): a badge."""
    if isinstance(value, tuple):
        return f'<td class="short"><span class="badge {value[1]}">{escape(value[0])}</span></td>'
    if value is None or isinstance(value, (int, float)):
        return f'<td class="num">{human(value)}</td>'
    return f'<td class="{"short" if len(value) <= SHORT else "long"}">{escape(value)}</td>'


def _heading(table, at):
    """A heading stands on the side of its column's numbers."""
    css = ' class="num"' if any(isinstance(row[at], (int, float)) for row in table.rows) else ""
    return f'<th scope="col"{css}>{escape(table.columns[at])}</th>'


def _table(table):
    head = "".join(_heading(table, at) for at in range(len(table.columns))) if any(table.columns) else ""
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    caption = f"<caption>{escape(table.title)}</caption>" if table.title else ""
    rows = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (f'<div class="block"><div class="scroll"><table>{caption}{head}<tbody>{rows}</tbody></table></div>'
            f"{note}</div>\n")


def _figure(figure):
    legend = "".join(f'<li><i class="{css}"></i>{escape(text)}</li>' for css, text in figure.legend)
    legend = f'<ul class="legend">{legend}</ul>' if legend else ""
    return (f'<figure><h4>{escape(figure.title)}</h4>{legend}<div class="scroll">{figure.svg}</div>'
            f"<figcaption>{escape(figure.says)}</figcaption></figure>\n")


def _item(item):
    return _figure(item) if isinstance(item, report_parts.Figure) else _table(item)


def _part(part, prefix, level):
    text = f'<section id="{prefix}{part.name}"><h{level}>{escape(part.title)}</h{level}><p>{escape(part.lead)}</p>\n'
    text += "".join(_item(item) for item in part.items)
    if part.folded:
        names = [item.title for item in part.folded]
        what = f"{len(names)} more: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}" if len(names) > 1 else names[0]
        inside = "".join(_item(item) for item in part.folded)
        text += f"<details><summary>{escape(what)}</summary>\n{inside}</details>\n"
    return text + "</section>\n"


def _verdict(run):
    return f'<span class="badge verdict-{run.verdict}">{report_parts.VERDICTS[run.verdict]}</span>'


def _words():
    rows = "".join(f'<tr><th scope="row">{escape(word)}</th><td>{escape(meaning)}</td></tr>' for word, meaning in WORDS)
    return f'<details><summary>Words used on this page</summary><div class="scroll"><table>{rows}</table></div></details>\n'


def _navigation(sections, comparison):
    """Of one run its parts, of several the runs."""
    links = [("#" + comparison.name, comparison.title)] if comparison else []
    links += [("#machines", "The machines compared")] if len(sections) > 1 else []
    for at, (label, run, parts) in enumerate(sections):
        if len(sections) > 1:
            links.append((f"#r{at}", f"{label}: {run.name}"))
        else:
            links += [(f"#r{at}-{part.name}", part.title) for part in parts]
    items = "".join(f'<li><a href="{target}">{escape(text)}</a></li>' for target, text in links)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>\n'


def page(runs, peers, meanings, comparison=None):
    """The whole page. comparison: a Part that stands first."""
    sections = [(label, run, report_parts.of_run(run, peers, meanings))
                for label, run in zip(report_machines.labels(runs), runs)]
    title = f"Tangram: {len(runs)} runs compared" if len(runs) > 1 else f"Tangram: {runs[0].name}"
    body = [f"<h1>{escape(title)}</h1>\n<p>{INTRO}</p>\n", _words(), _navigation(sections, comparison)]
    if comparison:
        body.append(_part(comparison, "", 2))
    if len(runs) > 1:
        body.append(_part(report_machines.of_all(runs), "", 2))
    for at, (label, run, parts) in enumerate(sections):
        name = f"{label}: {run.name}" if len(runs) > 1 else "This run"
        body.append(f'<section id="r{at}"><h2>{escape(name)} {_verdict(run)}</h2>\n')
        if run.reason:
            body.append(f"<p><b>{escape(run.reason)}</b></p>\n")
        body.append(_table(report_parts.frame(run)))
        body += [_part(part, f"r{at}-", 3) for part in parts]
        body.append("</section>\n")
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{_style()}</style></head>\n<body>\n" + "".join(body) + "</body></html>\n")
