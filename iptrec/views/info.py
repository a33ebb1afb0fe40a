"""``info``: what is in a recording, completeness first; schemas/info-v1.schema.json has the JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from iptrec.views.escape import printable
from iptrec.views.json import iso_time

if TYPE_CHECKING:
    from iptrec.analyze.summary import Summary
    from iptrec.recording.rows import Recording

FORMAT: Final = 1


def as_json(recording: Recording, summary: Summary) -> str:
    """One JSON object, ASCII only."""
    facts = recording.facts
    return json.dumps(
        {
            "format": FORMAT,
            "recording": asdict(facts),
            "events": summary.events,
            "lost": summary.lost,
            "packets": summary.packets,
            "complete": summary.complete and facts.closed,
            "closed": facts.closed,
            "incomplete": summary.incomplete,
            "ambiguous": summary.ambiguous,
            "orphans": summary.orphans,
            "verdicts": summary.verdicts,
            "namespaces": [asdict(one) for one in recording.namespaces],
            "streams": [asdict(one) for one in recording.streams],
            "losses": [asdict(one) for one in recording.losses],
            "snapshots": [
                {
                    "id": one.id,
                    "namespace": one.namespace,
                    "kind": one.kind,
                    "time_ns": one.time_ns,
                    "source": one.source,
                    "bytes": len(one.content),
                }
                for one in recording.snapshots()
            ],
        },
        indent=2,
    )


def as_text(recording: Recording, summary: Summary) -> str:
    """A few lines for a reader, each with its newline."""
    facts = recording.facts
    stopped = "cut off: the recorder did not end cleanly"
    if facts.closed and facts.stopped_ns is not None:
        seconds = (facts.stopped_ns - facts.started_ns) / 1e9
        stopped = f"{iso_time(facts.stopped_ns)} ({seconds:.1f} s, {facts.stop_reason})"
    rows: list[tuple[str, Any]] = [
        ("complete", _completeness(summary, closed=facts.closed)),
        ("events", f"{summary.events:,} recorded, {summary.lost:,} lost"),
        ("packets", f"{summary.packets:,}"),
        (
            "verdicts",
            ", ".join(f"{n:,} {verdict}" for verdict, n in summary.verdicts.items()) or "-",
        ),
        ("filter", facts.filter or "-"),
        ("families", ", ".join(facts.families)),
        ("interfaces", ", ".join(facts.interfaces) or "all"),
        ("namespace", ", ".join(one.name or "iptrec's own" for one in recording.namespaces)),
        ("started", iso_time(facts.started_ns)),
        ("stopped", stopped),
        ("host", facts.host),
        ("kernel", facts.kernel),
        ("recorded by", f"iptrec {facts.iptrec}: {' '.join(facts.command)}"),
        ("snapshots", ", ".join(dict.fromkeys(one.kind for one in recording.snapshots()))),
    ]
    lines = [f"{name + ':':<13}{printable(str(value))}" for name, value in rows]
    for loss in recording.losses:
        count = "some" if loss.events is None else f"{loss.events:,}"
        lines.append(
            f"{'lost:':<13}{count} events between {iso_time(loss.first_ns)} and"
            f" {iso_time(loss.last_ns)} ({printable(loss.how)})"
        )
    return "\n".join(lines) + "\n"


def _completeness(summary: Summary, *, closed: bool) -> str:
    flaws = [
        text
        for text, holds in (
            ("cut off", not closed),
            (f"{summary.lost:,} events lost", summary.lost),
            (f"{summary.incomplete:,} traces incomplete", summary.incomplete),
            (f"{summary.ambiguous:,} ambiguous", summary.ambiguous),
            (f"{summary.orphans:,} events name no rule", summary.orphans),
        )
        if holds
    ]
    return f"no: {', '.join(flaws)}" if flaws else "yes"
