"""The rules of a table of nf_tables after each transaction that the kernel told of, in listed words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from iptrec.decode import nft_changes
from iptrec.decode.rulesets import jumps
from iptrec.decode.rulesets.types import Chain, Rule
from iptrec.rulesets.nft_names import Names, Said
from iptrec.rulesets.nft_spans import table_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from iptrec.decode.nft_changes import Edit
    from iptrec.decode.rulesets.nft_json import Listing
    from iptrec.decode.rulesets.types import TableName
    from iptrec.rulesets.nft_replay import Table
    from iptrec.rulesets.nft_spans import Span
    from iptrec.rulesets.nft_words import Words

_UNLISTED: Final = Rule("", None, None, goto=False, comment=None, conditional=True, syntax="nft")
_Handles = tuple[int, int | None]  # of the table, and of the rule
# The span's number, these handles, and how often the rule was replaced in the span.
_Version = tuple[int, int, int | None, int]


class Edited:
    """The rules of a table by their handles: those that were listed, and equal ones.

    A handle may have several rules: one that is replaced leaves it to the next one.
    """

    def __init__(
        self,
        name: TableName,
        spans: Sequence[Span],
        listings: Iterable[Listing],
        words: Words,
        missed: Mapping[object, Rule],
    ) -> None:
        self._name = name
        self._said: dict[_Handles, Said] = {}
        self._several: set[_Handles] = set()  # rules that are not the only ones of their handle
        self._said_then: dict[_Version, Said] = {}  # those
        self._called: dict[_Handles, str] = {}
        self._renamed: set[_Handles] = set()  # chains that had another name before
        self._known: dict[object, Chain] = {}
        for listing in listings:
            self._take(listing, words)
        for names, edit, _ in _told(name, spans):
            if edit.kind == nft_changes.NEW_CHAIN and names.table is not None:
                self._call((names.table, edit.handle), edit.chain)
            elif edit.handle in names.replaced and edit.kind == nft_changes.NEW_RULE:
                self._several.add((names.table or 0, edit.handle))
        if self._several:
            self._tell_apart(spans, words)
        self._add_equal(spans, missed)

    def _take(self, listing: Listing, words: Words) -> None:
        for handles, said in _listed(listing, self._name, words):
            before = self._said.setdefault(handles, said)
            if before.rule.spec != said.rule.spec:
                self._several.add(handles)
            self._said[handles] = said
        for chain in listing.chains.get(self._name, {}).values():
            self._call((listing.handles.get(self._name, 0), chain.handle), chain.name)

    def _call(self, chain: _Handles, name: str) -> None:
        if self._called.setdefault(chain, name) != name:
            self._renamed.add(chain)

    def _tell_apart(self, spans: Sequence[Span], words: Words) -> None:
        """The rules of one handle, by the listings at both ends of each span."""
        for span in spans:
            replaced: dict[int, int] = {}
            for names, _, _ in _told(self._name, [span]):
                replaced = names.replaced
            for look, times in ((span.begin, {}), (span.end, replaced)):
                if look.listing is None or (look is span.end and span.commits is None):
                    continue
                for handles, said in _listed(look.listing, self._name, words):
                    if handles in self._several:
                        self._said_then[span.number, *handles, times.get(handles[1] or 0, 0)] = said

    def _add_equal(self, spans: Sequence[Span], missed: Mapping[object, Rule]) -> None:
        """Rules that no listing has, in the words of those of equal content."""
        equal, listed, listed_then = dict(missed), set(self._said), set(self._said_then)
        for version, content, names in _contents(self._name, spans):
            if content is not None and (said := self._of(version)) is not None:
                equal[content] = said.at(names.names if self._renamed else {})
        for version, content, names in _contents(self._name, spans):
            handles = version[1:3]
            several = handles in self._several
            known = version in listed_then if several else handles in listed
            if not known and (rule := equal.get(content)) is not None:
                jumped = jumps.chains(rule) if self._renamed else ()
                said = Said(rule, {one: names.handles.get(one) for one in jumped})
                if several:
                    self._said_then[version] = said
                else:
                    self._said[handles] = said

    def _of(self, version: _Version) -> Said | None:
        handles = version[1:3]
        if handles in self._several:
            return self._said_then.get(version)
        return self._said.get(handles)

    def chains(self, table: Table, span: int) -> dict[str, Chain]:
        """The chains of a table after a commit of a span; equal ones are the same objects."""
        found = {}
        names = {
            shape.handle: name
            for name, shape in table.chains.items()
            if (table.handle, shape.handle) in self._renamed
        }
        for name, shape in table.chains.items():
            own = tuple(
                _version(table, one, span)
                for one in (shape.rules if self._several else ())
                if (table.handle, one) in self._several
            )
            base = None if table.dormant else shape.base
            key = table.handle, name, shape, base, tuple(names.items()), own
            if key not in self._known:
                versions = (_version(table, one, span) for one in shape.rules)
                rules = tuple(self._rule(one, names) for one in versions)
                self._known[key] = Chain(name, shape.policy, rules, base, shape.handle)
            found[name] = self._known[key]
        return found

    def _rule(self, version: _Version, names: Mapping[int | None, str]) -> Rule:
        """A rule; without words where nobody has seen them. ``names``: those of chains that were renamed."""
        _, _, handle, _ = version
        if (said := self._of(version)) is None:
            return replace(_UNLISTED, handle=handle)
        rule = said.at(names)
        return rule if rule.handle == handle else replace(rule, handle=handle)


def _version(table: Table, rule: int | None, span: int) -> _Version:
    return span, table.handle or 0, rule, table.replaced.get(rule or 0, 0)


def _listed(listing: Listing, name: TableName, words: Words) -> Iterator[tuple[_Handles, Said]]:
    """A table's rules as they were listed, by the handles of the table and their own."""
    if (table := listing.handles.get(name)) is not None:
        chains = {one.name: one.handle for one in listing.chains[name].values()}
        for handle, rule in words.rules(listing, name):
            if rule.listed:
                yield (table, handle), Said(rule, chains)


def _contents(name: TableName, spans: Iterable[Span]) -> Iterator[tuple[_Version, object, Names]]:
    """What the messages tell of rules."""
    for names, edit, span in _told(name, spans):
        if edit.kind in (nft_changes.NEW_RULE, nft_changes.DELETE_RULE) and names.table is not None:
            version = span, names.table, edit.handle, names.replaced.get(edit.handle, 0)
            yield version, edit.content, names


def _told(name: TableName, spans: Iterable[Span]) -> Iterator[tuple[Names, Edit, int]]:
    """What was told of a table, each with what its chains were called then, and the number of the span."""
    for span in spans:
        begin = table_at(span.begin, name)
        names = Names(begin.handle, {one: shape.handle for one, shape in begin.chains.items()})
        for edit in (edit for some in span.edits.get(name, {}).values() for edit in some):
            names.edit(edit)
            yield names, edit, span.number
