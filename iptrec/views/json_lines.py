"""``export ndjson`` and ``show --json`` for many packets: one template for each shape, filled from columns.

`json.line` says what a line is. Of each shape it renders one packet, with marks in the places of what
differs between the packets; the marked line is the template for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from iptrec.views import packet_json as as_json
from iptrec.views.cells import Times
from iptrec.views.templates import Template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from iptrec.answers.lookalikes import Shape
    from iptrec.answers.packets import Batch
    from iptrec.names import I64
    from iptrec.views.templates import Lines, Place, Values

_AT_ONCE: Final = 1024  # lines: they are still in the cache when they are written
_MOST_SHAPES: Final = 16  # of a batch: those with so few packets of it are not worth numpy's calls


def text(batch: Batch) -> Iterator[str]:
    """As `lines`."""
    return (str(some, "ascii") for some in lines(batch))


def lines(batch: Batch) -> Iterator[bytes | memoryview]:
    """The lines of a batch's packets, in order, each with its newline; some thousand at a time."""

    def alone(place: int) -> str:
        return as_json.line(batch.traversal(int(batch.positions[place]))) + "\n"

    return merged(len(batch.positions), _templates(batch), alone)


def _templates(batch: Batch) -> Iterator[tuple[I64, Template]]:
    for shape in batch.shapes():
        model = as_json.as_object(batch.traversal(int(shape.positions[0])))
        template = Template.of(model, _columns(shape), dumped)
        if template is not None:
            yield np.searchsorted(batch.positions, shape.positions), template


def merged(
    count: int, templates: Iterable[tuple[I64, Template]], alone: Callable[[int], str]
) -> Iterator[bytes | memoryview]:
    """Lines in order, some thousand at a time. ``templates``: places, ascending, and their lines.

    ``alone``: makes the line, with its newline, of a place that is in none of them.
    """
    found: list[str | None] = [None] * count
    many: list[_Many] = []
    done = np.zeros(count, np.bool_)
    for at, template in templates:
        if len(at) * _MOST_SHAPES >= count:
            many.append(_Many(at, some := template.lines(len(at)), some.sizes))
            done[at] = True
            continue
        for number, line in zip(at.tolist(), template.texts(), strict=True):
            found[number] = line
    for first in range(0, count, _AT_ONCE):
        here = slice(first, first + _AT_ONCE)
        single = {
            at: (found[at] or alone(at)).encode()
            for at in (np.flatnonzero(~done[here]) + first).tolist()
        }
        yield _joined(first, len(found[here]), single, many)


class _Many(NamedTuple):
    """Lines of a shape. ``at``: their places in the batch, ascending; ``sizes``: bytes of each."""

    at: I64
    lines: Lines
    sizes: I64


def _joined(
    first: int, count: int, single: dict[int, bytes], many: list[_Many]
) -> bytes | memoryview:
    """Lines of a batch, from the ``first`` on, ``count`` of them, in order."""
    if len(single) == count:
        return b"".join(single.values())
    sizes = np.zeros(count, np.int64)
    parts = []
    for one in many:
        low, high = np.searchsorted(one.at, (first, first + count)).tolist()
        if low < high:
            here = one.at[low:high] - first
            sizes[here] = one.sizes[low:high]
            parts.append((here, one.lines, low))
    for place, line in single.items():
        sizes[place - first] = len(line)
    starts = np.cumsum(sizes) - sizes
    buffer = np.empty(int(sizes.sum()), np.uint8)
    for here, some, low in parts:
        some.write(buffer, starts[here], low)
    memory = buffer.data
    for place, line in single.items():
        start = int(starts[place - first])
        memory[start : start + len(line)] = line
    return memory


def dumped(value: dict[str, Any]) -> str:
    """A JSON object on a line, with its newline."""
    return as_json.dumped(value) + "\n"


def _columns(shape: Shape) -> Iterator[tuple[Place, Values]]:
    """Where a line has what differs between the packets of a shape, and what that is."""
    before = shape.steps[0].time_ns
    yield ("packet",), shape.number
    yield ("time",), Times(before)
    yield ("time_ns",), before
    for name, values in shape.link.items():
        yield ("link", name), values
    for name, column in shape.header.items():
        yield ("header", name), column
    if shape.ended_ns.any():
        yield ("end", "time_ns"), shape.ended_ns
    for number, packets in enumerate(shape.related.values()):
        yield ("related", number, "packet"), packets
    for number, step in enumerate(shape.steps):
        # Most steps have the time of the step before, whose digits will do.
        if not np.array_equal(step.time_ns, before):
            before = step.time_ns
        yield ("steps", number, "time_ns"), before
        if step.ct_id is not None:
            yield ("steps", number, "ct", "id"), step.ct_id
        for name, (old, new) in step.changed.items():
            yield ("steps", number, "changed", name, 0), old
            yield ("steps", number, "changed", name, 1), new
