"""How far the clocks of several hosts are apart, in words and as JSON (schemas/info-hosts-v1.schema.json)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from iptrec.names import counted
from iptrec.views.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.answers.clock_bounds import Bounds
    from iptrec.answers.clocks import Clock
    from iptrec.views.timestamps import Clock as Times

NOT_AT_ONCE: Final = "they were not recorded at the same time"
_TOO_FEW: Final = "too few packets crossed while both were recorded"
_NOT_BY_OWN: Final = (
    "; by their own clocks, the two were not recorded at the same time when these crossed"
)
_US: Final = 1_000


def as_objects(clocks: Sequence[Clock]) -> list[dict[str, Any]]:
    """Values of JSON."""
    return [
        {
            "host": one.host,
            "of": one.of,
            "overlapping": one.overlapping,
            "by_own": one.by_own,
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
        whose, of = _name(one.host), _name(one.of)
        by = f"by {counted(one.bounds.there + one.bounds.back, 'packet')}{'' if one.by_own else _NOT_BY_OWN}"
        if one.bounds.nothing:
            why = _TOO_FEW if one.overlapping else NOT_AT_ONCE
            yield f"clock of {whose}: not compared with that of {of}: {why}"
        elif not one.bounds.contradictory:
            yield f"clock of {whose} is {_words(one.bounds, of)}, {by}"
        elif any(each.contradictory for each in one.pieces):
            yield f"clock of {whose}: not known, its times and those of {of} contradict each other, {by}"
        else:
            alike = "taken as one that does in each of"
            yield f"clock of {whose} does not run as that of {of} does, {by}; {alike}:"
            for each in one.pieces:
                yield f"  {times.span(each.from_ns, each.to_ns)}: {_words(each, of)}"


def _name(host: str) -> str:
    return printable(host) or "unknown"


def _words(bounds: Bounds, of: str) -> str:
    """How far it is ahead, or behind, and how wrong that can be; one bound where packets of one way tell it."""
    offset, within = bounds.offset_ns, bounds.within_ns
    if offset is not None and within is not None:
        told = round(offset, -3)
        return f"{_ahead(told, of)}, +- {_ms(_up(within + abs(offset - told)) or _US)}"
    most, least = bounds.at_most_ns, bounds.at_least_ns
    if most is not None:
        few = _few(bounds.back, f"went back to {of}")
        return f"{'at most' if most >= 0 else 'at least'} {_ahead(_up(most), of)} ({few})"
    assert least is not None  # noqa: S101 - one side is known
    few = _few(bounds.there, f"came from {of}")
    return f"{'at least' if least >= 0 else 'at most'} {_ahead(-_up(-least), of)} ({few})"


def _few(count: int, what: str) -> str:
    return f"only {counted(count, 'packet')} {what}" if count else f"no packet {what}"


def _ahead(offset_ns: int, of: str) -> str:
    return f"{_ms(abs(offset_ns))} {'behind' if offset_ns < 0 else 'ahead of'} {of}"


def _up(time_ns: int) -> int:
    """To the next microsecond."""
    return -(-time_ns // _US) * _US


def _ms(time_ns: int) -> str:
    """To the microsecond, as exact as stamps are."""
    return f"{time_ns / 1e6:,.3f} ms"
