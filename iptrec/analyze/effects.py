"""What a rule does to a packet, and whether the packet shows it.

Some targets say exactly what the packet looks like at the next rule. A rule whose effect is not there
did not match; so its ruleset was not the one in force.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.analyze.grammar import Place
    from iptrec.decode.nflog import NflogEvents

# As iptables-save prints it (extensions/libxt_MARK.c).
_SET_MARK: Final = re.compile(r"--set-xmark (0x[0-9a-f]{1,8})/(0x[0-9a-f]{1,8})")


def contradicted(events: NflogEvents, rows: Sequence[int], places: Sequence[Place]) -> bool:
    """Whether an event of a packet does not show what the rule before it did."""
    return any(
        place.rule is not None
        and place.rule.target == "MARK"
        and not _marked(place.rule.target_args, int(events.mark[row]), int(events.mark[after]))
        for place, row, after in zip(places, rows, rows[1:], strict=False)
    )


def _marked(arguments: str | None, before: int, after: int) -> bool:
    """Net/netfilter/xt_mark.c: the mask's bits are cleared, then the value is XORed in."""
    found = _SET_MARK.fullmatch(arguments or "")
    if found is None:
        return True
    value, mask = int(found[1], 16), int(found[2], 16)
    return after == ((before & ~mask) ^ value)
