"""The pipe between who calls `iptrec.record` and the recorder: neither waits for the other but in the end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading

import pytest

import iptrec
from iptrec import child_recorder
from iptrec.errors import FORCE, TakenError
from iptrec.kernel.iptables import RefusedError
from iptrec.kernel.legacy.lock import LockHeldError

STATE = {"events": 1, "lost": 0, "file_bytes": 2, "elapsed_ns": 3, "notes": []}
LAST = STATE | {"events": 9, "packets": 0, "reason": "duration", "exit_status": 0}


@pytest.fixture
def pipe():
    """Both ends of the smallest pipe that there is."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    yield reading, writing
    for one in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(one)


def read_all(reading):
    with os.fdopen(reading, "rb", closefd=False) as stream:
        return [json.loads(line) for line in stream]


def told_by_another(caller, answer, writing):
    """Tell the last word as the recorder does, then be gone."""

    def tell():
        caller.tell_at_last(answer)
        os.close(writing)

    thread = threading.Thread(target=tell)
    thread.start()
    return thread


@pytest.mark.parametrize("note", ["", "n" * 3000, "n" * 10_000], ids=["short", "long", "too long"])
def test_nobody_reads(pipe, note):
    """Telling waits for nobody: whole lines arrive, in their order, and the last one whatever it takes."""
    reading, writing = pipe
    caller = child_recorder._Caller(writing)
    for number in range(500):
        caller.tell(STATE | {"events": number, "notes": [note]})
    teller = told_by_another(caller, LAST | {"notes": [note]}, writing)
    *before, last = read_all(reading)
    teller.join()
    assert last == LAST | {"notes": [note]}
    numbers = [one["events"] for one in before]
    assert numbers == sorted(numbers)
    assert 0 < len(numbers) < 500


def test_who_reads_again_is_told_what_is_new(pipe):
    """What was dropped stays so."""
    reading, writing = pipe
    caller = child_recorder._Caller(writing)
    for number in range(500):
        caller.tell(STATE | {"events": number})
    os.read(reading, 4096)
    caller.tell(STATE | {"events": 501})
    os.close(writing)
    assert read_all(reading)[-1]["events"] == 501


def test_nobody_is_there(pipe):
    """Then the recorder stops as with SIGTERM; the last word is for nobody."""
    reading, writing = pipe
    caller = child_recorder._Caller(writing)
    os.close(reading)
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    try:
        caller.tell(STATE)
        caller.tell_at_last(LAST)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]


# It fills the pipe, and ends when it is told to and has said all: as a recorder did that waits.
STUBBORN = """\
import json, os, signal, sys
descriptor = int(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: None)
state = json.dumps(%(state)r).encode() + b"\\n"
try:
    for _ in range(5000):
        left = state
        while left:
            left = left[os.write(descriptor, left):]
    os.write(descriptor, json.dumps(%(last)r).encode() + b"\\n")
except BrokenPipeError:
    pass
""" % {"state": STATE, "last": LAST}  # noqa: UP031 - braces


@pytest.fixture
def stubborn(monkeypatch):
    """It takes the place of the recorder."""
    monkeypatch.setattr(
        child_recorder,
        "iptrec",
        lambda descriptor, *_, **__: [sys.executable, "-c", STUBBORN, descriptor],
    )


@pytest.mark.usefixtures("stubborn")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_while_the_pipe_is_full(tmp_path, error):
    """It comes out; nobody waits for who waits for us."""

    def progress(_):
        raise error("enough")

    outcome = []

    def record():
        try:
            iptrec.record(tmp_path / "t.db", progress=progress)
        except error as raised:
            outcome.append(str(raised))

    thread = threading.Thread(target=record, daemon=True)
    thread.start()
    thread.join(30)
    assert outcome == ["enough"]


@pytest.mark.usefixtures("stubborn")
def test_a_slow_caller_is_told_what_is_new(tmp_path):
    """Not all that went on meanwhile; in the end what came of it."""
    told = []
    recorded = iptrec.record(tmp_path / "t.db", progress=lambda far: told.append(far.events))
    assert (recorded.events, recorded.reason) == (9, "duration")
    assert told[-1] == 9
    assert len(told) < 1000


class SlipError(iptrec.UsageError):
    """A private class, two steps away from a public one."""


ERRORS = {
    iptrec.UsageError: [iptrec.UsageError("no"), type("Deeper", (SlipError,), {})("no")],
    TakenError: [LockHeldError("iptrec")],
    iptrec.HostError: [RefusedError("iptables-restore", "-A x", "no", 1)],
    iptrec.RecordingError: [iptrec.RecordingError("t.db exists; use ", FORCE)],
    iptrec.IptrecError: [iptrec.IptrecError("no"), type("Other", (iptrec.IptrecError,), {})("no")],
}


@pytest.mark.parametrize(
    ("public", "error"), [(public, one) for public, them in ERRORS.items() for one in them]
)
def test_an_error_arrives_as_its_nearest_known_class(public, error):
    """Its own may be one that no caller knows."""
    answer = json.loads(json.dumps(child_recorder._refusal(error)))
    with pytest.raises(public) as caught:
        child_recorder._raise_error(answer)
    assert type(caught.value) is public
    assert str(caught.value) == str(error)


def test_the_system_refuses():
    """In one line, after the file that it is about."""
    answer = child_recorder._refusal(FileNotFoundError(2, "No such file or directory", "/x"))
    with pytest.raises(iptrec.HostError, match=r"^/x: No such file or directory$"):
        child_recorder._raise_error(answer)


# What the child does instead of recording: it dies of a signal, or ends with a status.
ENDS = {
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", "^the recorder was killed by SIGKILL; "),
    "SIGSEGV": ("os.kill(os.getpid(), signal.SIGSEGV)", "^the recorder was killed by SIGSEGV; "),
    "signal without name": ("os.kill(os.getpid(), 40)", "^the recorder was killed by signal 40; "),
    "status": ("sys.exit(3)", r"^the recorder failed \(exit status 3\); "),
    "no word": ("sys.exit(0)", r"^the recorder failed \(exit status 0\); "),
}


@pytest.mark.parametrize("case", ENDS)
def test_it_ends_without_a_word(tmp_path, monkeypatch, case):
    """What is said is what was seen: how it ended, and no file where none is."""
    program, expected = ENDS[case]
    words = [sys.executable, "-c", f"import os, signal, sys; {program}"]
    monkeypatch.setattr(child_recorder, "iptrec", lambda *_, **__: words)
    with pytest.raises(iptrec.HostError, match=expected) as caught:
        iptrec.record(tmp_path / "t.db")
    assert "t.db" not in str(caught.value)
