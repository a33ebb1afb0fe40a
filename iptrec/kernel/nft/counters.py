"""How many packets our TRACE rules of nf_tables have matched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iptrec.kernel.nft import rule as nft_rule
from iptrec.kernel.nft import table, transactions
from iptrec.kernel.nft.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iptrec.kernel.nft.transactions import Holder
    from iptrec.names import Family


def matched(comment: str, families: Iterable[Family]) -> dict[str, int]:
    """Backend, family and chain -> packets. Raises `HostError`.

    The family of a table of our own is inet or bridge; there, a packet may be counted before it comes to raw.
    """
    found: dict[str, int] = {}
    own = table.name(comment)
    places: list[tuple[Holder, str]] = [(family, "raw") for family in families]
    for holder, name in [*places, ("inet", own), ("bridge", own)]:
        for one in _rules(transactions.FAMILIES[holder], name, comment):
            key = f"nft {holder} {one.chain.upper()}"
            found[key] = found.get(key, 0) + one.packets
    return found


def _rules(family: int, name: str, comment: str) -> Iterator[Rule]:
    """Those of a table that are ours."""
    dumped = transactions.dumped(transactions.GET_RULE, family, [(nft_rule.TABLE, name)])
    for one in dumped or ():
        if one[nft_rule.TABLE] == name.encode() + b"\0":
            rule = Rule.of(one)
            if comment.encode() + b"\0" in rule.content:
                yield rule
