"""Which of the two rulesets is in force that nf_tables has while one follows another: net->nft.gencursor.

Packets choose theirs by it (net/netfilter/nf_tables_core.c, nft_do_chain). A program that filters a socket
reads it of the socket's network namespace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.kernel.bpf import bpf
from iptrec.kernel.bpf.bpf import LONG, load, move, number, store_value
from iptrec.kernel.bpf.btf import Btf

if TYPE_CHECKING:
    from collections.abc import Sequence

_SOCKET_AT: Final = 168  # struct __sk_buff, sk
_R1, _R2, _R3, _CTX, _STACK = 1, 2, 3, 6, 10


class Where(NamedTuple):
    """Offsets: of the namespace in a socket, of the bit in that."""

    net: int
    cursor: int


def where() -> Where:
    """As the kernel's types have it. Raises `HostError` and LookupError where they do not tell."""
    types = Btf.of_kernel()
    cursor = types.field("net", "nft").byte + types.field("netns_nftables", "gencursor").byte
    return Where(types.field("sock_common", "skc_net").byte, cursor)


def read(place: Where, at: int) -> list[bytes]:
    """Read it into the stack, as 64 bits ``at`` an offset; register 6 has the context."""
    return [
        load(LONG, _R3, _CTX, _SOCKET_AT),
        *_read(place.net + 8, at - place.net),
        load(LONG, _R3, _STACK, at),
        bpf.add(_R3, place.cursor),
        store_value(LONG, _STACK, at, 0),
        *_read(1, at),
    ]


def _read(size: int, at: int) -> Sequence[bytes]:
    """Read what register 3 points to into the stack."""
    return [
        move(_R1, _STACK),
        bpf.add(_R1, at),
        number(_R2, size),
        bpf.call(bpf.PROBE_READ_KERNEL),
    ]
