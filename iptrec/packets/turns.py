"""In which order a packet passed the chains of both backends: by hook and priority.

Of equal priorities the one that was attached later is the first (net/netfilter/core.c, nf_hook_entries_grow),
which nobody recorded. It is known where one of them ended the packet or began to trace it, or where the times
of its events or its marks tell (`proven_order`); else legacy iptables is put first, and the chains are told as
`Unordered`, unless no rule of theirs matched.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from iptrec.names import HOOKS
from iptrec.packets.outcome import Unordered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from iptrec.rulesets.places import Pass


class Block(NamedTuple):
    """The events of one pass: ``steps`` are their places in the path of a part.

    ``traced``: tracing had begun before, for legacy iptables tells of no rule that begins it. ``rules``: there
    are rules among them, not only ends of chains.
    """

    pass_: Pass
    steps: range
    traced: bool
    rules: bool


class Order(NamedTuple):
    """The part and the place there of each step, and the chains of which it is not known."""

    steps: list[tuple[int, int]]
    unordered: tuple[Unordered, ...]


class _Turn(NamedTuple):
    """When a block comes; in order of these fields. ``part``: 0 is legacy iptables."""

    turn: int
    last: bool
    traced: bool
    part: int
    number: int
    block: Block


# Chains whose order is known by other evidence, and how many of nf_tables come before that of legacy iptables.
Proven = frozenset[tuple[Unordered, int]]


def merged(
    blocks: Mapping[int, Sequence[Block]],
    route: Mapping[Pass, int],
    ended: set[int],
    proven: Proven = frozenset(),
) -> Order:
    """The steps of all blocks in the order of a route; ``ended``: the parts that end the packet.

    A chain that the route does not have stays behind the one before it of its part.
    """
    turns = []
    for part, some in blocks.items():
        turn = -1
        for number, one in enumerate(some):
            turn = max(turn, route.get(one.pass_, turn))  # a part's own order stays
            last = part in ended and number == len(some) - 1
            turns.append(_Turn(turn, last, one.traced, part, number, one))
    turns.sort()
    known, ordered, unordered = dict(proven), [], []
    for turn, group in groupby(turns, key=itemgetter(0)):
        here = list(group)
        tied = [one for one in here if route.get(one.block.pass_) == turn and not one.last]
        told = _unordered(tied, first=turn == turns[0].turn)
        if told in known:
            here = _in_order(here, tied, known[told])
        elif told is not None:
            unordered.append(told)
        ordered += here
    return Order(
        [(one.part, step) for one in ordered for step in one.block.steps], tuple(unordered)
    )


def _in_order(turns: Sequence[_Turn], tied: Sequence[_Turn], before: int) -> list[_Turn]:
    """Turns with some of them in their own order: so many of nf_tables come before legacy iptables."""
    legacy, others = ([one for one in tied if (one.part == 0) is of] for of in (True, False))
    order = iter([*others[:before], *legacy, *others[before:]])
    return [next(order) if one in tied else one for one in turns]


def _unordered(tied: Sequence[_Turn], *, first: bool) -> Unordered | None:
    """The chains of one turn, unless their order is known or nobody can ask for it."""
    if len({one.part for one in tied}) < 2 or _begun_here(tied, first=first):  # noqa: PLR2004
        return None
    if not any(one.block.rules for one in tied):
        return None
    hook = HOOKS[tied[0].block.pass_.hook]
    return Unordered(hook, tuple(chain_name(one.block.pass_) for one in tied))


def _begun_here(tied: Sequence[_Turn], *, first: bool) -> bool:
    """Whether one of these chains began to trace, and that tells their order."""
    return first and (len(tied) == 2 or not any(one.traced for one in tied))  # noqa: PLR2004


def chain_name(one: Pass) -> str:
    """As readers are told of it."""
    return f"{one.table}/{one.base or HOOKS[one.hook]}"
