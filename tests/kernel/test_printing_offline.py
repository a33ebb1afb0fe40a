"""States that are printed in their turn, without a kernel."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from iptrec.errors import HostError
from iptrec.kernel.legacy import printing
from iptrec.kernel.legacy.digest import Copy
from iptrec.kernel.legacy.printing import Printing, RefusedError
from iptrec.kernel.legacy.saved import Saved
from iptrec.kernel.legacy.states import State


def state(number):
    return State("ipv4", "filter", number, number + 1, "iptables-save -t filter", None)


def copy(number):
    return Copy(b"%d" % number, b"", b"entries")


class Printer:
    """Prints the digest of a copy when it may; in the place of `_Printer`."""

    def __init__(self):
        self.may = threading.Event()
        self.may.set()
        self.error = None
        self.printed_of = []
        self.killed = False

    def printed(self, _family, _table, copied):
        self.may.wait(10)
        if self.error is not None:
            raise self.error
        self.printed_of.append(copied.digest)
        return b"rules " + copied.digest

    def kill(self):
        self.killed = True
        self.error = RefusedError("killed")
        self.may.set()

    def close(self):
        pass


@pytest.fixture
def made(monkeypatch):
    """What prints, all that it reports, and the printer."""
    printer, found = Printer(), []
    monkeypatch.setattr(printing, "_Printer", lambda: printer)
    replacements = SimpleNamespace(begun=0)
    one = Printing(Saved(), found.append, replacements)
    yield SimpleNamespace(one=one, found=found, printer=printer, replacements=replacements)
    printer.may.set()
    one.stop()


def contents(found):
    return [one.content if isinstance(one, State) else str(one) for one in found]


def test_states_are_reported_in_their_order(made):
    """Also those that nobody saw, and that need not be printed."""
    made.printer.may.clear()
    made.one.put(state(1), copy(1))
    made.one.put(state(2))
    made.one.put(state(3), copy(1))
    assert made.found == []
    made.printer.may.set()
    made.one.drain()
    assert contents(made.found) == [b"rules 1", None, b"rules 1"]
    assert made.printer.printed_of == [b"1"], "what is known is not printed again"


def test_copies_that_wait_are_bounded(made, monkeypatch):
    monkeypatch.setattr(printing, "_MOST_BYTES", 10)
    made.printer.may.clear()
    for number in range(4):
        made.one.put(state(number), copy(number))
    made.printer.may.set()
    made.one.drain()
    assert contents(made.found) == [b"rules 0", b"rules 1", None, None]


def test_what_takes_too_long_in_the_end_is_unknown(made, monkeypatch):
    monkeypatch.setattr(printing, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(printing.iptables, "save", lambda *_, **__: ("", b"now"))
    monkeypatch.setattr(printing, "Tables", tables(b"another"))
    made.printer.may.clear()
    for number in range(3):
        made.one.put(state(number), copy(number))
    made.one.stop()
    assert made.printer.killed
    assert contents([one for one in made.found if isinstance(one, State)]) == [None] * 3


def tables(digest):
    """In the place of `digest.Tables`: whatever is asked for has this digest."""

    class Now:
        def __init__(self, _):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def digest(self, _):
            return digest

    return Now


@pytest.mark.parametrize(
    ("now", "replaced", "content"),
    [(b"1", 0, b"printed\n"), (b"2", 0, None), (b"1", 1, None)],
)
def test_where_copies_cannot_be_printed(made, monkeypatch, now, replaced, content):
    """Then what is still there is printed: no table was replaced since, and it is as it was. That is said."""

    def save(*_, **__):
        made.replacements.begun += replaced
        return "", b"printed\n"

    monkeypatch.setattr(printing.iptables, "save", save)
    monkeypatch.setattr(printing, "Tables", tables(now))
    made.printer.error = RefusedError("Operation not permitted")
    made.one.put(state(1), copy(1))
    made.one.drain()
    made.one.put(state(2))
    made.one.drain()
    said, *told = contents(made.found)
    assert "cannot print a copy of a table here (Operation not permitted)" in said
    assert told == [content, None]


def test_what_iptables_save_complains_of_is_told(made):
    """The state is unknown then, and the next one is printed."""
    made.printer.error = HostError("iptables-legacy-save failed: 1")
    made.one.put(state(1), copy(1))
    made.one.drain()
    made.printer.error = None
    made.one.put(state(2), copy(2))
    made.one.drain()
    assert contents(made.found) == ["iptables-legacy-save failed: 1", None, b"rules 2"]
