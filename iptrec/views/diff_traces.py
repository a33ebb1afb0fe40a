"""``iptrec diff --traces``: flows whose fate changed, paths that only one of two recordings has."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from iptrec.names import counted
from iptrec.packets.ends import DISCARDED
from iptrec.packets.model import LOST
from iptrec.views import paths
from iptrec.views.escape import printable
from iptrec.views.packet_json import as_place
from iptrec.views.style import styled, wrapped
from iptrec.views.text import MARK, place_of
from iptrec.views.title import flow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.answers.diff_traces import (
        Change,
        Ended,
        FlowChange,
        FlowSide,
        PathChange,
        TraceDifferences,
    )
    from iptrec.views.timestamps import Clock

FORMAT: Final = 2
_MOST_ENDS: Final = 4  # of one flow that are told
_MARGIN: Final = " " * (len(MARK) + 1)
_BELOW: Final = _MARGIN * 2
_BOLD, _RED = "1", "31"
_CHANGES: Final[dict[Change, str]] = {
    "changed": "{} whose fate changed",
    "perhaps": "{} whose fate may have changed: not all packets were seen whole",
    "unknown": "{} of which no packet of one recording was seen whole",
}
_CHANGED: Final[dict[Change, str]] = {"changed": " changed", "perhaps": " may have changed"}
_PATHS: Final = {"now": "new path", "before": "vanished path"}
_FLOW: Final = ("proto", "src", "sport", "dst", "dport", "type", "code", "ethertype")


def as_json(found: TraceDifferences, names: Sequence[str], limit: int | None) -> Iterator[str]:
    """One JSON object a line, ASCII only, the last one sums up; see schemas/diff-traces-v2.schema.json.

    ``names``: of both recordings. ``limit``: flows and paths of each kind, at most.
    """
    for change in _CHANGES:
        for one in found.flows(change, limit):
            yield _line(_flow(one))
    for path in _paths(found, limit):
        yield _line({"differs": "path", "only_in": path.only, **paths.as_object(path.path)})
    yield _line(_summary(found, names))


def as_text(
    found: TraceDifferences,
    names: Sequence[str],
    limit: int | None,
    clock: Clock,
    width: int | None,
    *,
    colour: bool,
) -> Iterator[str]:
    """Lines without their newlines. ``width``: of the terminal, see `style.wrapped`; others as of `as_json`."""
    for change, title in _CHANGES.items():
        if count := found.count(change):
            yield styled(f"{title.format(counted(count, 'flow'))}:", _BOLD, colour=colour)
            for one in found.flows(change, limit):
                yield from _flow_lines(one, width, colour=colour)
            yield from _more(count, "flow", limit)
    for only, name in zip(("now", "before"), reversed(names), strict=True):
        mine = [one.path for one in found.paths if one.only == only]
        if mine:
            title = f"{counted(len(mine), _PATHS[only])}, only in {printable(name)}:"
            yield styled(title, _BOLD, colour=colour)
            yield from (paths.as_text(one, clock, width).rstrip("\n") for one in mine[:limit])
            yield from _more(len(mine), "path", limit)
    yield from _closing(found)


def _paths(found: TraceDifferences, limit: int | None) -> Iterator[PathChange]:
    for only in ("now", "before"):
        yield from islice((one for one in found.paths if one.only == only), limit)


def _line(told: dict[str, Any]) -> str:
    return json.dumps({"format": FORMAT, **told}, separators=(",", ":"))


def _flow(one: FlowChange) -> dict[str, Any]:
    return {
        "differs": "flow",
        "change": one.change,
        "family": one.flow.family,
        "sent": one.flow.sent,
        "flow": {name: one.flow.header.get(name) for name in _FLOW},
        "before": _side(one.before),
        "now": _side(one.now),
    }


def _side(side: FlowSide) -> dict[str, Any]:
    return {
        "verdicts": side.verdicts,
        "unsure": side.unsure,
        "ended": [one._asdict() | {"decided_by": as_place(one.decided_by)} for one in side.ended],
    }


def _summary(found: TraceDifferences, names: Sequence[str]) -> dict[str, Any]:
    sides = zip(("before", "now"), names, found.only, found.uncompared, found.beyond, strict=True)
    return {
        "differs": "summary",
        "flows": {change: found.count(change) for change in (*_CHANGES, "same")},
        "paths": len(found.paths),
        **{
            side: {
                "recording": name,
                "flows_only": only,
                "uncompared": uncompared,
                "beyond": beyond,
            }
            for side, name, only, uncompared, beyond in sides
        },
    }


def _flow_lines(one: FlowChange, width: int | None, *, colour: bool) -> Iterator[str]:
    """What changed, and below it what is known of either side."""
    lost = any(verdict in LOST for verdict in one.now.verdicts)
    margin = f"{MARK} " if lost else _MARGIN
    decider = one.decider
    by = f", by {_decided(decider)}" if decider and decider.decided_by else ""
    fates = f"{_verdicts(one.before)} before, {_verdicts(one.now)} now"
    title = wrapped(margin, f"{_called(one)}: {fates}{by}", width)
    yield title.replace(MARK, styled(MARK, _RED, colour=colour), 1) if lost else title
    for name, side, told in (("before", one.before, None), ("now", one.now, decider)):
        yield from (wrapped(_BELOW, f"{name}: {text}", width) for text in _side_lines(side, told))


def _called(one: FlowChange) -> str:
    """The flow: tcp 10.0.0.1 > 10.0.0.2:443; with the message of ICMP, and out where this host sends it."""
    header = one.flow.header
    words = [flow(one.flow), *([printable(header["name"])] if "name" in header else [])]
    return " ".join([*words, *(["out"] if one.flow.sent else [])])


def _verdicts(side: FlowSide) -> str:
    """DROP, or where there are several 7 DROP and 3 ACCEPT."""
    if not side.ended:
        return "not known"
    if len(side.verdicts) == 1:
        return printable(next(iter(side.verdicts)))
    return " and ".join(f"{count:,} {printable(one)}" for one, count in side.verdicts.items())


def _side_lines(side: FlowSide, told: Ended | None) -> Iterator[str]:
    """How many packets, and who decided where that was not ``told`` yet."""
    for one in side.ended[:_MOST_ENDS]:
        fate = "" if one == told else f": {printable(one.verdict)} by {_decided(one)}"
        yield f"{counted(one.packets, 'packet')}, first #{one.first}{fate}"
    if rest := side.ended[_MOST_ENDS:]:
        yield f"{counted(sum(one.packets for one in rest), 'more packet')}, decided elsewhere"
    if side.unsure:
        yield f"{counted(side.unsure, 'packet')} not seen whole"


def _decided(one: Ended) -> str:
    if one.decided_by is None:
        return "the kernel" if one.verdict == DISCARDED else "?"
    return place_of(one.decided_by) + (f": {printable(one.spec)}" if one.spec else "")


def _more(count: int, noun: str, limit: int | None) -> Iterator[str]:
    if limit is not None and count > limit:
        yield f"{_MARGIN}... and {counted(count - limit, f'more {noun}')} (--limit)"


def _closing(found: TraceDifferences) -> Iterator[str]:
    """What was compared, and what was not."""
    counts = [(found.count(change), "flow", what) for change, what in _CHANGED.items()]
    counts += [
        (sum(one.only == only for one in found.paths), noun, "") for only, noun in _PATHS.items()
    ]
    parts = [f"{counted(count, noun)}{what}" for count, noun, what in counts if count]
    nothing = "nothing is known to differ" if found.count("unknown") else "nothing differs"
    alike = f"{counted(found.same, 'flow')} fared alike"
    alone = _each(found.only, "flow", "only ")
    yield f"{', '.join(parts) or nothing}; {', '.join([alike, *alone])}"
    for packets, why in (
        (found.uncompared, "not seen whole, or rules whose texts are not known"),
        (found.beyond, "of unknown flows, or of more flows than are compared"),
    ):
        if told := _each(packets, "packet"):
            yield f"not compared: {', '.join(told)} ({why})"


def _each(counts: Sequence[int | None], noun: str, only: str = "") -> list[str]:
    """How many there were before and are now: 2 flows only before; nothing where there are none."""
    words = zip(counts, ("before", "now"), strict=True)
    return [f"{counted(count, noun)} {only}{word}" for count, word in words if count]
