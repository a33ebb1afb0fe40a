"""What this process holds open, whatever becomes of its name.

Linux leads back to it by /proc/self/fd (proc(5)), and opens a path without what is there (open(2), O_PATH).
Elsewhere, on macOS say, recordings are read and files made as well: by their names, and not by root.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_LINUX: Final = hasattr(os, "O_PATH")
PATH: Final[int] = getattr(os, "O_PATH", os.O_RDONLY)
# A new file without a name; None where there is no such thing.
UNNAMED: Final[int | None] = getattr(os, "O_TMPFILE", None)
ALL: Final = Path("/proc/self/fd" if _LINUX else "/dev/fd")


def protects_root() -> bool:
    """Whether root can be kept from being led elsewhere on the way to a file."""
    return _LINUX


def path_to(descriptor: int, name: Path) -> Path:
    """The path to what is held; ``name``: its own, which is the path where there is no other."""
    return ALL / str(descriptor) if _LINUX else name
