"""Packets that were seen last before rules of legacy iptables whose matches drop what they cannot read.

Such a rule neither traces nor counts them: that nothing more is seen is all that tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.matching import after
from iptrec.matching.bits import Bits
from iptrec.matching.facts import Facts
from iptrec.matching.hotdrop import drops

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iptrec.packets.model import Traversal
    from iptrec.packets.window import Window
    from iptrec.rulesets.unmet import Unmet

_MOST: Final = 3  # rules that are named


def dropped_by_match(
    window: Window, position: int, packet: Traversal, rules: Iterable[Unmet]
) -> str | None:
    """Which of some rules dropped the packet as malformed, or may have; None where none can have."""
    path = window.assembly.outcomes[window.assembly.outcome[position]].path
    row = int(window.assembly.events(position)[-1])
    events, last = window.events, window.resolver.places[path[-1]]
    if events.trace[row] >= 0 or not packet.steps:  # nf_tables tells of such a drop
        return None
    step = packet.steps[-1]
    facts = Facts(
        header=step.header, mark=None, in_=step.in_, out=step.out, physin=step.physin, physout=step.physout,
        source_mac=None, bits=Bits(events.packet(row), events.frame(row)),
    )  # fmt: skip
    if last.rule is not None:
        facts = after(last.rule, facts, matched=True)
    found: list[str] = []
    for one in rules:
        dropped = drops(one.rule, facts)
        if dropped and one.same_hook and not found:
            return f"malformed: the match of {one.where} drops it ({one.rule.spec})"
        if dropped is not False:
            found.append(one.where)
    if not found:
        return None
    more = " or another" if len(found) > _MOST else ""
    return f"perhaps malformed: the match of {' or '.join(found[:_MOST])}{more} may have dropped it"
