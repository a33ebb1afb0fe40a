"""Statements of nf_tables of which only the kernel knows what they do with a packet, in nft's words.

man 5 libnftables-json: STATEMENTS. As short as they name the statement: what it takes is in the rule's text.
"""

from __future__ import annotations

import sys
from typing import Any, Final, NamedTuple

UNREAD: Final = "its text, which was not recorded"
TEXT: Final = "text"  # in the place of a statement's name: of what nft's text alone tells
_LONGEST: Final = 60  # characters


class Other(NamedTuple):
    """A statement that may or may not let a packet on: ``words`` name it."""

    words: str


def other(name: str, value: Any) -> Other:  # noqa: ANN401 - JSON
    """The statement of a name ("" for one without) and a value."""
    words = " ".join(_words(name, value).encode("utf-8", "backslashreplace").decode().split())
    return Other(sys.intern(words if len(words) <= _LONGEST else f"{words[: _LONGEST - 3]}..."))


def _words(name: str, value: Any) -> str:  # noqa: ANN401 - JSON
    match name, value:
        case "", None:
            return UNREAD
        case "", str():
            return str(value)
        case "", _:
            return "a statement that is not understood"
        case "text", _:  # TEXT
            return "what only its text tells"
        case (("limit" | "quota"), str()):
            return f'{name} name "{value}"'
        case "match", {"left": {**left}} if left:
            return str(next(iter(left)))
        case _, dict():
            return _of_object(name, value)
    return name


def _of_object(name: str, value: dict[str, Any]) -> str:
    """Of a statement whose value has parts."""
    over = "over " if value.get("inv") else ""
    match name, value:
        case "limit", {"rate": int(rate), "per": str(per)}:
            unit = f" {value['rate_unit']}" if "rate_unit" in value else ""
            return f"limit rate {over}{rate}{unit}/{per}"
        case "quota", {"val": int(most), "val_unit": str(unit)}:
            return f"quota {over or 'until '}{most} {unit}"
        case "ct count", {"val": int(most)}:
            return f"ct count {over}{most}"
        case (("set" | "map"), {"op": str(op)}):
            return f"{op} {value.get(name, name)}"
        case "reject", {"type": str(kind)}:
            return f"reject with {kind} {value.get('expr', '')}"
        case "xt", {"type": str(kind), "name": str(extension)}:
            return f'xt {kind} "{extension}"'
    return name
