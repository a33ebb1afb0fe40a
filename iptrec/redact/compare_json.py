"""Whether an object of nft's JSON is another one with what stands for its words (see `compare_save`)."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from iptrec.redact import nft_numbers
from iptrec.redact.maps import UntrueError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.redact.pairs import Pairs

_NAMED_OBJECTS: Final = (
    "counter", "quota", "limit", "ct helper", "ct timeout", "ct expectation", "synproxy", "secmark",
    "ifname",  # of a map
)  # fmt: skip
_NAMES: Final = frozenset(
    {"name", "table", "chain", "dev", "flowtable", "target", "newname", *_NAMED_OBJECTS}
)
_PROSE: Final = frozenset({"comment", "prefix"})
# Whose names and fields are nft's
_HEADERS: Final = frozenset({"exthdr", "tcp option", "ip option", "sctp chunk", "dccp option"})
_SIDES: Final = frozenset({"left", "right", "key", "data", "elem", "set", "value", "concat", "val"})
# What a host has names for, and that names may be compared with.
_NAMED_KEYS: Final = frozenset(
    {"iifname", "oifname", "ibrname", "obrname", "sdifname", "iif", "oif", "sdif", "iifgroup", "oifgroup",
    "mark", "label", "helper", "rtclassid", "cgroupv2", "classid", "skuid", "skgid", "ifname"}
)  # fmt: skip
# In what these are.
_WITHIN: Final = frozenset(
    {
        "key",
        "type",
        "left",
        "concat",
        "typeof",
        "elem",
        "val",
        "meta",
        "ct",
        "socket",
        "rt",
        "fib",
        "result",
    }
)
_Path = tuple[str, ...]


class NftObjects:
    """Compares objects of a listing."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs

    def object(self, before: Any, after: Any) -> Iterator[_Path]:  # noqa: ANN401 - JSON
        """Where they differ."""
        yield from self._values(before, after, (), _has_names(before))

    def _values(self, before: Any, after: Any, path: _Path, names: bool) -> Iterator[_Path]:  # noqa: ANN401
        if isinstance(before, dict) and isinstance(after, dict):
            yield from self._of_dicts(before, after, path, names)
        elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            for at, both in enumerate(zip(before, after, strict=True)):
                yield from self._values(*both, (*path, str(at)), names)
        elif not self._alike(before, after, path, names):
            yield path

    def _of_dicts(
        self, before: dict[str, Any], after: dict[str, Any], path: _Path, names: bool,
    ) -> Iterator[_Path]:  # fmt: skip
        if [*before] != [*after]:
            yield path
            return
        match before:
            case {"xt": told} if after["xt"] in ({}, told):
                return
            case {"prefix": {"addr": str(address), "len": int(length)}}:
                made = f"{_told(after, 'prefix', 'addr')}/{_told(after, 'prefix', 'len')}"
                if not self._is(f"{address}/{length}", made):
                    yield (*path, "prefix")
                return
            case {"range": [str(low), str(high)]} if isinstance(after["range"], list):
                if not self._range(low, high, after["range"]):
                    yield (*path, "range")
                return
            case {"match": dict(match)} if isinstance(after["match"], dict):
                yield from self._matches(match, after["match"], (*path, "match"))
                return
        found = self._set_or_looked_up(before, after, path)
        if found is not None:
            yield from found
            return
        names = names or before.get("map") in _NAMED_OBJECTS  # what a named map leads to
        for key, value in before.items():
            yield from self._values(value, after[key], (*path, key), names or _has_names(value))

    def _set_or_looked_up(
        self, before: dict[str, Any], after: dict[str, Any], path: _Path
    ) -> Iterator[_Path] | None:
        """What is nft's own, written into packets, or looked up in a map; None for other objects."""
        match before, after:
            case dict(), _ if len(before) == 1 and _HEADERS & before.keys():
                return iter([path] if before != after else [])
            case {"mangle": {"key": left, "value": old}}, {"mangle": {"key": key, "value": new}}:
                where = "mangle"
                compared = self._numbers(left, old, new, (*path, where, "value"))
            case {"key": left, "data": {"set": list(old)}}, {"key": key, "data": {"set": new}}:
                where = "key"
                compared = self._pairs_of(left, old, new, (*path, "data"))
            case _:
                return None
        return itertools.chain(self._values(left, key, (*path, where), _has_names(left)), compared)

    def _matches(
        self, before: dict[str, Any], after: dict[str, Any], path: _Path
    ) -> Iterator[_Path]:
        if [*before] != [*after]:
            yield path
            return
        left, op = before.get("left"), before.get("op")
        for key, value in before.items():
            if key == "right":
                yield from self._compared(left, op, value, after[key], (*path, key))
            else:
                yield from self._values(value, after[key], (*path, key), _has_names(left))

    def _compared(
        self, left: Any, op: Any, before: Any, after: Any, path: _Path,  # noqa: ANN401
    ) -> Iterator[_Path]:  # fmt: skip
        """What is mapped otherwise for what it is compared with."""
        if op in nft_numbers.ORDERED and nft_numbers.is_ordered(left, before):
            if before != after:
                yield path
            return
        match left:
            case {"&": [_, str(mask)]} if isinstance(before, str):
                if not self._is(f"{before}/{mask}", f"{after}/{mask}"):
                    yield path
                return
        yield from self._numbers(left, before, after, path)

    def _numbers(self, left: Any, before: Any, after: Any, path: _Path) -> Iterator[_Path]:  # noqa: ANN401
        """With numbers that stand for addresses."""
        try:
            before = nft_numbers.mapped(self._pairs.maps, left, before)
        except (UntrueError, OverflowError):
            yield path
            return
        yield from self._values(before, after, path, _has_names(left))

    def _pairs_of(
        self, left: Any, before: list[Any], after: Any, path: _Path,  # noqa: ANN401
    ) -> Iterator[_Path]:  # fmt: skip
        """Keys and what they stand for."""
        if not isinstance(after, list) or len(before) != len(after):
            yield path
            return
        for at, (old, new) in enumerate(zip(before, after, strict=True)):
            here = (*path, str(at))
            if isinstance(old, list) and isinstance(new, list) and len(old) == len(new) == 2:  # noqa: PLR2004
                yield from self._numbers(left, old[0], new[0], here)
                yield from self._values(old[1], new[1], here, _has_names(left))
            else:
                yield from self._values(old, new, here, _has_names(left))

    def _range(self, low: str, high: str, after: list[Any]) -> bool:
        if [low, high] == after and self._pairs.stays(f"{low}-{high}"):
            return True
        return all(isinstance(one, str) for one in after) and (
            self._is(f"{low}-{high}", "-".join(after)) or self._macs(low, high, after)
        )

    def _macs(self, low: str, high: str, after: list[str]) -> bool:
        if not low.count(":") == high.count(":") == 5:  # noqa: PLR2004
            return False
        try:
            ends = [bytes.fromhex(one.replace(":", "")) for one in (low, high)]
            made = [one.hex(":") for one in self._pairs.maps.range(*ends)]
        except (UntrueError, ValueError):
            return False
        return made == after

    def _is(self, before: str, after: str) -> bool:
        return (before == after and self._pairs.stays(before)) or self._pairs.addresses(
            before, after
        )

    def _alike(self, before: Any, after: Any, path: _Path, names: bool) -> bool:  # noqa: ANN401
        if not (isinstance(before, str) and isinstance(after, str)):
            return bool(before == after and type(before) is type(after))
        key = next((one for one in reversed(path) if not one.isdecimal()), "")
        if key in _PROSE:
            return self._pairs.prose(before, after)
        if before.startswith("@"):
            return after.startswith("@") and self._pairs.name(before[1:], after[1:])
        named = key in _NAMES or path[-2:] == ("dup", "addr")  # in netdev tables a device
        if named and self._pairs.name(before, after):
            return True
        if before == after and key not in _NAMES:
            return self._pairs.stays(before)
        if self._pairs.addresses(before, after):
            return True
        return names and key in _SIDES and self._pairs.name(before, after)


def _has_names(value: Any) -> bool:  # noqa: ANN401 - JSON
    """Whether what is compared with it may be a name."""
    if isinstance(value, str):
        return value in _NAMED_KEYS
    if isinstance(value, list):
        return any(map(_has_names, value))
    return isinstance(value, dict) and any(
        key in _WITHIN and _has_names(one) for key, one in value.items()
    )


def _told(of: Any, *keys: str) -> Any:  # noqa: ANN401
    for key in keys:
        of = of.get(key) if isinstance(of, dict) else None
    return of
