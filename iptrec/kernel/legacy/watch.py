"""Watches the rules while they are recorded: which state each table is in, and that ours stay in place.

Legacy iptables tells nobody about changes. Where the kernel runs programs of ours, these see which table is
replaced, and when (`replacements`): no other is in doubt, and a state that was gone before it could be copied
is unknown until the next one came. Elsewhere there is what every command does, it opens and closes the
xtables lock file, which inotify reports at once; whoever uses another lock file is found by looking now and
then. A change came after the lock was last seen unused, until one is found that came without it. A look
compares what the kernel holds with what it held (`digest`). Only what differs is printed by ``iptables-save``:
where replacements are told a copy of it, in its turn (`printing`); elsewhere the table at once, and it is
reported as unknown where it changed meanwhile, or where several commands had the lock since the last look:
what was there between them nobody saw. Nothing is ever locked for looking, only for a moment before our rules
are put back. Where nobody touches the lock the looks become rare; a table's size, which costs nothing, is seen
all the time.

The watch is a thread of its own, in the network namespace of the one that starts it: what it finds is
handed over, and the events go on being received meanwhile.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError, IptrecError
from iptrec.kernel import iptables
from iptrec.kernel.legacy import lock, raw
from iptrec.kernel.legacy.digest import Tables
from iptrec.kernel.legacy.followed import Followed
from iptrec.kernel.legacy.lock import Lock
from iptrec.kernel.legacy.printing import Printing
from iptrec.kernel.legacy.saved import Saved, normal, source_of
from iptrec.kernel.legacy.states import POLL_NS, QUIET_SHARE, SHARE, Seen, State
from iptrec.kernel.watch import Hole, WatchThread

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from iptrec.kernel.legacy import logger
    from iptrec.kernel.legacy.replacements import Replacements
    from iptrec.kernel.undo.guardian import Guardian
    from iptrec.names import Family

_TRIES: Final = 3
_REPLACED_S: Final = 0.005  # a table, mostly
_BLIND: Final = (
    "cannot watch the xtables lock: {}; changes of rules are seen up to a second late; raise"
    " fs.inotify.max_user_instances"
)
_ASTRAY: Final = (
    "tables of legacy iptables are replaced in ways that are not told: changes are found by looking"
)


class Watch:
    """Started by `start`, ended by `stop`, which takes a last look.

    ``rules``, ``loggers``: ours, to be put back where they are gone. ``found`` is called for each
    `State` and `Hole`, and for an `IptrecError` where looking fails: in the watch's own thread. The
    ``guardian`` learns of what it will have to undo. ``replacements``: of tables, if they are told.
    ``working`` is held but while it waits.
    """

    def __init__(
        self,
        rules: Mapping[Family, Sequence[iptables.TraceRule]],
        loggers: Mapping[Family, logger.Switched],
        found: Callable[[State | Hole | IptrecError], None],
        guardian: Guardian,
        replacements: Replacements | None = None,
    ) -> None:
        self._rules = rules
        self._loggers = loggers
        self._found = found
        self._guardian = guardian
        self._in_place = dict.fromkeys(rules, time.time_ns())
        self._switched = dict.fromkeys(rules, time.time_ns())
        self._tables = {family: Tables(family) for family in rules}
        self._known: dict[tuple[Family, str], Seen] = {}
        self._saved = Saved()
        self._lock = Lock()
        self._glanced = 0  # how often the lock had been used then
        self._unlocked = False  # whether tables were changed without it
        self._printing = Printing(self._saved, found, replacements)
        self._told = None if replacements is None else Followed(replacements, self._printing)
        self._with_ours = dict.fromkeys(rules, b"")  # the digest of a raw table
        awaited = [] if replacements is None else [replacements.fileno()]
        self._thread = WatchThread(
            [self._lock.descriptor, *awaited], self._wait_ms, self._work, self._found, "the rules"
        )

    @property
    def working(self) -> threading.Lock:
        """Held except while it waits."""
        return self._thread.working

    @property
    def told(self) -> bool:
        """What has gone before it is looked at nobody has seen."""
        return False

    def caught_up(self, now_ns: int) -> None:
        """Nothing was changed until now, if nobody had the lock; to be called often, in any thread."""
        self._lock.note_quiet(now_ns)

    def loaded(self, family: Family) -> list[str]:
        """The tables to look at."""
        names = self._tables[family].loaded()
        return [table for of, table in self._known if of == family] if names is None else names

    def noted(self, family: Family, tables: Sequence[str]) -> dict[str, int]:
        """Note how the tables are; those that changed since they were last seen, and when (epoch) that was."""
        changed = {}
        for table in tables:
            begun = time.time_ns()
            closes, uses = self._used()
            replaced = self._told.begun(family, table) if self._told else 0
            digest = self._tables[family].digest(table)
            new = Seen(digest, begun, closes=closes, uses=uses)
            known = self._known.setdefault((family, table), new)
            if self._told is None:
                another = known.may_be_another(self._lock.read())
            else:
                ended = self._told.settled(family, table, replaced)
                another = ended is None or len(ended) > 1
            if another or digest != known.digest:
                changed[table] = known.until_ns
            known.digest, known.until_ns, known.closes, known.uses = digest, begun, closes, uses
        return changed

    def follows(self) -> bool:
        """Whether replacements of tables are told: those by which our rules came were."""
        if self._told and not all(self._told.begun(family, "raw") for family in self._rules):
            self._told = None
        return self._told is not None

    def unsure(self, family: Family, tables: Sequence[str]) -> None:
        """Report that nobody knows how the tables were up to now; the next look tells how they are."""
        for table in tables:
            self._found(State(family, table, 0, time.time_ns(), source_of(table), None))
            self._known[family, table].digest = None

    def start(self) -> None:
        """Begin to watch."""
        if self._lock.refused:
            self._found(HostError(_BLIND.format(self._lock.refused)))
        self._thread.start()

    def look(self) -> None:
        """Look at all tables at once; to be called by who holds ``working``."""
        for known in self._known.values():
            known.looked_ns = known.cost_ns = 0
        for _ in range(_TRIES):
            self._thread.work()
            if not (self._told and self._told.replaces(self._known)):
                break
            time.sleep(_REPLACED_S)
        else:  # the new rules may be in force already
            for one, known in self._known.items():
                if self._told is not None:
                    self._told.finish(*one, known)
        self._printing.drain()

    def stop(self) -> None:
        """End, after a last look; again: nothing."""
        if self._thread.stop():
            self._printing.stop()
            for tables in self._tables.values():
                tables.__exit__()
            self._lock.close()

    def _work(self, *, last: bool) -> None:
        """Look at what may have changed."""
        self._lock.read()
        if self._told is not None and self._told.astray:
            self._lose_track()
        if self._glanced != self._lock.uses:
            self._glanced = self._lock.uses
            if self._told is None:
                self._glance()
        self._look(last=last)

    def _wait_ms(self) -> int:
        if self._glanced != self._lock.uses:
            return 0
        now = time.monotonic_ns()
        due = min((self._due_ns(*one) for one in self._known.items()), default=now + POLL_NS)
        return max(1, min(due - now, POLL_NS) // 1_000_000)

    def _due_ns(self, table: tuple[Family, str], known: Seen) -> int:
        """When a table's turn is: its end may have been told while another one was looked at."""
        waits = self._told is not None and self._told.waits(*table)
        return min(known.due_ns, known.replaced_due_ns) if waits else known.due_ns

    def _glance(self) -> None:
        """Somebody opened or closed the lock: look at all tables that are quickly seen, or not seen lately.

        When it is opened the change is still to come: the closer the look, the narrower the interval.
        """
        for (family, table), known in sorted(
            self._known.items(), key=lambda one: one[1].changed_ns, reverse=True
        ):
            known.share = SHARE
            if known.cheap or time.monotonic_ns() >= known.due_ns:
                self._look_at(family, table, known)

    def _look(self, *, last: bool) -> None:
        """Look at the tables whose turn it is, and whether all that is ours is in place."""
        for family in self._rules:
            if not last:
                self._check_logger(family)
            for table in self.loaded(family):
                known = self._known.setdefault((family, table), Seen(None, time.time_ns()))
                if last:
                    self._look_at(family, table, known)
                else:
                    self._look_in_turn(family, table, known)
                if table == "raw":
                    self._check_rules(family, known, last=last)
                if last and self._told is not None:
                    self._told.finish(family, table, known)

    def _look_in_turn(self, family: Family, table: str, known: Seen) -> None:
        """Look at a table now and then, and where it may have changed."""
        now = time.time_ns()
        due = time.monotonic_ns() >= known.due_ns
        if self._told is None:
            wanted = due or not self._tables[family].unchanged_in_size(table)
        elif self._told.quiet(family, table):
            known.until_ns = now
            wanted = due
        else:
            known.share = SHARE
            wanted = time.monotonic_ns() >= known.replaced_due_ns
        if wanted:
            self._look_at(family, table, known)

    def _look_at(self, family: Family, table: str, known: Seen) -> None:
        if self._told is None:
            self._compare(family, table, known)
        elif not self._told.look(self._tables[family], family, table, known, self._used()):
            self._lose_track()
            self._compare(family, table, known)
        known.looked_ns = time.monotonic_ns()

    def _lose_track(self) -> None:
        """Follow replacements no more: not all of them are told."""
        self._told = None
        self._printing.drain()
        self._found(HostError(_ASTRAY))

    def _compare(self, family: Family, table: str, known: Seen) -> None:
        """Report the state of a table that differs, or may have been another one since the last look."""
        for _ in range(_TRIES):
            begun, started = time.time_ns(), time.thread_time_ns()
            closes, uses = self._used()
            digest = self._tables[family].digest(table)
            seen = time.time_ns()
            known.took(time.thread_time_ns() - started)  # not what others took of the processor
            now = self._lock.read()
            if digest == known.digest and not known.may_be_another(now):
                known.share = min(2 * known.share, QUIET_SHARE)
                known.closes, known.uses = closes, uses
                break
            # A change that nobody had the lock for: then who has it next need not have made one, either.
            self._unlocked |= known.digest not in (None, digest) and known.uses == self._lock.uses
            unused = 0 if self._unlocked else self._lock.unused_until(known.uses)
            after = max(known.until_ns, unused)
            if now - known.closes > 1:  # what the first of them made, the last may have taken back
                self._found(State(family, table, after, seen, source_of(table), None))
            known.share = SHARE
            reported = self._report(family, table, digest, after, seen)
            known.digest = digest if reported else None
            known.until_ns = known.changed_ns = begun
            known.closes, known.uses = closes, uses
            if reported:
                break
        known.until_ns = begun

    def _used(self) -> tuple[int, int]:
        """How often the lock was closed and used up to now, as `Seen` has them."""
        closes = self._lock.read()
        return closes, -1 if self._lock.holders else self._lock.uses

    def _report(self, family: Family, table: str, digest: bytes, after: int, seen: int) -> bool:
        """Hand a new state over; False where it was gone again before it could be printed."""
        source = source_of(table)
        content = self._saved.get(family, digest)
        if content is None and (printed := self._printed(family, table, digest)):
            source, content = printed
            self._saved.keep(family, digest, content)
        self._found(State(family, table, after, seen, source, content))
        return content is not None

    def _printed(self, family: Family, table: str, digest: bytes) -> tuple[str, bytes] | None:
        """Which command, and what it prints of a state; None where that went meanwhile, or went and came."""
        for _ in range(_TRIES):
            closes = self._lock.read()
            if self._tables[family].digest(table) != digest:
                break
            source, printed = iptables.save(family, table=table, counters=False)
            if self._tables[family].digest(table) == digest and self._lock.read() == closes:
                return source, normal(printed)
        return None

    def _check_rules(self, family: Family, known: Seen, *, last: bool) -> None:
        """Put our rules back where they are gone from the raw table; not in the end."""
        if known.digest not in (None, self._with_ours[family]) and self._in_raw(family):
            self._with_ours[family] = known.digest
        if known.digest in (None, self._with_ours[family]):
            self._in_place[family] = known.until_ns
            return
        if last:
            self._found(Hole(family, "rules-gone", self._in_place[family], time.time_ns()))
            return
        # Whoever made the state that was seen may still hold the lock; releasing it is not a second change.
        with lock.held():
            self._look_at(family, "raw", known)
        known.closes += 1  # our own
        self._guardian.expect_again("legacy", family)
        raw.insert_again(self._rules[family])
        self._found(Hole(family, "rules-gone", self._in_place[family], time.time_ns()))
        self._look_at(family, "raw", known)
        self._in_place[family] = known.until_ns

    def _in_raw(self, family: Family) -> bool:
        """Whether all our rules are in the raw table."""
        ours = self._rules[family]
        return self._tables[family].ours("raw").count(ours[0].comment) >= len(ours)

    def _check_logger(self, family: Family) -> None:
        now = time.time_ns()
        if self._loggers[family].keep(lambda now: self._guardian.expect_logger(family, now)):
            self._found(Hole(family, "logger-switched", self._switched[family], time.time_ns()))
        self._switched[family] = now
