"""What a path says: which rules matched, by their texts, and how it ended.

A rule that is inserted gives those after it new numbers, a table may be loaded by who only looks at it, chains
are renamed: what packets go through stays the same. So numbers do not count, nor policies and ends of chains
that passed a packet on, nor comments and counters of rules. Of equal rules in a chain the first, the second and
so on are told apart.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.answers.diff import renamed_chains
from iptrec.decode.rulesets.jumps import in_new_names
from iptrec.rulesets.table_names import family_of, plain, tell_backends

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iptrec.decode.rulesets.types import Chain, Rule, Ruleset
    from iptrec.names import Family
    from iptrec.packets.outcome import Outcome
    from iptrec.packets.window import Window
    from iptrec.rulesets.places import Place
    from iptrec.rulesets.resolver import Book

    Rulesets = Mapping[Family, Ruleset]

UNKNOWN: Final = "UNKNOWN"  # the verdict of who was not seen to the end
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_COMMENT: Final = re.compile(rf'-m comment --comment (?:{_QUOTED}|[^"\s]\S*) ?')
_OF_NFT: Final = re.compile(
    rf"(?P<quoted>(?<!comment ){_QUOTED})| comment {_QUOTED}$"
    r"|(?<=counter) packets \d+ bytes \d+|(?<=bytes) used \d+ \w+"
)


class RuleWords(NamedTuple):
    """A rule that matched. ``nth``: of those in its chain that say the same, from 0."""

    table: str
    chain: str
    text: str
    nth: int


class PathWords(NamedTuple):
    """A path. ``policy``: of which chain it was, where it was a policy that did not let the packet pass."""

    family: Family
    verdict: str
    policy: tuple[str, str] | None
    rules: tuple[RuleWords, ...]


class Language:
    """How the paths of one recording are put into words that those of another one have, too.

    ``renamed``: new names of chains by their old ones, by family and table. ``plain``: tables are told without
    their backends.
    """

    def __init__(
        self, renamed: Mapping[tuple[str, str], Mapping[str, str]], *, plain: bool
    ) -> None:
        self._renamed = renamed
        self._plain = plain
        self._book: Book | None = None
        self._rules: dict[int, RuleWords] = {}  # by the book's numbers of their places
        self._nths: dict[
            int, tuple[Chain, list[int]]
        ] = {}  # by the chain's id, which is kept there

    @classmethod
    def of_both(cls, old: Rulesets, new: Rulesets) -> tuple[Language, Language]:
        """Those of two recordings, by the last rules of the one and the first of the other."""
        # Where one of them tells no backends, whose a table is cannot be compared.
        both = all(any(tell_backends(one.tables) for one in side.values()) for side in (old, new))
        renamed = {
            (family, table if both else plain(table)): names
            for (family, table), names in renamed_chains(old, new).items()
        }
        return cls(renamed, plain=not both), cls({}, plain=not both)

    def words(self, window: Window, outcome: Outcome) -> PathWords | None:
        """What a path says; None where that is not certain."""
        if not outcome.complete or outcome.doubt is not None or outcome.verdict == UNKNOWN:
            return None
        book, family = window.resolver, window.resolver.families[outcome.path[0]]
        rules = []
        for number in outcome.path:
            place = book.places[number]
            if place.ours or place.end:
                continue
            if place.rule is None or place.contradicted or place.rule_or_end:
                return None
            rules.append(self._rule(book, number, place.rule))
        policy = None
        if outcome.decider is not None and outcome.verdict != "ACCEPT":
            last = book.places[outcome.path[outcome.decider]]
            policy = self._chain(family, last) if last.end else None
        return PathWords(family, outcome.verdict, policy, tuple(rules))

    def _rule(self, book: Book, number: int, rule: Rule) -> RuleWords:
        if book is not self._book:
            self._book, self._rules = book, {}
        if number not in self._rules:
            place, family = book.places[number], book.families[number]
            names = self._names(family, place)
            chain = book.grammars[number].chain(place.table, place.chain)
            nth = self._nth(chain, place.index - 1, names) if chain and place.index else 0
            self._rules[number] = RuleWords(*self._chain(family, place), said(rule, names), nth)
        return self._rules[number]

    def _nth(self, chain: Chain, at: int, names: Mapping[str, str]) -> int:
        """How many rules before the one at an index say the same."""
        if id(chain) not in self._nths:
            seen: Counter[str] = Counter()
            nths = []
            for rule in chain.rules:
                text = said(rule, names)
                nths.append(seen[text])
                seen[text] += 1
            self._nths[id(chain)] = chain, nths
        _, nths = self._nths[id(chain)]
        return nths[at] if at < len(nths) else 0

    def _chain(self, family: Family, place: Place) -> tuple[str, str]:
        return self._table(place), self._names(family, place).get(place.chain, place.chain)

    def _names(self, family: Family, place: Place) -> Mapping[str, str]:
        table = self._table(place)
        return self._renamed.get((family_of(table, family), table), {})

    def _table(self, place: Place) -> str:
        return plain(place.table) if self._plain else place.table


def said(rule: Rule, renamed: Mapping[str, str]) -> str:
    """A rule's text without comments and counters, with the new names of chains."""
    text = in_new_names(rule, renamed).spec
    if rule.syntax == "iptables":
        return _COMMENT.sub("", text)
    return _OF_NFT.sub(lambda found: found["quoted"] or "", text)
