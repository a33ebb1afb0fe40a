"""Whether an object of nft's JSON is another one with what stands for its words (see `compare_save`)."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final

from iptrec.redact.maps import UntrueError
from iptrec.redact.words import length_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.redact.compare_nft import NftRules
    from iptrec.redact.pairs import Pairs

_NAMES: Final = frozenset(
    {"name", "table", "chain", "dev", "flowtable", "target", "newname", "counter", "quota", "limit",
    "ct helper", "synproxy"}
)  # fmt: skip
_PROSE: Final = frozenset({"comment", "prefix"})
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
    """Compares objects of a listing; ``rules``: compares bytes of packets."""

    def __init__(self, pairs: Pairs, rules: NftRules) -> None:
        self._pairs = pairs
        self._rules = rules

    def object(self, before: Any, after: Any) -> Iterator[_Path]:  # noqa: ANN401 - JSON
        """Where they differ."""
        yield from self._values(before, after, (), _has_names(before))

    def _values(self, before: Any, after: Any, path: _Path, names: bool) -> Iterator[_Path]:  # noqa: ANN401
        if before == after and type(before) is type(after):
            return
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
            case {"xt": _} if after["xt"] == {}:
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
        for key, value in before.items():
            yield from self._values(value, after[key], (*path, key), names or _has_names(value))

    def _matches(
        self, before: dict[str, Any], after: dict[str, Any], path: _Path
    ) -> Iterator[_Path]:
        if [*before] != [*after]:
            yield path
            return
        left, right, now = before.get("left"), before.get("right"), after.get("right")
        for key, value in before.items():
            if key == "right" and self._compared(left, right, now, before.get("op")):
                continue
            yield from self._values(value, after[key], (*path, key), _has_names(left))

    def _compared(self, left: Any, right: Any, now: Any, op: Any) -> bool:  # noqa: ANN401
        """What is mapped otherwise for what it is compared with."""
        match left:
            case {"payload": {"base": str(base), "offset": int(offset), "len": int(length)}}:
                return self._raw((base, offset, length), right, now)
            case {"&": [_, str(mask)]} if isinstance(right, str):
                try:
                    length = length_of(mask, 128 if ":" in right else 32)
                except (UntrueError, ValueError):
                    return False
                return self._is(f"{right}/{length}", f"{now}/{length}")
        return op in ("<", ">", "<=", ">=") and isinstance(right, str) and self._border(right, now)

    def _raw(self, place: tuple[str, int, int], before: Any, after: Any) -> bool:  # noqa: ANN401
        match before, after:
            case int(), int():
                return before == after or self._rules.raw(*place, before, after)
            case list(), list():
                return len(before) == len(after) and all(
                    self._raw(place, *both) for both in zip(before, after, strict=True)
                )
            case {"set": old}, {"set": new}:
                return self._raw(place, old, new)
        return bool(before == after)

    def _border(self, before: str, after: Any) -> bool:  # noqa: ANN401
        """An end of two ranges, to the first and to the last address."""
        try:
            packed = ipaddress.ip_address(before).packed
            made = self._pairs.maps.range(packed, b"\xff" * len(packed))[0]
        except (UntrueError, ValueError):
            return False
        return bool(str(ipaddress.ip_address(made)) == after)

    def _range(self, low: str, high: str, after: list[Any]) -> bool:
        if [low, high] == after:
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
        return before == after or self._pairs.addresses(before, after)

    def _alike(self, before: Any, after: Any, path: _Path, names: bool) -> bool:  # noqa: ANN401
        if not (isinstance(before, str) and isinstance(after, str)):
            return False  # numbers, and what is not of the same type
        key = next((one for one in reversed(path) if not one.isdecimal()), "")
        if key in _PROSE:
            return self._pairs.prose(before, after)
        if before.startswith("@"):
            return after.startswith("@") and self._pairs.name(before[1:], after[1:])
        if key in _NAMES and self._pairs.name(before, after):
            return True
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
