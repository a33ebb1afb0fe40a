"""The rules of both backends as one path of a packet: hook by hook, in the order of their priorities.

Tables of legacy iptables are attached to the same hooks as base chains of nf_tables. Of equal priorities the
one that came later is passed first (net/netfilter/core.c, nf_hook_entries_grow); which one did was not
recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.names import FAMILIES
from iptrec.rulesets import legacy, nft, nft_places
from iptrec.rulesets.resolver import Book, late_tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from iptrec.decode.rulesets.types import Ruleset
    from iptrec.names import Family
    from iptrec.rulesets.grammar import Grammar
    from iptrec.rulesets.resolver import Resolver

# The kinds of streams whose events are of the same packets, in the order of the parts.
STREAMS: Final = (legacy.LEGACY.stream, nft.NFT.stream)


class Joined(Book):
    """The places of two resolvers under one numbering, judged by grammars of all rules.

    ``parts``: of legacy iptables and of nf_tables, with the same timelines.
    """

    def __init__(self, parts: Sequence[Resolver]) -> None:
        first = parts[0]
        super().__init__(first.timelines, first.our_comment, first.disbelieved, first.meanwhile)
        self._parts = parts
        self._numbers: dict[tuple[int, int], int] = {}
        self._late = self._late_tables()
        self._grammars: dict[int, Grammar] = {}  # by the id of the part's own, which is kept there

    def _late_tables(self) -> dict[Family, frozenset[str]]:
        return {family: late_tables(self.timelines, family) for family in FAMILIES}

    def renew(self) -> None:
        """See `Book`."""
        super().renew()
        self._late = self._late_tables()
        for one in self._parts:
            one.renew()

    def path(self, part: int, path: Iterable[int]) -> tuple[int, ...]:
        """The numbers here of places that one of the parts numbered."""
        return tuple(self._number(part, one) for one in path)

    def _number(self, part: int, number: int) -> int:
        key = (part, number)
        if key not in self._numbers:
            book = self._parts[part]
            place, family, state = book.places[number], book.families[number], book.states[number]
            grammar = self._grammar(book.grammars[number], family)
            self._numbers[key] = self.add(place, grammar, family, state, book.backend)
            if state in book.attached:
                self.attached[state] = book.attached[state]
        return self._numbers[key]

    def _grammar(self, own: Grammar, family: Family) -> Grammar:
        if id(own) not in self._grammars:
            self._grammars[id(own)] = self.grammar(family, own.ruleset, not_ip=own.not_ip)
        return self._grammars[id(own)]

    def grammar(self, family: Family, ruleset: Ruleset, *, not_ip: bool = False) -> Grammar:
        """What can follow what in some tables of both backends."""
        late = self._late[family]
        found = nft_places.grammar(family, ruleset, late, self.our_comment, legacy.ATTACHED)
        return found.without_ip() if not_ip else found
