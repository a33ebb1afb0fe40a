"""The rules of a recording with what hit them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.answers.chain_names import ChainNames
from iptrec.answers.event_columns import begun_ns
from iptrec.answers.packets import Counted, Packets
from iptrec.answers.path_counts import Count
from iptrec.answers.untold import Untold
from iptrec.decode.rulesets.jumps import in_new_names
from iptrec.names import FAMILIES
from iptrec.packets.identity import lengths
from iptrec.rulesets.nft_places import is_our_table
from iptrec.rulesets.table_names import family_of
from iptrec.rulesets.targets import always_matches, ends_chain, is_ours
from iptrec.rulesets.untraced import untraced

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from iptrec.answers.selection import Selection
    from iptrec.decode.rulesets.types import Chain, Rule
    from iptrec.names import I64
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording
    from iptrec.rulesets.grammar import Grammar
    from iptrec.rulesets.places import Place
    from iptrec.rulesets.resolver import Book
    from iptrec.rulesets.untraced import Why


@dataclass(frozen=True, slots=True)
class RuleCount:
    """A rule, or with ``rule`` None a chain's policy, and what hit it.

    ``number`` counts the user's rules from 1; None for a rule that was hit and is gone by the end.
    ``unreachable``: the number of the earlier rule that ends the chain for every packet.
    """

    chain: str
    number: int | None
    rule: Rule | None
    count: Count
    unreachable: int | None = None


@dataclass(slots=True)
class TableCount:
    """A table as it last was; each chain with its policy (None: a user's) and its rules.

    ``family``: "ipv4", "ipv6", or of a table of nf_tables that packets of both pass its own ("inet").
    Rules that are gone follow those that are there, in the order of their first hits. ``unsure``: what hit
    rules of a chain, or its end, while the rules changed or were not known: nobody can tell which.
    ``untraced``: the chains that packets may pass untraced, and why (`rulesets.untraced`): what hit them is
    not all known. ``renamed``: the names that chains had before, by their newest one, under which all is that
    hit them. ``host``, ``netns``: whose it is, of several recordings read as one.
    """

    family: str
    table: str
    chains: dict[str, tuple[str | None, list[RuleCount]]] = field(default_factory=dict)
    policies: dict[str, Count] = field(default_factory=dict)
    unsure: dict[str, Count] = field(default_factory=dict)
    untraced: dict[str, Why] = field(default_factory=dict)
    renamed: dict[str, list[str]] = field(default_factory=dict)
    host: str | None = None
    netns: str | None = None

    def unused(self, rule: RuleCount) -> bool:
        """Whether no packet hit a rule, as far as packets can be seen there at all."""
        return not rule.count.packets and rule.chain not in self.untraced


_Key = tuple[str, str, str, "str | None", int]
_END, _UNSURE = 0, -1  # in the place of a rule's text and number
_NO_TEXT: Final = (
    ""  # of a rule that is known by its handle, which stands in the place of its number
)


def count_rules(recording: Recording, selection: Selection) -> Counted[TableCount]:
    """What the selected packets hit, for each table as it last was, and in rules that are gone."""
    hits: dict[int, dict[_Key, Count]] = {}  # by namespace
    rules: dict[int, dict[_Key, Rule]] = {}
    books: dict[int, Book] = {}
    names: dict[int, ChainNames] = {}
    whose: dict[int, tuple[int, str | None, str | None]] = {}
    packets, untold = Packets(recording, selection), Untold(recording)
    for batch in packets.batches(objects=False):
        stream = batch.window.stream
        book = books[stream.id] = batch.window.resolver
        whose[stream.id] = stream.namespace, batch.host, batch.netns
        if stream.id not in names:
            names[stream.id] = ChainNames(book.timelines)
        hit, told = hits.setdefault(stream.namespace, {}), rules.setdefault(stream.namespace, {})
        _count_window(batch.window, batch.positions, names[stream.id], hit, told)
        untold.add(batch.window)
    found = []
    for one, book in books.items():
        namespace, host, netns = whose[one]
        for table in _tables(book, names[one], hits[namespace], rules[namespace]):
            table.host, table.netns = (None, None) if host is None else (host, netns)
            found.append(table)
    return Counted(found, packets.unjudged, untold.count)


def last_tables(book: Book) -> Iterator[tuple[str, str, dict[str, Chain]]]:
    """The family, the name and the chains of each table as it was last seen, but for those of our own."""
    loaded = {
        (family_of(table, family), table): timeline
        for family in FAMILIES
        for table, timeline in book.timelines.loaded(family).items()
    }
    for (family, table), timeline in loaded.items():
        if not is_our_table(table, book.our_comment):
            seen = [state.chains for state in timeline.states if state.chains is not None]
            yield family, table, seen[-1] if seen else {}


def _tables(
    book: Book, names: ChainNames, hits: dict[_Key, Count], rules: dict[_Key, Rule]
) -> Iterator[TableCount]:
    blind = untraced(book.timelines, book.our_comment)
    for family, table, chains in last_tables(book):
        found = _table(family, table, chains, hits, book.our_comment)
        found.untraced = {
            chain: why for (of, name, chain), why in blind.items() if (of, name) == (family, table)
        }
        _add_gone(found, hits, rules)
        _add_unsure(found, hits)
        before = names.before(family, table)
        found.renamed = {chain: before[chain] for chain in found.chains if chain in before}
        yield found


def _add_gone(table: TableCount, hits: dict[_Key, Count], rules: dict[_Key, Rule]) -> None:
    there = _counted(table)
    for key, rule in rules.items():
        family, name, chain, *_ = key
        if (family, name) == (table.family, table.table) and id(hits[key]) not in there:
            table.chains.setdefault(chain, (None, []))[1].append(
                RuleCount(chain, None, rule, hits[key])
            )
            table.policies.setdefault(chain, hits.get((family, name, chain, None, _END), Count()))


def _counted(table: TableCount) -> set[int]:
    """The ids of what was counted for the rules that there are."""
    return {
        id(one.count)
        for _, present in table.chains.values()
        for one in present
        if one.count.packets
    }


def _add_unsure(table: TableCount, hits: dict[_Key, Count]) -> None:
    there = _counted(table)
    for (family, name, chain, spec, ordinal), count in hits.items():
        lost = ordinal == _UNSURE or (spec == _NO_TEXT and id(count) not in there)
        if lost and (family, name) == (table.family, table.table):
            unsure = table.unsure.setdefault(chain, Count())
            unsure.add(count.packets, count.bytes, count.first_ns, count.last_ns, count.example)
            table.chains.setdefault(chain, (None, []))
            table.policies.setdefault(chain, Count())


def _count_window(
    window: Window,
    chosen: I64,
    names: ChainNames,
    hits: dict[_Key, Count],
    rules: dict[_Key, Rule],
) -> None:
    """Add the hits of the selected packets, place by place."""
    assembly, events = window.assembly, window.events
    outcome = assembly.outcome[chosen]
    sizes = lengths(events)
    for number in np.flatnonzero(np.bincount(outcome)).tolist():
        path, unsure = assembly.outcomes[number].path, assembly.outcomes[number].unsure
        here = chosen[outcome == number]
        starts = assembly.first[here]
        begun = begun_ns(window, here)  # one time of a packet, not that of each rule
        for at, one in enumerate(path):
            place = window.resolver.places[one]
            if place.ours or place.by_match:
                continue
            rows = assembly.rows[starts + at]
            sure = at not in unsure
            newest = names.newest(
                window.resolver.families[one], place.table, window.resolver.grammars[one]
            )
            key = _key(window, one, place, newest, sure=sure)
            if sure and place.rule is not None:
                rules.setdefault(key, in_new_names(place.rule, newest))
            hits.setdefault(key, Count()).add(
                len(rows),
                int(sizes[rows].sum()),
                int(begun.min()),
                int(begun.max()),
                window.number + int(here[0]),
            )


def _key(
    window: Window, number: int, place: Place, newest: Mapping[str, str], *, sure: bool
) -> _Key:
    """What stays of a rule when others come and go: its text, and which of equal ones it is.

    ``newest``: the names that chains have by the end, by those that they had.
    """
    family = family_of(place.table, window.resolver.families[number])
    name = newest.get(place.chain, place.chain)
    if place.wordless and sure and (handle := _handle(window.resolver.grammars[number], place)):
        return family, place.table, name, _NO_TEXT, handle
    if place.wordless or not sure:
        return family, place.table, name, None, _UNSURE
    if place.rule is None:
        return family, place.table, name, None, _END
    chain = window.resolver.grammars[number].ruleset.tables[place.table][place.chain]
    before = chain.rules[: (place.index or 1) - 1]
    spec = in_new_names(place.rule, newest).spec
    same = sum(rule.spec == place.rule.spec for rule in before)
    return family, place.table, name, spec, same


def _handle(grammar: Grammar, place: Place) -> int | None:
    """Of a rule that is known by it; None where nobody knows which one it was."""
    chain = grammar.chain(place.table, place.chain)
    if chain is None or place.index is None or not 0 < place.index <= len(chain.rules):
        return None
    return chain.rules[place.index - 1].handle


def _table(
    family: str, table: str, chains: dict[str, Chain], hits: dict[_Key, Count], ours: str | None
) -> TableCount:
    found = TableCount(family, table)
    for chain in chains.values():
        rules: list[RuleCount] = []
        seen: dict[str, int] = {}
        ended: int | None = None
        for rule in chain.rules:
            ordinal = seen.get(rule.spec, 0)
            seen[rule.spec] = ordinal + 1
            if not rule.listed and rule.handle is not None:
                ordinal = rule.handle
            if is_ours(rule, ours):
                continue
            number = len(rules) + 1
            count = hits.get((family, table, chain.name, rule.spec, ordinal), Count())
            rules.append(RuleCount(chain.name, number, rule, count, ended))
            if ended is None and always_matches(rule) and ends_chain(rule):
                ended = number
        found.chains[chain.name] = chain.policy, rules
        found.policies[chain.name] = hits.get((family, table, chain.name, None, _END), Count())
    return found
