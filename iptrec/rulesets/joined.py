"""The rules of both backends as one path of a packet: hook by hook, in the order of their priorities.

Tables of legacy iptables are attached to the same hooks as base chains of nf_tables. Of equal priorities the
one that came later is passed first (net/netfilter/core.c, nf_hook_entries_grow); which one did was not
recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.decode.rulesets.types import Ruleset
from iptrec.names import FAMILIES
from iptrec.rulesets import legacy, nft, nft_places
from iptrec.rulesets.resolver import Book, late_tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from iptrec.decode.rulesets.types import Chain
    from iptrec.names import Family
    from iptrec.rulesets.grammar import Grammar
    from iptrec.rulesets.resolver import Resolver

    _Chains = dict[str, Chain]
    _Met = tuple[tuple[str, int], ...]  # tables with the number of a state

# The kinds of streams whose events are of the same packets, in the order of the parts.
STREAMS: Final = (legacy.LEGACY.stream, nft.NFT.stream)


class Joined(Book):
    """The places of two resolvers under one numbering, judged by grammars of all rules.

    ``parts``: of legacy iptables and of nf_tables, with the same timelines.
    """

    def __init__(self, parts: Sequence[Resolver]) -> None:
        first = parts[0]
        super().__init__(first.timelines, first.our_comment, max(one.refused for one in parts))
        self._parts = parts
        self._late = {family: late_tables(self.timelines, family) for family in FAMILIES}
        self._numbers: dict[tuple[int, int, _Met], int] = {}
        self._chains: dict[tuple[Family, str, int], _Chains] = {}  # of tables in their states
        # By the id of the part's own, which is kept there.
        self._grammars: dict[tuple[int, _Met], Grammar] = {}

    def paths(self, paths: Mapping[int, Sequence[int]]) -> dict[int, tuple[int, ...]]:
        """The numbers here of one packet's places, by the part that numbered them.

        Where base chains were moved, each place is judged by the rules that the packet met in other places.
        """
        met = tuple(dict(self._met(paths)).items())
        return {
            part: tuple(self._number(part, one, met) for one in path)
            for part, path in paths.items()
        }

    def _met(self, paths: Mapping[int, Sequence[int]]) -> Iterator[tuple[str, int]]:
        """The tables whose base chains changed, each in the state that was met last."""
        for part, path in paths.items():
            book = self._parts[part]
            for one in path:
                family, table, state = book.families[one], book.places[one].table, book.states[one]
                chains = book.grammars[one].ruleset.tables.get(table)
                if table in self._late[family] and chains is not None:
                    self._chains[family, table, state] = chains
                    yield table, state

    def _number(self, part: int, number: int, met: _Met) -> int:
        key = (part, number, met)
        if key not in self._numbers:
            book = self._parts[part]
            place, family, state = book.places[number], book.families[number], book.states[number]
            others = tuple(one for one in met if one[0] != place.table)
            grammar = self._grammar(book.grammars[number], family, others)
            self._numbers[key] = self.add(place, grammar, family, state, book.backend)
            if state in book.unseen:
                self.unseen.add(state)
            if state in book.attached:
                self.attached[state] = book.attached[state]
        return self._numbers[key]

    def _grammar(self, own: Grammar, family: Family, others: _Met) -> Grammar:
        """A grammar of a part's with the tables of both; ``others``: as these were."""
        key = id(own), others
        if key not in self._grammars:
            met = {table: self._chains[family, table, state] for table, state in others}
            self._grammars[key] = nft_places.grammar(
                family,
                Ruleset(own.ruleset.tables | met),
                self._late[family],
                self.our_comment,
                legacy.ATTACHED,
            )
        return self._grammars[key]
