"""Recordings made by hand: datagrams as nfnetlink_log builds them, packets as the wire has them."""

from __future__ import annotations

import ipaddress
import json
import struct
from dataclasses import dataclass, field

import numpy as np

from iptrec.recording.kinds import SNAPSHOTS
from iptrec.recording.rows import Chunk, Facts, Loss, Namespace, Snapshot, Stream

HOOK = {"PREROUTING": 0, "INPUT": 1, "FORWARD": 2, "OUTPUT": 3, "POSTROUTING": 4}
REASONS = {
    2: "NOT_SPECIFIED", 3: "NO_SOCKET", 9: "NETFILTER_DROP", 30: "TCP_OLD_DATA", 46: "NEIGH_FAILED",
    7: "SOCKET_RCVBUFF", 53: "QDISC_DROP",
}  # fmt: skip
UUID = "00000000-0000-4000-8000-000000000001"
OWN = f'-m comment --comment "iptrec:{UUID}" -j TRACE'  # the recorder's rule
RAW = f"""*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING {OWN}
-A OUTPUT {OWN}
COMMIT
"""


def udp(payload=b"x", *, src="10.0.0.1", dst="10.0.0.2", sport=1000, dport=53, ident=7, ttl=64):
    """An IPv4 UDP packet (checksums zero: nothing here reads them)."""
    addresses = b"".join(bytes(map(int, host.split("."))) for host in (src, dst))
    length = 28 + len(payload)
    header = struct.pack("!BBHHHBBH", 0x45, 0, length, ident, 0, ttl, 17, 0) + addresses
    return header + struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


def udp6(payload=b"x", *, last=1):
    """An IPv6 UDP packet: no id that could tell equal ones apart."""
    addresses = bytes(15) + bytes([last]) + bytes(15) + b"\2"
    header = struct.pack("!IHBB", 0x60000000, 8 + len(payload), 17, 64) + addresses
    return header + struct.pack("!HHHH", 1000, 53, 8 + len(payload), 0) + payload


def folded(data):
    """The sum of RFC 1071, not complemented."""
    words = struct.unpack(f"!{len(data) // 2 + len(data) % 2}H", data + bytes(len(data) % 2))
    return sum(words) % 0xFFFF


def summed(packet, *, waits=False):
    """A packet with UDP's checksum; ``waits``: with that of the pseudo-header, as the interface gets it."""
    six = packet[0] >> 4 == 6
    network, body = packet[: 40 if six else 20], packet[40 if six else 20 :]
    pseudo = network[8 if six else 12 :] + struct.pack("!HH", 17, len(body))
    found = folded(pseudo) if waits else 0xFFFF - folded(pseudo + body[:6] + bytes(2) + body[8:])
    return network + body[:6] + struct.pack("!H", found or 0xFFFF) + body[8:]


def sent_from(packet, source, port=None):
    """The same from another source, with the checksum that it has then."""
    address = ipaddress.ip_address(source).packed
    at, ports = (8, 40) if len(address) == 16 else (12, 20)
    changed = packet[:at] + address + packet[at + len(address) :]
    if port is not None:
        changed = changed[:ports] + struct.pack("!H", port) + changed[ports + 2 :]
    return summed(changed)


def attribute(kind, value):
    """A netlink attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def netlink(kind, body=b"", *, flags=0, number=0):
    """A netlink message."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags, number, 0) + body


def datagram(
    prefix, packet, *, hook, indev=0, outdev=0, physin=0, physout=0, mark=0, seq=0, stamp_ns=0,
    conntrack=0, link=b"",
):  # fmt: skip
    """One NFULNL_MSG_PACKET message."""
    family = 10 if packet[0] >> 4 == 6 else 2
    protocol = 0x86DD if family == 10 else 0x0800
    body = attribute(1, struct.pack("!HBx", protocol, hook))
    body += attribute(10, b"TRACE: " + prefix.encode() + b" \0")
    for kind, value in ((4, indev), (5, outdev), (6, physin), (7, physout), (2, mark)):
        if value:
            body += attribute(kind, struct.pack("!I", value))
    if link:
        body += attribute(16, link)
    if conntrack:
        body += attribute(0x8012, attribute(12, struct.pack("!I", conntrack)))
    if stamp_ns:
        seconds, rest = divmod(stamp_ns, 10**9)
        body += attribute(3, struct.pack("!QQ", seconds, rest // 1000))
    body += attribute(12, struct.pack("!I", seq)) + attribute(9, packet)
    return netlink(0x0400, struct.pack("=BBH", family, 0, 0) + body)


def drop(time_ns, reason, packet, *, place=1, netns=1, iif=2, captured=None, device=None, flags=0):
    """A record of a packet that the kernel dropped; ``flags``: 2: it was cloned, 4: not; 0: an older record."""
    taken = packet if captured is None else packet[:captured]
    device = iif if device is None else device
    head = struct.pack("<qqQIIIIII", time_ns, place, 5, reason, netns, device, iif, 0, len(packet))
    return (
        head
        + struct.pack(">H", 0x0800)
        + struct.pack("<HIII", len(taken), 0, 0xFFFFFFFF, flags)
        + taken
    )


def link_message(kind, index, *attributes, claim=0):
    """A message of rtnetlink about an interface, with attributes (type, value)."""
    body = struct.pack("<BxHiII", 0, 1, index, 0, 0)
    body += b"".join(attribute(number, value) for number, value in attributes)
    return struct.pack("<IHHII", 16 + len(body) + claim, kind, 0, 0, 0) + body


def written(path, made):
    """The recording as a file: its snapshots, events and losses."""
    from iptrec.recording.writer import Writer

    with Writer.create(path, made.facts) as writer:
        namespace = writer.add_namespace(None, 1)
        streams = {
            one.id: writer.add_stream(namespace, one.kind, one.detail) for one in made.streams
        }
        for one in made.snapshots_:
            writer.add_snapshot(namespace, one.kind, one.time_ns, one.source, one.content)
        for chunk in made.chunks_:
            ends = np.cumsum(chunk.lengths).tolist()
            for time_ns, size, end in zip(
                chunk.received_ns.tolist(), chunk.lengths, ends, strict=True
            ):
                data = chunk.data[end - int(size) : end]
                writer.append(streams[chunk.stream], time_ns, np.array([size], np.uint32), data)
        for loss in made.losses:
            writer.add_loss(loss)
        writer.close(made.facts.stopped_ns, made.facts.stop_reason)
    return path


@dataclass
class HandMade:
    """A recording in memory with the interface that the analysis needs."""

    snapshots_: list[Snapshot] = field(default_factory=list)
    chunks_: list[Chunk] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    namespaces: list[Namespace] = field(default_factory=lambda: [Namespace(1, None, 1)])
    streams: list[Stream] = field(default_factory=lambda: [Stream(1, 1, "nflog", {})])
    facts: Facts = field(
        default_factory=lambda: Facts(
            uuid=UUID, iptrec="0", kernel="Linux", host="host", command=("iptrec",), filter=None,
            families=("ipv4", "ipv6"), interfaces=(), snaplen=256, started_ns=0,
            started_monotonic_ns=0, stopped_ns=1, stop_reason="test", closed=True,
        )
    )  # fmt: skip

    def ruleset(self, text, kind="iptables-save", time_ns=0, after_ns=None):
        """Add what iptables-save printed, and when it came to be so."""
        return self.snapshot(kind, text.encode(), time_ns, after_ns)

    def snapshot(self, kind, content, time_ns=0, after_ns=None):
        """Add what a command printed or the kernel answered, and when it came to be so."""
        number, media = len(self.snapshots_) + 1, SNAPSHOTS[kind].media
        self.snapshots_.append(Snapshot(number, 1, kind, time_ns, kind, content, after_ns, media))
        return self

    def events(self, events, *, start_ns=1_000, step_ns=1_000, per_chunk=1_000_000):
        """Add events: (prefix, packet, keywords of `datagram`); the hook from the chain's name."""
        for at in range(0, len(events), per_chunk):
            part = events[at : at + per_chunk]
            data = []
            hook = 0
            for prefix, packet, more in part:
                chain = prefix.split(":")[1]
                hook = HOOK.get(
                    chain, hook
                )  # in a user's chain that of the chain it is called from
                data.append(datagram(prefix, packet, **({"hook": hook} | more)))
            first = start_ns + step_ns * sum(len(chunk.lengths) for chunk in self.chunks_)
            self.received(1, [first + step_ns * number for number in range(len(data))], data)
        return self

    def received(self, stream, times_ns, datagrams):
        """Add a chunk of a stream."""
        times, lengths = np.array(times_ns, np.int64), np.array([*map(len, datagrams)], np.uint32)
        number = len(self.chunks_) + 1
        self.chunks_.append(Chunk(number, stream, times, lengths, b"".join(datagrams)))
        return self

    def newest_snapshot(self):
        return len(self.snapshots_)

    def snapshots(self, *kinds):
        ordered = sorted(self.snapshots_, key=lambda one: (one.time_ns, one.id))
        return iter([one for one in ordered if not kinds or one.kind in kinds])

    def drops(self, drops, places=("ip_error+0x94",)):
        """Add drops of the kernel: (time_ns, number of the reason, packet, keywords of `drop`)."""
        reasons = {
            "skb_drop_reason": {
                str(one): f"SKB_DROP_REASON_{name}" for one, name in REASONS.items()
            }
        }
        symbols = {str(number): symbol for number, symbol in enumerate(places, 1)}
        for kind, content in (("drop-reasons", reasons), ("drop-places", symbols)):
            self.ruleset(json.dumps(content), kind)
        self.streams = [*self.streams, Stream(2, 1, "drops", {})]
        data = [drop(time_ns, reason, packet, **more) for time_ns, reason, packet, more in drops]
        return self.received(2, [time_ns for time_ns, *_ in drops], data)

    def chunks(self, stream=None, after=0):
        """Those of a stream, or of all of them."""
        return iter(
            [one for one in self.chunks_ if one.id > after and stream in (None, one.stream)]
        )
