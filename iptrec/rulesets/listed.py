"""The tables, chains and rules that the rulesets of a recording list, whenever they were in force.

For names alone, as completion needs them: neither times nor numpy, so that it takes a few milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from iptrec.decode.rulesets import iptables_save, nft_listing
from iptrec.errors import RecordingError
from iptrec.names import COMMENT
from iptrec.recording.kinds import SAVES
from iptrec.rulesets.table_names import called, is_of_a_recorder, table_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.recording.rows import Snapshot

_NFT: Final = "nft"
KINDS: Final = (*SAVES.values(), _NFT)  # of snapshots that list rules
_LARGEST: Final = 16 << 20  # bytes: as values it takes ten times as much, and half a second

# A table's name, as readers call it, and a chain's -> the texts of its rules without ours; "" if not told.
Chains = dict[tuple[str, str], list[str]]


def chains(snapshot: Snapshot, *, single: bool) -> Chains:
    """What a snapshot of `KINDS` lists, nothing if it is huge or cannot be read. ``single``: see `called`."""
    if len(snapshot.content) > _LARGEST:
        return {}
    try:
        if snapshot.kind == _NFT:
            return _of_nft(snapshot.content, single=single)
        return _of_save(snapshot.content, single=single)
    except (RecordingError, ValueError):
        return {}


def _of_save(text: bytes, *, single: bool) -> Chains:
    return {
        (called("legacy", table, single=single), name): [
            rule.spec for rule in chain.rules if not (rule.comment or "").startswith(COMMENT)
        ]
        for table, within in iptables_save.parse(text).tables.items()
        for name, chain in within.items()
    }


def _of_nft(listing: bytes, *, single: bool) -> Chains:
    read: dict[tuple[str, str, str], list[str]] = {}
    for kind, value in _objects(listing):
        names = [
            value.get(one) for one in ("family", "table", "name" if kind == "chain" else "chain")
        ]
        if kind not in ("chain", "rule") or not all(isinstance(one, str) for one in names):
            continue
        family, table, chain = map(str, names)
        if is_of_a_recorder(f"{family} {table}"):
            continue
        rules = read.setdefault((family, table, chain), [])
        comment = value.get("comment")
        comment = comment if isinstance(comment, str) else ""
        if kind == "rule" and not comment.startswith(COMMENT):
            rules.append(comment)
    found: Chains = {}
    for (family, table, chain), rules in read.items():
        # The tables of IPv4 and IPv6 have one name: what can be told by a number is in the longer chain.
        key = table_name((family, table), single=single), chain
        found[key] = max(rules, found.get(key, []), key=len)
    return found


def _objects(listing: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in nft_listing.objects(listing):
        if isinstance(one, dict):
            yield from ((kind, value) for kind, value in one.items() if isinstance(value, dict))
