"""Wait for what a program says when it is ready; a benchmark whose program ends instead ends with it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess


def until_it_says(words: bytes, program: subprocess.Popen[bytes]) -> None:
    """Read its stderr up to the line that has the words."""
    read = []
    for line in iter(program.stderr.readline, b""):
        if words in line:
            return
        read.append(line.decode(errors="replace"))
    sys.exit(f"{program.args[0]} ended before it said {words.decode()!r}: {''.join(read)}")
