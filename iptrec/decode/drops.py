"""Records of packets that the kernel dropped, as columns.

The kernel's part of a record is 64 bytes, little endian (`kernel.drops.program`), and the packet follows from
its network header on. Who recorded put the time since the epoch there, and the place's number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.decode import numbered

if TYPE_CHECKING:
    import numpy.typing as npt

    from iptrec.names import I64, U32, U64, Mask

HEAD: Final = 64
_RECORD: Final = np.dtype(
    [
        ("time_ns", "<i8"), ("place", "<i8"), ("buffer", "<u8"), ("reason", "<u4"), ("netns", "<u4"),
        ("ifindex", "<u4"), ("iif", "<u4"), ("mark", "<u4"), ("length", "<u4"), ("protocol", ">u2"),
        ("captured", "<u2"), ("cpu", "<u4"), ("uid", "<u4"), ("flags", "<u4"),
    ]
)  # fmt: skip
_PADDING: Final = 256
_NOBODY: Final = 0xFFFFFFFF
_PREFIX: Final = "SKB_DROP_REASON_"
_CLONED, _ALONE = 2, 4  # flags; `kernel.drops.program` sets them
_ANY_PACKET: Final = 8  # a flag; see `kernel.drops.alerts`
_SUBSYSTEM: Final = 16  # bits below it, linux/skbuff.h: SKB_DROP_REASON_SUBSYS_SHIFT
_MOST_TEXT: Final = 200
_DIGITS: Final = 10  # of 32 bits
_MOST_DIGITS: Final = 19  # of any number


@dataclass(frozen=True, slots=True)
class Drops:
    """Records, one row each; all columns have shape (n,) but ``data``: what they and their packets lie in.

    ``start``, ``size``: of the packet in ``data``, bytes, from its network header on, as far as captured.
    ``buffer``: equal for the same packet's buffer in the kernel, but another packet's soon afterwards.
    """

    data: npt.NDArray[np.uint8]
    datagram: I64  # which of the chunk's it was
    start: I64
    size: I64
    time_ns: I64  # epoch
    place: I64  # number of a snapshot "drop-places"
    buffer: U64
    reason: U32
    netns: U32  # inode; 0: not known
    ifindex: U32  # of the device that it was at; 0: not known
    iif: U32  # of the device that it came in by; 0: it was sent here
    mark: U32
    uid: I64  # of the socket; -1: none
    cloned: Mask  # a copy shares its bytes, or did: another socket's, another port's, tcpdump's
    alone: Mask  # none does; neither is known of older records
    any_packet: Mask  # nobody knows whether it was traced

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.start)

    def take(self, index: I64 | Mask) -> Drops:
        """Return some of them, in the same ``data``."""
        return replace(self, **{name: getattr(self, name)[index] for name in _COLUMNS})

    @property
    def ipv6(self) -> Mask:
        """Which packets are IPv6."""
        six: Mask = (self.data[self.start] >> 4 == 6) & (self.size > 0)  # noqa: PLR2004 - a version
        return six

    @property
    def payload(self) -> I64:
        """How many bytes each packet says to have behind its header of 20 bytes, or of IPv6's 40."""
        at = self.start + np.where(self.ipv6, 4, 2)
        told = self.data[at].astype(np.int64) << 8 | self.data[at + 1]
        return np.maximum(np.where(self.ipv6, told, told - 20), 0)


_COLUMNS: Final = tuple(name for name in Drops.__dataclass_fields__ if name != "data")


def decode(data: bytes, lengths: U32) -> Drops:
    """The records of a chunk; what is too short to be one is left out."""
    ends = np.cumsum(lengths, dtype=np.int64)
    whole = np.flatnonzero(lengths >= HEAD)
    start = ends[whole] - lengths[whole]
    padded = np.frombuffer(data + bytes(_PADDING), np.uint8)
    head = padded[start[:, None] + np.arange(HEAD)].view(_RECORD).reshape(-1)
    uid = head["uid"].astype(np.int64)
    return Drops(
        data=padded,
        datagram=whole,
        start=start + HEAD,
        size=np.minimum(head["captured"], lengths[whole] - HEAD).astype(np.int64),
        uid=np.where(uid == _NOBODY, -1, uid),
        cloned=head["flags"] & _CLONED != 0,
        alone=head["flags"] & _ALONE != 0,
        any_packet=head["flags"] & _ANY_PACKET != 0,
        **{
            name: np.ascontiguousarray(head[name])
            for name in ("time_ns", "place", "buffer", "reason", "netns", "ifindex", "iif", "mark")
        },
    )


def reasons(content: bytes) -> dict[int, str]:
    """A snapshot "drop-reasons": number -> the kernel's name, without what all of them begin with.

    Those of subsystems have numbers only: by them stands the subsystem's own, from 65536 on.
    """
    told = numbered.load(content)
    names = _names(told.get("skb_drop_reason"))
    subsystems = _names(told.get("skb_drop_reason_subsys"))
    above = {number << _SUBSYSTEM: name for number, name in subsystems.items() if number > 0}
    return {number: name.removeprefix(_PREFIX) for number, name in {**above, **names}.items()}


def reason_name(names: dict[int, str], number: int) -> str:
    """What the kernel calls a reason; its number where nobody knows its name."""
    if number in names:
        return names[number]
    subsystem = names.get(number >> _SUBSYSTEM << _SUBSYSTEM) if number >> _SUBSYSTEM else None
    return f"{subsystem}/{number & 0xFFFF}" if subsystem else str(number)


def is_numbered(names: dict[int, str], text: str) -> bool:
    """Whether a text is what `reason_name` calls a reason without a name, case aside."""
    subsystem, _, number = text.rpartition("/")
    if not (number.isascii() and number.isdecimal() and len(number) <= _DIGITS):
        return False
    return not subsystem or subsystem.upper() in {
        name.upper() for above, name in names.items() if above >> _SUBSYSTEM
    }


def places(content: bytes) -> dict[int, str]:
    """A snapshot "drop-places": number -> symbol and offset."""
    return _names(numbered.load(content))


def _names(found: object) -> dict[int, str]:
    return numbered.names(found, digits=_MOST_DIGITS, text=_MOST_TEXT)
