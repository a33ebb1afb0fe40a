"""Facts about who sent, as columns: 104 bytes each, little endian (`kernel.senders.program`).

Who recorded put times since the epoch there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.decode import numbered

if TYPE_CHECKING:
    import numpy.typing as npt

    from iptrec.names import U32

_FACT: Final = np.dtype(
    [
        ("inode", "<u8"), ("cgroup", "<u8"), ("pid", "<u4"), ("uid", "<u4"), ("protocol", "<u2"),
        ("family", "<u2"), ("port", "<u2"), ("peer_port", ">u2"), ("address", "V16"), ("peer", "V16"),
        ("comm", "S16"), ("since", "<i8"), ("turn", "<u4"), ("state", "<u4"), ("time", "<i8"),
    ]
)  # fmt: skip
MADE_BY: Final = 80  # bytes of a fact that tell it from another one
_MOST_TEXT: Final = 4096
_MOST_DIGITS: Final = 20


def decode(data: bytes, lengths: U32) -> npt.NDArray[np.void]:
    """The facts of a chunk as fields, shape (n,); what is not of that length is left out.

    ``inode``, ``pid``, ``comm``: of the socket and its process. ``port``: its own; of echo requests their id.
    ``peer``, ``peer_port``: zeros where it is not connected. ``state``: of TCP, as it was at ``since`` (epoch,
    ns), when it first sent; ``time``: when that was told.
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    whole = np.flatnonzero(lengths == _FACT.itemsize)
    start = ends[whole] - _FACT.itemsize
    table = np.frombuffer(data, np.uint8)[start[:, None] + np.arange(_FACT.itemsize)]
    found: npt.NDArray[np.void] = table.view(_FACT).reshape(-1)
    return found


def paths(content: bytes) -> dict[int, str]:
    """A snapshot "sender-cgroups": number -> path."""
    return numbered.names(numbered.load(content), digits=_MOST_DIGITS, text=_MOST_TEXT)
