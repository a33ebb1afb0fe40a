"""``iptrec diff``: what changed between rulesets, paths or packets."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from iptrec.names import counted
from iptrec.views.escape import printable
from iptrec.views.style import styled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.answers.diff import Difference

FORMAT: Final = 1
_RED, _GREEN, _YELLOW, _BOLD = "31", "32", "33", "1"
_SHOWN: Final = 20  # packets


def as_json(differences: Sequence[Difference], hits: dict[int, list[int]] | None) -> str:
    """One JSON object, ASCII only; ``hits``: the packets that hit each difference, by its index."""
    changes = []
    for number, one in enumerate(differences):
        change: dict[str, Any] = asdict(one)
        change["packets"] = None if hits is None else hits.get(number, [])
        changes.append(change)
    return json.dumps(
        {"format": FORMAT, "summary": _counts(differences), "changes": changes},
        separators=(",", ":"),
    )


def as_text(
    differences: Sequence[Difference], hits: dict[int, list[int]] | None, *, colour: bool
) -> Iterator[str]:
    """Lines without their newlines: by chain, then one that sums up."""
    numbered = enumerate(differences)
    for (family, table, inside), group in itertools.groupby(
        numbered, key=lambda one: (one[1].family, one[1].table, one[1].object or one[1].chain)
    ):
        where = f"{printable(table)}/{printable(inside)}" if inside else printable(table)
        yield styled(f"@@ {where} ({family}) @@", _BOLD, colour=colour)
        for number, one in group:
            yield from _lines(one, colour=colour)
            if hits and hits.get(number):
                yield f"       hit by {_packets(hits[number])}"
    yield summary(differences)


def summary(differences: Sequence[Difference]) -> str:
    """One line."""
    counts = _counts(differences)
    if not counts:
        return "no difference"
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _lines(one: Difference, *, colour: bool) -> Iterator[str]:
    if one.kind == "moved":
        spec = printable(one.new or "")
        yield styled(f"~{_number(one.old_rule)} > #{one.new_rule}  {spec}", _YELLOW, colour=colour)
    elif one.kind == "chain renamed":
        yield styled(f"~      renamed to {printable(one.new or '')}", _YELLOW, colour=colour)
    else:
        before, after = _sides(one)
        if before is not None:
            yield styled(f"-{before}", _RED, colour=colour)
        if after is not None:
            yield styled(f"+{after}", _GREEN, colour=colour)


def _sides(one: Difference) -> tuple[str | None, str | None]:
    """What was there and is not, what is there now."""
    old, new = (None if text is None else printable(text) for text in (one.old, one.new))
    match one.kind:
        case "inserted" | "deleted" | "changed":
            return (
                old and f"{_number(one.old_rule)} {old}",
                new and f"{_number(one.new_rule)} {new}",
            )
        case "policy":
            return f"      policy {old or '-'}", f"      policy {new or '-'}"
        case "chain created" | "table loaded":
            return None, f"      {one.kind}"
        case "chain deleted" | "table unloaded":
            return f"      {one.kind}", None
    return old and f"      {old}", new and f"      {new}"


def _number(rule: int | None) -> str:
    return f"{'#' + str(rule):>6}"


def _packets(numbers: list[int]) -> str:
    shown = ", ".join(f"#{number}" for number in numbers[:_SHOWN])
    more = f" and {len(numbers) - _SHOWN:,} more" if len(numbers) > _SHOWN else ""
    return f"{counted(len(numbers), 'packet')}: {shown}{more}"


def _counts(differences: Sequence[Difference]) -> dict[str, int]:
    return dict(Counter(one.kind for one in differences))
