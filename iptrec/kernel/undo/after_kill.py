"""What became of the changes that a recorder had made when it was killed: the list of its guardian tells.

It is told to who called `iptrec.record`: nothing is loaded that starts threads (numpy).
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from iptrec.kernel.undo import lists

if TYPE_CHECKING:
    from pathlib import Path

DONE: Final = "the guardian has undone what it had changed"
NOTHING: Final = "nothing is left to undo"
_UNDER_WAY: Final = (
    "the guardian is still undoing what it had changed: iptrec cleanup tells what is left"
)
_LEFT: Final = "not all that it had changed was undone: run iptrec cleanup"
_NOT_KNOWN: Final = "run iptrec cleanup, which finds what is left of it"
_PATIENCE_S: Final = 5.0
_POLL_S: Final = 0.02
_LET_GO_S: Final = 1.0


def undone(output: Path) -> str:
    """What is known of it, and what to do, in words. Waits a few seconds for the guardian.

    ``output``: what was recorded to, absolute.
    """
    if not os.access(lists.STATE.parent, os.W_OK):  # then the list has no name
        return _NOT_KNOWN
    deadline = time.monotonic() + _PATIENCE_S
    charged = _charged(output)
    if charged is None:
        return NOTHING
    # For a moment nobody has the list: the guardian lets it go, then takes it away.
    held = time.monotonic()
    while charged is not None and time.monotonic() < min(deadline, held + _LET_GO_S):
        time.sleep(_POLL_S)
        charged = _charged(output)
        held = time.monotonic() if charged else held
    return DONE if charged is None else _UNDER_WAY if charged else _LEFT


def _charged(output: Path) -> bool | None:
    """Whether somebody is responsible for its list; None where there is none."""
    found = None
    for _, descriptor in lists.found():
        changes = lists.last(descriptor)
        if isinstance(changes, dict) and changes.get("output") == str(output):
            found = found or lists.held(descriptor)
    return found
