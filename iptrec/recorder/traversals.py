"""How many packets some events of nf_tables tell of, each counted once: by the ends of our first chains.

A packet may come to several of them: at ingress, in a bridge, in IP. Its id is the same there as long as the
kernel does not copy it.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final

from iptrec.kernel.netlink import packed
from iptrec.kernel.nft import table

if TYPE_CHECKING:
    from iptrec.kernel.nft.table import Own

_TABLE, _CHAIN, _ID, _POLICY = 1, 2, 6, 16  # NFTA_TRACE_
_MOST: Final = 4096  # packets between two chains


class Traversals:
    """Counts; ``own``: our tables."""

    def __init__(self, own: Own) -> None:
        name, of_ip = own.first
        before = [table.INGRESS] * own.ingress + [table.BRIDGED] * own.bridged
        self._rank = {chain.encode(): rank for rank, chain in enumerate(before)}
        chains = b"|".join(_text(_CHAIN, one) for one in (*of_ip, *before))
        head, policy = (re.escape(struct.pack("=HH", 8, one)) for one in (_ID, _POLICY))
        self._end = re.compile(
            head + b"(.{4})(" + chains + b")" + _text(_TABLE, name) + policy, re.DOTALL
        )
        self._waiting: dict[bytes, int] = {}  # id -> in which chain before IP's it was

    def of(self, data: bytes) -> int:
        """How many packets events tell of that were not counted before; back to back."""
        found = 0
        for one in self._end.finditer(data):
            number, chain = one[1], one[2][4:].rstrip(b"\0")
            rank = self._rank.get(chain, len(self._rank))
            found += self._waiting.pop(number, rank) >= rank
            if chain in self._rank:
                self._waiting[number] = rank
        while len(self._waiting) > _MOST:
            del self._waiting[next(iter(self._waiting))]
        return found


def _text(kind: int, text: str) -> bytes:
    """An attribute that is a name, as a pattern."""
    return re.escape(packed([(kind, text.encode() + b"\0")]))
