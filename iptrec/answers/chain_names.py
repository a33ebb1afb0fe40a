"""The names of chains of nf_tables that were renamed: which of them one chain had, by its handle.

A handle is unique in its table as long as that is there, and a table's own handle tells one that was made
anew (nf_tables_addchain and nf_tables_newtable of net/netfilter/nf_tables_api.c). Where either is not known,
chains of different names are different ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iptrec.names import FAMILIES
from iptrec.rulesets.table_names import family_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from iptrec.names import Family
    from iptrec.rulesets.grammar import Grammar
    from iptrec.rulesets.timeline import Timeline, Timelines

_Name = tuple[str, int]  # and the chain's handle
_Identity = tuple[int, int]  # the handles of a table and of a chain in it


class ChainNames:
    """Those of all tables of a namespace over time."""

    def __init__(self, timelines: Timelines) -> None:
        self._newest: dict[tuple[Family, str], dict[_Name, str]] = {}
        self._old: dict[tuple[str, str], dict[str, list[str]]] = {}
        for family in FAMILIES:
            for table, timeline in timelines.loaded(family).items():
                self._take(family, table, _names(timeline))

    def _take(self, family: Family, table: str, names: Mapping[_Identity, list[str]]) -> None:
        newest: dict[_Name, str] = {}
        for (_, handle), seen in names.items():
            for name in seen:
                newest[name, handle] = seen[-1]
        # A name and a handle that chains of two tables had, one after the other, tell nothing.
        doubtful = {
            (name, handle)
            for (_, handle), seen in names.items()
            for name in seen
            if newest[name, handle] != seen[-1]
        }
        self._newest[family, table] = {
            key: name for key, name in newest.items() if key not in doubtful and name != key[0]
        }
        old = self._old.setdefault((family_of(table, family), table), {})
        for (name, _), now in self._newest[family, table].items():
            if name not in old.setdefault(now, []):
                old[now].append(name)

    def newest(self, family: Family, table: str, grammar: Grammar) -> dict[str, str]:
        """The newest names of a table's chains that have others in a ruleset, by these."""
        known = self._newest.get((family, table))
        return dict(self._of(known, grammar, table)) if known else {}

    @staticmethod
    def _of(known: dict[_Name, str], grammar: Grammar, table: str) -> Iterator[tuple[str, str]]:
        for name, chain in grammar.ruleset.tables.get(table, {}).items():
            if chain.handle is not None and (name, chain.handle) in known:
                yield name, known[name, chain.handle]

    def before(self, family: str, table: str) -> dict[str, list[str]]:
        """The names that chains had before, by their newest; ``family``: the table's, as in `TableCount`."""
        return self._old.get((family, table), {})


def _names(timeline: Timeline) -> dict[_Identity, list[str]]:
    """The names of each chain that a table ever had, in order."""
    found: dict[_Identity, list[str]] = {}
    last = None
    for state in timeline.states:
        chains = state.chains or {}
        now = state.handle, [(name, one.handle) for name, one in chains.items()]
        if state.handle is not None and now != last:
            for name, handle in now[1]:
                if handle is not None:
                    seen = found.setdefault((state.handle, handle), [])
                    seen += [] if seen[-1:] == [name] else [name]
        last = now
    return found
