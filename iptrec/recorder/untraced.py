"""Tells the user which base chains of nf_tables packets may pass untraced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iptrec.kernel.nft import bases

if TYPE_CHECKING:
    from collections.abc import Collection

    from iptrec.kernel.nft.bases import Base
    from iptrec.recorder.options import Report


def note_untraced(
    report: Report,
    known: Collection[Base],
    priority: int,
    traced: Collection[Base] = (),
    *,
    frames: bool = True,
) -> None:
    """Note those that are passed before tracing begins at this priority, and those that IP does not see.

    ``known``: all that there are. ``traced``: those before which a table of our own traces. ``frames``: in
    bridges, it traces what is not IP, too.
    """
    if early := [one for one in bases.passed_before(known, priority) if one not in traced]:
        report.note(
            f"{_listed(early)} may be passed before tracing begins: packets that are dropped there"
            " are not seen"
        )
    beside = [one for one in bases.passed_beside(known) if one not in traced]
    beside += (one for one in traced if one.family == "bridge" and not frames)
    if beside:
        report.note(f"{_listed(beside)}: frames that do not come through IP pass there untraced")


def _listed(chains: list[Base]) -> str:
    return ", ".join(one.shown for one in chains)
