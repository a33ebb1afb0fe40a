"""The named sets and maps of nf_tables over time.

Each change of a set by a command is a change of the ruleset; of several at once the last has a snapshot. That
rules change a set, or that an element ends, nobody tells.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.decode.rulesets import nft_sets
from iptrec.rulesets.nft import LISTING, UNKNOWN, table_name
from iptrec.rulesets.timeline import EVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from iptrec.decode.rulesets.nft_sets import NftSet, Sets
    from iptrec.names import Family
    from iptrec.recording.rows import Snapshot
    from iptrec.rulesets.nft_states import Changed

_OF_FAMILY: Final[dict[Family, str]] = {"ipv4": "ip", "ipv6": "ip6"}
# The ruleset is listed a while before the first snapshot's time, and after that of the others.
_LISTING_NS: Final = 60_000_000_000


class _Listed(NamedTuple):
    """The sets as they were listed; ``content``: None where they were gone before that.

    They came to be between two times (epoch). ``several``: by more than one change, so that nobody knows what
    they were meanwhile.
    """

    after_ns: int
    until_ns: int
    time_ns: int
    content: bytes | None
    several: bool


class NftSets:
    """The sets of one namespace, by the snapshots of it; ``changed``: see `States.changed`."""

    def __init__(
        self, snapshots: Iterable[Snapshot], changed: Mapping[int, Changed], *, single: bool
    ) -> None:
        self._single = single
        self._lists = [
            _listed(one, changed.get(one.time_ns))
            for one in snapshots
            if one.kind in (LISTING, UNKNOWN)
        ]
        self._read = functools.lru_cache(maxsize=64)(self._parsed)

    def at(
        self, time_ns: tuple[int, int], family: Family, table: str
    ) -> list[Mapping[str, NftSet] | None]:
        """The sets of a table, each time that may have been between two times (epoch); None: not known."""
        found: list[Mapping[str, NftSet] | None] = []
        for number, one in enumerate(self._lists):
            until = self._lists[number + 1].until_ns if number + 1 < len(self._lists) else None
            began = EVER if number == 0 else one.after_ns
            if began >= time_ns[1]:
                break
            if number and one.several and time_ns[0] <= one.until_ns:
                found.append(None)
            if until is None or time_ns[0] <= until:
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
        one = self._lists[number]
        first = number == 0
        listed = (
            (one.time_ns - _LISTING_NS, one.time_ns)
            if first
            else (one.time_ns, one.time_ns + _LISTING_NS)
        )
        return None if one.content is None else nft_sets.parse(one.content, listed)


def _listed(one: Snapshot, changed: Changed | None) -> _Listed:
    content = one.content if one.kind == LISTING else None
    if changed is not None:
        several = changed.times > 1
        return _Listed(changed.after_ns, changed.until_ns, one.time_ns, content, several)
    after = one.time_ns if one.after_ns is None else one.after_ns
    return _Listed(after, one.time_ns, one.time_ns, content, several=True)
