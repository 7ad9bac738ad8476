# SPDX-License-Identifier: MIT
"""
One run of Tangram under QEMU: a private copy of the ESP (or of the disk image) and of the firmware's
variables, the serial port streamed and checked while it runs, and the reason why it ended.

Why a run ended is told by four witnesses: the KTAP on the serial port (ktap.py), QEMU's exit status
(isa-debug-exit: value v ends QEMU with 2v+1), QMP's SHUTDOWN event (who asked for it) and QEMU's
`-d cpu_reset` log (triple faults).
"""

import hashlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
import tty

import ktap as ktap_module

PASS, FAIL, USAGE, SKIP, TIMEOUT = 0, 1, 2, 77, 124

EXIT_PASS = 0x10 << 1 | 1       # what QEMU exits with when the kernel writes 0x10 to port 0xf4
EXIT_FAIL = 0x11 << 1 | 1

HEARTBEAT = 10.0                # seconds of silence before a line says so, and between such lines
QUIT = b"\x1d"                  # Ctrl-], typed at the monitor: ends QEMU
INPUT_END = b"\r\x04"           # what the monitor is told behind the last of its input: Ctrl-D on a line of its own
INPUT_MAX = 4096                # bytes on their way to the machine; more wait where they come from
GRACE = 10.0                    # seconds QEMU has for its exit after '# TANGRAM END'
SHELL_GRACE = 3.0               # after the firmware's shell came up
LOG_MAX = 16 << 20              # bytes of serial output; more is a kernel that cannot stop

FIRMWARE = (                    # code, variables: Debian and Ubuntu, Fedora, Arch
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
)

MEDIA = {                       # name -> the devices between the disk image and the machine
    "usb": ["-device", "qemu-xhci", "-device", "usb-storage,drive=medium,removable=on"],
    "ehci": ["-device", "usb-ehci,id=ehci", "-device", "usb-storage,bus=ehci.0,drive=medium,removable=on"],
    "sata": ["-device", "ahci,id=sata", "-device", "ide-hd,bus=sata.0,drive=medium"],
    "nvme": ["-device", "nvme,serial=tangram,drive=medium"],
}

SHELL_SIGNS = (b"UEFI Interactive Shell", b"Shell> ", b"No bootable option or device")


class Unavailable(Exception):
    """Something this machine lacks: the run is skipped."""


class Usage(Exception):
    """Something asked for that makes no sense."""


def parse_size(text):
    """'512M', '4G' or plain MiB -> bytes."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    digits, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "M")
    if unit not in units or not digits.isdigit() or int(digits) == 0:
        raise Usage(f"'{text}' is not a size like 512M or 4G")
    return int(digits) * units[unit]


def merge_cmdline(*parts):
    """Command lines one after another; of the same key only the last word stays, at its last place."""
    merged = {}
    for part in parts:
        for word in part.split():
            key = word.split("=", 1)[0]
            merged.pop(key, None)
            merged[key] = word
    return " ".join(merged.values())


def numa_args(spec, memory, cpus):
    """
    '2' (nodes of equal size) or '1G,3G' -> QEMU arguments. '0' is a node without memory, '1G-' one without CPUs.
    """
    if spec.isdigit():
        count = int(spec)
        if not 1 <= count <= 64:
            raise Usage(f"--numa {spec}: 1 to 64 nodes")
        sizes = [(memory // count) & ~0xfffff] * count
        sizes[0] += memory - sum(sizes)
        bare = set()
    else:
        words = spec.split(",")
        bare = {node for node, word in enumerate(words) if word.endswith("-")}
        sizes = [0 if word.rstrip("-") == "0" else parse_size(word.rstrip("-")) for word in words]
        if sum(sizes) != memory:
            raise Usage(f"--numa {spec}: the nodes do not add up to the memory")
    homes = [node for node in range(len(sizes)) if node not in bare]
    if not homes:
        raise Usage(f"--numa {spec}: no node has CPUs")
    args = []
    for node, size in enumerate(sizes):
        mine = [cpu for cpu in range(cpus) if homes[cpu % len(homes)] == node]
        if size:
            args += ["-object", f"memory-backend-ram,id=node{node},size={size}"]
        memory_of = [f"memdev=node{node}"] if size else []
        args += ["-numa", ",".join([f"node,nodeid={node}"] + memory_of + [f"cpus={cpu}" for cpu in mine])]
    return args


def find_firmware():
    pair = os.environ.get("OVMF_CODE"), os.environ.get("OVMF_VARS")
    if all(pair):
        candidates = (pair,)
    else:
        candidates = FIRMWARE
    for code, variables in candidates:
        if os.path.exists(code) and os.path.exists(variables):
            return code, variables
    raise Unavailable("no OVMF firmware here (Debian: apt-get install ovmf; or set OVMF_CODE and OVMF_VARS)")


def find_qemu():
    program = os.environ.get("QEMU", "qemu-system-x86_64")
    path = shutil.which(program)
    if not path:
        raise Unavailable(f"no {program} here (Debian: apt-get install qemu-system-x86)")
    return path


def escape(path):
    """A path as a value in a QEMU option: commas are doubled."""
    return path.replace(",", ",,")


class Options:
    """What a run is made of; the defaults are those of tools/run-qemu."""

    def __init__(self, **given):
        self.build = "build"        # where esp/ and tangram.img lie
        self.esp = None             # another ESP folder
        self.cpus = 1
        self.memory = "4G"
        self.cpu = "max"
        self.machine = "q35"
        self.numa = None
        self.append = ""
        self.icount = False
        self.log = None
        self.timeout = None
        self.media = "esp"          # the folder, or a key of MEDIA: the disk image, there
        self.debug = False
        self.monitor = None         # a stream with a descriptor: end=monitor takes its commands from there
        self.uart = ["-serial", "chardev:serial"]   # what the log comes out of
        self.extra = []
        for key, value in given.items():
            if not hasattr(self, key):
                raise TypeError(f"no option {key}")
            setattr(self, key, value)

    def check(self):
        if not 1 <= self.cpus <= 255:
            raise Usage(f"--cpus {self.cpus}: 1 to 255")
        if self.icount and self.cpus != 1:
            raise Usage("--icount counts instructions of one CPU: not with --cpus above 1")
        if self.media not in ("esp", *MEDIA):
            raise Usage(f"--media {self.media}: it is esp, {', '.join(MEDIA)}")
        if self.media != "esp" and self.esp:
            raise Usage(f"--media {self.media} boots tangram.img: not with --esp")
        parse_size(self.memory)

    @property
    def seconds(self):
        """The time limit; none under a debugger unless it was asked for."""
        if self.timeout is not None:
            return self.timeout
        return None if self.debug else 900 if self.icount else 300


class Medium:
    """The private copy that is booted from, in `folder`."""

    def __init__(self, options, folder):
        self.args = []
        self.cmdline = ""
        if options.media in MEDIA:
            self._image(options, folder)
        else:
            self._esp(options, folder)

    def _esp(self, options, folder):
        source = options.esp or os.path.join(options.build, "esp")
        if not os.path.isdir(source):
            raise Usage(f"{source} is not there (make esp)")
        copy = os.path.join(folder, "esp")
        shutil.copytree(source, copy)
        path = os.path.join(copy, "tangram", "cmdline.txt")
        base = ""
        if os.path.exists(path):
            with open(path, "rb") as file:
                base = file.read()
        if options.append:
            text = base.decode("utf-8-sig", "replace") if base else ""
            self.cmdline = merge_cmdline(text, options.append)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(self.cmdline + "\n")
        elif base:
            self.cmdline = merge_cmdline(base.decode("utf-8-sig", "replace"))
        # What the loader writes goes to a temporary file: QEMU's own writing to a folder (fat:rw:) is not to be relied on.
        self.args = ["-drive", f"format=raw,snapshot=on,file=fat:{escape(copy)}"]

    def _image(self, options, folder):
        source = os.path.join(options.build, "tangram.img")
        if not os.path.exists(source):
            raise Usage(f"{source} is not there (make image)")
        copy = os.path.join(folder, "tangram.img")
        shutil.copyfile(source, copy)
        mtools = shutil.which("mcopy")
        if not mtools:
            raise Unavailable("no mtools here (Debian: apt-get install mtools)")
        inside = ["-i", f"{copy}@@1M"]
        name = "::/tangram/cmdline.txt"
        got = subprocess.run([mtools, *inside, name, "-"], capture_output=True, check=False)
        base = got.stdout.decode("utf-8-sig", "replace") if got.returncode == 0 else ""
        self.cmdline = merge_cmdline(base, options.append)
        text = (self.cmdline + "\n").encode()
        subprocess.run([mtools, "-o", *inside, "-", name], input=text, check=True)
        self.args = ["-drive", f"if=none,id=medium,format=raw,file={escape(copy)}", *MEDIA[options.media]]


def command(options, medium, folder, qmp_fd):
    code, variables = find_firmware()
    private = os.path.join(folder, "vars.fd")
    shutil.copyfile(variables, private)
    os.chmod(private, 0o600)
    accel = os.environ.get("ACCEL", "tcg")
    if options.icount and not accel.startswith("tcg"):
        raise Usage(f"ACCEL={accel}: --icount needs tcg")
    args = [find_qemu(), "-machine", options.machine, "-accel", accel, "-cpu", options.cpu,
            "-m", str(parse_size(options.memory) >> 20), "-smp", str(options.cpus),
            "-nodefaults", "-no-reboot", "-net", "none", "-display", "none",
            "-chardev", "stdio,id=serial,signal=off", *options.uart,
            "-chardev", f"socket,id=qmp,fd={qmp_fd}", "-mon", "chardev=qmp,mode=control",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
            "-drive", f"if=pflash,format=raw,readonly=on,file={escape(code)}",
            "-drive", f"if=pflash,format=raw,file={escape(private)}",
            "-d", "cpu_reset", "-D", os.path.join(folder, "reset.log")]
    args += medium.args
    if options.numa:
        args += numa_args(options.numa, parse_size(options.memory), options.cpus)
    if options.icount:
        args += ["-icount", "shift=0,sleep=off", "-seed", "1", "-rtc", "base=2026-01-01T00:00:00,clock=vm"]
    # Nothing runs before QMP listens: a machine that resets at once would be gone before it could say why. Counted runs
    # start as they always did, so that they stay the same to the digit.
    if options.debug or not options.icount:
        args += ["-S"]
    if options.debug:
        args += ["-s"]
    return args + options.extra


class Result:
    """
    How it ended: `code` is the exit status of tools/run-qemu, `reason` one line for people; `log` tells what it is about,
    in bytes and their SHA-256.
    """

    def __init__(self, code, reason, ktap=None, seconds=0.0, log=(0, None)):
        self.code = code
        self.reason = reason
        self.ktap = ktap
        self.seconds = seconds
        self.log = log

    @property
    def word(self):
        return {PASS: "PASS", SKIP: "SKIP", TIMEOUT: "TIMEOUT"}.get(self.code, "FAIL")

    def line(self):
        counts = ""
        if self.ktap and self.ktap.started:
            counts = f"{self.ktap.passed} passed, {self.ktap.failed} failed, {self.ktap.skipped} skipped, "
        return f"{self.word}: {counts}{self.seconds:.0f} s" + (f": {self.reason}" if self.reason else "")

    def as_json(self):
        ktap = self.ktap
        return json.dumps({
            "code": self.code, "reason": self.reason, "seconds": round(self.seconds, 1),
            "passed": ktap.passed if ktap else 0, "failed": ktap.failed if ktap else 0,
            "skipped": ktap.skipped if ktap else 0, "failures": ktap.failures if ktap else [],
            "problems": ktap.problems if ktap else [], "log_bytes": self.log[0], "log_sha256": self.log[1],
        })


class EscapeFilter:
    """Takes escape sequences out of a stream that comes in pieces."""

    def __init__(self):
        self._held = b""

    def feed(self, data):
        data = ktap_module.ESCAPE.sub(b"", self._held + data)
        # A sequence may go on in the next piece; one that is longer than any real one is let through.
        start = data.rfind(b"\x1b", max(0, len(data) - 32))
        if start < 0:
            self._held = b""
            return data
        self._held = data[start:]
        return data[:start]


class Input:
    """
    What is typed at the monitor. A terminal stays as it is until the monitor is there, so that Ctrl-C ends the run; from then on
    every key is the machine's but Ctrl-].
    """

    def __init__(self, stream):
        self.fd = stream.fileno()
        self.pending = b""          # taken from the stream, not yet the machine's
        self.open = True
        self.last = 0.0             # when something was typed last, or its end was found
        self.quit = False
        self._modes = None

    def take_over(self):
        if os.isatty(self.fd) and self._modes is None:
            self._modes = termios.tcgetattr(self.fd)
            tty.setraw(self.fd, termios.TCSANOW)

    def give_back(self):
        if self._modes is not None:
            termios.tcsetattr(self.fd, termios.TCSADRAIN, self._modes)
            self._modes = None

    def waits(self):
        """For somebody to type: the machine has taken all there was, and it is not the end."""
        return self.open and not self.pending

    def wants_more(self):
        return self.open and len(self.pending) < INPUT_MAX

    def read(self):
        data = os.read(self.fd, INPUT_MAX)
        self.last = time.monotonic()
        self.open = bool(data)
        if self._modes is not None and QUIT in data:
            self.quit = True
        self.pending += data if data else INPUT_END

    def write(self, pipe):
        try:
            self.pending = self.pending[os.write(pipe.fileno(), self.pending[:512]):]
        except OSError:
            self.pending, self.open = b"", False    # QEMU is gone


class Run:
    """Starts QEMU and follows it to its end."""

    def __init__(self, options, out=None, err=None):
        options.check()
        self.options = options
        self.out = out              # a binary stream for the serial output, or None
        self.err = err              # a text stream for the heartbeat, or None
        self.ktap = ktap_module.Ktap()
        self.shutdown = None        # reason in QMP's SHUTDOWN event
        self.bytes = 0
        self.hash = hashlib.sha256()
        self._input = Input(options.monitor) if options.monitor else None
        self._filter = EscapeFilter()
        self._qmp_partial = b""
        self._shell_tail = b""
        self._shell_at = None
        self._end_at = None
        self._stop_reason = None    # we ended it: why
        self._stderr = b""

    # -- public -----------------------------------------------------------------------------------------

    def run(self):
        """Runs it and returns a Result. Raises Unavailable and Usage before anything was started."""
        folder = tempfile.mkdtemp(prefix="tangram-")
        began = time.monotonic()
        ours, theirs = socket.socketpair()
        process = None
        log = None
        try:
            medium = Medium(self.options, folder)
            args = command(self.options, medium, folder, theirs.fileno())
            if self.options.log:
                log = open(self.options.log, "wb")
            stdin = subprocess.PIPE if self._input else subprocess.DEVNULL
            process = subprocess.Popen(args, stdin=stdin, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, pass_fds=[theirs.fileno()])
            theirs.close()
            self._follow(process, ours, log, began)
            status = process.wait()
            self.ktap.finish()
            resets = self._read(os.path.join(folder, "reset.log"))
            code, reason = self._judge(status, resets, medium.cmdline)
            return Result(code, reason, self.ktap, time.monotonic() - began, (self.bytes, self.hash.hexdigest()))
        finally:
            if process and process.poll() is None:
                process.kill()
                process.wait()
            if self._input:
                self._input.give_back()
            for stream in (process.stdin, process.stdout, process.stderr) if process else ():
                if stream:
                    stream.close()
            ours.close()
            theirs.close()
            if log:
                log.close()
            shutil.rmtree(folder, ignore_errors=True)

    # -- while it runs ----------------------------------------------------------------------------------

    def _follow(self, process, qmp, log, began):
        try:
            qmp.sendall(b'{"execute":"qmp_capabilities"}\n')
            if not self.options.debug and not self.options.icount:      # gdb says when
                qmp.sendall(b'{"execute":"cont"}\n')
        except OSError:
            pass                    # QEMU refused its arguments and is gone
        streams = {process.stdout: "out", process.stderr: "err", qmp: "qmp"}
        heard = beat = began
        while process.stdout in streams:
            ready = self._wait(process, streams)
            now = time.monotonic()
            for stream in ready:
                data = self._receive(stream)
                if not data:
                    del streams[stream]
                elif streams[stream] == "out":
                    heard = beat = now
                    self._serial(data, log)
                elif streams[stream] == "err":
                    self._stderr = (self._stderr + data)[-8192:]
                else:
                    self._qmp(data)
            if now - beat >= HEARTBEAT and process.stdout in streams:
                beat = now
                self._heartbeat(now - began, now - heard)
            self._watch(process, now, began, heard)
        if process.stderr in streams:
            self._stderr = (self._stderr + process.stderr.read())[-8192:]
        if qmp in streams:
            self._drain_qmp(qmp)

    def _wait(self, process, streams):
        """The streams with something to read. Meanwhile what is typed goes to the machine, once its monitor is there."""
        keys = self._input if self.ktap.monitor else None
        if not keys:
            return select.select(list(streams), [], [], 0.5)[0]
        keys.take_over()
        ready, writable, _ = select.select(list(streams) + [keys.fd] * keys.wants_more(),
                                           [process.stdin] * bool(keys.pending), [], 0.5)
        if keys.fd in ready:
            ready.remove(keys.fd)
            keys.read()
        if writable:
            keys.write(process.stdin)
        return ready

    @staticmethod
    def _receive(stream):
        try:
            if isinstance(stream, socket.socket):
                return stream.recv(65536)
            return os.read(stream.fileno(), 65536)
        except OSError:
            return b""

    def _drain_qmp(self, qmp):
        qmp.settimeout(2)
        while True:
            data = self._receive(qmp)
            if not data:
                return
            self._qmp(data)

    def _serial(self, data, log):
        self.bytes += len(data)
        self.hash.update(data)
        if log:
            log.write(data)
            log.flush()
        self.ktap.feed(data)
        if self.out:
            self.out.write(data if self._input and self.ktap.monitor else self._filter.feed(data))
            self.out.flush()
        if not self.ktap.started and self._shell_at is None:
            self._shell_tail = (self._shell_tail + data)[-4096:]
            if any(sign in self._shell_tail for sign in SHELL_SIGNS):
                self._shell_at = time.monotonic()
        if self.ktap.end is not None and self._end_at is None:
            self._end_at = time.monotonic()

    def _qmp(self, data):
        self._qmp_partial += data
        *lines, self._qmp_partial = self._qmp_partial.split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if isinstance(message, dict) and message.get("event") == "SHUTDOWN":
                self.shutdown = message.get("data", {}).get("reason", "unknown")

    def _heartbeat(self, seconds, silent):
        if not self.err or (self._input and self.ktap.monitor):
            return
        where = self.ktap.where()
        self.err.write(f"run-qemu: {seconds:.0f} s, silent for {silent:.0f} s; {where}\n")
        self.err.flush()

    @property
    def _unhurried(self):
        """At the monitor, without a limit that was asked for: only silence is limited, and only while nothing more may be typed."""
        return self._input and self.ktap.monitor and self.options.timeout is None

    def _limited_since(self, began, heard):
        """From when on the time limit counts, or None."""
        if not self._unhurried:
            return began
        return None if self._input.waits() else max(heard, self._input.last)

    def _watch(self, process, now, began, heard):
        """Ends QEMU where it will not end by itself."""
        if self._stop_reason:
            return
        limit = self.options.seconds
        since = self._limited_since(began, heard)
        if None not in (limit, since) and now - since >= limit:
            self._stop(process, "timeout")
        elif self.bytes > LOG_MAX:
            self._stop(process, "flood")
        elif self._input and self.ktap.monitor:
            if self._input.quit:
                self._stop(process, "quit")
        elif self._end_at and now - self._end_at >= GRACE:
            self._stop(process, "no-exit")
        elif self._shell_at and now - self._shell_at >= SHELL_GRACE and not self.options.debug:
            self._stop(process, "shell")

    def _stop(self, process, reason):
        self._stop_reason = reason
        process.kill()

    # -- afterwards -------------------------------------------------------------------------------------

    @staticmethod
    def _read(path):
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError:
            return b""

    def _judge(self, status, resets, cmdline):
        """Exit status and reason."""
        end = dict(word.split("=", 1) for word in cmdline.split() if "=" in word).get("end", "exit")
        if self._stop_reason == "timeout" and self._unhurried:
            return TIMEOUT, f"silent at the monitor for {self.options.seconds:g} s, and nothing more to be typed"
        if self._stop_reason == "timeout":
            return TIMEOUT, f"no end within {self.options.seconds:g} s; {self.ktap.where()}"
        if self._stop_reason == "flood":
            return FAIL, f"more than {LOG_MAX >> 20} MiB on the serial port; {self.ktap.where()}"
        if self._stop_reason == "shell":
            return FAIL, "the loader went back to the firmware, or there was none to start"
        if self._stop_reason == "quit" or (self._stop_reason == "no-exit" and (end == "halt" or self.ktap.monitor)):
            return self._by_log()
        if self._stop_reason == "no-exit":
            return FAIL, f"the report is complete, but end={end} did not end the machine"
        if status < 0:
            return FAIL, f"QEMU was killed by {self._signal_name(-status)}; {self.ktap.where()}"
        if status == EXIT_PASS:
            return self._by_log()
        if status == EXIT_FAIL:
            return FAIL, self.ktap.failure() or "the kernel says fail, but no result in the log does"
        if status == 0:
            return self._after_shutdown(end, resets)
        return FAIL, f"QEMU exited with {status}: {self._qemu_says()}"

    def _after_shutdown(self, end, resets):
        if b"Triple fault" in resets:
            return FAIL, f"triple fault; {self.ktap.where()}"
        reason = self.shutdown or "unknown"
        wanted = {"reboot": ["guest-reset"], "poweroff": ["guest-shutdown"],
                  "monitor": ["guest-reset", "guest-shutdown"]}.get(end, [])
        if self.ktap.end is None:
            what = {"guest-reset": "reset itself", "guest-shutdown": "switched itself off"}.get(
                reason, f"stopped ({reason})")
            return FAIL, f"the machine {what} before the end of the report; {self.ktap.where()}"
        if reason not in wanted:
            return FAIL, f"end={end}, but QEMU saw {reason}"
        return self._by_log()

    def _by_log(self):
        problem = self.ktap.failure()
        if problem:
            return FAIL, problem
        if self.ktap.verdict == "skip" and self.ktap.monitor:
            return PASS, "no test ran before the monitor"
        if self.ktap.verdict == "skip":
            return SKIP, "every test was skipped"
        if self.ktap.verdict != "pass":
            return FAIL, f"the log says {self.ktap.verdict}"
        return PASS, ""

    @staticmethod
    def _signal_name(number):
        try:
            return signal.Signals(number).name
        except ValueError:
            return f"signal {number}"

    def _qemu_says(self):
        text = self._stderr.decode("utf-8", "replace").strip()
        return text.splitlines()[-1] if text else "it said nothing"


def terminate_on_signals():
    """SIGTERM, SIGHUP: leave through `finally`, so that QEMU and the copies go, too."""
    def leave(number, _frame):
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
