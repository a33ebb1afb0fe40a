# ruff: noqa: ARG002 - a fake takes what the real one takes
"""What a list of changes says after it was written down, and what undoing makes of it."""

from __future__ import annotations

import json
import os

import pytest

from iptrec.errors import HostError
from iptrec.kernel.drops.monitor import Borrowed, Config, Monitor
from iptrec.kernel.undo import changes, lists
from iptrec.kernel.undo.changes import Changes, RawTable

COMMENT = "iptrec:00000000-0000-0000-0000-000000000000"


BORROWED = Borrowed(Config(0, 0, 1000), Config(1, 146, 1735))


class Tables:
    """Raw tables of a backend; ``refuses`` is raised by whatever is done to them."""

    def __init__(self):
        self.done = []
        self.stays_out = []
        self.refuses = None

    def _do(self, *deed):
        if self.refuses is not None:
            raise self.refuses
        self.done.append(deed)
        return list(self.stays_out)

    def remove(self, family, comment, put_back, made):
        return self._do("remove", family, list(put_back), list(made))

    def append(self, family, lines):
        return self._do("append", family, list(lines))

    def staying_out(self, family, comment, lines):
        return self._do("look", family, list(lines))

    def readable(self, lines):
        return [f"<{one}>" for one in lines]

    def understood(self, line):
        return line != "nonsense"


@pytest.fixture
def tables(monkeypatch):
    found = {"legacy": Tables(), "nft": Tables()}
    monkeypatch.setattr(changes, "RAW_TABLES", found)
    return found


def flushed():
    """A recorder's changes under --flush, to the raw tables of both backends."""
    made = Changes(COMMENT, 7, "/t.db", cookie=8)
    for backend in ("legacy", "nft"):
        table = made.of(backend, "ipv4")
        table.ours, table.out, table.made = True, ["a", "b"], ["OUTPUT"]
    return made


def written(text):
    descriptor = os.memfd_create("list")
    os.write(descriptor, text)
    return descriptor


@pytest.mark.usefixtures("tables")
def test_what_is_read_is_what_was_written():
    """The last whole line counts: what was cut off had not been done yet."""
    made = flushed()
    made.loggers["ipv6"] = "nf_log_syslog"
    made.monitor = BORROWED
    descriptor = written(b"")
    lists.write(Changes(COMMENT, 7, "/t.db"), descriptor)
    lists.write(made, descriptor)
    os.write(descriptor, b'{"comment": "ipt')
    assert lists.read(descriptor) == made
    os.close(descriptor)


def entry(**changed):
    """A list that says so."""
    whole = {"comment": COMMENT, "netns": 7, "output": "/t.db", "cookie": 8}
    return json.dumps(whole | changed).encode() + b"\n"


def raw(**changed):
    return entry(raw=[{"backend": "nft", "family": "ipv4"} | changed])


STRANGE = {
    "empty": b"",
    "nothing": b"{}\n",
    "no object": b"[]\n",
    "no json": b"hello\n",
    "of another version": entry(rules={"ipv4": []}, nft_table=False),
    "another comment": entry(comment="mine"),
    "loggers": entry(loggers=["ipv4"]),
    "a family of loggers": entry(loggers={"arp": "x"}),
    "raw tables": entry(raw=7),
    "a raw table": entry(raw=["ipv4"]),
    "a family": raw(family="arp"),
    "a backend": raw(backend=["nft"]),
    "a backend that is not there": raw(backend="bpf"),
    "lines": raw(out="abc"),
    "a line": raw(kept=[7]),
    "a line of nonsense": raw(out=["nonsense"]),
    "another attribute": raw(more=1),
    "a monitor": entry(monitor=[1, 2]),
    "half a monitor": entry(monitor={"before": {"mode": 0, "truncation": 0, "queue": 1000}}),
    "a monitor's words": entry(
        monitor={name: {"mode": 0, "truncation": 0, "queue": "many"} for name in ("before", "ours")}
    ),
}


@pytest.mark.usefixtures("tables")
def test_a_plausible_list_is_read():
    """The test below would pass if none were."""
    for text in (
        entry(),
        entry(loggers={"ipv4": "x"}),
        raw(),
        raw(out=["a"], kept=["b"], made=[""]),
    ):
        descriptor = written(text)
        assert lists.read(descriptor).comment == COMMENT
        os.close(descriptor)


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("kind", STRANGE)
def test_strange_lists_say_nothing(kind):
    """Whatever is in /run: nothing is done that it says."""
    descriptor = written(STRANGE[kind])
    assert lists.read(descriptor) is None
    os.close(descriptor)


def test_undoing_twice_undoes_once(tables):
    """The guardian may do again what the recorder has done."""
    made = flushed()
    made.undo()
    made.undo()
    for backend in tables.values():
        assert backend.done == [("remove", "ipv4", ["a", "b"], ["OUTPUT"])]
    assert made.out == []


def test_what_stays_out_is_kept(tables):
    """It is not lost, and not put back by chance."""
    made = flushed()
    tables["nft"].stays_out = ["b"]
    made.undo()
    assert made.out == [("ipv4", "nft", ["<b>"])]
    made.undo()
    assert made.out == [("ipv4", "nft", ["<b>"])]


def test_our_rules_that_come_anew(tables):
    """What somebody replaced meanwhile is given up; the rest is still to be put back."""
    table = RawTable("nft", "ipv4", ours=True, out=["a", "b"])
    tables["nft"].stays_out = ["a"]
    table.give_up(COMMENT)
    assert (table.out, table.kept, table.ours) == (["b"], ["a"], True)


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_a_failure_to_restore_loses_nothing(tables, backend):
    """What could not be put behind the rules is still in the list that is written next."""
    made = Changes(COMMENT, 7, "/t.db", raw=[RawTable(backend, "ipv4", kept=["a", "b"])])
    tables[backend].refuses = HostError("try again")
    with pytest.raises(HostError, match="try again"):
        made.restore()
    assert made.out == [("ipv4", backend, ["<a>", "<b>"])]
    tables[backend].refuses = None
    made.restore()
    assert made.out == []


def test_what_the_kernel_refuses_is_told_and_kept(tables):
    """It names the first of them."""
    made = Changes(COMMENT, 7, "/t.db", raw=[RawTable("nft", "ipv6", kept=["a", "b"])])
    tables["nft"].stays_out = ["b"]
    with pytest.raises(HostError, match=r"refuses 1 rule of the ipv6 raw table .* `<b>`"):
        made.restore()
    assert made.out == [("ipv6", "nft", ["<b>"])]


class Asked(Monitor):
    """The host's drop monitor as somebody set it; a context manager as the socket that it is asked by."""

    def __init__(self, config=None):
        self.now = config
        self.done = []

    def config(self):
        return self.now

    def _ask(self, command, attributes=b""):
        self.done.append((command, attributes))
        return b""


@pytest.mark.parametrize(("now", "stopped"), [(BORROWED.ours, True), (Config(1, 0, 1000), False)])
def test_the_drop_monitor_is_given_back_while_it_is_ours(monkeypatch, now, stopped):
    """Once: stopped, then set as before. What somebody else has set is left alone."""
    asked = Asked(now)
    monkeypatch.setattr(changes, "Monitor", lambda _: asked)
    made = Changes(COMMENT, 7, "/t.db", monitor=BORROWED)
    made.undo("a socket")
    made.undo("a socket")
    assert [command for command, _ in asked.done] == ([4, 2] if stopped else [])
    assert made.monitor is None


def test_who_is_faster_keeps_the_drop_monitor():
    """What we set is set back, and nothing is left to be undone."""
    asked, expected = Asked(BORROWED.before), []

    def ask(command, *_):
        asked.done.append(command)
        if command == 3:
            raise HostError("somebody else uses it")
        return b""

    asked._ask = ask
    with pytest.raises(HostError, match="somebody else"):
        asked.borrow(146, expected.append)
    assert asked.done == [2, 3, 2]
    assert [one and one.before for one in expected] == [BORROWED.before, None]
