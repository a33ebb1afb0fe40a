"""The named sets and maps of nf_tables over time.

Each change of a set by a command is a change of the ruleset, and has its snapshot. That rules change a set, or
that an element ends, nobody tells.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from iptrec.decode.rulesets import nft_sets
from iptrec.rulesets.nft import LISTING, UNKNOWN, table_name
from iptrec.rulesets.timeline import EVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from iptrec.decode.rulesets.nft_sets import NftSet, Sets
    from iptrec.names import Family
    from iptrec.recording.rows import Snapshot

_OF_FAMILY: Final[dict[Family, str]] = {"ipv4": "ip", "ipv6": "ip6"}
# The ruleset is listed a while before the first snapshot's time, and after that of the others.
_LISTING_NS: Final = 60_000_000_000


class NftSets:
    """The sets of one namespace, by the snapshots of it."""

    def __init__(self, snapshots: Iterable[Snapshot], *, single: bool) -> None:
        self._single = single
        self._states: list[tuple[int, int, bytes | None]] = []
        for one in snapshots:
            if one.kind in (LISTING, UNKNOWN):
                content = one.content if one.kind == LISTING else None
                after = one.time_ns if one.after_ns is None else one.after_ns
                self._states.append((after, one.time_ns, content))
        self._read = functools.lru_cache(maxsize=64)(self._parsed)

    def at(
        self, time_ns: tuple[int, int], family: Family, table: str
    ) -> list[Mapping[str, NftSet] | None]:
        """The sets of a table, each time that may have been between two times (epoch); None: not known."""
        found: list[Mapping[str, NftSet] | None] = []
        for number, (after, _, _) in enumerate(self._states):
            until = self._states[number + 1][1] if number + 1 < len(self._states) else None
            began = EVER if number == 0 else after
            if began < time_ns[1] and (until is None or time_ns[0] <= until):
                found.append(self._of(number, family, table))
        return found

    def _of(self, number: int, family: Family, table: str) -> Mapping[str, NftSet] | None:
        sets = self._read(number)
        if sets is None:
            return None
        own = (_OF_FAMILY[family], "inet", "bridge", "netdev")
        return next(
            (
                of
                for name, of in sets.items()
                if name[0] in own and table_name(name, single=self._single) == table
            ),
            {},
        )

    def _parsed(self, number: int) -> Sets | None:
        _, time, content = self._states[number]
        first = number == 0
        listed = (time - _LISTING_NS, time) if first else (time, time + _LISTING_NS)
        return None if content is None else nft_sets.parse(content, listed)
