"""A log of this kernel, of all kinds of packets, in the views and against the kernel's counters."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from command import iptrec
from validation import validator

DATA = Path(__file__).parents[1] / "data" / "pasted"
CHANGED_S = 1796083200  # 2026-12-01
VIEWS = {
    "txt": ["show"],
    "brief.txt": ["show", "--brief"],
    "why.txt": ["why"],
    "jsonl": ["show", "--json"],
}
LINES = [one.partition("TRACE: ") for one in (DATA / "kern.log").read_text().splitlines()]


@pytest.fixture(autouse=True)
def _utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def imported(tmp_path):
    """Import a text with the sample's rules; the recording."""

    def run(text, *options):
        (tmp_path / "log").write_bytes(text if isinstance(text, bytes) else text.encode())
        os.utime(tmp_path / "log", (CHANGED_S, CHANGED_S))
        done = iptrec(
            "import", tmp_path / "log", "-o", tmp_path / "t.db", "--force", *options,
            *(word for one in ("v4", "v6") for word in ("--ruleset", DATA / f"{one}.rules")),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return tmp_path / "t.db"

    return run


def packets(path, *, times=False):
    """As show --json has them."""
    found = [json.loads(one) for one in iptrec("show", "--json", path).stdout.splitlines()]
    return found if times else [without_times(one) for one in found]


def without_times(one):
    kept = {name: value for name, value in one.items() if name not in ("time", "time_ns")}
    return kept | {"steps": [{**step, "time_ns": 0} for step in one["steps"]]}


@pytest.mark.parametrize("view", VIEWS)
def test_sample_is_shown_as_before(imported, view, request):
    """A changed output is either a mistake or a decision: make golden, then read the diff."""
    path = imported((DATA / "kern.log").read_bytes())
    done = iptrec(*VIEWS[view], path)
    golden = DATA / f"kern.{view}"
    if request.config.getoption("--update-golden"):
        golden.write_text(done.stdout)
    assert golden.read_text() == done.stdout
    assert "packets are rebuilt from lines of the kernel's log" in done.stderr
    if view == "jsonl":
        for line in done.stdout.splitlines():
            validator("show").validate(json.loads(line))
            assert "csum" not in line


def test_rules_are_hit_as_often_as_the_kernel_counted(imported):
    """Also the bytes of the packets: IPv4's, whose counters were saved."""
    path = imported((DATA / "kern.log").read_bytes())
    found = Counter()
    for one in packets(path):
        for step in one["steps"]:
            if one["family"] == "ipv4" and step["rule"]:
                found[step["chain"], step["spec"]] += one["header"]["length"]
    counted = {
        (chain, spec): int(size)
        for size, chain, spec in re.findall(
            r"^\[\d+:(\d+)\] -A (\S+) (.*)$", (DATA / "v4.counted").read_text(), re.MULTILINE
        )
        if spec != "-j TRACE" and size != "0"
    }
    assert found == counted


def test_info_tells_where_it_comes_from(imported):
    """What is not known, and how exact the times are."""
    text = " ".join(iptrec("info", imported((DATA / "kern.log").read_bytes())).stdout.split())
    assert "whether events are missing is not known (the kernel's buffer" in text
    assert "source: lines of the kernel's log; packets are rebuilt" in text
    assert "snaplen: the headers of each packet, as the text tells them" in text
    assert "times: as the text tells them, to 1 second; their zone is not told" in text
    assert "started: 2026-11-30T05:44:29" in text
    assert "namespace: not known" in text


def test_info_tells_it_to_machines(imported):
    """As the stream has it."""
    found = json.loads(iptrec("info", "--json", imported((DATA / "kern.log").read_bytes())).stdout)
    validator("info").validate(found)
    (stream,) = found["streams"]
    assert stream["detail"] == {
        "group": 0, "sequence": False, "source": "kernel-log", "rebuilt": True,
        "untold": ["csum", "ext", "ecn"],
        "times": {"kind": "time-of-day", "exact_ns": 10**9, "zone": False, "year": False},
    }  # fmt: skip


@pytest.mark.parametrize("tool", ["pcapng", "issue", "redact"])
def test_others_tell_it_too(imported, tmp_path, tool):
    """The comment of a capture, the text of a bug report, a redacted recording."""
    path = imported((DATA / "kern.log").read_bytes())
    if tool == "pcapng":
        iptrec("export", "pcapng", path, "-o", tmp_path / "c.pcapng")
        text = (tmp_path / "c.pcapng").read_bytes().decode("utf-8", "replace")
        assert "no event was lost" not in text
    elif tool == "issue":
        iptrec("pack", path, "-o", tmp_path / "p.zip")
        shutil.unpack_archive(tmp_path / "p.zip", tmp_path / "p")
        text = next((tmp_path / "p").rglob("why.md")).read_text()
    else:
        iptrec("redact", path, "-o", tmp_path / "r.db")
        text = iptrec("info", tmp_path / "r.db").stdout
    assert "lines of the kernel's log" in text
    assert "whether events are missing is not known" in text


WAYS = {
    "bare": lambda _, line: line,
    "dmesg": lambda n, line: f"[{100 + n / 1e6:12.6f}] {line}",
    "dmesg -T": lambda n, line: f"[Mon Nov 30 10:{n // 60:02}:{n % 60:02} 2026] {line}",
    "dmesg -x": lambda n, line: f"kern  :warn  : [{100 + n / 1e6:12.6f}] {line}",
    "kmsg": lambda n, line: f"4,{n},{n * 1000},-;{line}\n SUBSYSTEM=net",
    "journal": lambda n, line: f"Nov 30 10:00:{n // 60:02} host kernel: {line}",
    "iso": lambda n, line: f"2026-11-30T10:00:00.{n:06}+01:00 host kernel: {line}",
    "syslog": lambda n, line: f"<4>1 2026-11-30T10:00:00.{n:06}Z host kernel - - - {line}",
    "json": lambda n, line: json.dumps(
        {"__REALTIME_TIMESTAMP": str(10**15 + n), "MESSAGE": line, "_TRANSPORT": "kernel"}
    ),
    "bytes": lambda n, line: json.dumps(
        {"MESSAGE": [*line.encode()], "__REALTIME_TIMESTAMP": str(10**15 + n)}
    ),
    "crlf": lambda n, line: f"[{100 + n / 1e6:12.6f}] {line}\r",
    "quoted": lambda n, line: f"> > [{100 + n / 1e6:12.6f}] {line}",
    "between": lambda n, line: f"[{n}.0] other\n[{n}.0] {line}\n[{n}.0] SRC=1.2.3.4 other",
    "LOG": lambda n, line: f"[{n}.0] {line}\n[{n}.1] dropped: {line.partition(' ')[2]}",
    "blanks": lambda n, line: f"[{n}.0]  {line.replace(' ', '  ').replace('TRACE:  ', 'TRACE: ')}",
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_paste_it(imported, way):
    """Whatever stands before and between the lines, the packets are the same."""
    expected = packets(imported("\n".join("".join(one[1:]) for one in LINES)))
    text = "\n".join(WAYS[way](n, "".join(one[1:])) for n, one in enumerate(LINES))
    assert len(expected) > 50
    assert packets(imported(text)) == expected


@pytest.mark.parametrize("width", [72, 80, 132])
def test_lines_that_a_mail_wrapped(imported, width):
    """Between words, as mailers do; quoted."""
    import textwrap

    expected = packets(imported("\n".join("".join(one[1:]) for one in LINES)))
    wrapped = [
        f"> {piece}"
        for one in LINES
        for piece in textwrap.wrap(
            "".join(one[1:]), width, break_long_words=False, break_on_hyphens=False
        )
    ]
    assert packets(imported("\n".join(wrapped))) == expected


def fates(path):
    """By what a packet is told from others: whether it is complete, its verdict and its decider."""
    return {
        (tuple(sorted((key, str(value)) for key, value in one["header"].items())), one["in"], one["out"]):
        (one["complete"], one["verdict"], str(one["decided_by"]))
        for one in packets(path)
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_lost_lines_make_no_other_verdict(imported, seed):
    """Whatever lines are missing: a packet that is told as complete has the fate that it had."""
    lines = ["".join(one[1:]) for one in LINES]
    before = fates(imported("\n".join(lines)))
    chance = random.Random(seed)  # noqa: S311 - no secret
    kept = [one for one in lines if chance.random() > 0.15]
    after = fates(imported("\n".join(kept)))
    complete = {one: fate for one, fate in after.items() if fate[0] and fate[1] != "UNKNOWN"}
    assert {one: fate for one, fate in complete.items() if fate != before.get(one)} == {}
    assert 0 < len(complete) < len(before)


def test_the_newest_line_first(imported, tmp_path):
    """As journalctl -r prints it: that is said, and no packet has another fate."""
    lines = [WAYS["dmesg"](n, "".join(one[1:])) for n, one in enumerate(LINES)]
    before = fates(imported("\n".join(lines)))
    (tmp_path / "log").write_text("\n".join(reversed(lines)))
    done = iptrec(
        "import", tmp_path / "log", "-o", tmp_path / "r.db", "--ruleset", DATA / "v4.rules"
    )
    assert "lines have times before that of the previous line (journalctl -r?)" in done.stderr
    complete = {
        one: fate
        for one, fate in fates(tmp_path / "r.db").items()
        if fate[0] and fate[1] != "UNKNOWN"
    }
    assert {one: fate for one, fate in complete.items() if fate != before.get(one)} == {}
