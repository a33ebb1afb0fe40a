"""`info` of selected packets: what is theirs, and what is of the whole recording."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from command import iptrec

SAMPLES = Path(__file__).parents[2] / "samples"
BOTH = str(SAMPLES / "both.db")
THEIRS = {
    "verdicts", "protocols", "interfaces", "talkers", "drop_reasons", "vanished", "unordered",
}  # fmt: skip
SELECTIONS = {
    "verdict": ["--verdict", "DROP"],
    "filter": ["udp"],
    "chain": ["--chain", "filter/INPUT"],
    "reason": ["--reason", "NO_SOCKET"],
    "uid": ["--uid", "0"],
    "whole": ["--complete"],
}


def told(*words):
    return json.loads(iptrec("info", "--json", BOTH, *words).stdout)


@pytest.mark.parametrize("case", SELECTIONS)
def test_counts_are_of_the_packets_that_show_has(case):
    """And what is of the whole recording stays as it is."""
    words = SELECTIONS[case]
    done = iptrec("show", "--json", BOTH, *words)
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    found, whole = told(*words), told()
    assert iptrec("info", BOTH, *words).returncode == done.returncode
    assert found["selected"] == len(shown)
    assert found["verdicts"] == Counter(one["verdict"] for one in shown)
    assert sum(found["protocols"].values()) == len(shown)
    assert sum(one["packets"] for one in found["interfaces"]) == len(shown)
    assert whole == {
        name: whole[name] if name in THEIRS else one
        for name, one in found.items()
        if name != "selected"
    }


def test_the_text_says_what_is_theirs():
    """A line of its own; without a selection there is none."""
    line = next(
        one for one in iptrec("info", BOTH, "udp").stdout.splitlines() if "selected:" in one
    )
    assert line.split(":")[1].strip() == f"{told('udp')['selected']:,} packets"
    assert line.endswith("all else is of the whole recording")
    assert "selected:" not in iptrec("info", BOTH).stdout
    assert "selected" not in told()


def test_names_that_no_packet_has_are_told():
    """As by all other commands: exit status 1, and what there is instead."""
    done = iptrec("info", BOTH, "--chain", "nat/NONE")
    assert done.returncode == 1
    assert "iptrec info: no packet matches; none passes nat/NONE, but " in done.stderr
    assert iptrec("info", BOTH, "--verdict", "LOST").returncode == 2
