"""Two packets' paths side by side."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Final

from iptrec.views.escape import printable
from iptrec.views.packet_json import as_object

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.packets.model import Step, Traversal

FORMAT: Final = 1
_COLUMN: Final = 38


def as_json(left: Traversal, right: Traversal) -> str:
    """One JSON object: both packets as `show` has them, and the first step that differs (from 0)."""
    return json.dumps(
        {
            "format": FORMAT,
            "diverges_at": _divergence(left, right),
            "packets": [as_object(left), as_object(right)],
        },
        separators=(",", ":"),
    )


def as_text(left: Traversal, right: Traversal) -> Iterator[str]:
    """Lines of 80 columns: what both did, then a mark where their paths part."""
    yield _line(f"#{left.number} {left.verdict}", f"#{right.number} {right.verdict}", " ")
    diverges = _divergence(left, right)
    for number, (one, other) in enumerate(itertools.zip_longest(left.steps, right.steps)):
        parted = diverges is not None and number >= diverges
        yield _line(_step(one), _step(other), "|" if parted else " ")
    if diverges is None:
        yield "the same path"


def _divergence(left: Traversal, right: Traversal) -> int | None:
    pairs = itertools.zip_longest(left.steps, right.steps)
    return next((i for i, (one, other) in enumerate(pairs) if _step(one) != _step(other)), None)


def _step(step: Step | None) -> str:
    if step is None:
        return ""
    place = f"#{step.rule}" if step.type in ("rule", "match", "unknown") else step.type
    return f"{step.table}/{step.chain} {place} > {step.target or '-'}"


def _line(left: str, right: str, mark: str) -> str:
    left, right = printable(left), printable(right)
    return f"{left[:_COLUMN]:<{_COLUMN}} {mark} {right[:_COLUMN]}".rstrip()
