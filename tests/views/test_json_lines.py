"""Lines filled from columns are those of `json.line`, byte for byte."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from handmade import UUID, HandMade, udp, udp6

from iptrec.answers import lookalikes
from iptrec.answers.packets import Packets
from iptrec.answers.selection import Selection
from iptrec.recording.reader import Reader
from iptrec.views import json_lines
from iptrec.views import packet_json as as_json
from iptrec.views.json_lines import text

SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.db"))
OWN = f'-m comment --comment "iptrec:{UUID}" -j TRACE'
RAW = f"*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING {OWN}\n-A OUTPUT {OWN}\nCOMMIT\n"
# Names are a stranger's: quotes, percent signs, and the mark that templates are made with.
FILTER = """*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m comment --comment "100%s \\"%d\\"" -j ACCEPT
-A FORWARD -m comment --comment {} -j DROP
COMMIT
"""
LINKS = [
    b"",
    bytes(14),
    b"\2" * 12 + b"\x08\0",
    b"\3" * 12 + b"\x81\0\0\7\x08\0",
    b"\4" * 12 + b"\x81\0",
    b"x",
]


def packets(chance):
    """A packet, and what it looks like after NAT and forwarding."""
    ident, ttl, payload = chance.randrange(9), chance.choice([64, 255]), b"x" * chance.randrange(3)
    ports = {"sport": chance.randrange(65536), "dport": chance.choice([53, 80])}
    kind = chance.randrange(6)
    if kind == 0:
        return udp6(payload, last=ident), udp6(payload, last=ident)
    if kind == 1:
        tcp = struct.pack(
            "!HHIIBBHHH", *ports.values(), ident, 7, 0x50, chance.choice([2, 4, 20]), 9, 8, 0
        )
        head = struct.pack("!BBHHHBBH", 0x45, 0, 40, ident, 0x4000, ttl, 6, 0)
        return head + b"\n\0\0\1\n\0\0\2" + tcp, head + b"\n\0\0\1\n\0\0\3" + tcp
    if kind == 2:
        quoted = (
            struct.pack("!BBHI", chance.choice([3, 8, 0, 13]), 1, 0, ident) + udp(ident=ident)[:28]
        )
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(quoted), ident, 0, ttl, 1, 0)
        return (head + b"\n\0\0\1\n\0\0\2" + quoted,) * 2
    first = udp(payload, ident=ident, ttl=ttl, **ports)
    if kind == 3:
        return first, first
    last = udp(payload, ident=ident, ttl=ttl - 1, sport=ports["sport"], dport=99, dst="10.9.9.9")
    if kind == 4:
        return first[: chance.choice([28, 25, 12])], last[:28]
    return first, last


def recording(seed):
    """Packets of all kinds on a few ways, the ruleset changing in the middle."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    hostile = chance.choice(["plain", '"\ue0000\ue000"'])
    made = HandMade().ruleset(RAW + FILTER.format(hostile)).ruleset(RAW, kind="ip6tables-save")
    events = []
    for number in range(60):
        first, last = packets(chance)
        mark, link = chance.choice([0, 0, 5]), chance.choice(LINKS)
        stamp = chance.choice([0, 7_000_000 + number * 1000])
        into = {"indev": chance.choice([1, 2]), "mark": mark, "link": link, "stamp_ns": stamp}
        way = chance.randrange(4)
        if way == 3:
            events.append(("raw:OUTPUT:policy:2", first, {"outdev": 1}))
            events.append(("filter:OUTPUT:policy:1", last, {"outdev": 1, "mark": mark}))
            if chance.randrange(2):  # by lo
                events.append(("raw:PREROUTING:policy:2", last, into | {"indev": 1}))
            continue
        events.append(("raw:PREROUTING:policy:2", first, into))
        if way == 0:
            events.append(("filter:INPUT:rule:1", last, into))
        elif way == 1:
            events.append(
                ("filter:FORWARD:rule:1", last, into | {"outdev": 1, "physin": 2, "physout": 1})
            )
    middle = 1_000 + 1_000 * len(events) // 2
    if chance.randrange(2):
        made.ruleset(
            "*filter\n:INPUT DROP [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n",
            time_ns=middle,
            after_ns=middle,
        )
    return made.events(events)


def both(source, selection=None):
    """The lines of each packet alone, and of packets that read alike together."""
    alone = [as_json.line(one) for one in Packets(source, selection)]
    together = "".join(
        some for batch in Packets(source, selection).batches() for some in text(batch)
    )
    return "".join(f"{line}\n" for line in alone), together


@pytest.fixture(params=[(1, 16, 4096), (1, 10**9, 7), (4, 0, 7)], ids=["alone", "bytes", "texts"])
def _fewest(request, monkeypatch):
    """Shapes of a single packet, too: then all that can be are. As bytes, few lines at once, and as texts."""
    fewest, shapes, at_once = request.param
    monkeypatch.setattr(lookalikes, "_FEWEST", fewest)
    monkeypatch.setattr(json_lines, "_MOST_SHAPES", shapes)
    monkeypatch.setattr(json_lines, "_AT_ONCE", at_once)


@pytest.mark.usefixtures("_fewest")
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_samples(sample):
    """Real recordings, and a selection of their packets."""
    with Reader(sample) as reader:
        for selection in (None, Selection(verdicts=frozenset({"ACCEPT"}))):
            alone, together = both(reader, selection)
            assert together == alone


@pytest.mark.usefixtures("_fewest")
@pytest.mark.parametrize("seed", range(40))
def test_generated(seed):
    """Packets of all kinds: NAT, marks, bridges, cut off, looped back, hostile names."""
    alone, together = both(recording(seed))
    assert together == alone


def test_shapes_are_found(monkeypatch):
    """The tests above compare something: most of the generated packets have a shape."""
    monkeypatch.setattr(lookalikes, "_FEWEST", 1)
    found = [
        (len(batch.positions), sum(len(one.positions) for one in batch.shapes()))
        for seed in range(40)
        for batch in Packets(recording(seed)).batches()
    ]
    assert sum(shaped for _, shaped in found) > sum(every for every, _ in found) // 2


def test_equal_packets_are_one_shape():
    """The numbers alone differ: one shape for all of them."""
    rows = [
        ("raw:PREROUTING:policy:2", udp(ident=number, sport=number), {}) for number in range(50)
    ]
    made = HandMade().ruleset(RAW).events(rows)
    (batch,) = Packets(made).batches()
    (shape,) = batch.shapes()
    assert shape.header["sport"].tolist() == list(range(50))
