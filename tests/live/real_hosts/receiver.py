"""Note the numbers of all packets that arrive until SIGTERM: receiver.py FILE local|elsewhere.

"local": what comes through INPUT, as a raw socket gets it; "elsewhere": what comes in by any interface.
"""

import array
import contextlib
import select
import signal
import socket
import struct
import sys
from pathlib import Path

SO_RCVBUFFORCE = 33
ETH_P_ALL = 3
OTHERS = {3, 4}  # PACKET_OTHERHOST, PACKET_OUTGOING
GROUP = "224.0.0.251"
seen = array.array("I")


def note(protocol, body):
    if protocol == 6 and body[4:5] == b"\x5a":
        seen.append(int.from_bytes(body[5:8], "big"))
    elif body[8:12] == b"IPTR" and (protocol == 17 or body[:1] in (b"\x08", b"\x80")):
        seen.append(int.from_bytes(body[12:16], "big"))


def with_header(packet, address):
    if len(address) > 2 and address[2] in OTHERS:
        return
    if packet[:1] == b"\x45":
        note(packet[9], packet[20:])
    elif packet[:1] == b"\x60":
        note(packet[6], packet[40:])


def opened(*what):
    one = socket.socket(*what)
    one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 27)
    one.setblocking(False)
    return one


def listening(where):
    """Each socket, and what reads a packet of it."""
    if where == "elsewhere":
        yield opened(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)), with_header
        return
    for protocol in (1, 6, 17):
        yield opened(socket.AF_INET, socket.SOCK_RAW, protocol), with_header
    for protocol in (58, 6, 17):  # of IPv6 they give no header
        yield (
            opened(socket.AF_INET6, socket.SOCK_RAW, protocol),
            lambda p, _, of=protocol: note(of, p),
        )


def joined():
    """A member of the group in which neighbours announce themselves, on eth0."""
    member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    on = struct.pack("=4s4si", socket.inet_aton(GROUP), bytes(4), socket.if_nametoindex("eth0"))
    member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, on)
    return member


def drain(poll, readers, milliseconds):
    """Read what there is."""
    for descriptor, _ in poll.poll(milliseconds):
        one, read = readers[descriptor]
        with contextlib.suppress(BlockingIOError):
            while True:
                read(*one.recvfrom(200))


def main(path, where):
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    readers = {one.fileno(): (one, read) for one, read in listening(where)}
    member = joined() if where == "local" else None
    poll = select.poll()
    for descriptor in readers:
        poll.register(descriptor, select.POLLIN)
    print("ready", flush=True)  # noqa: T201
    while not stopping:
        drain(poll, readers, 100)
    drain(poll, readers, 0)
    Path(path).write_bytes(seen.tobytes())
    if member is not None:
        member.close()


main(*sys.argv[1:])
