"""All paths that a packet may have taken so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from iptrec.rulesets.grammar import State
    from iptrec.rulesets.resolver import Met

MOST_STEPS: Final = 4096  # of one packet; a made-up file may have any number


@dataclass(frozen=True, slots=True)
class Branch:
    """One possible path, where it stands, and which states of tables it ``met`` (`Book.meeting`)."""

    path: tuple[int, ...]
    state: State
    met: Met = ()


@dataclass(frozen=True, slots=True)
class Walk:
    """All paths that are possible so far.

    ``holes``: events that cannot follow directly were joined. ``torn``: so were some that no single ruleset
    explains. ``copied``: it is that of a copy, which begins where another packet's way forks. ``cut``: there
    were more, that read as those that are left.
    """

    branches: tuple[Branch, ...]
    headless: bool = False
    holes: bool = False
    torn: bool = False
    copied: bool = False
    cut: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing can follow, whichever way it was."""
        return not short_of_the_limit(self) or all(
            branch.state.status == "ended" for branch in self.branches
        )


def short_of_the_limit(walk: Walk) -> tuple[Branch, ...]:
    """The branches that may go on; all have the same length."""
    return walk.branches if len(walk.branches[0].path) < MOST_STEPS else ()
