"""A new source of events is one module and two registrations: this one takes them out of a socket pair."""

from __future__ import annotations

import socket
import threading

import pytest
from fake_recorder import options, take_the_stage

from iptrec.kernel import batches
from iptrec.recorder import backends, session
from iptrec.recorder.session import record
from iptrec.recorder.streams import Events
from iptrec.recording import kinds
from iptrec.recording.kinds import StreamKind
from iptrec.recording.reader import Reader
from iptrec.recording.writer import Writer

# ---- the module


class ToySocket:
    """Whatever somebody sends to the other end is an event."""

    receive_buffer = 1 << 16
    untapped = "a toy"

    def __init__(self, source):
        self._source = source
        self._slots = batches.Slots(64, "the toy")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._slots.close()

    def fileno(self):
        return self._source.fileno()

    def receive(self):
        return self._slots.receive(self.fileno())

    def stop(self):
        self._source.shutdown(socket.SHUT_RD)

    def unseen(self):
        return 0


class NoRules:
    """There is nothing to watch."""

    told = True

    def __init__(self):
        self.working = threading.Lock()

    def start(self):
        pass

    def stop(self):
        pass


class Toy:
    """Traces what comes out of a socket pair."""

    gather_s = 0.001

    def __init__(self, source):
        self._source = source

    def open(self, opened):
        return (), Events(opened.enter_context(ToySocket(self._source)), "toy", {"toys": 1})

    def prepare(self, _):
        pass

    def insert(self, *_):
        self.watch = NoRules()

    def baseline(self, evidence):
        evidence.snapshot("nft-text", "toy", b"all toys")

    def matched(self):
        return {}

    def take_last_changes(self, evidence):
        pass

    def conclude(self):
        pass

    def traversals(self, data):
        return data.count(b"packet")

    def caught_up(self):
        pass


# ---- the two registrations


@pytest.fixture
def toy(monkeypatch):
    inside, outside = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    monkeypatch.setitem(backends.BACKENDS, "toy", lambda _: Toy(inside))
    monkeypatch.setitem(kinds.STREAMS, "toy", StreamKind("toy", "events of a toy", events=True))
    with inside, outside:
        yield outside


def test_a_toy_is_recorded(monkeypatch, toy, tmp_path):
    """Into a real file, which is read again: all its events, its stream and its rules."""
    take_the_stage(monkeypatch)
    monkeypatch.setattr(session, "Writer", Writer)
    path = tmp_path / "toy.db"
    for number in range(5):
        toy.send(b"packet %d" % number)
    outcome = record(options(output=path, backend="toy", packets=5))
    assert (outcome.reason, outcome.events, outcome.packets, outcome.lost) == ("packets", 5, 5, 0)
    with Reader(path) as recording:
        (stream,) = [one for one in recording.streams if one.kind == "toy"]
        (chunk,) = recording.chunks(stream.id)
        (rules,) = recording.snapshots("nft-text")
    assert stream.detail["toys"] == 1
    assert chunk.data == b"".join(b"packet %d" % number for number in range(5))
    assert chunk.lengths.tolist() == [8] * 5
    assert rules.content == b"all toys"
