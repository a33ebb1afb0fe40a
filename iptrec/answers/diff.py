"""What changed between two rulesets, in terms of rules: inserted, deleted, moved, changed; policies; chains.

Counters and the order of tables and chains do not count. A rule is its text; a chain whose name alone
changed is renamed, and the jumps to it are not changes. A table of nf_tables that packets of both families pass
(inet, bridge, netdev) is compared once.
"""

from __future__ import annotations

import bisect
import difflib
import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from iptrec.answers.nft_numbers import numeric
from iptrec.decode.rulesets.jumps import in_new_names
from iptrec.decode.rulesets.types import OF_IPTABLES
from iptrec.names import COMMENT
from iptrec.rulesets.table_names import called, family_of, plain, tell_backends

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from iptrec.decode.rulesets.types import Chain, Rule, Ruleset
    from iptrec.names import Family

    _Chains = Mapping[str, Chain]

Kind = Literal[
    "inserted", "deleted", "moved", "changed", "policy", "chain created", "chain deleted",
    "chain renamed", "table loaded", "table unloaded",
    "object created", "object deleted", "object changed", "element added", "element removed",
]  # fmt: skip
_ALIKE: Final = 0.5  # words that a changed rule has in common with what it was
_GAP: Final = 2_000  # rules between anchors that are compared one by one
_BUILT_IN: Final = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One change. ``old_rule`` and ``new_rule`` count from 1; ``old``, ``new``: texts, policies, names.

    ``family``: "ipv4", "ipv6", or of a table of nf_tables that both pass its own ("inet"). ``object``: what
    else is in such a table ("set blocked"); what nft prints of a chain before its rules, its comment and what
    it is attached to, is its ``chain``'s.
    """

    kind: Kind
    family: str
    table: str
    chain: str
    old_rule: int | None = None
    new_rule: int | None = None
    old: str | None = None
    new: str | None = None
    object: str | None = None


def compare(old: Mapping[Family, Ruleset], new: Mapping[Family, Ruleset]) -> Iterator[Difference]:
    """All differences, by family, table and chain."""
    for family, table, before, after in _pairs(old, new):
        if (before is None or after is None) and _used(table, before or after or {}):
            kind: Kind = "table loaded" if before is None else "table unloaded"
            yield Difference(kind, family, table, "")
        yield from _tables(family, table, before or {}, after or {})


def renamed_chains(
    old: Mapping[Family, Ruleset], new: Mapping[Family, Ruleset]
) -> dict[tuple[str, str], dict[str, str]]:
    """The new names of chains of which the name alone changed, by family and table, and old name."""
    return {
        (family, table): _renamed(before, after)
        for family, table, before, after in _pairs(old, new)
        if before and after
    }


def _pairs(
    old: Mapping[Family, Ruleset], new: Mapping[Family, Ruleset]
) -> Iterator[tuple[str, str, Mapping[str, Chain] | None, Mapping[str, Chain] | None]]:
    """The tables of both sides; one that packets of both families pass is there once."""
    seen: set[tuple[str, str]] = set()
    for family in sorted(set(old) & set(new)):
        before, after = _called_alike(old[family].tables, new[family].tables)
        for table in dict.fromkeys([*before, *after]):
            key = family_of(table, family), table
            if key not in seen:
                yield *key, before.get(table), after.get(table)
            seen.add(key)


def _called_alike(*sides: Mapping[str, _Chains]) -> list[Mapping[str, _Chains]]:
    """Where one side tells its tables' backends, those of the other one are taken for legacy iptables'."""
    if not any(map(tell_backends, sides)):
        return list(sides)
    return [
        side
        if tell_backends(side)
        else {
            called("legacy", name, single=name not in OF_IPTABLES): chains
            for name, chains in side.items()
        }
        for side in sides
    ]


def _used(table: str, chains: Mapping[str, Chain]) -> bool:
    """Whether a table has anything that could matter: an empty one is as good as none."""
    return any(
        _is_made(table, chain) or chain.policy != "ACCEPT" or not all(map(_own, chain.rules))
        for chain in chains.values()
    )


def _is_made(table: str, chain: Chain) -> bool:
    """Whether a user made the chain: the base chains of iptables' tables come with these."""
    ours = bool(chain.rules) and all(map(_own, chain.rules))
    of_iptables = chain.name in _BUILT_IN and (" " not in table or plain(table) != table)
    return chain.policy is None or not (of_iptables or ours)


def _tables(
    family: str, table: str, old: Mapping[str, Chain], new: Mapping[str, Chain]
) -> Iterator[Difference]:
    old, new = _in_same_words(old, new)
    new = _in_words_of(old, new)
    renamed = _renamed(old, new)
    for name, now in renamed.items():
        yield Difference("chain renamed", family, table, name, old=name, new=now)
    for name in dict.fromkeys([*old, *(name for name in new if name not in renamed.values())]):
        before, after = old.get(name), new.get(renamed.get(name, name))
        if before is None and after is not None:
            if _is_made(table, after):
                yield Difference("chain created", family, table, name)
            before = replace(after, rules=(), policy=after.policy and "ACCEPT")
        elif after is None and before is not None:
            if _is_made(table, before):
                yield Difference("chain deleted", family, table, name)
            after = replace(before, rules=(), policy=before.policy and "ACCEPT")
        assert before is not None  # noqa: S101 - one of the two was there
        assert after is not None  # noqa: S101
        if before.policy != after.policy:
            yield Difference("policy", family, table, name, old=before.policy, new=after.policy)
        yield from _rules(family, table, name, _specs(before, renamed), _specs(after, {}))


def _in_same_words(
    old: Mapping[str, Chain], new: Mapping[str, Chain]
) -> tuple[Mapping[str, Chain], Mapping[str, Chain]]:
    """Both sides, in nft's words those rules that are the same to nft and in iptables' words on one side."""
    sides = [
        {rule.native or rule.spec: rule.spec for chain in one.values() for rule in chain.rules}
        for one in (old, new)
    ]
    apart = {
        native
        for native in sides[0].keys() & sides[1].keys()
        if sides[0][native] != sides[1][native]
    }
    return (_in_nfts(old, apart), _in_nfts(new, apart)) if apart else (old, new)


def _in_nfts(chains: Mapping[str, Chain], natives: set[str]) -> Mapping[str, Chain]:
    """Chains with these rules in nft's words."""
    return {
        name: replace(
            chain,
            rules=tuple(
                replace(rule, spec=rule.native) if rule.native in natives else rule
                for rule in chain.rules
            ),
        )
        for name, chain in chains.items()
    }


def _in_words_of(old: Mapping[str, Chain], new: Mapping[str, Chain]) -> Mapping[str, Chain]:
    """The new side, in the old one's words those rules that differ in names and numbers alone (nft -n)."""
    texts = [
        {rule.spec for chain in one.values() for rule in chain.rules if rule.syntax == "nft"}
        for one in (old, new)
    ]
    gone, come = texts[0] - texts[1], texts[1] - texts[0]
    known = {numeric(spec): spec for spec in gone} if come else {}
    words = {spec: known[number] for spec in come if (number := numeric(spec)) in known}
    if not words:
        return new
    return {
        name: replace(
            chain,
            rules=tuple(replace(one, spec=words.get(one.spec, one.spec)) for one in chain.rules),
        )
        for name, chain in new.items()
    }


def _renamed(old: Mapping[str, Chain], new: Mapping[str, Chain]) -> dict[str, str]:
    """User chains that are gone, and the new ones that have exactly their rules; old name -> new name."""
    gone = {name: one for name, one in old.items() if name not in new and one.rules}
    come = [(name, one) for name, one in new.items() if name not in old and one.rules]
    found: dict[str, str] = {}
    for name, one in come:
        rules = _specs(one, {})
        match = next((before for before, chain in gone.items() if _specs(chain, {}) == rules), None)
        if match is not None and one.policy is None and gone[match].policy is None:
            found[match] = name
            del gone[match]
    return found


def _specs(chain: Chain, renamed: Mapping[str, str]) -> list[str]:
    """The rules' texts, without our own rules, with the new names of renamed chains."""
    return [in_new_names(rule, renamed).spec for rule in chain.rules if not _own(rule)]


def _own(rule: Rule) -> bool:
    """Whether it is a recorder's: one that traces, or that accepts in a chain of its own."""
    return rule.target in ("TRACE", "ACCEPT") and (rule.comment or "").startswith(COMMENT)


def _rules(
    family: str, table: str, chain: str, old: list[str], new: list[str]
) -> Iterator[Difference]:
    if old == new:
        return
    gone, come = _edits(old, new)
    moved = _moved(old, new, gone, come)
    for i, j in moved:
        yield Difference("moved", family, table, chain, i + 1, j + 1, old[i], new[j])
    left, right = {i for i, _ in moved}, {j for _, j in moved}
    gone, come = [i for i in gone if i not in left], [j for j in come if j not in right]
    changed = _changed(old, new, gone, come)
    for i, j in changed:
        yield Difference("changed", family, table, chain, i + 1, j + 1, old[i], new[j])
    left, right = {i for i, _ in changed}, {j for _, j in changed}
    for i in gone:
        if i not in left:
            yield Difference("deleted", family, table, chain, i + 1, None, old[i])
    for j in come:
        if j not in right:
            yield Difference("inserted", family, table, chain, None, j + 1, None, new[j])


def _edits(old: Sequence[str], new: Sequence[str]) -> tuple[list[int], list[int]]:
    """The rules of ``old`` that are gone and those of ``new`` that came, by index.

    Patience diff: rules that are there once on both sides, in the longest order that they share, are
    anchors; between two of them little is left.
    """
    anchors = _anchors(old, new)
    gone: list[int] = []
    come: list[int] = []
    i = j = 0
    for stop_i, stop_j in [*anchors, (len(old), len(new))]:
        _between(old, new, (i, stop_i), (j, stop_j), gone, come)
        i, j = stop_i + 1, stop_j + 1
    return gone, come


def _anchors(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    once = {spec for spec, times in Counter(new).items() if times == 1}
    once &= {spec for spec, times in Counter(old).items() if times == 1}
    where = {spec: i for i, spec in enumerate(old) if spec in once}
    pairs = [(where[spec], j) for j, spec in enumerate(new) if spec in once]
    return _longest_ascent(pairs)


def _longest_ascent(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest subsequence whose first numbers ascend."""
    tails: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for number, (i, _) in enumerate(pairs):
        at = bisect.bisect_left(tails, i)
        before.append(ends[at - 1] if at else -1)
        if at == len(tails):
            tails.append(i)
            ends.append(number)
        else:
            tails[at], ends[at] = i, number
    found = []
    number = ends[-1] if ends else -1
    while number >= 0:
        found.append(pairs[number])
        number = before[number]
    return found[::-1]


def _between(
    old: Sequence[str],
    new: Sequence[str],
    left: tuple[int, int],
    right: tuple[int, int],
    gone: list[int],
    come: list[int],
) -> None:
    """What differs between two anchors."""
    (i, stop_i), (j, stop_j) = left, right
    while i < stop_i and j < stop_j and old[i] == new[j]:
        i, j = i + 1, j + 1
    while i < stop_i and j < stop_j and old[stop_i - 1] == new[stop_j - 1]:
        stop_i, stop_j = stop_i - 1, stop_j - 1
    if i == stop_i or j == stop_j or max(stop_i - i, stop_j - j) > _GAP:
        gone += range(i, stop_i)
        come += range(j, stop_j)
        return
    matcher = difflib.SequenceMatcher(None, old[i:stop_i], new[j:stop_j], autojunk=False)
    for tag, from_i, to_i, from_j, to_j in matcher.get_opcodes():
        if tag != "equal":
            gone += range(i + from_i, i + to_i)
            come += range(j + from_j, j + to_j)


def _moved(
    old: Sequence[str], new: Sequence[str], gone: list[int], come: list[int]
) -> list[tuple[int, int]]:
    """Rules that went from one place to another, first to first."""
    waiting: dict[str, list[int]] = {}
    for i in reversed(gone):
        waiting.setdefault(old[i], []).append(i)
    return [(waiting[new[j]].pop(), j) for j in come if waiting.get(new[j])]


def _changed(
    old: Sequence[str], new: Sequence[str], gone: list[int], come: list[int]
) -> list[tuple[int, int]]:
    """Rules that were rewritten in their place: between the same neighbours, and alike."""
    shift_old = {i: i - bisect.bisect_left(gone, i) for i in gone}
    by_place: dict[int, list[int]] = {}
    for i in gone:
        by_place.setdefault(shift_old[i], []).append(i)
    found = []
    for j in come:
        rivals = by_place.get(j - bisect.bisect_left(come, j), [])
        alike = [(_likeness(old[i], new[j]), -i) for i in rivals]
        if alike and (best := max(alike))[0] >= _ALIKE:
            found.append((-best[1], j))
            rivals.remove(-best[1])
    return found


def _likeness(old: str, new: str) -> float:
    """How much of their words two rules share, in order; 1 is all."""
    return difflib.SequenceMatcher(None, _words(old), _words(new), autojunk=False).ratio()


def _words(spec: str) -> list[str]:
    """Of a rule; where ``nft -j`` printed it, of what it says, not of how JSON nests it."""
    try:
        return list(_said(json.loads(spec))) if spec[:1] == "[" else spec.split()
    except (RecursionError, ValueError):
        return spec.split()


def _said(value: object) -> Iterator[str]:
    """The values, and the names of what has none: ``{"accept": null}``."""
    match value:
        case dict():
            for name, one in value.items():
                yield from [name] if one is None else _said(one)
        case list():
            for one in value:
                yield from _said(one)
        case _:
            yield str(value)
