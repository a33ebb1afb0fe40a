"""Text of a recording in a report: printable, and never longer than a reader can use."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

from iptrec.views.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

T = TypeVar("T")
_MISSED: Final = 100  # values without room; after them there is none for others
FIRST: Final = 120  # of `ends`
_LAST: Final = 80
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


def ends(values: Sequence[T]) -> list[T]:
    """The first and the last of many, see `between`."""
    return [*values[:FIRST], *values[FIRST:][-_LAST:]]


def between(values: Sequence[Any]) -> int:
    """How many `ends` leaves out."""
    return max(0, len(values) - FIRST - _LAST)


def place(number: int, values: Sequence[Any]) -> int | None:
    """Where one of many is among their `ends`; None where it is left out."""
    if number < FIRST:
        return number
    number -= between(values)
    return number if number >= FIRST else None


def packed(value: Any) -> str:  # noqa: ANN401 - JSON
    """A value of JSON that may stand between two tags of a page: without <, > and &, ASCII only."""
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def size(value: Any) -> int:  # noqa: ANN401 - JSON
    """How many bytes of a page it takes, with a comma."""
    return len(packed(value)) + 1


def fitting(values: Iterable[T], most_bytes: int) -> list[T]:
    """The first of some values of JSON, as many as have room; what is too large is passed over."""
    found = []
    missed = 0
    for one in values:
        if (needed := size(one)) > most_bytes:
            missed += 1
            if missed == _MISSED:
                break
            continue
        most_bytes -= needed
        found.append(one)
    return found
