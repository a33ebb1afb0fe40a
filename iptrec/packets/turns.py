"""In which order a packet passed the chains of both backends: by hook and priority.

Of equal priorities the one that was attached later is the first (net/netfilter/core.c, nf_hook_entries_grow),
which nobody recorded. It is known where one of them ended the packet or began to trace it; else legacy iptables
is put first, and the chains are told as `Unordered`, unless no rule of theirs matched.
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


def merged(
    blocks: Mapping[int, Sequence[Block]], route: Mapping[Pass, int], ended: set[int]
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
    return Order(
        [(one.part, step) for one in turns for step in one.block.steps],
        tuple(_unordered(turns, route)),
    )


def _unordered(turns: Sequence[_Turn], route: Mapping[Pass, int]) -> list[Unordered]:
    found = []
    for turn, group in groupby(turns, key=itemgetter(0)):
        some = [one for one in group if route[one.block.pass_] == turn and not one.last]
        if len({one.part for one in some}) > 1 and not (
            _begun_here(some, first=turn == turns[0].turn)
        ):
            found.append(some)
    return [
        Unordered(HOOKS[some[0].block.pass_.hook], tuple(_name(one.block.pass_) for one in some))
        for some in found
        if any(one.block.rules for one in some)
    ]


def _begun_here(some: Sequence[_Turn], *, first: bool) -> bool:
    """Whether one of these chains began to trace, and that tells their order."""
    return first and (len(some) == 2 or not any(one.traced for one in some))  # noqa: PLR2004


def _name(one: Pass) -> str:
    return f"{one.table}/{one.base or HOOKS[one.hook]}"
