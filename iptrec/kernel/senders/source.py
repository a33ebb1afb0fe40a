"""Where it comes out which programs send: the program at OUTPUT of both families, and its ring."""

from __future__ import annotations

import errno
import mmap
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.kernel.bpf import bpf
from iptrec.kernel.bpf.btf import Btf
from iptrec.kernel.bpf.programs import Programs
from iptrec.kernel.bpf.ring import Ring, since_the_epoch
from iptrec.kernel.senders import program
from iptrec.kernel.senders.program import LAYOUT, RECORD
from iptrec.names import AF_INET, AF_INET6, HOOKS

if TYPE_CHECKING:
    from iptrec.names import U32, U64

_RING_BYTES: Final = 1 << 20
_TOLD: Final = 16384  # facts that are kept in mind; one that was forgotten is told again
_OUTPUT: Final = HOOKS.index("OUTPUT")
# Behind raw's TRACE, which is at -300, before connection tracking: programs do not share a priority.
_PRIORITIES: Final = range(-299, -200)
_FAMILIES: Final = {"ipv4": AF_INET, "ipv6": AF_INET6}
_ADVICE: Final = {
    errno.EPERM: "it needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN of the host itself, not of a container",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts that were fetched together at ``received_ns`` (epoch), back to back, `RECORD` bytes each.

    ``cgroups``: the numbers of control groups in them. ``lost``: how many found no room since the last time.
    """

    received_ns: int
    data: bytes
    cgroups: U64
    lost: int

    @property
    def lengths(self) -> U32:
        """Bytes of each."""
        return np.full(len(self.data) // RECORD, RECORD, np.uint32)


class SenderSource(Programs):
    """Who sends packets that are traced in the current network namespace; a context manager.

    Raises `HostError` with the reason where it does not work: the kernel is asked by trying.
    """

    def __init__(self) -> None:
        self._told = 0  # of what was lost
        super().__init__(_ADVICE)

    def _make(self) -> None:
        types = Btf.of_kernel()
        program.require_programs(types)
        kept = self._kept
        self._ring = kept(bpf.new_map(bpf.RINGBUF, entries=_RING_BYTES))
        key, value = program.KEY, program.VALUE
        told = kept(bpf.new_map(bpf.LRU_HASH, key=key, value=value, entries=_TOLD))
        notes, self._notes = self._noted(program.NOTES, mmap.PROT_READ | mmap.PROT_WRITE)
        self._records = Ring(self._ring, _RING_BYTES, RECORD)
        maps = program.Maps(self._ring, told, notes)
        for family, number in _FAMILIES.items():
            loaded = kept(bpf.netfilter(program.code(types, maps, family), program.LICENCE))
            kept(_hooked(loaded, number))

    def fileno(self) -> int:
        """For poll: ready where a fact is there, though nobody is woken by one."""
        return self._ring

    def tell_again(self) -> None:
        """Let what was told be told again, as of when it was told first, once its socket sends again."""
        self._notes[program.TURN // 8] = (self._notes[program.TURN // 8] + 1) & 0xFFFFFFFF

    def receive(self) -> Facts | None:
        """What is there now; None if nothing is."""
        lost = self._notes[program.LOST // 8] - self._told
        if not lost and self._records.empty:  # the loop asks in every round
            return None
        facts = self._records.rows().view(LAYOUT)[:, 0]
        if not len(facts) and not lost:
            return None
        now, offset = time.time_ns(), since_the_epoch()
        self._told += lost
        for name in ("since", "time"):
            facts[name] = np.minimum(facts[name] + offset, now)
        return Facts(now, facts.tobytes(), np.unique(facts["cgroup"]), lost)


def _hooked(loaded: int, family: int) -> int:
    """Put the program at the first priority that nobody has."""
    for priority in _PRIORITIES:
        try:
            return bpf.hooked(loaded, family, _OUTPUT, priority)
        except OSError as error:
            if error.errno != errno.EBUSY or priority == _PRIORITIES[-1]:
                raise
    raise AssertionError
