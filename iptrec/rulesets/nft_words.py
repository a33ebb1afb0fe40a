"""In which words each rule of nf_tables is told that was listed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iptrec.decode.rulesets.nft_json import Listing
    from iptrec.decode.rulesets.types import Chain, Rule, TableName


class Words:
    """How each rule is best told: in iptables' words, by nft's JSON, or by its text alone."""

    def __init__(self, listings: Iterable[Listing]) -> None:
        # By the handles of table and rule, and nft's text; the higher the number, the more is known of it.
        self._best: dict[tuple[TableName, int | None, int | None, str], tuple[int, Rule]] = {}
        self._chains: dict[tuple[TableName, str], Chain] = {}
        for listing in listings:
            for table in listing.chains:
                handle = listing.handles.get(table)
                for _, pairs in _pairs(listing, table):
                    for printed, rule in pairs:
                        key = table, handle, printed.handle, printed.spec
                        rank = int(listing.whole) + (rule != printed)
                        if key not in self._best or rank > self._best[key][0]:
                            self._best[key] = rank, rule

    def rules(self, listing: Listing, table: TableName) -> Iterator[tuple[int | None, Rule]]:
        """The rules of a table by their handles, each in the best words that there are."""
        for chain in self.chains(listing, table).values():
            for rule in chain.rules:
                yield rule.handle, rule

    def chains(self, listing: Listing, table: TableName) -> dict[str, Chain]:
        """A table's chains, each rule in the best words that there are; equal chains are the same objects."""
        found = {}
        handle = listing.handles.get(table)
        for name, pairs in _pairs(listing, table):
            rules = (
                rule
                if rule != printed
                else self._best[table, handle, printed.handle, printed.spec][1]
                for printed, rule in pairs
            )
            chain = replace(listing.chains[table][name], rules=tuple(rules))
            before = self._chains.get((table, name))
            found[name] = self._chains[table, name] = before if before == chain else chain
        return found


def _pairs(listing: Listing, table: TableName) -> Iterator[tuple[str, list[tuple[Rule, Rule]]]]:
    """The rules of each chain as nft prints them, and in iptables' words where these are true."""
    native = listing.chains.get(table, {})
    told = listing.iptables.get(table, native)
    for name, chain in native.items():
        yield name, list(zip(chain.rules, told[name].rules, strict=True))
