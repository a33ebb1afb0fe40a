"""What ``nft -j -n`` prints in numbers, for comparing it with what ``nft -j`` prints in names.

man 5 libnftables-json. Nobody is shown these texts.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

from iptrec.answers.nft_names import TYPES, reader, reject_reader
from iptrec.decode.rulesets.nft_matches import key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iptrec.answers.nft_names import Number

    Readers = Sequence[Number | None]  # of each part of a concatenation

_BITWISE: Final = frozenset(["&", "|", "^", "<<", ">>"])
_TYPE: Final = re.compile(r"(?:^|; )type (\[[^\]]*\]|[^;]+)")


def numeric_json(text: str, words: Callable[[str], str], of: str = "") -> str:
    """A rule, or with the definition ``of`` its set an element, in numbers; as it is where it is too deep.

    ``words``: what does it with a statement that nft prints as plain text.
    """
    try:
        value = json.loads(text)
        if of:
            return json.dumps(_value(value, _of_set(of)))
        if isinstance(value, list):
            value = [words(one) if isinstance(one, str) else one for one in value]
        return json.dumps(_rule(value))
    except (RecursionError, ValueError):
        return text


def _rule(printed: Any) -> Any:  # noqa: ANN401 - JSON
    """A statement, or several, with the names in all that it compares with or writes in numbers."""
    match printed:
        case {"op": op, "left": left, "right": right}:
            return {"op": op, "left": _left(left), "right": _value(right, _readers(left))}
        case {"key": looked, "data": {"set": list(pairs)}}:
            by = _readers(looked)
            found = [
                [*(_value(each, by) for each in one[:1]), *map(_rule, one[1:])]
                if isinstance(one, list)
                else one
                for one in pairs
            ]
            return {"key": _left(looked), "data": {"set": found}}
        case {"key": written, "value": value}:
            return {"key": written, "value": _rule(_value(value, _readers(written)))}
        case {"type": str(kind), "expr": value}:
            return {"type": kind, "expr": _value(value, [reject_reader(kind)])}
        case dict():
            return {
                name: _value(one, [reader("th dport")]) if name == "port" else _rule(one)
                for name, one in printed.items()
            }
        case list():
            return [_rule(one) for one in printed]
    return printed


def _left(printed: Any) -> Any:  # noqa: ANN401 - JSON
    """What is looked at; a mask has names of what it is applied to."""
    match printed:
        case dict() if len(printed) == 1 and (kind := next(iter(printed))) in _BITWISE:
            of, *by = printed[kind] if isinstance(printed[kind], list) else [printed[kind]]
            return {kind: [_left(of), *(_value(one, _readers(of)) for one in by)]}
    return printed


def _readers(printed: Any) -> Readers:  # noqa: ANN401 - JSON
    """What reads the values that something is compared with."""
    match printed:
        case {"concat": list(parts)}:
            return [one for part in parts for one in _readers(part)[:1] or [None]]
        case dict() if len(printed) == 1:
            ((kind, what),) = printed.items()
            if kind in _BITWISE and isinstance(what, list) and what:
                return _readers(what[0])
            with contextlib.suppress(AttributeError, LookupError, TypeError, ValueError):
                return [reader(key(kind, what))]
    return [None]


def _of_set(definition: str) -> Readers:
    """What reads the elements of a set, by its type."""
    found = _TYPE.search(definition)
    types = found[1] if found else ""
    with contextlib.suppress(ValueError):
        types = json.loads(types)
    return [
        reader(TYPES.get(one, one)) if isinstance(one, str) else None
        for one in (types if isinstance(types, list) else [types])
    ]


def _value(printed: Any, readers: Readers) -> Any:  # noqa: ANN401 - JSON
    """Values, each in numbers."""
    match printed:
        case {"concat": list(parts)} if len(parts) <= len(readers):
            return {"concat": [_value(one, [by]) for one, by in zip(parts, readers, strict=False)]}
        case dict():
            return {name: _value(one, readers) for name, one in printed.items()}
        case list():
            return [_value(one, readers) for one in printed]
        case bool():
            return printed
        case int() | str() if readers and readers[0] is not None:
            with contextlib.suppress(LookupError, TypeError, ValueError):
                return readers[0](printed)
    return printed
