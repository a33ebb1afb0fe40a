"""The order of doing and undoing, whatever fails."""

from __future__ import annotations

import itertools
import re
import signal
from pathlib import Path

import pytest
from fake_recorder import Backend, options, signalled, take_the_stage

from iptrec.errors import HostError, UsageError
from iptrec.recorder import backends, session
from iptrec.recorder.session import record

PHASES = re.findall(r"^    - (\w+):", session._Session.__doc__, re.MULTILINE)


@pytest.fixture
def stage(monkeypatch):
    return take_the_stage(monkeypatch)


def test_the_phases_come_in_the_order_that_is_written_down(stage):
    """The list in the docstring is what is done."""
    outcome = record(options(command=["true"]))
    assert stage.done == PHASES
    assert (outcome.reason, outcome.exit_status) == ("command", 0)
    assert stage.writer.kept
    assert stage.writer.reason == "command"


def test_the_list_of_phases_is_whole():
    """The test above would pass for an empty list as well."""
    assert PHASES[:3] == ["guard", "choose", "open"]
    assert PHASES[-2:] == ["close", "dismiss"]
    assert len(PHASES) == len(set(PHASES)) == 20


# The undoing, by the phase that registers it.
UNDOING = {"insert": "remove", "prepare": "undo"}


@pytest.mark.parametrize("phase", PHASES[1 : PHASES.index("count")])
def test_what_was_done_is_undone_where_a_phase_fails(stage, phase):
    """In reverse, and only that; there is a file only where events were recorded."""
    stage.fails = phase
    with pytest.raises(HostError, match=f"^no {phase}$"):
        record(options())
    at = PHASES.index(phase)
    undone = [undoing for begins, undoing in UNDOING.items() if at >= PHASES.index(begins)]
    looked_last = ["stop"] if phase == "loop" else []
    assert stage.done == [*PHASES[: at + 1], *looked_last, *undone, "dismiss"]
    if at > PHASES.index("create"):
        assert stage.writer.kept == (phase in ("begin", "loop"))


@pytest.mark.parametrize("phase", ["drain", "stop", "conclude", "again", "close"])
def test_what_fails_after_the_loop_keeps_the_file(stage, phase):
    """Everything is undone all the same."""
    stage.fails = phase
    with pytest.raises(HostError, match=f"^no {phase}$"):
        record(options())
    assert [one for one in stage.done if one in ("remove", "undo")] == ["remove", "undo"]
    assert stage.done[-1] == "dismiss"
    assert stage.writer.kept


def test_a_step_that_cannot_be_undone_stops_no_other_one(stage):
    """The guardian is charged with it, and the user is notified."""
    stage.fails = "remove"
    with pytest.raises(HostError) as told:
        record(options())
    assert stage.done[stage.done.index("remove") :] == [
        "remove",
        "conclude",
        "undo",
        "close",
        "charge",
    ]
    assert str(told.value) == (
        "recorded to t.db, but not everything could be undone (no remove): the guardian goes on trying;"
        " iptrec cleanup finds what is left"
    )


def test_of_no_event_the_changes_of_rules_before_it_are_missed(stage, monkeypatch):
    """The events end before what is told of rules is taken, and stay ended while programs list these."""
    given = []

    class Told(Backend):
        def take_last_changes(self, _):
            assert self._stage.done[-1] == "drain"
            given.append(len(self._stage.sockets))
            self._stage.sockets[0].give(5)

    monkeypatch.setitem(backends.BACKENDS, "legacy", lambda setting: Told(stage, setting))
    assert record(options()).events == 0
    assert given == [1]


def test_two_failures_are_reported_together(stage):
    """Why it ended, and what is left behind."""
    stage.fails = "remove"
    stage.out.append(("ipv6", "nft", ["OUTPUT drop"]))
    with pytest.raises(
        HostError, match=r"^no interface 'eth7' here; there are: lo; somebody changed the ipv6 raw"
    ):
        record(options(interfaces=("eth7",)))
    assert "remove" not in stage.done


@pytest.mark.parametrize(
    ("listed", "way"), [(True, "iptrec cleanup --restore"), (False, "-A OUTPUT")]
)
def test_rules_that_stayed_out_are_reported(stage, monkeypatch, listed, way):
    """Without a list that cleanup finds the rules themselves are."""
    stage.out.append(("ipv4", "legacy", ["[0:0] -A OUTPUT"]))
    monkeypatch.setattr("fake_recorder.Guardian.listed", listed)
    with pytest.raises(HostError, match=f"1 rule\\).*{way}"):
        record(options())
    assert stage.writer.kept


class Two:
    """Two backends that say who they are."""

    def __init__(self, stage, monkeypatch):
        self.made = []
        monkeypatch.setitem(backends.BACKENDS, "legacy", self.maker(stage, "nflog"))
        monkeypatch.setitem(backends.BACKENDS, "nft", self.maker(stage, "nftrace"))

    def maker(self, stage, kind):
        class Named(Backend):
            def meet(self, phase):
                stage.meet(f"{phase} {kind}")

            def open(self, opened):
                self.meet("open")
                return super().open(opened)

            def prepare(self, undo):
                undo.step(lambda: self.meet("undo"))

            def insert(self, evidence, undo):
                super().insert(evidence, undo)
                undo.step(lambda: self.meet("remove"))
                self.meet("insert")

            def baseline(self, _):
                self.meet("baseline")

        def make(setting):
            self.made.append(Named(stage, setting, kind))
            return self.made[-1]

        return make


def test_two_backends_are_undone_in_reverse(stage, monkeypatch):
    """Each one's rulesets are kept before the next one's rules are inserted."""
    two = Two(stage, monkeypatch)
    record(options(backend="both"))
    assert [one for one in stage.done if one.endswith(("nflog", "nftrace"))] == [
        "open nftrace", "open nflog", "insert nflog", "baseline nflog", "insert nftrace", "baseline nftrace",
        "remove nftrace", "remove nflog", "undo nftrace", "undo nflog",
    ]  # fmt: skip
    kinds = [kind for kind, _ in stage.writer.streams]
    assert kinds == ["rtnetlink", "route-answers", "nftrace", "nflog"]
    assert all(one.watch.stopped for one in two.made)


def test_packets_of_two_backends_are_counted_once(stage, monkeypatch):
    """Each packet passes the raw tables of both: only the first backend counts."""
    two = Two(stage, monkeypatch)
    monkeypatch.setattr(two, "made", Loaded({"nflog": [2, 3], "nftrace": [10]}))
    outcome = record(options(backend="both", packets=5))
    assert (outcome.reason, outcome.packets, outcome.events) == ("packets", 5, 15)


class Loaded(list):
    """Gives each backend its events as soon as it is made."""

    def __init__(self, events):
        super().__init__()
        self._events = events

    def append(self, backend):
        backend.events = self._events[backend._name]
        super().append(backend)


def test_progress_begins_when_events_are_recorded(stage):
    """Nothing is told before, and the last time there is a reason."""
    told = []
    stage_at = []

    def begun(descriptor):
        stage_at.append((list(stage.done), descriptor))

    record(options(), lambda now: told.append(now.reason), begun)
    ((done, descriptor),) = stage_at
    assert done == PHASES[: PHASES.index("begin")]
    assert descriptor == stage.writer.descriptor
    assert told == ["", "duration"]


@pytest.mark.usefixtures("stage")
def test_the_command_ends_the_recording_and_gives_its_status():
    """As a shell gives it; a command that we ended is none of our failures."""
    assert record(options(command=["sh", "-c", "exit 7"])).exit_status == 7
    assert record(options(command=["sh", "-c", "kill -9 $$"])).exit_status == 137
    outcome = record(options(command=["sleep", "60"], duration_s=0))
    assert (outcome.reason, outcome.exit_status) == ("duration", 0)


def test_a_command_that_cannot_be_run_leaves_no_file(stage):
    """It is found before anything counts as recorded."""
    with pytest.raises(UsageError, match=r"^cannot run /nowhere: No such file or directory; give"):
        record(options(command=["/nowhere"]))
    assert not stage.writer.kept
    assert stage.done[-3:] == ["remove", "undo", "dismiss"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_recording(stage, number):
    """Each one in order; afterwards signals do what they did before."""
    before = signal.getsignal(number), signal.set_wakeup_fd(-1)
    outcome = record(options(duration_s=60), begun=signalled(number))
    assert outcome.reason == signal.Signals(number).name
    assert stage.done == PHASES
    assert (signal.getsignal(number), signal.set_wakeup_fd(-1)) == before


@pytest.mark.usefixtures("stage")
def test_ctrl_c_is_for_the_command_to_answer():
    """The terminal sends it to both: the command's end is the reason."""
    outcome = record(options(command=["sleep", "0.2"]), begun=signalled(signal.SIGINT))
    assert outcome.reason == "command"


@pytest.mark.usefixtures("stage")
def test_a_hangup_that_was_ignored_stays_ignored():
    """Nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert record(options(duration_s=0.1), begun=signalled(signal.SIGHUP)).reason == "duration"
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("stage")
def test_no_descriptor_stays_open():
    """A process may record again and again."""

    def count():
        return len(list(Path("/proc/self/fd").iterdir()))

    record(options())
    before = count()
    for _ in itertools.repeat(None, 3):
        record(options())
    assert count() == before
