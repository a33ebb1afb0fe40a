"""Drops beside the events: into a stream of their own, with the names that their numbers have on this host."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fake_recorder import EventSocket, Stage, Writer, batch, options

from iptrec.errors import HostError
from iptrec.kernel.drops.source import Drops
from iptrec.recorder import drops
from iptrec.recorder.drops import Dropped
from iptrec.recorder.options import Progress, Report
from iptrec.recorder.streams import Events, Streams


class Source:
    """What the kernel would tell, in its order."""

    names_from = "here"
    names = {"skb_drop_reason": {3: "SKB_DROP_REASON_NO_SOCKET"}}  # noqa: RUF012 - nobody changes it

    def __init__(self, *script):
        self._script = list(script)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def fileno(self):
        return 99

    def receive(self):
        return self._script.pop(0) if self._script else None


def told(count=1, places=None, lost=0):
    return Drops(5, np.full(count, 2, np.uint32), b"dr" * count, places or {}, lost)


@pytest.fixture
def streams():
    """Streams with an event, and with this source of drops; and what they write into."""
    with contextlib.ExitStack() as opened:

        def make(dropped, events=1):
            stage = Stage()
            writer = Writer(stage)
            socket = opened.enter_context(EventSocket(stage, [batch(1)] * events))
            progress = Progress()
            made = Streams(
                writer, 1, [], [Events(socket, "nflog", {})], options=options(),
                report=Report(progress, lambda _: None), traversals=len, dropped=dropped,
            )  # fmt: skip
            return made, writer, progress

        yield make


def test_drops_go_into_their_stream(streams):
    """After the events of the same moment, and not counted as events."""
    made, writer, progress = streams(Dropped(Source(told(2))))
    made.fetch()
    assert [kind for kind, _ in writer.streams] == ["nflog", "drops"]
    assert [stream for stream, *_ in writer.appended] == [1, 2]
    assert (progress.events, progress.lost) == (1, 0)
    assert 99 in made.event_sockets


def test_drops_come_behind_the_events_of_their_packets(streams):
    """Those that were logged after the events had been fetched, and before the drops were."""
    made, writer, _ = streams(Dropped(Source(None, told(), told())), 4)
    for _ in range(3):
        made.fetch()
    assert [stream for stream, *_ in writer.appended] == [1, 1, 1, 2, 1, 2]


def test_names_are_kept(streams):
    """Those of reasons once, those of places when they are first told of; another file gets all of them."""
    made, writer, _ = streams(
        Dropped(Source(told(places={1: "a+0x1"}), told(), told(places={2: "b+0x2"})))
    )
    for _ in range(3):
        made.fetch()
    reasons = ("drop-reasons", json.dumps(Source.names).encode())
    assert writer.snapshots == [
        reasons,
        ("drop-places", b'{"1": "a+0x1"}'),
        ("drop-places", b'{"2": "b+0x2"}'),
    ]
    other = Writer(Stage())
    made.write_to(other, 1)
    assert other.snapshots == [reasons, ("drop-places", b'{"1": "a+0x1", "2": "b+0x2"}')]


def test_what_found_no_room_is_a_loss(streams):
    """Of reasons, not of events."""
    made, writer, progress = streams(Dropped(Source(told(0, lost=7))))
    made.fetch()
    assert [(one.stream, one.events, one.how, one.of_events) for one in writer.losses] == [
        (2, 7, "ring-full", False)
    ]
    assert progress.lost == 0


def test_what_is_there_in_the_end_is_taken(streams):
    made, writer, _ = streams(Dropped(Source(None, told())))
    made.fetch()
    made.finish()
    assert writer.appended[-1] == (2, [2], b"dr")


def refuse(*_):
    raise HostError("the kernel refuses the program: Operation not permitted")


def test_a_refusal_is_told_in_the_file(streams, monkeypatch):
    """Recording goes on."""
    monkeypatch.setattr(drops, "DropSource", refuse)
    with contextlib.ExitStack() as opened:
        made, writer, _ = streams(drops.opened(options(drops="auto"), opened, None))
        made.fetch()
    assert writer.streams[-1] == (
        "drops", {"not_recorded": "the kernel refuses the program: Operation not permitted"},
    )  # fmt: skip
    assert writer.snapshots == []


def test_who_asks_for_drops_is_told(monkeypatch):
    """Of both ways in which the kernel could tell."""
    monkeypatch.setattr(drops, "DropSource", refuse)
    monkeypatch.setattr(drops, "AlertSource", refuse_alerts)
    words = (
        "^--drops yes: the kernel refuses the program: Operation not permitted; no drop monitor$"
    )
    with contextlib.ExitStack() as opened, pytest.raises(HostError, match=words):
        drops.opened(options(drops="yes"), opened, object())


class Alerts(Source):
    """The drop monitor, without a kernel."""

    names_from = "NET_DM"
    names = {"skb_drop_reason": {}}  # noqa: RUF012 - nobody changes it

    def start(self, expect):
        expect("how it was")

    def finish(self):
        self._script.append(told(0, lost=3))


def alerted(monkeypatch, *script):
    """Drops by the drop monitor, since no program may run."""
    monkeypatch.setattr(drops, "DropSource", refuse)
    monkeypatch.setattr(drops, "AlertSource", lambda *_: Alerts(*script))
    with contextlib.ExitStack() as opened:
        return drops.opened(options(drops="yes"), opened, object())


def test_the_drop_monitor_is_started_once_its_undoing_is_registered(monkeypatch):
    done = []
    guardian = SimpleNamespace(expect_monitor=done.append, give_back_monitor="give back")
    alerted(monkeypatch).prepare(guardian, done.append)
    assert done == ["give back", "how it was"]


def test_names_that_come_with_the_alerts_are_kept(streams, monkeypatch):
    """And it is said that this stream is of any packets, and what was lost in the end."""
    reasons = {"skb_drop_reason": {1: "NO_SOCKET"}}
    dropped = alerted(monkeypatch, replace(told(), names=reasons))
    made, writer, _ = streams(dropped)
    made.fetch()
    assert writer.streams[-1] == ("drops", {"source": "NET_DM"})
    assert [json.loads(content) for _, content in writer.snapshots] == [
        {"skb_drop_reason": {}}, {"skb_drop_reason": {"1": "NO_SOCKET"}},
    ]  # fmt: skip
    made.finish()
    assert [(one.events, one.how) for one in writer.losses] == [(3, "ring-full")]
    assert not dropped.whole


def refuse_alerts(*_):
    raise HostError("no drop monitor")


def test_who_does_not_want_them_gets_none(monkeypatch):
    monkeypatch.setattr(drops, "DropSource", refuse)
    with contextlib.ExitStack() as opened:
        assert drops.opened(options(drops="no"), opened, None) is None
