"""`iptrec diff --traces` from the command line."""

from __future__ import annotations

import json

import pytest
from command import iptrec
from handmade import written
from handmade_filter import cut, packet, recording, rules
from validation import fits

ACCEPT, DROP = "-p udp -m udp --dport 53 -j ACCEPT", "-p udp -m udp --dport 53 -j DROP"


@pytest.fixture
def files(tmp_path):
    """Two recordings: a rule that accepted drops, behind a new one; two flows fare alike."""
    first, other = packet("INPUT:rule:1"), packet("INPUT:policy:2", dport=54)
    before = recording(rules(ACCEPT), first, first, first, other, cut())
    now = recording(
        rules("-s 9.9.9.9/32 -j ACCEPT", DROP),
        packet("INPUT:rule:2", sport=1001),
        packet("INPUT:policy:3", dport=54),
        packet("INPUT:policy:3", dport=55),
        cut(dport=55),
    )
    return [
        written(tmp_path / f"{name}.db", one) for name, one in (("before", before), ("now", now))
    ]


def diff(*arguments):
    return iptrec("diff", "--traces", "--utc", *arguments)


def test_what_is_told(files):
    """Flows whose fate changed, new paths, those that vanished, and what was not compared."""
    done = diff(*files)
    assert (done.returncode, done.stderr) == (1, "")
    assert (
        done.stdout
        == f"""\
1 flow whose fate changed:
--> udp 10.0.0.1 > 10.0.0.2:53: ACCEPT before, DROP now, by filter/INPUT rule 2: {DROP}
        before: 3 packets, first #1: ACCEPT by filter/INPUT rule 1: {ACCEPT}
        before: 1 packet not seen whole
        now: 1 packet, first #1
1 new path, only in {files[1]}:
--> path 1: ipv4 DROP by filter/INPUT rule 2: {DROP}
        1 packet, 29 bytes, 1970-01-01T00:00:00.000Z
        first #1: udp 10.0.0.1:1001 > 10.0.0.2:53 in if2
        raw/PREROUTING policy > filter/INPUT #2
1 vanished path, only in {files[0]}:
    path 1: ipv4 ACCEPT by filter/INPUT rule 1: {ACCEPT}
        3 packets, 87 bytes, 1970-01-01T00:00:00.000Z
        first #1: udp 10.0.0.1:1000 > 10.0.0.2:53 in if2
        raw/PREROUTING policy > filter/INPUT #1
1 flow changed, 1 new path, 1 vanished path; 1 flow fared alike, 1 flow only now
not compared: 1 packet before, 1 packet now (not seen whole, or rules whose texts are not known)
"""
    )


def test_nothing_differs(files):
    """Exit status 0, one line but for what was not compared."""
    done = diff(files[0], files[0])
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "nothing differs; 2 flows fared alike"


def test_nothing_was_seen_whole(tmp_path):
    """What nobody knows is not said to be the same."""
    path = written(tmp_path / "t.db", recording(rules(ACCEPT), cut()))
    done = diff(path, path)
    assert done.returncode == 0
    assert "nothing is known to differ; 0 flows fared alike" in done.stdout.splitlines()


def test_json(files):
    """One object a line, as schemas/ says, the last one sums up."""
    done = diff("--json", *files)
    found = [fits("diff-traces", line) for line in done.stdout.splitlines()]
    assert [one["differs"] for one in found] == ["flow", "path", "path", "summary"]
    flow, new, vanished, summary = found
    assert (flow["change"], flow["flow"]["dport"], flow["flow"]["sport"]) == ("changed", 53, None)
    assert (flow["before"]["verdicts"], flow["before"]["unsure"]) == ({"ACCEPT": 3}, 1)
    assert flow["now"]["ended"][0]["spec"] == DROP
    assert (new["only_in"], vanished["only_in"]) == ("now", "before")
    paths = map(json.loads, iptrec("paths", "--json", files[1]).stdout.splitlines())
    told = next(one for one in paths if one["path"] == new["path"])
    assert told == {name: one for name, one in new.items() if name in told} | {"format": 1}
    assert (summary["flows"], summary["now"]["flows_only"]) == (
        {"changed": 1, "perhaps": 0, "unknown": 0, "same": 1}, 1,
    )  # fmt: skip


@pytest.fixture
def many(tmp_path):
    """Thirty flows, each by a rule of its own: accepted before, dropped now."""
    files = []
    for verdict in ("ACCEPT", "DROP"):
        lines = [f"-p udp -m udp --dport {port} -j {verdict}" for port in range(1, 31)]
        packets = [
            packet(f"INPUT:rule:{port}", dport=port, sport=40000)
            for port in range(1, 31)
            for _ in range(port)
        ]
        files.append(written(tmp_path / f"{verdict}.db", recording(rules(*lines), *packets)))
    return files


@pytest.mark.parametrize(
    ("options", "shown"), [([], 20), (["--limit", "2"], 2), (["--limit", "40"], 30)]
)
def test_as_many_as_one_can_read(many, options, shown):
    """The most packets first; how many more there are."""
    lines = diff(*many, *options).stdout.splitlines()
    flows = [line for line in lines if " before, DROP now" in line]
    assert len(flows) == shown
    assert "10.0.0.2:30:" in flows[0]
    assert sum("path " in line and "ipv4" in line for line in lines) == 2 * shown
    more = 30 - shown
    assert lines.count(f"    ... and {more} more flows (--limit)") == bool(more)
    assert lines.count(f"    ... and {more} more paths (--limit)") == 2 * bool(more)
    assert lines[-1] == "30 flows changed, 30 new paths, 30 vanished paths; 0 flows fared alike"


@pytest.mark.parametrize(("options", "flows"), [([], 30), (["--limit", "2"], 2)])
def test_json_has_all_unless_asked(many, options, flows):
    """`--limit` is for it too."""
    lines = diff("--json", *many, *options).stdout.splitlines()
    assert [json.loads(line)["differs"] for line in lines].count("flow") == flows


def test_text_of_strangers(tmp_path):
    """Comments and names of chains reach no terminal as they are."""
    files = []
    for name, target in (("a", "ACCEPT"), ("b", "DROP")):
        rule = f'-m comment --comment "\x1b[2J" -j {target}'
        files.append(
            written(tmp_path / f"{name}.db", recording(rules(rule), packet("INPUT:rule:1")))
        )
    for options in ([], ["--json"]):
        assert "\x1b" not in diff(*files, *options).stdout


def test_colours(files):
    """The mark and the titles, if asked for."""
    done = diff(*files, "--color", "always")
    assert "\x1b[31m-->\x1b[0m udp" in done.stdout
    assert "\x1b[1m1 flow whose fate changed:\x1b[0m\n" in done.stdout


def test_limit_is_for_traces(files):
    """Rulesets are told whole."""
    done = iptrec("diff", "--limit", "3", *files)
    assert (done.returncode, done.stderr) == (2, "iptrec: --limit is for --traces\n")
