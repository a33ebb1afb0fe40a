"""The text of rules of nf_tables that the kernel told when recording began, as nft could not list them in time.

A recorder then has each of them listed elsewhere, made again of what the kernel told (`nft_missed`): an equal
rule has an equal text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from iptrec.decode import nft_changes

if TYPE_CHECKING:
    from iptrec.decode.rulesets.nft_json import Listing
    from iptrec.decode.rulesets.types import Chain, Rule, TableName
    from iptrec.rulesets.nft_missed import Contents

Told = Mapping["TableName", Mapping[int, object]]  # what rules are made of, by their handles


def is_told(listing: Listing) -> bool:
    """Whether it has rules without their texts."""
    return any(
        not rule.listed
        for chains in listing.chains.values()
        for chain in chains.values()
        for rule in chain.rules
    )


def read(content: bytes) -> Told:
    """What the kernel told of rules, of a snapshot; nothing of what cannot be read."""
    found: dict[TableName, dict[int, object]] = {}
    try:
        messages = bytes.fromhex(json.loads(content)["messages"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return found
    for edit in nft_changes.rules(messages):
        if edit.content is not None:
            found.setdefault(edit.table, {})[edit.handle] = edit.content
    return found


def with_texts(listing: Listing, told: Told, contents: Contents) -> Listing:
    """A listing with the texts of its rules, as far as somebody listed an equal one."""
    chains = {
        table: _filled(some, told.get(table, {}), contents.get(table, {}))
        for table, some in listing.chains.items()
    }
    return replace(listing, chains=chains)


def _filled(
    chains: Mapping[str, Chain], told: Mapping[int, object], contents: Mapping[object, Rule]
) -> dict[str, Chain]:
    def filled(rule: Rule) -> Rule:
        equal = None if rule.listed or rule.handle is None else contents.get(told.get(rule.handle))
        return rule if equal is None else replace(equal, handle=rule.handle)

    return {name: replace(one, rules=tuple(map(filled, one.rules))) for name, one in chains.items()}
