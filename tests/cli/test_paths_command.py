"""`paths`: in which order, and which packet stands for the others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command import iptrec

import iptrec as api

SAMPLES = Path(__file__).parents[2] / "samples"
BOTH = str(SAMPLES / "both.db")
NAMES = sorted(path.stem for path in SAMPLES.glob("*.db"))


def printed(*options):
    """Number, verdict and packets of each path, in their order."""
    text = iptrec("paths", BOTH, *options).stdout
    titles = re.findall(r"^(?:-->|   ) path (\d+): ipv[46] (\w+)", text, re.MULTILINE)
    packets = re.findall(r"^ {8}([\d,]+) packets?, ", text, re.MULTILINE)
    return [
        (int(number), verdict, int(many))
        for (number, verdict), many in zip(titles, packets, strict=True)
    ]


def is_lost(verdict):
    return verdict in ("DROP", "REJECT")


def test_what_was_lost_comes_first():
    """Then those with the most packets; this is what --sort verdict says, too."""
    found = printed()
    assert found == sorted(found, key=lambda one: (not is_lost(one[1]), -one[2], one[0]))
    assert [is_lost(verdict) for _, verdict, _ in found[:9]] == [True] * 8 + [False]
    assert printed("--sort", "verdict") == found


def test_json_has_the_most_taken_first():
    """As ever, unless another order is asked for."""
    found, first = (
        [json.loads(line) for line in iptrec("paths", BOTH, "--json", *options).stdout.splitlines()]
        for options in ((), ("--sort", "first"))
    )
    assert found == sorted(found, key=lambda one: (-one["packets"], one["path"]))
    assert [one["example"] for one in first] == sorted(one["example"] for one in found)


def test_other_orders():
    """All paths in each of them."""
    by_packets = printed("--sort", "packets")
    assert by_packets == sorted(by_packets, key=lambda one: (-one[2], one[0]))
    assert printed("--sort", "first") == sorted(by_packets)
    sizes = re.findall(r"([\d,]+) bytes,", iptrec("paths", BOTH, "--sort", "bytes").stdout)
    assert sizes == sorted(sizes, key=int, reverse=True)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_order_that_there_is_not(options):
    """One line, exit status 2."""
    done = iptrec("paths", BOTH, "--sort", "size", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("iptrec: --sort 'size': must be one of verdict, packets, bytes, first\n")


def test_what_was_lost_is_marked():
    """At the margin, so that it is seen without colour; and nothing else is."""
    lines = iptrec("paths", BOTH).stdout.splitlines()
    marked = {line for line in lines if line.startswith("-->")}
    assert marked == {line for line in lines if re.search(r"path \d+: ipv. (DROP|REJECT)", line)}


@pytest.mark.parametrize("conditions", [{}, {"iface": ["to-a"]}, {"verdict": ["ACCEPT"]}], ids=str)
@pytest.mark.parametrize("sample", NAMES)
def test_the_first_packet_is_as_show_has_it(sample, conditions):
    """Of those that are selected: its number, time, interfaces and header; also in the text."""
    with api.open(SAMPLES / f"{sample}.db") as recording:
        packets = {one.number: one for one in recording.packets(**conditions)}
        for one in recording.paths(**conditions):
            first, packet = one.first, packets[one.first.number]
            assert first.number == one.count.example
            assert (first.time_ns, first.family) == (packet.time_ns, packet.family)
            assert (first.in_, first.out, first.header) == (packet.in_, packet.out, packet.header)
            on_path = [each.number for each in recording.packets(path=one.number, **conditions)]
            assert min(on_path) == first.number


@pytest.mark.parametrize("sample", NAMES)
def test_the_first_packet_reads_as_in_show(sample):
    """Protocol, addresses, ports and interfaces; the rule that decided, too."""
    path = SAMPLES / f"{sample}.db"
    lines = iptrec("show", path).stdout
    titles = dict(re.findall(r"^(#\d+) \S+ \w+ (.*)$", lines, re.MULTILINE))
    text = iptrec("paths", path).stdout
    found = re.findall(r"path \d+: ipv[46] \w+(?: (by .*)|.*)\n.*\n +first (#\d+): (.*)\n", text)
    assert len(found) == text.count("path ")
    for decided, number, flow in found:
        assert titles[number].startswith(f"{flow} {decided}".rstrip()), number
