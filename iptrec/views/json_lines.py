"""``export ndjson`` and ``show --json`` for many packets: one template for each shape, filled from columns.

`json.line` says what a line is. Of each shape it renders one packet, with marks in the places of what
differs between the packets; the marked line is the template for all of them.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from iptrec.views import json as as_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import numpy.typing as npt

    from iptrec.analyze.replay import Batch
    from iptrec.analyze.shapes import Shape
    from iptrec.analyze.traversal import Traversal

    I64 = npt.NDArray[np.int64]
    Place = tuple[str | int, ...]  # keys into the JSON object

# U+E000 is nobody's: a packet in whose line it stands for itself is rendered as any odd packet is.
_MARK: Final = "\ue000"
_MARKED: Final = re.compile(r'"\\ue000([0-9]+)\\ue000"')


def lines(batch: Batch) -> list[str]:
    """A line for each packet of a batch, in order, without its newline."""
    at = {position: number for number, position in enumerate(batch.positions.tolist())}
    found = [""] * len(at)
    for shape in batch.shapes():
        positions = shape.positions.tolist()
        for position, line in zip(
            positions, _filled(shape, batch.traversal(positions[0])), strict=False
        ):
            found[at.pop(position)] = line
    for position, number in at.items():
        found[number] = as_json.line(batch.traversal(position))
    return found


def _filled(shape: Shape, model: Traversal) -> Iterable[str]:
    """The lines of a shape's packets; none where its first packet will not do as a model."""
    line = as_json.line(model)
    if _MARK.encode("unicode_escape").decode() in line:
        return ()
    marked = json.loads(line)
    columns: list[list[Any]] = []
    texts: list[bool] = []
    for place, values in _columns(shape):
        here = marked
        for key in place[:-1]:
            here = here[key]
        here[place[-1]] = f"{_MARK}{len(columns)}{_MARK}"
        columns.append(values)
        texts.append(isinstance(values[0], str))
    order: list[int] = []

    def hole(mark: re.Match[str]) -> str:
        order.append(number := int(mark[1]))
        # Texts are addresses and the like: nothing in them is to be escaped.
        return '"%s"' if texts[number] else "%s"

    template = _MARKED.sub(hole, as_json.dumped(marked).replace("%", "%%"))
    return map(template.__mod__, zip(*(columns[number] for number in order), strict=True))


def _columns(shape: Shape) -> Iterator[tuple[Place, list[Any]]]:
    """Where a line has what differs between the packets of a shape, and what that is."""
    first = shape.steps[0].time_ns
    yield ("packet",), shape.number.tolist()
    yield ("time",), _iso_times(first)
    yield ("time_ns",), first.tolist()
    for name, values in shape.link.items():
        yield ("link", name), values
    for name, values in shape.header.items():
        yield ("header", name), values
    for number, packets in enumerate(shape.related.values()):
        yield ("related", number, "packet"), packets.tolist()
    for number, step in enumerate(shape.steps):
        yield ("steps", number, "time_ns"), step.time_ns.tolist()
        for name, (before, now) in step.changed.items():
            yield ("steps", number, "changed", name, 0), before
            yield ("steps", number, "changed", name, 1), now


def _iso_times(time_ns: I64) -> list[str]:
    """As `json.iso_time`."""
    return [as_json.iso_time(one) for one in time_ns.tolist()]
