"""What nft prints as JSON: each value by what it is compared with, or else by how it looks."""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any, Final

from iptrec.errors import UsageError
from iptrec.redact import nft_numbers
from iptrec.redact.maps import UntrueError
from iptrec.redact.names import public
from iptrec.redact.words import Words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.redact.maps import Maps
    from iptrec.redact.nft_messages import SetName

_OBJECTS: Final = frozenset(
    {"table", "chain", "rule", "set", "map", "element", "flowtable", "counter", "quota", "limit", "ct helper",
     "ct timeout", "ct expectation", "secmark", "synproxy", "meter"}
)  # fmt: skip
_NAMES: Final = frozenset({"name", "table", "chain", "dev", "flowtable", "target", "newname"})
_PROSE: Final = frozenset({"comment", "prefix"})
_AS_IT_IS: Final = frozenset(
    {"metainfo", "family", "handle", "type", "hook", "prio", "policy", "flags", "timeout", "size",
    "gc-interval", "op", "val_unit", "protocol", "field", "base", "offset", "len", "key", "mode", "flag",
    "rate", "per", "unit", "burst", "packets", "bytes", "index", "expires", "rate_unit"}
)  # fmt: skip
_INTERFACES: Final = frozenset(
    {"iifname", "oifname", "ibrname", "obrname", "sdifname", "iif", "oif", "sdif"}
)
# References to objects
_REFERENCES: Final = frozenset(
    {
        "counter",
        "quota",
        "limit",
        "ct helper",
        "ct timeout",
        "ct expectation",
        "synproxy",
        "secmark",
    }
)
# Whose names and fields are nft's
_HEADERS: Final = frozenset({"exthdr", "tcp option", "ip option", "sctp chunk", "dccp option"})
_COMBINED: Final = frozenset({"&", "|", "^", "<<", ">>"})
_NAME, _KEYWORD, _PLAIN = "name", "keyword", ""
_Kind = str | tuple[str, ...]  # of what is compared; of a concatenation one for each part


class NftJson:
    """Changes a listing; ``types``: gets the types of the keys of named sets."""

    def __init__(self, maps: Maps, types: dict[SetName, Sequence[str]]) -> None:
        self._maps = maps
        self._types = types
        self._words = Words(maps)
        self._kinds: dict[SetName, bool] = {}  # whether a set is of interfaces' names

    def __call__(self, content: bytes) -> bytes:
        """Raises `UsageError` with a rule that would not stay true, ValueError for what is not JSON."""
        listing = json.loads(content)
        objects = [self._object(one) for one in listing["nftables"]]
        return json.dumps({"nftables": objects}).encode()

    def _object(self, told: dict[str, Any]) -> dict[str, Any]:
        try:
            return {kind: self._of(kind, value) for kind, value in told.items()}
        except UntrueError as error:
            raise UsageError(
                f"cannot redact {json.dumps(told)}: {error} would not stay true; take that rule out of what"
                " you share"
            ) from None

    def _of(self, kind: str, value: Any) -> Any:  # noqa: ANN401 - JSON
        if kind == "metainfo" or not isinstance(value, dict):
            return value
        if kind in ("set", "map") and "name" in value:
            types = value.get("type")
            listed = [types] if isinstance(types, str) else types
            if isinstance(listed, list) and all(isinstance(one, str) for one in listed):
                self._types[value["family"], value["table"], value["name"]] = listed
            if "integer" in value["type"]:
                value = {**value, "elem": self._of_numbers(value["type"], value.get("elem"))}
        listed = value.get("elem") if kind in ("set", "map") else None
        if isinstance(listed, list):
            value = {**value, "elem": None}
        made = {key: self._member(key, one) for key, one in value.items()}
        if isinstance(listed, list):
            kinds = _kinds_of_types(value.get("type"))
            of_values = _NAME if value.get("map") in {*_REFERENCES, "ifname"} else _PLAIN
            made["elem"] = [self._pair(one, kinds, of_values) for one in listed]
        return made

    def _pair(self, told: Any, kind: _Kind, of_value: _Kind = _PLAIN) -> Any:  # noqa: ANN401
        """A key and what it stands for, or an element alone."""
        if _is_pair(told):
            return [self._value(told[0], kind), self._value(told[1], of_value)]
        return self._value(told, kind)

    def _of_numbers(self, types: Any, elements: Any) -> Any:  # noqa: ANN401
        """Elements of a set of numbers, whose places in packets the listing does not tell."""
        left = {"concat": types} if isinstance(types, list) else types
        keys = [
            one[0] if isinstance(one, list) and len(one) == 2 else one  # noqa: PLR2004
            for one in elements or ()
        ]
        nft_numbers.mapped(self._maps, left, keys)
        return elements

    def _member(self, key: str, value: Any, kind: _Kind = _PLAIN) -> Any:  # noqa: ANN401
        if key in _AS_IT_IS and not isinstance(value, dict):
            return value
        if key == "map" and isinstance(value, str):
            return value  # the type of a map's values
        if key in _NAMES and isinstance(value, (str, list)):
            return self._each(value, self._name)
        if key in _PROSE and isinstance(value, str):
            return self._words.prose(value)
        return self._value(value, kind)

    def _name(self, name: str) -> str:
        """A name, or a reference to it."""
        return "@" + self._maps.name(name[1:]) if name.startswith("@") else self._maps.name(name)

    def _each(self, value: Any, change: Any) -> Any:  # noqa: ANN401
        if isinstance(value, str):
            return change(value)
        return [self._each(one, change) for one in value] if isinstance(value, list) else value

    def _value(self, value: Any, kind: _Kind = _PLAIN) -> Any:  # noqa: ANN401, C901, PLR0912 - a table
        match value:
            case str():
                return self._word(value, kind)
            case list():
                return [self._value(one, kind) for one in value]
            case {"prefix": {"addr": str(address), "len": int(length)}}:
                return {"prefix": {"addr": self._network(address, length), "len": length}}
            case {"concat": list(parts)} if isinstance(kind, tuple) and len(parts) == len(kind):
                return {"concat": [self._value(*both) for both in zip(parts, kind, strict=True)]}
            case {"range": [str(low), str(high)]}:
                return {"range": self._range(low, high)}
            case {"match": {"left": left, "right": right, **rest}}:
                op = str(rest.get("op"))
                return {"match": {**rest, **self._match(left, right, op)}}
            case {"dup": {"addr": str(name), **rest}} if not _size(
                name
            ):  # a device, in netdev tables
                return {"dup": {"addr": self._maps.name(name), **self._value(rest)}}
            case {"mangle": {"key": key, "value": set_}}:
                set_ = self._value(nft_numbers.mapped(self._maps, key, set_))
                return {"mangle": {"key": self._value(key), "value": set_}}
            case {"vmap": {"key": key, "data": data}} | {"map": {"key": key, "data": data}}:
                (name,) = value
                return {name: {"key": self._value(key), "data": self._looked_up(key, data)}}
            case {"set": {"op": op, "elem": elem, "set": str(name), **rest}}:
                more = {one: self._value(some) for one, some in rest.items()}
                return {
                    "set": {
                        "op": op,
                        "elem": self._value(elem),
                        "set": self._word(name, kind),
                        **more,
                    }
                }
            case dict() if len(value) == 1 and (of := next(iter(value))) in _HEADERS | _REFERENCES:
                return value if of in _HEADERS else {of: self._object_of(value[of])}
            case {"xt": dict(told)}:
                return {"xt": told if set(told) <= {"type", "name"} else {}}
            case dict():
                return {key: self._member(key, one, kind) for key, one in value.items()}
        return value

    def _object_of(self, told: Any) -> Any:  # noqa: ANN401
        """A reference to an object, or a map of such; or a statement that is called so."""
        match told:
            case str():
                return self._maps.name(told)
            case {"map": {"key": key, "data": data}}:
                return {"map": {"key": self._value(key), "data": self._looked_up(key, data, _NAME)}}
        return self._value(told)

    def _looked_up(self, key: Any, data: Any, of_value: _Kind = _PLAIN) -> Any:  # noqa: ANN401
        """Pairs, or a named map."""
        if not isinstance(data, dict) or "set" not in data:
            return self._value(data)
        kind = _kind(key)
        return {
            "set": [
                self._pair(
                    [nft_numbers.mapped(self._maps, key, one[0]), one[1]] if _is_pair(one) else one,
                    kind,
                    of_value,
                )
                for one in data["set"]
            ]
        }

    def _match(self, left: Any, right: Any, op: str) -> dict[str, Any]:  # noqa: ANN401
        mapped = self._value(left)
        if op in nft_numbers.ORDERED and nft_numbers.is_ordered(left, right):
            nft_numbers.border(self._maps, left, op, right)
            return {"left": mapped, "right": right}
        match left:
            case {"&": [of, str(mask)]} if _is_address(of) and isinstance(right, str):
                masked = self._words.addresses(f"{right}/{mask}")
                return {"left": mapped, "right": masked.partition("/")[0]}
            case dict() if _COMBINED & set(left) and "addr" in json.dumps(left):
                raise UntrueError("a comparison of a part of an address")
        found = nft_numbers.mapped(self._maps, left, right)
        return {"left": mapped, "right": self._value(found, _kind(left))}

    def _network(self, address: str, length: int) -> str:
        packed = ipaddress.ip_address(address).packed
        return str(ipaddress.ip_address(self._maps.network(packed, length)))

    def _range(self, low: str, high: str) -> list[str]:
        if not (_size(low) and _size(high)):
            if low.count(":") == high.count(":") == 5:  # noqa: PLR2004 - MAC addresses
                ends = (bytes.fromhex(one.replace(":", "")) for one in (low, high))
                return [one.hex(":") for one in self._maps.range(*ends)]
            return [self._word(one, _PLAIN) for one in (low, high)]
        ends = (ipaddress.ip_address(one).packed for one in (low, high))
        return [str(ipaddress.ip_address(one)) for one in self._maps.range(*ends)]

    def _word(self, word: str, kind: _Kind) -> str:
        if word.startswith("@"):
            return self._name(word)
        if kind == _NAME:
            return self._maps.name(word)
        if kind == _KEYWORD or word in public().nft or word == "*":
            return word
        return self._words.value(word)


def _kind(left: Any) -> _Kind:  # noqa: ANN401
    """Of what is compared with an expression."""
    match left:
        case {"meta": {"key": str(key)}} | {"fib": {"result": str(key)}} if key in _INTERFACES:
            return _NAME
        case {"osf": _} | {"meta": {"key": "iifkind" | "oifkind"}}:
            return _KEYWORD
        case {"concat": list(parts)}:
            return tuple(map(str, map(_kind, parts)))
    return _PLAIN


def _kinds_of_types(types: Any) -> _Kind:  # noqa: ANN401
    """Of the elements of a set of these."""
    if isinstance(types, list):
        return tuple(str(_kinds_of_types(one)) for one in types)
    return _NAME if types == "ifname" else _PLAIN


def _is_pair(told: Any) -> bool:  # noqa: ANN401
    return isinstance(told, list) and len(told) == 2  # noqa: PLR2004


def _size(address: str) -> int:
    """Bytes of an address; 0 of what is not one."""
    try:
        return len(ipaddress.ip_address(address).packed)
    except ValueError:
        return 0


def _is_address(left: Any) -> bool:  # noqa: ANN401
    match left:
        case (
            {"payload": {"field": "saddr" | "daddr"}}
            | {"ct": {"key": str()}}
            | {"payload": {"base": _}}
        ):
            return True
    return False
