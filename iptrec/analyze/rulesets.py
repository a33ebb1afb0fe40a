"""The rulesets of a recording at a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iptrec.analyze.timeline import KINDS, RULESETS, Timelines
from iptrec.decode.rule import Ruleset

if TYPE_CHECKING:
    from iptrec.analyze.timeline import Family
    from iptrec.recording.rows import Recording


def rulesets(recording: Recording, time_ns: int | None, namespace: int) -> dict[Family, Ruleset]:
    """What was in force at a time (epoch), as far as it had been seen; None: in the end.

    A table whose rules nobody saw then is left out.
    """
    snapshots = recording.snapshots(*RULESETS)
    timelines = Timelines(one for one in snapshots if one.namespace == namespace)
    found: dict[Family, Ruleset] = {}
    for family in KINDS:
        tables = {}
        for name, timeline in timelines.loaded(family).items():
            states = [
                state
                for state, since in zip(timeline.states, timeline.time_ns, strict=True)
                if time_ns is None or since <= time_ns
            ]
            if states and states[-1].chains is not None:
                tables[name] = states[-1].chains
        if tables:
            found[family] = Ruleset(tables)
    return found
