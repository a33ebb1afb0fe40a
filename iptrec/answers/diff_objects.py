"""What changed between two rulesets, rules and all else that nf_tables has.

Sets and maps with elements, objects with a state, flowtables, flags and comments of tables, comments of chains
and what they are attached to.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from iptrec.answers.diff import Difference, compare
from iptrec.answers.nft_numbers import numeric
from iptrec.decode.rulesets.jumps import text_in_new_names
from iptrec.decode.rulesets.nft_objects import UNNAMED_FLAG
from iptrec.names import OF_NFT
from iptrec.rulesets.table_names import backend_of, is_of_a_recorder, plain, table_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from iptrec.answers.diff import Kind
    from iptrec.decode.rulesets.nft_objects import Object
    from iptrec.decode.rulesets.types import Ruleset, TableName
    from iptrec.names import Family

_Elements = dict[str, None]
_Names = dict[str, str]
_Place = tuple[str, str]  # family and name of a table, as a `Difference` has them
Objects = dict["TableName", list["Object"]]
_ONE_FLAG: Final = re.compile(r"^flags \w+(?=;|$)")  # of a table
_TABLES: Final = ("table loaded", "table unloaded")
_CHAINS: Final = ("chain created", "chain deleted")


class Side(Protocol):
    """One of two rulesets; ``objects``: of nf_tables, None where they are not known."""

    @property
    def rulesets(self) -> Mapping[Family, Ruleset]:
        """The rules, by family."""

    @property
    def objects(self) -> Objects | None:
        """The objects of each table."""


def compare_all(old: Side, new: Side) -> list[Difference]:
    """All differences, by table; of rules first, then of objects."""
    of_rules = list(compare(old.rulesets, new.rulesets))
    if old.objects is None or new.objects is None:
        return of_rules
    before, after = _others(old.objects), _others(new.objects)
    tables = {_place(one) for one in (*before, *after) if " " in _place(one)[1]}
    found = list(_tables(before, after))
    # The objects know an empty table from none.
    found += (one for one in of_rules if one.kind not in _TABLES or _of(one) not in tables)
    chains = _definitions(before), _definitions(after)
    found = [_attached(one, *chains) if one.kind in _CHAINS else one for one in found]
    found += compare_objects(before, after, _renamed(found))
    places = {place: number for number, place in enumerate(dict.fromkeys(map(_of, found)))}
    return sorted(found, key=lambda one: places[_of(one)])


def compare_objects(
    old: Objects, new: Objects, renamed: Mapping[_Place, _Names] | None = None
) -> Iterator[Difference]:
    """All differences, by table and object. An object is the one of its kind and name.

    ``renamed``: the new names of chains by table and old name; that is told where their rules are compared, as
    are chains that came or went.
    """
    for table in dict.fromkeys([*old, *new]):
        names = (renamed or {}).get(_place(table), {})
        before, after = _by_name(old.get(table, ()), names), _by_name(new.get(table, ()), {})
        for key in dict.fromkeys([*before, *after]):
            yield from _compare(table, before.get(key), after.get(key))


def _others(objects: Objects) -> Objects:
    """Those of all tables but a recorder's own."""
    return {table: one for table, one in objects.items() if not is_of_a_recorder(" ".join(table))}


def _place(table: TableName) -> _Place:
    return OF_NFT.get(table[0], table[0]), table_name(table, single=True)


def _of(one: Difference) -> _Place:
    return one.family, one.table


def _tables(old: Objects, new: Objects) -> Iterator[Difference]:
    """Those that came and went, but for iptables' own: of these an empty one is as good as none."""
    for table in dict.fromkeys([*old, *new]):
        if (table in old) != (table in new) and " " in (place := _place(table))[1]:
            yield Difference("table loaded" if table in new else "table unloaded", *place, "")


def _definitions(objects: Objects) -> dict[tuple[str, str, str], str]:
    """What nft prints of each chain before its rules."""
    return {
        (*_place(table), one.name): one.definition
        for table, some in objects.items()
        for one in some
        if one.kind == "chain" and one.definition
    }


def _attached(
    one: Difference,
    old: Mapping[tuple[str, str, str], str],
    new: Mapping[tuple[str, str, str], str],
) -> Difference:
    """A chain that came or went, with its comment and what it is or was attached to."""
    if plain(one.table) != one.table and backend_of(one.table) != "nft":
        return one
    key = one.family, plain(one.table), one.chain
    created = one.kind == "chain created"
    return replace(one, new=new.get(key)) if created else replace(one, old=old.get(key))


def _renamed(found: Iterable[Difference]) -> dict[_Place, _Names]:
    names: dict[_Place, _Names] = {}
    for one in found:
        if one.kind == "chain renamed" and one.old and one.new:
            names.setdefault((one.family, plain(one.table)), {})[one.old] = one.new
    return names


def _by_name(objects: Iterable[Object], renamed: _Names) -> Mapping[tuple[str, str], Object]:
    """Objects by kind and name, with the new names of chains."""
    found = {}
    for one in objects:
        name = renamed.get(one.name, one.name) if one.kind == "chain" else one.name
        elements = one.elements
        if renamed:
            elements = tuple(text_in_new_names(each, renamed) for each in elements)
        found[one.kind, name] = replace(one, name=name, elements=elements) if renamed else one
    return found


def _compare(table: TableName, old: Object | None, new: Object | None) -> Iterator[Difference]:
    one = new or old
    assert one is not None  # noqa: S101 - one of the two was there
    if old is None or new is None:
        if one.kind != "chain":  # of a chain that is said where its rules are compared
            kind: Kind = "object created" if old is None else "object deleted"
            if one.kind == "table":  # nothing is printed of one without flags and comment
                kind = "object changed"
            before, after = (side.definition if side else None for side in (old, new))
            yield _difference(kind, table, one, before, after)
    elif not _alike(old.definition, new.definition, table[0]):
        before, after = old.definition or None, new.definition or None
        yield _difference("object changed", table, one, before, after)
    gone = dict.fromkeys(old.elements if old else ())
    come = dict.fromkeys(new.elements if new else ())
    gone, come = (
        _not_among(mine, other, one.definition) for mine, other in ((gone, come), (come, gone))
    )
    yield from (_difference("element removed", table, one, element, None) for element in gone)
    yield from (_difference("element added", table, one, None, element) for element in come)


def _alike(old: str, new: str, family: str) -> bool:
    """Whether two definitions say the same, in names or in numbers (nft -n)."""
    if old == new or numeric(old, family) == numeric(new, family):
        return True
    return UNNAMED_FLAG in old + new and _ONE_FLAG.sub(UNNAMED_FLAG, old) == _ONE_FLAG.sub(
        UNNAMED_FLAG, new
    )


def _not_among(mine: _Elements, other: _Elements, definition: str) -> _Elements:
    """The elements of one side that the other one does not have, in names or in numbers."""
    missing = dict.fromkeys(one for one in mine if one not in other)
    extra = {numeric(one, of=definition) for one in other if one not in mine} if missing else ()
    return {one: None for one in missing if numeric(one, of=definition) not in extra}


def _difference(
    kind: Kind, table: TableName, one: Object, before: str | None, after: str | None
) -> Difference:
    chain = one.name if one.kind == "chain" else ""
    what = None if chain else f"{one.kind} {one.name}".rstrip()
    return Difference(kind, *_place(table), chain, old=before, new=after, object=what)
