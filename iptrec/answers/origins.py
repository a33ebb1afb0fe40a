"""Who made the rule that decided, what it is for, and which documented switch changes it.

Docker, kube-proxy, firewalld and others name their tables and chains, and document them: `origins.toml` has the
patterns. What fits none of them is nobody's that we know of, and nothing is said.
"""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from iptrec.rulesets.table_names import plain

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from iptrec.packets.outcome import Outcome
    from iptrec.rulesets.places import Place
    from iptrec.rulesets.resolver import Book

_MOST: Final = 4_096  # characters of a rule; a pattern that looks into a longer one does not fit it


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a rule, or a policy, comes from. All of it is text of this package, nothing a recording's.

    ``id`` stays the same when the words change. ``switch``: what changes it; None where none is documented.
    ``source``: the address of the page that says so.
    """

    id: str
    owner: str
    what: str
    switch: str | None
    source: str


class Decider(NamedTuple):
    """A rule, or with ``policy`` that of a base chain. ``table``: without the name of a backend.

    ``target``: of the rule, or the policy. ``text`` is empty where nobody knows it.
    """

    table: str
    chain: str
    policy: bool
    target: str | None
    text: str
    comment: str | None


class Chains(NamedTuple):
    """A pattern of a table and one of a chain."""

    table: re.Pattern[str]
    chain: re.Pattern[str]

    @classmethod
    def read(cls, text: str) -> Self:
        """Both with a slash between; no name of a table that is looked for has one."""
        table, _, chain = text.partition("/")
        return cls(re.compile(table), re.compile(chain))

    def fits(self, table: str, chain: str) -> bool:
        """Whether both fit as a whole."""
        return _fits(self.table, table) and _fits(self.chain, chain)


@dataclass(frozen=True, slots=True)
class Entry:
    """A pattern of `origins.toml`, which describes its keys."""

    origin: Origin
    chains: tuple[Chains, ...]
    policy: bool | None
    target: re.Pattern[str] | None
    comment: re.Pattern[str] | None
    text: re.Pattern[str] | None
    beside: tuple[Chains, ...]

    def fits(self, decider: Decider, tables: Mapping[str, Collection[str]]) -> bool:
        """Whether it is about this rule; ``tables``: the chains of each table that is there."""
        return (
            self.policy in (None, decider.policy)
            and any(one.fits(decider.table, decider.chain) for one in self.chains)
            and (self.target is None or _fits(self.target, decider.target))
            and (self.comment is None or _fits(self.comment, decider.comment))
            and (self.text is None or _is_in(self.text, decider.text))
            and all(_are_there(one, tables) for one in self.beside)
        )


def origin(decider: Decider, tables: Mapping[str, Collection[str]]) -> Origin | None:
    """By the first entry that fits; ``tables``: the chains of each table that is there."""
    return next((one.origin for one in entries() if one.fits(decider, tables)), None)


def origin_of(book: Book, outcome: Outcome) -> Origin | None:
    """Of the rule that decided what became of a packet; None also where it may have been another rule."""
    at = outcome.decider
    if at is None or at in outcome.unsure:
        return None
    number = outcome.path[at]
    return origin(_decider(book.places[number]), book.grammars[number].ruleset.tables)


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Those of `origins.toml`, in its order."""
    text = files("iptrec.answers").joinpath("origins.toml").read_text(encoding="utf-8")
    return tuple(map(_entry, tomllib.loads(text)["origin"]))


def _entry(told: Mapping[str, Any]) -> Entry:
    target, comment, text = (
        re.compile(told[name]) if name in told else None for name in ("target", "comment", "text")
    )
    return Entry(
        origin=Origin(told["id"], told["owner"], told["what"], told.get("switch"), told["source"]),
        chains=tuple(map(Chains.read, told["chains"])),
        policy=told.get("policy"),
        target=target,
        comment=comment,
        text=text,
        beside=tuple(map(Chains.read, told.get("beside", ()))),
    )


def _decider(place: Place) -> Decider:
    rule = place.rule
    return Decider(
        table=plain(place.table),
        chain=place.chain,
        policy=place.end,
        target=_ended(place),
        text="" if rule is None else rule.spec,
        comment=None if rule is None else rule.comment,
    )


def _ended(place: Place) -> str | None:
    """The target; of a rule of nft that looks it up in a map what the kernel told."""
    return place.target or (place.argument if place.effect == "end" else None)


def _fits(pattern: re.Pattern[str], name: str | None) -> bool:
    return name is not None and len(name) <= _MOST and pattern.fullmatch(name) is not None


def _is_in(pattern: re.Pattern[str], text: str) -> bool:
    return len(text) <= _MOST and pattern.search(text) is not None


def _are_there(chains: Chains, tables: Mapping[str, Collection[str]]) -> bool:
    return any(
        _fits(chains.table, plain(table)) and any(_fits(chains.chain, one) for one in names)
        for table, names in tables.items()
    )
