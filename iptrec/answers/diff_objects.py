"""What changed between two rulesets of nf_tables beside the rules.

Sets and maps with elements, objects with a state, flowtables, flags of tables, what chains are attached to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iptrec.answers.diff import Difference
from iptrec.answers.nft_numbers import numeric
from iptrec.names import OF_NFT
from iptrec.rulesets.nft import table_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from iptrec.answers.diff import Kind
    from iptrec.decode.rulesets.nft_objects import Object
    from iptrec.decode.rulesets.types import TableName

_Elements = dict[str, None]
Objects = dict["TableName", list["Object"]]


def compare_objects(old: Objects, new: Objects) -> Iterator[Difference]:
    """All differences, by table and object. An object is the one of its kind and name."""
    for table in dict.fromkeys([*old, *new]):
        before, after = _by_name(old.get(table, ())), _by_name(new.get(table, ()))
        for key in dict.fromkeys([*before, *after]):
            yield from _compare(table, before.get(key), after.get(key))


def _by_name(objects: Iterable[Object]) -> Mapping[tuple[str, str], Object]:
    return {(one.kind, one.name): one for one in objects}


def _compare(table: TableName, old: Object | None, new: Object | None) -> Iterator[Difference]:
    one = new or old
    assert one is not None  # noqa: S101 - one of the two was there
    if old is None or new is None:
        if one.kind != "chain":  # of a chain that is said where its rules are compared
            kind: Kind = "object created" if old is None else "object deleted"
            before, after = (side.definition if side else None for side in (old, new))
            yield _difference(kind, table, one, before, after)
    elif not _alike(old.definition, new.definition, table[0]):
        yield _difference("object changed", table, one, old.definition, new.definition)
    gone = dict.fromkeys(old.elements if old else ())
    come = dict.fromkeys(new.elements if new else ())
    gone, come = (
        _not_among(mine, other, one.definition) for mine, other in ((gone, come), (come, gone))
    )
    yield from (_difference("element removed", table, one, element, None) for element in gone)
    yield from (_difference("element added", table, one, None, element) for element in come)


def _alike(old: str, new: str, family: str) -> bool:
    """Whether two definitions say the same, in names or in numbers (nft -n)."""
    return old == new or numeric(old, family) == numeric(new, family)


def _not_among(mine: _Elements, other: _Elements, definition: str) -> _Elements:
    """The elements of one side that the other one does not have, in names or in numbers."""
    missing = dict.fromkeys(one for one in mine if one not in other)
    extra = {numeric(one, of=definition) for one in other if one not in mine} if missing else ()
    return {one: None for one in missing if numeric(one, of=definition) not in extra}


def _difference(
    kind: Kind, table: TableName, one: Object, before: str | None, after: str | None
) -> Difference:
    family, name = OF_NFT.get(table[0], table[0]), table_name(table, single=True)
    chain = one.name if one.kind == "chain" else ""
    what = None if chain else f"{one.kind} {one.name}".rstrip()
    return Difference(kind, family, name, chain, old=before, new=after, object=what)
