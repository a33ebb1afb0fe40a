"""Keeps our rules and chains of nf_tables in place, at once: without them packets are not traced.

What `watch` lists may take a second; so this is another thread, which runs no program as long as it can do
without. It asks for nothing unless the kernel tells that something of ours went, or of base chains.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError, IptrecError
from iptrec.kernel import iptables
from iptrec.kernel.links import SETTINGS, WaySocket
from iptrec.kernel.nft import raw, table, transactions
from iptrec.kernel.nft.attached import Attached
from iptrec.kernel.nft.copies import Copy
from iptrec.kernel.nft.late import none_yet
from iptrec.kernel.nft.nftrace import ChangeSocket, waiting
from iptrec.kernel.watch import Hole, WatchThread

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from iptrec.kernel.iptables import TraceRule
    from iptrec.kernel.netlink import Message
    from iptrec.kernel.nft.late import Late
    from iptrec.kernel.nft.rule import Rule
    from iptrec.kernel.nft.table import Own
    from iptrec.kernel.nft.transactions import Request
    from iptrec.kernel.undo.guardian import Guardian
    from iptrec.names import Family

# How often it is noted that nothing has changed: more often while something does.
_POLL_MS, _CHANGING_POLL_MS, _CHANGING_NS = 500, 20, 2_000_000_000
_AGAIN_MS: Final = 5  # after somebody else was faster
_MOST_FAILURES: Final = 20  # in a row
_GOING: Final = (
    transactions.DELETE_RULE,
    transactions.DELETE_CHAIN,
    transactions.DELETE_TABLE,
)


class NftKeeper:
    """Started by `start`, ended by `stop`; to be made when all of ours are in place.

    ``rules``: ours in the raw tables, unless ``own`` has them alone. ``late``: the chains that packets pass
    last. ``found`` is called for each `Hole`, and for an `IptrecError` where keeping them fails: in the
    keeper's own thread. ``working`` is held but while it waits.
    """

    def __init__(
        self,
        comment: str,
        rules: Mapping[Family, Sequence[TraceRule]],
        found: Callable[[Hole | IptrecError], None],
        guardian: Guardian,
        own: Own,
        late: Late,
    ) -> None:
        self._comment = comment
        self._marks = comment.encode(), table.name(comment).encode()
        self._rules = {} if own.alone else rules
        self._found = found
        self._guardian = guardian
        self._own = own
        self._late = late
        self._line = transactions.Line()
        self._changes = ChangeSocket()
        self._forwarding = WaySocket(SETTINGS)
        self._attached = Attached()
        self._attached.begin()
        self._copied: dict[Family, list[Rule]] = {}
        self._copies: list[Copy] = []
        with contextlib.suppress(HostError):  # else programs make them again
            self._copied = {family: raw.of_recorder(family, comment) for family in self._rules}
            copies = [Copy.of(one, table.name(comment)) for one in table.TRACING]
            self._copies = [one for one in copies if one is not None]
        self._gone = self._bared = (
            False  # something of ours, perhaps; a hook that chains of ours watch
        )
        self._failures = 0
        self._before = time.time_ns()  # the last wait: nothing had been told by then
        self._changing_ns = 0
        self._in_place = dict.fromkeys(rules, self._before)
        self._thread = WatchThread(
            [self._changes.fileno(), self._forwarding.fileno()],
            self._wait_ms,
            self._work,
            self._fail,
            "nf_tables",
        )

    @property
    def working(self) -> threading.Lock:
        """Held except while it waits."""
        return self._thread.working

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End; what is gone by now is told. Again: nothing."""
        if self._thread.stop():
            self._line.close()
            self._changes.__exit__()
            self._forwarding.__exit__()

    def _wait_ms(self) -> int:
        self._before = time.time_ns()
        if self._failures:
            return _AGAIN_MS
        changing = time.monotonic_ns() - self._changing_ns < _CHANGING_NS
        return _CHANGING_POLL_MS if changing else _POLL_MS

    def _work(self, *, last: bool) -> None:
        with self._line:
            self._look(last=last)

    def _look(self, *, last: bool) -> None:
        self._drain()
        if self._gone:
            self._check(last=last)
            self._drain()  # what was put back is there
        elif not self._failures:
            self._in_place = dict.fromkeys(self._in_place, self._before)
        if self._bared and not last:
            self._bared = False
            self._watch_hooks()

    def _fail(self, error: IptrecError) -> None:
        """Try again: most likely the ruleset changes all the time."""
        self._gone = True
        self._failures += 1
        if self._failures == _MOST_FAILURES:
            self._found(error)

    def _check(self, *, last: bool) -> None:
        """Put our rules back where they are gone; not in the end."""
        gone = [
            family
            for family, rules in self._rules.items()
            if raw.ours(family).count(self._comment) < len(rules)
        ]
        held = self._own.held()
        if not last and not (held and not gone):
            self._put_back(gone, held=held)
        now = time.time_ns()
        for family, since in self._in_place.items():
            if not held or family in gone:
                self._found(Hole(family, "rules-gone", since, now))
        self._in_place = dict.fromkeys(self._in_place, now if gone or not held else self._before)
        self._gone, self._failures = False, 0

    def _put_back(self, gone: Sequence[Family], *, held: bool) -> None:
        """In one transaction: each may have to wait until the one before is cleared away (RCU)."""
        for family in gone:
            self._guardian.expect_again("nft", family)
            if self._comment in raw.ours(family):  # some of them are left
                raw.remove(family, self._comment, [], [])
        self._guardian.expect_table()
        at_once = self._requests(gone, held=held)
        # Refused is such as a device that is gone, or a chain that somebody else has put there meanwhile.
        if at_once and not transactions.batch("inet", at_once):
            return
        for family in gone:
            iptables.insert(self._rules[family])
        if not held:
            self._own.insert_again()  # with copies of what is in the raw tables

    def _requests(self, gone: Sequence[Family], *, held: bool) -> list[Request]:
        """All that is missing; nothing where it takes programs to say that."""
        requests = self._missing.requests
        for family in gone:
            if len(copied := self._copied.get(family, [])) < len(self._rules[family]):
                return []
            requests += raw.insertions(family, copied)
        for one in self._copies if not held else ():
            requests += one.again
        whole = self._copies and all(one.whole for one in self._copies)
        return requests if held or whole else []

    @property
    def _missing(self) -> Late:
        """The chains that packets are to pass last, and are not there."""
        return self._late.missing(self._attached.there)

    def _watch_hooks(self) -> None:
        """Put the chains that packets pass last where they are missing."""
        if not self._missing.needed:
            return
        self._guardian.expect_table()
        try:
            self._missing.insert()
        except HostError as error:
            self._late = none_yet(self._comment, ())
            self._found(error)

    def _drain(self) -> None:
        """Take what was told."""
        if self._forwarding.changed():
            self._settled()
        for one in waiting(self._changes):
            if one is None:
                self._attached.begin()
                self._settled()
                self._gone = True
            else:
                self._changing_ns = time.monotonic_ns()
                self._take(one)

    def _take(self, message: Message) -> None:
        kind = message.kind - transactions.SUBSYSTEM
        if kind == transactions.NEW_GENERATION:
            self._settled()
        elif kind in _GOING and any(one in message.body for one in self._marks):
            self._gone = True
        self._attached.take(message)

    def _settled(self) -> None:
        """A commit is over, and what it leaves may be seen by packets, however soon the next one comes."""
        self._late = self._late.beside(self._attached.there)
        self._bared = True
