"""When what was appended is committed: soon, for who may lose it and for who follows, and not too often."""

from __future__ import annotations

import time
from typing import Final

_COMMIT_NS: Final = 200_000_000
# Where somebody follows; but commits, which wait for the disk, may take so many parts of the time, one of them.
_FOLLOWED_NS, _PARTS = 20_000_000, 10


class Pace:
    """``followed``: whether somebody reads the file meanwhile, who is to see what comes at once.

    ``since_ns``: when the oldest was appended that is not committed (monotonic); None if all is.
    ``took_ns``: the last commit.
    """

    def __init__(self) -> None:
        self.followed = False
        self.since_ns: int | None = None
        self.took_ns = 0

    @property
    def due_in_ns(self) -> int | None:
        """When a commit is due, in ns from now on; None where nothing is to be committed."""
        if self.since_ns is None:
            return None
        followed = max(_FOLLOWED_NS, _PARTS * self.took_ns)
        patience = min(followed, _COMMIT_NS) if self.followed else _COMMIT_NS
        return self.since_ns + patience - time.monotonic_ns()

    @property
    def due(self) -> bool:
        """Whether something has waited long enough."""
        left = self.due_in_ns
        return left is not None and left <= 0
