"""Why a recording ends, and what is done meanwhile."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_recorder import (
    Backend,
    EventSocket,
    Guardian,
    Stage,
    Watch,
    Writer,
    options,
    signalled,
    take_the_stage,
)

from iptrec.errors import HostError
from iptrec.recorder import loop
from iptrec.recorder.guarded import Guarded
from iptrec.recorder.options import Progress, Report
from iptrec.recorder.ring import Ring
from iptrec.recorder.session import record
from iptrec.recording.pace import Pace


@pytest.fixture
def stage(monkeypatch):
    return take_the_stage(monkeypatch)


def loaded(monkeypatch, *events):
    """A stage whose backend's socket has these events."""

    class Loaded(Backend):
        def __init__(self, stage, setting):
            super().__init__(stage, setting)
            self.events = events

    return take_the_stage(monkeypatch, Loaded)


@pytest.fixture
def trigger():
    """A pipe: (what is given to the recorder, what pulls the trigger)."""
    reading, writing = os.pipe()
    ends = SimpleNamespace(reading=reading, writing=writing)
    yield ends
    for end in (ends.reading, ends.writing):
        if end is not None:
            os.close(end)


@pytest.mark.usefixtures("stage")
def test_duration():
    """Not earlier, and not much later though nothing comes."""
    outcome = record(options(duration_s=0.2))
    assert outcome.reason == "duration"
    assert 0.2e9 <= outcome.elapsed_ns < 0.9e9


@pytest.mark.parametrize("pressing", [True, False])
def test_events_come_together_in_a_tap(monkeypatch, pressing):
    """For some milliseconds, where there is room for more: they have times of their own."""
    monkeypatch.setattr(EventSocket, "untapped", "")
    monkeypatch.setattr(EventSocket, "pressing", pressing)
    paused = []
    clock = {name: getattr(time, name) for name in ("monotonic", "monotonic_ns")}
    monkeypatch.setattr(loop, "time", SimpleNamespace(**clock, sleep=paused.append))
    loaded(monkeypatch, 3)
    assert record(options(packets=3)).events == 3
    assert bool(paused) is not pressing


def test_number_of_packets(monkeypatch):
    """Exact to a batch; what follows at once still belongs to these packets."""
    stage = loaded(monkeypatch, 3, 4, 5)
    outcome = record(options(packets=7))
    assert (outcome.reason, outcome.packets, outcome.events) == ("packets", 12, 12)
    assert [lengths for _, lengths, _ in stage.writer.appended] == [[2] * 3, [2] * 4, [2] * 5]


@pytest.mark.parametrize("reason", ["packets", "command"])
def test_the_last_packets_come_to_their_ends(monkeypatch, reason):
    """What they log after the reason to stop is fetched while our rules are still there."""
    stage = loaded(monkeypatch, 3)
    ends = {"packets": {"packets": 3}, "command": {"command": ["true"]}}

    def tell(progress):
        if progress.reason:
            stage.sockets[0].give(2)

    outcome = record(options(**ends[reason]), tell)
    assert (outcome.reason, outcome.events) == (reason, 5)
    assert stage.writer.phases[-1] == "loop"


def test_the_end_of_a_duration_waits_for_nobody(monkeypatch):
    """Packets go on coming: there is no last one."""
    stage = loaded(monkeypatch, 3)
    record(options(duration_s=0), lambda now: now.reason and stage.sockets[0].give(2))
    assert stage.writer.phases[-1] == "drain"


def test_what_a_watch_finds_is_stored_in_time(stage):
    """At once, and what its last look finds before the file is closed."""
    record(options(duration_s=0.1))
    first, *last = stage.stored
    assert first == ("start", "begin")  # in the first round of the loop
    assert last == [("stop", "again"), ("conclude", "conclude")]


def test_size_of_the_file(monkeypatch):
    """By what is in the file, not by what came."""
    stage = loaded(monkeypatch, 3, 3, 3, 3)
    outcome = record(options(max_bytes=10))
    assert outcome.reason == "max-size"
    assert stage.writer.file_bytes == 24  # what was still in the socket is not thrown away


@pytest.mark.usefixtures("stage")
def test_trigger(trigger):
    """Some time later, as asked for."""
    os.write(trigger.writing, b"{}\n")
    outcome = record(options(trigger=trigger.reading, after_s=0.2))
    assert outcome.reason == "stop-on"
    assert outcome.elapsed_ns >= 0.2e9
    assert outcome.notes == []


@pytest.mark.usefixtures("stage")
def test_trigger_of_a_process_that_ended(trigger):
    """That is no reason to stop: the recording goes on, and the user is notified."""
    os.close(trigger.writing)
    trigger.writing = None
    outcome = record(options(trigger=trigger.reading, duration_s=0.1))
    assert outcome.reason == "duration"
    assert len(outcome.notes) == 1
    assert "--stop-on" in outcome.notes[0]


@pytest.mark.usefixtures("stage")
def test_viewer_that_ended(trigger):
    """Nobody looks any more: `iptrec trace | head` is over."""
    os.close(trigger.writing)
    trigger.writing = None
    outcome = record(options(viewer=trigger.reading, duration_s=30))
    assert (outcome.reason, outcome.notes) == ("viewer", [])


def test_a_copy_on_request(stage, monkeypatch):
    """SIGUSR1 writes what there is into a file of its own, once, and recording goes on."""
    monkeypatch.setattr(Pace, "due_in_ns", 10**12)  # ten looks at the clock a second
    outcome = record(options(duration_s=0.5), begun=signalled(signal.SIGUSR1))
    assert outcome.reason == "duration"
    ((name, reason),) = stage.writer.copies
    assert (name[:2], name[-3:], reason) == ("t-", ".db", "SIGUSR1")
    assert outcome.notes == [f"written: {name}"]


def test_a_copy_of_what_is_to_be_compressed(stage):
    """It is named as the recording will be, and is a file of its own: -o t.db.gz writes to t.part.db."""
    record(options(output=Path("t.part.db"), duration_s=0.2), begun=signalled(signal.SIGUSR1))
    ((name, _),) = stage.writer.copies
    assert re.fullmatch(r"t-\d{8}T\d{6}Z\.db", name)


def test_a_copy_that_fails(stage):
    """The recording itself is worth more."""
    stage.fails = "copy"
    outcome = record(options(duration_s=0.2), begun=signalled(signal.SIGUSR1))
    assert outcome.reason == "duration"
    assert outcome.notes == ["no copy"]


def ring(**given):
    writer = Writer(Stage())
    counted = []
    evidence = SimpleNamespace(
        writer=writer,
        counted=counted,
        snapshot=lambda kind, *_, after_ns: counted.append((kind, after_ns)),
        streams=SimpleNamespace(tell_again=lambda: None),
    )
    writer.evidence = evidence
    return Ring(options(**given), None, evidence), writer


def test_a_recording_without_a_ring_keeps_everything():
    """However much there is."""
    made, writer = ring()
    writer.event_bytes = 1 << 40
    made.trim(0)
    assert writer.trims == []


def test_a_ring_is_trimmed_now_and_then():
    """Each second, or each hundredth of what it lasts; time is the monotonic clock's."""
    made, writer = ring(ring_bytes=1000)
    for now in range(0, 3_000_000_000, 100_000_000):
        made.trim(now)
    assert writer.trims == [{"most_bytes": 1000, "lasts_ns": None}] * 3
    made, writer = ring(ring_s=1000.0)
    for now in range(0, 30_000_000_000, 100_000_000):
        made.trim(now)
    assert writer.trims == [{"most_bytes": None, "lasts_ns": 10**12}] * 3


def counted(writer):
    """Whether the counters were read since the last time."""
    found, writer.evidence.counted[:] = [*writer.evidence.counted], []
    assert all(kind == "counters" and after_ns for kind, after_ns in found)
    return len(found)


def test_counters_are_read_again_where_a_ring_has_turned():
    """What comes then will be the oldest in it: of a size where something goes, of a time each eighth of it."""
    made, writer = ring(ring_bytes=1000)
    made.trim(0)
    assert counted(writer) == 0
    writer.goes = True
    for now in range(1_000_000_000, 6_000_000_000, 500_000_000):
        made.trim(now)
    assert counted(writer) == 5
    made, writer = ring(ring_s=80.0)
    for now in range(0, 80_000_000_000, 100_000_000):
        made.trim(now)
    assert counted(writer) == 8


def test_a_crowded_ring_is_trimmed_at_once():
    """A flood must not fill the disk within a second."""
    made, writer = ring(ring_bytes=1000)
    made.trim(0)
    for size, trims in ((1250, 1), (1251, 2), (1300, 3), (900, 3)):
        writer.event_bytes = size
        made.trim(1)
        assert len(writer.trims) == trims


def test_the_loop_trims_the_ring(stage):
    """Whatever keeps it waiting."""
    record(options(ring_bytes=1000, duration_s=0.1))
    assert stage.writer.trims


@pytest.fixture
def guarded():
    """A guardian with a watch, and a clock that stands still."""
    now = SimpleNamespace(ns=10**9)
    guardian, watch = Guardian(Stage()), Watch(Stage())
    progress = Progress()
    kept = Guarded(guardian, [watch], Report(progress, lambda _: None))
    return SimpleNamespace(
        now=now,
        guardian=guardian,
        watch=watch,
        keep=lambda: kept.keep(now.ns),
        notes=progress.notes,
    )


def test_the_loop_keeps_a_guardian(stage, monkeypatch):
    """It is killed when recording has begun."""
    monkeypatch.setattr(Pace, "due_in_ns", 10**12)

    def begun(_):
        stage.guardian.deaths = 1

    record(options(duration_s=0.8), begun=begun)
    assert stage.guardian.renewed == 1


def test_a_guardian_that_lives_is_left_alone(guarded):
    """However long."""
    for _ in range(100):
        guarded.now.ns += 10**9
        guarded.keep()
    assert (guarded.guardian.renewed, guarded.notes) == (0, [])


def test_a_guardian_that_was_killed_is_started_again(guarded):
    """Half a second later, and each time; the user is notified once."""
    for death in (1, 2):
        guarded.guardian.deaths = 1
        guarded.keep()
        guarded.now.ns += 499_999_999
        guarded.keep()
        assert guarded.guardian.renewed == death - 1
        guarded.now.ns += 1
        guarded.keep()
        guarded.keep()
        assert guarded.guardian.renewed == death
    assert guarded.notes == ["somebody killed the guardian: started again"]


def test_no_guardian_is_forked_while_a_watch_works(guarded):
    """A fork would copy whatever lock the watch's thread holds; later it is done all the same."""
    guarded.guardian.deaths = 1
    guarded.keep()
    guarded.now.ns += 10**9
    with guarded.watch.working:
        thread = threading.Thread(target=guarded.keep)
        thread.start()
        thread.join()
        assert guarded.guardian.renewed == 0
    guarded.keep()
    assert guarded.guardian.renewed == 1
    assert not guarded.watch.working.locked()


def test_a_guardian_that_cannot_be_started_is_reported(guarded, monkeypatch):
    """Once: nothing is tried again."""

    def renew():
        guarded.guardian.renewed += 1
        raise HostError("no memory")

    monkeypatch.setattr(guarded.guardian, "renew", renew)
    guarded.guardian.deaths = 1
    for _ in range(5):
        guarded.keep()
        guarded.now.ns += 10**9
    assert guarded.guardian.renewed == 1
    assert "no memory" in guarded.notes[0]
    assert "iptrec cleanup" in guarded.notes[0]
