"""Which drops may be of a copy, while the packet, or another copy, goes on.

The kernel copies without a word: a bridge sends by each of its ports, IP forwards a multicast by several
interfaces, all sockets of a broadcast get their own, and so do raw ones. A copy has the packet's bytes, and is
traced as it is. What was never cloned has none; tcpdump's are clones, too.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.context.routes import broadcasts
from iptrec.context.stacked import Stacked
from iptrec.decode import snapshots

if TYPE_CHECKING:
    from iptrec.names import I64, Mask
    from iptrec.packets.drop_records import Flags, Records
    from iptrec.recording.rows import Recording

_MULTICAST_ROUTING: Final = tuple(f"net/{one}/conf/all/mc_forwarding" for one in ("ipv4", "ipv6"))


class Copies:
    """The copies of one namespace of a recording."""

    def __init__(self, recording: Recording, namespace: int) -> None:
        self._recording = recording
        self._namespace = namespace

    def among(
        self, records: Records, flags: Flags, some: I64, passing: Mask, single: Mask, bridged: Mask
    ) -> Mask:
        """Which of ``some`` records may be of one of several copies.

        ``passing``: of packets that came in and of which no rule told by what interface they leave. ``single``:
        of such that came in and of which no copy is told. ``bridged``: of such that a bridge had in hand.
        """
        alone, cloned, group = records.alone[some], records.cloned[some], records.group[some]
        many = flags.of_socket[some] & ~alone
        to_all = group | self._broadcast(np.where(many | bridged, records.to[some], -1))
        many &= to_all
        taken = flags.receiving[some] & group & cloned & single
        taken &= bridged | self._routes_groups  # else no other one can have been forwarded
        # A bridge sends it out by its ports as well, and whoever took it there may have let go of it by now.
        taken |= bridged & single & to_all
        # What is forwarded gets bytes of its own, so it was cloned afterwards; so may each copy of a multicast.
        leaving = flags.leaving[some]
        flooded = leaving & cloned & passing & ~flags.waiting[some]
        forwarded = leaving & group & single
        copied: Mask = many | taken | flooded | forwarded | (flags.of_copy[some] & ~alone)
        return copied

    def leaves(self, device: I64, out: I64) -> tuple[Mask, Mask]:
        """Whether what leaves by each ``out`` leaves by ``device``, and whether as one of several copies."""
        leaves: Mask = device == out
        several = np.zeros(len(leaves), np.bool_)
        at = np.flatnonzero(~leaves & np.isin(device, self._stacked.lower))
        pair, inverse = np.unique(device[at] << 32 | out[at], return_inverse=True)
        told = [self._stacked.copied(one >> 32, one & 0xFFFFFFFF) for one in pair.tolist()]
        leaves[at] = np.array([one is not None for one in told], np.bool_)[inverse]
        several[at] = np.array([bool(one) for one in told], np.bool_)[inverse]
        return leaves, several

    def several(self, out: I64) -> Mask:
        """Which interfaces may send by several others, a copy each."""
        return np.isin(out, [*self._stacked.copying])

    @functools.cached_property
    def _stacked(self) -> Stacked:
        return Stacked(self._recording, self._namespace)

    @functools.cached_property
    def _routes_groups(self) -> bool:
        """Whether IP may forward multicasts: only where a program asks for it (ip_mroute_setsockopt)."""
        known = [
            snapshots.counters(one.content)
            for one in self._recording.snapshots("sysctls")
            if one.namespace == self._namespace
        ]
        return not known or any(one.get(key) != "0" for one in known for key in _MULTICAST_ROUTING)

    @functools.cached_property
    def _broadcasts(self) -> I64:
        """First and last address (IPv4) of each network that is a broadcast address; shape (n, 2)."""
        known = broadcasts(self._recording, self._namespace)
        ends = [(int(one[0]), int(one[-1])) for one in known if one.version == 4]  # noqa: PLR2004
        return np.array(sorted(ends), np.int64).reshape(-1, 2)

    def _broadcast(self, to: I64) -> Mask:
        """Which addresses (IPv4, -1: another one) are for all of a link."""
        found = np.zeros(len(to), np.bool_)
        if (to >= 0).any():
            first, last = self._broadcasts.T
            single = first == last
            found |= np.isin(to, first[single])
            for one in np.flatnonzero(~single):
                found |= (first[one] <= to) & (to <= last[one])
        return found
