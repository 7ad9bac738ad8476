# SPDX-License-Identifier: MIT
"""
Plots as SVG text for tools/report: horizontal bars, stacked strips, bars up and down, lines. Each has axes with unit and
ticks, and says its values beside its marks. Colours are CSS classes (report_html.py), so that a page is readable
in light, in dark and on paper.

A plot is (svg, legend); legend: [(class, text)].
"""

import math
from html import escape

WIDTH = 860
ROW = 22
HEADING = 28
LABEL_PIXELS = 7.3              # of a character of 12 pixels in a wide font: rather too much than too little


def human(value):
    """1234567 -> 1,234,567; parts of one with two digits."""
    if isinstance(value, str):
        return value
    if value is None:
        return "–"
    if value != int(value):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return f"{int(value):,}"


def size(count):
    """Bytes, with a unit."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            value = count / unit
            return f"{value:.0f} {name}" if value >= 100 or value == int(value) else f"{value:.1f} {name}"
    return f"{count:.0f} B"


def short(value):
    """For ticks: 1000000 -> 1M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


class Canvas:
    """Pieces of an SVG, in one coordinate system of pixels."""

    def __init__(self, title, height, width=WIDTH):
        self.title = title
        self.width = width
        self.height = height
        self.parts = []

    def rect(self, x, y, width, height, css, tip=""):
        inside = f"<title>{escape(tip)}</title>" if tip else ""
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" '
                          f'class="{css}">{inside}</rect>')

    def line(self, x1, y1, x2, y2, css="grid"):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>')

    def path(self, points, css):
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{text}" class="{css}"/>')

    def text(self, x, y, text, css="", anchor="start"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>')

    def svg(self):
        return (f'<svg viewBox="0 0 {self.width} {self.height:.0f}" width="{self.width}" height="{self.height:.0f}" '
                f'role="img" aria-label="{escape(self.title, quote=True)}">' + "".join(self.parts) + "</svg>")


def nice_ticks(most, count=5):
    """Round values from 0 to at least `most`."""
    if most <= 0:
        return [0, 1]
    raw = most / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    if most >= 1:
        step = max(step, 1)
    return [step * i for i in range(math.ceil(most / step - 1e-9) + 1)]


class Axis:
    """Values to pixels. log: by decades from 1; what is 0 lies at its beginning."""

    def __init__(self, most, begin, end, log=False):
        self.log = log
        self.begin, self.end = begin, end
        if log:
            self.decades = max(1, math.ceil(math.log10(max(most, 10)) - 1e-9))
            self.ticks = [10 ** i for i in range(self.decades + 1)]
        else:
            self.ticks = nice_ticks(most)

    def at(self, value):
        if self.log:
            share = math.log10(max(value, 1)) / self.decades
        else:
            share = value / self.ticks[-1]
        return self.begin + (self.end - self.begin) * share


def _width_of(texts):
    return min(320, max([len(text) for text in texts] + [4]) * LABEL_PIXELS + 14)


class Rows:
    """What horizontal plots share: labels to the left, groups with headings, an axis below, values behind the marks."""

    def __init__(self, title, groups, axis):
        """groups: [(heading or "", [row])]; of a row the first is its label and the last its text."""
        rows = [row for _, members in groups for row in members]
        self.groups = groups
        self.left = _width_of([row[0] for row in rows])
        self.right = WIDTH - _width_of([row[-1] for row in rows])
        self.axis = axis
        height = sum(len(members) * ROW + (HEADING if heading else 8) for heading, members in groups) + 44
        self.canvas = Canvas(title, height)

    def draw(self, scale, tick_text, draw_row):
        """draw_row(y, row) draws the marks of one row, and returns where they end."""
        y = 0
        for heading, members in self.groups:
            if heading:
                self.canvas.text(0, y + HEADING - 8, heading, "heading")
            y += HEADING if heading else 8
            for tick in scale.ticks:
                self.canvas.line(scale.at(tick), y, scale.at(tick), y + ROW * len(members))
            for row in members:
                self.canvas.text(self.left - 8, y + 15, row[0], "", "end")
                self.canvas.text(draw_row(y, row) + 6, y + 15, row[-1], "value")
                y += ROW
            self.canvas.line(self.left, y - ROW * len(members), self.left, y, "base")
        for tick in scale.ticks:
            self.canvas.text(scale.at(tick), y + 17, tick_text(tick), "tick", "middle")
        self.canvas.text((self.left + self.right) / 2, y + 36, self.axis, "axis", "middle")
        return self.canvas.svg()


def bars(title, groups, axis, log=False, relative=False):
    """
    Horizontal bars. groups: [(heading or "", [(label, value or None, class, mark or None, text)])]; mark: a value that
    is shown as a line across the bar's row (a goal). relative: the longest bar of each group is 100 %, as the groups count
    different things.
    """
    def most_of(members):
        return max([value for row in members for value in (row[1], row[3]) if value is not None] + [1])

    factors = {id(row): 100 / most_of(members) if relative else 1 for _, members in groups for row in members}
    plot = Rows(title, groups, axis + (" (logarithmic scale)" if log else ""))
    scale = Axis(100 if relative else max(most_of(members) for _, members in groups), plot.left, plot.right, log)

    def draw_row(y, row):
        label, value, css, mark, text = row
        factor, end = factors[id(row)], plot.left
        if value:
            end = max(scale.at(value * factor), plot.left + 1.5)
            plot.canvas.rect(plot.left, y + 4, end - plot.left, ROW - 8, css, f"{label}: {text}")
        if mark is not None:
            x = scale.at(mark * factor)
            plot.canvas.line(x, y + 1, x, y + ROW - 1, "mark")
            end = max(end, x)
        return end

    return plot.draw(scale, (lambda tick: f"{tick:g} %") if relative else short, draw_row)


def strips(title, groups, axis, percent=False):
    """
    Stacked bars. groups: [(heading or "", [(label, [(class, value, tip)], text)])]. percent: each is shown as shares of the
    largest of its group; otherwise the values are bytes.
    """
    sums = [[sum(value for _, value, _ in row[1]) for row in members] for _, members in groups]
    most = {id(row): max(group + [1]) for (_, members), group in zip(groups, sums) for row in members}
    unit, name = 1, "bytes"
    if not percent:
        largest = max(max(group + [1]) for group in sums)
        unit, name = next((u, n) for u, n in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "bytes"))
                          if largest >= 2 * u or u == 1)
    plot = Rows(title, groups, axis if percent else f"{axis}, {name}")
    scale = Axis(100 if percent else largest / unit, plot.left, plot.right)

    def draw_row(y, row):
        factor = 100 / most[id(row)] if percent else 1 / unit
        at = 0
        for css, value, tip in row[1]:
            x = scale.at(at * factor)
            plot.canvas.rect(x, y + 3, scale.at((at + value) * factor) - x, ROW - 6, css, tip)
            at += value
        return scale.at(at * factor)

    return plot.draw(scale, (lambda tick: f"{tick:g} %") if percent else short, draw_row)


def up_and_down(title, events, x_axis, up, down, total):
    """
    A bar per event, upwards and downwards, on a logarithmic scale. events: [(x, up value, down value, tip)]; total: the
    largest x. up, down: (class, text).
    """
    height, left, top = 250, 70, 16
    canvas = Canvas(title, height)
    middle, half = (height - 46 + top) / 2, (height - 46 - top) / 2
    scale = Axis(max([max(event[1], event[2]) for event in events] + [10]), 0, half - 4, log=True)
    width = WIDTH - left - 14
    for tick in scale.ticks:
        reach = 4 + scale.at(tick)
        for y in (middle - reach, middle + reach):
            canvas.line(left, y, left + width, y)
            if tick > 1:
                canvas.text(left - 6, y + 4, short(tick), "tick", "end")
    thick = max(1.5, min(9, width / max(total, 1) - 0.6))
    for x, rise, fall, tip in events:
        place = left + width * (x - 0.5) / max(total, 1) - thick / 2
        if rise:
            canvas.rect(place, middle - 4 - scale.at(rise), thick, 4 + scale.at(rise), up[0], tip)
        if fall:
            canvas.rect(place, middle, thick, 4 + scale.at(fall), down[0], tip)
    canvas.line(left, middle, left + width, middle, "base")
    canvas.line(left, top, left, height - 46, "base")
    for tick in nice_ticks(total):
        if tick <= total:
            canvas.text(left + width * tick / max(total, 1), height - 30, short(tick), "tick", "middle")
    canvas.text(left + width / 2, height - 10, x_axis, "axis", "middle")
    canvas.text(left, 11, f"↑ {up[1]}, ↓ {down[1]} (each from 1 on, logarithmic scale)", "axis")
    return canvas.svg()


def lines(title, series, x_axis, y_axis):
    """Steps over x. series: [(class, [(x, y)])], x and y from 0 on."""
    height, left, top = 260, 70, 22
    canvas = Canvas(title, height)
    xs = [x for _, points in series for x, _ in points]
    ys = [y for _, points in series for _, y in points]
    across, up = Axis(max(xs + [1]), left, WIDTH - 20), Axis(max(ys + [1]), height - 46, top)
    for tick in up.ticks:
        canvas.line(left, up.at(tick), WIDTH - 20, up.at(tick))
        canvas.text(left - 6, up.at(tick) + 4, short(tick), "tick", "end")
    for tick in across.ticks:
        canvas.text(across.at(tick), height - 30, short(tick), "tick", "middle")
    for css, points in series:
        steps, last = [], None
        for x, y in points:
            if last is not None:
                steps.append((across.at(x), up.at(last)))
            steps.append((across.at(x), up.at(y)))
            last = y
        canvas.path(steps, "plot " + css)
    canvas.line(left, height - 46, WIDTH - 20, height - 46, "base")
    canvas.line(left, top, left, height - 46, "base")
    canvas.text(left + (WIDTH - 20 - left) / 2, height - 10, x_axis, "axis", "middle")
    canvas.text(4, 12, y_axis, "axis")
    return canvas.svg()
