"""The addresses of the host, as they were recorded."""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING

from iptrec.errors import RecordingError

if TYPE_CHECKING:
    from iptrec.recording.rows import Recording

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address


def addresses(recording: Recording) -> list[tuple[int, IP]] | None:
    """(interface index, address) of the first snapshot of them; None if there is none."""
    for snapshot in recording.snapshots("addresses"):
        try:
            return [
                (int(row["index"]), ipaddress.ip_address(row["address"]))
                for row in json.loads(snapshot.content)
                if row["address"] is not None
            ]
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise RecordingError(f"the recording's list of addresses is damaged: {error}") from None
    return None
