"""A page that prints what is typed and what comes back: typed again, from top to bottom, in a lab.

A prompt names the machine: `$ ` is the one that the page is about, `client$ ` the host "client" of the lab.
A recorder runs on while the next lines are typed, up to the line `^C`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import documents
from real_hosts.counters import Counters
from recorder import until

import iptrec

_LEFT_OUT = "..."
_NORMAL = (  # what is another one each time, or on each kernel, and what stands for it
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "TIME"),
    (r"\b\d\d:\d\d:\d\d(\.\d+)?", "TIME"),
    (r"^(--|#) \d{4}-\d\d-\d\d UTC\S*", "DAY"),
    (r"(?<=[\d\]][:.])(3[2-9]\d{3}|[45]\d{4}|6\d{4})\b", "PORT"),
    (r"\b(SPT|ID|SEQ|ACK|UID|PID|WINDOW|ICMPID)=\d+", r"\1=N"),
    (r"\bDPT=(3[2-9]\d{3}|[45]\d{4}|6\d{4})\b", "DPT=N"),
    (r"\b(after|asked) \d+ (ms|milliseconds)", r"\1 N ms"),
    (r"\b[\d,]+ (events?|packets?|bytes)\b", r"N \1"),
    (r"\(pid \d+\)", "(pid N)"),
    (r"\+0x[0-9a-f]+\)", ")"),
    (r"^curl: \((\d+)\).*", r"curl: (\1)"),
    (r"^ok( +kernel: Linux) .*", r"ok\1"),
    (r"\s+", " "),
    # nf_tables tells connection tracking, from Linux 6.16 on, and never what an error of ICMP quotes.
    (r"(no,|no:) --(ct)?state [A-Z, ]+ \(it is NEW\)", "CT"),
    (r"did not match \(depends on connection tracking[^)]*\)", "CT"),
    (r" \[tcp [^]]+\]", ""),
)
_BACKEND = (  # which tables are there, with policies, is different with the other backend
    (r".*(DEFAULT POLICY|: policy) => ACCEPT$", ""),
    (r"(ACCEPT.*) by \S+ policy$", r"\1 by a policy"),
)


@dataclass
class Command:
    """A line that is typed; ``host``: whose prompt it is, "" of the page's own machine; and what it prints."""

    host: str
    text: str
    line: int
    expected: list[str] = field(default_factory=list)


def read(page, heading=None):
    """The commands below a heading, or of a page that has one session, in their order; "^C" is one, too.

    A file that the page shows (```toml NAME) is a command whose text is its name.
    """
    found, fence, within = [], None, heading is None
    for number, line in enumerate(page.read_text().splitlines()):
        if line.startswith("#") and fence is None:
            within = heading is None or line == f"## {heading}"
        elif line.startswith("```"):
            fence = None if fence else line
            if within and fence and fence.startswith("```toml "):
                found.append(Command("", fence.split()[1], number))
        elif within and fence == "```console" and (typed := documents.PROMPT.match(line)):
            found.append(Command(typed[1], line[typed.end() :], number))
        elif within and fence == "```console" and line == "^C":
            found.append(Command("", line, number))
        elif within and fence and fence != "```":
            found[-1].expected.append(line)
    return found


def normal(lines, *, other=False):
    """Lines without what is another one each time; ``other``: with the backend that the page does not print."""
    for line in lines:
        for pattern, instead in (*_NORMAL, *(_BACKEND if other else ())):
            line = re.sub(pattern, instead, line)  # noqa: PLW2901
        if line.strip():
            yield line.strip()


def differences(expected, printed, *, other=False):
    """The lines of a page that were not printed in that order; none must be between, but for "..."."""
    rest = [*normal(printed, other=other)]
    skipping = False
    for line in normal(expected, other=other):
        if line == _LEFT_OUT:
            skipping = True
        elif line in (rest if skipping else rest[:1]):
            del rest[: rest.index(line) + 1]
            skipping = False
        else:
            return f"not printed here: {line}"
    return None if skipping or not rest else f"not in the page: {rest[0]}"


class Session:
    """Types a page. ``elsewhere``: what a command does that asks a program which is not there.

    ``backend``: whose iptables "iptables" is. What was printed is in ``printed``, by the number of the line;
    ``counted``: how many packets of the recordings a rule dropped, as often as the kernel's counter says.
    """

    def __init__(self, lab, directory, backend, elsewhere):
        self._lab, self._directory, self._elsewhere = lab, directory, elsewhere
        self._backend = backend
        tools = directory / "bin"
        self._environment = {**os.environ, "PATH": documents.tools(tools), "COLUMNS": "112"}
        for name in ("iptables", "iptables-save", "iptables-restore", "ip6tables"):
            (tools / name).symlink_to(f"/usr/sbin/xtables-{backend}-multi")
        self._recorder = None
        self._behind = []
        self.printed = {}
        self.counted = 0

    def type(self, command):
        """Type a line. A recorder that goes on has printed that it records; in the background nothing is."""
        self.printed[command.line] = self._typed(command).splitlines()

    def _typed(self, command):
        instead = [self._elsewhere[one] for one in self._elsewhere if command.text.startswith(one)]
        if instead:
            return instead[0]() or ""
        if command.text == "^C":
            self._recorder[0].send_signal(signal.SIGINT)
            return self._end()
        if re.fullmatch(r"\S+\.toml", command.text):
            (self._directory / command.text).write_text("\n".join([*command.expected, ""]))
            return "\n".join(command.expected)
        if command.text == "kill %1":
            self._behind.pop(0).terminate()
            return ""
        if recorded := re.search(r"iptrec record .*-o (\S+)( --)?", command.text):
            return self._records(command, *recorded.groups())
        child = self._started(command)
        if command.text.endswith("&"):
            self._behind.append(child)
            return ""
        return _ended(child)

    def _records(self, command, name, runs_a_command):
        counters = Counters(self._lab, self._backend)
        before = counters.read()
        child = self._started(command)
        self._recorder = child, lambda: self._compare(name, before, counters.read())
        if runs_a_command:  # which may be faster than the recorder says that it records
            lines = self._end().splitlines(keepends=True)
            return "".join(sorted(lines, key=lambda one: not one.startswith("recording to")))
        said = ""
        while "recording to" not in said:
            said += until(child.stdout.readline, said)
        return said

    def _end(self):
        child, compare = self._recorder
        printed = _ended(child)
        compare()
        return printed

    def _compare(self, name, before, after):
        """Each rule that dropped packets did so as often as the kernel counted, where it counts."""
        with iptrec.open(self._directory / name) as recording:
            dropped = Counter(
                (one.family, at.table, at.chain, at.rule)
                for one in recording.packets(verdict=["DROP", "REJECT"])
                if (at := one.decided_by) is not None
            )
        for place, packets in dropped.items():
            if after.get(place) is not None:
                assert (place, packets) == (place, after[place] - before[place])
                self.counted += packets

    def _started(self, command):
        text = command.text.removesuffix("&").rstrip()
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        if text == command.text:
            pipes |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return self._lab.popen(
            ["env", "-C", str(self._directory), "bash", "-c", f"exec {text}" if _is_simple(text) else text],
            command.host or None, env=self._environment, text=True, **pipes,
        )  # fmt: skip


def _ended(child):
    printed, _ = child.communicate(timeout=60)
    assert "Traceback" not in printed
    return printed


def _is_simple(text):
    """Whether the process can be the command itself, which gets the signals then."""
    return not re.search(r"[|;<>&]", text)


def update(page, commands, printed):
    """Write into a page what its commands print now, if it differs, and where the page leaves nothing out."""
    lines = page.read_text().splitlines()
    for command in reversed(commands):
        now = printed.get(command.line)
        if now is None or _LEFT_OUT in command.expected:
            continue
        if differences(command.expected, now) is not None:
            end = command.line + 1 + len(command.expected)
            lines[command.line + 1 : end] = [
                one.rstrip() for one in _readable(printed[command.line])
            ]
    Path(page).write_text("\n".join(lines) + "\n")


def _readable(lines):
    return [one.replace("-->\t", "--> ").replace("\t", "    ") for one in lines]
