"""``iptrec diff``: what changed between rulesets, paths or packets."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from iptrec.names import counted
from iptrec.views.escape import printable
from iptrec.views.style import styled, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.answers.diff import Difference

FORMAT: Final = 1
_RED, _GREEN, _YELLOW, _BOLD = "31", "32", "33", "1"
_BELOW: Final = " " * 7
_SHOWN: Final = 20  # packets
_COUNTED: Final = {  # kind -> one of it, more of it, and what became of it
    "inserted": ("rule", "rules", " inserted"), "deleted": ("rule", "rules", " deleted"),
    "moved": ("rule", "rules", " moved"), "changed": ("rule", "rules", " changed"),
    "policy": ("policy", "policies", " changed"),
}  # fmt: skip


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
    differences: Sequence[Difference],
    hits: dict[int, list[int]] | None,
    *,
    colour: bool,
    width: int | None = None,
) -> Iterator[str]:
    """Lines without their newlines: by chain, then one that sums up.

    ``width``: of the terminal, see `style.wrapped`.
    """
    numbered = enumerate(differences)
    for (family, table, inside), group in itertools.groupby(
        numbered, key=lambda one: (one[1].family, one[1].table, one[1].object or one[1].chain)
    ):
        where = f"{printable(table)}/{printable(inside)}" if inside else printable(table)
        yield styled(f"@@ {where} ({family}) @@", _BOLD, colour=colour)
        for number, one in group:
            for head, text, style in _lines(one):
                for line in wrapped(head, text, width).splitlines():
                    yield styled(line, style, colour=colour)
            if hits and hits.get(number):
                yield wrapped(_BELOW, f"hit by {_packets(hits[number])}", width)
    yield summary(differences)


def summary(differences: Sequence[Difference]) -> str:
    """One line."""
    counts = _counts(differences)
    if not counts:
        return "no difference"
    return ", ".join(_counted(kind, count) for kind, count in counts.items())


def _counted(kind: str, count: int) -> str:
    """3 rules inserted, 1 chain created."""
    noun, _, what = kind.partition(" ")
    one, more, what = _COUNTED.get(kind, (noun, f"{noun}s", f" {what}"))
    return f"{count:,} {one if count == 1 else more}{what}"


def _lines(one: Difference) -> Iterator[tuple[str, str, str]]:
    """Each line's head, what it says, and its style."""
    old, new = (printable(text or "") for text in (one.old, one.new))
    gone, come = ("-", old, _RED), ("+", new, _GREEN)
    match one.kind:
        case "moved":
            yield f"~{_number(one.old_rule)} > #{one.new_rule}  ", new, _YELLOW
        case "chain renamed":
            yield f"~{_BELOW[1:]}", f"renamed to {new}", _YELLOW
        case "policy":
            yield f"-{_BELOW[1:]}", f"policy {old or '-'}", _RED
            yield f"+{_BELOW[1:]}", f"policy {new or '-'}", _GREEN
        case "chain created" | "table loaded":
            yield f"+{_BELOW[1:]}", f"{one.kind}: {new}" if new else one.kind, _GREEN
        case "chain deleted" | "table unloaded":
            yield f"-{_BELOW[1:]}", f"{one.kind}: {old}" if old else one.kind, _RED
        case _:
            for (sign, text, style), rule in ((gone, one.old_rule), (come, one.new_rule)):
                if text:
                    yield f"{sign}{_number(rule)} " if rule else f"{sign}{_BELOW[1:]}", text, style


def _number(rule: int | None) -> str:
    return f"{'#' + str(rule):>6}"


def _packets(numbers: list[int]) -> str:
    shown = ", ".join(f"#{number}" for number in numbers[:_SHOWN])
    more = f" and {len(numbers) - _SHOWN:,} more" if len(numbers) > _SHOWN else ""
    return f"{counted(len(numbers), 'packet')}: {shown}{more}"


def _counts(differences: Sequence[Difference]) -> dict[str, int]:
    return dict(Counter(one.kind for one in differences))
