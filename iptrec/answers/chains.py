"""The chains of a recording's rulesets, for who asks for one that there is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iptrec.answers.select import places
from iptrec.names import FAMILIES, HOOKS
from iptrec.rulesets.backends import timelines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iptrec.recording.rows import Recording

Name = tuple[str, str]  # table, chain


def recorded(recording: Recording) -> dict[Name, None] | None:
    """All chains that were ever recorded, in order; None where some state of a table is not known."""
    found: dict[Name, None] = {}
    for table, chains in _states(recording):
        if chains is None:
            return None
        found |= dict.fromkeys((table, chain) for chain in chains)
    return found


def is_possible(recording: Recording, named: Iterable[Name], there: Iterable[Name]) -> bool:
    """Whether one of these may be a chain: those of the kernel and anonymous ones need not be recorded."""
    meant = places(recording, named)
    return not meant.isdisjoint(there) or any(
        chain in HOOKS or chain.startswith("__chain") for _, chain in meant
    )


def _states(recording: Recording) -> Iterator[tuple[str, Iterable[str] | None]]:
    """The tables of all namespaces and families, with their chains, once for each state."""
    for namespace in recording.namespaces:
        for each in timelines(recording, namespace.id):
            for family in FAMILIES:
                for table, timeline in each.loaded(family).items():
                    yield from ((table, state.chains) for state in timeline.states)
