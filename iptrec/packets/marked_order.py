"""Which of two chains of equal priority a packet passed first, where its marks tell.

Legacy iptables tells the mark before each rule, nf_tables the one after it. So it is known with which mark the
packet left each chain, with which it came into one of legacy iptables, and mostly with which it came into
another one. The mark stays from one chain of a hook to the next.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.names import HOOKS
from iptrec.packets.turns import chain_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.names import I64, Mask
    from iptrec.packets.outcome import Unordered
    from iptrec.rulesets.places import Pass, Place

LEGACY_FIRST, NFT_FIRST, UNPROVEN = 0, 1, -1
_LEGACY: Final = 0  # the part
_MARKS_NOTHING: Final = frozenset(["ACCEPT", "DROP", "RETURN"])


class _Chain(NamedTuple):
    """A chain on a packet's way: its steps, and the part that tells of it."""

    pass_: Pass
    part: int
    steps: range


class _Marks(NamedTuple):
    """With which mark each packet came into a chain, and with which it left; None where that is not known."""

    before: I64 | None
    after: I64 | None


def proven(places: Sequence[Place], parts: Sequence[int], marks: I64, chains: Unordered) -> I64:
    """For packets of one way the order of two chains: one of the constants, shape (packets,).

    ``places``, ``parts``: of each step, legacy iptables first. ``marks``: what the events told, shape (steps,
    packets).
    """
    way = _chains(places, parts)
    unknown = np.full(marks.shape[1], UNPROVEN)
    names = [(HOOKS[one.pass_.hook], chain_name(one.pass_)) for one in way]
    wanted = [(chains.hook, name) for name in chains.chains]
    at = next((i for i in range(len(way)) if names[i : i + 2] == wanted), None)
    if at is None:
        return unknown
    legacy, nft = (_marks(places, one, marks) for one in way[at : at + 2])
    around = [
        _marks(places, way[i], marks)
        if 0 <= i < len(way) and way[i].pass_.hook == way[at].pass_.hook
        else _Marks(None, None)
        for i in (at - 1, at + 2)
    ]
    as_shown, otherwise = (
        _fits(around[0], one) & _fits(one, other) & _fits(other, around[1])
        for one, other in ((legacy, nft), (nft, legacy))
    )
    found = np.where(as_shown & ~otherwise, LEGACY_FIRST, unknown)
    return np.where(otherwise & ~as_shown, NFT_FIRST, found)


def _fits(one: _Marks, other: _Marks) -> Mask:
    """Whether packets may have come from one chain into the other, as far as that is known."""
    if one.after is None or other.before is None:
        return np.True_  # type: ignore[return-value]
    same: Mask = one.after == other.before
    return same


def _chains(places: Sequence[Place], parts: Sequence[int]) -> list[_Chain]:
    found, start = [], 0
    for (pass_, part), some in groupby(
        (place.pass_, part) for place, part in zip(places, parts, strict=True)
    ):
        stop = start + len(list(some))
        found.append(_Chain(pass_, part, range(start, stop)))
        start = stop
    return found


def _marks(places: Sequence[Place], chain: _Chain, marks: I64) -> _Marks:
    first, last = chain.steps[0], chain.steps[-1]
    if chain.part == _LEGACY:
        return _Marks(marks[first], marks[last] if _leaves_mark(places[last]) else None)
    queued = places[last].effect == "queue"  # userspace may set another one
    return _Marks(
        marks[first] if _leaves_mark(places[first]) else None, None if queued else marks[last]
    )


def _leaves_mark(place: Place) -> bool:
    """Whether a place surely changes no mark: the end of a chain, or a rule that says nothing of marks."""
    if place.rule is None:
        return place.end
    said = place.rule.spec.lower()
    return "mark" not in said and (place.rule.syntax == "nft" or place.target in _MARKS_NOTHING)
