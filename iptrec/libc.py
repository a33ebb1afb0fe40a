"""The C library, for the calls that Python has no name for."""

from __future__ import annotations

import ctypes
import os
from typing import Final

libc: Final = ctypes.CDLL(None, use_errno=True)


def failure() -> str:
    """What errno says of the call of `libc` that this thread made last."""
    return os.strerror(ctypes.get_errno())
