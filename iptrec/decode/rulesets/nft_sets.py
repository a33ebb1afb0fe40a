"""The named sets and maps of nf_tables, out of nft's JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iptrec.decode.rulesets.nft_matches import element, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.decode.rulesets.nft_matches import Element
    from iptrec.decode.rulesets.types import TableName

    Sets = dict[TableName, dict[str, "NftSet"]]

_NAMED: Final = re.compile(r'"(?:@|name": ")([^"]+)"|@(\S+)')
_CHANGING: Final = frozenset(["set", "map", "meter"])  # statements, by which a rule changes one


class Member(NamedTuple):
    """An element; ``expires_s``: after how many seconds it is no longer one, None for one that stays."""

    key: Element
    expires_s: int | None = None


@dataclass(frozen=True, eq=False)
class NftSet:
    """A set, or the keys of a map.

    ``listed_ns``: between which times it was listed (epoch). ``changing``: rules change it, and nobody tells
    when. ``expiring``: members may end by themselves. ``types``: of each part of a key, () where they are not
    understood; ``interval``: of members that reach from one value to another.
    """

    members: tuple[Member, ...]
    listed_ns: tuple[int, int] = (0, 0)
    changing: bool = False
    expiring: bool = False
    types: tuple[str, ...] = ()
    interval: bool = False
    cache: dict[Any, Any] = field(default_factory=dict)  # for whoever looks things up in it


def parse(listing: bytes, listed_ns: tuple[int, int]) -> Sets | None:
    """Read the sets of what ``nft -j list ruleset`` printed; those that are not understood are left out.

    None where it is not such a listing.
    """
    try:
        objects = json.loads(listing)["nftables"]
        changing = set(_changing(objects))
        found: Sets = {}
        for kind, one in (next(iter(each.items())) for each in objects if each):
            if kind in ("set", "map"):
                table = shown(one["family"]), shown(one["table"])
                known = _read(one, listed_ns, changing=(*table, one["name"]) in changing)
                if known is not None:
                    found.setdefault(table, {})[shown(one["name"])] = known
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
        return None
    return found


def _read(one: dict[str, Any], listed_ns: tuple[int, int], *, changing: bool) -> NftSet | None:
    of_map = "map" in one
    try:
        members = tuple(_member(each[0] if of_map else each) for each in one.get("elem", ()))
    except (AttributeError, LookupError, TypeError, ValueError):
        return None
    flags = one.get("flags", [])
    expiring = "timeout" in flags or "timeout" in one
    return NftSet(
        members,
        listed_ns,
        changing=changing or "dynamic" in flags,
        expiring=expiring or any(each.expires_s is not None for each in members),
        types=_types(one.get("type")),
        interval="interval" in flags,
    )


def _types(printed: Any) -> tuple[str, ...]:  # noqa: ANN401 - JSON
    parts = printed if isinstance(printed, list) else [printed]
    return tuple(parts) if all(isinstance(one, str) for one in parts) else ()


def _member(printed: Any) -> Member:  # noqa: ANN401 - JSON
    match printed:
        case {"elem": {"val": value, "expires": int(expires)}}:
            return Member(element(value), expires)
        case {"elem": {"val": value, "timeout": _}}:  # a moment before it ends nft prints no more
            return Member(element(value), 0)
    return Member(element(printed))


def _changing(objects: list[Any]) -> Iterator[tuple[str, str, str]]:
    """Family, table and name of each set that a rule changes."""
    for one in objects:
        rule = one.get("rule", {})
        for statement in rule.get("expr", ()):
            if isinstance(statement, dict) and statement.keys().isdisjoint(_CHANGING):
                continue
            text = statement if isinstance(statement, str) else json.dumps(statement)
            for quoted, plain in _NAMED.findall(text):
                yield rule["family"], rule["table"], quoted or plain
