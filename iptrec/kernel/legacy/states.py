"""States of tables of legacy iptables: what is reported, and what is known of each table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from iptrec.names import Family

POLL_NS: Final = 800_000_000  # What goes is noticed within a second.
SHARE: Final = 20  # A look may take one part in so many of the time.
QUIET_SHARE: Final = (
    10_000  # Where nobody touches the lock it may take only this part, after some looks.
)
TOLD_SHARE: Final = 5 * QUIET_SHARE  # And this one where each replacement is told.
_LONGEST_NS: Final = 30_000_000_000  # No look is longer ago.
_CHEAP_NS: Final = 3_000_000  # A table that takes less to look at is looked at each time.
_LESS_THAN_REPLACING_NS: Final = (
    20_000_000  # Whoever replaces a larger table takes longer than a look.
)
_CHANGING_NS: Final = 1_000_000_000  # So lately a table changed that may change again.


@dataclass(frozen=True, slots=True)
class State:
    """A table was found changed: it came to be so after ``after_ns`` and not after ``time_ns`` (epoch).

    ``content``: what iptables-save prints of it, without comments, counters 0; None where the state
    was gone again before it could be seen, or printed.
    """

    family: Family
    table: str
    after_ns: int
    time_ns: int
    source: str
    content: bytes | None


@dataclass(slots=True)
class Seen:
    """What is known of a table: the digest that was last reported, and until when it surely held.

    ``closes``: how often the lock had been closed then. ``uses``: how often it had been used, -1 if somebody
    had it.
    """

    digest: bytes | None
    until_ns: int
    changed_ns: int = 0
    cost_ns: int = 0
    looked_ns: int = 0
    closes: int = 0
    uses: int = -1
    share: int = SHARE
    _took_ns: int = 0

    def took(self, cost_ns: int) -> None:
        """Note what a look cost; one that cost more than those around it tells nothing of the table."""
        self.cost_ns, self._took_ns = min(cost_ns, self._took_ns or cost_ns), cost_ns

    @property
    def cheap(self) -> bool:
        """Whether it takes little to look at."""
        return self.cost_ns < _CHEAP_NS

    def may_be_another(self, closes: int) -> bool:
        """Whether a state that is as before may have been another one meanwhile, with so many ``closes`` now.

        Of all tables that would be too much to fear: commands use one lock, most of them change nothing, and
        a large table is looked at seldom. It is one that is just being changed, or whose looks are close.
        """
        changing = self.until_ns - self.changed_ns < _CHANGING_NS
        return closes - self.closes > 1 and (changing or self.cheap)

    @property
    def replaced_due_ns(self) -> int:
        """When it is to be looked at again where it was replaced."""
        little = self.cost_ns < _LESS_THAN_REPLACING_NS
        return self.looked_ns + (0 if little else SHARE * self.cost_ns)

    @property
    def due_ns(self) -> int:
        """When it is to be looked at again."""
        rest = min(self.share * self.cost_ns, max(SHARE * self.cost_ns, _LONGEST_NS))
        return self.looked_ns + max(POLL_NS, rest)
