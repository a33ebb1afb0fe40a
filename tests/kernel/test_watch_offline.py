"""What a watch keeps in mind, and what it does without."""

from __future__ import annotations

import ctypes
import errno
import threading
import time
from queue import Queue

import pytest

from iptrec.kernel.legacy import lock, watch
from iptrec.kernel.legacy.followed import Followed
from iptrec.kernel.legacy.saved import Saved
from iptrec.kernel.legacy.watch import Watch


def test_watch_remembers_the_last_states():
    """Rules that are new each second would otherwise take 100 MB a day, small as they are."""
    made = Saved()
    for number in range(5000):
        made.keep("ipv4", b"%d" % number, b"rules %d" % number)
    assert len(made._contents) < 100
    assert made.get("ipv4", b"4999") == b"rules 4999"


class Table:
    """One table of the kernel's, by a number that tests change; in the place of `digest.Tables`."""

    rules = 0

    def __init__(self, _):
        pass

    def __exit__(self, *_):
        pass

    def loaded(self):
        return ["mangle"]

    def digest(self, _):
        return b"%d" % self.rules

    def unchanged_in_size(self, _):
        return True


class Logger:
    """Nobody switches it."""

    @staticmethod
    def keep(_):
        return False


@pytest.fixture
def legacy(monkeypatch, tmp_path):
    """A watch of `Table`, all that it finds, and a function that uses the lock as a command does."""
    xtables_lock = tmp_path / "lock"
    xtables_lock.touch()
    monkeypatch.setenv(lock.VARIABLE, str(xtables_lock))
    monkeypatch.setattr(watch, "Tables", Table)
    monkeypatch.setattr(Table, "rules", 0)
    monkeypatch.setattr(watch.iptables, "save", lambda *_, **__: ("", b"%d" % Table.rules))
    found = []
    made = Watch({"ipv4": []}, {"ipv4": Logger}, found.append, None)
    assert made.noted("ipv4", ["mangle"]) == {}
    yield made, found, lambda: xtables_lock.open("rb").close()
    made.stop()


def test_a_change_before_the_first_look_tells_that_there_is_another_lock(legacy):
    """Who has our lock afterwards is not taken for who changed the table before."""
    made, found, use_lock = legacy
    Table.rules = 1  # nobody had the lock
    made.look()
    Table.rules = 2
    changed_ns = time.time_ns()
    made.caught_up(time.time_ns())
    use_lock()
    made.look()
    assert [one.content for one in found] == [b"1", b"2"]
    assert found[1].after_ns < changed_ns


def test_a_change_between_a_look_and_the_next_file(legacy):
    """It is known when the table was last seen as it was."""
    made, found, use_lock = legacy
    made.look()
    looked_ns = time.time_ns()
    assert made.noted("ipv4", ["mangle"]) == {}
    Table.rules = 1
    use_lock()
    assert 0 < made.noted("ipv4", ["mangle"])["mangle"] - looked_ns < time.time_ns() - looked_ns
    assert made.noted("ipv4", ["mangle"]) == {}
    for _ in range(2):
        use_lock()
    assert made.noted("ipv4", ["mangle"]), "it may have been another one meanwhile"
    made.look()
    assert found == []


def test_a_snapshot_of_a_table_that_changes_all_the_time(legacy):
    """Which state it is nobody knows: neither what was before it, nor what is there now."""
    made, found, _ = legacy
    made.unsure("ipv4", ["mangle"])
    made.look()
    assert [(one.content, one.after_ns == 0) for one in found] == [(None, True), (b"0", False)]


def test_what_was_seen_a_moment_ago_is_looked_at_before_the_next_file(legacy):
    """Of rules that have the size of those before nothing else tells."""
    made, found, _ = legacy
    made._known["ipv4", "mangle"].cost_ns = 1 << 40
    made._known["ipv4", "mangle"].looked_ns = time.monotonic_ns()
    Table.rules = 1
    made.look()
    assert [one.content for one in found] == [b"1"]


class Astray:
    """Replacements of which one was made in a way that is not told."""

    astray = True


def test_replacements_that_are_not_all_told_are_believed_no_more(legacy):
    """It is said, and tables are looked at as where nobody tells."""
    made, found, use_lock = legacy
    made._told = Followed(Astray, made._printing)
    Table.rules = 1
    use_lock()
    made.look()
    assert "replaced in ways that are not told" in str(found.pop(0))
    assert [one.content for one in found] == [b"1"]
    assert not made.follows()


class NoInotify:
    """The C library where a user has no inotify instance left."""

    @staticmethod
    def inotify_init1(_):
        ctypes.set_errno(errno.EMFILE)
        return -1


def test_watch_without_inotify_looks_now_and_then(monkeypatch):
    """Somebody else's programs may have them all; that is said, and tables are looked at all the same."""
    monkeypatch.setattr(lock, "libc", NoInotify)
    found = Queue()
    looked = threading.Event()
    blind = Watch({}, {}, found.put, None)
    monkeypatch.setattr(blind, "_look", lambda **_: looked.set())
    blind.start()
    assert looked.wait(10)
    blind.stop()
    assert "Too many open files; changes of rules are seen up to a second late" in str(
        found.get(timeout=10)
    )
    assert found.empty()


def test_watch_goes_on_after_any_error(monkeypatch):
    """Without it a recording would say that no rule changed: the thread's end is nobody's to see."""
    found = Queue()
    made = Watch({}, {}, found.put, None)
    errors = [MemoryError(), IndexError("7")]

    def look(**_):
        if errors:
            raise errors.pop(0)

    monkeypatch.setattr(made, "_look", look)
    made.start()
    told = [str(found.get(timeout=10)) for _ in range(2)]
    made.stop()
    assert told == [
        "cannot look at the rules: MemoryError()",
        "cannot look at the rules: IndexError('7')",
    ]
