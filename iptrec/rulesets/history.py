"""The rulesets of a recording at a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iptrec.decode.rulesets.types import Ruleset
from iptrec.rulesets import nft, timeline
from iptrec.rulesets.nft import NftTimelines
from iptrec.rulesets.timeline import KINDS, Timelines

if TYPE_CHECKING:
    from iptrec.names import Family
    from iptrec.recording.rows import Recording


def rulesets(recording: Recording, time_ns: int | None, namespace: int) -> dict[Family, Ruleset]:
    """What was in force at a time (epoch), as far as it had been seen; None: in the end.

    A table whose rules nobody saw then is left out.
    """
    found: dict[Family, Ruleset] = {}
    known = timelines(recording, namespace)
    for family in KINDS:
        tables = {}
        for name, one in (
            (name, one) for each in known for name, one in each.loaded(family).items()
        ):
            states = [
                state
                for state, since in zip(one.states, one.time_ns, strict=True)
                if time_ns is None or since <= time_ns
            ]
            if states and states[-1].chains is not None:
                tables[name] = states[-1].chains
        if tables:
            found[family] = Ruleset(tables)
    return found


def timelines(recording: Recording, namespace: int) -> list[Timelines]:
    """The tables over time: of legacy iptables, of nf_tables, or of both."""
    kinds = {one.kind for one in recording.streams}
    found = []
    if "nftrace" not in kinds or "nflog" in kinds:
        snapshots = recording.snapshots(*timeline.RULESETS)
        found.append(Timelines(one for one in snapshots if one.namespace == namespace))
    if "nftrace" in kinds:
        snapshots = recording.snapshots(*nft.RULESETS)
        of_namespace = (one for one in snapshots if one.namespace == namespace)
        found.append(NftTimelines(of_namespace, alone="nflog" not in kinds))
    return found
