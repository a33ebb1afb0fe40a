"""Fragments that the kernel put together: they end where the whole packet begins.

Without connection tracking IPv4 reassembles only what is for this host, between PREROUTING and INPUT
(net/ipv4/ip_input.c, ip_local_deliver): each fragment is traced in PREROUTING, the whole packet from
INPUT on. With connection tracking it does so in PREROUTING (NF_IP_PRI_CONNTRACK_DEFRAG, -400): where tracing
begins before that, the whole packet begins there, behind its fragments.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.names import HOOKS
from iptrec.packets.identity import Packets

if TYPE_CHECKING:
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, Mask
    from iptrec.packets.outcome import Outcome


REASSEMBLED: Final = "REASSEMBLED"
_PREROUTING, _INPUT = HOOKS.index("PREROUTING"), HOOKS.index("INPUT")


def put_together(events: TraceEvents, begun: I64) -> Mask:
    """Which traversals begin at INPUT as what fragments before became; ``begun``: the first event of each."""
    hook = events.hook[begun]
    delivered = hook == _INPUT
    keys, fragment = Packets.of(events, begun).datagram_keys()
    pieces = keys[fragment & (hook == _PREROUTING)]
    found: Mask = delivered & ~fragment & np.isin(keys, pieces)
    return found


def reassemble(
    events: TraceEvents, begun: I64, outcome: I64, outcomes: list[Outcome]
) -> tuple[I64, list[Outcome]]:
    """The outcomes of traversals, knowing which fragments became which packets.

    ``begun``: each traversal's first event; ``outcome`` indexes ``outcomes``.
    """
    broken = np.array([not one.complete for one in outcomes], np.bool_)[outcome]
    hook = events.hook[begun]
    if not (broken & (hook == _PREROUTING)).any():
        return outcome, outcomes
    keys, fragment = Packets.of(events, begun).datagram_keys()
    pieces = fragment & broken & (hook == _PREROUTING)
    headless = broken & (hook == _INPUT)
    if not pieces.any():
        return outcome, outcomes
    wholes = ~fragment & (headless | (hook == _PREROUTING))
    both = np.intersect1d(keys[pieces], keys[wholes])
    if not len(both):
        return outcome, outcomes
    numbers = {one: number for number, one in enumerate(outcomes)}
    changed = outcome.copy()
    for position in np.flatnonzero((pieces | headless & wholes) & np.isin(keys, both)).tolist():
        one = outcomes[outcome[position]]
        verdict = REASSEMBLED if pieces[position] else one.verdict
        joined = replace(one, verdict=verdict, complete=True, reason=None, vanished=None)
        changed[position] = numbers.setdefault(joined, len(numbers))
    return changed, list(numbers)
