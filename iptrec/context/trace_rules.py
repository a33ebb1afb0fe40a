"""How many packets came to our TRACE rules, by the rules' own counters at the end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from iptrec.errors import RecordingError

if TYPE_CHECKING:
    from iptrec.recording.rows import Recording


def counted(recording: Recording) -> dict[str, int] | None:
    """Backend, family and chain, such as "nft ipv6 PREROUTING" -> packets; None where nobody looked.

    Raises `RecordingError`.
    """
    found = None
    for one in recording.snapshots("trace-rules"):
        try:
            packets = json.loads(one.content)
            found = {place: int(count) for place, count in packets.items()}
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise RecordingError(f"the recording's counters are damaged: {error}") from None
    return found
