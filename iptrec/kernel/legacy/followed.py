"""Tables of legacy iptables whose replacements are told: looked at when they were replaced, never in doubt."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from iptrec.kernel.legacy.replacements import Replaced
from iptrec.kernel.legacy.saved import source_of
from iptrec.kernel.legacy.states import SHARE, TOLD_SHARE, Seen, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from iptrec.kernel.legacy.digest import Copy, Tables
    from iptrec.kernel.legacy.printing import Printing
    from iptrec.kernel.legacy.replacements import History, Replacements
    from iptrec.names import Family

_TRIES: Final = 3


class Followed:
    """Copies states, and lets them be printed and reported."""

    def __init__(self, replacements: Replacements, printing: Printing) -> None:
        self._replacements = replacements
        self._printing = printing

    @property
    def astray(self) -> bool:
        """See `Replacements.astray`."""
        return self._replacements.astray

    def begun(self, family: Family, table: str) -> int:
        """How often a table began to be replaced up to now."""
        return self._history(family, table).begun

    def quiet(self, family: Family, table: str) -> bool:
        """Whether a table was not replaced since it was last seen."""
        return self._history(family, table).quiet

    def waits(self, family: Family, table: str) -> bool:
        """Whether a replacement has ended, as far as was read, and nobody has looked at the table since."""
        return bool(self._replacements.of(family, table).ended)

    def replaces(self, tables: Iterable[tuple[Family, str]]) -> bool:
        """Whether somebody is replacing one of some tables."""
        return any(self._history(*one).under_way for one in tables)

    def settled(self, family: Family, table: str, begun: int) -> list[Replaced] | None:
        """See `History.settled`."""
        return self._history(family, table).settled(begun)

    def look(
        self, tables: Tables, family: Family, table: str, known: Seen, used: tuple[int, int]
    ) -> bool:
        """Report the state of a table that was replaced; False where it changed, and nobody told.

        ``used``: how often the lock had been closed and used before.
        """
        history = self._history(family, table)
        for _ in range(_TRIES):
            seen_ns, started = time.time_ns(), time.thread_time_ns()
            begun = self.begun(family, table)
            if history.under_way:  # its end is told
                return True
            taken = tables.taken(table)
            ended = self.settled(family, table, begun)
            if ended is None:  # replaced again meanwhile
                continue
            copy = tables.copy(table, taken)
            known.took(time.thread_time_ns() - started)
            if known.digest not in (None, copy.digest) and not ended:
                return False
            known.share = SHARE if ended else min(2 * known.share, TOLD_SHARE)
            if copy.digest != known.digest or len(ended) > 1:
                self._tell(family, table, known, ended, copy)
            known.digest, known.until_ns = copy.digest, seen_ns
            known.closes, known.uses = used
            return True
        self._give_up(family, table, known, history)
        return True

    def finish(self, family: Family, table: str, known: Seen) -> None:
        """Report what was not seen to the end."""
        history = self._history(family, table)
        if not history.quiet:
            self._give_up(family, table, known, history)

    def _history(self, family: Family, table: str) -> History:
        """The replacements of a table up to now."""
        self._replacements.read()
        return self._replacements.of(family, table)

    def _tell(
        self, family: Family, table: str, known: Seen, ended: Sequence[Replaced], copy: Copy
    ) -> None:
        """Report a state, and before it those that nobody saw since the last one."""
        if ended and (known.digest is None or len(ended) > 1):
            self._printing.put(State(family, table, *ended[0], source_of(table), None))
        came = ended[-1] if ended else Replaced(known.until_ns, time.time_ns())
        self._printing.put(State(family, table, *came, source_of(table), None), copy)
        known.changed_ns = came.time_ns

    def _give_up(self, family: Family, table: str, known: Seen, history: History) -> None:
        """Report that nobody knows how a table was since it was replaced, until the next state of it."""
        since = history.ended.pop(0) if history.ended else history.begins(time.time_ns())
        self._printing.put(State(family, table, *since, source_of(table), None))
        known.digest = None
