"""`iptrec check`: expectations of a recording."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from command import iptrec
from handmade import HandMade, udp, written
from validation import validator

ROOT = Path(__file__).parents[2]
LOOPBACK = str(ROOT / "samples" / "loopback.db")
FILE = """\
[[expect]]
name = "pings are answered"
filter = "icmp[icmptype] == icmp-echoreply"
verdict = "ACCEPT"
chain = "filter/a:b:rule:1"
count = 1

[[expect]]
name = "discard is dropped"
filter = "udp dst port 9"
verdict = "DROP"
"""


def check(*arguments):
    return iptrec("check", *arguments)


@pytest.fixture
def expect(tmp_path):
    """Runs check with a file of expectations."""

    def run(text, *options):
        path = tmp_path / "expect.toml"
        path.write_text(text)
        return check(LOOPBACK, str(path), *options)

    return run


def test_example_of_the_help(expect):
    """As it is printed it is a file that check takes, in lines that fit a terminal."""
    lines = iptrec("check", "--help").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    first = next(at for at, line in enumerate(lines) if line.strip() == "[[expect]]")
    example = "\n".join(lines[first : lines.index("", first)])
    validator("expectations").validate(tomllib.loads(example))
    done = expect(example)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("FAIL DNS is answered: ")


def test_what_the_kernel_discarded(tmp_path):
    """With its word for the reason, as text, as JSON and for CI."""
    event = {"indev": 2, "stamp_ns": 10**12}
    made = HandMade().ruleset("*raw\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n")
    made.events([("raw:PREROUTING:policy:1", udp(ident=1), event)], start_ns=10**12 + 1, step_ns=0)
    made.drops([(10**12 + 2000, 2, udp(ident=1), {})])
    recording, file, junit = (tmp_path / name for name in ("t.db", "e.toml", "junit.xml"))
    written(recording, made)
    file.write_text('[[expect]]\nname = "it arrives"\nverdict = "ACCEPT"\n')
    done = check(recording, file, "--utc", "--junit", junit)
    fails = "packet #1 is DISCARDED by the kernel (NOT_SPECIFIED), expected ACCEPT"
    packet = "DISCARDED udp 10.0.0.1:1000 > 10.0.0.2:53 in if2 by the kernel (NOT_SPECIFIED)"
    first, second = done.stdout.splitlines()
    assert (done.returncode, first) == (1, f"FAIL it arrives: {fails}")
    assert second.endswith(packet)
    failure = ET.parse(junit).find(".//failure")  # noqa: S314 - our own
    assert failure.get("message").startswith(fails)
    assert failure.text.endswith(packet)
    assert json.loads(check(recording, file, "--json").stdout)["failure"] == fails


def test_one_line_for_each(expect):
    """What does not hold names the packet, who decided, and what was expected; exit status 1."""
    done = expect(
        FILE.replace(
            '"icmp[icmptype] == icmp-echoreply"',
            '"icmp[icmptype] == icmp-echoreply and dst host 127.0.0.1"',
        )
    )
    validator("expectations").validate(tomllib.loads(FILE))
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert [line[:4] for line in lines] == ["FAIL", "    "] * 2
    assert lines[0] == "FAIL pings are answered: packet #3 does not pass filter/a:b:rule:1"
    assert lines[2] == (
        "FAIL discard is dropped: packet #9 is ACCEPT by filter/OUTPUT policy, expected DROP"
    )
    assert lines[3].startswith("     #9 2026-11-23T")
    assert lines[3].endswith(" out lo by filter/OUTPUT policy")
    assert " ACCEPT udp 127.0.0.1:" in lines[3]


HOLDS = {
    "verdict": 'filter = "udp dst port 9"\niface = "lo"\nmin = 2',
    "count": 'filter = "icmp6"\ncount = 4',
    "max": 'filter = "icmp6"\nmax = 4',
    "none": 'filter = "tcp"\ncount = 0',
    "rule": 'filter = "udp dst port 9"\nmark = "0"\nsince = "0s"\nuntil = "1h"\nmin = 1',
}


@pytest.mark.parametrize("case", HOLDS)
def test_what_holds(expect, case):
    """Exit status 0."""
    done = expect(f"[[expect]]\n{HOLDS[case]}\n")
    assert (done.returncode, done.stdout[:5]) == (0, "ok   "), done
    assert "expectation at line 1" in done.stdout


FAILS = {
    "count": ('filter = "icmp6"\ncount = 3', "4 packets, expected at most 3"),
    "min": ('filter = "tcp"', "0 packets, expected at least 1"),
    "rule": (
        'filter = "icmp"\nrule = "filter/INPUT/9"',
        "packet #1 is not matched by filter/INPUT/9",
    ),
}


@pytest.mark.parametrize("case", FAILS)
def test_what_fails(expect, case):
    """Exit status 1, and why."""
    text, message = FAILS[case]
    done = expect(f"[[expect]]\n{text}\n")
    assert (done.returncode, message in done.stdout) == (1, True), done


@pytest.mark.parametrize("many", ["count", "max"])
def test_too_many_names_the_first_beyond(expect, tmp_path, many):
    """As many as may be comply, and the one after them does not: in all three forms."""
    junit = tmp_path / "junit.xml"
    for most in range(4):
        text = f"[[expect]]\nname = 'few'\nfilter = 'icmp6'\n{many} = {most}\n"
        text += "min = 0\n" if many == "max" else ""
        done = expect(text, "--junit", str(junit))
        first, second = done.stdout.splitlines()
        assert (done.returncode, first) == (
            1,
            f"FAIL few: 4 packets, expected at most {most}: packet #{5 + most} is the first too many",
        )
        assert second.startswith(f"     #{5 + most} 2026-11-23T")
        assert " icmpv6 ::1 > ::1 " in second
        assert " by raw/OUTPUT policy" in second or most % 2
        failure = ET.parse(junit).find("testcase/failure")  # noqa: S314 - ours
        assert failure.get("message").startswith(
            f"{first.removeprefix('FAIL few: ')} (icmpv6 ::1 > ::1"
        )
        assert failure.text.startswith(f"#{5 + most} ")
        told = json.loads(expect(text, "--json").stdout)
        validator("check").validate(told)
        assert told["packet"] == 5 + most


def test_machine_output(expect, tmp_path):
    """JSON lines as their schema says, and JUnit XML."""
    junit = tmp_path / "junit.xml"
    done = expect(FILE, "--json", "--junit", str(junit))
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for one in found:
        validator("check").validate(one)
    assert [(one["line"], one["ok"]) for one in found] == [(1, False), (8, False)]
    suite = ET.parse(junit).getroot()  # noqa: S314 - ours
    assert (suite.get("tests"), suite.get("failures")) == ("2", "2")
    assert [case.get("name") for case in suite] == ["pings are answered", "discard is dropped"]


def test_junit_has_what_a_ci_shows(expect, tmp_path):
    """What each took, how many packets it was about, and of one that fails addresses, ports and the rule."""
    junit = tmp_path / "junit.xml"
    text = FILE + '\n[[expect]]\nname = "none"\nfilter = "udp dst port 9"\nverdict = "ACCEPT"\n'
    assert expect(text, "--junit", str(junit)).returncode == 1
    suite = ET.parse(junit).getroot()  # noqa: S314 - ours
    assert float(suite.get("time")) >= sum(float(case.get("time")) for case in suite) > 0
    assert all(case.findtext("system-out").endswith(" packets") for case in suite)
    _, accepted, dropped = (case.find("failure") for case in suite)
    assert accepted.get("message").startswith(
        "packet #9 is ACCEPT by filter/OUTPUT policy, expected DROP (udp 127.0.0.1:"
    )
    assert re.fullmatch(
        r"#9 2026-11-23T\S+Z ACCEPT udp 127.0.0.1:\d+ > 127.0.0.1:9 out lo by filter/OUTPUT policy",
        accepted.text,
    )
    assert dropped.text.endswith(" in lo by filter/BYE rule 1: -j DROP")
    listed = [json.loads(line) for line in expect(text, "--json").stdout.splitlines()]
    assert [one["packet"] for one in listed] == [3, 9, 10]


BAD = {
    "no_toml": ("[[expect", "is not TOML: Expected"),
    "other": ("[other]\n", "expectations are tables [[expect]]"),
    "key": ("\n[[expect]]\nfliter = 'icmp'\n", ":2: 'fliter': must be one of name, filter"),
    "kind": ("[[expect]]\ncount = '3'\n", ":1: count must be a number"),
    "filter": ("[[expect]]\nfilter = '(tcp'\n", ":1: filter"),
    "verdict": ("[[expect]]\nverdict = 'MAYBE'\n", ":1: --verdict 'MAYBE': must be one of"),
    "exact": ("[[expect]]\ncount = 1\nmin = 1\n", ":1: count is exact"),
    "long filter": (f"[[expect]]\nfilter = '{'tcp and ' * 300}tcp'\n", ":1: filter"),
    "longest line": (f"\n[[expect]]\n{'a.' * 3000}a = 1\n", ":3: the line has more than 4,096"),
    "many": ("[[expect]]\n" * 1001, "1,001 expectations, 1,000 is the most"),
    "large": ("#\n" * 140_000, "is larger than 256 kB"),
    "deep": ("a = [" + "[\n" * 100_000, "a value is nested too deeply"),
}


@pytest.mark.parametrize("case", BAD)
def test_trouble_names_the_line(expect, case):
    """One line, exit status 2."""
    text, message = BAD[case]
    done = expect(text)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


def test_missing_file():
    """Named."""
    done = check(LOOPBACK, "/nope.toml")
    assert (done.returncode, done.stderr) == (
        2,
        "iptrec: cannot open /nope.toml: No such file or directory\n",
    )


def test_what_is_no_file(tmp_path):
    """A pipe that nobody writes to is not waited for."""
    path = tmp_path / "expect.toml"
    os.mkfifo(path)
    done = check(LOOPBACK, str(path))
    assert (done.returncode, done.stderr) == (
        2,
        f"iptrec: cannot open {path}: it is not a regular file\n",
    )


def test_the_recording_is_read_once(tmp_path, monkeypatch, capsys):
    """However many expectations there are; the results are in their order."""
    from iptrec.cli import app
    from iptrec.recording.reader import Reader

    asked = []
    chunks = Reader.chunks
    monkeypatch.setattr(
        Reader, "chunks", lambda *words, **more: asked.append(words) or chunks(*words, **more)
    )
    path = tmp_path / "expect.toml"
    path.write_text("[[expect]]\n")
    app(["check", LOOPBACK, str(path)], standalone_mode=False)
    once = len(asked)
    path.write_text("".join(f"[[expect]]\nname = '{number}'\n" for number in range(1000)))
    capsys.readouterr()
    app(["check", LOOPBACK, str(path)], standalone_mode=False)
    assert len(asked) == 2 * once
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1].rstrip(":") for line in lines] == [
        str(number) for number in range(1000)
    ]
