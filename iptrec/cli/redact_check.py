"""``redact --check``: whether a redacted recording answers as the one that it was made of.

Its rulesets are compared word by word, whether a packet met them or not (`iptrec.redact.compare_rulesets`).
What `iptrec show --json` tells is compared of every packet. Packets whose lines differ in times and numbers of
their own alone (`_OWN`) are of a kind: these numbers have to be equal, and what the rest stands for is looked
up once. `iptrec why` is asked about every packet of a recording that is not long, and else about one of each
kind, ports of clients (`_PORT`) apart.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iptrec.names import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.api import Recording
    from iptrec.redact.compare import Comparison

_ALL: Final = 10_000  # packets of a recording of which why is asked about each: twice a millisecond
_MOST: Final = 4000  # kinds, those first that tell of another path
_SUM: Final = re.compile(
    r'"(?:csum|checksum)":(?:\d+|\[[\d,]*\])'
)  # depends on addresses and payloads
_OWN: Final = re.compile(r'"(?:time_ns|time|packet|id|seq|ack|window|length)":("[^"\\]*"|\d+|null)')
_ENDS: Final = re.compile(r'"(?:src|dst|dport|type|code|ttl)":(?:"[^"\\]*"|\d+|null)')
_PORT: Final = re.compile(r'"sport":\d+')


class Difference(NamedTuple):
    """What differs, in which of its fields."""

    what: str
    where: Sequence[str]


class Checked:
    """What a check found. ``packets``, ``kinds``: compared; ``explained``: packets of which why was asked.

    ``rules``: lines of rulesets that were compared; ``others``: how many differ, of these and of addresses.
    """

    def __init__(self) -> None:
        self.packets = self.kinds = self.explained = self.rules = self.others = 0
        self.different: set[int] = set()
        self.first: list[Difference] = []

    @property
    def differs(self) -> bool:
        """Whether anything does."""
        return bool(self.different or self.others)

    def note(self, what: str, where: Sequence[str], shown: int) -> None:
        """Note what differs beside packets."""
        self.others += 1
        if len(self.first) < shown:
            self.first.append(Difference(what, where))

    def add(self, packet: int, where: list[tuple[str, ...]], shown: int) -> None:
        """Note where a packet differs, if it does; ``shown``: of so many the fields are kept."""
        if where and packet not in self.different:
            self.different.add(packet)
            if len(self.first) < shown:
                fields = [".".join(one) or "all that is told of it" for one in where]
                self.first.append(Difference(f"packet {packet}", fields))

    @property
    def in_words(self) -> str:
        """What was compared."""
        told = f"{counted(self.packets, 'packet')} with equal verdicts, steps and headers"
        if self.rules:
            told = f"{counted(self.rules, 'line')} of rules, and {told}"
        if self.explained == self.packets:
            return f"{told}, and equal answers of why"
        of = "one of each kind" if self.explained == self.kinds else f"of {self.kinds:,} kinds"
        return f"{told}; why was asked of {self.explained:,} of them, {of}: equal"


def check(before: Recording, after: Recording, comparison: Comparison, shown: int) -> Checked:
    """Compare all that is told of packets; ``shown``: see `Checked.add`."""
    found = Checked()
    _check_rules(found, before, after, comparison, shown)
    alike: set[tuple[bytes, bytes]] = set()
    kinds: dict[bytes, tuple[int, bytes]] = {}
    pairs = itertools.zip_longest(_lines(before), _lines(after), fillvalue="null")
    for number, (old, new) in enumerate(pairs, 1):
        found.packets = number
        bare = _bare(old)
        kind = _digest(bare), _digest(_bare(new))
        without_port = _PORT.sub("", bare)
        kinds.setdefault(_digest(without_port), (number, _digest(_ENDS.sub("", without_port))))
        if kind in alike and _OWN.findall(old) == _OWN.findall(new):
            continue
        where = list(comparison.differences(json.loads(old), json.loads(new)))
        found.add(number, where, shown)
        if not where:
            alike.add(kind)
    found.kinds = len(kinds)
    every = found.packets <= _ALL
    asked = list(range(1, found.packets + 1)) if every else _chosen(kinds)
    found.explained = len(asked)
    both = itertools.zip_longest(_explained(before, asked), _explained(after, asked))
    for number, (was, now) in zip(asked, both, strict=False):
        found.add(number, list(comparison.differences(was, now)), shown)
    for one, other in comparison.pairs.torn():
        found.note(f"{one} and {other}", ["how many bits of a prefix they share"], shown)
    return found


def _digest(text: str) -> bytes:
    """Lines have some thousand characters each; tens of thousands of them differ."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _chosen(kinds: dict[bytes, tuple[int, bytes]]) -> list[int]:
    """Packets of which why is asked: of each path and protocol first one, then another one, up to `_MOST`."""
    seen: Counter[bytes] = Counter()
    ranked = []
    for number, path in kinds.values():
        ranked.append((seen[path], number))
        seen[path] += 1
    return sorted(number for _, number in sorted(ranked)[:_MOST])


def _check_rules(
    found: Checked, before: Recording, after: Recording, comparison: Comparison, shown: int
) -> None:
    """Compare all texts of rulesets, and the lists that rules and routing are judged by."""
    from iptrec.redact import compare_lists, compare_rulesets

    differences = itertools.chain.from_iterable(
        of.differences(before.rows.snapshots(*kinds), after.rows.snapshots(*kinds))
        for of, kinds in (
            (comparison.rulesets, compare_rulesets.KINDS),
            (comparison.lists, compare_lists.KINDS),
        )
    )
    for where, fields in itertools.groupby(differences, lambda one: one.where):
        found.note(where, [one.field for one in fields], shown)
    found.rules = comparison.rulesets.rules


def _bare(line: str) -> str:
    """A packet's line without what is its own."""
    return _OWN.sub("", _SUM.sub("", line))


def _lines(recording: Recording) -> Iterator[str]:
    """What is told of each packet, as JSON."""
    from iptrec.views.json_lines import text

    for batch in recording.packets().columns().batches():
        for some in text(batch):
            yield from some.splitlines()


def _explained(recording: Recording, numbers: list[int]) -> Iterator[Any]:
    """What is told of why some packets, in order, ended as they did."""
    from iptrec.answers.why import Explainer
    from iptrec.views.why import as_json

    explainer, left = Explainer(recording.rows), iter(numbers)
    number = next(left, None)
    for batch in recording.packets().columns().batches():
        window = batch.window
        while number is not None and number < window.number + window.decided:
            yield json.loads(as_json(explainer.explain(batch, number - window.number)))
            number = next(left, None)
