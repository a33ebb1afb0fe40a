"""In which order a packet passed chains of equal priority of both backends, where its times or marks tell.

A tap notes when the kernel sent each event, of both backends by one clock: of chains whose events do not
overlap the order is known.

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

# How many of nf_tables' chains came before the one of legacy iptables.
LEGACY_FIRST, NFT_FIRST, UNPROVEN = 0, 1, -1
_LEGACY: Final = 0  # the part
_MARKS_NOTHING: Final = frozenset(["ACCEPT", "DROP", "RETURN"])
# By which times may differ that were converted from one clock to another at two moments; an event takes longer.
_CLOCKS_NS: Final = 300


class Told(NamedTuple):
    """What events told; of packets of one way in the shape (steps, packets).

    ``sent_ns``: the kernel sent them then, if that is their ``own`` time.
    """

    mark: I64
    sent_ns: I64
    own: Mask

    def take(self, index: I64) -> Told:
        """That of some events."""
        mark, sent_ns, own = self
        return Told(mark[index], sent_ns[index], own[index])


class _Chain(NamedTuple):
    """A chain on a packet's way: its steps, and the part that tells of it."""

    pass_: Pass
    part: int
    steps: range


class _Marks(NamedTuple):
    """With which mark each packet came into a chain, and with which it left; None where that is not known."""

    before: I64 | None
    after: I64 | None


def proven(places: Sequence[Place], parts: Sequence[int], told: Told, chains: Unordered) -> I64:
    """For packets of one way the order of some chains: see `LEGACY_FIRST`, shape (packets,).

    ``places``, ``parts``: of each step.
    """
    unknown = np.full(told.mark.shape[1], UNPROVEN)
    way = _chains(places, parts)
    names = [(HOOKS[one.pass_.hook], chain_name(one.pass_)) for one in way]
    wanted, count = [(chains.hook, name) for name in chains.chains], len(chains.chains)
    others = [1 - _LEGACY] * (count - 1)
    at = next((i for i in range(len(way)) if names[i : i + count] == wanted), None)
    if at is None or sorted(one.part for one in way[at : at + count]) != [_LEGACY, *others]:
        return unknown
    found = _by_times(told, way[at : at + count])
    if count == 2 and way[at].part == _LEGACY:  # noqa: PLR2004 - one's mark is what the other one sees
        found = np.where(found == UNPROVEN, _by_marks(places, told.mark, way, at), found)
    return found


def _by_times(told: Told, chains: Sequence[_Chain]) -> I64:
    """The order in which events were sent, where it is one of the chains as wholes, and of all steps."""
    begin, end = chains[0].steps.start, chains[-1].steps.stop
    ordered = sorted(chains, key=lambda one: one.part != _LEGACY)
    legacy, *others = (told.sent_ns[one.steps.start : one.steps.stop] for one in ordered)
    before = np.stack([one.max(axis=0) + _CLOCKS_NS < legacy.min(axis=0) for one in others])
    behind = np.stack([legacy.max(axis=0) + _CLOCKS_NS < one.min(axis=0) for one in others])
    known = (before | behind).all(axis=0) & (before[:-1] >= before[1:]).all(axis=0)
    known &= told.own[begin:end].all(axis=0)
    here = told.sent_ns[begin:end]
    known &= (told.sent_ns[:begin] <= here.min(axis=0) + _CLOCKS_NS).all(axis=0)
    known &= (told.sent_ns[end:] >= here.max(axis=0) - _CLOCKS_NS).all(axis=0)
    return np.where(known, before.sum(axis=0), UNPROVEN)


def _by_marks(places: Sequence[Place], marks: I64, way: Sequence[_Chain], at: int) -> I64:
    """The order of the two chains from this one on."""
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
    found = np.where(as_shown & ~otherwise, LEGACY_FIRST, UNPROVEN)
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
