"""In which order a packet passed the chains of both backends: by hook and priority.

Of equal priorities the one that was attached later is the first (net/netfilter/core.c, nf_hook_entries_grow),
which nobody recorded. It is known where one of them ended the packet or began to trace it, or where the
packet's marks tell (`marked_order`); else legacy iptables is put first, and the chains are told as `Unordered`,
unless no rule of theirs matched.
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


# Chains whose order is known by other evidence, and the part that was first.
Proven = frozenset[tuple[Unordered, int]]


def merged(
    blocks: Mapping[int, Sequence[Block]],
    route: Mapping[Pass, int],
    ended: set[int],
    proven: Proven = frozenset(),
) -> Order:
    """The steps of all blocks in the order of a route; ``ended``: the parts that end the packet."""
    turns = []
    for part, some in blocks.items():
        turn = -1
        for number, one in enumerate(some):
            turn = max(turn, route[one.pass_])  # a part's own order stays
            last = part in ended and number == len(some) - 1
            turns.append(_Turn(turn, last, one.traced, part, number, one))
    turns.sort()
    first, ordered, unordered = dict(proven), [], []
    for turn, group in groupby(turns, key=itemgetter(0)):
        here = list(group)
        told = _unordered(here, route, first=turn == turns[0].turn)
        if told in first:
            before = first[told]
            here.sort(key=lambda one: one.part != before)
        elif told is not None:
            unordered.append(told)
        ordered += here
    return Order(
        [(one.part, step) for one in ordered for step in one.block.steps], tuple(unordered)
    )


def _unordered(
    turns: Sequence[_Turn], route: Mapping[Pass, int], *, first: bool
) -> Unordered | None:
    """The chains of one turn, unless their order is known or nobody can ask for it."""
    some = [one for one in turns if route[one.block.pass_] == one.turn and not one.last]
    if len({one.part for one in some}) < 2 or _begun_here(some, first=first):  # noqa: PLR2004
        return None
    if not any(one.block.rules for one in some):
        return None
    hook = HOOKS[some[0].block.pass_.hook]
    return Unordered(hook, tuple(chain_name(one.block.pass_) for one in some))


def _begun_here(some: Sequence[_Turn], *, first: bool) -> bool:
    """Whether one of these chains began to trace, and that tells their order."""
    return first and (len(some) == 2 or not any(one.traced for one in some))  # noqa: PLR2004


def chain_name(one: Pass) -> str:
    """As readers are told of it."""
    return f"{one.table}/{one.base or HOOKS[one.hook]}"
