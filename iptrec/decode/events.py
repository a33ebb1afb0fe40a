"""The events of a chunk as columns, from whichever of the kernel's tracers they come."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.decode import packet as packets
from iptrec.names import AF_INET, AF_INET6

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import numpy.typing as npt

    from iptrec.decode.generations import Generations
    from iptrec.names import I32, I64, U32, Mask

    Index = I64 | Mask | slice

_ETHERTYPES: Final = {AF_INET: 0x0800, AF_INET6: 0x86DD}  # ETH_P_IP, ETH_P_IPV6


@dataclass(frozen=True, slots=True)
class TraceEvents:
    """The events of a chunk, one row each, in order of arrival.

    All columns but ``buffer``, ``sites``, ``generations`` and ``undecoded`` have shape (n,). Offsets count
    bytes of ``buffer``, and offset + length never exceeds it.

    ``buffer`` is the chunk's bytes and 256 zeros, so that wide reads near the end stay inside; a
    datagram whose length is not a multiple of 4 is followed by zeros up to the next one. Read-only.
    ``sites`` are distinct: where an event was, in the words of the kernel. Of nflog it is the log prefix
    (bytes) without the trailing NUL, of nftrace an `NftSite`.
    ``undecoded`` lists the datagrams (ascending) that held something else than well-formed event
    messages, ``generations``, NLMSG_DONE and NLMSG_NOOP. What was well-formed in them is among the events.
    """

    buffer: npt.NDArray[np.uint8]
    datagram: I64  # the index in the chunk of the datagram that brought the event
    head: I64  # the same of the first event of the pass through a base chain that it is of (`nftrace`)
    message: I64  # offset of the message's netlink header
    received_ns: I64  # of that datagram, as recorded
    sent_ns: I64  # when the kernel sent it, as far as that is known; not after it was received
    estimated: Mask  # nobody noted that, though it was of others: ``sent_ns`` is between theirs
    stamp_ns: I64  # NFULA_TIMESTAMP since the epoch; 0: none, or after the year 2106
    seq: I64  # NFULA_SEQ; -1: none
    family: npt.NDArray[np.uint8]  # nfgen_family: AF_INET 2, AF_BRIDGE 7, AF_INET6 10
    hook: npt.NDArray[np.uint8]  # enum nf_inet_hooks; 255: not known
    protocol: npt.NDArray[np.uint16]  # ethertype; 0: none
    site: I32  # index into sites; -1: none
    sites: Sequence[Hashable]
    mark: U32
    indev: U32  # interface index; 0: none
    intype: npt.NDArray[np.uint16]  # ARPHRD_ of that interface; 0: not known
    outdev: U32
    physindev: U32
    physoutdev: U32
    payload: I64  # offset of the packet from its network header on; -1: none
    payload_length: I32  # bytes captured
    link: I64  # offset of the link-layer header; -1: none
    link_length: I32
    uid: I64  # of the sending socket; -1: none
    gid: I64
    ct_state: npt.NDArray[np.uint8]  # bits of NFTA_TRACE_CT_STATE (NF_CT_STATE_BIT); 0: not known
    ct_direction: npt.NDArray[np.int8]  # enum ip_conntrack_dir: 0 original, 1 reply; -1: not known
    ct_status: I64  # bits of enum ip_conntrack_status; -1: not known
    conntrack: I64  # id of the connection (CTA_ID, NFTA_TRACE_CT_ID); -1: none
    trace: I64  # the packet's NFTA_TRACE_ID (`nftrace`); -1: none
    generations: Generations  # of the rules, told among the datagrams
    undecoded: I64

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.datagram)

    @property
    def ipv6(self) -> Mask:
        """Which packets are IPv6, bridged ones included; shape (n,)."""
        six: Mask = _is(AF_INET6, self.family, self.protocol)
        return six

    @property
    def ip(self) -> Mask:
        """Which packets are IP, or were not dumped: other frames pass bridges, devices and ARP; shape (n,)."""
        four: Mask = _is(AF_INET, self.family, self.protocol) | (self.payload < 0)
        return four | self.ipv6

    def address_family(self, event: int) -> int:
        """AF_INET or AF_INET6; 0 for a frame that is not IP."""
        family, protocol = self.family[event], self.protocol[event]
        if _is(AF_INET6, family, protocol):
            return AF_INET6
        return AF_INET if _is(AF_INET, family, protocol) or self.payload[event] < 0 else 0

    def packet(self, event: int) -> bytes:
        """An event's packet from the IP header on, as far as it was captured."""
        start = int(self.payload[event])
        end = start + int(self.payload_length[event])
        return self.buffer[start:end].tobytes() if start >= 0 else b""

    def header(self, event: int) -> dict[str, Any]:
        """An event's headers, as `decode.packet.header` gives them."""
        family, protocol = self.address_family(event), int(self.protocol[event])
        return packets.header(self.packet(event), family, protocol)

    def frame(self, event: int) -> bytes:
        """An event's link-layer header, as far as it was captured."""
        start = int(self.link[event])
        end = start + int(self.link_length[event])
        return self.buffer[start:end].tobytes() if start >= 0 else b""

    def take(self, index: Index) -> TraceEvents:
        """Return the events that ``index`` (numbers or mask) selects, sharing buffer and sites."""
        return replace(self, **{name: getattr(self, name)[index] for name in _PER_EVENT})


def _is(family: int, told: Any, ethertype: Any) -> Any:  # noqa: ANN401 - of one event or all
    """Whether packets are of AF_INET or AF_INET6, by their ``nfgen_family`` and their ethertype."""
    return (told == family) | (ethertype == _ETHERTYPES[family])


def side_by_side(one: TraceEvents, other: TraceEvents, datagrams: int) -> TraceEvents:
    """The events of two chunks, the one's first; ``datagrams``: how many that one's chunk has."""
    size, sites = len(one.buffer), len(one.sites)
    offsets = {
        "message": size, "payload": size, "link": size, "site": sites, "datagram": datagrams,
        "head": datagrams,
    }  # fmt: skip
    columns = {}
    for name in _PER_EVENT:
        column = getattr(other, name)
        if name in offsets:
            column = np.where(column >= 0, column + offsets[name], column).astype(column.dtype)
        columns[name] = np.concatenate([getattr(one, name), column])
    return TraceEvents(
        buffer=np.concatenate([one.buffer, other.buffer]),
        sites=[*one.sites, *other.sites],
        generations=one.generations.then(other.generations, datagrams),
        undecoded=np.concatenate([one.undecoded, other.undecoded + datagrams]),
        **columns,
    )


_PER_EVENT: Final = tuple(
    name
    for name in TraceEvents.__dataclass_fields__
    if name not in {"buffer", "sites", "generations", "undecoded"}
)
