"""Which packets keep their addresses, so that events with others are of others.

Where payload was recorded it tells packets apart that have equal headers but for their addresses. What was made
of text has none: two neighbour solicitations, of which lines are lost, would become one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.names import FAMILIES
from iptrec.rulesets.table_names import plain

if TYPE_CHECKING:
    from iptrec.decode.events import TraceEvents
    from iptrec.names import Family, Mask
    from iptrec.rulesets.timeline import Timelines

_NAT: Final = "nat"
_REWRITING: Final = frozenset({"DNPT", "SNPT", "NETMAP", "RAWDNAT", "RAWSNAT"})  # also elsewhere


def fixed(events: TraceEvents, timelines: Timelines) -> Mask | None:
    """Of which events, shape (n,), no rule of legacy iptables changes addresses; None: of none."""
    found = np.zeros(len(events.ipv6), np.bool_)
    for family, of_family in zip(FAMILIES, (~events.ipv6, events.ipv6), strict=True):
        if _keeps(timelines, family):
            found |= of_family & events.ip
    return found if found.any() else None


def _keeps(timelines: Timelines, family: Family) -> bool:
    tables = timelines.loaded(family)
    return bool(tables) and not any(
        plain(name) == _NAT
        or any(
            rule.target in _REWRITING
            for state in one.states
            for chain in (state.chains or {}).values()
            for rule in chain.rules
        )
        for name, one in tables.items()
    )
