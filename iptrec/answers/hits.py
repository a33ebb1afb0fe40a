"""Which packets hit the rules that a ruleset diff is about."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from iptrec.answers.select import tables
from iptrec.names import FAMILIES
from iptrec.packets.window import windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.answers.diff import Difference
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording


def packets_that_hit(
    recording: Recording, differences: Sequence[Difference]
) -> dict[int, list[int]]:
    """The numbers of the packets that hit an old or a new rule, by the index of its difference."""
    wanted: dict[tuple[str, str, str, str], list[int]] = {}
    for number, one in enumerate(differences):
        if one.old_rule is None and one.new_rule is None:
            continue
        families = (one.family,) if one.family in FAMILIES else FAMILIES
        specs = {one.old, one.new} - {None}
        for family, table, spec in product(families, tables(recording, one.table), specs):
            wanted.setdefault((family, table, one.chain, spec or ""), []).append(number)
    found: dict[int, list[int]] = {}
    for window in windows(recording) if wanted else ():
        outcome = window.assembly.outcome[: window.decided]
        for number in np.flatnonzero(np.bincount(outcome)).tolist():
            hit = _hit(window, window.assembly.outcomes[number].path, wanted)
            packets = (np.flatnonzero(outcome == number) + window.number).tolist() if hit else []
            for difference in hit:
                found.setdefault(difference, []).extend(packets)
    return {number: sorted(packets) for number, packets in found.items()}


def _hit(
    window: Window, path: tuple[int, ...], wanted: dict[tuple[str, str, str, str], list[int]]
) -> set[int]:
    resolver = window.resolver
    found: set[int] = set()
    for number in path:
        place = resolver.places[number]
        if place.rule is not None:
            for spec in {place.rule.spec, place.rule.native} - {None}:
                key = (resolver.families[number], place.table, place.chain, spec or "")
                found.update(wanted.get(key, ()))
    return found
