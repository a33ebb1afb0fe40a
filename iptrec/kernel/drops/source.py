"""Where records of dropped packets come out: the program, attached, and its ring, read without a call.

A record is let out of the host with less than the kernel wrote: of addresses in the kernel, that tell where it
is, stay numbers of places and what tells one buffer from another.
"""

from __future__ import annotations

import errno
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.kernel.bpf import bpf
from iptrec.kernel.bpf.btf import VMLINUX, Btf
from iptrec.kernel.bpf.programs import Programs
from iptrec.kernel.bpf.ring import Ring, since_the_epoch
from iptrec.kernel.drops import program
from iptrec.kernel.drops.program import HEAD, LAYOUT, NEW_PLACE, SYMBOL

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from iptrec.names import U32

_RING_BYTES: Final = 4 << 20  # its pages are there at once
MOST_SNAPLEN: Final = 128
_PLACES: Final = 1024
_ENUMS: Final = ("skb_drop_reason", "skb_drop_reason_subsys")
_ADVICE: Final = {
    errno.EPERM: "it needs CAP_BPF and CAP_PERFMON of the host itself, not of a container",
}


@dataclass(frozen=True, slots=True)
class Drops:
    """Records that were fetched together at ``received_ns`` (epoch), back to back, ``lengths`` bytes each.

    ``places``: number -> symbol of the places that none was of before. ``lost``: how many found no room in the
    ring since the last time. ``names``: those of reasons that were not told before, as of `DropSource.names`.
    """

    received_ns: int
    lengths: U32
    data: bytes
    places: Mapping[int, str] = field(default_factory=dict)
    lost: int = 0
    names: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


class DropSource(Programs):
    """The packets that are traced and that the kernel drops, of one network namespace; a context manager.

    Raises `HostError` with the reason where it does not work: the kernel is asked by trying.
    """

    names_from = str(VMLINUX)

    def __init__(self, netns: int, snaplen: int) -> None:
        self._netns = netns
        self._snaplen = -(-min(snaplen, MOST_SNAPLEN) // 8) * 8
        self._secret = np.uint64(secrets.randbits(64))
        # By their addresses: numbers from 1 on, which alone leave this module.
        self._places: dict[int, int] = {}
        self._told = 0  # of what was lost
        super().__init__(_ADVICE)

    def _make(self) -> None:
        types = Btf.of_kernel()
        program.require_reasons(types)
        self.names = {name: types.enum(name) for name in _ENUMS}
        kept = self._kept
        self._ring = kept(bpf.new_map(bpf.RINGBUF, entries=_RING_BYTES))
        lost, self._lost = self._noted(8)
        places = kept(bpf.new_map(bpf.HASH, key=8, value=8, entries=_PLACES))
        written = len(program.FORMAT)
        text = kept(bpf.new_map(bpf.ARRAY, key=4, value=written, entries=1, flags=bpf.READ_ONLY))
        bpf.fill(text, program.FORMAT)
        record = HEAD + self._snaplen + SYMBOL
        self._records = Ring(self._ring, _RING_BYTES, record)
        maps = program.Maps(self._ring, lost, places, text)
        code = program.code(types, maps, self._netns, self._snaplen)
        number = types.number(program.TYPEDEF)
        loaded = kept(bpf.tracing(code, program.LICENCE, number, b"iptrec_drops"))
        kept(bpf.attached(loaded))

    def fileno(self) -> int:
        """For poll: ready where a record is there, though nobody is woken by one."""
        return self._ring

    def receive(self) -> Drops | None:
        """What is there now; None if nothing is."""
        lost = int(self._lost[0]) - self._told
        if not lost and self._records.empty:  # the loop asks in every round
            return None
        rows = self._records.rows()
        if not len(rows) and not lost:
            return None
        now = time.time_ns()
        self._told += lost
        head = rows[:, :HEAD].copy().view(LAYOUT)[:, 0]
        head["time"] += since_the_epoch()
        np.minimum(head["time"], now, out=head["time"])
        head["skb"] ^= self._secret
        places = self._numbered(head, rows)
        rows[:, :HEAD] = head.view(np.uint8).reshape(-1, HEAD)
        lengths = (HEAD + head["captured"]).astype(np.uint32)
        kept = np.arange(HEAD + self._snaplen) < lengths[:, None]
        data = rows[:, : HEAD + self._snaplen][kept].tobytes()
        return Drops(now, lengths, data, places, lost)

    def _numbered(self, head: npt.NDArray[np.void], rows: npt.NDArray[np.uint8]) -> dict[int, str]:
        """Give places their numbers; the symbols of those that are told for the first time."""
        found: dict[int, str] = {}
        for row in np.flatnonzero(head["flags"] & NEW_PLACE).tolist():
            number = self._number(int(head["place"][row]))
            found[number] = symbol(rows[row, -SYMBOL:].tobytes())
        head["flags"] &= ~np.uint32(NEW_PLACE)
        places = head["place"].tolist()
        for place in dict.fromkeys(places):  # there are few
            self._number(place)
        head["place"] = list(map(self._places.__getitem__, places))
        return found

    def _number(self, place: int) -> int:
        return self._places.setdefault(place, len(self._places) + 1)


def symbol(told: bytes) -> str:
    """A symbol and its offset, and the module that it is of; without the size of the function."""
    symbol, _, rest = told.partition(b"\0")[0].decode("latin-1").partition("/")
    return f"{symbol} {rest.partition(' ')[2]}".strip()
