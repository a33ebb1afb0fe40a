# ruff: noqa: ARG001, ARG002 - a fake takes what the real one takes
"""A recorder of fakes: what the kernel would say is said by hand, and all that is done is written down.

Each fake notes in `Stage.done` which phase of the session it met; `Stage.fails` names one that is to fail.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from iptrec.errors import HostError
from iptrec.kernel.batches import SLOTS, Batch, Overrun
from iptrec.recorder import backends, session
from iptrec.recorder.options import Options
from iptrec.recorder.streams import Events, Side
from iptrec.recording.pace import Pace

KIND = "nflog"


class Stage:
    """What happens, in its order."""

    def __init__(self):
        self.done = []
        self.fails = ""
        self.out = []  # of the guardian's changes
        self.writer = None
        self.guardian = None
        self.sockets = []
        self.watches = []
        self.stored = []  # what a watch found, and in which phase it was stored

    def meet(self, phase):
        """Note a phase, once in a row; fail where that is wanted."""
        if self.done[-1:] != [phase]:
            self.done.append(phase)
        if phase == self.fails:
            raise HostError(f"no {phase}")


class Writer:
    """A file in memory."""

    path = Path("t.db")
    descriptor = 0
    pace = Pace()
    event_bytes = state_bytes = stored_bytes = size = 0
    followed = False

    def __init__(self, stage):
        self._stage = stage
        self.streams, self.snapshots, self.losses, self.appended = [], [], [], []
        self.notes = []
        self.trims, self.copies = [], []
        self.goes = False  # something, when the ring is trimmed
        self.phases = []  # in which each batch came
        self.file_bytes = 0
        self.keeps = True
        self.kept = None  # whether there is a file in the end
        self.reason = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.kept = kind is None or self.keeps

    def add_namespace(self, name, inode):
        return 1

    def add_stream(self, namespace, kind, detail):
        self.streams.append((kind, detail))
        return len(self.streams)

    def add_snapshot(self, namespace, kind, time_ns, source, content, after_ns=None):
        self.snapshots.append((kind, content))

    def together(self):
        return contextlib.nullcontext()

    def add_loss(self, loss):
        self.losses.append(loss)

    def append(self, stream, received_ns, lengths, data, notes=None):
        self.phases += self._stage.done[-1:]
        self.appended.append((stream, lengths.tolist(), data))
        self.notes += [] if notes is None else [notes]
        self.file_bytes += len(data)

    def commit(self):
        pass

    def trim(self, **limits):
        self.trims.append(limits)
        return self.goes

    def copy(self, path, stopped_ns, reason):
        self._stage.meet("copy")
        self.copies.append((path.name, reason))

    def close(self, stopped_ns, reason):
        self._stage.meet("close")
        self.reason = reason


class Guardian:
    """Nobody's child."""

    there = listed = True

    def __init__(self, stage):
        self._stage = stage
        self.changes = SimpleNamespace(out=stage.out)
        self.deaths = 0
        self.renewed = 0

    def ended(self):
        self.deaths, ended = max(self.deaths - 1, 0), self.deaths > 0
        return ended

    def renew(self):
        self.renewed += 1

    def dismiss(self):
        self._stage.meet("dismiss")

    def charge(self):
        self._stage.meet("charge")


class EventSocket:
    """Gives what it was told to: a number of events, a `Batch`, or an `Overrun`."""

    receive_buffer = 4096
    untapped = "a fake"
    pressing = False

    def __init__(self, stage, script=(), unseen=0):
        self._stage = stage
        self._reading, self._writing = socket.socketpair()
        self.script = []
        self._unseen = unseen
        for one in script:
            self.give(one)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._reading.close()
        self._writing.close()

    def give(self, one):
        self.script.append(one)
        self._writing.send(b"x")

    def fileno(self):
        return self._reading.fileno()

    def receive(self):
        if not self.script:
            return None
        self._reading.recv(1)
        one = self.script.pop(0)
        if isinstance(one, Overrun):
            raise one
        return one if isinstance(one, Batch) else batch(one)

    def stop(self):
        self._stage.meet("drain")

    def unseen(self):
        return self._unseen


def batch(count, *, lost=0, truncated=0, received_ns=2000):
    """So many events of two bytes."""
    lengths = np.full(count, 2, np.uint32)
    return Batch(received_ns, lengths, b"ev" * count, lost, truncated, emptied=count < SLOTS)


class SideSocket:
    """Gives datagrams, and raises errors."""

    sent_ns = None

    def __init__(self, script=()):
        self._reading, self._writing = socket.socketpair()
        self._script = list(script)
        if script:
            self._writing.send(b"x")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._reading.close()
        self._writing.close()

    def fileno(self):
        return self._reading.fileno()

    def receive(self):
        if not self._script:
            with contextlib.suppress(BlockingIOError):
                self._reading.recv(1, socket.MSG_DONTWAIT)
            return None
        one = self._script.pop(0)
        if isinstance(one, OSError):
            raise one
        return one


class Watch:
    """Looks at nothing."""

    told = True

    def __init__(self, stage, found=lambda _: None):
        self._stage = stage
        self._found = found
        self.working = threading.Lock()
        self.started = self.stopped = 0

    def start(self):
        self.started += 1
        self._found("start")

    def stop(self):
        self.stopped += 1
        if self.stopped == 1 and self.started:
            self._stage.meet("stop")
            self._found("stop")


class Backend:
    """A way to trace that changes nothing."""

    gather_s = 0

    def __init__(self, stage, setting, name=KIND):
        self._stage, self._name = stage, name
        self.setting = setting
        self.sides = []
        self.events = []

    def open(self, opened):
        self._stage.meet("open")
        events = opened.enter_context(EventSocket(self._stage, self.events))
        self._stage.sockets.append(events)
        return self.sides, Events(events, self._name, {})

    def prepare(self, undo):
        undo.step(lambda: self._stage.meet("undo"))
        self._stage.meet("prepare")

    def insert(self, evidence, undo):
        self.watch = Watch(self._stage, self._found)
        self._stage.watches.append(self.watch)
        undo.step(lambda: self._stage.meet("remove"))
        self._stage.meet("insert")
        undo.callback(self.watch.stop)

    def baseline(self, evidence):
        self._stage.meet("baseline")
        evidence.snapshot("iptables-save", self._name, b"rules")

    def matched(self):
        self._stage.meet("count")
        return {"ipv4 OUTPUT": 3}

    def take_last_changes(self, evidence):
        pass

    def conclude(self):
        self._stage.meet("conclude")
        self._found("conclude")

    def traversals(self, data):
        return data.count(b"ev")

    def caught_up(self):
        self._stage.meet("loop")

    def _found(self, what):
        self.setting.findings.put(lambda: self._stage.stored.append((what, self._stage.done[-1])))


class Asker(SideSocket):
    """Asks nobody, and keeps what it is given."""

    by_ports = False
    changes = 0

    def __init__(self, failed=None):
        super().__init__()
        self.working = threading.Lock()
        self.asked, self.unasked = [], []
        self.room = 1000

    def start(self):
        pass

    stop = begin_anew = start

    def ask(self, question):
        if len(self.asked) >= self.room:
            return False
        self.asked.append(question)
        return True

    def tell_unasked(self, questions, events):
        self.unasked.append((questions, events))


class Child:
    """What a child would look at."""

    def __init__(self, stage, what):
        self.what = what
        stage.meet("look" if what == "the network" else "again")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def result(self):
        return (
            {"links": b"[]", "owners": b"{}"} if self.what == "the network" else {"ipsets": b"{}"}
        )


def take_the_stage(monkeypatch, made=None):
    """Put fakes in the place of all that touches the host; ``made``: a backend for a stage and a setting."""
    stage = Stage()

    def create(path, facts, *, force):
        stage.meet("create")
        stage.writer = Writer(stage)
        return stage.writer

    def guardian(comment, output, asking):
        stage.meet("guard")
        stage.guardian = Guardian(stage)
        return stage.guardian

    def backend(setting):
        stage.meet("choose")
        return (made or Backend)(stage, setting)

    monkeypatch.setitem(backends.BACKENDS, "legacy", backend)
    for name, fake in {
        "Writer": SimpleNamespace(create=create),
        "Guardian": guardian,
        "Forked": lambda what, _: Child(stage, what),
        "privileges": SimpleNamespace(
            require_net_admin=lambda: None, keep=lambda _: stage.meet("begin"), RECORDER=()
        ),
        "sockets": SimpleNamespace(closed=lambda: None),
        "links": SimpleNamespace(
            LinkSocket=SideSocket,
            WaySocket=contextlib.nullcontext,
            WAYS=(),
            dumps=lambda: {"links": b"[1]"},
        ),
        "asker": SimpleNamespace(Asker=Asker),
        "senders": SimpleNamespace(opened=lambda *_: None),
    }.items():
        monkeypatch.setattr(session, name, fake)
    monkeypatch.setattr(session.netns, "interfaces", lambda: ["lo"])
    start = session.Command.start

    def started(command, undo, wake):
        stage.meet("start")
        return start(command, undo, wake)

    monkeypatch.setattr(session.Command, "start", started)
    return stage


def options(**given):
    """Of a recording that ends at once, unless another end is given."""
    ends = {"duration_s", "packets", "max_bytes", "trigger", "command"}
    if not ends & given.keys():
        given["duration_s"] = 0
    base = {"output": Path("t.db"), "bytecodes": {"ipv4": None}, "backend": "legacy", "drops": "no"}
    return Options(**base | given)


def signalled(number):
    """A callback for `record` that sends this process a signal."""
    return lambda *_: os.kill(os.getpid(), number)


__all__ = ["Side", "batch", "options", "signalled", "take_the_stage"]
