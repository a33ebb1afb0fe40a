"""How far the clocks of several hosts are apart, in words and as JSON (schemas/info-hosts-v1.schema.json)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iptrec.names import counted
from iptrec.views.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.answers.clocks import Bounds, Clock
    from iptrec.views.timestamps import Clock as Times


def as_objects(clocks: Sequence[Clock]) -> list[dict[str, Any]]:
    """Values of JSON."""
    return [
        {
            "host": one.host,
            "of": one.of,
            **_as_object(one.bounds),
            **({"pieces": [_as_object(each) for each in one.pieces]} if one.pieces else {}),
        }
        for one in clocks
    ]


def _as_object(bounds: Bounds) -> dict[str, Any]:
    return {
        "offset_ns": bounds.offset_ns,
        "within_ns": bounds.within_ns,
        **bounds._asdict(),
    }


def as_text(clocks: Sequence[Clock], times: Times) -> Iterator[str]:
    """A line for each pair of hosts, and for each piece; without their newlines."""
    for one in clocks:
        whose, of = printable(one.host), printable(one.of)
        by = f"by {counted(one.bounds.there + one.bounds.back, 'packet')}"
        if not one.pieces:
            yield f"clock of {whose} is {_words(one.bounds, of)}, {by}"
            continue
        if any(each.contradictory for each in one.pieces):
            yield f"clock of {whose}: not known, its times and those of {of} contradict each other, {by}"
            continue
        yield f"clock of {whose} does not run as that of {of} does, {by}; taken as one that does in each of:"
        for each in one.pieces:
            yield f"  {times.span(each.from_ns, each.to_ns)}: {_words(each, of)}"


def _words(bounds: Bounds, of: str) -> str:
    """How far it is ahead, or behind, and how wrong that can be; one bound where packets went one way alone."""
    offset, within = bounds.offset_ns, bounds.within_ns
    if offset is not None and within is not None:
        return f"{_ahead(offset, of)}, +- {_ms(within)}"
    if bounds.at_most_ns is not None:
        return f"at most {_ms(bounds.at_most_ns)} ahead of {of} (no packet went back to {of})"
    return f"at least {_ms(bounds.at_least_ns or 0)} ahead of {of} (no packet came from {of})"


def _ahead(offset_ns: int, of: str) -> str:
    return f"{_ms(abs(offset_ns))} {'behind' if offset_ns < 0 else 'ahead of'} {of}"


def _ms(time_ns: int) -> str:
    """To the microsecond, as exact as stamps are."""
    return f"{time_ns / 1e6:,.3f} ms"
