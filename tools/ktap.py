# SPDX-License-Identifier: MIT
"""
Reads a KTAP 1 log as Tangram writes it (SPEC RP1) and says whether it is complete and what it counted.

Invariant: a log counts as complete only if every plan is fulfilled, numbering has no gap, each subtest's
line agrees with the results inside it, `# TANGRAM BEGIN` came once, and `# TANGRAM END` came once, last,
with a newline behind it and with the counts that the results add up to. A log cut anywhere fails one of these.
`# TANGRAM MONITOR` behind END says that the report is over: of what follows (end=monitor) only a panic counts.
A subtest may be such a log itself, indented (hosted tests: one per simulated machine); the same holds for it.

boots() reads a log of several boots: each is judged for itself, and one that did not come to its end before the next
one began is not complete.
"""

import re

VERSION = re.compile(r"KTAP version 1$")
PLAN = re.compile(r"1\.\.(\d{1,9})(?: # SKIP (\S.*))?$")
RESULT = re.compile(r"(not )?ok (\d{1,9})(?: (?:- )?(\S+))?(?: # (SKIP|XFAIL|TODO|TIMEOUT|ERROR)\b ?(.*))?\s*$")
NAME = re.compile(r"[a-z0-9_.-]+$")
SUBTEST = re.compile(r"# Subtest: (.*)$")
RUNNING = re.compile(r"# running (\S+)")
MARK = re.compile(r"# TANGRAM (BEGIN|END)\b(.*)$")
WORD = re.compile(r"([a-z0-9_.]+)=(\S*)$")
PANIC = re.compile(r"# PANIC\b")
MONITOR = re.compile(r"# TANGRAM MONITOR\b")
FIGURES = ("counter", "map", "lab", "cost", "execmem", "trace")

# What a kernel says first, and what it says next of words in it.
COMMAND_LINE = r"command line: (?!bad value in |unknown key |\S+ has no effect yet|\S+ is not of the form )"
FIRST_WORDS = re.compile(rb"# " + COMMAND_LINE.encode())

# Where another boot begins: the firmware clears its terminal or names what it boots, the loader speaks, a kernel says its first
# words, or the version line comes again, not indented (behind a line that the boot before did not finish, too).
RESTART = re.compile(rb"(\x1b\[2J|BdsDxe: )|^(tangram: )|(?:^|[^ ] *)(" + FIRST_WORDS.pattern + rb"|KTAP version 1\r?$)")

# CSI, OSC and two-byte escape sequences: firmware paints the terminal, the log is about text.
ESCAPE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-Za-z]|[=>78cDEHM])")

MAX_LINE = 16384
MAX_PROBLEMS = 50
MAX_NOTES = 60                  # lines kept of what a test said


def plain(data):
    """Bytes of a line -> text without escape sequences and control characters."""
    text = ESCAPE.sub(b"", data).decode("utf-8", "replace")
    return "".join(c for c in text if c == "\t" or c.isprintable())


def words(text):
    """`a=1 b=2` -> {"a": "1", "b": "2"}; None if a word is not key=value or a key comes twice."""
    result = {}
    for word in text.split():
        match = WORD.match(word)
        if not match or match[1] in result:
            return None
        result[match[1]] = match[2]
    return result


class Result:
    """A test: status is pass, fail, skip or xfail; notes are what it said, without figures."""

    def __init__(self, suite, name, status, reason, notes):
        self.suite = suite
        self.name = name
        self.status = status
        self.reason = reason
        self.notes = notes

    @property
    def full(self):
        return f"{self.suite}.{self.name}" if self.suite else self.name


class Level:
    """One plan with its results."""

    def __init__(self, name, totals):
        self.name = name
        self.totals = totals        # (passed, failed, skipped) when it was opened
        self.begin = None           # words of its `# TANGRAM BEGIN`
        self.end = None
        self.plan = None
        self.skip_all = False
        self.seen = 0
        self.failed = False


class Ktap:
    """
    Feed it lines, then finish(). `marks`: BEGIN and END are required (logs of Tangram; False for the
    KTAP of other programs).
    """

    def __init__(self, marks=True):
        self.marks = marks
        self.problems = []
        self.passed = self.failed = self.skipped = self.xfailed = 0
        self.failures = []          # names of failed tests, with their suite
        self.last_test = None       # the last result that was seen
        self.running = None         # the test that was announced and has no result yet
        self.suite = None           # the subtest that is open
        self.panic = None           # the first line of a panic
        self.figures = []           # (kind, words) of the lines in FIGURES
        self.results = []           # a Result for each test
        self.preface = []           # what the kernel said before its first plan: the machine
        self.restarted = False      # another boot began, and this one had not ended
        self.started = False
        self.monitor = False        # the report is over: what comes now was asked for at the monitor
        self.finished = False
        self._levels = []
        self._closed = None         # the level one deeper that waits for its parent's result
        self._pending_name = None
        self._notes = []
        self._line = 0
        self._partial = b""

    # -- input ------------------------------------------------------------------------------------------

    def feed(self, data):
        """Any piece of the log, as bytes."""
        self._partial += data
        *lines, self._partial = self._partial.split(b"\n")
        for line in lines:
            self._feed_line(line)
        if len(self._partial) > MAX_LINE:
            if self.started and not self.monitor:
                self._problem(f"a line of more than {MAX_LINE} bytes")
            self._partial = self._partial[-64:]

    def finish(self):
        """The log ends here. Returns the list of problems; empty: complete and consistent."""
        if self.finished:
            return self.problems
        self.finished = True
        rest = plain(self._partial).strip()
        if rest and not self.monitor and (self.started or VERSION.search(rest)):
            self._problem(f"the log breaks off within a line: {rest[:80]!r}")
        if not self.started:
            self._problem("no 'KTAP version 1' line: the kernel never got so far")
            return self.problems
        if self._closed:
            self._problem(f"subtest {self._closed.name or '?'} has no result line")
        while len(self._levels) > 1:
            self._close_level()
            self._problem(f"subtest {self._closed.name or '?'} has no result line")
        top = self._levels[0]
        self._check_plan(top)
        if self.marks or top.begin is not None or top.end is not None:
            self._check_marks(top)
        if self.panic:
            self._problem(f"the kernel panicked: {self.panic}")
        return self.problems

    @property
    def begin(self):
        """Words of `# TANGRAM BEGIN`, or None."""
        return self._levels[0].begin if self._levels else None

    @property
    def end(self):
        """Words of `# TANGRAM END`, or None."""
        return self._levels[0].end if self._levels else None

    @property
    def complete(self):
        return self.finished and not self.problems

    @property
    def verdict(self):
        """pass, fail, skip (nothing but skips) or incomplete."""
        if not self.finished or self.problems:
            return "fail" if self.failed and self.finished and self.end else "incomplete"
        if self.failed:
            return "fail"
        return "pass" if self.passed else "skip"

    def where(self):
        """For people: how far it got."""
        if not self.started:
            return f"before its first test, behind '{self.preface[-1]}'" if self.preface else "the kernel has not spoken yet"
        if self.running:
            return f"in test {self.running}"
        return f"the last test was {self.last_test or '(none)'}"

    def failure(self):
        """The first thing wrong, or ''."""
        if self.panic:
            return f"{self.panic}; {self.where()}"
        if self.restarted:
            return f"the machine started again before the end of the report; {self.where()}"
        if self.failures:
            more = f" and {len(self.failures) - 3} more" if len(self.failures) > 3 else ""
            return "failed: " + ", ".join(self.failures[:3]) + more
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            return f"the log is incomplete: {self.problems[0]}{more}"
        return ""

    # -- lines ------------------------------------------------------------------------------------------

    def _problem(self, text):
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(f"line {self._line}: {text}" if self._line else text)

    def _feed_line(self, data):
        self._line += 1
        text = plain(data.rstrip(b"\r")).rstrip()
        if not self.started:
            # Firmware may have left the cursor in the middle of a line.
            if not VERSION.search(text):
                if PANIC.match(text) and not self.panic:
                    self.panic = text[2:]
                if text.startswith("# "):
                    self.preface.append(text[2:])
                return
            self.started = True
            self._levels = [Level(None, self._totals())]
            return
        if self.monitor:
            panic = PANIC.search(text)      # it may come while a line is typed
            if panic and not self.panic:
                self.panic = text[panic.start() + 2:]
            return
        if MONITOR.match(text) and self.end is not None:
            self.monitor = True
            return
        if not text:
            return
        body = text.lstrip(" ")
        indent = len(text) - len(body)
        # Behind its END a level is silent; the result line that closes it is one level further out.
        if any(level.end is not None for level in self._levels[:indent // 2 + 1]):
            self._problem(f"something follows '# TANGRAM END': {text[:80]!r}")
        if body.startswith("#"):
            self._diagnostic(indent, body)
        elif indent % 2:
            self._problem(f"indented by {indent}, not by a multiple of two: {text[:80]!r}")
        else:
            self._structure(indent // 2, body)

    def _diagnostic(self, indent, body):
        if PANIC.match(body) and not self.panic:
            self.panic = body[2:]
        subtest = SUBTEST.match(body)
        if subtest:
            self.suite = subtest[1].strip()
            if indent and len(self._levels) > indent // 2:
                self._levels[indent // 2].name = self.suite
            else:
                self._pending_name = self.suite
            return
        running = RUNNING.match(body)
        if running:
            self.running = running[1]
            self._notes = []
            return
        mark = MARK.match(body)
        if mark:
            self._mark(indent // 2, mark[1], mark[2])
            return
        kind, _, rest = body[1:].strip().partition(" ")
        if kind in FIGURES:
            pairs = words(rest)
            if pairs is None:
                self._problem(f"a {kind} line that is not key=value words: {body[:120]!r}")
            else:
                self.figures.append((kind, pairs))
        elif len(self._notes) < MAX_NOTES:
            self._notes.append(body[1:].strip())

    def _mark(self, depth, which, rest):
        pairs = words(rest)
        if pairs is None:
            self._problem(f"# TANGRAM {which} that is not key=value words: {rest[:120]!r}")
            pairs = {}
        level = self._at(depth, f"# TANGRAM {which}")
        if level is None:
            return
        if which == "END":
            level.end = pairs
            return
        if level.begin is not None:
            self._problem("a second '# TANGRAM BEGIN'")
        level.begin = pairs

    def _structure(self, depth, body):
        if VERSION.match(body):
            self._open(depth)
            return
        plan = PLAN.match(body)
        if plan:
            self._plan(depth, int(plan[1]), bool(plan[2]))
            return
        result = RESULT.match(body)
        if result:
            self._result(depth, result)
            return
        self._problem(f"not a KTAP line: {body[:80]!r}")

    def _open(self, depth):
        if depth == 0:
            self._problem("a second 'KTAP version 1': did the machine start again?")
            return
        if depth != len(self._levels) or self._closed:
            self._problem(f"a subtest opens at depth {depth}, inside depth {len(self._levels) - 1}")
            return
        self._levels.append(Level(self._pending_name, self._totals()))
        self._pending_name = None

    def _at(self, depth, what):
        """The level at depth, closing those below it; None if there is none."""
        if depth == len(self._levels) and not self._closed and self._pending_name is not None:
            # '# Subtest:' alone opens a level, too (KTAP: the version line may come behind it).
            self._open(depth)
        while len(self._levels) > depth + 1 and len(self._levels) > 1:
            if self._closed:
                self._problem(f"subtest {self._closed.name or '?'} has no result line")
            self._close_level()
        if depth >= len(self._levels):
            self._problem(f"{what} at depth {depth} without 'KTAP version 1' there")
            return None
        return self._levels[depth]

    def _close_level(self):
        self._closed = self._levels.pop()
        self._check_plan(self._closed)
        if self._closed.begin is not None or self._closed.end is not None:
            self._check_marks(self._closed)

    def _check_plan(self, level):
        name = level.name or "the top level"
        if level.plan is None:
            self._problem(f"no plan for {name}")
        elif level.seen != level.plan and not level.skip_all:
            self._problem(f"{name}: planned {level.plan}, seen {level.seen}")

    def _plan(self, depth, count, skip_all):
        level = self._at(depth, "a plan")
        if level is None:
            return
        if level.plan is not None:
            self._problem("a second plan at the same level")
        elif level.seen:
            self._problem("a plan behind results")
        level.plan = count
        level.skip_all = skip_all

    def _result(self, depth, match):
        level = self._at(depth, "a result")
        if level is None:
            return
        inner, self._closed = self._closed, None
        good, number, name = not match[1], int(match[2]), match[3]
        directive, reason = match[4], (match[5] or "").strip()
        level.seen += 1
        if level.plan is None:
            self._problem("a result before the plan")
        if number != level.seen:
            self._problem(f"result {number} where {level.seen} is due")
            level.seen = number
        if not name or not NAME.match(name):
            self._problem(f"a test name that is not [a-z0-9_.-]+: {name!r}")
            name = name or "?"
        if directive in ("SKIP", "XFAIL") and not reason:
            self._problem(f"{name}: {directive} without a reason")
        if inner:
            self._subtest_result(level, inner, good, directive, name)
        else:
            self._leaf(level, good, directive, name, reason)

    def _subtest_result(self, level, inner, good, directive, name):
        if inner.name is not None and inner.name != name:
            self._problem(f"subtest {inner.name} is closed as {name}")
        if good and inner.failed:
            self._problem(f"{name} is ok, but a test in it is not")
        if not good and not inner.failed:
            # It says itself that something went wrong outside its tests.
            self.failed += 1
            self.failures.append(name)
            self.results.append(Result("", name, "fail", "the subtest failed, no test in it did", self._notes))
            self._notes = []
        if not good and directive != "XFAIL":
            level.failed = True
        self.suite = None

    def _leaf(self, level, good, directive, name, reason):
        if level.name and name.startswith(level.name + "."):
            name = name[len(level.name) + 1:]
        result = Result(level.name or "", name, "fail", reason, self._notes)
        self.results.append(result)
        self._notes = []
        self.last_test = result.full
        self.running = None
        if directive == "SKIP" and good:
            self.skipped += 1
            result.status = "skip"
        elif good and directive in (None, "TODO"):
            self.passed += 1
            result.status = "pass"
        elif not good and directive == "XFAIL":
            self.passed += 1
            self.xfailed += 1
            result.status = "xfail"
        else:
            self.failed += 1
            self.failures.append(result.full)
            level.failed = True

    def _totals(self):
        return self.passed, self.failed, self.skipped

    def _check_marks(self, level):
        where = f" of {level.name}" if level.name else ""
        if level.begin is None:
            self._problem(f"no '# TANGRAM BEGIN'{where}")
        else:
            for key in ("build", "cpus", "memory", "seed"):
                if key not in level.begin:
                    self._problem(f"'# TANGRAM BEGIN'{where} without {key}=")
        if level.end is None:
            self._problem(f"no '# TANGRAM END'{where}")
            return
        counts = [now - then for now, then in zip(self._totals(), level.totals)]
        for key, count in zip(("passed", "failed", "skipped"), counts):
            if level.end.get(key) != str(count):
                self._problem(f"'# TANGRAM END'{where} says {key}={level.end.get(key)}, "
                              f"the results add up to {count}")
        want = "fail" if counts[1] else "pass"
        if level.end.get("verdict") != want:
            self._problem(f"'# TANGRAM END'{where} says verdict={level.end.get('verdict')}, "
                          f"the results say {want}")


def check(data, marks=True):
    """The whole log at once -> Ktap."""
    ktap = Ktap(marks)
    ktap.feed(data)
    ktap.finish()
    return ktap


def _pieces(data):
    """
    The log, cut where another boot begins. Firmware and loader say several lines each: a boot is one from its kernel's
    first words on, or from its version line where the log does not have those.
    """
    at = begin = 0
    spoke = started = False         # this boot's kernel; its report
    for line in data.splitlines(keepends=True):
        sign = RESTART.search(line.rstrip(b"\n"))
        if sign and (started or (spoke and not sign[sign.lastindex].startswith(b"KTAP"))):
            cut = sign.start(sign.lastindex)
            yield data[begin:at + cut]
            begin, at, line = at + cut, at + cut, line[cut:]
            spoke = started = False
        text = plain(line.rstrip(b"\r\n")).rstrip()
        started = started or bool(VERSION.search(text) and not text.startswith(" "))
        spoke = spoke or bool(FIRST_WORDS.search(line))
        at += len(line)
    yield data[begin:]


def boots(data, marks=True):
    """A log of one or several boots, in their order -> [Ktap]."""
    pieces = list(_pieces(data))
    if len(pieces) > 1 and not plain(pieces[-1]).strip():
        pieces.pop()                # a terminal that was cleared at the end
    found = [check(piece, marks) for piece in pieces]
    for ktap in found[:-1]:
        if ktap.end is None:
            ktap.restarted = True
            ktap.problems.append("the machine started again before the end of the report")
    return found
