"""``info`` of several recordings: what is told of each; schemas/info-hosts-v1.schema.json has the JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.views import clocks, info
from iptrec.views.escape import printable
from iptrec.views.timestamps import LOCAL, Clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.answers.clocks import Clock as Clocks
    from iptrec.answers.nothing import Nothing
    from iptrec.answers.summary import Summary
    from iptrec.recording.hosts import Host
    from iptrec.recording.rows import Recording

FORMAT: Final = 1
_NO_CLOCKS: Final = (
    "not compared: no packet is known to have crossed with times of the kernel on both sides"
)


class Told(NamedTuple):
    """A host, its recording alone, and what is in it; ``none``: why there may be no event."""

    host: Host
    rows: Recording
    summary: Summary
    none: Nothing | None


def as_json(told: Sequence[Told], apart: Sequence[Clocks]) -> str:
    """One JSON object with its newline, ASCII only; ``apart``: how far the clocks are."""
    found = [
        {
            "host": one.host.name,
            "file": one.host.file,
            **info.as_object(one.rows, one.summary, running=one.host.running),
        }
        for one in told
    ]
    for one in found:
        del one["format"], one["size"]
    whole = {"format": FORMAT, "hosts": found, "clocks": clocks.as_objects(apart)}
    return json.dumps(whole, indent=2) + "\n"


def as_text(
    told: Sequence[Told],
    apart: Sequence[Clocks],
    clock: Clock = LOCAL,
    width: int | None = None,
) -> str:
    """Of each its host, its file, and a line for each fact (`info.as_text`); then how far clocks are apart."""
    parts = [_text(one, clock, width) for one in told]
    if len({one.host.name for one in told}) > 1:
        lines = [*clocks.as_text(apart, clock)] or [_no_clocks(told)]
        parts.append("".join(f"{line}\n" for line in ["## clocks", *lines]))
    return "\n".join(parts)


def _no_clocks(told: Sequence[Told]) -> str:
    """Why no packet crossed, as far as that is known."""
    spans = sorted(
        (one.rows.facts.started_ns, one.rows.facts.stopped_ns, one.host.name) for one in told
    )
    # Whoever overlaps another one overlaps its neighbour in the order of the starts, or one that began before.
    until, last = spans[0][1], spans[0][2]
    for begin, end, name in spans[1:]:
        if (until is None or begin <= until) and name != last:
            return _NO_CLOCKS
        if until is not None and (end is None or end > until):
            until, last = end, name
    return f"not compared: {clocks.NOT_AT_ONCE}"


def fact_rows(told: Sequence[Told], clock: Clock = LOCAL) -> list[tuple[str, str]]:
    """Each fact of each, as `info.fact_rows`; those of a host follow a row that names it."""
    return [
        row
        for one in told
        for row in [("## host", f"{one.host.name} ({one.host.file})"), *_rows(one, clock)]
    ]


def _rows(one: Told, clock: Clock) -> list[tuple[str, str]]:
    running = one.host.running
    rows = info.fact_rows(one.rows, one.summary, clock, none=one.none, running=running)
    return [row for row in rows if row[0] != "size"]


def _text(one: Told, clock: Clock, width: int | None) -> str:
    head = f"## {printable(one.host.name)}: {printable(one.host.file)}\n"
    return head + info.lines(_rows(one, clock), width)
