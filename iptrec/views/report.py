"""``iptrec report``: one HTML page with the answers of all commands, in bounded space whatever the recording.

The page holds them as JSON, which its own script puts there as text. Nothing of a recording becomes markup,
style or script, and the page may load nothing (Content-Security-Policy, by hash).
"""

from __future__ import annotations

import base64
import hashlib
import html
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.answers.path_counts import ORDERS, PathCounter
from iptrec.answers.why import Explainer
from iptrec.packets.model import LOST, decided_at
from iptrec.recording.hosts import hosts
from iptrec.version import __version__
from iptrec.views import hosts as several
from iptrec.views.diff import as_text as differences_as_text
from iptrec.views.info import UNTRACED, fact_rows
from iptrec.views.losses import as_line, beside, not_packed
from iptrec.views.paths import end_line, ending
from iptrec.views.report_map import Map, rulesets, way
from iptrec.views.report_packets import Chosen
from iptrec.views.report_text import FIRST, between, ends, fitting, packed, place, safe
from iptrec.views.report_times import Times
from iptrec.views.text import NOT_RECORDED, Layout
from iptrec.views.timestamps import LOCAL, Clock
from iptrec.views.title import flow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from iptrec.answers.diff import Difference
    from iptrec.answers.nothing import Nothing
    from iptrec.answers.packets import Batch, Packets
    from iptrec.answers.path_counts import Count, PathCount
    from iptrec.answers.paths import PathStep
    from iptrec.answers.rules import RuleCount, TableCount
    from iptrec.answers.summary import Summary
    from iptrec.decode.rulesets.types import Ruleset
    from iptrec.names import Family
    from iptrec.packets.outcome import Outcome
    from iptrec.recording.rows import Recording
    from iptrec.views.hosts import Told
    from iptrec.views.report_map import Way

    Rulesets = Mapping[Family, Ruleset]

FORMAT: Final = 1
# Of a section, in bytes; together with the packets (`report_packets`) and the page less than 5 MB.
_FACTS, _PATHS, _RULES, _CHAINS, _CHANGES, _LOSSES, _DOUBTS, _UNTRACED, _MAP = (
    60_000, 700_000, 800_000, 300_000, 150_000, 60_000, 60_000, 60_000, 200_000,
)  # fmt: skip
_REASONS: Final = 200


@dataclass(frozen=True, slots=True)
class Answers:
    """What a report is made of. ``rules``: all of them, with hits of the ``packets`` that are reported.

    ``before``, ``after``: the rules in the beginning and in the end; ``differences`` between them, and the
    packets that hit each (``hits``). ``selected``: the selection in words, ""
    for all packets. ``none``, ``running``, ``size``: see `info.fact_rows`. ``hosts``: what is told of each of
    several recordings.
    """

    name: str
    recording: Recording
    summary: Summary
    rules: Sequence[TableCount]
    packets: Packets
    before: Rulesets
    after: Rulesets
    differences: Sequence[Difference] = ()
    hits: Mapping[int, list[int]] | None = None
    selected: str = ""
    none: Nothing | None = None
    running: bool | None = False
    size: int = 0
    clock: Clock = LOCAL
    hosts: Sequence[Told] = ()


def page(answers: Answers) -> str:
    """The whole file. Goes through the packets once."""
    parts = files("iptrec") / "report"
    frame, style, script = (
        (parts / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
    )
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(script)}",
            f"style-src {_hash(style)}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )
    found = {
        "policy": policy,
        "title": html.escape(safe(answers.name)),
        "style": style,
        "script": script,
        "data": packed(as_object(answers)),
    }
    pieces = frame.split("@@")
    return "".join(one if at % 2 == 0 else found[one] for at, one in enumerate(pieces))


def _hash(text: str) -> str:
    """Of what stands between two tags, as Content-Security-Policy has it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def as_object(answers: Answers) -> dict[str, Any]:
    """All that the page shows, as values of JSON. Texts are printable."""
    gathered = _gathered(answers)
    day = answers.clock.day(answers.recording.facts.started_ns)
    counts = sorted(gathered.counter.counts(answers.packets.book), key=ORDERS["verdict"])
    drawn = Map(gathered.ways, counts, rulesets(answers.rules, [answers.before, answers.after]))
    paths = fitting((_path(one, gathered, drawn, answers.clock, day) for one in counts), _PATHS)
    told = {one["number"] for one in paths}
    packets = [one for one in gathered.chosen.packets() if one["path"] in told]
    chains, rules_left = _rules(answers.rules)
    facts = several.fact_rows(answers.hosts, answers.clock) or fact_rows(
        answers.recording, answers.summary, answers.clock,
        none=answers.none, running=answers.running, size=answers.size,
    )  # fmt: skip
    found = safe(
        {
            "format": FORMAT,
            "iptrec": __version__,
            "name": answers.name,
            "selected": answers.selected,
            "day": day,
            "facts": fitting(safe(facts), _FACTS),
            "verdicts": gathered.verdicts,
            "times": gathered.times.as_object(answers.clock),
            "map": _drawn(drawn),
            "paths": paths,
            "packets": packets,
            "chains": chains,
            "changes": _changes(answers),
            "losses": _losses(answers),
            "doubts": gathered.doubtful(),
            "untraced": fitting(map(safe, _untraced(answers.summary)), _UNTRACED),
            "left_out": {
                "paths": len(counts) - len(paths),
                "packets": answers.packets.count - len(packets),
                **rules_left,
            },
            "all": {"paths": len(counts), "packets": answers.packets.count},
        }
    )
    lines = {str(number): text for number, text in gathered.chosen.lines().items()}
    return {**found, "lines": lines}


class _Gathered:
    """What one pass through the packets finds."""

    def __init__(self, answers: Answers) -> None:
        self.counter = PathCounter()
        self.times = Times()
        self.chosen = Chosen(Explainer(answers.recording), Layout(clock=answers.clock))
        self.ways: dict[int, Way] = {}
        self.verdicts: dict[str, int] = {}
        self._doubts: dict[tuple[str, str, bool], list[int]] = {}

    def add(self, batch: Batch) -> None:
        """The packets of a batch that are selected."""
        self.counter.add(batch)
        self.times.add(batch)
        self.chosen.add(batch)
        window, positions = batch.window, batch.positions
        assembly = window.assembly
        paths, first = np.unique(batch.paths[positions], return_index=True)
        for number, at in zip(paths.tolist(), positions[first].tolist(), strict=True):
            if number not in self.ways:
                outcome = assembly.outcomes[assembly.outcome[at]]
                self.ways[number] = way(window, outcome.path)
        found = np.unique(assembly.outcome[positions], return_index=True, return_counts=True)
        for number, at, packets in zip(*(one.tolist() for one in found), strict=True):
            outcome = assembly.outcomes[number]
            self.verdicts[outcome.verdict] = self.verdicts.get(outcome.verdict, 0) + packets
            if outcome.reason or outcome.doubt:
                self._doubt(outcome, packets, window.number + int(positions[at]))

    def _doubt(self, outcome: Outcome, packets: int, first: int) -> None:
        why = "; ".join(filter(None, (outcome.reason, outcome.doubt)))
        key = why, outcome.verdict, outcome.doubt is not None
        if key in self._doubts or len(self._doubts) < _REASONS:
            self._doubts.setdefault(key, [0, first])[0] += packets

    def doubtful(self) -> list[dict[str, Any]]:
        """Why packets are incomplete or ambiguous, of how many, and the first one of them."""
        found = [
            {
                "why": why,
                "verdict": verdict,
                "ambiguous": ambiguous,
                "packets": packets,
                "first": first,
            }
            for (why, verdict, ambiguous), (packets, first) in self._doubts.items()
        ]
        return fitting(safe(sorted(found, key=lambda one: -one["packets"])), _DOUBTS)


def _gathered(answers: Answers) -> _Gathered:
    found = _Gathered(answers)
    for batch in answers.packets.batches(paths=True):
        found.add(batch)
    return found


def _path(
    one: PathCount, gathered: _Gathered, drawn: Map, clock: Clock, day: str
) -> dict[str, Any]:
    path, count = one.path, one.count
    decider = decided_at(path.decided_by, path.steps)
    where = gathered.ways[one.number].steps
    how = ending(path)
    left = between(path.steps)
    return safe(
        {
            "number": one.number,
            "packets": count.packets,
            "bytes": count.bytes,
            "times": _span(count, clock, day),
            "example": count.example,
            "flow": flow(one.first),
            "family": path.family,
            "netns": "/".join(filter(None, [path.host, path.netns])),
            "verdict": path.verdict,
            "lost": path.verdict in LOST,
            "how": how,
            "end": " ".join(end_line(one.end, how)),
            "complete": path.complete,
            "ambiguous": path.ambiguous,
            "decider": None if decider is None else place(decider, path.steps),
            "gap": [FIRST, left] if left else None,
            "steps": [
                {**_step(step), "station": drawn.numbers[at]}
                for step, at in zip(ends(path.steps), ends(where), strict=True)
            ],
        }
    )


def _span(count: Count, clock: Clock, day: str) -> str:
    """From the first to the last of some packets, without the day on which recording began."""
    first, last = (clock.on(day, time_ns) for time_ns in (count.first_ns, count.last_ns))
    return first if first == last else f"{first} to {last}"


def _step(step: PathStep) -> dict[str, Any]:
    """What a packet met, in words."""
    what = step.type if step.type in ("policy", "return") else f"#{step.rule or '-'}"
    text = step.spec
    if text is None and step.type in ("rule", "match", "unknown"):
        text = "(not in the recorded ruleset)" if step.rule is None else NOT_RECORDED
    return {
        "table": step.table,
        "chain": step.chain,
        "what": what,
        "type": step.type,
        "rule": step.rule,
        "text": text or "",
        "target": step.target or "",
    }


def _drawn(drawn: Map) -> dict[str, Any]:
    found = drawn.as_object()
    return {**found, "stations": fitting(safe(found["stations"]), _MAP)}


def _rules(tables: Sequence[TableCount]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The chains with their rules; where there is no room for all, those that were hit come first."""
    every = [
        (at, order, one)
        for at, (_, _, (_, rules)) in enumerate(_chains(tables))
        for order, one in enumerate(rules)
    ]
    first = sorted(every, key=lambda told: (not told[2].count.packets, told[:2]))
    kept = fitting((_rule(*one) for one in first), _RULES)
    of: dict[int, list[dict[str, Any]]] = {}
    for one in kept:
        of.setdefault(one["at"], []).append(one)
    heads = [_head(at, *told) for at, told in enumerate(_chains(tables))]
    heads.sort(key=lambda one: (one["at"] not in of, not one["end"]["packets"], one["at"]))
    found = sorted(fitting(heads, _CHAINS), key=lambda one: int(one["at"]))
    for one in found:
        one["rules"] = sorted(of.get(one["at"], ()), key=lambda rule: rule["order"])
        one["left_out"] -= len(one["rules"])
    left = len(every) - sum(len(one["rules"]) for one in found)
    return found, {"rules": left, "chains": len(heads) - len(found)}


def _head(
    at: int, table: TableCount, name: str, told: tuple[str | None, list[RuleCount]]
) -> dict[str, Any]:
    """A chain without its rules, all of which are left out as yet."""
    policy, rules = told
    return safe(
        {
            "at": at,
            "family": table.family,
            "table": table.table if table.host is None else f"{table.host}: {table.table}",
            "chain": name,
            "policy": policy,
            "end": _counts(table.policies[name]),
            "unsure": table.unsure[name].packets if name in table.unsure else 0,
            "untraced": UNTRACED[table.untraced[name]] if name in table.untraced else "",
            "left_out": len(rules),
        }
    )


def _untraced(summary: Summary) -> Iterator[str]:
    return (f"{one.table}/{one.chain}: {UNTRACED[one.why]}" for one in summary.untraced)


def _chains(
    tables: Sequence[TableCount],
) -> Iterator[tuple[TableCount, str, tuple[str | None, list[RuleCount]]]]:
    return ((table, name, told) for table in tables for name, told in table.chains.items())


def _rule(at: int, order: int, one: RuleCount) -> dict[str, Any]:
    spec = "" if one.rule is None else one.rule.spec if one.rule.listed else NOT_RECORDED
    return safe(
        {
            "at": at,
            "order": order,
            "number": one.number,
            "spec": spec,
            "unreachable": one.unreachable,
            **_counts(one.count),
        }
    )


def _counts(count: Count) -> dict[str, int]:
    found = {"packets": count.packets, "bytes": count.bytes}
    return found | ({"example": count.example} if count.packets else {})


def _changes(answers: Answers) -> list[str]:
    """What changed in the rules, as `iptrec diff` prints it."""
    if not answers.differences:
        return []
    hits = None if answers.hits is None else dict(answers.hits)
    lines = differences_as_text(answers.differences, hits, colour=False)
    return fitting(map(safe, lines), _CHANGES)


def _losses(answers: Answers) -> list[dict[str, Any]]:
    """What is missing, and between which times."""
    several = [(f"{one.name}: ", one.recording) for one in hosts(answers.recording)]
    found: list[dict[str, Any]] = []
    for host, rows in several or [("", answers.recording)]:
        found += [
            {
                "text": host + as_line(one, answers.clock),
                "first_ns": one.first_ns,
                "last_ns": one.last_ns,
            }
            for one in rows.losses
        ]
        found += [{"text": host + text} for text in beside(rows, answers.clock)]
        found += [{"text": f"{host}Left out {text}"} for text in not_packed(rows)]
    return fitting(safe(found), _LOSSES)
