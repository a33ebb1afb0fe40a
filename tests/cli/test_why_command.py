"""`iptrec why`: as much as fits on the screen, all of it, or a block for an issue."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import iptrec
from handmade import HandMade, udp, written
from kube_proxy import SERVICES, address, rules

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "samples").glob("*.db"))
HAIRPIN = str(ROOT / "samples" / "docker_hairpin.db")
MET = 2260  # the service that the packet is for, from 0


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A recording of one packet, which met them."""
    packet = udp(src="10.244.0.9", dst=address(96, MET))
    translated = udp(src="10.244.0.9", dst=address(244, MET))
    made = HandMade().ruleset(f"*raw\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n{rules()}").events([
        ("raw:PREROUTING:policy:1", packet, {"indev": 2}),
        ("nat:PREROUTING:rule:1", packet, {}),
        (f"nat:KUBE-SERVICES:rule:{MET + 1}", packet, {}),
        (f"nat:SVC{MET}:rule:2", packet, {}),
        (f"nat:SEP{MET}:rule:2", packet, {}),
        (f"filter:FORWARD:policy:{SERVICES + 1}", translated, {"outdev": 3}),
    ])  # fmt: skip
    return str(written(tmp_path_factory.mktemp("many") / "t.db", made))


def test_18000_rules_in_a_screenful(many):
    """The packet of the issue: each of thousands of rules is in exactly one line."""
    assert rules().count("\n-A ") > 18_000
    done = iptrec("why", many)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) < 200
    assert f"    #1-#{MET} no, -d (it is {address(96, MET)})" in lines
    assert any(line.startswith(f"    #{MET + 1} ") and "svc2260" in line for line in lines)
    assert f"10.244.{MET // 250}.{MET % 250 + 1}:53" in done.stdout
    half = f"{SERVICES // 2:,} of"
    sources = f"{half} #1-#{SERVICES - 1} no, -s (it is 10.244.0.9)"
    targets = f"{half} #2-#{SERVICES} no, -d (it is {address(244, MET)})"
    assert lines[-2:] == [f"    #1-#{SERVICES} {sources}; {targets}", "--> policy => DROP"]


def test_all_of_18000_rules(many):
    """--all folds none of those that were evaluated."""
    lines = iptrec("why", "--all", many).stdout.splitlines()
    assert sum("  <- no: " in line for line in lines) == MET + 1 + 1 + SERVICES


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_folded_is_shorter(sample):
    """Of every sample, packet for packet, and it begins as `show` does."""
    folded, whole = (iptrec("why", sample, *more).stdout for more in ([], ["--all"]))
    titles = [line for line in iptrec("show", sample).stdout.splitlines() if line.startswith("#")]
    for short, long, title in zip(folded.split("\n\n"), whole.split("\n\n"), titles, strict=True):
        first, *lines = [line for line in short.splitlines() if not line.startswith("-- ")]
        assert first == title
        assert title in long
        assert len(lines) < long.count("\n") + 1
        assert len(lines) <= 22


def test_markdown():
    """The same lines in a fence, then where it comes from."""
    shown = iptrec("why", HAIRPIN, "--markdown").stdout
    assert shown.startswith("### Packet 1: `DROP`\n\n```text\n-- 2026-11-23 UTC+01:00 --\n#1 ")
    assert f"```text\n{iptrec('why', HAIRPIN).stdout}```\n\n- iptrec: `" in shown
    assert "- events lost: none\n- recording: `docker_hairpin.db`; " in shown
    whole = iptrec("why", HAIRPIN, "--markdown", "--all").stdout
    assert f"```text\n{iptrec('why', HAIRPIN, '--all').stdout}```\n" in whole


def test_markdown_of_several_packets():
    """A section each, and once where they come from; no colours."""
    sample = ROOT / "samples" / "loopback.db"
    shown = iptrec("why", sample, "--markdown", "--verdict", "DROP", "--color", "always").stdout
    assert shown.count("### Packet ") == shown.count("```text") == 2
    assert shown.count("- recording: ") == 1
    assert "\x1b" not in shown


def test_two_formats():
    """One line that says so."""
    done = iptrec("why", HAIRPIN, "--markdown", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "iptrec: --markdown and --json are two formats; choose one\n"


def test_nothing_to_explain():
    """--markdown makes no block of nothing."""
    done = iptrec("why", HAIRPIN, "--markdown", "--verdict", "ACCEPT")
    assert (done.returncode, done.stdout) == (1, "")


def test_json_has_all():
    """Folding is for people."""
    (line,) = iptrec("why", HAIRPIN, "--json").stdout.splitlines()
    steps = json.loads(line)["packet"]["steps"]
    assert [len(one["passed"]) for one in steps][-3:] == [0, 1, 0]


def test_utc():
    """Times and dates as those of `show`."""
    assert iptrec("why", HAIRPIN, "--utc").stdout.startswith(
        "-- 2026-11-23 UTC --\n#1 15:03:04.886"
    )
