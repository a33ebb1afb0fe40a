"""The profile for Wireshark: its columns and colours, as the real tshark has them."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest
from command import iptrec

from iptrec.answers.select import VERDICTS
from iptrec.packets.model import LOST

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "samples").glob("*.db"))
PROFILE = ROOT / "iptrec" / "wireshark" / "profile"
LOOPBACK = ROOT / "samples" / "loopback.db"


def rules():
    """(name, expression) of each colour rule, in order."""
    lines = (PROFILE / "colorfilters").read_text().splitlines()
    found = [
        re.fullmatch(r"@([^@]+)@([^@]+)@(\[\d+,\d+,\d+\]){2}", one)
        for one in lines
        if one[0] != "#"
    ]
    assert all(found)
    return [one.group(1, 2) for one in found]


def colour(packet):
    """The name of the rule for a packet of `show --json`."""
    if packet["verdict"] in LOST:
        return "iptrec: perhaps lost" if packet["ambiguous"] else "iptrec: lost"
    unsure = packet["ambiguous"] or not packet["complete"]
    return "iptrec: incomplete or ambiguous" if unsure else "iptrec: not lost"


@pytest.fixture
def export(tmp_path):
    """Exports a recording; the path of the file."""

    def run(recording):
        path = tmp_path / "out.pcapng"
        assert iptrec("export", "pcapng", recording, "-o", path, "--force").returncode == 0
        return path

    return run


def shown(recording):
    return [json.loads(line) for line in iptrec("show", "--json", recording).stdout.splitlines()]


def test_columns(export, tshark):
    """Who decided, and how, behind what Wireshark shows by itself."""
    columns = [one.split("\t") for one in tshark(
        "-n", "-r", export(LOOPBACK), "-C", "iptrec", "-T", "tabs"
    ).splitlines()]  # fmt: skip
    packets = shown(LOOPBACK)
    assert len(columns) == len(packets)
    for packet, row in zip(packets, columns, strict=True):
        number, _, source, _, destination, protocol, _, verdict, decider, *text = map(
            str.strip, row
        )
        assert (source, destination) == (packet["header"]["src"], packet["header"]["dst"])
        assert (int(number), verdict) == (packet["packet"], packet["verdict"])
        assert protocol
        by = packet["decided_by"]
        assert decider == (f"{by['table']}/{by['chain']}/{by['rule'] or 'policy'}" if by else "")
        ruled = [one["spec"] for one in packet["steps"] if by and by["rule"] and is_at(one, by)]
        assert "".join(text) == "".join(ruled[-1:])


def is_at(step, by):
    return (step["table"], step["chain"], step["rule"]) == (by["table"], by["chain"], by["rule"])


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_colours(sample, export, tshark):
    """Lost packets are red, unsure ones yellow, the others green."""
    words = ("-C", "iptrec", "--color")
    rows = tshark.fields(export(sample), "frame.coloring_rule.name", words=words)
    assert [name for ((name,),) in rows] == [colour(one) for one in shown(sample)]


def test_every_verdict_has_its_colour(tmp_path, tshark, capture):
    """And every doubt."""
    packets = [
        {"verdict": verdict, "complete": complete, "ambiguous": ambiguous}
        for verdict in VERDICTS
        for complete in (0, 1)
        for ambiguous in (0, 1)
    ]
    said = ["&".join(f"{name}={value}" for name, value in one.items()) for one in packets]
    path = tmp_path / "x.pcapng"
    path.write_bytes(capture(*([f"iptrec:1?{one}".encode()] for one in said)))
    rows = tshark.fields(path, "frame.coloring_rule.name", words=("-C", "iptrec", "--color"))
    assert [name for ((name,),) in rows] == [colour(one) for one in packets]


def test_others_packets_have_no_colour(tmp_path, tshark, capture):
    """No rule is about a capture that iptrec did not make."""
    (tmp_path / "x.pcapng").write_bytes(capture([b"DROP by filter/INPUT rule 1"]))
    words = ("-C", "iptrec", "--color")
    rows = tshark.fields(tmp_path / "x.pcapng", "frame.coloring_rule.name", words=words)
    assert rows == [[[]]]


def test_buttons(export, tshark):
    """Each has a label, and an expression that finds what it says."""
    lines = (PROFILE / "dfilter_buttons").read_text().splitlines()
    found = [
        re.fullmatch(r'"TRUE","(\w+)","(.*)","([^"]*)"', one) for one in lines if one[0] != "#"
    ]
    buttons = {one[1]: one[2].replace("\\x22", '"') for one in found}
    path, packets = export(LOOPBACK), shown(LOOPBACK)
    assert set(buttons) == {"Lost", "Unsure"}
    lost = sum(one["verdict"] in LOST for one in packets)
    assert tshark.count(path, buttons["Lost"]) == lost > 0
    assert tshark.count(path, buttons["Unsure"]) == sum(not one["complete"] for one in packets)


def test_the_picture():
    """As wide as a page shows it, and light to load; `make pictures` draws it."""
    data = (ROOT / "docs" / "wireshark.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack_from(">I", data, 16) == (1280,)
    assert len(data) < 300_000
