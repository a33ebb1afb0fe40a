"""The watch of nf_tables, offline: what it does where the ruleset cannot be listed."""

from __future__ import annotations

import os
import struct
import sys
import time
from queue import Queue
from threading import Event

import pytest

from iptrec.errors import HostError
from iptrec.kernel import process
from iptrec.kernel.deadline import Deadline
from iptrec.kernel.nft import listing, retold
from iptrec.kernel.nft import watch as nft_watch
from iptrec.kernel.nft.watch import NftState, NftWatch, Retold

GENERATION = listing.Part(listing.GENERATION, "NFT_MSG_GETGEN", b"7")
NEW_GENERATION = struct.pack("=IHHII", 16, 0x0A0F, 0, 0, 0)


class Changes:
    """What the kernel tells, by hand."""

    def __init__(self):
        self.told = os.eventfd(0, os.EFD_NONBLOCK)

    def fileno(self):
        return self.told

    def tell(self):
        os.eventfd_write(self.told, 1)

    def receive(self):
        try:
            os.eventfd_read(self.told)
        except BlockingIOError:
            return None
        return NEW_GENERATION

    def __exit__(self, *_):
        os.close(self.told)


@pytest.fixture
def changes(monkeypatch):
    made = Changes()
    monkeypatch.setattr(nft_watch, "ChangeSocket", lambda: made)
    return made


@pytest.mark.parametrize(
    "failure", [HostError("nft failed: Killed"), OSError(24, "x"), MemoryError()]
)
def test_a_change_that_could_not_be_listed_is_listed_later(changes, monkeypatch, failure):
    """One failure of nft must not leave the old rules in force for all that comes."""
    parts = [GENERATION, listing.Part("nft", "nft", b"{}")]
    answers = [failure, parts]

    def ruleset(**_):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(listing, "ruleset", ruleset)
    found = Queue()
    watch = NftWatch(found.put)
    watch.start()
    began = watch._until
    changes.tell()
    error, unknown, state = (found.get(timeout=10) for _ in range(3))
    watch.stop()
    assert isinstance(error, HostError)
    assert (unknown.parts, state.parts) == ([listing.NOT_SEEN], parts)
    assert began <= unknown.after_ns < unknown.time_ns < state.time_ns
    assert found.empty()


@pytest.mark.parametrize("fails", [True, False])
def test_what_cannot_be_listed_in_the_end_is_unknown(changes, monkeypatch, fails):
    """A ruleset that changes all the time: the recorder ends, and does not say that the old rules held.

    What came with the changes is told without a listing, and what was listed meanwhile is not believed.
    """
    given = []

    def ruleset(*, until, tries, **_):
        given.append((until.left_s, tries))
        if fails:
            raise HostError("nft does not come to an end")
        return [listing.Part("nft", "nft", b"{}")]

    monkeypatch.setattr(listing, "ruleset", ruleset)
    monkeypatch.setattr(retold, "told", counted)
    found = Queue()
    watch = NftWatch(found.put, missed=Missing())
    changes.tell()
    os.write(watch._thread._stopping, b"x")
    watch._thread._run()
    watch.stop()
    assert found.empty()
    watch.conclude()
    told, state = (found.get_nowait() for _ in range(2))
    assert (told.content, state.parts) == (b"2", [listing.NOT_SEEN])
    ((left, tries),) = given
    assert (left <= 1, tries) == (True, 1)


@pytest.mark.usefixtures("changes")
def test_a_ruleset_that_did_not_change_is_not_listed_in_the_end(monkeypatch):
    """Nobody waits for what is known."""
    monkeypatch.setattr(listing, "ruleset", lambda **_: pytest.fail("listed"))
    found = Queue()
    watch = NftWatch(found.put)
    watch.start()
    watch.stop()
    watch.conclude()
    assert found.empty()


@pytest.mark.parametrize("what", ["listing", "telling"])
def test_who_stops_it_does_not_wait_for_programs(changes, monkeypatch, what):
    """They are killed; what they were to tell is told in the end, and nobody is troubled."""
    begun = Event()
    program = [sys.executable, "-c", "import time; time.sleep(60)"]

    def runs(until):
        begun.set()
        process.run(program, until=until)

    def ruleset(*, until, **_):
        if what == "listing":
            runs(until)
        return [GENERATION]

    monkeypatch.setattr(listing, "ruleset", ruleset)
    monkeypatch.setattr(retold, "told", lambda _, *, until: runs(until))
    found = Queue()
    watch = NftWatch(found.put, missed=Missing())
    watch.start()
    changes.tell()
    assert begun.wait(10)
    asked = time.monotonic()
    watch.stop()
    assert time.monotonic() - asked < 10
    monkeypatch.setattr(listing, "ruleset", lambda **_: [GENERATION])
    monkeypatch.setattr(retold, "told", counted)
    while not found.empty():
        assert isinstance(found.get_nowait(), NftState)
    watch.conclude()
    told = found.get_nowait()
    if what == "listing":
        assert (told.content, found.get_nowait().parts) == (b"2", [GENERATION])
    else:
        assert told.content == b"3"
    assert found.empty()


def test_a_listing_that_breaks_off_is_told(changes, monkeypatch):
    """It ends well though its JSON breaks off: it is kept with the text, and the user hears of it."""
    text = listing.Part("nft-text", "nft", b"")
    parts = [GENERATION, text, listing.Part("nft", "nft", b'{"flags": \n')]
    monkeypatch.setattr(listing, "ruleset", lambda **_: parts)
    found = Queue()
    watch = NftWatch(found.put)
    assert watch.baseline().parts == parts
    assert "nft's text alone" in str(found.get_nowait())
    watch.start()
    changes.tell()
    error, state = (found.get(timeout=10) for _ in range(2))
    watch.stop()
    assert isinstance(error, HostError)
    assert state.parts == parts


def test_what_changed_under_every_listing_is_listed_later(changes, monkeypatch):
    """The last change may be the last for long: what was listed before it is not what is in force."""
    calls = []

    def ruleset(**_):
        calls.append(None)
        if len(calls) <= nft_watch._TRIES:
            changes.tell()
        return [GENERATION, listing.Part("nft", "nft", b"%d}" % len(calls))]

    monkeypatch.setattr(listing, "ruleset", ruleset)
    found = Queue()
    watch = NftWatch(found.put)
    changes.tell()
    look(watch)
    look(watch)
    watch.stop()
    states = [found.get() for _ in range(found.qsize())]
    assert [one.parts for one in states[:-2]] == [[listing.NOT_SEEN]] * nft_watch._TRIES
    shown = [one.parts[1].content for one in states[-2:]]
    assert shown == [b"%d}" % number for number in (nft_watch._TRIES, nft_watch._TRIES + 1)]


def look(watch):
    """As its thread does."""
    watch._thread.work()


def counted(rules, *, until):
    assert until.left_s > 0
    return b"%d" % len(rules)


class Missing:
    """Each look misses one rule."""

    again = full = False

    def take(self, message):
        assert message.kind == 0x0A0F

    def listed(self):
        pass

    def gone(self):
        return ["a rule"]

    def untold(self):
        return ["a rule", "another"]


def test_rules_that_no_listing_has_are_told(changes, monkeypatch):
    """Where that cannot be the user hears of it, once."""
    answers = [b"text", b"", HostError("no such right")]
    monkeypatch.setattr(listing, "ruleset", lambda **_: [])
    monkeypatch.setattr(retold, "told", lambda *_, **__: given(answers.pop(0)))
    found = Queue()
    watch = NftWatch(found.put, missed=Missing())
    for _ in range(4):
        changes.tell()
        look(watch)
    watch.stop()
    noted = [found.get() for _ in range(found.qsize())]
    assert [one.content for one in noted if isinstance(one, Retold)] == [b"text"]
    (said,) = [str(one) for one in noted if isinstance(one, HostError)]
    assert said == (
        "from now on rules that go before they are listed have no text in the recording, nor do the steps of"
        " packets that met them: no such right"
    )


def test_told_at_once(changes, monkeypatch):
    """For who cannot wait until the ruleset is listed, which is done a moment later; then all is told anew."""
    listed = []
    monkeypatch.setattr(listing, "ruleset", lambda **_: listed.append(GENERATION) or [GENERATION])
    monkeypatch.setattr(retold, "told", lambda rules, **_: b"%d" % len(rules))
    missing, found, anew = Missing(), Queue(), []
    missing.tell_again = lambda: anew.append(True)
    watch = NftWatch(found.put, missed=missing)
    changes.tell()
    watch.look()
    assert ([one.content for one in found.queue], listed, anew) == ([b"2"], [], [True])
    look(watch)
    watch.stop()
    assert listed == [GENERATION]


@pytest.mark.usefixtures("changes")
def test_where_time_runs_out_some_are_told(monkeypatch):
    """Those that were told before."""
    answers = [b"text", HostError("not in time")]
    monkeypatch.setattr(retold, "told", lambda *_, **__: given(answers.pop(0)))
    missing, found = Missing(), Queue()
    missing.untold = lambda: [*range(3 * nft_watch._TOLD_AT_ONCE)]
    watch = NftWatch(found.put, missed=missing)
    watch.stop()
    watch.conclude()
    told, error = (found.get_nowait() for _ in range(2))
    assert (told.content, isinstance(error, HostError)) == (b"text", True)
    assert (found.empty(), answers) == (True, [])


@pytest.mark.parametrize("again", [False, True], ids=["file", "ring"])
def test_what_was_listed_while_it_changed(changes, monkeypatch, again):
    """It was never in force: a ring alone keeps it, where what told of the changes does not stay."""
    listed = [listing.Part("nft", "nft -j list ruleset", b"{}")]
    monkeypatch.setattr(listing, "ruleset", lambda **_: listed)
    monkeypatch.setattr(retold, "told", lambda *_, **__: b"")
    missing, found = Missing(), Queue()
    missing.again = again
    watch = NftWatch(found.put, missed=missing)
    changes.tell()
    look(watch)
    watch.stop()
    state = [one for one in found.queue if isinstance(one, NftState)][-1]
    assert state.parts == (listed if again else [listing.NOT_SEEN])


def test_rules_that_take_too_long_to_be_told(monkeypatch):
    """What is named is what took long, not the interpreter that ran it; and what can be done."""
    monkeypatch.setattr(process, "iptrec", lambda **_: ["sleep", "60"])
    with pytest.raises(HostError) as raised:
        retold.told([], until=Deadline(0.1))
    assert str(raised.value) == (
        "nft did not list all such rules in time; record while the host is less busy, or change the"
        " rules in fewer steps (one nft -f for many)"
    )


def given(answer):
    if isinstance(answer, Exception):
        raise answer
    return answer
