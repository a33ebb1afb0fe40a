"""``iptrec paths``: a table of the paths that packets took."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from iptrec.names import counted
from iptrec.packets.model import LOST
from iptrec.views.escape import printable
from iptrec.views.packet_json import as_end, as_place, host, iso_time
from iptrec.views.style import wrapped
from iptrec.views.text import MARK, NO_CHAIN, end_words, whose
from iptrec.views.timestamps import LOCAL, Clock
from iptrec.views.title import ends, flow

if TYPE_CHECKING:
    from iptrec.answers.path_counts import PathCount
    from iptrec.answers.paths import Path, PathStep
    from iptrec.packets.ends import Death, End

FORMAT: Final = 1
_MARGIN: Final = " " * (len(MARK) + 1)
_BELOW: Final = _MARGIN * 2
_FLOW: Final = ("proto", "src", "sport", "dst", "dport")


def as_json(one: PathCount) -> str:
    """One JSON object, ASCII only; schemas/paths-v1.schema.json describes it."""
    return json.dumps({"format": FORMAT, **as_object(one)}, separators=(",", ":"))


def as_object(one: PathCount) -> dict[str, Any]:
    """What there is in JSON of a path, without the format."""
    path, count = one.path, one.count
    return {
        "path": one.number,
        "packets": count.packets,
        "bytes": count.bytes,
        "first": iso_time(count.first_ns),
        "last": iso_time(count.last_ns),
        "example": count.example,
        "flow": {name: one.first.header.get(name) for name in _FLOW},
        **host(path.host),
        **{name: value for name, value in asdict(path).items() if name not in ("end", "host")},
        "decided_by": as_place(path.decided_by),
        **({} if one.end is None else {"end": _as_end(one.end)}),
    }


def _as_end(end: End) -> dict[str, Any]:
    """As of a packet, but for the time, which is another one for each."""
    return {name: value for name, value in as_end(end).items() if name != "time_ns"}


def as_text(one: PathCount, clock: Clock = LOCAL, width: int | None = None) -> str:
    """A few lines, each with its newline: who decided, how often, the first packet, and the path.

    What was dropped or rejected has a mark at the margin. ``width``: of the terminal, see `style.wrapped`.
    """
    path, count, first = one.path, one.count, one.first
    margin = f"{MARK} " if path.verdict in LOST else _MARGIN
    kind = " ".join([path.family, *whose(path.host, path.netns)])
    decider = path.decider
    rule = "" if decider is None or decider.spec is None else f": {printable(decider.spec)}"
    counts = (
        f"{counted(count.packets, 'packet')}, {counted(count.bytes, 'byte')},"
        f" {clock.span(count.first_ns, count.last_ns)}"
    )
    how = ending(path)
    lines = [
        wrapped(
            margin,
            f"path {one.number}: {kind} {how}{rule}",
            width,
        ),
        wrapped(_BELOW, counts, width),
        wrapped(_BELOW, f"first #{first.number}: {' '.join([flow(first), *ends(first)])}", width),
        *(wrapped(_BELOW, line, width) for line in end_line(one.end, how)),
        *_arrows([_step(step) for step in path.steps] or [NO_CHAIN], width),
    ]
    return "\n".join(lines) + "\n"


def ending(path: Path, end: End | None = None) -> str:
    """How it ends, who decided, and how sure that is: DROP by filter/INPUT rule 2 (incomplete).

    ``end``: of one of its packets, which may have more words.
    """
    decided = ""
    if (place := path.decided_by) is not None:
        decided = f" by {printable(place.table)}/{printable(place.chain)} {place.what}"
    elif (death := _by_the_kernel(path)) is not None:
        decided = f" by the kernel: {end_words(end or death.end(0))}"
    doubts = [
        word
        for word, holds in (("incomplete", not path.complete), ("ambiguous", path.ambiguous))
        if holds
    ]
    unsure = f" ({' and '.join(doubts)})" if doubts else ""
    return f"{printable(path.verdict)}{decided}{unsure}"


def _by_the_kernel(path: Path) -> Death | None:
    """How the kernel dropped its packets, where that is sure."""
    end = path.end
    return None if end is None or path.decided_by is not None or not end.sure else end.death


def end_line(end: End | None, above: str) -> list[str]:
    """A line for the end of a packet, where the line ``above`` has not got it."""
    words = "" if end is None else end_words(end)
    return [] if words in above else [f"end: {words}"]


def _step(step: PathStep) -> str:
    where = f"{printable(step.table)}/{printable(step.chain)}"
    if step.type == "rule":
        unnumbered = "(our own)" if step.spec else "(not in the recorded ruleset)"
        return f"{where} {f'#{step.rule}' if step.rule else unnumbered}"
    if step.type == "match":
        return f"{where} match of #{step.rule}"
    return f"{where} #{step.rule} or end" if step.type == "unknown" else f"{where} {step.type}"


def _arrows(steps: list[str], width: int | None) -> list[str]:
    """Steps with arrows between them, never broken inside."""
    lines: list[str] = []
    for step in steps:
        text = step if not lines else f"> {step}"
        if lines and (width is None or len(lines[-1]) + 1 + len(text) <= width):
            lines[-1] += f" {text}"
        else:
            lines.append(f"{_BELOW}{text}")
    return lines
