"""An error names what to give in its reader's words: options for who typed a command, arguments for Python."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from command import iptrec as command
from handmade import HandMade

import iptrec
from iptrec import child_recorder, errors
from iptrec.recording.writer import Writer

LOOPBACK = str(Path(__file__).parents[1] / "samples" / "loopback.db")


def test_the_words_of_both():
    """One text; what it advises is named twice. It stays so when it goes through a pickle."""
    error = iptrec.UsageError("a.db exists; use ", errors.FORCE, " or ", errors.ANOTHER_OUTPUT)
    for one in (error, pickle.loads(pickle.dumps(error))):  # noqa: S301 - ours
        assert str(one) == "a.db exists; use force=True or another output"
        assert one.typed == "a.db exists; use --force or another -o"
    assert str(iptrec.HostError("plain")) == iptrec.HostError("plain").typed == "plain"


def exists(tmp_path):
    path = tmp_path / "t.db"
    path.write_text("mine")
    Writer.create(path, HandMade().facts)


def no_directory(tmp_path):
    Writer.create(tmp_path / "no" / "t.db", HandMade().facts)


def no_regular_file(tmp_path):
    (tmp_path / "t.db").mkdir()
    Writer.create(tmp_path / "t.db", HandMade().facts, force=True)


def slow(tmp_path):
    recording = tmp_path / "t.db"
    with Writer.create(recording, HandMade().facts) as writer:
        writer.close(2000, "test")
    endless = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    with iptrec.open(recording) as opened:
        list(opened.query(f"SELECT max(i) FROM ({endless})", timeout_s=0.01))


def filtered(tmp_path):
    recording = tmp_path / "t.db"
    with Writer.create(recording, HandMade().facts) as writer:
        writer.close(2000, "test")
    with iptrec.open(recording) as opened:
        opened.packets("inbound")


ADVICE = {
    exists: ("use force=True or another output", "use --force or another -o"),
    no_directory: ("make it or use another output", "make it or use another -o"),
    no_regular_file: ("use another output", "use another -o"),
    slow: ("see timeout_s", "see --timeout"),
    filtered: ("for interfaces there is iface", "for interfaces there is --iface"),
}


@pytest.mark.parametrize("cause", ADVICE)
def test_advice(tmp_path, cause):
    """Nothing else of the two texts differs."""
    python, typed = ADVICE[cause]
    with pytest.raises(iptrec.IptrecError) as raised:
        cause(tmp_path)
    assert str(raised.value).endswith(f"; {python}")
    assert raised.value.typed == str(raised.value).removesuffix(python) + typed
    assert " -" not in str(raised.value)


def test_the_command_line_has_its_own():
    """It is typed there."""
    done = command("show", LOOPBACK, "inbound")
    assert done.stderr.endswith("for interfaces there is --iface\n")


def test_what_a_recorder_says(monkeypatch, tmp_path):
    """Of the child's errors the words of Python come through."""
    error = iptrec.RecordingError("t.db exists; use ", errors.FORCE)
    answer = {"error": type(error).__name__, "text": str(error)}
    monkeypatch.setattr(child_recorder, "_answers", lambda _: iter([answer]))
    monkeypatch.setattr(child_recorder, "iptrec", lambda *_, **__: ["true"])
    with pytest.raises(iptrec.RecordingError, match=r"use force=True$"):
        iptrec.record(tmp_path / "t.db")
