"""What became of the packets of each flow of a recording: how many took which path.

A made-up recording, or one of a scan, may have any number of flows: those that come first are kept, the packets
of the others are counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.answers.path_counts import PathCounter
from iptrec.names import HOOKS
from iptrec.packets.flows import Flows

if TYPE_CHECKING:
    from iptrec.answers.packets import Batch, Packets
    from iptrec.answers.path_counts import PathCount
    from iptrec.answers.path_words import Language, PathWords
    from iptrec.names import Mask

MOST: Final = 100_000  # pairs of a flow and a path
_OUTPUT: Final = HOOKS.index("OUTPUT")


@dataclass(slots=True)
class Fate:
    """How the packets of a flow fared.

    ``paths``: how many took each path, by its number, and the first one's number. ``more``: packets whose
    paths were not kept.
    """

    paths: dict[int, tuple[int, int]] = field(default_factory=dict)
    more: int = 0


@dataclass(slots=True)
class Fates:
    """Those of a recording.

    ``flows``: by their keys, see `Flows`. ``paths``: by their numbers. ``words``: what a path says; None where
    that is not certain. ``unknown``: packets whose flow is not known; ``beyond``: of flows that were not kept.
    """

    flows: dict[bytes, Fate] = field(default_factory=dict)
    paths: dict[int, PathCount] = field(default_factory=dict)
    words: dict[int, PathWords | None] = field(default_factory=dict)
    unknown: int = 0
    beyond: int = 0
    _kept: int = 0

    def add(self, key: bytes, path: int, packets: int, first: int) -> None:
        """Packets of a flow that took a path; ``first``: the first one's number."""
        fate = self.flows.get(key)
        if self._kept >= MOST and (fate is None or path not in fate.paths):
            if fate is None:
                self.beyond += packets
            else:
                fate.more += packets
            return
        if fate is None:
            fate = self.flows[key] = Fate()
        if path not in fate.paths:
            self._kept += 1
        before, began = fate.paths.get(path, (0, first))
        fate.paths[path] = before + packets, began


def fates(packets: Packets, language: Language) -> Fates:
    """Go through the selected packets of a recording once. ``language``: what paths are told in."""
    found, flows, counter = Fates(), Flows(), PathCounter()
    for batch in packets.batches(objects=False, paths=True):
        counter.add(batch)
        if len(batch.positions):
            _add_flows(found, flows, batch)
            _add_words(found, language, batch)
    found.paths = {one.number: one for one in counter.counts(packets.book)}
    return found


def _add_flows(found: Fates, flows: Flows, batch: Batch) -> None:
    """Count the packets of a batch by flow and path."""
    window, assembly = batch.window, batch.window.assembly
    begun = assembly.rows[assembly.first[batch.positions]]
    keys, known = flows.keys(window.events.take(begun), _sent(batch))
    found.unknown += int((~known).sum())
    positions = batch.positions[known]
    path = batch.paths[positions]
    distinct, flow = np.unique(keys[known], return_inverse=True)
    pair = flow * (int(path.max(initial=0)) + 1) + path
    _, first, counts = np.unique(pair, return_index=True, return_counts=True)
    names = distinct.tolist()
    for at, number in zip(first.tolist(), counts.tolist(), strict=True):
        found.add(names[flow[at]], int(path[at]), number, window.number + int(positions[at]))


def _add_words(found: Fates, language: Language, batch: Batch) -> None:
    """Put the paths of a batch that are new into words."""
    assembly = batch.window.assembly
    numbers, first = np.unique(batch.paths[batch.positions], return_index=True)
    for number, position in zip(numbers.tolist(), batch.positions[first].tolist(), strict=True):
        if number not in found.words:
            outcome = assembly.outcomes[assembly.outcome[position]]
            found.words[number] = language.words(batch.window, outcome)


def _sent(batch: Batch) -> Mask:
    """Which packets this host sent: those that were first seen in OUTPUT."""
    assembly, places = batch.window.assembly, batch.window.resolver.places
    sent = np.array([places[one.path[0]].hook == _OUTPUT for one in assembly.outcomes])
    return sent[assembly.outcome[batch.positions]]
