"""``export ndjson`` and ``show --json`` for many packets: one template for each shape, filled from columns.

`json.line` says what a line is. Of each shape it renders one packet, with marks in the places of what
differs between the packets; the marked line is the template for all of them.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.views import packet_json as as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from iptrec.answers.lookalikes import Shape
    from iptrec.answers.packets import Batch
    from iptrec.names import I64
    from iptrec.packets.model import Traversal

    Place = tuple[str | int, ...]  # keys into the JSON object

_AT_ONCE: Final = 200  # lines: what stays in the processor's cache
_SECOND: Final = 1_000_000_000
# U+E000 is nobody's: a packet in whose line it stands for itself is rendered as any odd packet is.
_MARK: Final = "\ue000"
_MARKED: Final = re.compile(r'"\\ue000([0-9]+)\\ue000"')


def text(batch: Batch) -> Iterator[str]:
    """The lines of a batch's packets, in order, each with its newline; some hundred at a time."""
    found: list[str | None] = [None] * len(batch.positions)
    for shape in batch.shapes():
        at = np.searchsorted(batch.positions, shape.positions)
        filled = _filled(shape, batch.traversal(int(shape.positions[0])))
        for number, line in zip(at.tolist(), filled, strict=False):
            found[number] = line
    lines = (
        as_json.line(batch.traversal(position)) if line is None else line
        for position, line in zip(batch.positions.tolist(), found, strict=True)
    )
    while some := list(itertools.islice(lines, _AT_ONCE)):
        yield "\n".join([*some, ""])


def _filled(shape: Shape, model: Traversal) -> Iterable[str]:
    """The lines of a shape's packets; none where its first packet will not do as a model."""
    return filled(as_json.as_object(model), _columns(shape), as_json.dumped)


def filled(
    model: dict[str, Any],
    values: Iterable[tuple[Place, list[Any]]],
    dumped: Callable[[dict[str, Any]], str],
) -> Iterable[str]:
    """A JSON object many times, with other values in some places; none where it has our mark in it."""
    line = dumped(model)
    if _MARK.encode("unicode_escape").decode() in line:
        return ()
    marked = json.loads(line)
    columns: list[list[Any]] = []
    holes: list[str] = []
    for place, column in values:
        here = marked
        for key in place[:-1]:
            here = here[key]
        # Texts are addresses and the like, in which nothing is to be escaped, or digits of a number.
        text = isinstance(column[0], str)
        holes.append('"%s"' if isinstance(here[place[-1]], str) else "%s" if text else "%d")
        here[place[-1]] = f"{_MARK}{len(columns)}{_MARK}"
        columns.append(column)
    template = dumped(marked).replace("%", "%%")
    order = [int(number) for number in _MARKED.findall(template)]
    template = _MARKED.sub(lambda mark: holes[int(mark[1])], template)
    return map(template.__mod__, zip(*(columns[number] for number in order), strict=True))


def _columns(shape: Shape) -> Iterator[tuple[Place, list[Any]]]:
    """Where a line has what differs between the packets of a shape, and what that is."""
    before = shape.steps[0].time_ns
    digits, iso = times(before)
    yield ("packet",), shape.number.tolist()
    yield ("time",), iso
    yield ("time_ns",), digits
    for name, values in shape.link.items():
        yield ("link", name), values
    for name, values in shape.header.items():
        yield ("header", name), values
    if shape.ended_ns.any():
        yield ("end", "time_ns"), shape.ended_ns.tolist()
    for number, packets in enumerate(shape.related.values()):
        yield ("related", number, "packet"), packets.tolist()
    for number, step in enumerate(shape.steps):
        # Most steps have the time of the step before, which is text already.
        differ = np.flatnonzero(step.time_ns != before)
        if len(differ):
            digits = list(digits)
            for at, time_ns in zip(differ.tolist(), step.time_ns[differ].tolist(), strict=True):
                digits[at] = str(time_ns)
            before = step.time_ns
        yield ("steps", number, "time_ns"), digits
        if step.ct_id is not None:
            yield ("steps", number, "ct", "id"), step.ct_id
        for name, (old, new) in step.changed.items():
            yield ("steps", number, "changed", name, 0), old
            yield ("steps", number, "changed", name, 1), new


def times(time_ns: I64) -> tuple[list[str], list[str]]:
    """Times as numbers and as `json.iso_time`; packets that were received together have the same."""
    starts = np.flatnonzero(np.diff(time_ns, prepend=time_ns[0] - 1))
    sizes = np.diff(starts, append=len(time_ns))
    digits, iso = [], []
    second, prefix = -1, ""
    for one in time_ns[starts].tolist():
        digits.append(str(one))
        if one // _SECOND != second or not prefix:
            second = one // _SECOND
            prefix, point, _ = as_json.iso_time(second * _SECOND).partition(".")
            prefix += point
        iso.append(f"{prefix}{one % _SECOND:09d}Z" if prefix else as_json.iso_time(one))
    return (
        np.repeat(np.array(digits, object), sizes).tolist(),
        np.repeat(np.array(iso, object), sizes).tolist(),
    )
