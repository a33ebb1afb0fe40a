"""The rulesets of a recording: over time, and at a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iptrec.analyze import nftables, timeline
from iptrec.analyze.nftables import NftTimelines
from iptrec.analyze.timeline import KINDS, Timelines
from iptrec.decode.rule import Ruleset

if TYPE_CHECKING:
    from iptrec.analyze.timeline import Family
    from iptrec.recording.rows import Recording


def timelines(recording: Recording, namespace: int) -> list[Timelines]:
    """Those of the backends that were recorded; no table of one is called as one of the other."""
    legacy, nft = (
        [one for one in recording.snapshots(*kinds) if one.namespace == namespace]
        for kinds in (timeline.RULESETS, nftables.RULESETS)
    )
    return [
        *([Timelines(legacy)] if legacy else []),
        *([NftTimelines(nft, alone=not legacy)] if nft else []),
    ]


def rulesets(recording: Recording, time_ns: int | None, namespace: int) -> dict[Family, Ruleset]:
    """What was in force at a time (epoch), as far as it had been seen; None: in the end.

    A table whose rules nobody saw then is left out.
    """
    found: dict[Family, Ruleset] = {}
    known = timelines(recording, namespace)
    for family in KINDS:
        tables = {}
        for name, line in (one for each in known for one in each.loaded(family).items()):
            states = [
                state
                for state, since in zip(line.states, line.time_ns, strict=True)
                if time_ns is None or since <= time_ns
            ]
            if states and states[-1].chains is not None:
                tables[name] = states[-1].chains
        if tables:
            found[family] = Ruleset(tables)
    return found
