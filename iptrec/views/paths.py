"""``iptrec paths``: a table of the paths that packets took."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from iptrec.names import counted
from iptrec.views.escape import printable
from iptrec.views.packet_json import as_place, iso_time
from iptrec.views.timestamps import LOCAL, Clock

if TYPE_CHECKING:
    from iptrec.answers.path_counts import PathCount
    from iptrec.answers.paths import Path, PathStep

FORMAT: Final = 1
_WIDTH: Final = 80


def as_json(one: PathCount) -> str:
    """One JSON object, ASCII only; schemas/paths-v1.schema.json describes it."""
    path, count = one.path, one.count
    return json.dumps(
        {
            "format": FORMAT,
            "path": one.number,
            "packets": count.packets,
            "bytes": count.bytes,
            "first": iso_time(count.first_ns),
            "last": iso_time(count.last_ns),
            "example": count.example,
            **asdict(path),
            "decided_by": as_place(path.decided_by),
        },
        separators=(",", ":"),
    )


def as_text(one: PathCount, clock: Clock = LOCAL) -> str:
    """A few lines of at most 80 columns, each with its newline: who decided, how often, and the path."""
    path, count = one.path, one.count
    netns = "" if path.netns is None else f" netns={printable(path.netns)}"
    title = f"path {one.number}: {path.family}{netns} {ending(path)}"
    counts = (
        f"{counted(count.packets, 'packet')}, {counted(count.bytes, 'byte')},"
        f" {clock.span(count.first_ns, count.last_ns)}, first #{count.example}"
    )
    lines = [title, f"    {counts}", *_wrapped([_step(step) for step in path.steps])]
    return "\n".join(lines) + "\n"


def ending(path: Path) -> str:
    """How it ends, who decided, and how sure that is: DROP by filter/INPUT rule 2 (incomplete)."""
    decided = ""
    if (place := path.decided_by) is not None:
        decided = f" by {printable(place.table)}/{printable(place.chain)} {place.what}"
    doubts = [
        word
        for word, holds in (("incomplete", not path.complete), ("ambiguous", path.ambiguous))
        if holds
    ]
    unsure = f" ({' and '.join(doubts)})" if doubts else ""
    return f"{printable(path.verdict)}{decided}{unsure}"


def _step(step: PathStep) -> str:
    where = f"{printable(step.table)}/{printable(step.chain)}"
    if step.type == "rule":
        unnumbered = "(our own)" if step.spec else "(not in the recorded ruleset)"
        return f"{where} {f'#{step.rule}' if step.rule else unnumbered}"
    return f"{where} #{step.rule} or end" if step.type == "unknown" else f"{where} {step.type}"


def _wrapped(steps: list[str]) -> list[str]:
    """Steps with arrows between them, never broken inside."""
    lines: list[str] = []
    for step in steps:
        text = step if not lines else f"> {step}"
        if lines and len(lines[-1]) + 1 + len(text) <= _WIDTH:
            lines[-1] += f" {text}"
        else:
            lines.append(f"    {text}")
    return lines
