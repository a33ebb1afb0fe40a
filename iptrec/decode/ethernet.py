"""The type in Ethernet headers, of many at once (IEEE 802.3, 802.1Q)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from iptrec.names import I64, U8

HEADER, TAG = 14, 4  # bytes of a header, and of an 802.1Q tag in it
TYPE: Final = 12  # where its type begins
TAGGED: Final = (0x8100, 0x88A8)
LEAST_TYPE: Final = 0x0600  # below are lengths of 802.3


def short(buffer: U8, at: I64) -> npt.NDArray[Any]:
    """The big-endian number of two bytes at each offset."""
    return buffer.take(at).astype(np.uint16) << 8 | buffer.take(at + 1)
