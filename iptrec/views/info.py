"""``info``: what is in a recording, completeness first; schemas/info-v1.schema.json has the JSON."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from iptrec.answers.select import by_its_interfaces
from iptrec.answers.summary import UNKNOWN
from iptrec.context.counters import in_words, of_routing
from iptrec.decode.rulesets.nft_json import is_whole
from iptrec.decode.snapshots import WHOLE, state
from iptrec.names import counted
from iptrec.recording.rows import left_out, lost_events
from iptrec.views import rebuilt
from iptrec.views.escape import printable
from iptrec.views.event_times import event_times
from iptrec.views.losses import NOT_CLOSED, as_line, beside, how_many, not_packed
from iptrec.views.style import wrapped
from iptrec.views.timestamps import LOCAL, Clock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iptrec.answers.nothing import Nothing
    from iptrec.answers.summary import Summary
    from iptrec.recording.rows import Recording, Snapshot, Stream
    from iptrec.rulesets.untraced import Why

FORMAT: Final = 1
_MONITOR: Final = "NET_DM"  # source of a stream of drops
_HOST: Final = "this host"
_UNNAMED: Final = "the one that iptrec ran in"
_UNTOLD: Final = "not known (the headers were not recorded whole)"
UNTRACED: Final[dict[Why, str]] = {
    "before": "packets pass it before tracing begins",
    "beside": "frames that do not come through IP pass it untraced",
    "above": "somebody put rules above iptrec's there: what they take is not traced",
}
_BUT_FOR_RULES: Final = "yes, but for rules that nobody could read"
_OF_CHOSEN: Final = "yes, of the packets that were chosen when it was packed"
_UNREAD: Final = (
    "{} met a rule that was gone before its text was read, or what may be the end of its chain"
)
_OF_THEM: Final = (
    "verdicts, protocols, in > out, talkers, drop reason, not seen and order are theirs, all else is of the"
    " whole recording"
)
_INDENT: Final = 13
_LINES: Final = 4  # of one value on a terminal; a command can be as long as it likes
_LOSSES: Final = 10
_TALKERS: Final = 4


def as_json(
    recording: Recording, summary: Summary, *, running: bool | None = False, size: int = 0
) -> str:
    """One JSON object, ASCII only; see `as_object`."""
    return json.dumps(as_object(recording, summary, running=running, size=size), indent=2)


def as_object(
    recording: Recording, summary: Summary, *, running: bool | None = False, size: int = 0
) -> dict[str, Any]:
    """All there is to tell of a recording, as values of JSON.

    ``running``: whether the recorder is still at work; None: not known. ``size``: of the file,
    in bytes, uncompressed.
    """
    facts, losses = recording.facts, recording.losses
    return {
        "format": FORMAT,
        "recording": asdict(facts),
        "size": size,
        "events": summary.events,
        "lost": summary.lost,
        "packets": summary.packets,
        **({} if summary.selected is None else {"selected": summary.selected}),
        "copies": summary.copies,
        "complete": not _flaws(recording, summary),
        "closed": facts.closed,
        "running": running,
        "incomplete": summary.incomplete,
        "ambiguous": summary.ambiguous,
        "orphans": summary.orphans,
        "unread": summary.unread,
        "untold": summary.untold,
        "verdicts": summary.verdicts,
        "protocols": summary.protocols,
        "interfaces": [
            {"in": inside, "out": outside, "packets": count}
            for (inside, outside), count in summary.interfaces.items()
        ],
        "talkers": [asdict(one) for one in summary.talkers],
        "talkers_exact": summary.talkers_exact,
        "rules": summary.rules,
        **_drop_reasons(recording, summary),
        **_senders_object(recording),
        "untraced": [one._asdict() for one in summary.untraced],
        "vanished": summary.vanished,
        "asked": summary.asked._asdict(),
        **_unordered_object(summary),
        "discards": [
            {
                "namespace": namespace,
                "counter": one.counter.name,
                "of": one.counter.of or None,
                "rose": one.by,
            }
            for namespace, rises in summary.discards.items()
            for one in rises
        ],
        "namespaces": [asdict(one) for one in recording.namespaces],
        "streams": [asdict(one) for one in recording.streams],
        "losses": [asdict(one) for one in losses],
        "snapshots": [
            {
                "id": one.id,
                "namespace": one.namespace,
                "kind": one.kind,
                "time_ns": one.time_ns,
                "source": one.source,
                "bytes": len(one.content),
                **({} if (said := state(one.content, one.media)) == WHOLE else {"state": said}),
            }
            for one in recording.snapshots()
        ],
    }


def as_text(
    recording: Recording,
    summary: Summary,
    clock: Clock = LOCAL,
    *,
    none: Nothing | None = None,
    running: bool | None = False,
    size: int = 0,
    width: int | None = None,
) -> str:
    """A line for each fact, with its newline; on a terminal of a ``width`` a few. See `fact_rows`."""
    return lines(fact_rows(recording, summary, clock, none=none, running=running, size=size), width)


def lines(told: Iterable[tuple[str, str]], width: int | None) -> str:
    """A line for each fact, or a few; see `as_text`."""
    return "".join(_row(name, value, width) for name, value in told)


def fact_rows(
    recording: Recording,
    summary: Summary,
    clock: Clock = LOCAL,
    *,
    none: Nothing | None = None,
    running: bool | None = False,
    size: int = 0,
) -> list[tuple[str, str]]:
    """Each fact, what it is called first; not made printable.

    ``none``: why there may be no event. ``running``, ``size``: see `as_json`.
    """
    facts, losses = recording.facts, lost_events(recording)
    stopped = NOT_CLOSED[running]
    if facts.closed and facts.stopped_ns is not None:
        seconds = (facts.stopped_ns - facts.started_ns) / 1e9
        stopped = f"{clock.full(facts.stopped_ns)} ({seconds:.1f} s, {facts.stop_reason})"
    flaws = _flaws(recording, summary, running)
    verdicts = (f"{count:,} {verdict}" for verdict, count in summary.verdicts.items())
    ways = {" > ".join(map(_device, pair)): n for pair, n in summary.interfaces.items()}
    talkers = [
        f"{one.packets:,} {one.src} > {one.dst} ({counted(one.bytes, 'byte')})"
        for one in summary.talkers[:_TALKERS]
    ]
    if not summary.talkers_exact:
        talkers.append("about, there were too many")
    unnamed = "not known" if rebuilt.uncounted(recording) else _UNNAMED  # it was imported
    rows = [
        ("complete", f"no: {', '.join(flaws)}" if flaws else _whole(recording)),
        ("events", f"{summary.events:,} recorded, {summary.lost:,} lost"),
        ("packets", f"{summary.packets:,}{_copies(summary)}"),
        *(("source", text) for text in (*rebuilt.sources(recording), *rebuilt.remarks(recording))),
        ("verdicts", ", ".join(verdicts) or "-"),
        ("protocols", _counted(_protocols(summary.protocols))),
        ("in > out", _counted(ways)),
        ("talkers", "; ".join(talkers) or "-"),
        ("rules", f"{summary.rules:,}"),
        ("filter", facts.filter or "-"),
        ("families", ", ".join(facts.families)),
        ("interfaces", _chosen(recording)),
        ("namespace", ", ".join(one.name or unnamed for one in recording.namespaces)),
        ("snaplen", _snaplen(recording)),
        ("started", clock.full(facts.started_ns)),
        ("stopped", stopped),
        ("size", counted(size, "byte")),
        ("host", facts.host),
        ("kernel", facts.kernel),
        ("recorded by", f"iptrec {facts.iptrec}: {shlex.join(facts.command)}"),
        ("snapshots", ", ".join(dict.fromkeys(map(_snapshot, recording.snapshots())))),
    ]
    if summary.selected is not None:
        rows.insert(3, ("selected", f"{counted(summary.selected, 'packet')}: {_OF_THEM}"))
    if none is not None:
        rows.insert(1, ("nothing", none.fact))
        rows[2:2] = [("likely", cause) for cause in none.causes]
    if summary.unread:
        rows[0] = "complete", rows[0][1] if flaws or left_out(recording) else _BUT_FOR_RULES
        rows.insert(1, ("unread", _UNREAD.format(counted(summary.unread, "packet"))))
    rows += [("drop reason", text) for text in _why_dropped(recording, summary)]
    rows += [("senders", _senders(recording, one)) for one in _of_kind(recording, "senders")]
    rows += [("not seen", text) for text in _vanished(summary)]
    rows += [("discards", text) for text in _discards(recording, summary)]
    rows += [("asked", text) for text in _asked(summary)]
    rows += [("ring", text) for text in _rings(recording)]
    rows += [("times", text) for text in (*event_times(recording), *rebuilt.times(recording))]
    if not all(is_whole(one.content) for one in recording.snapshots("nft")):
        rows.append(("nft rules", "by nft's text alone where its JSON breaks off"))
    rows += [("order", text) for text in _unordered(summary)]
    rows += [("not traced", text) for text in _untraced(summary)]
    rows += [("lost", as_line(loss, clock)) for loss in losses[:_LOSSES]]
    if len(losses) > _LOSSES:
        more = counted(len(losses) - _LOSSES, "more time")
        rows.append(("lost", f"and {more}; --json has all"))
    rows += [("left out", text) for text in not_packed(recording)]
    rows += [("lost beside", text) for text in beside(recording, clock)]
    return rows


def _chosen(recording: Recording) -> str:
    """The interfaces whose packets were recorded, and that there are others where so."""
    names = ", ".join(recording.facts.interfaces) or "all"
    if by_its_interfaces(recording):
        names += " (and all that came in elsewhere, which show leaves out without --iface any)"
    return names


def _snaplen(recording: Recording) -> str:
    """How much of each packet there is."""
    kinds = {stream.kind for stream in recording.streams}
    if any(rebuilt.sources(recording)):
        return "the headers of each packet, as the text tells them"
    if "nflog" not in kinds:
        return "the headers of each packet, as nf_tables tells them"
    text = f"{counted(recording.facts.snaplen, 'byte')} of each packet"
    return f"{text}, of nf_tables the headers alone" if "nftrace" in kinds else text


def _rings(recording: Recording) -> Iterator[str]:
    """What was kept of streams whose older events were let go."""
    for stream in recording.streams:
        if "ring_bytes" in stream.detail:
            yield f"the last {stream.detail['ring_bytes']} bytes were kept, as asked"
        if "ring_s" in stream.detail:
            yield f"the last {stream.detail['ring_s']} s were kept, as asked"


def _vanished(summary: Summary) -> Iterator[str]:
    """What became of packets after PREROUTING is not known; what the kernel counted meanwhile."""
    rises = [one for some in summary.discards.values() for one in of_routing(some)]
    meanwhile = f"; {in_words(rises)}" if rises else ""
    for after, count in summary.vanished.items():
        yield f"{counted(count, 'packet')} after {after}{meanwhile}"


def _discards(recording: Recording, summary: Summary) -> Iterator[str]:
    """The counters of discarded packets that rose, for each namespace."""
    names = {one.id: one.name or _UNNAMED for one in recording.namespaces}
    for namespace, rises in summary.discards.items():
        whose = f" ({names.get(namespace, namespace)})" if len(names) > 1 else ""
        yield f"{', '.join(map(str, rises))}{whose}"


def _unordered_object(summary: Summary) -> dict[str, Any]:
    found = [{**one._asdict(), "packets": count} for one, count in summary.unordered.items()]
    return {"unordered": found} if found else {}


def _unordered(summary: Summary) -> Iterator[str]:
    """Chains of both backends of which nobody knows which packets passed first."""
    for one, count in summary.unordered.items():
        chains = " and ".join(map(printable, one.chains))
        yield f"not known at {one.hook}, of one priority: {chains} ({counted(count, 'packet')})"


def _asked(summary: Summary) -> Iterator[str]:
    """How many questions the kernel was asked about packets' ways, and what there was no time for."""
    asked = summary.asked
    if not any(asked):
        return
    kinds = counted(asked.questions, "kind")
    text = f"the kernel about the way of {kinds} of packets"
    if asked.not_asked:
        text += f"; there was no time to ask about {asked.not_asked:,} more"
    if asked.not_looked_at:
        events = counted(asked.not_looked_at, "recorded event")
        text += f"; {events} were not searched for more to ask about"
    yield text


def _protocols(counts: dict[str, int]) -> dict[str, int]:
    return {_UNTOLD if name == UNKNOWN else name: count for name, count in counts.items()}


def _copies(summary: Summary) -> str:
    """How many packets were copied from others on their way."""
    return f", {summary.copies:,} of them copies" if summary.copies else ""


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "-"


def _why_dropped(recording: Recording, summary: Summary) -> Iterator[str]:
    """Whether it was recorded what the kernel drops behind the rules, and what that was."""
    for one in _of_kind(recording, "drops"):
        if "not_recorded" in one.detail:
            yield f"not recorded ({one.detail['not_recorded']})"
            continue
        missing = _missing(recording, one)
        words = [_whose(summary)]
        if one.detail.get("source") == _MONITOR:
            words.append("told by the host's drop monitor, of all its namespaces")
        words += [f"{counted(missing, 'record')} found no room"] if missing else []
        words += (
            [f"of {counted(summary.disagree, 'packet')} the rules tell otherwise"]
            if summary.disagree
            else []
        )
        yield "; ".join(words)


def _whose(summary: Summary) -> str:
    """Of how many packets it is known that they were dropped behind the rules, and of how many perhaps."""
    if not (summary.ends or summary.doubtful_ends):
        return "none behind the rules"
    doubtful = counted(summary.doubtful_ends, "packet") + " in doubt"
    if not summary.ends:
        return f"behind the rules: {doubtful}, 0 known"
    known = f"behind the rules: {_counted(summary.ends)}"
    return f"{known}; {doubtful}" if summary.doubtful_ends else known


def _drop_reasons(recording: Recording, summary: Summary) -> dict[str, Any]:
    """The same as JSON; nothing of recordings that do not know of it."""
    for one in _of_kind(recording, "drops"):
        missing = _missing(recording, one)
        told = {
            "recorded": "not_recorded" not in one.detail,
            "why_not": one.detail.get("not_recorded"),
        }
        return {
            "drop_reasons": {
                **told,
                "lost": missing,
                "ends": summary.ends,
                "in_doubt": summary.doubtful_ends,
                "disagree": summary.disagree,
                **({"source": _MONITOR} if one.detail.get("source") == _MONITOR else {}),
            }
        }
    return {}


def _senders(recording: Recording, stream: Stream) -> str:
    """Whether the kernel told which programs sent packets."""
    if "not_recorded" in stream.detail:
        return f"not recorded ({stream.detail['not_recorded']})"
    missing = _missing(recording, stream)
    return f"recorded; {counted(missing, 'socket')} found no room" if missing else "recorded"


def _senders_object(recording: Recording) -> dict[str, Any]:
    """The same as JSON; nothing of recordings that do not know of it."""
    for one in _of_kind(recording, "senders"):
        why_not = one.detail.get("not_recorded")
        told = {"recorded": why_not is None, "why_not": why_not, "lost": _missing(recording, one)}
        return {"senders": told}
    return {}


def _missing(recording: Recording, stream: Stream) -> int:
    """How much of a stream found no room."""
    return sum(loss.events or 0 for loss in recording.losses if loss.stream == stream.id)


def _of_kind(recording: Recording, kind: str) -> list[Stream]:
    return [one for one in recording.streams if one.kind == kind]


def _device(name: str | None) -> str:
    """Where packets came from, or went to."""
    return _HOST if name is None else name or "?"


def _untraced(summary: Summary) -> Iterator[str]:
    """Which chains packets may pass untraced."""
    for why, text in UNTRACED.items():
        chains = [f"{one.table}/{one.chain}" for one in summary.untraced if one.why == why]
        if chains:
            yield f"{', '.join(chains)}: {text}"


def _chains(count: int) -> str:
    return f"{count:,} chain{'s are' if count > 1 else ' is'}"


def _row(name: str, value: str, width: int | None) -> str:
    """Aligned, and on a terminal short where a value is as long as somebody liked."""
    return wrapped(f"{name + ':':<{_INDENT}}", printable(value), width, _LINES) + "\n"


def _snapshot(one: Snapshot) -> str:
    """Its kind, and what is missing in it."""
    said = state(one.content, one.media)
    return one.kind if said == WHOLE else f"{one.kind} ({said})"


def _flaws(recording: Recording, summary: Summary, running: bool | None = False) -> list[str]:
    """Why the recording does not tell everything; empty if it does."""
    losses = lost_events(recording)
    early = [one for one in summary.untraced if one.why == "before"]
    below = [one for one in summary.untraced if one.why == "above"]
    uncounted = rebuilt.uncounted(recording)
    return [
        text
        for text, holds in (
            (NOT_CLOSED[running].partition(":")[0], not recording.facts.closed),
            (uncounted, uncounted),
            (how_many(losses), losses),
            (f"{counted(summary.incomplete, 'trace')} incomplete", summary.incomplete),
            (f"{summary.ambiguous:,} ambiguous", summary.ambiguous),
            (
                f"{counted(summary.orphans, 'event')} {'names' if summary.orphans == 1 else 'name'} no rule",
                summary.orphans,
            ),
            (f"nf_tables told nothing of {counted(summary.untold, 'packet')}", summary.untold),
            (f"{_chains(len(early))} passed before tracing begins", early),
            (f"{_chains(len(below))} traced only below rules of others", below),
        )
        if holds
    ]


def _whole(recording: Recording) -> str:
    """Of a recording without flaws."""
    return _OF_CHOSEN if left_out(recording) else "yes"
