"""The text of rules of nf_tables that came and went between two listings.

The recorder had them listed once more, made again of what the kernel told of them; an equal rule has an equal
text. What they were made of tells which is which.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Final

from iptrec.decode import nft_changes
from iptrec.decode.rulesets import iptables_save, nft_json
from iptrec.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iptrec.decode.rulesets.nft_json import Listing
    from iptrec.decode.rulesets.types import Rule, TableName

KIND: Final = "nft-missed"
SAVED: Final = {"iptables-nft-save": "ip", "ip6tables-nft-save": "ip6"}
_CHAIN: Final = "iptrec-missed"  # of the rules in each table, in the order in which they were told
_UNREADABLE: Final = (
    RecordingError, AttributeError, LookupError, TypeError, ValueError, RecursionError,
)  # fmt: skip
Contents = dict["TableName", dict[object, "Rule"]]


def contents(snapshots: Iterable[bytes]) -> Contents:
    """The rules by their tables, and by what they are made of (`nft_changes.Edit.content`)."""
    found: Contents = {}
    for one in snapshots:
        with contextlib.suppress(*_UNREADABLE):
            _read(json.loads(one), found)
    return found


def _read(told: dict[str, Any], found: Contents) -> None:
    listing = nft_json.parse(
        _bytes(told["nft"]), _bytes(told["nft-text"]),
        {family: iptables_save.parse(_bytes(told[kind])) for kind, family in SAVED.items() if kind in told},
    )  # fmt: skip
    made: dict[TableName, list[object]] = {}
    for edit in nft_changes.rules(bytes.fromhex(told["messages"])):
        made.setdefault(edit.table, []).append(edit.content)
    for table, some in made.items():
        rules = _listed(listing, table)
        if len(rules) == len(some):
            known = found.setdefault(table, {})
            known |= {
                content: rule
                for content, rule in zip(some, rules, strict=True)
                if content is not None
            }


def _listed(listing: Listing, table: TableName) -> tuple[Rule, ...]:
    """A table's rules in the best words that there are."""
    chains = listing.iptables.get(table, listing.chains.get(table, {}))
    return chains[_CHAIN].rules if _CHAIN in chains else ()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
