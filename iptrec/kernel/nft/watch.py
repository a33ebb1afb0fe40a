"""Watches nf_tables' ruleset while it is recorded: each state that it is in. `keeper` keeps our rules in place.

The kernel tells each change (NFNLGRP_NFTABLES); what the ruleset is then is listed a moment later, when it is
quiet. The watch is a thread of its own, as `legacy.watch` is.
"""

from __future__ import annotations

import contextlib
import resource
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError, IptrecError
from iptrec.kernel.deadline import Deadline
from iptrec.kernel.nft import at_once, listing, retold, transactions
from iptrec.kernel.nft.nftrace import ChangeSocket, waiting
from iptrec.kernel.watch import Together, WatchThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iptrec.kernel.nft.at_once import AtOnce
    from iptrec.kernel.nft.keeper import NftKeeper
    from iptrec.kernel.nft.listing import Part
    from iptrec.kernel.nft.missed import Gone, Missed
    from iptrec.kernel.watch import Working

_NEW_GENERATION: Final = transactions.SUBSYSTEM | transactions.NEW_GENERATION
_POLL_MS: Final = 500  # the kernel tells at once; who receives events knows the moment better
_QUIET_MS: Final = 20  # a script makes many changes in a row
_TRIES: Final = 5
_WITHIN_S: Final = 30.0  # where the ruleset changes meanwhile nft begins again, perhaps for ever
# In the end of a file somebody waits for what is told without a listing, which comes to an end; in the last
# one then for one listing.
_LAST_S, _LAST_LISTING_S = 2.5, 1.0
_TOLD_AT_ONCE: Final = (
    500  # rules: where time runs out those before are told; it takes 0.2 s and 1 ms a rule
)
_WITHOUT_TEXT: Final = (
    "from now on rules that go before they are listed have no text in the recording, nor do the steps of"
    " packets that met them"
)
_SHARE: Final = 10  # listing may cost one part in so many of a processor's time


@dataclass(frozen=True, slots=True)
class NftState:
    """The ruleset was found changed: it came to be so after ``after_ns``, not after ``time_ns`` (epoch)."""

    after_ns: int
    time_ns: int
    parts: list[Part]


@dataclass(frozen=True, slots=True)
class Retold:
    """Rules that no listing had, with their text (`retold`): they were there after ``after_ns`` (epoch)."""

    after_ns: int
    time_ns: int
    content: bytes


class NftWatch:
    """Started by `start`, ended by `stop`; `conclude` takes a last look.

    ``found`` is called for each `NftState` and `Retold`, and for an `IptrecError` where looking fails: in the
    watch's own thread. ``missed``: finds rules that come and go between two listings. ``keeper``: is started
    and stopped with it.
    """

    def __init__(
        self,
        found: Callable[[NftState | Retold | IptrecError], None],
        missed: Missed | None = None,
        keeper: NftKeeper | None = None,
    ) -> None:
        self._found = found
        self._missed = missed
        self._keeper = keeper
        self._changes = ChangeSocket()
        self._until = time.time_ns()
        self._next = 0
        self._untold = False  # a change that could not be listed
        self._due = False  # one is to be
        self._missing: list[Gone] = []  # rules that no listing has, to be told
        self._full = False  # it is said that there are too many of them
        self._ending = False
        self._patience = Deadline(_WITHIN_S)  # with what lists the ruleset just now
        self._before = self._until  # the last wait
        self._thread = WatchThread(
            [self._changes.fileno()],
            self._wait_ms,
            self._work,
            self._fail,
            "nf_tables",
        )

    @property
    def working(self) -> Working:
        """Held except while it waits, and the keeper does."""
        locks = [self._thread.working]
        return Together(*locks if self._keeper is None else (*locks, self._keeper.working))

    @property
    def told(self) -> bool:
        """See `watch.Watch`."""
        return True

    def baseline(self) -> NftState:
        """The ruleset as it is when recording begins; changes from now on are told."""
        self._drain()
        told = None
        self._until = time.time_ns()
        if self._missed is not None:
            self._missed.begin()
            told = self._at_once()
        seen = time.time_ns()
        parts = listing.ruleset(
            counters=True, failed=self._found, tries=transactions.TRIES if told is None else 1
        )
        if told is None or self._missed is None or listing.of_one_moment(parts):
            now = time.time_ns()
            return NftState(now, now, self._checked(parts))
        self._missing += self._missed.there(told.messages)
        return NftState(seen, seen, told.parts)

    def _at_once(self) -> AtOnce | None:
        with contextlib.suppress(HostError):
            return at_once.ruleset()
        return None

    def start(self) -> None:
        """Begin to watch."""
        if self._keeper is not None:
            self._keeper.start()
        self._thread.start()

    def look(self) -> None:
        """Tell what rules say that no listing has up to now; to be called by who holds ``working``.

        Nothing is listed, packets wait meanwhile: the watch does that a moment later. What is told from now on
        does not rely on what was told before.
        """
        self._thread.work_at_once(self._tell_all)

    def stop(self) -> None:
        """End, whatever is listed just then; what has changed by now is left to `conclude`. Again: nothing."""
        self._ending = True
        self._patience.end()
        if self._keeper is not None:
            self._keeper.stop()
        if self._thread.stop():
            self._changes.__exit__()

    def conclude(self) -> None:
        """Tell what became of the ruleset since it was listed, in little time.

        To be called behind `stop`, when no events come any more and our rules are gone. Where the ruleset
        changes all the time nobody lists it: what the kernel told of the changes is known, and what is told
        here of the rules that came with them.
        """
        self._ending = False
        until = Deadline(_LAST_S)
        if self._missed is not None:  # also what is there, as nobody may list it any more
            self._missing += self._missed.untold()
            self._tell_missing(self._until, until)
        if not self._untold:
            return
        seen, parts = time.time_ns(), [listing.NOT_SEEN]
        with contextlib.suppress(HostError):
            listed = listing.ruleset(
                counters=False,
                failed=lambda _: None,
                until=until.at_most(_LAST_LISTING_S),
                tries=1,
            )
            if listing.of_one_moment(listed):
                parts = listed
        self._found(NftState(self._until, seen, parts))

    def _wait_ms(self) -> int:
        self._before = time.time_ns()
        return _POLL_MS

    def _work(self, *, last: bool) -> None:
        """Look at what was told to have changed."""
        changed = self._drain() or self._untold or self._due
        if last:
            self._untold = changed
        elif changed:
            self._look()
        else:
            self._until = self._before

    def _tell_all(self) -> None:
        self._due |= self._drain()
        if self._missed is None:
            return
        self._missing += self._missed.untold()
        with self._costly():
            self._tell_missing(self._until, Deadline(_LAST_S), later=True)
        if self._missed is not None:
            self._missed.tell_again()

    def _fail(self, error: IptrecError) -> None:
        """What the ruleset is now nobody knows, until it can be listed."""
        if self._ending:  # by `stop`
            self._untold = True
            return
        self._found(error)
        if not self._untold:
            self._untold = True
            self._found(NftState(self._until, time.time_ns(), [listing.NOT_SEEN]))

    def _look(self) -> None:
        """List the ruleset that came to be just now."""
        self._due = False
        seen = time.time_ns()
        while self._thread.ready(_QUIET_MS) or time.monotonic_ns() < self._next:
            if self._drain():
                seen = time.time_ns()
            elif self._thread.to_end(_QUIET_MS):
                break
        for _ in range(_TRIES):
            listed = time.time_ns()
            parts = self._list()
            whole = listing.of_one_moment(parts)
            if not self._drain() and whole:
                if self._missed is not None:
                    self._missed.listed()
                self._untold = False
                break
            # It changed under our hands: what it was before nobody will know.
            self._found(NftState(self._until, seen, [listing.NOT_SEEN]))
            self._until = seen
            seen = time.time_ns()
        else:  # again and again: the last one has to do; later on there is another, even if nothing changes
            self._untold, listed = True, seen
        # What was listed while it changed was never in force: then it is told what came. But a ring lets go of
        # what told of that: any listing is better than none there.
        told = whole or self._missed is None or self._missed.again
        self._found(NftState(self._until, seen, parts if told else [listing.NOT_SEEN]))
        if self._missed is not None:
            self._missing += self._missed.gone() if told else self._missed.untold()
            if self._missed.full and not self._full:
                self._full = True
                self._found(HostError(f"{_WITHOUT_TEXT}: too many rules came and went"))
            with self._costly():
                self._tell_missing(self._until, self._waiting())
        self._until = listed

    def _list(self) -> list[Part]:
        """The ruleset."""
        with self._costly():
            parts = listing.ruleset(counters=False, failed=self._found, until=self._waiting())
        return self._checked(parts)

    def _waiting(self) -> Deadline:
        """For programs that are run now: `stop` may come first, or meanwhile."""
        self._patience = Deadline(_WITHIN_S)
        if self._ending:
            self._patience.end()
        return self._patience

    @contextlib.contextmanager
    def _costly(self) -> Iterator[None]:
        """The next time that the ruleset may be listed depends on what programs cost here."""
        spent = _spent_ns()
        try:
            yield
        finally:
            now = time.monotonic_ns()
            self._next = max(now, self._next) + _SHARE * (_spent_ns() - spent)

    def _tell_missing(self, after_ns: int, until: Deadline, *, later: bool = False) -> None:
        """Hand over what rules say that no listing has; where that cannot be, not even ``later`` on."""
        while self._missing:
            some = self._missing[:_TOLD_AT_ONCE]
            try:
                content = retold.told(some, until=until)
            except HostError as error:
                if self._ending or later:  # by `stop`: they are told in the end
                    return
                self._missed = None
                self._found(HostError(f"{_WITHOUT_TEXT}: {error}"))
                return
            self._missing = self._missing[len(some) :]
            if content:
                self._found(Retold(after_ns, time.time_ns(), content))

    def _checked(self, parts: list[Part]) -> list[Part]:
        """A ruleset; where its listing breaks off, that is told: only the text has all of it then."""
        if listing.broken_off(parts):
            self._found(
                HostError(
                    "nft -j breaks off in the ruleset, as nft 1.0.6 may do at a dormant table: the rules"
                    " are known by nft's text alone"
                )
            )
        return parts

    def _drain(self) -> bool:
        """Take what was told; whether the ruleset changed."""
        changed = False
        for one in waiting(self._changes):
            changed = changed or one is None or one.kind == _NEW_GENERATION
            if one is not None and self._missed is not None:
                self._missed.take(one)
        return changed


def _spent_ns() -> int:
    """The processors' time that programs took which we ran."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((used.ru_utime + used.ru_stime) * 1e9)
