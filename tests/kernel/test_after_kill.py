"""What is told of a killed recorder's changes: no more than the list of its guardian tells."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from iptrec.kernel.undo import after_kill, lists
from iptrec.kernel.undo.changes import Changes

OUTPUT = Path("/somewhere/t.db")


@pytest.fixture
def state(tmp_path, monkeypatch):
    """In the place of /run/iptrec."""
    monkeypatch.setattr(lists, "STATE", tmp_path / "iptrec")
    monkeypatch.setattr(after_kill, "_PATIENCE_S", 0.1)
    lists.STATE.mkdir()
    return lists.STATE


def listed(state, name="a", output=OUTPUT):
    """A list that somebody is responsible for as long as the descriptor is open."""
    descriptor = os.open(state / f"{name}.json", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    lists.write(Changes(f"iptrec:{name}", 1, str(output)), descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def test_nothing_is_listed(state):
    """Nor is what others record, or an unreadable list, taken for it."""
    others = [listed(state, output="/else/t.db"), os.open(state / "b.json", os.O_CREAT)]
    (state / "c.json").write_text("[1]\n")
    (state / "d.json").write_text("{\n")
    assert after_kill.undone(OUTPUT) == after_kill.NOTHING
    for one in others:
        os.close(one)


def test_somebody_is_at_it(state):
    """For longer than we wait."""
    descriptor = listed(state)
    assert "is still undoing" in after_kill.undone(OUTPUT)
    os.close(descriptor)


def test_somebody_has_done_it(state, monkeypatch):
    """The list goes while we wait."""
    monkeypatch.setattr(after_kill, "_PATIENCE_S", 60)
    descriptor = listed(state)
    looked = threading.Event()
    found = lists.held
    monkeypatch.setattr(lists, "held", lambda one: (found(one), looked.set())[0])

    def undo():
        looked.wait()
        lists.forget(state / "a.json")

    guardian = threading.Thread(target=undo)
    guardian.start()
    assert after_kill.undone(OUTPUT) == after_kill.DONE
    guardian.join()
    os.close(descriptor)


def test_nobody_is_at_it(state):
    """The guardian was killed, too, or rules of the user stayed out."""
    os.close(listed(state))
    assert after_kill.undone(OUTPUT).endswith("run iptrec cleanup")


@pytest.mark.usefixtures("state")
def test_where_lists_have_no_names(monkeypatch):
    """It is not known."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert after_kill.undone(OUTPUT).startswith("run iptrec cleanup")
