"""Text of a recording in a report: printable, and never longer than a reader can use."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

from iptrec.views.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")
_LONGEST: Final = 4_000  # characters of one text
_SHORTER: Final = 3_950  # of one that is cut, which says so


def safe(value: T) -> T:
    """The same with all texts in it printable and cut."""
    return _safe(value)  # type: ignore[no-any-return]


def _safe(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, str):
        text = printable(value[:_LONGEST])
        more = len(value) - _SHORTER
        cut = len(value) > _LONGEST or len(text) > _LONGEST
        return f"{text[:_SHORTER]} ... ({more:,} characters more)" if cut else text
    if isinstance(value, dict):
        return {_safe(name): _safe(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(one) for one in value]
    return value


def packed(value: Any) -> str:  # noqa: ANN401 - JSON
    """A value of JSON that may stand between two tags of a page: without <, > and &, ASCII only."""
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def fitting(values: Iterable[T], most_bytes: int) -> list[T]:
    """The first of some values of JSON, as many as have room."""
    found = []
    for one in values:
        most_bytes -= len(json.dumps(one)) + 1
        if most_bytes < 0:
            break
        found.append(one)
    return found
