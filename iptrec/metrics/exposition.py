"""Counts in Prometheus's text format, for the textfile collector of node_exporter.

github.com/prometheus/docs, content/docs/instrumenting/exposition_formats.md, version 0.0.4.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from iptrec.views.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_Key = TypeVar("_Key")
LABELS: Final = ("verdict", "family", "table", "chain", "rule", "text")
_CAUSES: Final = (  # of losses: 0 is told of each, or a rate would miss the first one
    "sequence", "enobufs", "truncated", "rules-gone", "logger-switched", "ring-full", "overflow",
)  # fmt: skip
_ESCAPED: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_BEGINNING: Final = "# HELP iptrec_"
_AT_WORK: Final = re.compile(r"^(iptrec_recording\{.*\}) 1$", re.MULTILINE)
_FAILURES: Final = re.compile(r"^(iptrec_counting_failures_total\{.*\}) (\d+)$", re.MULTILINE)
_PASSING: Final = re.compile(  # what is true for a moment
    r"^(?:# (?:HELP|TYPE) )?iptrec_(?:behind_seconds|oldest_event_timestamp_seconds)\b.*\n",
    re.MULTILINE,
)
_LARGEST: Final = 1 << 62
_MOST: Final = 100_000  # of anything
_LONGEST: Final = 1_000  # characters of a label's value


@dataclass(slots=True)
class Counts:
    """What has been counted of one recording, or of the files of one recorder.

    ``packets``: by the values of `LABELS`. ``lost``: events, ``losses``: how often there was one, both by
    their cause (`recording.rows.Loss`). ``uncounted``: chunks that a ring let go before anybody looked;
    ``failures``: recordings whose counting did not come to its end. ``oldest_ns``: receive time of the oldest
    event that is held, None without any. ``behind_ns``: the age of the oldest event that is not counted yet,
    None where that is not known. ``size``: bytes. Times are ns since 1970.
    """

    packets: dict[tuple[str, ...], int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)
    incomplete: int = 0
    ambiguous: int = 0
    events: int = 0
    uncounted: int = 0
    failures: int = 0
    size: int = 0
    behind_ns: int | None = 0
    oldest_ns: int | None = None

    def as_json(self) -> dict[str, Any]:
        """For `of_json`."""
        found = asdict(self)
        return found | {"packets": [[*labels, count] for labels, count in self.packets.items()]}

    @classmethod
    def of_json(cls, given: Any) -> Self:  # noqa: ANN401 - JSON, by a process that reads what strangers sent
        """Raises ValueError for what is nothing of the kind."""
        if not isinstance(given, dict):
            raise ValueError("not an object")  # noqa: TRY004
        numbers = ("incomplete", "ambiguous", "events", "uncounted", "size", "behind_ns")
        oldest = given.get("oldest_ns")
        return cls(
            packets={
                tuple(map(_label, labels)): _number(count)
                for *labels, count in _list(given.get("packets"), len(LABELS) + 1)
            },
            lost=_by_cause(given.get("lost")),
            losses=_by_cause(given.get("losses")),
            oldest_ns=None if oldest is None else _number(oldest),
            **{name: _number(given.get(name)) for name in numbers},
        )

    def add(self, other: Counts) -> None:
        """Those of another file of the same recorder."""
        self.packets = _sum(self.packets, other.packets)
        self.lost = _sum(self.lost, other.lost)
        self.losses = _sum(self.losses, other.losses)
        self.incomplete += other.incomplete
        self.ambiguous += other.ambiguous
        self.events += other.events
        self.uncounted += other.uncounted
        self.failures += other.failures
        self.size += other.size
        behind = self.behind_ns, other.behind_ns
        self.behind_ns = None if None in behind else max(one for one in behind if one is not None)
        known = [one for one in (self.oldest_ns, other.oldest_ns) if one is not None]
        self.oldest_ns = min(known, default=None)


def text(counts: Counts, *, started_ns: int, recording: bool, netns: str = "") -> str:
    """The whole file. ``started_ns``: when the recorder started; ``recording``: whether it is at work.

    ``netns``: the network namespace that it records, as the user named it, "" for its own. It is a label of
    every sample: node_exporter refuses two files with the same ones. Control characters are escaped.
    """
    lines: list[str] = []
    for name, kind, about, samples in _families(counts, started_ns, recording=recording):
        lines += [f"# HELP iptrec_{name} {about}", f"# TYPE iptrec_{name} {kind}"]
        for labels, value in samples:
            every = {**labels, "netns": printable(netns)}
            given = ",".join(f'{key}="{one.translate(_ESCAPED)}"' for key, one in every.items())
            lines.append(f"iptrec_{name}{{{given}}} {value}")
    return "\n".join(lines) + "\n"


def is_ours(text: str) -> bool:
    """Whether it is such a file."""
    return text.startswith(_BEGINNING)


def is_at_work(text: str) -> bool:
    """Whether such a file says that its recorder is at work."""
    return _AT_WORK.search(text) is not None


def abandoned(text: str) -> str:
    """Such a file whose keeper ended before its recorder did: counting has failed, and all is over."""
    text = _FAILURES.sub(lambda found: f"{found[1]} {int(found[2]) + 1}", text)
    return _AT_WORK.sub(r"\1 0", _PASSING.sub("", text))


_Sample = tuple[dict[str, str], "int | str"]
_Family = tuple[str, str, str, "list[_Sample]"]


def _families(counts: Counts, started_ns: int, *, recording: bool) -> Iterator[_Family]:
    printed: Counter[tuple[str, ...]] = Counter()  # two texts may be one when they are escaped
    for labels, count in counts.packets.items():
        printed[tuple(map(printable, labels))] += count
    packets: list[_Sample] = [
        (dict(zip(LABELS, labels, strict=True)), count) for labels, count in sorted(printed.items())
    ]
    decided = (
        "Packets by verdict, and by the rule that decided with its number and text at that time."
    )
    yield "packets_total", "counter", decided, packets
    yield _total("packets_incomplete", "Packets that were not seen whole.", counts.incomplete)
    yield _total(
        "packets_ambiguous", "Packets of which more than one reading is possible.", counts.ambiguous
    )
    yield _total("events", "Events of packets that were counted.", counts.events)
    lost = "Events that the kernel sent and that were not received, by cause."
    yield (
        "events_lost_total",
        "counter",
        lost,
        _caused(counts.lost),
    )
    losses = "Losses of any kind, by cause; of some nobody knows how many events they are."
    yield (
        "losses_total",
        "counter",
        losses,
        _caused(counts.losses),
    )
    uncounted = "Parts of the ring that were dropped before they were counted; the counters lack their packets."
    yield _total("chunks_uncounted", uncounted, counts.uncounted)
    failures = "Files whose counting ended early; the counters lack their packets."
    yield _total("counting_failures", failures, counts.failures)
    behind = "Age of the oldest event that is not counted yet, 0 if there is none."
    if counts.behind_ns is not None:
        yield "behind_seconds", "gauge", behind, [({}, _seconds(counts.behind_ns))]
    if counts.oldest_ns is not None:
        oldest = "Time of the oldest event that the recording still holds."
        yield "oldest_event_timestamp_seconds", "gauge", oldest, [({}, _seconds(counts.oldest_ns))]
    yield "size_bytes", "gauge", "Size of the recording, of all its files.", [({}, counts.size)]
    yield "start_time_seconds", "gauge", "When the recorder started.", [({}, _seconds(started_ns))]
    yield (
        "recording",
        "gauge",
        "1 while the recorder is at work, 0 after that.",
        [({}, int(recording))],
    )


def _caused(counts: dict[str, int]) -> list[_Sample]:
    printed = Counter(dict.fromkeys(_CAUSES, 0))
    for cause, count in counts.items():
        printed[printable(cause)] += count
    return [({"cause": one}, count) for one, count in printed.items()]


def _total(name: str, about: str, value: int) -> _Family:
    return f"{name}_total", "counter", about, [({}, value)]


def _seconds(nanoseconds: int) -> str:
    """Exactly; the formats take any number of digits."""
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"


def _sum(some: dict[_Key, int], others: dict[_Key, int]) -> dict[_Key, int]:
    return dict(Counter(some) + Counter(others))


def _number(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST:
        return value
    raise ValueError("not a count")


def _label(value: object) -> str:
    if isinstance(value, str) and len(value) <= _LONGEST:
        return value.encode(errors="replace").decode()
    raise ValueError("not the value of a label")


def _list(value: object, size: int) -> list[list[Any]]:
    if isinstance(value, list) and len(value) <= _MOST and all(
        isinstance(one, list) and len(one) == size for one in value
    ):  # fmt: skip
        return value
    raise ValueError("not a list of counts")


def _by_cause(value: object) -> dict[str, int]:
    if isinstance(value, dict) and len(value) <= _MOST:
        return {_label(cause): _number(count) for cause, count in value.items()}
    raise ValueError("not counts by cause")
