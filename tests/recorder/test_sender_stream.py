"""Senders beside the events: into a stream of their own, with the paths of their control groups."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from fake_recorder import EventSocket, Stage, Writer, batch, options

from iptrec.errors import HostError
from iptrec.kernel import owners
from iptrec.kernel.senders.program import RECORD
from iptrec.kernel.senders.source import Facts
from iptrec.recorder import senders
from iptrec.recorder.options import Progress, Report
from iptrec.recorder.senders import Senders
from iptrec.recorder.streams import Events, Streams


class Source:
    """What the kernel would tell, in its order; ``turns``: how often it was asked to tell again."""

    def __init__(self, *script):
        self._script = list(script)
        self.turns = 0

    def fileno(self):
        return 99

    def receive(self):
        return self._script.pop(0) if self._script else None

    def tell_again(self):
        self.turns += 1


def told(count=1, groups=(), lost=0):
    return Facts(5, b"f" * RECORD * count, np.array(groups, np.uint64), lost)


@pytest.fixture
def streams():
    """Streams with an event, and with this source of facts; and what they write into."""
    with contextlib.ExitStack() as opened:

        def make(made):
            stage = Stage()
            writer = Writer(stage)
            socket = opened.enter_context(EventSocket(stage, [batch(1)]))
            progress = Progress()
            found = Streams(
                writer, 1, [], [Events(socket, "nflog", {})], options=options(),
                report=Report(progress, lambda _: None), traversals=len, senders=made,
            )  # fmt: skip
            return found, writer, progress

        yield make


@pytest.fixture(autouse=True)
def groups(monkeypatch):
    """Control groups that there are; which were looked for, in order."""
    found, asked = {}, []

    def paths(wanted, _):
        asked.append(set(wanted))
        return {one: found[one] for one in wanted if one in found}

    monkeypatch.setattr(owners, "paths", paths)
    return found, asked


def test_facts_go_into_their_stream(streams):
    """After the events of the same moment, and not counted as events."""
    made, writer, progress = streams(Senders(Source(told(2))))
    made.fetch()
    assert [kind for kind, _ in writer.streams] == ["nflog", "senders"]
    assert writer.appended[-1] == (2, [RECORD] * 2, b"f" * RECORD * 2)
    assert (progress.events, progress.lost) == (1, 0)
    assert 99 in made.event_sockets


def test_control_groups_are_looked_up_once(streams, groups):
    """Another file has all paths; one that is not found is looked for a few times."""
    found, asked = groups
    found |= {1: "/", 7: "/seven"}
    made, writer, _ = streams(Senders(Source(told(groups=[1, 7]), told(groups=[1, 8]))))
    made.fetch()
    assert writer.snapshots == [("sender-cgroups", json.dumps({1: "/", 7: "/seven"}).encode())]
    for _ in range(20):
        made.finish()
    assert asked == [{1, 7}, *[{8}] * 5]
    other = Writer(Stage())
    made.write_to(other, 1)
    assert other.snapshots == writer.snapshots


def test_looking_at_control_groups_is_not_all_that_it_does(streams, groups, monkeypatch):
    """Where it takes long the next look waits."""
    clock = [100.0]
    monkeypatch.setattr(senders.time, "monotonic", lambda: clock[0])
    _, asked = groups

    def slow(wanted, _):
        asked.append(set(wanted))
        clock[0] += 0.1
        return {}

    monkeypatch.setattr(owners, "paths", slow)
    made, *_ = streams(Senders(Source(told(groups=[1]))))
    made.fetch()
    for _ in range(10):
        clock[0] += 0.4
        made.fetch()
    assert len(asked) == 1
    clock[0] += 1.1
    made.fetch()
    assert len(asked) == 2


def test_what_found_no_room_is_a_loss(streams):
    """Of facts, not of events."""
    made, writer, progress = streams(Senders(Source(told(0, lost=7))))
    made.fetch()
    assert [(one.stream, one.events, one.how, one.of_events) for one in writer.losses] == [
        (2, 7, "ring-full", False)
    ]
    assert progress.lost == 0


def test_facts_are_told_again_where_older_ones_may_be_gone(streams):
    """Before another file is begun, and where a ring has turned."""
    source = Source()
    made, *_ = streams(Senders(source))
    made.tell_again()
    assert source.turns == 1


def refuse(*_):
    raise HostError("the kernel refuses the program: Operation not permitted")


def test_a_refusal_is_told_in_the_file(streams, monkeypatch):
    """And with -v; recording goes on."""
    monkeypatch.setattr(senders, "SenderSource", refuse)
    said = []
    report = Report(Progress(), lambda progress: said.extend(progress.details))
    with contextlib.ExitStack() as opened:
        made, writer, _ = streams(senders.opened(report, opened))
        made.fetch()
        made.tell_again()
        made.finish()
    why = "the kernel refuses the program: Operation not permitted"
    assert writer.streams[-1] == ("senders", {"not_recorded": why})
    assert any(why in one for one in [*said, *report.progress.details])
