"""The addresses of the host, as they were recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iptrec.decode import snapshots

if TYPE_CHECKING:
    from iptrec.decode.snapshots import IP
    from iptrec.recording.rows import Recording


def addresses(recording: Recording) -> list[tuple[int, IP]] | None:
    """(interface index, address) of the first snapshot of them; None if there is none."""
    for snapshot in recording.snapshots("addresses"):
        return snapshots.addresses(snapshot.content, snapshot.media)
    return None
