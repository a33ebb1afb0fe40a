"""A rule is one line in a pipe or a file; on a terminal lines are as wide as that."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
from command import iptrec
from test_pager import Terminal

ROOT = Path(__file__).parents[2]
SAMPLES = sorted(path.stem for path in (ROOT / "samples").glob("*.db"))
RULES = str(ROOT / "samples" / "kubeadm-flannel.rules")
EXPECTATIONS = str(ROOT / "tests" / "data" / "expectations.toml")
COMMANDS = {
    "rules": ["rules", "{}"],
    "paths": ["paths", "{}"],
    "info": ["info", "{}"],
    "diff": ["diff", RULES, "{}"],
    "check": ["check", "{}", EXPECTATIONS],
    "query": ["query", "{}", "SELECT table_name, chain, spec FROM rules"],
}


def words(command, sample):
    return [one.format(ROOT / "samples" / f"{sample}.db") for one in COMMANDS[command]]


def specs(sample):
    """Each rule's text."""
    for line in iptrec(*words("rules", sample), "--json").stdout.splitlines():
        yield from (one["spec"] for one in json.loads(line)["rules"])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_has_no_width(command, monkeypatch):
    """Whatever the environment says."""
    expected = iptrec(*words(command, "kubernetes")).stdout
    monkeypatch.setenv("COLUMNS", "40")
    assert iptrec(*words(command, "kubernetes")).stdout == expected


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_rule_is_one_line(sample):
    """All of it, once, in the order of the chains, behind four columns of its own."""
    found = [
        line
        for line in iptrec(*words("rules", sample)).stdout.splitlines()[2:]
        if line[0] not in "*:"
    ]
    for line, spec in itertools.zip_longest(found, specs(sample)):
        assert re.fullmatch(r" *#\d+ +(-|[\d,]+ +[\d,]+  \S+  \S+) +" + re.escape(spec), line), line


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_path_is_four_lines(sample):
    """Who decided, how often, the first packet, the steps; and its end, where it has one."""
    told = iptrec(*words("paths", sample)).stdout.splitlines()
    lines = [line for line in told if not line.strip().startswith("end: ")]
    assert [at for at, line in enumerate(lines) if re.match(r"(-->|   ) path ", line)] == [
        *range(0, len(lines), 4)
    ]


def test_a_rule_is_found_by_grep():
    """Conditions that stand side by side in the rule do so here."""
    lines = iptrec(*words("rules", "docker_hairpin")).stdout.splitlines()
    found = [line for line in lines if "-p tcp -m tcp --dport 1242 -j" in line]
    assert len(found) == 2


@pytest.mark.parametrize("command", ["rules", "paths", "info"])
@pytest.mark.parametrize("columns", [60, 80, 220])
@pytest.mark.parametrize("sample", ["kubernetes", "both"])
def test_a_terminal_has_a_width(sample, columns, command):
    """No line is wider, but for a word that is; and nothing else differs from what a pipe gets."""
    shown, said, status = Terminal(*words(command, sample), columns=columns).end()
    piped = iptrec(*words(command, sample)).stdout
    assert (said, status) == ("", 0)
    room = columns - 8
    for line in shown.splitlines():
        assert len(line) <= columns or max(map(len, line.split())) > room, line
    if command == "info":  # what is longer than some lines is cut
        piped = piped[: piped.index("recorded by:")]
        shown = shown[: shown.index("recorded by:")]
    assert shown.split() == piped.split()


@pytest.mark.parametrize("command", ["rules", "paths", "info"])
def test_a_file_is_as_a_pipe(command, tmp_path):
    """Also where the terminal is looking on."""
    path = tmp_path / "file"
    shown, said, status = Terminal(*words(command, "both"), "-o", path, columns=40).end()
    assert (shown, said, status) == ("", "", 0)
    assert path.read_text() == iptrec(*words(command, "both")).stdout
