"""The list of objects that ``nft -j list ruleset`` prints (man 5 libnftables-json).

A recording's is read as far as it can be. One that somebody gives as a file is refused where it is not what nft
prints: an object that is left out would be taken for one that is not there.
"""

from __future__ import annotations

import json
from typing import Any, Final

_Fields = tuple[tuple[str, type], ...]

_NAMED: Final[_Fields] = (("family", str), ("table", str), ("name", str))
_OBJECT: Final[_Fields] = (*_NAMED, ("handle", int))
_REQUIRED: Final[dict[str, _Fields]] = {
    "metainfo": (),
    "table": (("family", str), ("name", str), ("handle", int)),
    "chain": _OBJECT, "set": _OBJECT, "map": _OBJECT, "flowtable": _OBJECT,
    "rule": (("family", str), ("table", str), ("chain", str), ("handle", int), ("expr", list)),
}  # fmt: skip
_ATTACHED: Final[_Fields] = (("type", str), ("hook", str), ("prio", int))  # a base chain
_OPTIONAL: Final[_Fields] = (("policy", str), ("elem", list), ("comment", str))
_TIMEOUTS: Final[_Fields] = (("policy", dict), ("comment", str))  # of the states of a connection
_WORDS: Final = {str: "a text", int: "a number", list: "a list", dict: "an object"}
_LONGEST: Final = 40  # of a name that a message repeats


def objects(listing: bytes) -> list[Any]:
    """The objects, whatever they are. Raises ValueError, in plain words, for what is no such list."""
    try:
        printed = json.loads(listing)
    except json.JSONDecodeError as error:
        if listing.startswith(b'{"nftables"') and listing.rstrip().endswith(b'"flags":'):
            raise ValueError(
                "it ends at the flags of a table, as nft 1.0.6 may print those that are dormant"
                " (print them without -j)"
            ) from None
        raise ValueError(f"it is not JSON (line {error.lineno}, column {error.colno})") from None
    except ValueError:  # not UTF-8, or a number of thousands of digits
        raise ValueError("it is not JSON") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    found = printed.get("nftables") if isinstance(printed, dict) else None
    if not isinstance(found, list):
        raise ValueError('it has no list "nftables"')  # noqa: TRY004 - of the file
    return found


def check(found: list[Any]) -> None:
    """Raise ValueError, in plain words, for the first object that nft would not print so."""
    for number, one in enumerate(found, 1):
        if not isinstance(one, dict) or len(one) != 1:
            raise ValueError(f"object {number} is not an object of one key, such as table or rule")
        ((kind, value),) = one.items()
        if fault := _fault(kind, value):
            raise ValueError(f"object {number}: {fault}")


def _fault(kind: str, value: Any) -> str | None:  # noqa: ANN401 - JSON
    """What is wrong with an object, None if nothing is."""
    whole = f'its "{kind[:_LONGEST]}"'
    if not isinstance(value, dict):
        return f"{whole} is not an object"
    required = _REQUIRED.get(kind, _NAMED)
    if kind == "chain" and "hook" in value:
        required += _ATTACHED
    missing = next((name for name, _ in required if name not in value), None)
    if missing is not None:
        return f'{whole} has no "{missing}"'
    optional = _TIMEOUTS if kind == "ct timeout" else _OPTIONAL if required else ()
    for name, type_ in (*required, *optional):
        if name in value and not _is(value[name], type_):
            return f'"{name}" of {whole} is not {_WORDS[type_]}'
    return None


def _is(value: Any, type_: type) -> bool:  # noqa: ANN401 - JSON
    return isinstance(value, type_) and not isinstance(value, bool)
