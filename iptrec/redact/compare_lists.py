"""Whether the lists of a redacted recording are those that it was made of: of sets, addresses, routes.

`iptrec why` answers by their contents, which no packet shows.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from iptrec.decode import snapshots
from iptrec.errors import RecordingError
from iptrec.redact.compare_rulesets import RuleDifference, in_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from iptrec.recording.rows import Snapshot
    from iptrec.redact.pairs import Pairs

KINDS: Final = ("ipsets", "addresses", "routes", "ip-rules", "neighbours", "links")
# (first address, last one, prefix length) of a row
_NETWORKS: Final = (
    ("ip", "ip_to", "cidr"), ("ip2", "ip2_to", "cidr2"), ("dst", "", "dst_len"), ("src", "", "src_len"),
)  # fmt: skip
_NAMES: Final = frozenset({"name", "nameref", "iface", "iif", "oif", "altname", "label"})
_PROSE: Final = frozenset({"comment", "alias"})
_MEMBERS: Final = "members"


class Lists:
    """Compares lists of the kernel; ``pairs``: of the words that were compared already."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self.rows = 0  # that were compared

    def differences(
        self, before: Iterable[Snapshot], after: Iterable[Snapshot]
    ) -> Iterator[RuleDifference]:
        """Of snapshots of `KINDS`, in their order."""
        known: set[tuple[str, bytes, bytes]] = set()
        for kind, old, new in in_pairs(before, after):
            if old is None or new is None:
                yield RuleDifference(f"the list of {kind}", "it is in one recording alone")
            elif (both := (kind, old.content, new.content)) not in known:
                known.add(both)
                yield from self._of(old, new)

    def _of(self, before: Snapshot, after: Snapshot) -> Iterator[RuleDifference]:
        kind, media = before.kind, before.media
        if media != snapshots.NETLINK:  # of format 1 of the file, or what a program printed
            return
        try:
            old, new = (
                json.loads(snapshots.shown(kind, one.content, media)) for one in (before, after)
            )
        except RecordingError:
            if before.content != after.content:
                yield RuleDifference(f"the list of {kind}", "it cannot be read")
            return
        if len(old) != len(new):
            yield RuleDifference(f"the list of {kind}", "the number of its rows")
            return
        for number, (was, now) in enumerate(zip(old, new, strict=True), 1):
            self.rows += 1
            named = f" ({was['name']})" if kind == "ipsets" else ""
            for field in self._row(was, now, partial=kind == "links"):
                yield RuleDifference(f"row {number} of {kind}{named}", field)

    def _row(
        self, before: Mapping[str, Any], after: Mapping[str, Any], *, partial: bool
    ) -> Iterator[str]:
        """Which fields differ; ``partial``: redacted, it has not all of them."""
        members, others = before.get(_MEMBERS), after.get(_MEMBERS)
        if isinstance(members, list) and isinstance(others, list):
            if len(members) != len(others):
                yield "the number of its members"
            for number, both in enumerate(zip(members, others, strict=False), 1):
                self.rows += 1
                yield from (f"member {number}: {one}" for one in self._row(*both, partial=False))
        old, new = _combined(before), _combined(after)
        for key in dict.fromkeys([*old, *new]):
            if key not in new and partial:
                continue
            if key not in old or key not in new or not self._is(key, old[key], new[key]):
                yield key

    def _is(self, key: str, before: Any, after: Any) -> bool:  # noqa: ANN401 - JSON
        if not (isinstance(before, str) and isinstance(after, str)):
            if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
                return all(self._is(key, *both) for both in zip(before, after, strict=True))
            if isinstance(before, dict) and isinstance(after, dict):
                return all(self._is(one, before.get(one), now) for one, now in after.items())
            return bool(before == after)
        if key in _NAMES and self._pairs.name(before, after):
            return True
        if key in _PROSE:
            return self._pairs.prose(before, after)
        if before == after:
            return self._pairs.stays(before)
        return self._pairs.addresses(before, after)


def _combined(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its networks and ranges as single words; without its members."""
    found = {key: value for key, value in row.items() if key != _MEMBERS}
    for first, last, length in _NETWORKS:
        if found.get(first) is None:
            continue
        if found.get(last):
            found[first] = f"{found[first]}-{found.pop(last)}"
        elif found.get(length):
            found[first] = f"{found[first]}/{found[length]}"
    return found
