"""The xtables lock file under inotify: who had it when, on a file of one's own."""

from __future__ import annotations

import os

import pytest

from iptrec.kernel.legacy.lock import VARIABLE, Lock


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """The lock, and how a command comes to its file."""
    path = tmp_path / "xtables.lock"
    path.touch()
    monkeypatch.setenv(VARIABLE, str(path))
    watched = Lock()
    yield watched, lambda: os.open(path, os.O_RDONLY)
    watched.close()


def test_a_change_comes_after_the_lock_was_last_seen_unused(lock):
    """The time is that before the first use that was not known yet, however late it is read."""
    watched, opened = lock
    watched.note_quiet(100)
    uses = watched.uses
    command = opened()
    watched.note_quiet(200)  # it is reported, and not read
    os.close(command)
    watched.note_quiet(300)
    assert watched.unused_until(uses) == 0  # nothing was read
    assert watched.read() == 1
    assert watched.unused_until(uses) == 100
    watched.note_quiet(400)
    uses = watched.uses
    os.close(opened())
    watched.read()
    assert watched.unused_until(uses) == 400


def test_while_somebody_has_it_nothing_is_quiet(lock):
    """Though all that was reported was read: the change is still to come."""
    watched, opened = lock
    watched.note_quiet(100)
    command = opened()
    watched.read()
    assert watched.holders == 1
    watched.note_quiet(200)
    uses = watched.uses
    os.close(command)
    watched.read()
    assert watched.unused_until(0) == 100
    assert watched.unused_until(uses) == 0  # it had begun before


def test_of_uses_long_ago_nothing_is_known(lock):
    """A later one than the first says nothing."""
    watched, opened = lock
    for number in range(200):
        watched.note_quiet(number + 1)
        os.close(opened())
        watched.read()
    assert watched.unused_until(0) == 0
    assert watched.unused_until(watched.uses - 2) == 200


def test_two_at_once(lock):
    """The second waits for the first; quiet is it after both."""
    watched, opened = lock
    watched.note_quiet(100)
    first = opened()
    watched.read()
    second = opened()
    watched.read()
    os.close(first)
    watched.read()
    watched.note_quiet(200)
    os.close(second)
    assert watched.read() == 2
    assert watched.unused_until(0) == 100
