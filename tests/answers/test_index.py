"""What is read from a bookmark on is what a look at the whole recording says of the same packets."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from handmade import RAW, HandMade, udp

from iptrec.answers.index import Index
from iptrec.answers.packets import Packets
from iptrec.answers.selection import Selection
from iptrec.packets import window
from iptrec.recording.reader import Reader
from iptrec.views import packet_json as as_json

SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.db"))
RULES = f"""{RAW}*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -p udp -j ACCEPT
COMMIT
"""


def recording(seed, *, changes):
    """Packets sent, looped back, forwarded, broken off; stamped now and then."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    events = []
    for number in range(200):
        packet = udp(b"x" * chance.randrange(9), ident=chance.randrange(40), sport=number % 7 + 1)
        stamp = {"stamp_ns": chance.choice([0, 3_000_000 * len(events)])}
        if chance.randrange(2):
            events.append(("raw:OUTPUT:policy:2", packet, {"outdev": 1}))
            events.append(("filter:OUTPUT:policy:1", packet, {"outdev": 1}))
        if chance.randrange(4):
            events.append(("raw:PREROUTING:policy:2", packet, {"indev": 1} | stamp))
            if chance.randrange(5):
                events.append(("filter:INPUT:rule:1", packet, {"indev": 1} | stamp))
    made = HandMade().ruleset(RULES)
    if changes:
        made.ruleset(
            "*filter\n:INPUT DROP [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n",
            time_ns=3_000_000 * len(events) // 2,
            after_ns=3_000_000 * len(events) // 2,
        )
    return made.events(events, step_ns=3_000_000, per_chunk=chance.choice([3, 10, 50]))


def told(source, selection=None, bookmarks=None):
    return [as_json.as_object(one) for one in Packets(source, selection, bookmarks)]


def check(source, chance):
    """Packets one by one, and those of some spans of time; first with what a look at one packet noted."""
    every = told(source)
    known = Index()
    middle = every[len(every) // 2]
    assert told(source, Selection(number=middle["packet"]), known) == [middle]
    assert told(source, Selection(number=middle["packet"]), known) == [middle]
    assert told(source, None, known) == every
    assert known.whole
    for one in chance.sample(every, min(len(every), 30)):
        assert told(source, Selection(number=one["packet"]), known) == [one]
    assert not told(source, Selection(number=len(every) + 1), known)
    begun = moments(source)
    times = sorted(one["time_ns"] for one in every)
    for number in range(4):
        first, last = sorted(chance.choices(times, k=2))
        for since, until in ((first, None), (None, last), (first, last)):
            selection = Selection(since_ns=since, until_ns=until)
            found = told(source, selection, known)
            assert found == [one for one in every if within(begun[one["packet"]], since, until)]
            assert number or found == told(source, selection)  # a look at the whole recording
    return known


def within(moment, since, until):
    return (since is None or moment >= since) and (until is None or moment < until)


def moments(source):
    """When each packet's first event came, by the packet's number."""
    found = {}
    for batch in Packets(source).batches():
        assembly = batch.window.assembly
        for at in batch.positions.tolist():
            first = batch.window.moment_ns[assembly.rows[assembly.first[at]]]
            found[batch.traversal(at).number] = int(first)
    return found


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch):
    monkeypatch.setattr(window, "WINDOW_EVENTS", 20)
    monkeypatch.setattr(window, "_MOST_WAITING", 100)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_samples(sample):
    """Real recordings."""
    with Reader(sample) as reader:
        check(reader, random.Random(1))  # noqa: S311


@pytest.mark.parametrize("changes", [False, True], ids=["steady", "changing"])
@pytest.mark.parametrize("seed", range(4))
def test_generated(seed, changes):
    """Packets under way and relations across windows, rulesets that change."""
    found = check(recording(seed, changes=changes), random.Random(seed))  # noqa: S311
    assert len(found.marks) >= 10
    assert any(len(start.kept) for one in found.marks for start in one.starts or ())


def test_reads_little():
    """Chunks before the bookmark are not read at all."""
    source = recording(0, changes=False)
    known = Index()
    count = len(told(source, None, known))
    asked = []
    chunks = source.chunks
    source.chunks = lambda stream=None, after=0: asked.append(after) or chunks(stream, after)
    assert told(source, Selection(number=count - 3), known)
    assert min(asked) > len(source.chunks_) // 3


def test_long_starts_are_left_out(monkeypatch):
    """Where too many datagrams were taken over no bookmark is: one begins before."""
    monkeypatch.setattr("iptrec.answers.index._MOST_KEPT", 30)
    found = check(recording(1, changes=False), random.Random(1))  # noqa: S311
    assert any(one.starts is None for one in found.marks)


def test_following_notes_nothing():
    """The windows of a recording that grows are cut where somebody looked."""
    known = Index()
    list(Packets(recording(0, changes=False), None, known).follow([1, 2]))
    assert not known.marks
