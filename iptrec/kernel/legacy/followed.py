"""Tables of legacy iptables whose replacements are told: looked at when they were replaced, never in doubt."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from iptrec.kernel.legacy.replacements import Replaced
from iptrec.kernel.legacy.saved import source_of
from iptrec.kernel.legacy.states import QUIET_SHARE, SHARE, Seen, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iptrec.kernel.legacy.digest import Tables
    from iptrec.kernel.legacy.replacements import History, Replacements
    from iptrec.kernel.legacy.saved import Saved
    from iptrec.names import Family

_TRIES: Final = 3


class Followed:
    """Reports states to ``found``; ``saved``: what iptables-save printed of them."""

    def __init__(
        self, replacements: Replacements, saved: Saved, found: Callable[[State], None]
    ) -> None:
        self._replacements = replacements
        self._saved = saved
        self._found = found

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
            digest = tables.digest(table)
            known.cost_ns = time.thread_time_ns() - started
            new = digest != known.digest or len(history.ended) > 1
            content = self._saved.state(family, table, digest) if new else None
            ended = self.settled(family, table, begun)
            if ended is None:  # replaced again meanwhile
                continue
            if known.digest not in (None, digest) and not ended:
                return False
            known.share = SHARE if ended else min(2 * known.share, QUIET_SHARE)
            if content is not None:
                self._saved.keep(family, digest, content)
                self._tell(family, table, known, ended, content)
            known.digest, known.until_ns = digest, seen_ns
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
        self, family: Family, table: str, known: Seen, ended: Sequence[Replaced], content: bytes
    ) -> None:
        """Report a state, and before it those that nobody saw since the last one."""
        if ended and (known.digest is None or len(ended) > 1):
            self._found(State(family, table, *ended[0], source_of(table), None))
        came = ended[-1] if ended else Replaced(known.until_ns, time.time_ns())
        self._found(State(family, table, *came, source_of(table), content))
        known.changed_ns = came.time_ns

    def _give_up(self, family: Family, table: str, known: Seen, history: History) -> None:
        """Report that nobody knows how a table was since it was replaced, until the next state of it."""
        since = history.ended.pop(0) if history.ended else history.begins(time.time_ns())
        self._found(State(family, table, *since, source_of(table), None))
        known.digest = None
